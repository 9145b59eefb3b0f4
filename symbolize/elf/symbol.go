package elf

import "fmt"

// Symbol types and bindings that matter here.
const (
	SymbolNoType = 0
	SymbolFunc   = 2
	SymbolIFunc  = 10 // STT_GNU_IFUNC: its address is that of the resolver

	BindLocal  = 0
	BindGlobal = 1
	BindWeak   = 2
)

// Symbol is an entry of a symbol table.
type Symbol struct {
	Name       string
	Addr, Size uint64
	Type, Bind uint8
	// Section is the index of the symbol's section, 0 for an undefined one.
	Section uint16
}

// maxSymbolName bounds a name; C++ and Rust really reach some ten thousand bytes.
const maxSymbolName = 64 << 10

// Symbols calls yield for each entry of the symbol table s (of type SectionSymtab or SectionDynsym) until
// it returns false.
func (f *File) Symbols(s *Section, yield func(i int, sym Symbol) bool) error {
	if s.Type != SectionSymtab && s.Type != SectionDynsym {
		return malformed("section %s is no symbol table", s.Name)
	}
	table, err := f.Content(s)
	if err != nil {
		return err
	}
	defer table.Release()
	if uint64(s.Link) >= uint64(len(f.Sections)) {
		return malformed("section %s: its string table %d does not exist", s.Name, s.Link)
	}
	names, err := f.Content(&f.Sections[s.Link])
	if err != nil {
		return fmt.Errorf("reading the names of section %s: %w", s.Name, err)
	}
	defer names.Release()
	size := 16
	if f.Is64 {
		size = 24
	}
	// Names may overlap each other (one is another's end), but not all of them the whole table.
	budget := 16<<20 + 8*len(names.Bytes)
	b := table.Bytes
	for i := 0; len(b) >= size; i, b = i+1, b[size:] {
		var sym Symbol
		var info byte
		if f.Is64 {
			info = b[4]
			sym.Section = f.Order.Uint16(b[6:])
			sym.Addr, sym.Size = f.Order.Uint64(b[8:]), f.Order.Uint64(b[16:])
		} else {
			info = b[12]
			sym.Section = f.Order.Uint16(b[14:])
			sym.Addr, sym.Size = uint64(f.Order.Uint32(b[4:])), uint64(f.Order.Uint32(b[8:]))
		}
		sym.Type, sym.Bind = info&0xf, info>>4
		sym.Name = string(cstring(names.Bytes, uint64(f.Order.Uint32(b)), maxSymbolName))
		if budget -= len(sym.Name); budget < 0 {
			return malformed("section %s: its names fill more than their table", s.Name)
		}
		if !yield(i, sym) {
			return nil
		}
	}
	return nil
}
