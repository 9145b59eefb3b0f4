package unwind

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
)

// Pointer encodings, DW_EH_PE_*.
const (
	encAbsptr   = 0x00
	encUleb     = 0x01
	encUdata2   = 0x02
	encUdata4   = 0x03
	encUdata8   = 0x04
	encSleb     = 0x09
	encSdata2   = 0x0a
	encSdata4   = 0x0b
	encSdata8   = 0x0c
	encPcrel    = 0x10
	encTextrel  = 0x20
	encDatarel  = 0x30
	encAligned  = 0x50
	encIndirect = 0x80
	encOmit     = 0xff
)

const (
	windowBytes    = 256 << 10
	maxRecordBytes = 16 << 20 // one function's program
	maxCIEs        = 1 << 18
)

// frames reads one .eh_frame or .debug_frame section from front to back:
//
//	length u32 (or 0xffffffff, u64)   0 in .eh_frame: a terminator, which linkers may leave in the middle
//	id     u32 (or u64)               .eh_frame: 0 for a CIE, else the distance back to the FDE's CIE
//	                                  .debug_frame: all ones for a CIE, else the offset of the FDE's CIE
//	CIE: version, augmentation, alignments, return address register, initial instructions
//	FDE: first address, number of addresses, augmentation data, instructions
type frames struct {
	im   *image
	b    *builder
	eh   bool
	once bool   // stop at a terminator: the section's end is not known
	base uint64 // address of the section
	text uint64 // bases of relative pointers
	data uint64

	r    io.Reader
	size uint64 // of the section
	off  uint64 // of buf[pos] in the section
	buf  []byte
	pos  int

	cies   map[uint64]*cie
	lastID uint64
	last   *cie
	run    program
}

// cie is what FDEs share.
type cie struct {
	bad       bool // FDEs of it cannot be read
	z         bool // FDEs have augmentation data
	signal    bool
	enc       uint8 // of an FDE's addresses
	addrSize  uint8
	segSize   uint8
	codeAlign uint64
	dataAlign int64
	ra        uint64
	initial   state
}

func newFrames(im *image, b *builder, r io.Reader, size, base uint64, eh bool) *frames {
	f := &frames{im: im, b: b, eh: eh, base: base, r: r, size: size, cies: map[uint64]*cie{}}
	if s, ok := im.section(".text"); ok {
		f.text = s.addr
	}
	if s, ok := im.section(".got"); ok {
		f.data = s.addr
	}
	f.run.b = b
	f.run.arm64 = im.machine == elf.EM_AARCH64
	f.run.fpReg = dwarfRBP
	if f.run.arm64 {
		f.run.fpReg = dwarfX29
	}
	return f
}

// next returns the next n bytes of the section; they stand until the next call.
func (f *frames) next(n int) ([]byte, error) {
	if len(f.buf)-f.pos < n {
		rest := copy(f.buf, f.buf[f.pos:])
		f.pos = 0
		if n > cap(f.buf) || cap(f.buf) == 0 {
			// Grow with what is there: a claimed length alone takes no memory beyond maxRecordBytes.
			grown := make([]byte, rest, max(n, windowBytes))
			copy(grown, f.buf[:rest])
			f.buf = grown
		}
		f.buf = f.buf[:rest]
		for len(f.buf) < n {
			got, err := f.r.Read(f.buf[len(f.buf):cap(f.buf)])
			f.buf = f.buf[:len(f.buf)+got]
			if err != nil && len(f.buf) < n {
				return nil, noEOF(err)
			}
		}
	}
	b := f.buf[f.pos : f.pos+n : f.pos+n]
	f.pos += n
	f.off += uint64(n)
	return b, nil
}

// read goes through the section. What it understood before an error stays in the builder.
func (f *frames) read() error {
	for f.off+4 <= f.size {
		start := f.off
		h, err := f.next(4)
		if err != nil {
			return fmt.Errorf("reading record at %#x: %w", start, err)
		}
		n, wide := uint64(binary.LittleEndian.Uint32(h)), false
		if n == 0 {
			if f.once {
				return nil
			}
			continue
		}
		if n == 0xffffffff {
			if h, err = f.next(8); err != nil {
				return fmt.Errorf("reading record at %#x: %w", start, err)
			}
			n, wide = binary.LittleEndian.Uint64(h), true
		}
		if n > maxRecordBytes || n > f.size-f.off {
			f.b.stats.Bad++
			return fmt.Errorf("reading record at %#x: length %#x", start, n)
		}
		body := f.off
		rec, err := f.next(int(n))
		if err != nil {
			return fmt.Errorf("reading record at %#x: %w", start, err)
		}
		if err := f.record(rec, start, body, wide); err != nil {
			return err
		}
	}
	return nil
}

// record reads one CIE or FDE, whose length field stands at start and whose contents at body.
func (f *frames) record(rec []byte, start, body uint64, wide bool) error {
	c := cursor{b: rec}
	var id uint64
	var isCIE bool
	if f.eh {
		id = uint64(c.u32()) // 4 bytes in a 64-bit record too
		isCIE = id == 0
		id = body - id
	} else if wide {
		id = c.u64()
		isCIE = id == ^uint64(0)
	} else {
		id = uint64(c.u32())
		isCIE = id == 0xffffffff
	}
	if c.bad {
		f.b.stats.Bad++
		return nil
	}
	if isCIE {
		if len(f.cies) >= maxCIEs {
			return fmt.Errorf("reading record at %#x: more than %d CIEs", start, maxCIEs)
		}
		f.cies[start] = f.cie(&c, body)
		return nil
	}
	ci := f.last
	if ci == nil || f.lastID != id {
		// A CIE behind its FDEs is allowed in .debug_frame, but nobody writes that.
		ci = f.cies[id]
		f.last, f.lastID = ci, id
	}
	if ci == nil || ci.bad {
		f.b.stats.Bad++
		return nil
	}
	return f.fde(&c, ci, body)
}

func (f *frames) cie(c *cursor, body uint64) *cie {
	ci := &cie{bad: true, enc: encAbsptr, addrSize: 8}
	version := c.u8()
	if version != 1 && version != 3 && version != 4 {
		return ci
	}
	aug := c.cstring()
	if len(aug) == 2 && string(aug) == "eh" {
		c.u64() // a pointer that GCC 2 used
		aug = nil
	}
	if version == 4 {
		ci.addrSize, ci.segSize = c.u8(), c.u8()
		if ci.addrSize != 4 && ci.addrSize != 8 || ci.segSize > 8 {
			return ci
		}
	}
	ci.codeAlign = c.uleb()
	ci.dataAlign = c.sleb()
	if version == 1 {
		ci.ra = uint64(c.u8())
	} else {
		ci.ra = c.uleb()
	}
	if len(aug) > 0 {
		if aug[0] != 'z' {
			return ci // without its length nobody knows where the instructions begin
		}
		ci.z = true
		end := c.uleb()
		if end > uint64(len(c.b)-c.pos) {
			return ci
		}
		d := cursor{b: c.b[:c.pos+int(end)], pos: c.pos}
	letters:
		for _, l := range aug[1:] {
			switch l {
			case 'R':
				ci.enc = d.u8()
			case 'P':
				enc := d.u8()
				f.pointer(&d, enc, body, 8)
			case 'L':
				d.u8()
			case 'S':
				ci.signal = true
			case 'B', 'G': // pointer authentication key, memory tagging: no data
			default:
				break letters // unknown, but its length is known
			}
		}
		if d.bad {
			return ci
		}
		c.pos += int(end)
	}
	if c.bad {
		return ci
	}
	ci.bad = false
	ci.initial = f.run.initialState(ci, c.b[c.pos:])
	return ci
}

func (f *frames) fde(c *cursor, ci *cie, body uint64) error {
	c.take(uint64(ci.segSize))
	start, ok := f.pointer(c, ci.enc, body, ci.addrSize)
	n, ok2 := f.pointer(c, ci.enc&0x0f, body, ci.addrSize)
	if ci.z {
		c.take(c.uleb())
	}
	end := start + n
	if c.bad || !ok || !ok2 || end < start || n > 1<<32-1 || !f.im.executable(start, end) {
		// Also what is left of functions that the linker dropped.
		f.b.stats.Bad++
		return nil
	}
	if n == 0 {
		return nil
	}
	f.b.begin(start, end)
	f.run.fde(f, ci, start, n, c.b[c.pos:], body+uint64(c.pos))
	return f.b.end()
}

// pointer reads an encoded address. ok is false if it stands in memory that only a running process has,
// or if its encoding is unknown.
func (f *frames) pointer(c *cursor, enc uint8, body uint64, addrSize uint8) (v uint64, ok bool) {
	if enc == encOmit {
		return 0, false
	}
	if enc == encAligned {
		at := f.base + body + uint64(c.pos)
		c.take(-at & 7)
		return c.u64(), true
	}
	at := f.base + body + uint64(c.pos)
	switch enc & 0x0f {
	case encAbsptr:
		if addrSize == 4 {
			v = uint64(c.u32())
		} else {
			v = c.u64()
		}
	case encUleb:
		v = c.uleb()
	case encUdata2:
		v = uint64(c.u16())
	case encUdata4:
		v = uint64(c.u32())
	case encUdata8, encSdata8:
		v = c.u64()
	case encSleb:
		v = uint64(c.sleb())
	case encSdata2:
		v = uint64(int64(int16(c.u16())))
	case encSdata4:
		v = uint64(int64(int32(c.u32())))
	default:
		return 0, false
	}
	switch enc & 0x70 {
	case 0:
	case encPcrel:
		v += at
	case encTextrel:
		v += f.text
	case encDatarel:
		v += f.data
	default:
		return 0, false
	}
	return v, enc&encIndirect == 0
}
