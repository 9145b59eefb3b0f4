// Package index builds the symbol table (room table) of an executable file from all that speaks about its code:
// pclntab (gosym), DWARF (dwarf), symbol tables, linkage stubs and unwind information (elf).
//
// Who is believed where several sources speak about an address:
//
//  1. Go's pclntab with its inline tree: exact, and always there, also in stripped binaries;
//  2. DWARF: functions, inlined functions, lines, out of the file or its split debug file;
//  3. symbol tables (.symtab, .dynsym, the one in .gnu_debugdata), with lines from DWARF where a unit has
//     lines and no functions (assembly);
//  4. procedure linkage stubs, named by the function they lead to: write@plt;
//  5. unwind information, which has no names but says where a function begins and ends: what is left, as in stripped
//     files, is called by its function's start (+0x61a0), so that all addresses of one function are one. Code that it
//     does not delimit stays unknown.
//
// Building needs little memory whatever the file's size: about 70 MB of heap for 90 MB of Go with DWARF. What
// is damaged is left out and reported; the rest still serves.
package index

import (
	"errors"
	"fmt"

	"github.com/perfuse/perfuse/symbolize"
	"github.com/perfuse/perfuse/symbolize/dwarf"
	"github.com/perfuse/perfuse/symbolize/elf"
	"github.com/perfuse/perfuse/symbolize/gosym"
	"github.com/perfuse/perfuse/symbolize/table"
)

// Files are what a table is built from: the executable, and what belongs to it or nil: the split debug file,
// and the supplementary file (DWZ) that either refers to.
type Files struct {
	File, Split, Supplement *elf.File
}

// Close closes all of them.
func (s Files) Close() error {
	var errs []error
	for _, f := range []*elf.File{s.File, s.Split, s.Supplement} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Build writes the symbol table of a binary to path. Temporary files are made in dir. Parts that cannot be read are left out and joined into the warning; the error is
// symbolize.ErrNoDebugInfo if nothing at all names any code.
func Build(path, dir string, in Files) (warning, err error) {
	var b *table.Builder
	if b, err = table.NewBuilder(dir); err != nil {
		return nil, err
	}
	defer b.Close()
	err = elf.Guard(func() (err error) {
		warning, err = Collect(b, in)
		return err
	})
	if err != nil {
		return warning, fmt.Errorf("building a symbol table: %w", err)
	}
	if b.Empty() {
		return warning, fmt.Errorf("building a symbol table: %w", errors.Join(symbolize.ErrNoDebugInfo, warning))
	}
	return warning, b.Write(path)
}

// Collect adds to b all that in says about code. The error is that of b, or memory that went away under a
// mapping; what is wrong with the files is in the warning.
func Collect(b *table.Builder, in Files) (warning, err error) {
	var warnings []error
	f := in.File
	files := []*elf.File{f}
	if in.Split != nil {
		files = append(files, in.Split)
	}
	var goCode struct{ start, end uint64 }
	for _, f := range files {
		g, err := gosym.Find(f)
		if errors.Is(err, gosym.ErrNotGo) {
			continue
		}
		if err != nil {
			warnings = append(warnings, err)
			continue
		}
		unreadable, err := addGo(b, g)
		if err != nil {
			return nil, err
		}
		if unreadable > 0 {
			warnings = append(warnings, fmt.Errorf("reading the Go pclntab: %d of %d functions are unreadable", unreadable, g.Len()))
		} else {
			goCode.start, goCode.end = g.Range()
		}
		if g.Funcdata == 0 {
			warnings = append(warnings, errors.New("reading the Go pclntab: its inline trees were not found"))
		}
		break
	}
	symbolFiles := files
	if mini, err := f.MiniDebug(); err != nil {
		warnings = append(warnings, err)
	} else if mini != nil {
		symbolFiles = append(symbolFiles[:len(symbolFiles):len(symbolFiles)], mini)
	}
	functions, err := symbolFunctions(symbolFiles...)
	if err != nil {
		warnings = append(warnings, err)
	}
	unreadable, err := addNameless(b, f, functions, func(start, end uint64) bool {
		return start >= goCode.start && end <= goCode.end
	})
	if err != nil {
		return nil, err
	}
	if unreadable != nil {
		warnings = append(warnings, fmt.Errorf("reading where functions begin: %w", unreadable))
	}
	if err := addFunctions(b, f, functions); err != nil {
		return nil, err
	}
	sup, err := dwarf.OpenSupplement(f)
	if in.Supplement != nil {
		sup, err = dwarf.Open(in.Supplement)
	}
	switch {
	case err == nil:
		defer sup.Close()
	case !errors.Is(err, dwarf.ErrNone):
		warnings = append(warnings, fmt.Errorf("reading the supplementary debug file: %w", err))
	}
	for _, f := range files {
		d, err := dwarf.Open(f)
		if errors.Is(err, dwarf.ErrNone) {
			continue
		}
		if err != nil {
			warnings = append(warnings, err)
			continue
		}
		d.Supplement(sup)
		unreadable, first, err := addDwarf(b, d, functions, func(start, end uint64) bool {
			return start >= goCode.start && end <= goCode.end
		})
		d.Close()
		if err != nil {
			return nil, err
		}
		if unreadable > 0 {
			warnings = append(warnings, fmt.Errorf("reading DWARF: %d of %d units are damaged, the first: %w", unreadable, len(d.Units()), first))
		}
	}
	return errors.Join(warnings...), nil
}
