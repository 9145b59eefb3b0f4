package profile

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var rewriteAnswers = flag.Bool("rewrite", false, "write the answers that the page must give anew")

// The page answers questions about a file by itself. What it must say is what this package says: its tests
// (web/src/lib/answers.test.ts) read these transcripts.
const answersFolder = "../web/src/lib/testdata"

func TestAnswersOfThePage(t *testing.T) {
	for _, name := range []string{"cpu", "heap"} {
		packed, err := os.ReadFile("testdata/pprof/" + name + ".pb.gz")
		if err != nil {
			t.Fatal(err)
		}
		got := answers(t, packed)
		golden := filepath.Join(answersFolder, name+".txt")
		if *rewriteAnswers {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s is not what this package says of %s: run the test with -rewrite, and look at what it changes", golden, name)
		}
	}
}

func answers(t *testing.T, packed []byte) string {
	zr, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(zr)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := ParsePprof(data, PprofOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	var types []Type
	seen := map[Type]bool{}
	for i := range whole.Profiles {
		if typ := whole.Profiles[i].Type; !seen[typ] {
			seen[typ] = true
			types = append(types, typ)
		}
	}
	matcher := func(field FrameField, value string, pattern bool) []FrameMatcher {
		m, err := NewFrameMatcher(field, value, pattern)
		if err != nil {
			t.Fatal(err)
		}
		return []FrameMatcher{m}
	}
	for _, typ := range types {
		site := []string{}
		for _, q := range []struct {
			name   string
			filter func() StackFilter
		}{
			{"everything", func() StackFilter { return StackFilter{} }},
			{"the call site", func() StackFilter { return StackFilter{CallSite: site} }},
			{"keep function=~^runtime\\.(gc|m)", func() StackFilter { return StackFilter{Keep: matcher(FieldFunction, `^runtime\.(gc|m)`, true)} }},
			{"drop file=~(?i)/RUNTIME/", func() StackFilter { return StackFilter{Drop: matcher(FieldFile, `(?i)/RUNTIME/`, true)} }},
			{"keep function=runtime.main, drop binary=", func() StackFilter {
				return StackFilter{Keep: matcher(FieldFunction, "runtime.main", false), Drop: matcher(FieldBinary, "", false)}
			}},
		} {
			filter := q.filter()
			b := &Batch{Dictionary: whole.Dictionary}
			for i := range whole.Profiles {
				if p := whole.Profiles[i]; p.Type == typ {
					p.Samples = append([]Sample{}, p.Samples...)
					b.Profiles = append(b.Profiles, p)
				}
			}
			if err := filter.Apply(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			tree, err := GroupTree(t.Context(), b, nil)
			if err != nil {
				t.Fatal(err)
			}
			tree.Unit = typ.SampleUnit
			if q.name == "everything" {
				site = heaviest(tree, 3)
			}
			fmt.Fprintf(&out, "== %s: %s %s\n", typ, q.name, strings.Join(filter.CallSite, ";"))
			answer(t, &out, b, tree)
		}
	}
	return out.String()
}

// heaviest is the path to the largest child of the largest child, and so on.
func heaviest(t *Tree, depth int) (path []string) {
	at := uint32(0)
	for len(path) < depth {
		best := uint32(0)
		for c := range t.Children(at) {
			if best == 0 || t.Total[c] > t.Total[best] {
				best = c
			}
		}
		if best == 0 {
			break
		}
		path = append(path, t.Name(best))
		at = best
	}
	return path
}

func answer(t *testing.T, out *strings.Builder, b *Batch, tree *Tree) {
	sums := map[StackIndex]int64{}
	for i := range b.Profiles {
		for _, s := range b.Profiles[i].Samples {
			sums[s.Stack] += s.Value
		}
	}
	fmt.Fprintf(out, "%d nodes, %d stacks, folded %s\n", tree.Len(), len(sums), foldedSum(t, tree))
	showCut(out, "cut", *tree, 0.02)
	path := heaviest(tree, 2)
	showCut(out, "below "+strings.Join(path, ";"), *tree.Subtree(path), 0.1)
	rows := tree.Top()
	showRows(out, "by self", rows)
	SortByTotal(rows)
	showRows(out, "by total", rows)
	showRows(out, "without allocators", tree.FoldAllocators().Top())
	for _, nth := range []int{2, 9} {
		if nth >= len(rows) {
			continue
		}
		name := rows[nth].Name
		s, err := tree.Sandwich(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(out, "around %s: total %d, self %d, callers %d nodes %s, callees %d nodes %s\n", name, s.Total, s.Self,
			s.Callers.Len(), foldedSum(t, s.Callers), s.Callees.Len(), foldedSum(t, s.Callees))
		all := Profile{Type: b.Profiles[0].Type}
		for i := range b.Profiles {
			all.Samples = append(all.Samples, b.Profiles[i].Samples...)
		}
		files, err := Lines(t.Context(), b, &all, name)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			fmt.Fprintf(out, "lines of %s:%d in %s: %d %d:", f.File, f.StartLine, f.Mapping, f.Self, f.Total)
			for _, l := range f.Lines {
				fmt.Fprintf(out, " %d=%d/%d", l.Line, l.Self, l.Total)
			}
			out.WriteString("\n")
		}
	}
}

func foldedSum(t *testing.T, tree *Tree) string {
	h := sha256.New()
	if err := tree.WriteFolded(h); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8])
}

func showCut(out *strings.Builder, what string, tree Tree, share float64) {
	nodes := tree.Len()
	cut := tree.Cut(share)
	h := sha256.New()
	depth := make([]int, tree.Len())
	for i := range uint32(tree.Len()) {
		for c := range tree.Children(i) {
			depth[c] = depth[i] + 1
		}
		f := tree.Frames[tree.Frame[i]]
		fmt.Fprintf(h, "%d %s kind %d inlined %t self %d total %d %s:%d %s\n", depth[i], tree.Name(i), f.Kind, f.Inlined, tree.Self[i], tree.Total[i],
			tree.Strings[f.File], f.StartLine, tree.Strings[f.Mapping])
	}
	fmt.Fprintf(out, "%s: %d of %d nodes cut, %x\n", what, cut, nodes, h.Sum(nil)[:8])
}

func showRows(out *strings.Builder, what string, rows []TopRow) {
	fmt.Fprintf(out, "%s: %d rows\n", what, len(rows))
	for _, r := range rows[:min(len(rows), 4)] {
		fmt.Fprintf(out, " %s %s %s %d: %d %d\n", r.Name, r.File, r.Mapping, r.Kind, r.Self, r.Total)
	}
}
