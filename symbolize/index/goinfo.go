package index

import (
	"github.com/perfuse/perfuse/symbolize/gosym"
	"github.com/perfuse/perfuse/symbolize/table"
)

// addGo adds all functions of a pclntab. Functions that cannot be read are counted, not fatal.
func addGo(b *table.Builder, t *gosym.Table) (unreadable int, err error) {
	files := map[uint32]table.StringID{}
	file := func(off uint32) (table.StringID, error) {
		if off == gosym.NoFile {
			return 0, nil
		}
		id, ok := files[off]
		if !ok {
			var err error
			if id, err = b.String(t.File(off)); err != nil {
				return 0, err
			}
			files[off] = id
		}
		return id, nil
	}
	// A name takes at most 16 KiB, and stands for many functions only if somebody means harm.
	budget := 256 << 20
	name := func(off uint32) string {
		if budget <= 0 {
			return ""
		}
		s := t.Name(off)
		budget -= len(s)
		return s
	}
	var fn gosym.Func
	var nodes []table.Node
	var rows []table.Row
	for i := range t.Len() {
		if t.Func(i, &fn) != nil {
			unreadable++
			continue
		}
		own := table.StringID(0)
		nodes, rows = nodes[:0], rows[:0]
		for _, c := range fn.Inlined {
			site, err := file(c.Site.File)
			if err != nil {
				return unreadable, err
			}
			nodes = append(nodes, table.Node{Parent: c.Parent, CallFile: site, CallLine: c.Site.Line})
		}
		// The file of an inlined function is not recorded: it is that of its own first row, or of a call in it.
		declared := make([]table.StringID, len(nodes))
		for k, r := range fn.Rows {
			f, err := file(r.File)
			if err != nil {
				return unreadable, err
			}
			if k == 0 || r.Call < 0 && own == 0 {
				own = f
			}
			if r.Call >= 0 && declared[r.Call] == 0 {
				declared[r.Call] = f
			}
			rows = append(rows, table.Row{Addr: r.Addr, Node: r.Call, File: f, Line: r.Line})
		}
		for k := len(nodes) - 1; k >= 0; k-- {
			if p := nodes[k].Parent; p >= 0 && declared[p] == 0 {
				declared[p] = nodes[k].CallFile
			}
		}
		for k, c := range fn.Inlined {
			if nodes[k].Function, err = b.Function(name(c.Name), declared[k], c.StartLine); err != nil {
				return unreadable, err
			}
		}
		id, err := b.Function(name(fn.Name), own, fn.StartLine)
		if err != nil {
			return unreadable, err
		}
		if err := b.Add(table.FromGo, id, fn.Start, fn.End, nodes, rows); err != nil {
			return unreadable, err
		}
	}
	return unreadable, nil
}
