package index

import (
	"cmp"
	"slices"
	"strings"

	"github.com/perfuse/perfuse/symbolize/dwarf"
	"github.com/perfuse/perfuse/symbolize/table"
)

// dwarfAdder brings the functions of DWARF units into a table.
type dwarfAdder struct {
	b *table.Builder
	// symbols name what DWARF does not: assembly, and functions whose entry has no linkage name.
	symbols []function

	functions map[*dwarf.FuncInfo]table.FunctionID // of the unit that is being read
	files     map[uint32]table.StringID            // likewise
	nodes     []table.Node
	rows      []table.Row
}

// addDwarf adds all functions and lines of d. A unit that cannot be read is counted and left out from where
// it is damaged on. skip says which code is known better already.
func addDwarf(b *table.Builder, d *dwarf.Data, symbols []function, skip func(start, end uint64) bool) (unreadable int, first, err error) {
	a := &dwarfAdder{b: b, symbols: symbols}
	units := d.Units()
	for i := range units {
		a.functions = map[*dwarf.FuncInfo]table.FunctionID{}
		a.files = map[uint32]table.StringID{}
		var fatal error
		err := d.Read(&units[i], func(files dwarf.Files, fn *dwarf.Func) error {
			if skip != nil && skip(fn.Low, fn.High) {
				return nil
			}
			fatal = a.function(files, fn)
			return fatal
		}, func(files dwarf.Files, r dwarf.Range, rows []dwarf.Row) error {
			if skip != nil && skip(r.Low, r.High) {
				return nil
			}
			fatal = a.lines(files, r, rows)
			return fatal
		})
		if fatal != nil {
			return unreadable, first, fatal
		}
		if err != nil {
			if unreadable == 0 {
				first = err
			}
			unreadable++
		}
	}
	return unreadable, first, nil
}

func (a *dwarfAdder) file(files dwarf.Files, i uint32) (table.StringID, error) {
	if i == dwarf.NoFile {
		return 0, nil
	}
	id, ok := a.files[i]
	if !ok {
		var err error
		if id, err = a.b.String(files.Name(i)); err != nil {
			return 0, err
		}
		a.files[i] = id
	}
	return id, nil
}

func (a *dwarfAdder) functionID(fn *dwarf.FuncInfo, name string) (table.FunctionID, error) {
	file, err := a.b.String(fn.File)
	if err != nil {
		return 0, err
	}
	return a.b.Function(name, file, fn.Line)
}

// symbolAt returns the symbol that begins at addr, or that holds it.
func (a *dwarfAdder) symbolAt(addr uint64) (s function, exact, ok bool) {
	i, exact := slices.BinarySearchFunc(a.symbols, addr, func(s function, addr uint64) int { return cmp.Compare(s.start, addr) })
	if !exact {
		i--
	}
	if i < 0 || addr >= a.symbols[i].end {
		return function{}, false, false
	}
	return a.symbols[i], exact, true
}

func (a *dwarfAdder) function(files dwarf.Files, fn *dwarf.Func) error {
	name := fn.Name
	if !fn.Linkage {
		// C++ and Rust leave the linkage name away for local functions; the symbol has it, with the scope.
		if s, exact, ok := a.symbolAt(fn.Low); ok && (name == "" || exact && (strings.HasPrefix(s.name, "_Z") || strings.HasPrefix(s.name, "_R"))) {
			name = s.name
		}
		if name == "" {
			return nil // the symbol table may know more
		}
	}
	id, err := a.functionID(fn.FuncInfo, name)
	if err != nil {
		return err
	}
	a.nodes, a.rows = a.nodes[:0], a.rows[:0]
	// Calls of functions without a name (their entry is in a supplementary file) are left out: moved[i] is
	// the call that i becomes, and if that is another one, the position is the call's.
	moved := make([]int32, len(fn.Inlined))
	for i := range fn.Inlined {
		c := &fn.Inlined[i]
		file, err := a.file(files, c.CallFile)
		if err != nil {
			return err
		}
		n := table.Node{Parent: c.Parent, CallFile: file, CallLine: c.CallLine}
		if p := c.Parent; p >= 0 && fn.Inlined[p].Function.Name == "" {
			n.Parent, n.CallFile, n.CallLine = moved[p], a.nodes[p].CallFile, a.nodes[p].CallLine
		}
		moved[i] = int32(i)
		if c.Function.Name == "" {
			moved[i] = n.Parent
		} else {
			fid, ok := a.functions[c.Function]
			if !ok {
				if fid, err = a.functionID(c.Function, c.Function.Name); err != nil {
					return err
				}
				if len(a.functions) >= 1<<20 {
					clear(a.functions)
				}
				a.functions[c.Function] = fid
			}
			n.Function = fid
		}
		a.nodes = append(a.nodes, n)
	}
	for i := range fn.Rows {
		r := &fn.Rows[i]
		file, err := a.file(files, r.File)
		if err != nil {
			return err
		}
		row := table.Row{Addr: r.Addr, Node: r.Call, File: file, Line: r.Line}
		if r.Call >= 0 && moved[r.Call] != r.Call {
			row.Node, row.File, row.Line = moved[r.Call], a.nodes[r.Call].CallFile, a.nodes[r.Call].CallLine
		}
		a.rows = append(a.rows, row)
	}
	return a.b.Add(table.FromDwarf, id, fn.Low, fn.High, a.nodes, a.rows)
}

// lines gives code without functions to the symbols that lie in it.
func (a *dwarfAdder) lines(files dwarf.Files, r dwarf.Range, rows []dwarf.Row) error {
	i, exact := slices.BinarySearchFunc(a.symbols, r.Low, func(s function, addr uint64) int { return cmp.Compare(s.start, addr) })
	if !exact && i > 0 {
		i--
	}
	for ; i < len(a.symbols) && a.symbols[i].start < r.High; i++ {
		s := a.symbols[i]
		low, high := max(s.start, r.Low), min(s.end, r.High)
		if low >= high {
			continue
		}
		a.rows = a.rows[:0]
		k, found := slices.BinarySearchFunc(rows, low, func(r dwarf.Row, addr uint64) int { return cmp.Compare(r.Addr, addr) })
		if !found && k > 0 {
			k--
		}
		var first table.StringID
		for ; k < len(rows) && rows[k].Addr < high; k++ {
			file, err := a.file(files, rows[k].File)
			if err != nil {
				return err
			}
			if first == 0 {
				first = file
			}
			a.rows = append(a.rows, table.Row{Addr: rows[k].Addr, Node: -1, File: file, Line: rows[k].Line})
		}
		id, err := a.b.Function(s.name, first, 0)
		if err != nil {
			return err
		}
		if err := a.b.Add(table.FromLines, id, low, high, nil, a.rows); err != nil {
			return err
		}
	}
	return nil
}
