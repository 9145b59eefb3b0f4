package elf

import (
	"fmt"
	"strings"
)

// Stub is an entry of a procedure linkage table. Name is the function it leads to with "@plt" behind it,
// or "[plt]" for the table's head and for stubs whose function has no name.
type Stub struct {
	Addr, Size uint64
	Name       string
}

// maxStubs bounds the stubs of one file; chromium has 1 800.
const maxStubs = 1 << 20

// Relocation types that fill the slots which stubs jump through.
func slotRelocation(machine uint16, typ uint32) (slot, relative bool) {
	switch machine {
	case MachineX86_64:
		return typ == 6 || typ == 7, typ == 37 // GLOB_DAT, JUMP_SLOT; IRELATIVE
	case Machine386:
		return typ == 6 || typ == 7, typ == 42
	case MachineAArch64:
		return typ == 1025 || typ == 1026, typ == 1032
	}
	return false, false
}

// stubSections are the sections that linkers put stubs into. An extracted file keeps them.
var stubSections = []string{".plt", ".plt.sec", ".plt.got", ".plt.bnd", ".iplt"}

// IsStubSection says whether a section of that name holds procedure linkage stubs.
func IsStubSection(name string) bool {
	for _, s := range stubSections {
		if s == name {
			return true
		}
	}
	return false
}

// Stubs names the procedure linkage stubs: the instructions say which slot an entry jumps through, the
// relocations say which function's address comes there. nameOf names the function at an address, for
// slots that are filled by a resolver of this file (IFUNC).
func (f *File) Stubs(nameOf func(addr uint64) string) []Stub {
	var sections []*Section
	for i := range f.Sections {
		if s := &f.Sections[i]; IsStubSection(s.Name) && s.Type == SectionProgbits && s.Size > 0 {
			sections = append(sections, s)
		}
	}
	if len(sections) == 0 {
		return nil
	}
	slots, order := f.slots(nameOf)
	var out []Stub
	for _, s := range sections {
		code, err := f.Raw(s)
		if err != nil || len(code) > 64<<20 {
			continue
		}
		switch f.Machine {
		case MachineX86_64:
			out = append(out, stubsX86(s, code, slots, order)...)
		case MachineAArch64:
			out = append(out, f.stubsARM64(s, code, slots)...)
		default:
			out = append(out, Stub{s.Addr, s.Size, "[plt]"})
		}
		if len(out) > maxStubs {
			return out[:maxStubs]
		}
	}
	return out
}

// slots maps the address of each slot to the name of the function that it will hold. order lists the names
// in the order of .rela.plt, which lazy stubs push as a number.
func (f *File) slots(nameOf func(uint64) string) (slots map[uint64]string, order []string) {
	slots = map[uint64]string{}
	names := map[uint32][]string{} // by symbol table
	for i := range f.Sections {
		s := &f.Sections[i]
		if s.Type != SectionRela && s.Type != SectionRel || s.Flags&SectionAlloc == 0 {
			continue
		}
		b, err := f.Raw(s)
		if err != nil {
			continue
		}
		if _, ok := names[s.Link]; !ok && uint64(s.Link) < uint64(len(f.Sections)) {
			var list []string
			t := &f.Sections[s.Link]
			if t.Type == SectionDynsym || t.Type == SectionSymtab {
				_ = f.Symbols(t, func(_ int, sym Symbol) bool { list = append(list, sym.Name); return true })
			}
			names[s.Link] = list
		}
		list := names[s.Link]
		size := 8
		if f.Is64 {
			size = 16
		}
		if s.Type == SectionRela {
			size = size * 3 / 2
		}
		isPLT := strings.HasSuffix(s.Name, ".plt")
		for ; len(b) >= size && len(slots) < 4*maxStubs; b = b[size:] {
			d := fields{b: b, order: f.Order, is64: f.Is64}
			at, info := d.word(), d.word()
			sym, typ := uint32(info>>8), uint32(info&0xff)
			if f.Is64 {
				sym, typ = uint32(info>>32), uint32(info)
			}
			slot, relative := slotRelocation(f.Machine, typ)
			name := ""
			switch {
			case slot && uint64(sym) < uint64(len(list)):
				name = list[sym]
			case relative && s.Type == SectionRela && nameOf != nil:
				name = nameOf(d.word())
			}
			if isPLT {
				order = append(order, name)
			}
			if name != "" {
				slots[at] = name
			}
		}
	}
	return slots, order
}

func stubName(name string) string {
	if name == "" {
		return "[plt]"
	}
	return name + "@plt"
}

// stubsX86 takes entry by entry. An entry either jumps through a slot (ff 25 disp32, perhaps after endbr64
// or bnd), or, lazily bound with IBT, pushes its number (68 imm32) and jumps to the head.
func stubsX86(s *Section, code []byte, slots map[uint64]string, order []string) []Stub {
	entry := uint64(16)
	if s.Entsize == 8 || s.Name == ".plt.got" && s.Entsize != 16 {
		entry = 8
	}
	if s.Size > entry*maxStubs {
		return nil
	}
	le := func(b []byte) uint32 {
		return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
	}
	var out []Stub
	for at := uint64(0); at < uint64(len(code)); at += entry {
		e := code[at:min(at+entry, uint64(len(code)))]
		name := ""
		for i := 0; i+6 <= len(e) && i <= 7; i++ {
			if e[i] == 0xff && e[i+1] == 0x25 {
				name = slots[s.Addr+at+uint64(i)+6+uint64(int64(int32(le(e[i+2:]))))]
				break
			}
			if e[i] == 0x68 && (i == 0 || i == 4) {
				if n := le(e[i+1:]); uint64(n) < uint64(len(order)) {
					name = order[n]
				}
				break
			}
		}
		out = append(out, Stub{s.Addr + at, uint64(len(e)), stubName(name)})
	}
	return out
}

// stubsARM64 looks for adrp x16, PAGE; ldr x17, [x16, OFFSET]. A stub reaches from there (or from a bti
// just before) to the next one.
func (f *File) stubsARM64(s *Section, code []byte, slots map[uint64]string) []Stub {
	out := []Stub{{s.Addr, s.Size, "[plt]"}}
	for at := 0; at+8 <= len(code); at += 4 {
		adrp, ldr := f.Order.Uint32(code[at:]), f.Order.Uint32(code[at+4:])
		if adrp&0x9f00001f != 0x90000010 || ldr&0xffc003ff != 0xf9400211 {
			continue
		}
		imm := int64(adrp>>5&0x7ffff)<<2 | int64(adrp>>29&3)
		imm = imm << 43 >> 31 // sign of 21 bits, times 4096
		slot := (s.Addr+uint64(at))&^0xfff + uint64(imm) + uint64(ldr>>10&0xfff)*8
		start := s.Addr + uint64(at)
		if at >= 4 && f.Order.Uint32(code[at-4:]) == 0xd503245f {
			start -= 4
		}
		if start == s.Addr && len(out) == 1 {
			out = out[:0]
		}
		out = append(out, Stub{start, s.Addr + s.Size - start, stubName(slots[slot])})
	}
	for i := 1; i < len(out); i++ {
		out[i-1].Size = out[i].Addr - out[i-1].Addr
	}
	return out
}

func (s Stub) String() string { return fmt.Sprintf("%#x+%d %s", s.Addr, s.Size, s.Name) }
