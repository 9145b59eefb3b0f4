package index

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/perfuse/perfuse/symbolize/elf"
	"github.com/perfuse/perfuse/symbolize/table"
)

// maxSymbols bounds the symbols of one file; chromium has 1.3 million.
const maxSymbols = 4 << 20

// function is a range of addresses that a symbol table names.
type function struct {
	start, end uint64
	name       string
	guessed    bool // the end, of a symbol without a size
}

type candidate struct {
	addr, size uint64
	end        uint64 // of its section
	name       string
	rank       uint8 // lower is better
}

// symbolFunctions reads the functions of all symbol tables of the files (one binary and what belongs to it:
// split debug file, mini debug info): sorted by start, at most one for each address.
func symbolFunctions(files ...*elf.File) ([]function, error) {
	var all []candidate
	var errs []error
	for _, f := range files {
		for i := range f.Sections {
			s := &f.Sections[i]
			if s.Type != elf.SectionSymtab && s.Type != elf.SectionDynsym {
				continue
			}
			err := f.Symbols(s, func(_ int, sym elf.Symbol) bool {
				if c, ok := symbolCandidate(f, sym); ok {
					all = append(all, c)
				}
				return len(all) < maxSymbols
			})
			if err != nil {
				errs = append(errs, err)
			}
		}
	}
	if len(all) >= maxSymbols {
		return nil, fmt.Errorf("reading symbols: more than %d of them", maxSymbols)
	}
	if len(all) == 0 {
		return nil, errors.Join(errs...)
	}
	return chooseFunctions(all), nil
}

func symbolCandidate(f *elf.File, sym elf.Symbol) (candidate, bool) {
	c := candidate{addr: sym.Addr, size: sym.Size, name: sym.Name}
	if sym.Name == "" || sym.Section == 0 || sym.Addr == 0 {
		return c, false
	}
	var sec *elf.Section
	if int(sym.Section) < len(f.Sections) {
		sec = &f.Sections[sym.Section]
	}
	inCode := sec != nil && sec.Flags&elf.SectionExec != 0
	switch sym.Type {
	case elf.SymbolFunc, elf.SymbolIFunc:
		if !inCode && !f.Executable(sym.Addr) {
			return c, false // in powerpc's descriptors, or a lie
		}
	case elf.SymbolNoType:
		// Labels of assembly. $x and $d mark code and data on arm64; .L labels are the assembler's own.
		if !inCode || strings.HasPrefix(sym.Name, "$") || strings.HasPrefix(sym.Name, ".L") {
			return c, false
		}
		c.rank += 4
	default:
		return c, false
	}
	if sym.Bind == elf.BindLocal {
		c.rank += 2
	} else if sym.Bind == elf.BindWeak {
		c.rank++
	}
	if inCode && sym.Addr-sec.Addr < sec.Size {
		c.end = sec.Addr + sec.Size
	}
	if c.addr+c.size < c.addr || c.end != 0 && c.addr+c.size > c.end {
		c.size = 0 // a lie
	}
	return c, true
}

// chooseFunctions picks one name for each address (functions before labels, global before weak before local
// ones, names with fewer leading underscores, shorter ones, then by the alphabet) and gives ends to
// those without a size: the next symbol, or the end of the section. A symbol without size inside one that
// has a size is a label in it, not a function.
func chooseFunctions(all []candidate) []function {
	slices.SortFunc(all, func(a, b candidate) int {
		return cmp.Or(
			cmp.Compare(a.addr, b.addr),
			cmp.Compare(a.rank, b.rank),
			cmp.Compare(underscores(a.name), underscores(b.name)),
			cmp.Compare(len(a.name), len(b.name)),
			cmp.Compare(a.name, b.name),
		)
	})
	out := make([]function, 0, len(all))
	covered := uint64(0) // by a symbol with a size
	for i := 0; i < len(all); {
		c := all[i]
		j := i + 1
		for ; j < len(all) && all[j].addr == c.addr; j++ {
			c.size = max(c.size, all[j].size)
			c.end = max(c.end, all[j].end)
		}
		i = j
		end := c.addr + c.size
		if c.size == 0 {
			if c.addr < covered {
				continue
			}
			switch {
			case c.end != 0 && j < len(all):
				end = min(c.end, all[j].addr)
			case c.end != 0:
				end = c.end
			case j < len(all):
				end = min(all[j].addr, c.addr+4096)
			default:
				end = c.addr + 1
			}
		}
		covered = max(covered, c.addr+c.size)
		out = append(out, function{c.addr, end, c.name, c.size == 0})
	}
	return out
}

func underscores(s string) int { return len(s) - len(strings.TrimLeft(s, "_")) }

// addFunctions adds the symbols' ranges, and the stubs' of the procedure linkage tables.
func addFunctions(b *table.Builder, f *elf.File, functions []function) error {
	for _, fn := range functions {
		id, err := b.Function(fn.name, 0, 0)
		if err != nil {
			return err
		}
		if err := b.Add(table.FromSymbols, id, fn.start, fn.end, nil, nil); err != nil {
			return err
		}
	}
	stubs := f.Stubs(func(addr uint64) string {
		i, ok := slices.BinarySearchFunc(functions, addr, func(fn function, a uint64) int { return cmp.Compare(fn.start, a) })
		if !ok {
			return ""
		}
		return functions[i].name
	})
	for _, s := range stubs {
		id, err := b.Function(s.Name, 0, 0)
		if err != nil {
			return err
		}
		if err := b.Add(table.FromStubs, id, s.Addr, s.Addr+s.Size, nil, nil); err != nil {
			return err
		}
	}
	return nil
}

// addNameless adds the functions that unwind information delimits and no symbol covers, and ends symbols without a
// size where the next function begins. What it cannot read of f is unreadable; the error is that of b. skip says which
// code is known better already.
func addNameless(b *table.Builder, f *elf.File, functions []function, skip func(start, end uint64) bool) (unreadable, err error) {
	unreadable = f.FunctionRanges(func(start, end uint64) bool {
		for len(functions) > 1 && functions[1].start <= start {
			functions = functions[1:]
		}
		covered := false
		if len(functions) > 0 && functions[0].start <= start {
			s := &functions[0]
			if s.guessed && s.start < start {
				s.end = min(s.end, start)
			}
			// The table would choose the symbol anyway; left out here, they cost a file with symbols no memory.
			covered = s.end >= end
		}
		if !covered && !skip(start, end) {
			err = b.AddNameless(start, end)
		}
		return err == nil
	})
	return unreadable, err
}
