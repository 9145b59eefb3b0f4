package profile

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Names of the two nodes that no stack has.
const (
	RootName = "root"
	CutName  = "(small)"
)

// TreeFrame is what a node shows: two frames of a dictionary that agree in all of this but StartLine are one
// TreeFrame, whatever their addresses and lines. Name, File and Mapping are indices into Tree.Strings.
type TreeFrame struct {
	Name    uint32
	File    uint32 // the source file, "" if unknown
	Mapping uint32 // the executable file's path, "" if unknown
	Kind    Kind
	// Inlined is true for a function that the compiler inlined into its parent.
	Inlined bool
	// StartLine is the smallest that was seen, 0 if unknown.
	StartLine int32
}

// Tree is a flame graph: the stacks of one profile, merged from the root.
//
// Nodes are numbered in the order of a depth-first walk; node 0 is the root. A subtree is a range of nodes:
// node i's is [i, End[i]), its first child is i+1, and the sibling after child c is End[c]. Siblings have
// different frames and are in order of their frames, which is the order of name, file, mapping, kind and
// inlined. Equal profiles give equal trees, bit for bit, however their dictionaries are ordered.
type Tree struct {
	// Unit is that of all values: the profile's sample unit.
	Unit string
	// Strings and Frames are what nodes refer to. Strings[0] is "", Frames[0] is the root, all others
	// are sorted and in use.
	Strings []string
	Frames  []TreeFrame

	Frame []uint32 // by node: its frame
	Self  []int64  // by node: the value of samples that end here
	Total []int64  // by node: Self and the Totals of all children
	End   []uint32 // by node: the first node after its subtree
}

// Len is the number of nodes, the root included.
func (t *Tree) Len() int { return len(t.Frame) }

// Name returns the name of node i.
func (t *Tree) Name(i uint32) string { return t.Strings[t.Frames[t.Frame[i]].Name] }

// Children iterates over the children of node i, in order.
func (t *Tree) Children(i uint32) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		for c := i + 1; c < t.End[i]; c = t.End[c] {
			if !yield(c) {
				return
			}
		}
	}
}

// NewTree merges the stacks of p, which must be a profile of b, into a tree. A frame with several lines
// becomes several nodes, the inlined ones marked. Frames without a name are called file+0xaddr. Samples
// without a stack count for the root itself; stacks whose values sum up to zero are left out.
//
// The cost is that of sorting the stacks as strings of frames, plus the sorting of distinct names. The batch must be
// valid ([Batch.Check]).
func NewTree(b *Batch, p *Profile) *Tree {
	t, err := buildTree(context.Background(), b, []*Profile{p}, nil)
	if err != nil {
		panic("BUG: a context without an end ended: " + err.Error())
	}
	return t
}

// GroupTree merges all profiles of b, which have one unit, into one tree as NewTree does. Its first levels are the
// values that the profiles have for the labels in by: nodes of KindLabel called "pod=a", or "pod=" where there is
// none, in order of the value. The error is the context's.
func GroupTree(ctx context.Context, b *Batch, by []string) (*Tree, error) {
	profiles := make([]*Profile, len(b.Profiles))
	for i := range profiles {
		profiles[i] = &b.Profiles[i]
	}
	return buildTree(ctx, b, profiles, by)
}

// buildTree makes a path of frames of every stack, sorts the paths, and lays them down one after the other: sorted
// frames are numbered in the order of siblings, so this order is the tree's.
func buildTree(ctx context.Context, b *Batch, profiles []*Profile, by []string) (*Tree, error) {
	sums := stackSums{values: make([]int64, len(b.Dictionary.Stacks)), seen: make([]bool, len(b.Dictionary.Stacks))}
	fr := newFramer(b.Dictionary)
	ps := paths{poll: poll{ctx: ctx}}
	var top []uint32 // the frames of a profile's labels
	for _, p := range profiles {
		top = top[:0]
		named := false // a group without stacks has no nodes
		touched, frames := sums.of(p), 0
		for _, si := range touched {
			frames += len(b.Dictionary.Stacks[si]) + len(by)
		}
		ps.frames, ps.list = slices.Grow(ps.frames, frames+frames/4), slices.Grow(ps.list, len(touched)) // a quarter for inlined ones
		for _, si := range touched {
			if ps.poll.ended() {
				return nil, fmt.Errorf("making a tree: %w", context.Cause(ctx))
			}
			v := sums.take(si)
			if v == 0 {
				continue
			}
			if !named {
				for _, name := range by {
					top = append(top, fr.label(name, p.Labels.Get(name)))
				}
				named = true
			}
			at := len(ps.frames)
			ps.frames = append(ps.frames, top...)
			stack := b.Dictionary.Stacks[si]
			for i := len(stack) - 1; i >= 0; i-- {
				ps.frames = append(ps.frames, fr.expand(stack[i])...)
			}
			ps.list = append(ps.list, path{at: at, end: len(ps.frames), value: v})
		}
	}
	t := &Tree{}
	if len(profiles) > 0 {
		t.Unit = profiles[0].Type.SampleUnit
	}
	order := make([]uint32, len(fr.frames)-1) // all but the root
	for i := range order {
		order[i] = uint32(i + 1)
	}
	rank := t.setFrames(fr.frames, fr.strings, sortedFrames(order, fr.frames, fr.strings))
	for i, f := range ps.frames {
		ps.frames[i] = rank[f]
	}
	ps.sort(ps.list, 0)
	if ps.poll.over {
		return nil, fmt.Errorf("making a tree: %w", context.Cause(ctx))
	}
	ps.lay(t)
	return t, nil
}

// stackSums adds up one profile after the other by stack.
type stackSums struct {
	values  []int64 // by stack
	seen    []bool
	touched []StackIndex
}

// of adds up p and returns the stacks that it has, in order; each is to be taken before the next profile comes.
func (s *stackSums) of(p *Profile) []StackIndex {
	s.touched = s.touched[:0]
	sorted := true
	for i := range p.Samples {
		si := p.Samples[i].Stack
		s.values[si] += p.Samples[i].Value
		if !s.seen[si] {
			s.seen[si] = true
			sorted = sorted && (len(s.touched) == 0 || s.touched[len(s.touched)-1] < si)
			s.touched = append(s.touched, si)
		}
	}
	switch {
	case sorted:
	case len(s.touched) > len(s.seen)/16: // looking at all costs less
		s.touched = s.touched[:0]
		for si, seen := range s.seen {
			if seen {
				s.touched = append(s.touched, StackIndex(si))
			}
		}
	default:
		slices.Sort(s.touched)
	}
	return s.touched
}

func (s *stackSums) take(si StackIndex) int64 {
	v := s.values[si]
	s.values[si], s.seen[si] = 0, false
	return v
}

// framer translates the frames of a dictionary into TreeFrames, each once and only if asked for.
type framer struct {
	d       *Dictionary
	strings []string
	ids     map[string]uint32
	frames  []TreeFrame
	frameID map[TreeFrame]uint32 // with StartLine 0

	// By dictionary index, filled on first use. done is by frame: where in flat its frames lie, root
	// first; the length 0 means not yet.
	done     []struct{ at, n uint32 }
	flat     []uint32
	mappings []uint32 // string id + 1
	names    []uint32 // by function: string id + 1
	files    []uint32
}

func newFramer(d *Dictionary) *framer {
	fr := &framer{
		d:        d,
		strings:  make([]string, 0, len(d.Functions)+8),
		ids:      make(map[string]uint32, len(d.Functions)),
		frames:   make([]TreeFrame, 0, len(d.Functions)+8),
		frameID:  make(map[TreeFrame]uint32, len(d.Functions)),
		flat:     make([]uint32, 0, len(d.Frames)+len(d.Frames)/4),
		done:     make([]struct{ at, n uint32 }, len(d.Frames)),
		mappings: make([]uint32, len(d.Mappings)),
		names:    make([]uint32, len(d.Functions)),
		files:    make([]uint32, len(d.Functions)),
	}
	fr.id("")
	fr.frames = append(fr.frames, TreeFrame{Name: fr.id(RootName), Kind: KindRoot})
	return fr
}

func (fr *framer) id(s string) uint32 {
	i, ok := fr.ids[s]
	if ok {
		return i
	}
	if !utf8.ValidString(s) { // protobuf and JSON would refuse it
		i = fr.id(strings.ToValidUTF8(s, "\uFFFD"))
	} else {
		i = uint32(len(fr.strings))
		fr.strings = append(fr.strings, s)
	}
	fr.ids[s] = i
	return i
}

// label returns the frame of a node that stands for a label's value.
func (fr *framer) label(name, value string) uint32 {
	tf := TreeFrame{Name: fr.id(name + "=" + value), Kind: KindLabel}
	i, ok := fr.frameID[tf]
	if !ok {
		i = uint32(len(fr.frames))
		fr.frames = append(fr.frames, tf)
		fr.frameID[tf] = i
	}
	return i
}

func (fr *framer) expand(fi FrameIndex) []uint32 {
	d := &fr.done[fi]
	if d.n == 0 {
		f := &fr.d.Frames[fi]
		d.at = uint32(len(fr.flat))
		if len(f.Lines) == 0 {
			fr.add(f, 0, false)
		}
		for i := len(f.Lines) - 1; i >= 0; i-- {
			fr.add(f, f.Lines[i].Function, i < len(f.Lines)-1)
		}
		d.n = uint32(len(fr.flat)) - d.at
	}
	return fr.flat[d.at : d.at+d.n]
}

func (fr *framer) add(f *Frame, fn FunctionIndex, inlined bool) {
	if fr.mappings[f.Mapping] == 0 {
		fr.mappings[f.Mapping] = fr.id(fr.d.Mappings[f.Mapping].File) + 1
	}
	tf := TreeFrame{Mapping: fr.mappings[f.Mapping] - 1, Kind: f.Kind, Inlined: inlined}
	function := &fr.d.Functions[fn]
	if function.Name == "" {
		tf.Name = fr.id(fr.d.unnamed(f))
	} else {
		if fr.names[fn] == 0 {
			fr.names[fn], fr.files[fn] = fr.id(function.Name)+1, fr.id(function.File)+1
		}
		tf.Name, tf.File = fr.names[fn]-1, fr.files[fn]-1
	}
	i, ok := fr.frameID[tf]
	if !ok {
		i = uint32(len(fr.frames))
		fr.frames = append(fr.frames, tf)
		fr.frameID[tf] = i
	}
	if l, old := function.StartLine, &fr.frames[i].StartLine; l > 0 && (*old == 0 || l < *old) {
		*old = l
	}
	fr.flat = append(fr.flat, i)
}

// unnamed is the name of a frame of which only the address is known.
func (d *Dictionary) unnamed(f *Frame) string {
	file := d.Mappings[f.Mapping].File
	if i := strings.LastIndexByte(file, '/'); i >= 0 {
		file = file[i+1:]
	}
	addr := "0x" + strconv.FormatUint(uint64(f.Addr), 16)
	switch {
	case file != "":
		return file + "+" + addr
	case f.Kind == KindUnwind:
		return "[unwind: unknown reason]"
	case f.Kind == KindKernel:
		return "[kernel]+" + addr
	case f.Addr == 0:
		return "[unknown]"
	}
	return addr
}

// treeBuilder holds nodes in order of their discovery. slots is an open-addressing table from (parent,
// frame) to node; 0 is free, since the root is nobody's child.
type treeBuilder struct {
	parent []uint32
	frame  []uint32
	self   []int64
	slots  []uint32
	shift  uint
}

func newTreeBuilder(sizeHint int) *treeBuilder {
	tb := &treeBuilder{parent: make([]uint32, 1, sizeHint+1), frame: make([]uint32, 1, sizeHint+1), self: make([]int64, 1, sizeHint+1)}
	tb.resize(min(1<<bits.Len(uint(sizeHint)|1<<9), 1<<20))
	return tb
}

func (tb *treeBuilder) resize(slots int) {
	tb.slots = make([]uint32, slots)
	tb.shift = 64
	for n := slots; n > 1; n >>= 1 {
		tb.shift--
	}
	for i := 1; i < len(tb.parent); i++ {
		s := tb.slot(tb.parent[i], tb.frame[i])
		for tb.slots[s] != 0 {
			s = (s + 1) & uint64(slots-1)
		}
		tb.slots[s] = uint32(i)
	}
}

func (tb *treeBuilder) slot(parent, frame uint32) uint64 {
	h := uint64(parent)<<32 | uint64(frame)
	h ^= h >> 29
	return h * treeMultiplier >> tb.shift
}

// treeMultiplier is odd and different in each process, so that nobody can send stacks that fall into one slot.
// The order of a tree's nodes does not depend on it.
var treeMultiplier = rand.Uint64() | 1

// child returns the child of parent with that frame, making it if it is new.
func (tb *treeBuilder) child(parent, frame uint32) uint32 {
	s := tb.slot(parent, frame)
	for mask := uint64(len(tb.slots) - 1); ; s = (s + 1) & mask {
		n := tb.slots[s]
		if n == 0 {
			break
		}
		if tb.parent[n] == parent && tb.frame[n] == frame {
			return n
		}
	}
	n := uint32(len(tb.parent))
	tb.parent = append(tb.parent, parent)
	tb.frame = append(tb.frame, frame)
	tb.self = append(tb.self, 0)
	tb.slots[s] = n
	if len(tb.parent)*2 > len(tb.slots) {
		tb.resize(len(tb.slots) * 2)
	}
	return n
}

// tree numbers the nodes depth-first. It keeps none of its arguments.
func (tb *treeBuilder) tree(frames []TreeFrame, strs []string) *Tree {
	t := &Tree{}
	n := len(tb.parent)
	rank := t.setFrames(frames, strs, sortedFrames(usedFrames(len(frames), tb.frame), frames, strs))

	// Sort the nodes by (parent, frame) with two counting sorts, the minor key first.
	byFrame := countingSort(n, len(t.Frames), func(i uint32) uint32 { return rank[tb.frame[i]] }, nil)
	children := countingSort(n, n, func(i uint32) uint32 { return tb.parent[i] }, byFrame)
	// children[first[p]:first[p+1]] are those of p; the root is its own parent, so it is among its
	// children and, having the smallest frame, the first of them.
	first := make([]uint32, n+1)
	for _, p := range tb.parent {
		first[p+1]++
	}
	for i := range n {
		first[i+1] += first[i]
	}

	t.Frame = make([]uint32, 0, n)
	t.Self = make([]int64, 0, n)
	t.End = make([]uint32, n)
	visit := func(node uint32) {
		t.Frame = append(t.Frame, rank[tb.frame[node]])
		t.Self = append(t.Self, tb.self[node])
	}
	type open struct{ next, end, at uint32 } // children still to visit; own number
	visit(0)
	stack := []open{{first[0] + 1, first[1], 0}}
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		if top.next == top.end {
			t.End[top.at] = uint32(len(t.Frame))
			stack = stack[:len(stack)-1]
			continue
		}
		node := children[top.next]
		top.next++
		at := uint32(len(t.Frame))
		visit(node)
		stack = append(stack, open{first[node], first[node+1], at})
	}
	t.sum()
	return t
}

// sum computes Total from Self.
func (t *Tree) sum() {
	t.Total = t.totals(t.Self)
}

// totals returns by node the sum of what self has in its subtree.
func (t *Tree) totals(self []int64) []int64 {
	total := slices.Clone(self)
	for i := len(self) - 1; i >= 0; i-- {
		for c := uint32(i) + 1; c < t.End[i]; c = t.End[c] {
			total[i] += total[c]
		}
	}
	return total
}

// usedFrames returns those of n frames that occur in used, but for the root's, in order.
func usedFrames(n int, used []uint32) (order []uint32) {
	seen := make([]bool, n)
	for _, f := range used {
		seen[f] = true
	}
	for f := 1; f < n; f++ {
		if seen[f] {
			order = append(order, uint32(f))
		}
	}
	return order
}

// sortedFrames sorts frames by what they show.
func sortedFrames(order []uint32, frames []TreeFrame, strs []string) []uint32 {
	slices.SortFunc(order, func(a, b uint32) int { return compareFrames(&frames[a], &frames[b], strs) })
	return order
}

// setFrames fills Frames and Strings with those of the given frames that are in order, which is sorted and has not the
// root's; it returns the new index by old one.
func (t *Tree) setFrames(frames []TreeFrame, strs []string, order []uint32) (rank []uint32) {
	rank = make([]uint32, len(frames))
	ids := make([]uint32, len(strs)) // new string id + 1
	id := func(old uint32) uint32 {
		if strs[old] == "" {
			return 0
		}
		if ids[old] == 0 {
			t.Strings = append(t.Strings, strs[old])
			ids[old] = uint32(len(t.Strings))
		}
		return ids[old] - 1
	}
	t.Strings = append(make([]string, 0, len(order)+2), "")
	t.Frames = make([]TreeFrame, 0, len(order)+1)
	add := func(old uint32) {
		f := frames[old]
		f.Name, f.File, f.Mapping = id(f.Name), id(f.File), id(f.Mapping)
		t.Frames = append(t.Frames, f)
	}
	add(0)
	for i, f := range order {
		rank[f] = uint32(i + 1)
		add(f)
	}
	return rank
}

func compareFrames(a, b *TreeFrame, strs []string) int {
	text := func(a, b uint32) int {
		if a == b {
			return 0
		}
		return strings.Compare(strs[a], strs[b])
	}
	if c := text(a.Name, b.Name); c != 0 {
		return c
	}
	if c := text(a.File, b.File); c != 0 {
		return c
	}
	if c := text(a.Mapping, b.Mapping); c != 0 {
		return c
	}
	return compareMarks(a, b)
}

// compareTreeFrames orders frames of two trees as compareFrames does those of one.
func compareTreeFrames(s *Tree, a *TreeFrame, t *Tree, b *TreeFrame) int {
	if c := strings.Compare(s.Strings[a.Name], t.Strings[b.Name]); c != 0 {
		return c
	}
	if c := strings.Compare(s.Strings[a.File], t.Strings[b.File]); c != 0 {
		return c
	}
	if c := strings.Compare(s.Strings[a.Mapping], t.Strings[b.Mapping]); c != 0 {
		return c
	}
	return compareMarks(a, b)
}

func compareMarks(a, b *TreeFrame) int {
	if c := cmp.Compare(a.Kind, b.Kind); c != 0 {
		return c
	}
	switch {
	case a.Inlined == b.Inlined:
		return 0
	case b.Inlined:
		return -1
	}
	return 1
}

// countingSort returns the numbers below n in the order of their keys, which are below keys; equal keys keep
// the order of in (nil: 0, 1, 2, ...).
func countingSort(n, keys int, key func(uint32) uint32, in []uint32) []uint32 {
	at := make([]uint32, keys+1)
	for i := range uint32(n) {
		at[key(i)+1]++
	}
	for k := range keys {
		at[k+1] += at[k]
	}
	out := make([]uint32, n)
	for i := range uint32(n) {
		v := i
		if in != nil {
			v = in[i]
		}
		k := key(v)
		out[at[k]] = v
		at[k]++
	}
	return out
}
