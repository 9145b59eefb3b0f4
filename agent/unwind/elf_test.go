package unwind

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io"
)

// part is a section of an ELF file that a test makes.
type part struct {
	name  string
	addr  uint64
	data  []byte
	flags elf.SectionFlag
}

// makeELF returns an ELF file with one executable segment over addresses 0x1000 to 0x100000, which has no
// contents, and the parts, each in a segment of its own if it has an address.
func makeELF(m elf.Machine, parts ...part) []byte {
	le := binary.LittleEndian
	var names, body bytes.Buffer
	names.WriteByte(0)
	parts = append(parts, part{name: ".shstrtab"})
	const headers = 64 + 56*16
	sections := []elf.Section64{{}}
	progs := []elf.Prog64{{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: 0x1000, Memsz: 0xff000}}
	for i := range parts {
		p := &parts[i]
		s := elf.Section64{Name: uint32(names.Len()), Type: uint32(elf.SHT_PROGBITS), Flags: uint64(p.flags), Addr: p.addr}
		names.WriteString(p.name + "\x00")
		if p.name == ".shstrtab" {
			p.data = names.Bytes()
		}
		s.Off, s.Size = uint64(headers+body.Len()), uint64(len(p.data))
		if p.name == ".eh_frame_hdr" {
			progs = append(progs, elf.Prog64{Type: uint32(elf.PT_GNU_EH_FRAME), Vaddr: p.addr, Off: s.Off, Filesz: s.Size, Memsz: s.Size})
		}
		if p.addr != 0 {
			progs = append(progs, elf.Prog64{Type: uint32(elf.PT_LOAD), Vaddr: p.addr, Off: s.Off, Filesz: s.Size, Memsz: s.Size})
		}
		body.Write(p.data)
		for body.Len()%8 != 0 {
			body.WriteByte(0)
		}
		sections = append(sections, s)
	}
	var out bytes.Buffer
	h := elf.Header64{
		Type: uint16(elf.ET_DYN), Machine: uint16(m), Version: 1, Phoff: 64, Shoff: uint64(headers + body.Len()),
		Ehsize: 64, Phentsize: 56, Phnum: uint16(len(progs)), Shentsize: 64, Shnum: uint16(len(sections)),
		Shstrndx: uint16(len(sections) - 1),
	}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	write := func(v any) {
		if err := binary.Write(&out, le, v); err != nil {
			panic(err)
		}
	}
	write(h)
	write(progs)
	out.Write(make([]byte, headers-out.Len()))
	out.Write(body.Bytes())
	write(sections)
	return out.Bytes()
}

// withoutSections removes the section table.
func withoutSections(file []byte) []byte {
	file = bytes.Clone(file)
	clear(file[40:48])
	clear(file[60:64])
	return file
}

// record returns a CIE or FDE: its length, then parts of it.
func record(wide bool, parts ...[]byte) []byte {
	b := bytes.Join(parts, nil)
	for len(b)%8 != 4 {
		b = append(b, cfaNop)
	}
	if wide {
		return append(binary.LittleEndian.AppendUint64([]byte{0xff, 0xff, 0xff, 0xff}, uint64(len(b))), b...)
	}
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...)
}

func u16(v uint16) []byte { return binary.LittleEndian.AppendUint16(nil, v) }
func u32(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }
func u64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

// failing reads until an offset, beyond which the medium is bad.
type failing struct {
	r  io.ReaderAt
	at int64
}

func (f failing) ReadAt(b []byte, off int64) (int, error) {
	if off+int64(len(b)) > f.at {
		return 0, io.ErrClosedPipe
	}
	return f.r.ReadAt(b, off)
}
