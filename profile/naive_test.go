package profile

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What follows are the questions of this package answered over stacks of strings, one stack after the other, as
// plainly as possible. Trees are maps from a node's path to its values.

type plainFrame struct {
	name, file, binary string
	kind               Kind
	inlined            bool
}

type plainStack struct {
	labels Labels
	frames []plainFrame // root first
	value  int64
}

// plain writes out all profiles of b; stacks that sum up to zero are left out.
func plain(b *Batch) []plainStack {
	var out []plainStack
	d := b.Dictionary
	for i := range b.Profiles {
		p := &b.Profiles[i]
		sums := map[StackIndex]int64{}
		for _, s := range p.Samples {
			sums[s.Stack] += s.Value
		}
		for si, v := range sums {
			if v == 0 {
				continue
			}
			ps := plainStack{labels: p.Labels, value: v}
			for _, fi := range slices.Backward(d.Stacks[si]) {
				f := &d.Frames[fi]
				binary := strings.ToValidUTF8(d.Mappings[f.Mapping].File, "\uFFFD")
				unnamed := strings.ToValidUTF8(d.unnamed(f), "\uFFFD")
				if len(f.Lines) == 0 {
					ps.frames = append(ps.frames, plainFrame{name: unnamed, binary: binary, kind: f.Kind})
				}
				for n, l := range slices.Backward(f.Lines) {
					fn := d.Functions[l.Function]
					pf := plainFrame{strings.ToValidUTF8(fn.Name, "\uFFFD"), strings.ToValidUTF8(fn.File, "\uFFFD"), binary, f.Kind, n < len(f.Lines)-1}
					if fn.Name == "" {
						pf.name, pf.file = unnamed, ""
					}
					ps.frames = append(ps.frames, pf)
				}
			}
			out = append(out, ps)
		}
	}
	return out
}

type plainFilter struct {
	site       []string
	keep, drop []plainMatcher
}

type plainMatcher struct {
	field   FrameField
	value   string
	pattern bool
}

func (m plainMatcher) in(s plainStack) bool {
	return slices.ContainsFunc(s.frames, func(f plainFrame) bool {
		text := [...]string{f.name, f.file, f.binary}[m.field]
		if m.pattern {
			return regexp.MustCompile(m.value).MatchString(text)
		}
		return text == m.value
	})
}

func (f plainFilter) keeps(s plainStack) bool {
	for i, name := range f.site {
		if i >= len(s.frames) || s.frames[i].name != name {
			return false
		}
	}
	for _, m := range f.keep {
		if !m.in(s) {
			return false
		}
	}
	return !slices.ContainsFunc(f.drop, func(m plainMatcher) bool { return m.in(s) })
}

func (f plainFilter) real(t testing.TB) *StackFilter {
	t.Helper()
	read := func(in []plainMatcher) (out []FrameMatcher) {
		for _, m := range in {
			r, err := NewFrameMatcher(m.field, m.value, m.pattern)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, r)
		}
		return out
	}
	return &StackFilter{CallSite: f.site, Keep: read(f.keep), Drop: read(f.drop)}
}

func nodeKey(path []plainFrame) string {
	var b strings.Builder
	for _, f := range path {
		fmt.Fprintf(&b, "%q %q %q %d %t;", f.name, f.file, f.binary, f.kind, f.inlined)
	}
	return b.String()
}

// values are before and after; plain trees have after only.
type values [2]int64

// plainTree is by path: the self values.
type plainTree map[string]values

func (t plainTree) add(path []plainFrame, side int, v int64) {
	for n := range len(path) + 1 {
		key := nodeKey(path[:n])
		at := t[key]
		if n == len(path) {
			at[side] += v
		}
		t[key] = at
	}
}

func treeOf(stacks []plainStack, by ...string) plainTree {
	t := plainTree{}
	t.add(nil, 1, 0)
	for _, s := range stacks {
		var path []plainFrame
		for _, name := range by {
			path = append(path, plainFrame{name: name + "=" + s.labels.Get(name), kind: KindLabel})
		}
		t.add(append(path, s.frames...), 1, s.value)
	}
	return t
}

// written turns what was built into the same shape, and checks what its type promises.
func written(t *testing.T, tree *Tree, before []int64) plainTree {
	t.Helper()
	checkTree(t, tree)
	out := plainTree{}
	var walk func(i uint32, path []plainFrame)
	walk = func(i uint32, path []plainFrame) {
		v := values{0, tree.Self[i]}
		if before != nil {
			v[0] = before[i]
		}
		out[nodeKey(path)] = v
		for c := range tree.Children(i) {
			f := tree.Frames[tree.Frame[c]]
			walk(c, append(path[:len(path):len(path)], plainFrame{tree.Strings[f.Name], tree.Strings[f.File], tree.Strings[f.Mapping], f.Kind, f.Inlined}))
		}
	}
	walk(0, []plainFrame{})
	return out
}

func wantTree(t *testing.T, what string, got, want plainTree) {
	t.Helper()
	if maps.Equal(got, want) {
		return
	}
	for k, v := range want {
		if g, ok := got[k]; !ok || g != v {
			t.Fatalf("%s: node %s: got %v (%v), want %v", what, k, g, ok, v)
		}
	}
	t.Fatalf("%s: %d nodes, want %d", what, len(got), len(want))
}

func oneOf[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// randomBatch has few functions, so that there is recursion and everything is met in several places.
func randomBatch(r *rand.Rand) *Batch {
	d := NewDictionary()
	var frames []FrameIndex
	for range 4 + r.IntN(12) {
		f := Frame{Kind: Kind(r.IntN(5)), Addr: Addr(r.IntN(3) * 16)}
		f.Mapping = d.Mapping(Mapping{File: oneOf(r, "", "/bin/app", "/lib/libc.so", "/lib/\xff.so")})
		for range r.IntN(3) {
			f.Lines = append(f.Lines, Line{Line: int32(r.IntN(2)), Function: d.Function(Function{
				Name: oneOf(r, "", "main", "a", "b", "c", "ab", "\xfe"), File: oneOf(r, "", "a.c", "b.c"),
			})})
		}
		frames = append(frames, d.Frame(f))
	}
	b := &Batch{Dictionary: d}
	for i := range 1 + r.IntN(3) {
		p := Profile{Type: TypeCPU, Labels: LabelsFromMap(map[string]string{"pod": oneOf(r, "", "x", "y", "y z"), "zone": fmt.Sprint(i)})}
		for range r.IntN(30) {
			s := make(Stack, r.IntN(7))
			for j := range s {
				s[j] = oneOf(r, frames...)
			}
			p.Samples = append(p.Samples, Sample{Stack: d.Stack(s), Value: int64(r.IntN(20) - 2)})
		}
		b.Profiles = append(b.Profiles, p)
	}
	return b
}

func randomFilter(r *rand.Rand) plainFilter {
	matchers := func() (out []plainMatcher) {
		for range r.IntN(3) {
			switch m := (plainMatcher{field: FrameField(r.IntN(3)), pattern: r.IntN(2) == 0}); m.field {
			case FieldFunction:
				m.value = oneOf(r, "a", "b", "ab", "main", "^a", "b$", "a|c", "0x", "\uFFFD", "app+0x10")
				out = append(out, m)
			case FieldFile:
				m.value = oneOf(r, "a.c", "b.c", "[ab].c", "^$")
				out = append(out, m)
			case FieldBinary:
				m.value = oneOf(r, "/bin/app", "/lib/libc.so", "^/lib", "so$", "^$")
				out = append(out, m)
			}
		}
		return out
	}
	f := plainFilter{keep: matchers(), drop: matchers()}
	for range max(0, r.IntN(5)-2) {
		f.site = append(f.site, oneOf(r, "main", "a", "b", "ab", "[unknown]", "app+0x0"))
	}
	return f
}

// TestStackFilterRandom: what is filtered and grouped is what the plain model says.
func TestStackFilterRandom(t *testing.T) {
	kept, all := 0, 0
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 1))
		b, f := randomBatch(r), randomFilter(r)
		want := plain(b)
		all += len(want)
		want = slices.DeleteFunc(want, func(s plainStack) bool { return !f.keeps(s) })
		kept += len(want)
		if err := f.real(t).Apply(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		by := oneOf(r, nil, []string{"pod"}, []string{"zone", "pod"}, []string{"nothing"})
		tree, err := GroupTree(t.Context(), b, by)
		if err != nil {
			t.Fatal(err)
		}
		wantTree(t, fmt.Sprintf("seed %d, %+v by %q", seed, f, by), written(t, tree, nil), treeOf(want, by...))
	}
	if kept < all/20 || kept > all*19/20 {
		t.Errorf("%d of %d stacks were kept: the filters say little", kept, all)
	}
}

// TestSandwichRandom: callers, callees and sums are those of stacks that are parted one by one.
func TestSandwichRandom(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 2))
		b := randomBatch(r)
		function := oneOf(r, "a", "main", "[unknown]", "nobody", "\uFFFD", RootName)
		var callers, callees []plainStack
		var self, total int64
		for _, s := range plain(b) {
			at := slices.IndexFunc(s.frames, func(f plainFrame) bool { return f.name == function })
			if at < 0 {
				continue
			}
			total += s.value
			if s.frames[len(s.frames)-1].name == function {
				self += s.value
			}
			up := slices.Clone(s.frames[:at])
			slices.Reverse(up)
			callers = append(callers, plainStack{frames: up, value: s.value})
			callees = append(callees, plainStack{frames: s.frames[at+1:], value: s.value})
		}
		tree, err := GroupTree(t.Context(), b, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := tree.Sandwich(t.Context(), function)
		if err != nil {
			t.Fatal(err)
		}
		what := fmt.Sprintf("seed %d, %s", seed, function)
		wantTree(t, what+": callers", written(t, got.Callers, nil), treeOf(callers))
		wantTree(t, what+": callees", written(t, got.Callees, nil), treeOf(callees))
		if got.Self != self || got.Total != total || got.Callers.Total[0] != total || got.Callees.Total[0] != total || got.Callers.Unit != "nanoseconds" {
			t.Fatalf("%s: self %d total %d, want %d %d; %d %d", what, got.Self, got.Total, self, total, got.Callers.Total[0], got.Callees.Total[0])
		}
	}
}

// plainNode is a tree that can be cut by hand.
type plainNode struct {
	frame    plainFrame
	self     values
	children map[plainFrame]*plainNode
}

func (n *plainNode) total() values {
	v := n.self
	for _, c := range n.children {
		u := c.total()
		v[0], v[1] = v[0]+u[0], v[1]+u[1]
	}
	return v
}

func (n *plainNode) size() int {
	size := 1
	for _, c := range n.children {
		size += c.size()
	}
	return size
}

// cut folds small children and returns how many nodes that were.
func (n *plainNode) cut(small func(values) bool) (cut int) {
	sum := plainNode{frame: plainFrame{name: CutName, kind: KindCut}}
	for _, c := range n.children {
		if v := c.total(); small(v) {
			cut += c.size()
			sum.self[0], sum.self[1] = sum.self[0]+v[0], sum.self[1]+v[1]
		}
	}
	if cut <= 1 {
		cut = 0
	}
	for f, c := range n.children {
		if cut > 0 && small(c.total()) {
			delete(n.children, f)
		}
	}
	folded := cut
	for _, c := range n.children {
		cut += c.cut(small)
	}
	if folded > 0 {
		n.children[sum.frame] = &sum
	}
	return cut
}

func (n *plainNode) flat(t plainTree, path []plainFrame) plainTree {
	t[nodeKey(path)] = n.self
	for _, c := range n.children {
		c.flat(t, append(path[:len(path):len(path)], c.frame))
	}
	return t
}

func absolute(v float64) float64 { return max(v, -v) }

// TestDiffRandom: two trees laid over each other, cut, sent and read again, and the table of functions.
func TestDiffRandom(t *testing.T) {
	cuts := 0
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 3))
		var trees [2]*Tree
		root := &plainNode{children: map[plainFrame]*plainNode{}}
		type function struct {
			name, file, binary string
			kind               Kind
		}
		type row struct{ self, total values }
		rows := map[function]row{}
		for side := range trees {
			b := randomBatch(r)
			var err error
			if trees[side], err = GroupTree(t.Context(), b, nil); err != nil {
				t.Fatal(err)
			}
			for _, s := range plain(b) {
				n, seen := root, map[function]bool{}
				for i, f := range s.frames {
					if n.children[f] == nil {
						n.children[f] = &plainNode{frame: f, children: map[plainFrame]*plainNode{}}
					}
					n = n.children[f]
					key := function{f.name, f.file, f.binary, f.kind}
					at := rows[key]
					if i == len(s.frames)-1 {
						at.self[side] += s.value
					}
					if !seen[key] {
						at.total[side] += s.value
					}
					seen[key], rows[key] = true, at
				}
				n.self[side] += s.value
			}
		}
		scales := oneOf(r, values{1, 1}, values{1, 3}, values{5, 1}, values{0, 1})
		scaled := func(v values) float64 {
			return max(absolute(float64(v[0])*float64(scales[0])), absolute(float64(v[1])*float64(scales[1])))
		}
		what := fmt.Sprintf("seed %d, scales %v", seed, scales)
		d := Diff(trees[0], trees[1])
		wantTree(t, what, written(t, &d.Tree, d.BeforeSelf), root.flat(plainTree{}, []plainFrame{}))

		got := d.Top(float64(scales[0]), float64(scales[1]))
		for i, g := range got {
			if want := rows[function{g.Name, g.File, g.Mapping, g.Kind}]; (row{values{g.BeforeSelf, g.Self}, values{g.BeforeTotal, g.Total}}) != want {
				t.Fatalf("%s: row %+v, want %v", what, g, want)
			}
			change := func(g DiffRow) float64 {
				return absolute(float64(g.Self)*float64(scales[1]) - float64(g.BeforeSelf)*float64(scales[0]))
			}
			if i > 0 && change(got[i-1]) < change(g) {
				t.Fatalf("%s: row %d is not in order", what, i)
			}
		}
		if len(got) != len(rows) {
			t.Fatalf("%s: %d rows, want %d", what, len(got), len(rows))
		}

		share := oneOf(r, 0.01, 0.1, 0.3)
		limit := share * scaled(root.total())
		want := root.cut(func(v values) bool { return scaled(v) < limit })
		if cut := d.Cut(share, float64(scales[0]), float64(scales[1])); cut != want {
			t.Fatalf("%s: cut %d nodes, want %d", what, cut, want)
		}
		cuts += want
		wantTree(t, what+" cut", written(t, &d.Tree, d.BeforeSelf), root.flat(plainTree{}, []plainFrame{}))

		again, err := DecodeDiffNodes(d.AppendNodes(nil), d.Frames, d.Strings)
		if err != nil || !slices.Equal(again.BeforeTotal, d.BeforeTotal) || !slices.Equal(again.Total, d.Total) || !slices.Equal(again.End, d.End) ||
			!slices.Equal(again.Frame, d.Frame) || !slices.Equal(again.Self, d.Self) || !slices.Equal(again.BeforeSelf, d.BeforeSelf) {
			t.Fatalf("%s: not the same after a round trip: %v", what, err)
		}
	}
	if cuts < 500 {
		t.Errorf("only %d nodes were cut", cuts)
	}
}

// leaving is a context that ends when it has been looked at for the given number of times.
type leaving struct {
	context.Context
	looks *int
}

func (c leaving) Err() error {
	if *c.looks--; *c.looks < 0 {
		return context.Canceled
	}
	return nil
}
