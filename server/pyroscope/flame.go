package pyroscope

import (
	"cmp"
	"slices"

	"github.com/perfuse/perfuse/profile"
	querierv1 "github.com/perfuse/perfuse/proto/querier/v1"
)

// Names of the nodes that no stack has.
const (
	rootName  = "total"
	otherName = "other"
)

// minShare is what a node needs to be seen: half a pixel of a window 2000 pixels wide.
const minShare = 1.0 / 4000

// graph is a flame graph of one side or of two, in which siblings have different names. nodes[0] is the root
// and parents come before their children.
type graph struct {
	sides int
	nodes []node
}

// node is a function below its callers. child is the first one, next the sibling after it; 0 is none.
type node struct {
	name                string
	parent, child, next int32
	self, total         [2]int64
}

func (n *node) weight() int64 { return n.total[0] + n.total[1] }

// single returns the graph of a tree.
func single(t *profile.Tree) *graph {
	return (&builder{tree: t, self: [2][]int64{t.Self}, total: [2][]int64{t.Total}}).graph(1)
}

// double returns the graph of two trees laid over each other.
func double(left, right *profile.Tree) *graph {
	t := profile.Diff(left, right)
	return (&builder{tree: &t.Tree, self: [2][]int64{t.BeforeSelf, t.Self}, total: [2][]int64{t.BeforeTotal, t.Total}}).graph(2)
}

// builder merges the siblings of a tree that differ in file, mapping or kind only.
type builder struct {
	tree        *profile.Tree
	self, total [2][]int64
	g           *graph
}

func (b *builder) graph(sides int) *graph {
	b.g = &graph{sides: sides, nodes: make([]node, 1, b.tree.Len())}
	b.fill(0, rootName, []uint32{0})
	return b.g
}

// fill makes node at of what is in all of these nodes of the tree, and the nodes below it.
func (b *builder) fill(at int32, name string, from []uint32) {
	n := &b.g.nodes[at]
	n.name = name
	var children []uint32
	for _, i := range from {
		for side := range b.g.sides {
			n.self[side] += b.self[side][i]
			n.total[side] += b.total[side][i]
		}
		for c := range b.tree.Children(i) {
			children = append(children, c)
		}
	}
	// Frames are in order of their names.
	slices.SortStableFunc(children, func(x, y uint32) int { return cmp.Compare(b.tree.Frame[x], b.tree.Frame[y]) })
	last := int32(0)
	for len(children) > 0 {
		name := b.tree.Name(children[0])
		same := 1
		for same < len(children) && b.tree.Name(children[same]) == name {
			same++
		}
		group := children[:same]
		children = children[same:]
		if !b.seen(group) {
			continue
		}
		c := int32(len(b.g.nodes))
		b.g.nodes = append(b.g.nodes, node{parent: at})
		b.g.link(at, last, c)
		last = c
		b.fill(c, name, group)
	}
}

// seen says whether these nodes together have a value that a bar can show.
func (b *builder) seen(group []uint32) bool {
	for side := range b.g.sides {
		sum := int64(0)
		for _, i := range group {
			sum += b.total[side][i]
		}
		if sum > 0 {
			return true
		}
	}
	return false
}

// link puts child c below parent, after its child last, or as its first where last is 0.
func (g *graph) link(parent, last, c int32) {
	if last == 0 {
		g.nodes[parent].child = c
	} else {
		g.nodes[last].next = c
	}
}

// fold keeps the most nodes with the largest totals and makes the others below each that is kept one node
// "other", which keeps every sum right. Where that would replace a single leaf, it stays: folding it would hide
// a name and save nothing. With most 0, what is too small to be seen is folded; with less than 0, nothing.
func (g *graph) fold(most int64) {
	n := len(g.nodes)
	if most < 0 || most >= int64(n) {
		return
	}
	keep := make([]bool, n)
	if most == 0 {
		limit := minShare * float64(g.nodes[0].weight())
		for i := range g.nodes {
			keep[i] = float64(g.nodes[i].weight()) >= limit
		}
	} else {
		order := make([]int32, n)
		for i := range order {
			order[i] = int32(i)
		}
		slices.SortFunc(order, func(a, b int32) int {
			return cmp.Or(cmp.Compare(g.nodes[b].weight(), g.nodes[a].weight()), cmp.Compare(a, b))
		})
		for _, i := range order[:most] {
			keep[i] = true
		}
	}
	keep[0] = true

	size := make([]int32, n) // of the subtree, in nodes
	for i := n - 1; i >= 0; i-- {
		size[i]++
		if i > 0 {
			size[g.nodes[i].parent] += size[i]
		}
	}
	folded := make([]int32, n) // by parent: how many nodes are folded below it
	for i := 1; i < n; i++ {
		parent := g.nodes[i].parent
		if keep[i] = keep[i] && keep[parent]; !keep[i] && keep[parent] {
			folded[parent] += size[i]
		}
	}
	for i := range n {
		if !keep[i] {
			continue
		}
		at := int32(i)
		rest := node{name: otherName, parent: at}
		last, c := int32(0), g.nodes[i].child
		for g.nodes[i].child = 0; c != 0; {
			next := g.nodes[c].next
			if keep[c] || folded[i] == 1 {
				keep[c] = true
				g.nodes[c].next = 0
				g.link(at, last, c)
				last = c
			} else {
				for side := range g.sides {
					rest.total[side] += g.nodes[c].total[side]
				}
			}
			c = next
		}
		if folded[i] > 1 {
			rest.self = rest.total
			g.link(at, last, int32(len(g.nodes)))
			g.nodes = append(g.nodes, rest)
		}
	}
}

// levels writes the graph as bars. A bar is four values, of two sides seven; see querier.proto.
func (g *graph) levels() (names []string, levels []*querierv1.Level, maxSelf int64) {
	type bar struct {
		node int32
		x    [2]int64
	}
	ids := map[string]int64{}
	for level := []bar{{}}; len(level) > 0; {
		var end [2]int64
		var next []bar
		values := make([]int64, 0, len(level)*(3*g.sides+1))
		for _, b := range level {
			n := &g.nodes[b.node]
			for side := range g.sides {
				values = append(values, b.x[side]-end[side], n.total[side], n.self[side])
				end[side] = b.x[side] + n.total[side]
				maxSelf = max(maxSelf, n.self[side])
			}
			id, ok := ids[n.name]
			if !ok {
				id = int64(len(names))
				ids[n.name] = id
				names = append(names, n.name)
			}
			values = append(values, id)
			x := b.x
			for c := n.child; c != 0; c = g.nodes[c].next {
				next = append(next, bar{c, x})
				for side := range g.sides {
					x[side] += g.nodes[c].total[side]
				}
			}
		}
		levels = append(levels, &querierv1.Level{Values: values})
		level = next
	}
	return names, levels, maxSelf
}

// size is how many nodes the graph has.
func (g *graph) size() (n int64) {
	for stack := []int32{0}; len(stack) > 0; {
		at := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		n++
		for c := g.nodes[at].child; c != 0; c = g.nodes[c].next {
			stack = append(stack, c)
		}
	}
	return n
}
