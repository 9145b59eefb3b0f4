package profile

import (
	"cmp"
	"slices"
	"strings"
)

// TopRow is what one function cost. Inlined and called instances of it are one row.
type TopRow struct {
	Name    string
	File    string // source file, "" if unknown
	Mapping string // executable file, "" if unknown
	Kind    Kind
	Self    int64
	Total   int64 // stacks in which the function occurs several times count once
}

// Top returns one row per function of p, a profile of b, the largest self value first.
func Top(b *Batch, p *Profile) []TopRow { return NewTree(b, p).Top() }

// Top returns one row per function of the tree, the largest self value first; then by total, name, file,
// mapping and kind. The root has no row.
func (t *Tree) Top() []TopRow {
	// Frames are sorted so that those that differ in Inlined only are neighbours.
	row := make([]int32, len(t.Frames))
	rows := make([]TopRow, 0, len(t.Frames))
	for i := 1; i < len(t.Frames); i++ {
		f, prev := t.Frames[i], t.Frames[i-1]
		if i == 1 || f.Name != prev.Name || f.File != prev.File || f.Mapping != prev.Mapping || f.Kind != prev.Kind {
			rows = append(rows, TopRow{Name: t.Strings[f.Name], File: t.Strings[f.File], Mapping: t.Strings[f.Mapping], Kind: f.Kind})
		}
		row[i] = int32(len(rows) - 1)
	}
	active := make([]int32, len(rows)) // how many open nodes have this row
	type open struct {
		end uint32
		row int32
	}
	var path []open
	for i := uint32(1); i < uint32(t.Len()); i++ {
		for len(path) > 0 && path[len(path)-1].end <= i {
			active[path[len(path)-1].row]--
			path = path[:len(path)-1]
		}
		r := row[t.Frame[i]]
		rows[r].Self += t.Self[i]
		if active[r] == 0 {
			rows[r].Total += t.Total[i]
		}
		active[r]++
		path = append(path, open{t.End[i], r})
	}
	slices.SortFunc(rows, func(a, b TopRow) int { return cmp.Or(cmp.Compare(b.Self, a.Self), compareTop(&a, &b)) })
	return rows
}

// SortByTotal brings the largest totals first.
func SortByTotal(rows []TopRow) {
	slices.SortFunc(rows, func(a, b TopRow) int { return compareTop(&a, &b) })
}

func compareTop(a, b *TopRow) int {
	return cmp.Or(
		cmp.Compare(b.Total, a.Total),
		cmp.Compare(b.Self, a.Self),
		strings.Compare(a.Name, b.Name),
		strings.Compare(a.File, b.File),
		strings.Compare(a.Mapping, b.Mapping),
		cmp.Compare(a.Kind, b.Kind),
	)
}
