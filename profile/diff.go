package profile

import (
	"cmp"
	"math"
	"slices"
)

// DiffTree is two trees laid over each other. The embedded tree has every node of both; its Self and Total
// are those after. Before holds the same of the other tree; a node that one of them lacks has 0 there.
type DiffTree struct {
	Tree
	BeforeSelf, BeforeTotal []int64 // by node
}

// Diff lays after over before. The unit is that of after.
func Diff(before, after *Tree) *DiffTree {
	d := &DiffTree{}
	d.Unit = after.Unit
	rankB, rankA := d.joinFrames(before, after)

	n := max(before.Len(), after.Len())
	d.Frame, d.End = make([]uint32, 0, n), make([]uint32, 0, n)
	d.Self, d.BeforeSelf = make([]int64, 0, n), make([]int64, 0, n)

	// Both trees are walked at once, depth first. An interval of siblings may be empty on one side.
	type open struct{ b, bEnd, a, aEnd, at uint32 }
	visit := func(self, beforeSelf int64, frame uint32) uint32 {
		d.Frame = append(d.Frame, frame)
		d.Self = append(d.Self, self)
		d.BeforeSelf = append(d.BeforeSelf, beforeSelf)
		d.End = append(d.End, 0)
		return uint32(len(d.Frame) - 1)
	}
	stack := []open{{1, before.End[0], 1, after.End[0], visit(after.Self[0], before.Self[0], 0)}}
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		if top.b == top.bEnd && top.a == top.aEnd {
			d.End[top.at] = uint32(len(d.Frame))
			stack = stack[:len(stack)-1]
			continue
		}
		const none = ^uint32(0)
		fb, fa := none, none
		if top.b < top.bEnd {
			fb = rankB[before.Frame[top.b]]
		}
		if top.a < top.aEnd {
			fa = rankA[after.Frame[top.a]]
		}
		next := open{}
		var self, beforeSelf int64
		if fb <= fa {
			beforeSelf = before.Self[top.b]
			next.b, next.bEnd = top.b+1, before.End[top.b]
			top.b = next.bEnd
		}
		if fa <= fb {
			self = after.Self[top.a]
			next.a, next.aEnd = top.a+1, after.End[top.a]
			top.a = next.aEnd
		}
		next.at = visit(self, beforeSelf, min(fa, fb))
		stack = append(stack, next)
	}
	d.sum()
	d.BeforeTotal = d.totals(d.BeforeSelf)
	return d
}

// joinFrames fills Frames and Strings with those of both trees, whose frames are in order, and returns the new
// index by old one for each.
func (d *DiffTree) joinFrames(before, after *Tree) (rankB, rankA []uint32) {
	d.Strings = []string{""}
	ids := map[string]uint32{"": 0}
	known := [2][]uint32{make([]uint32, len(before.Strings)), make([]uint32, len(after.Strings))} // new id + 1
	add := func(t *Tree, side int, f TreeFrame) {
		for _, s := range []*uint32{&f.Name, &f.File, &f.Mapping} {
			if known[side][*s] == 0 {
				text := t.Strings[*s]
				id, ok := ids[text]
				if !ok {
					id = uint32(len(d.Strings))
					d.Strings = append(d.Strings, text)
					ids[text] = id
				}
				known[side][*s] = id + 1
			}
			*s = known[side][*s] - 1
		}
		d.Frames = append(d.Frames, f)
	}
	add(before, 0, before.Frames[0])
	rankB, rankA = make([]uint32, len(before.Frames)), make([]uint32, len(after.Frames))
	for b, a := 1, 1; b < len(rankB) || a < len(rankA); {
		order := 0
		switch {
		case b == len(rankB):
			order = 1
		case a == len(rankA):
			order = -1
		default:
			order = compareTreeFrames(before, &before.Frames[b], after, &after.Frames[a])
		}
		at := uint32(len(d.Frames))
		if order <= 0 {
			add(before, 0, before.Frames[b])
			rankB[b] = at
			b++
		} else {
			add(after, 1, after.Frames[a])
		}
		if order >= 0 {
			rankA[a] = at
			a++
		}
	}
	return rankB, rankA
}

// Cut folds subtrees as [Tree.Cut] does, by the larger of both sides: a node is kept if before or after, each
// multiplied by its scale, it is at least minShare of the larger root.
func (d *DiffTree) Cut(minShare, beforeScale, afterScale float64) (cut int) {
	if minShare <= 0 || d.Len() <= 1 {
		return 0
	}
	weight := d.weight(beforeScale, afterScale)
	limit := minShare * weight(0)
	return d.cut(func(i uint32) bool { return weight(i) < limit })
}

// CutTo folds subtrees as [Tree.CutTo] does, those that are smallest on both sides.
func (d *DiffTree) CutTo(most int, beforeScale, afterScale float64) (cut int) {
	if d.Len() <= most {
		return 0
	}
	weight := d.weight(beforeScale, afterScale)
	limit := d.heaviest(most/2, weight)
	return d.cut(func(i uint32) bool { return weight(i) <= limit })
}

// weight returns the larger of both sides by node.
func (d *DiffTree) weight(beforeScale, afterScale float64) func(i uint32) float64 {
	return func(i uint32) float64 {
		return max(math.Abs(float64(d.BeforeTotal[i])*beforeScale), math.Abs(float64(d.Total[i])*afterScale))
	}
}

func (d *DiffTree) cut(isSmall func(i uint32) bool) (cut int) {
	out, before, cut := d.fold(isSmall, d.BeforeSelf, d.BeforeTotal)
	d.Tree, d.BeforeSelf = *out, before
	d.BeforeTotal = d.totals(before)
	return cut
}

// DiffRow is what one function cost: Self and Total after, and the same before.
type DiffRow struct {
	TopRow
	BeforeSelf, BeforeTotal int64
}

// Top returns one row per function of the tree, in the order of [SortByChange] by self values.
func (d *DiffTree) Top(beforeScale, afterScale float64) []DiffRow {
	plain, of := d.functions()
	rows := make([]DiffRow, len(plain))
	self, total := d.addUp(of, len(rows), d.Self, d.Total)
	beforeSelf, beforeTotal := d.addUp(of, len(rows), d.BeforeSelf, d.BeforeTotal)
	for i, r := range plain {
		r.Self, r.Total = self[i], total[i]
		rows[i] = DiffRow{r, beforeSelf[i], beforeTotal[i]}
	}
	SortByChange(rows, beforeScale, afterScale, false)
	return rows
}

// SortByChange brings those first whose self value, or total, changed most in either direction once each side is
// multiplied by its scale; then those with the other change, then in order of name, file, mapping and kind.
func SortByChange(rows []DiffRow, beforeScale, afterScale float64, byTotal bool) {
	change := func(before, after int64) float64 {
		return math.Abs(float64(after)*afterScale - float64(before)*beforeScale)
	}
	slices.SortFunc(rows, func(a, b DiffRow) int {
		self := cmp.Compare(change(b.BeforeSelf, b.Self), change(a.BeforeSelf, a.Self))
		total := cmp.Compare(change(b.BeforeTotal, b.Total), change(a.BeforeTotal, a.Total))
		if byTotal {
			self, total = total, self
		}
		return cmp.Or(self, total, a.compareNames(&b.TopRow))
	})
}
