package profile

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestFrameMatcherRefuses(t *testing.T) {
	f := func(pattern, want string) {
		t.Helper()
		if _, err := NewFrameMatcher(FieldFile, pattern, true); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "for the file") {
			t.Errorf("%s: got %v, want %q", pattern, err, want)
		}
	}
	f("(", "missing closing )")
	f(`(?!a)`, "invalid or unsupported Perl syntax")
	f("((((a{10}){10}){10}){10})", "invalid repeat count")
	f(strings.Repeat("(abcdefghij){1000}", 10), "want at most 10000")
}

func TestStackFilterTooMany(t *testing.T) {
	b, p := folded(t, "main;a 1")
	f := StackFilter{}
	for i := range MaxMatchers {
		m, err := NewFrameMatcher(FieldFunction, fmt.Sprint("x", i), false)
		if err != nil {
			t.Fatal(err)
		}
		f.Drop = append(f.Drop, m)
	}
	if err := f.Apply(t.Context(), b); err != nil || len(p.Samples) != 1 {
		t.Errorf("got %v, %d samples", err, len(p.Samples))
	}
	f.Keep = f.Drop[:1]
	if err := f.Apply(t.Context(), b); err == nil || !strings.Contains(err.Error(), "65 conditions, want at most 64") || len(p.Samples) != 1 {
		t.Errorf("got %v, %d samples", err, len(p.Samples))
	}
}

// TestLeaving: every long loop ends soon after its context, whenever that is, and looks often.
func TestLeaving(t *testing.T) {
	b := bigBatch(20_000)
	tree := NewTree(b, &b.Profiles[0])
	m, err := NewFrameMatcher(FieldFunction, "Method1", true)
	if err != nil {
		t.Fatal(err)
	}
	filter := StackFilter{Drop: []FrameMatcher{m}}
	f := func(what string, work int, call func(ctx context.Context) error) {
		t.Helper()
		looks := 1 << 30
		if err := call(leaving{t.Context(), &looks}); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		looks = 1<<30 - looks
		if looks < work/(pollMask+1) {
			t.Errorf("%s: looked %d times for %d turns", what, looks, work)
		}
		for n := range looks {
			left := n
			if err := call(leaving{t.Context(), &left}); !errors.Is(err, context.Canceled) || left < -2 {
				t.Fatalf("%s: ended at look %d of %d: %v, and went on for %d looks", what, n, looks, err, -left-2)
			}
		}
	}
	f("tree", 15_000, func(ctx context.Context) error { _, err := GroupTree(ctx, b, []string{"pod"}); return err })
	f("sandwich", tree.Len(), func(ctx context.Context) error { _, err := tree.Sandwich(ctx, "Method1"); return err })
	f("filter", 10_000+20_000, func(ctx context.Context) error {
		c := *b
		c.Profiles = []Profile{b.Profiles[0]}
		c.Profiles[0].Samples = append([]Sample{}, b.Profiles[0].Samples...)
		return filter.Apply(ctx, &c)
	})
}

func FuzzDecodeDiffNodes(f *testing.F) {
	b, p := folded(f, "main;b;c 1", "main;a 300", "main;b 7", "x -5")
	c, q := folded(f, "main;b;c 2", "main;d 300", "x 5")
	tree := Diff(NewTree(b, p), NewTree(c, q))
	f.Add(tree.AppendNodes(nil))
	f.Add([]byte{1, 0, 0, 0, 1, 1, 0, 0, 2, 0xff, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := DecodeDiffNodes(data, tree.Frames, tree.Strings)
		if err != nil {
			return
		}
		again, err := DecodeDiffNodes(got.AppendNodes(nil), got.Frames, got.Strings)
		if err != nil || outlineDepthSafe(&got.Tree) != outlineDepthSafe(&again.Tree) || fmt.Sprint(got.BeforeSelf, got.BeforeTotal) != fmt.Sprint(again.BeforeSelf, again.BeforeTotal) {
			t.Fatalf("%x: not the same after a round trip: %v", data, err)
		}
		got.Cut(0.01, 1, 2)
		got.Top(1, 2)
	})
}

// FuzzFrameMatcher: any text is a condition or an error, and stacks can be asked for it.
func FuzzFrameMatcher(f *testing.F) {
	f.Add("a|b", "main;ab", uint8(0))
	f.Add("(x{3,}y?)*", "xxxy", uint8(1))
	f.Add(`\pL{2}\x{10FFFF}`, "", uint8(2))
	b, p := folded(f, "main;a 1", "b;main 2")
	all := p.Samples
	f.Fuzz(func(t *testing.T, pattern, site string, field uint8) {
		m, err := NewFrameMatcher(FrameField(field%3), pattern, true)
		if err != nil {
			return
		}
		p.Samples = append([]Sample{}, all...)
		filter := StackFilter{Keep: []FrameMatcher{m}, CallSite: strings.Split(site, ";")}
		if err := filter.Apply(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		for _, s := range p.Samples {
			name := NewTree(b, &Profile{Samples: []Sample{s}}).Name(1)
			if name != filter.CallSite[0] {
				t.Fatalf("%s is kept for the call site %q", name, filter.CallSite)
			}
		}
	})
}

// wideBatch has n samples of n distinct stacks on a common trunk, in a tree of about n nodes as those of bigBatch;
// one frame in a hundred differs by variant, and with it all that is above.
func wideBatch(n int, variant uint64) *Batch {
	shared, own := rand.New(rand.NewPCG(9, 9)), rand.New(rand.NewPCG(9, variant))
	d := NewDictionary()
	m := d.Mapping(Mapping{File: "/usr/bin/app"})
	frames := make([]FrameIndex, 20_000)
	for i := range frames {
		fn := d.Function(Function{Name: fmt.Sprintf("github.com/app/pkg%d.(*Type).Method%d", i%97, i/97), File: fmt.Sprintf("pkg%d/file.go", i%97)})
		frames[i] = d.Frame(Frame{Mapping: m, Addr: Addr(i * 16), Lines: []Line{{Function: fn, Line: int32(i)}}})
	}
	const trunk = 20
	stacks := make([]Stack, n) // root first
	p := Profile{Type: TypeCPU}
	for i := range stacks {
		below, top := Stack(frames[:trunk]), shared.IntN(len(frames))
		if i > 0 {
			below = stacks[max(0, i-1-shared.IntN(min(i, 5000)))]
		}
		if own.IntN(100) == 0 {
			top = own.IntN(len(frames))
		}
		stacks[i] = append(below[:len(below):len(below)], frames[top])
		leafFirst := slices.Clone(stacks[i])
		slices.Reverse(leafFirst)
		p.Samples = append(p.Samples, Sample{Stack: d.Stack(leafFirst), Value: 10_000_000})
	}
	return &Batch{Dictionary: d, Profiles: []Profile{p}}
}

func BenchmarkFilter(b *testing.B) {
	batch := wideBatch(100_000, 0)
	all := batch.Profiles[0].Samples
	exact, err := NewFrameMatcher(FieldFunction, "github.com/app/pkg3.(*Type).Method3", false)
	if err != nil {
		b.Fatal(err)
	}
	pattern, err := NewFrameMatcher(FieldFunction, `pkg[0-9]+\..*Method.*7$`, true)
	if err != nil {
		b.Fatal(err)
	}
	f := func(name string, filter StackFilter) {
		b.Run(name, func(b *testing.B) {
			kept := 0
			samples := make([]Sample, len(all))
			for b.Loop() {
				copy(samples, all)
				batch.Profiles[0].Samples = samples
				if err := filter.Apply(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
				kept = len(batch.Profiles[0].Samples)
			}
			b.ReportMetric(float64(kept), "kept")
		})
	}
	f("Exact", StackFilter{Drop: []FrameMatcher{exact}})
	f("Regexp", StackFilter{Keep: []FrameMatcher{pattern}})
	var site []string
	d := batch.Dictionary
	for _, i := range slices.Backward(d.Stacks[all[200].Stack]) {
		site = append(site, d.Functions[d.Frames[i].Lines[0].Function].Name)
	}
	f("CallSite", StackFilter{CallSite: site})
}

// BenchmarkDiff compares two sides of 100 000 stacks each, of which most are the same.
func BenchmarkDiff(b *testing.B) {
	before, after := wideBatch(100_000, 0), wideBatch(100_000, 1)
	x, y := NewTree(before, &before.Profiles[0]), NewTree(after, &after.Profiles[0])
	b.Logf("%d and %d nodes, %d together", x.Len(), y.Len(), Diff(x, y).Len())
	b.Run("Trees", func(b *testing.B) {
		for b.Loop() {
			NewTree(before, &before.Profiles[0])
			NewTree(after, &after.Profiles[0])
		}
	})
	b.Run("Diff", func(b *testing.B) {
		for b.Loop() {
			Diff(x, y)
		}
	})
	d := Diff(x, y)
	b.Run("Cut", func(b *testing.B) {
		for b.Loop() {
			c := *d
			c.Cut(1./4000, 1, 1)
		}
	})
	b.Run("Top", func(b *testing.B) {
		for b.Loop() {
			d.Top(1, 1)
		}
	})
	b.Run("Sandwich", func(b *testing.B) {
		for b.Loop() {
			if _, err := x.Sandwich(b.Context(), "github.com/app/pkg3.(*Type).Method1"); err != nil {
				b.Fatal(err)
			}
		}
	})
}
