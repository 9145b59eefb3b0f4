package profile

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	pathpkg "path"
	"slices"
	"strings"
	"testing"

	pprof "github.com/google/pprof/profile"
)

func TestWriteFoldedDiff(t *testing.T) {
	f := func(want string, beforeScale, afterScale float64, before, after []string) {
		t.Helper()
		b, p := folded(t, before...)
		c, q := folded(t, after...)
		var out strings.Builder
		if err := WriteFoldedDiff(&out, NewTree(b, p), NewTree(c, q), beforeScale, afterScale); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Errorf("got\n%s\nwant\n%s", out.String(), want)
		}
	}
	f("[no stack] 0 4\nmain 2 0\nmain;a 1 7\nmain;read_[k] 3 3\n", 1, 1, []string{"main 2", "main;a 1", "main;read_[k] 3"}, []string{"[no stack] 4", "main;a 7", "main;read_[k] 3"})
	f("main 3 2\nmain;a 2 0\n", 1.5, 1, []string{"main 2", "main;a 1"}, []string{"main 2"})
	f("", 1, 1, nil, nil)
}

func TestScaled(t *testing.T) {
	f := func(v int64, scale float64, want int64) {
		t.Helper()
		if got := Scaled(v, scale); got != want {
			t.Errorf("%d × %g: got %d, want %d", v, scale, got, want)
		}
	}
	f(math.MaxInt64, 1, math.MaxInt64)
	f(math.MaxInt64, 2, math.MaxInt64)
	f(math.MaxInt64, -2, math.MinInt64)
	f(3, 0.5, 2)
	f(-3, 0.5, -2)
	f(5, 0, 0)
	f(0, math.Inf(1), 0)
}

// TestDifference: what we write is what pprof itself takes for a difference.
func TestDifference(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 5))
		before, after := randomBatch(r), randomBatch(r)
		scale := oneOf(r, 1., 2, 0.5)
		var out bytes.Buffer
		if err := WritePprof(&out, Difference(before, after, scale, 1)); err != nil {
			t.Fatal(err)
		}
		p, err := pprof.Parse(&out)
		if err != nil {
			t.Fatal(err)
		}
		var got, want values
		for _, s := range p.Sample {
			side := 1
			if s.DiffBaseSample() {
				side = 0
			}
			got[side] += s.Value[0]
		}
		for side, b := range []*Batch{before, after} {
			for i := range b.Profiles {
				for _, s := range b.Profiles[i].Samples {
					if side == 0 {
						want[0] += Scaled(s.Value, -scale)
					} else {
						want[1] += s.Value
					}
				}
			}
		}
		if got != want {
			t.Fatalf("seed %d: got %v, want %v", seed, got, want)
		}
	}
}

func TestAlign(t *testing.T) {
	type fn struct{ name, file, binary string }
	tree := func(fns ...fn) *Tree {
		d := NewDictionary()
		p := Profile{Type: TypeCPU}
		for i, f := range fns {
			frame := d.Frame(Frame{Mapping: d.Mapping(Mapping{File: f.binary}), Lines: []Line{{Function: d.Function(Function{Name: f.name, File: f.file})}}})
			p.Samples = append(p.Samples, Sample{Stack: d.Stack(Stack{frame}), Value: int64(1) << i})
		}
		return NewTree(&Batch{Dictionary: d, Profiles: []Profile{p}}, &p)
	}
	f := func(want string, before, after []fn) {
		t.Helper()
		got := Align(tree(before...), tree(after...))
		checkTree(t, got)
		var s strings.Builder
		for i := uint32(1); i < uint32(got.Len()); i++ {
			fr := got.Frames[got.Frame[i]]
			fmt.Fprintf(&s, "%s %s %s %d\n", got.Name(i), got.Strings[fr.File], got.Strings[fr.Mapping], got.Self[i])
		}
		if s.String() != want {
			t.Errorf("got\n%s\nwant\n%s", s.String(), want)
		}
	}
	// Another build, another place.
	f("main /b/main.c /tmp/2/app 1\n", []fn{{"main", "/a/main.c", "/tmp/1/app"}}, []fn{{"main", "/b/main.c", "/tmp/2/app"}})
	// Two static functions of one name are told apart by their files.
	f("init /b/x.c app 1\ninit /b/y.c app 2\n", []fn{{"init", "/a/x.c", "app"}, {"init", "/a/y.c", "app"}}, []fn{{"init", "/b/x.c", "app"}, {"init", "/b/y.c", "app"}})
	// It cannot be told which one is meant.
	f("init /a/z.c app 1\n", []fn{{"init", "/a/z.c", "app"}}, []fn{{"init", "/b/x.c", "app"}, {"init", "/b/y.c", "app"}})
	f("init /a/z.c app 1\ninit /b/y.c app 2\n", []fn{{"init", "/a/z.c", "app"}, {"init", "/b/y.c", "app"}}, []fn{{"init", "/c/x.c", "app"}, {"init", "/c/w.c", "app"}, {"init", "/b/y.c", "app"}})
	// Another program that stays is not the one that is gone.
	f("main x.c a 2\nmain x.c b 1\n", []fn{{"main", "x.c", "b"}, {"main", "x.c", "a"}}, []fn{{"main", "x.c", "a"}})
	f("gone x.c app 1\n", []fn{{"gone", "x.c", "app"}}, []fn{{"f", "x.c", "app"}})
}

// TestAlignRandom: frame by frame, as plainly as possible.
func TestAlignRandom(t *testing.T) {
	moved := 0
	for seed := range uint64(1000) {
		r := rand.New(rand.NewPCG(seed, 6))
		before, after := randomBatch(r), randomBatch(r)
		stacks := plain(before)
		has := [2]map[plainFrame]bool{{}, {}}
		for side, b := range []*Batch{before, after} {
			for _, s := range plain(b) {
				for _, f := range s.frames {
					has[side][f] = true
				}
			}
		}
		// only returns the one frame of a side, not of the other and not taken, that is like it.
		taken := map[plainFrame]bool{}
		only := func(side int, like func(plainFrame) bool) (found plainFrame, ok bool) {
			n := 0
			for f := range has[side] {
				if !has[1-side][f] && !taken[f] && like(f) {
					found = f
					n++
				}
			}
			return found, n == 1
		}
		becomes := map[plainFrame]plainFrame{}
		for _, sameFile := range []bool{true, false} {
			pairs := map[plainFrame]plainFrame{}
			for f := range has[0] {
				if has[1][f] || taken[f] {
					continue
				}
				like := func(g plainFrame) bool {
					return g.name == f.name && g.kind == f.kind && g.inlined == f.inlined && (!sameFile || pathpkg.Base(g.file) == pathpkg.Base(f.file))
				}
				_, one := only(0, like)
				if g, ok := only(1, like); one && ok {
					pairs[f] = g
				}
			}
			for f, g := range pairs {
				becomes[f], taken[f], taken[g] = g, true, true
				moved++
			}
		}
		for i := range stacks {
			stacks[i].frames = slices.Clone(stacks[i].frames)
			for j, f := range stacks[i].frames {
				if g, ok := becomes[f]; ok {
					stacks[i].frames[j] = g
				}
			}
		}
		trees := [2]*Tree{}
		for side, b := range []*Batch{before, after} {
			var err error
			if trees[side], err = GroupTree(t.Context(), b, nil); err != nil {
				t.Fatal(err)
			}
		}
		wantTree(t, fmt.Sprintf("seed %d", seed), written(t, Align(trees[0], trees[1]), nil), treeOf(stacks))
	}
	if moved < 500 {
		t.Errorf("only %d frames were aligned", moved)
	}
}
