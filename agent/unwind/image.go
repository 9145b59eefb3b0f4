package unwind

import (
	"compress/zlib"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/zstd"
)

// Bounds on what a file may claim. The largest files known (browsers, 300 MB) stay far below them.
const (
	maxSegments     = 1024
	maxSections     = 1 << 16
	maxNames        = 4 << 20
	maxSectionBytes = 1 << 30 // for streams, of which only a window is in memory
)

// image is an ELF file seen through ReadAt: its loadable segments and the sections that have names. It
// reads no contents by itself. debug/elf would hold every section and its name and checks less.
type image struct {
	r        io.ReaderAt
	machine  elf.Machine
	entry    uint64
	segments []segment // PT_LOAD
	hdr      segment   // PT_GNU_EH_FRAME, if its size is not 0
	sections []section
}

type segment struct {
	addr, off, size uint64 // size is that in the file
	mem             uint64 // size in memory
	exec            bool
}

type section struct {
	name           string
	typ            elf.SectionType
	flags          elf.SectionFlag
	addr, off, len uint64
}

var errNotELF = errors.New("not a 64-bit little-endian ELF file for x86-64 or arm64")

// openImage reads the headers of an ELF file. A file with a bad section table is taken as one without.
func openImage(r io.ReaderAt) (*image, error) {
	var h [64]byte
	if _, err := r.ReadAt(h[:], 0); err != nil {
		if err == io.EOF {
			err = errNotELF
		}
		return nil, fmt.Errorf("reading ELF header: %w", err)
	}
	le := binary.LittleEndian
	if string(h[:4]) != elf.ELFMAG || h[elf.EI_CLASS] != byte(elf.ELFCLASS64) || h[elf.EI_DATA] != byte(elf.ELFDATA2LSB) {
		return nil, errNotELF
	}
	im := &image{r: r, machine: elf.Machine(le.Uint16(h[18:])), entry: le.Uint64(h[24:])}
	if im.machine != elf.EM_X86_64 && im.machine != elf.EM_AARCH64 {
		return nil, fmt.Errorf("%w: machine %v", errNotELF, im.machine)
	}
	phoff, shoff := le.Uint64(h[32:]), le.Uint64(h[40:])
	phentsize, phnum := int(le.Uint16(h[54:])), int(le.Uint16(h[56:]))
	shentsize, shnum := int(le.Uint16(h[58:])), int(le.Uint16(h[60:]))
	if err := im.readSegments(phoff, phentsize, phnum); err != nil {
		return nil, fmt.Errorf("reading program headers: %w", err)
	}
	if shoff != 0 && shentsize == 64 {
		if err := im.readSections(shoff, shnum, uint32(le.Uint16(h[62:]))); err != nil {
			im.sections = nil
		}
	}
	return im, nil
}

func (im *image) readSegments(off uint64, entsize, n int) error {
	if n == 0 {
		return nil
	}
	if entsize != 56 || n > maxSegments {
		return fmt.Errorf("%d entries of %d bytes", n, entsize)
	}
	b, err := im.read(off, uint64(n)*56, maxSegments*56)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	for ; len(b) > 0; b = b[56:] {
		s := segment{
			addr: le.Uint64(b[16:]), off: le.Uint64(b[8:]), size: le.Uint64(b[32:]), mem: le.Uint64(b[40:]),
			exec: le.Uint32(b[4:])&uint32(elf.PF_X) != 0,
		}
		if s.addr+s.mem < s.addr || s.off+s.size < s.off || s.size > s.mem {
			continue
		}
		switch elf.ProgType(le.Uint32(b)) {
		case elf.PT_LOAD:
			im.segments = append(im.segments, s)
		case elf.PT_GNU_EH_FRAME:
			im.hdr = s
		}
	}
	return nil
}

func (im *image) readSections(off uint64, n int, names uint32) error {
	le := binary.LittleEndian
	if n == 0 || names == uint32(elf.SHN_XINDEX) {
		first, err := im.read(off, 64, 64)
		if err != nil {
			return err
		}
		if n == 0 {
			if c := le.Uint64(first[32:]); c <= maxSections {
				n = int(c)
			}
		}
		if names == uint32(elf.SHN_XINDEX) {
			names = le.Uint32(first[40:])
		}
	}
	if n == 0 || n > maxSections || int64(names) >= int64(n) {
		return fmt.Errorf("%d sections, names in %d", n, names)
	}
	b, err := im.read(off, uint64(n)*64, maxSections*64)
	if err != nil {
		return err
	}
	nh := b[names*64:]
	strs, err := im.read(le.Uint64(nh[24:]), le.Uint64(nh[32:]), maxNames)
	if err != nil {
		return err
	}
	for ; len(b) > 0; b = b[64:] {
		s := section{
			typ: elf.SectionType(le.Uint32(b[4:])), flags: elf.SectionFlag(le.Uint64(b[8:])),
			addr: le.Uint64(b[16:]), off: le.Uint64(b[24:]), len: le.Uint64(b[32:]),
		}
		at := uint64(le.Uint32(b))
		if at >= uint64(len(strs)) || s.off+s.len < s.off || s.addr+s.len < s.addr {
			continue
		}
		name := strs[at:min(uint64(len(strs)), at+64)] // no name that we ask for is longer
		for i, c := range name {
			if c == 0 {
				name = name[:i]
				break
			}
		}
		s.name = string(name)
		im.sections = append(im.sections, s)
	}
	return nil
}

// section returns the section of that name which has contents in the file.
func (im *image) section(name string) (section, bool) {
	for _, s := range im.sections {
		if s.name == name && s.typ != elf.SHT_NOBITS && s.typ != elf.SHT_NULL && s.len > 0 {
			return s, true
		}
	}
	return section{}, false
}

// executable says whether a range of addresses lies in one executable segment.
func (im *image) executable(start, end uint64) bool {
	for i := range im.segments {
		s := &im.segments[i]
		if s.exec && start >= s.addr && end <= s.addr+s.mem {
			return true
		}
	}
	return false
}

// at returns the file offset of an address, and how many bytes of its segment follow in the file.
func (im *image) at(addr uint64) (off, n uint64, ok bool) {
	for _, s := range im.segments {
		if addr >= s.addr && addr-s.addr < s.size {
			d := addr - s.addr
			return s.off + d, s.size - d, true
		}
	}
	return 0, 0, false
}

// readAt fills b from the file's own address space and returns how much of it there was.
func (im *image) readAt(b []byte, addr uint64) int {
	off, n, ok := im.at(addr)
	if !ok || off > math.MaxInt64 {
		return 0
	}
	if uint64(len(b)) > n {
		b = b[:n]
	}
	got, _ := im.r.ReadAt(b, int64(off))
	return got
}

// read returns n bytes of the file. Memory grows with what the file really has, not with what it claims.
func (im *image) read(off, n, limit uint64) ([]byte, error) {
	if n > limit {
		return nil, fmt.Errorf("%d bytes at offset %d: more than %d", n, off, limit)
	}
	if off > math.MaxInt64-n {
		return nil, fmt.Errorf("%d bytes at offset %d: %w", n, off, io.ErrUnexpectedEOF)
	}
	const chunk = 4 << 20
	if n <= chunk {
		b := make([]byte, n)
		if got, err := im.r.ReadAt(b, int64(off)); uint64(got) < n {
			return nil, fmt.Errorf("%d bytes at offset %d: %w", n, off, noEOF(err))
		}
		return b, nil
	}
	// The last byte tells whether the file is as long as claimed, before memory is taken.
	var last [1]byte
	if got, err := im.r.ReadAt(last[:], int64(off+n-1)); got < 1 {
		return nil, fmt.Errorf("%d bytes at offset %d: %w", n, off, noEOF(err))
	}
	b := make([]byte, n)
	if got, err := im.r.ReadAt(b, int64(off)); uint64(got) < n {
		return nil, fmt.Errorf("%d bytes at offset %d: %w", n, off, noEOF(err))
	}
	return b, nil
}

func noEOF(err error) error {
	if err == nil || err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// open returns a section's contents, decompressed, as a stream, and their length.
func (im *image) open(s section) (io.Reader, uint64, error) {
	if s.off > math.MaxInt64 || s.len > maxSectionBytes {
		return nil, 0, fmt.Errorf("section of %d bytes at offset %d", s.len, s.off)
	}
	raw := io.NewSectionReader(im.r, int64(s.off), int64(s.len))
	if s.flags&elf.SHF_COMPRESSED == 0 {
		return raw, s.len, nil
	}
	var h [24]byte
	if _, err := io.ReadFull(raw, h[:]); err != nil {
		return nil, 0, fmt.Errorf("reading compression header: %w", noEOF(err))
	}
	n := binary.LittleEndian.Uint64(h[8:])
	if n > maxSectionBytes {
		return nil, 0, fmt.Errorf("section of %d bytes when decompressed", n)
	}
	switch t := elf.CompressionType(binary.LittleEndian.Uint32(h[:])); t {
	case elf.COMPRESS_ZLIB:
		z, err := zlib.NewReader(raw)
		if err != nil {
			return nil, 0, fmt.Errorf("decompressing: %w", err)
		}
		return io.LimitReader(z, int64(n)), n, nil
	case elf.COMPRESS_ZSTD:
		z, err := zstd.NewReader(raw, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, 0, fmt.Errorf("decompressing: %w", err)
		}
		return io.LimitReader(z.IOReadCloser(), int64(n)), n, nil
	default:
		return nil, 0, fmt.Errorf("unknown compression %d", t)
	}
}
