package profile

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// plainLine is a place in a source file.
type plainLine struct {
	file, binary string
	line         int32
}

// TestLinesRandom: what each line cost is what stacks say that are looked at one by one.
func TestLinesRandom(t *testing.T) {
	met := 0
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 7))
		b := randomBatch(r)
		p := &b.Profiles[0]
		function := oneOf(r, "a", "main", "nobody", "\uFFFD")
		d := b.Dictionary

		type place struct{ file, binary string }
		type values struct{ self, total int64 }
		files, lines := map[place]values{}, map[plainLine]values{}
		for _, s := range p.Samples {
			seenFile, seenLine := map[place]bool{}, map[plainLine]bool{}
			leaf := true
			for _, fi := range d.Stacks[s.Stack] {
				f := &d.Frames[fi]
				for _, l := range f.Lines {
					fn := d.Functions[l.Function]
					binary := d.Mappings[f.Mapping].File
					if strings.ToValidUTF8(fn.Name, "\uFFFD") == function {
						at, line := place{fn.File, binary}, plainLine{fn.File, binary, l.Line}
						vf, vl := files[at], lines[line]
						if leaf {
							vf.self += s.Value
							vl.self += s.Value
						}
						if !seenFile[at] {
							vf.total += s.Value
						}
						if !seenLine[line] {
							vl.total += s.Value
						}
						seenFile[at], seenLine[line] = true, true
						files[at], lines[line] = vf, vl
					}
					leaf = false
				}
				leaf = false
			}
		}

		got, err := Lines(t.Context(), b, p, function)
		if err != nil {
			t.Fatal(err)
		}
		what := fmt.Sprintf("seed %d, %s", seed, function)
		if len(got) != len(files) {
			t.Fatalf("%s: %d files, want %d", what, len(got), len(files))
		}
		n := 0
		for i, f := range got {
			if i > 0 && f.Total > got[i-1].Total {
				t.Fatalf("%s: %s comes after a file of a smaller total", what, f.File)
			}
			binary := strings.ReplaceAll(f.Mapping, "\uFFFD", "\xff")
			if want := files[place{f.File, binary}]; want != (values{f.Self, f.Total}) {
				t.Fatalf("%s: %s %s %d/%d, want %d/%d", what, f.File, f.Mapping, f.Self, f.Total, want.self, want.total)
			}
			for k, l := range f.Lines {
				if k > 0 && l.Line <= f.Lines[k-1].Line {
					t.Fatalf("%s: line %d comes after %d", what, l.Line, f.Lines[k-1].Line)
				}
				if want := lines[plainLine{f.File, binary, l.Line}]; want != (values{l.Self, l.Total}) {
					t.Fatalf("%s: %s:%d %d/%d, want %d/%d", what, f.File, l.Line, l.Self, l.Total, want.self, want.total)
				}
				n++
			}
		}
		if n != len(lines) {
			t.Fatalf("%s: %d lines, want %d", what, n, len(lines))
		}
		met += n
	}
	if met < 1000 {
		t.Errorf("%d lines in all: the batches say little", met)
	}
}
