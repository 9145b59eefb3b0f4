package profile

import "slices"

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
	// sum works on Self; let it do both.
	after2 := d.Self
	d.Self = d.BeforeSelf
	d.sum()
	d.BeforeTotal, d.Total = d.Total, nil
	d.Self = after2
	d.sum()
	return d
}

// joinFrames fills Frames and Strings with those of both trees and returns the new index by old one for each.
func (d *DiffTree) joinFrames(before, after *Tree) (rankB, rankA []uint32) {
	strs := slices.Concat(before.Strings, after.Strings)
	frames := slices.Concat(before.Frames, after.Frames[1:])
	for i := len(before.Frames); i < len(frames); i++ {
		f, n := &frames[i], uint32(len(before.Strings))
		f.Name, f.File, f.Mapping = f.Name+n, f.File+n, f.Mapping+n
	}
	order := make([]uint32, 0, len(frames)-1)
	for i := 1; i < len(frames); i++ {
		order = append(order, uint32(i))
	}
	slices.SortStableFunc(order, func(a, b uint32) int { return compareFrames(&frames[a], &frames[b], strs) })

	rank := make([]uint32, len(frames))
	d.Strings = []string{""}
	ids := map[string]uint32{"": 0}
	id := func(s string) uint32 {
		i, ok := ids[s]
		if !ok {
			i = uint32(len(d.Strings))
			d.Strings = append(d.Strings, s)
			ids[s] = i
		}
		return i
	}
	add := func(f TreeFrame) {
		f.Name, f.File, f.Mapping = id(strs[f.Name]), id(strs[f.File]), id(strs[f.Mapping])
		d.Frames = append(d.Frames, f)
	}
	add(frames[0])
	for i, o := range order {
		if i == 0 || compareFrames(&frames[order[i-1]], &frames[o], strs) != 0 {
			add(frames[o])
		}
		rank[o] = uint32(len(d.Frames) - 1)
	}
	return rank[:len(before.Frames)], append([]uint32{0}, rank[len(before.Frames):]...)
}
