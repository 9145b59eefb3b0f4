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
	rows, of := t.functions()
	self, total := t.addUp(of, len(rows), t.Self, t.Total)
	for i := range rows {
		rows[i].Self, rows[i].Total = self[i], total[i]
	}
	slices.SortFunc(rows, func(a, b TopRow) int { return cmp.Or(cmp.Compare(b.Self, a.Self), compareTop(&a, &b)) })
	return rows
}

// functions returns a row without values for each function, and by frame which one is its own.
func (t *Tree) functions() (rows []TopRow, of []int32) {
	// Frames are sorted so that those that differ in Inlined only are neighbours.
	of = make([]int32, len(t.Frames))
	rows = make([]TopRow, 0, len(t.Frames))
	for i := 1; i < len(t.Frames); i++ {
		f, prev := t.Frames[i], t.Frames[i-1]
		if i == 1 || f.Name != prev.Name || f.File != prev.File || f.Mapping != prev.Mapping || f.Kind != prev.Kind {
			rows = append(rows, TopRow{Name: t.Strings[f.Name], File: t.Strings[f.File], Mapping: t.Strings[f.Mapping], Kind: f.Kind})
		}
		of[i] = int32(len(rows) - 1)
	}
	return rows, of
}

// addUp returns by row the sums of the nodes' self values and totals; of nodes below each other that have the
// same row only the outermost total counts.
func (t *Tree) addUp(of []int32, rows int, self, total []int64) (selfOf, totalOf []int64) {
	selfOf, totalOf = make([]int64, rows), make([]int64, rows)
	active := make([]int32, rows) // how many open nodes have this row
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
		r := of[t.Frame[i]]
		selfOf[r] += self[i]
		if active[r] == 0 {
			totalOf[r] += total[i]
		}
		active[r]++
		path = append(path, open{t.End[i], r})
	}
	return selfOf, totalOf
}

// SortByTotal brings the largest totals first.
func SortByTotal(rows []TopRow) {
	slices.SortFunc(rows, func(a, b TopRow) int { return compareTop(&a, &b) })
}

func compareTop(a, b *TopRow) int {
	return cmp.Or(
		cmp.Compare(b.Total, a.Total),
		cmp.Compare(b.Self, a.Self),
		a.compareNames(b),
	)
}

func (r *TopRow) compareNames(o *TopRow) int {
	return cmp.Or(
		strings.Compare(r.Name, o.Name),
		strings.Compare(r.File, o.File),
		strings.Compare(r.Mapping, o.Mapping),
		cmp.Compare(r.Kind, o.Kind),
	)
}
