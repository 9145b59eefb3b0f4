package profile

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// folded makes a batch of one CPU profile out of folded lines.
func folded(t testing.TB, lines ...string) (*Batch, *Profile) {
	t.Helper()
	b, err := ParseFolded(strings.NewReader(strings.Join(lines, "\n")), TypeCPU, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Check(); err != nil {
		t.Fatal(err)
	}
	return b, &b.Profiles[0]
}

// outline draws a tree: one line per node, indented by depth, "name self/total", with marks.
func outline(t *Tree) string {
	var b strings.Builder
	var walk func(i uint32, depth int)
	walk = func(i uint32, depth int) {
		f := t.Frames[t.Frame[i]]
		fmt.Fprintf(&b, "%s%s %d/%d", strings.Repeat(" ", depth), t.Name(i), t.Self[i], t.Total[i])
		if f.Inlined {
			b.WriteString(" inlined")
		}
		if s := t.Strings[f.File]; s != "" {
			fmt.Fprintf(&b, " %s:%d", s, f.StartLine)
		}
		if s := t.Strings[f.Mapping]; s != "" {
			b.WriteString(" in " + s)
		}
		b.WriteByte('\n')
		for c := range t.Children(i) {
			walk(c, depth+1)
		}
	}
	walk(0, 0)
	return b.String()
}

func wantOutline(t *testing.T, tree *Tree, want string) {
	t.Helper()
	if got := outline(tree); strings.TrimSpace(got) != strings.TrimSpace(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestTree(t *testing.T) {
	b, p := folded(t, "main;b;c 1", "main;a 2", "main;b 4", "[no stack] 8", "main;b;c 16", "[unwind: no frame];c 32", "main;read_[k] 64")
	tree := NewTree(b, p)
	wantOutline(t, tree, `
root 8/127
 [unwind: no frame] 0/32
  c 32/32
 main 0/87
  a 2/2
  b 4/21
   c 17/17
  read 64/64 in [kernel.kallsyms]`)
	if tree.Unit != "nanoseconds" {
		t.Errorf("unit %q", tree.Unit)
	}

	wantOutline(t, tree.Subtree([]string{"main", "b"}), "root 4/21\n c 17/17")
	wantOutline(t, tree.Subtree([]string{"main", "x"}), "root 0/0")
	wantOutline(t, tree.Subtree(nil), outline(tree))
}

// Frames with several lines are several nodes; equal functions at other addresses and lines are one node;
// equal names in other files or executables are not; frames without a name are called by their address.
func TestTreeFrames(t *testing.T) {
	d := NewDictionary()
	bin := d.Mapping(Mapping{File: "/usr/bin/app"})
	lib := d.Mapping(Mapping{File: "/usr/lib/libx.so.1"})
	fn := func(name, file string, start int32) FunctionIndex {
		return d.Function(Function{Name: name, File: file, StartLine: start})
	}
	mainFn, outer, inner := fn("main", "main.c", 10), fn("outer", "a.c", 20), fn("inner", "a.h", 30)
	innerElsewhere := fn("inner", "b.h", 1)
	frame := func(m MappingIndex, addr Addr, lines ...Line) FrameIndex {
		return d.Frame(Frame{Mapping: m, Addr: addr, Lines: lines})
	}
	root := frame(bin, 0x100, Line{Function: mainFn, Line: 12})
	sample := func(v int64, leafFirst ...FrameIndex) Sample {
		return Sample{Stack: d.Stack(append(leafFirst, root)), Value: v}
	}
	b := &Batch{Dictionary: d, Profiles: []Profile{{Type: TypeCPU, Samples: []Sample{
		sample(1, frame(bin, 0x200, Line{Function: inner, Line: 31}, Line{Function: outer, Line: 21})),
		sample(2, frame(bin, 0x210, Line{Function: inner, Line: 35}, Line{Function: outer, Line: 22})),
		sample(4, frame(bin, 0x220, Line{Function: innerElsewhere}, Line{Function: outer})),
		sample(8, frame(bin, 0x230, Line{Function: outer})),
		sample(16, frame(lib, 0x1f40)),
		sample(32, frame(0, 0xdead)),
		sample(64, frame(bin, 0x300, Line{Function: inner, Line: 31})),
		sample(128, frame(lib, 0x300, Line{Function: inner, Line: 31})),
		sample(256, frame(lib, 0x300, Line{Function: inner, Line: 31})),
	}}}}
	wantOutline(t, NewTree(b, &b.Profiles[0]), `
root 0/511
 main 0/511 main.c:10 in /usr/bin/app
  0xdead 32/32
  inner 64/64 a.h:30 in /usr/bin/app
  inner 384/384 a.h:30 in /usr/lib/libx.so.1
  libx.so.1+0x1f40 16/16 in /usr/lib/libx.so.1
  outer 8/15 a.c:20 in /usr/bin/app
   inner 3/3 inlined a.h:30 in /usr/bin/app
   inner 4/4 inlined b.h:1 in /usr/bin/app`)
}

func TestTreeCut(t *testing.T) {
	f := func(minShare float64, wantCut int, want string) {
		t.Helper()
		b, p := folded(t, "main;a 50", "main;b;x 3", "main;b;y 4", "main;z 41", "main;z;p 1", "main;z;q;r 1")
		tree := NewTree(b, p)
		before := tree.Len()
		if cut := tree.Cut(minShare); cut != wantCut {
			t.Errorf("share %g: cut %d, want %d", minShare, cut, wantCut)
		}
		small := strings.Count(outline(tree), CutName)
		if tree.Len() != before-wantCut+small {
			t.Errorf("share %g: %d nodes of %d, %d cut, %d of them small", minShare, tree.Len(), before, wantCut, small)
		}
		wantOutline(t, tree, want)
	}
	whole := `
root 0/100
 main 0/100
  a 50/50
  b 0/7
   x 3/3
   y 4/4
  z 41/43
   p 1/1
   q 0/1
    r 1/1`
	f(0, 0, whole)
	f(-1, 0, whole)
	f(0.001, 0, whole)
	f(0.02, 3, strings.Replace(whole, "   p 1/1\n   q 0/1\n    r 1/1", "   (small) 2/2", 1))
	// One leaf alone stays.
	f(0.035, 3, strings.Replace(whole, "   p 1/1\n   q 0/1\n    r 1/1", "   (small) 2/2", 1))
	f(0.1, 6, "root 0/100\n main 0/100\n  (small) 7/7\n  a 50/50\n  z 41/43\n   (small) 2/2")
	f(0.45, 9-2, "root 0/100\n main 0/100\n  (small) 50/50\n  a 50/50")
}

// Cutting what was cut before leaves one "(small)" per parent and counts no node twice.
func TestTreeCutAgain(t *testing.T) {
	b, p := folded(t, "main;a 50", "main;b 1", "main;c 1", "main;d 10", "main;(small) 38")
	tree := NewTree(b, p)
	if n := tree.Cut(0.02); n != 2 {
		t.Errorf("first cut folded %d nodes", n)
	}
	wantOutline(t, tree, "root 0/100\n main 0/100\n  (small) 38/38\n  (small) 2/2\n  a 50/50\n  d 10/10")
	if n := tree.Cut(0.2); n != 1 {
		t.Errorf("second cut folded %d nodes", n)
	}
	wantOutline(t, tree, "root 0/100\n main 0/100\n  (small) 38/38\n  (small) 12/12\n  a 50/50")
}

// The same stacks in another order, in another dictionary, give the same tree to the byte.
func TestTreeDeterministic(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var lines []string
	for range 2000 {
		var names []string
		for range 1 + r.IntN(12) {
			names = append(names, fmt.Sprintf("f%d", r.IntN(9)))
		}
		lines = append(lines, fmt.Sprintf("%s %d", strings.Join(names, ";"), r.IntN(100)))
	}
	b, p := folded(t, lines...)
	want := NewTree(b, p)
	checkTree(t, want)
	for range 3 {
		r.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
		b, p := folded(t, lines...)
		got := NewTree(b, p)
		if !bytes.Equal(got.AppendNodes(nil), want.AppendNodes(nil)) || !slices.Equal(got.Strings, want.Strings) || !slices.Equal(got.Frames, want.Frames) {
			t.Fatal("order of stacks changes the tree")
		}
	}
	if got, want := want.Total[0], p.Total(); got != want {
		t.Errorf("total %d, want %d", got, want)
	}
	for _, share := range []float64{0.0001, 0.001, 0.01, 0.1, 0.5, 1, 2} {
		cut := NewTree(b, p)
		n := cut.Cut(share)
		checkTree(t, cut)
		small := 0
		for i := range cut.Frame {
			if cut.Frames[cut.Frame[i]].Kind == KindCut {
				small++
			}
		}
		if cut.Total[0] != want.Total[0] || cut.Len() != want.Len()-n+small {
			t.Errorf("share %g: total %d, want %d; %d nodes of %d, %d cut, %d small", share, cut.Total[0], want.Total[0], cut.Len(), want.Len(), n, small)
		}
	}
}

// checkTree asserts what the doc comment of Tree promises.
func checkTree(t *testing.T, tree *Tree) {
	t.Helper()
	if tree.Strings[0] != "" || tree.Frames[0].Kind != KindRoot || tree.Frame[0] != 0 || int(tree.End[0]) != tree.Len() {
		t.Error("the root is not as it should be")
	}
	used := make([]bool, len(tree.Frames))
	for i := range tree.Frame {
		used[tree.Frame[i]] = true
		sum, prev := tree.Self[i], uint32(0)
		for c := range tree.Children(uint32(i)) {
			sum += tree.Total[c]
			if tree.Frame[c] <= prev {
				t.Fatalf("node %d: children are not in order", i)
			}
			prev = tree.Frame[c]
		}
		if sum != tree.Total[i] {
			t.Fatalf("node %d: total %d, want %d", i, tree.Total[i], sum)
		}
	}
	if slices.Contains(used, false) {
		t.Error("a frame is not in use")
	}
	for i := 2; i < len(tree.Frames); i++ {
		if compareFrames(&tree.Frames[i-1], &tree.Frames[i], tree.Strings) >= 0 {
			t.Fatalf("frames %d and %d are not in order", i-1, i)
		}
	}
}

func TestNodesRoundTrip(t *testing.T) {
	b, p := folded(t, "main;b;c 1", "main;a 300", "x -5", "[no stack] 9223372036854775807")
	tree := NewTree(b, p)
	got, err := DecodeNodes(tree.AppendNodes(nil), tree.Frames, tree.Strings)
	if err != nil {
		t.Fatal(err)
	}
	wantOutline(t, got, outline(tree))
}

func TestDecodeNodesRefuses(t *testing.T) {
	frames := []TreeFrame{{Kind: KindRoot}, {Name: 1}}
	strs := []string{"", "a"}
	f := func(want string, nodes ...byte) {
		t.Helper()
		if _, err := DecodeNodes(nodes, frames, strs); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want %q", nodes, err, want)
		}
	}
	f("ends after 0 nodes")
	f("broken number at byte 0", 0x80)
	f("broken number at byte 2", 0, 0)
	f("has 1 children, at most 0 nodes", 1, 0, 0)
	f("has 200 children", 0xc8, 1, 0, 0, 0, 1, 1)
	f("3 bytes after the last node", 0, 0, 0, 0, 1, 1)
	f("refers to frame 2 of 2", 1, 0, 0, 0, 2, 1)
	f("node 0 refers to frame 1; frame 0 is the root's", 0, 1, 0)
	f("node 1 refers to frame 0; frame 0 is the root's", 1, 0, 0, 0, 0, 1)
	if _, err := DecodeNodes([]byte{0, 0, 0}, []TreeFrame{{Name: 2}}, strs); err == nil {
		t.Error("a string index beyond the table is taken")
	}
	if _, err := DecodeNodes([]byte{0, 0, 0}, nil, strs); err == nil {
		t.Error("a tree without frames is taken")
	}
}

func FuzzDecodeNodes(f *testing.F) {
	b, p := folded(f, "main;b;c 1", "main;a 300", "main;b 7", "x -5")
	tree := NewTree(b, p)
	f.Add(tree.AppendNodes(nil))
	f.Add([]byte{1, 0, 0, 1, 1, 0, 0, 2, 0xff, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := DecodeNodes(data, tree.Frames, tree.Strings)
		if err != nil {
			return
		}
		again, err := DecodeNodes(got.AppendNodes(nil), got.Frames, got.Strings)
		if err != nil || outlineDepthSafe(got) != outlineDepthSafe(again) {
			t.Fatalf("%x: not the same after a round trip: %v", data, err)
		}
		got.Subtree([]string{"main"})
		got.Cut(0.01)
	})
}

// outlineDepthSafe is a text that is equal for equal trees and needs no recursion.
func outlineDepthSafe(t *Tree) string { return fmt.Sprint(t.Frame, t.Self, t.Total, t.End) }

// bigBatch has stacks that look like those of a large program: 1 M samples, about 100 k nodes.
func bigBatch(samples int) *Batch {
	r := rand.New(rand.NewPCG(7, 7))
	d := NewDictionary()
	m := d.Mapping(Mapping{File: "/usr/bin/app"})
	frames := make([]FrameIndex, 20000)
	for i := range frames {
		fn := d.Function(Function{Name: fmt.Sprintf("github.com/app/pkg%d.(*Type).Method%d", i%97, i/2), File: fmt.Sprintf("pkg%d/file.go", i%97)})
		frames[i] = d.Frame(Frame{Mapping: m, Addr: Addr(i * 16), Lines: []Line{{Function: fn, Line: int32(i)}}})
	}
	// A random tree: each node has a parent among the earlier ones, so depth grows logarithmically; then a
	// trunk of 20 frames below all.
	trunk := make([]FrameIndex, 20)
	for i := range trunk {
		trunk[i] = frames[i]
	}
	parent := make([]int, 70000)
	own := make([]FrameIndex, len(parent))
	for i := range parent {
		own[i] = frames[r.IntN(len(frames))]
		if i > 0 {
			parent[i] = max(0, i-1-r.IntN(min(i, 5000)))
		}
	}
	stacks := make([]StackIndex, len(parent))
	for i := range parent {
		var s Stack
		for n := i; n > 0; n = parent[n] {
			s = append(s, own[n])
		}
		for j := len(trunk) - 1; j >= 0; j-- {
			s = append(s, trunk[j])
		}
		stacks[i] = d.Stack(s)
	}
	p := Profile{Type: TypeCPU, Period: 10_000_000, TimeNanos: 1_700_000_000_000_000_000, DurationNanos: 10_000_000_000}
	for range samples {
		p.Samples = append(p.Samples, Sample{Stack: stacks[r.IntN(len(stacks))], Value: 10_000_000})
	}
	return &Batch{Dictionary: d, Profiles: []Profile{p}}
}

func BenchmarkTree(b *testing.B) {
	batch := bigBatch(1_000_000)
	p := &batch.Profiles[0]
	tree := NewTree(batch, p)
	b.Logf("%d nodes, %d frames, %d stacks", tree.Len(), len(tree.Frames), len(batch.Dictionary.Stacks))
	wire := tree.AppendNodes(nil)
	b.Logf("%d bytes on the wire", len(wire))
	b.Run("New", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			NewTree(batch, p)
		}
	})
	b.Run("Cut", func(b *testing.B) {
		for b.Loop() {
			t := *tree
			t.Cut(1. / 4000)
		}
	})
	b.Run("Encode", func(b *testing.B) {
		for b.Loop() {
			wire = tree.AppendNodes(wire[:0])
		}
	})
	b.Run("Decode", func(b *testing.B) {
		for b.Loop() {
			if _, err := DecodeNodes(wire, tree.Frames, tree.Strings); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Folded", func(b *testing.B) {
		for b.Loop() {
			var n counter
			if err := tree.WriteFolded(&n); err != nil {
				b.Fatal(err)
			}
		}
	})
}

type counter int64

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

// TestTreeCutTo: however few nodes are allowed, so many there are at most, sums stay, and what is left is heavier than
// what is not.
func TestTreeCutTo(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 9))
		b := randomBatch(r)
		whole, err := GroupTree(t.Context(), b, nil)
		if err != nil {
			t.Fatal(err)
		}
		for most := 2; most <= whole.Len()+1; most++ {
			tree := *whole
			cut := tree.CutTo(most)
			checkTree(t, &tree)
			small := 0
			for i := range uint32(tree.Len()) {
				if tree.Frames[tree.Frame[i]].Kind == KindCut {
					small++
				}
			}
			if tree.Len() > most || tree.Total[0] != whole.Total[0] || tree.Len()-small+cut != whole.Len() {
				t.Fatalf("seed %d: %d nodes of %d, at most %d; %d are small, %d cut, total %d of %d", seed, tree.Len(), whole.Len(), most, small, cut, tree.Total[0], whole.Total[0])
			}
			d := Diff(whole, whole)
			if d.CutTo(most, 1, 2); d.Len() > most || d.Total[0] != whole.Total[0] || d.BeforeTotal[0] != whole.Total[0] {
				t.Fatalf("seed %d: a difference of %d nodes, at most %d", seed, d.Len(), most)
			}
		}
	}
}
