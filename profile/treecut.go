package profile

import (
	"math"
	"slices"
	"sort"
)

// Cut folds subtrees whose total is below minShare of the root's into one node "(small)" per parent, which
// keeps every sum right, and returns how many nodes were folded. A parent whose only small child is a leaf
// keeps it: folding it would hide a name and save nothing. minShare ≤ 0 cuts nothing.
func (t *Tree) Cut(minShare float64) (cut int) {
	if minShare <= 0 || t.Len() <= 1 {
		return 0
	}
	limit := minShare * float64(t.Total[0])
	out, _, cut := t.fold(func(i uint32) bool { return float64(t.Total[i]) < limit }, nil, nil)
	*t = *out
	return cut
}

// CutTo folds subtrees as Cut does, the smallest ones, until there are at most so many nodes, of which there must be
// 2 at least, and returns how many nodes were folded.
func (t *Tree) CutTo(most int) (cut int) {
	if t.Len() <= most {
		return 0
	}
	weight := func(i uint32) float64 { return math.Abs(float64(t.Total[i])) }
	limit := t.heaviest(most/2, weight)
	out, _, cut := t.fold(func(i uint32) bool { return weight(i) <= limit }, nil, nil)
	*t = *out
	return cut
}

// heaviest returns a weight that less than n nodes beside the root are above. With a node "(small)" or a small leaf for
// each, and for the root, that makes 2n nodes at most.
func (t *Tree) heaviest(n int, weight func(i uint32) float64) float64 {
	all := make([]float64, t.Len()-1)
	for i := range all {
		all[i] = weight(uint32(i + 1))
	}
	slices.Sort(all)
	return all[len(all)-n]
}

// fold makes one node "(small)" of the children of each node that are small with all that is below them. other
// and otherTotal, if they are not nil, are a second column of values and its totals by node, folded alike.
func (t *Tree) fold(isSmall func(i uint32) bool, other, otherTotal []int64) (folded *Tree, foldedOther []int64, cut int) {
	// What an earlier cut folded is folded again, so that no parent has two nodes "(small)".
	again := func(i uint32) bool { return t.Frames[t.Frame[i]].Kind == KindCut }
	small := func(i uint32) bool { return isSmall(i) || again(i) }

	// The frame of "(small)" goes to the end of the table and is brought to its place in the end.
	frames := append(t.Frames[:len(t.Frames):len(t.Frames)], TreeFrame{Name: uint32(len(t.Strings)), Kind: KindCut})
	strs := append(t.Strings[:len(t.Strings):len(t.Strings)], CutName)
	cutFrame := uint32(len(t.Frames))
	place := uint32(sort.Search(len(t.Frames)-1, func(i int) bool {
		return compareFrames(&frames[i+1], &frames[cutFrame], strs) > 0
	})) + 1 // frames from here on come after "(small)"

	out := &Tree{Unit: t.Unit}
	type open struct {
		next, end, at uint32
		folded, other int64 // sums of what was folded here
		nodes         int   // how many nodes that was
		done          bool  // "(small)" was written, or there is none
	}
	var stack []open
	enter := func(i uint32) {
		o := open{next: i + 1, end: t.End[i], at: uint32(len(out.Frame))}
		for c := i + 1; c < t.End[i]; c = t.End[c] {
			if small(c) {
				o.folded += t.Total[c]
				if other != nil {
					o.other += otherTotal[c]
				}
				o.nodes += int(t.End[c] - c)
				if again(c) {
					cut--
				}
			}
		}
		if o.nodes <= 1 {
			o.nodes, o.done = 0, true
		}
		cut += o.nodes
		out.Frame = append(out.Frame, t.Frame[i])
		out.Self = append(out.Self, t.Self[i])
		out.End = append(out.End, 0)
		if other != nil {
			foldedOther = append(foldedOther, other[i])
		}
		stack = append(stack, o)
	}
	enter(0)
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		for top.nodes > 0 && top.next < top.end && small(top.next) {
			top.next = t.End[top.next]
		}
		if !top.done && (top.next == top.end || t.Frame[top.next] >= place) {
			top.done = true
			out.Frame = append(out.Frame, cutFrame)
			out.Self = append(out.Self, top.folded)
			out.End = append(out.End, uint32(len(out.Frame)))
			if other != nil {
				foldedOther = append(foldedOther, top.other)
			}
		}
		if top.next == top.end {
			out.End[top.at] = uint32(len(out.Frame))
			stack = stack[:len(stack)-1]
			continue
		}
		c := top.next
		top.next = t.End[c]
		enter(c)
	}
	order := usedFrames(len(frames), out.Frame) // in order, but for that of "(small)"
	if n := len(order) - 1; n >= 0 && order[n] == cutFrame {
		i, _ := slices.BinarySearch(order[:n], place)
		order = slices.Insert(order[:n], i, cutFrame)
	}
	rank := out.setFrames(frames, strs, order)
	for i, f := range out.Frame {
		out.Frame[i] = rank[f]
	}
	out.sum()
	return out, foldedOther, cut
}

// Subtree returns the tree below a path of function names that begins at a child of the root. The new root
// stands for the path's last node: its self value is that node's. Where several nodes have that path (equal
// names in different files), they are merged. If there is none, the tree is a root without value.
func (t *Tree) Subtree(path []string) *Tree {
	nodes := []uint32{0}
	for _, name := range path {
		var next []uint32
		for _, n := range nodes {
			for c := range t.Children(n) {
				if t.Name(c) == name {
					next = append(next, c)
				}
			}
		}
		nodes = next
	}
	tb := newTreeBuilder(0)
	for _, n := range nodes {
		tb.self[0] += t.Self[n]
		for c := range t.Children(n) {
			tb.graft(0, t, c, nil)
		}
	}
	sub := tb.tree(t.Frames, t.Strings)
	sub.Unit = t.Unit
	return sub
}

// graft adds node i of t and everything below it as a child of parent. rename, if it is not nil, gives the
// frames to use by those of t.
func (tb *treeBuilder) graft(parent uint32, t *Tree, i uint32, rename []uint32) {
	type open struct{ end, node uint32 }
	stack := []open{{t.End[i], parent}}
	for end := t.End[i]; i < end; i++ {
		for len(stack) > 1 && stack[len(stack)-1].end <= i {
			stack = stack[:len(stack)-1]
		}
		frame := t.Frame[i]
		if rename != nil {
			frame = rename[frame]
		}
		node := tb.child(stack[len(stack)-1].node, frame)
		tb.self[node] += t.Self[i]
		stack = append(stack, open{t.End[i], node})
	}
}
