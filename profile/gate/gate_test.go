package gate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/perfuse/perfuse/profile"
)

// TestTranscripts judges what is in testdata. The directive judge has one line per stack: its values in each run of the
// baseline, a bar, and those of the candidate.
//
//	judge [type=T] [paired] [shares] [max-regression=F] [min-share=F] [allocators]
//	main;f 100 101 99 | 110 111 109
func TestTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd != "judge" {
				t.Fatalf("unknown directive %s", d.Cmd)
			}
			o := Options{Paired: d.HasArg("paired"), Shares: d.HasArg("shares"), KeepAllocators: d.HasArg("allocators")}
			typ := profile.TypeCPU
			for _, arg := range d.CmdArgs {
				var err error
				switch arg.Key {
				case "type":
					typ, err = profile.ParseType(arg.Vals[0])
				case "max-regression":
					o.MaxRegression, err = strconv.ParseFloat(arg.Vals[0], 64)
				case "min-share":
					o.MinShare, err = strconv.ParseFloat(arg.Vals[0], 64)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			baseline, candidate := parseRuns(t, d.Input, typ)
			r, err := Judge(t.Context(), baseline, candidate, o)
			if err != nil {
				return "error: " + err.Error() + "\n"
			}
			return describe(r)
		})
	})
}

// parseRuns reads stacks with their values.
func parseRuns(t *testing.T, text string, typ profile.Type) (baseline, candidate []Run) {
	t.Helper()
	var sides [2][]string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		stack := strings.TrimRight(line, "0123456789 |")
		before, after, bar := strings.Cut(line[len(stack):], "|")
		if !bar {
			t.Fatalf("%q: want STACK VALUES | VALUES", line)
		}
		for i, list := range []string{before, after} {
			for k, v := range strings.Fields(list) {
				if k == len(sides[i]) {
					sides[i] = append(sides[i], "")
				}
				sides[i][k] += stack + " " + v + "\n"
			}
		}
	}
	for i, side := range []*[]Run{&baseline, &candidate} {
		for _, folded := range sides[i] {
			b, err := profile.ParseFolded(strings.NewReader(folded), typ, nil)
			if err != nil {
				t.Fatal(err)
			}
			*side = append(*side, Run{Batch: b})
		}
	}
	return baseline, candidate
}

func describe(r *Report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d tested", r.Verdict, r.Tested)
	if !math.IsInf(r.Effect, 1) {
		fmt.Fprintf(&b, ", could see %.1f%%", r.Effect*100)
	}
	b.WriteString("\n")
	if r.Why != "" {
		fmt.Fprintf(&b, "because %s\n", r.Why)
	}
	for _, row := range r.Rows {
		if row.Status == Same {
			continue
		}
		c, kind := row.Speaks(), "self"
		if row.ByTotal {
			kind = "total"
		}
		fmt.Fprintf(&b, "%-12s %s %s %.4g → %.4g, ×%.3f (%.3f to %.3f), p %.3f, %.1f%%", row.Status, row.Name, kind, c.Baseline, c.Candidate, c.Ratio, c.Low, c.High,
			min(c.P, c.PFaster), row.Share*100)
		if row.Was != "" {
			fmt.Fprintf(&b, ", was %s", row.Was)
		}
		if len(row.Causes) > 0 {
			fmt.Fprintf(&b, ", causes: %s", strings.Join(row.Causes, ", "))
		}
		b.WriteString("\n")
		if row.Status == Slower {
			for _, p := range row.Paths {
				fmt.Fprintf(&b, "    %.4g → %.4g %s\n", p.Baseline, p.Candidate, strings.Join(p.Functions, ";"))
			}
		}
	}
	for _, w := range r.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", w)
	}
	return b.String()
}

// noisyRuns makes runs of eight functions that vary independently, the first slower in the candidate.
func noisyRuns(t *testing.T, random *rand.Rand, n int, factor float64) (baseline, candidate []Run) {
	for i := range 2 * n {
		var text strings.Builder
		for f := range 8 {
			v := 1e6 * math.Exp(0.02*random.NormFloat64())
			if f == 0 && i >= n {
				v *= factor
			}
			fmt.Fprintf(&text, "main;f%c %.0f\n", 'a'+f, v)
		}
		b, err := profile.ParseFolded(strings.NewReader(text.String()), profile.TypeCPU, nil)
		if err != nil {
			t.Fatal(err)
		}
		if i < n {
			baseline = append(baseline, Run{Batch: b})
		} else {
			candidate = append(candidate, Run{Batch: b})
		}
	}
	return baseline, candidate
}

// TestPower puts changes in that are as large as the smallest that could be seen in four of five experiments, and counts.
func TestPower(t *testing.T) {
	of := func(r *Report, name string) *Comparison {
		for i := range r.Rows {
			if r.Rows[i].Name == name {
				return &r.Rows[i].Self
			}
		}
		t.Fatalf("no function %s", name)
		return nil
	}
	f := func(n int, paired bool) {
		t.Helper()
		random := rand.New(rand.NewPCG(uint64(n), 5))
		o := Options{Paired: paired, Relabellings: 400}
		effect := 0.0
		for range 20 {
			baseline, candidate := noisyRuns(t, random, n, 1)
			r, err := Judge(t.Context(), baseline, candidate, o)
			if err != nil {
				t.Fatal(err)
			}
			effect += of(r, "fa").Effect / 20
		}
		const rounds = 150
		seen := 0
		for range rounds {
			baseline, candidate := noisyRuns(t, random, n, 1+effect)
			r, err := Judge(t.Context(), baseline, candidate, o)
			if err != nil {
				t.Fatal(err)
			}
			if of(r, "fa").P <= 0.05 {
				seen++
			}
		}
		// 120, and four standard deviations of 4.9; more if few runs make what could be seen a guess.
		if seen < 100 || seen > 145 {
			t.Errorf("%d runs, paired %v: a change of %.1f%% is seen in %d of %d experiments, want four of five", n, paired, effect*100, seen, rounds)
		}
	}
	f(5, false)
	f(10, false)
	f(10, true)
}

// TestSameJudgement says that nothing but the runs and the seed decides, also where relabellings are drawn.
func TestSameJudgement(t *testing.T) {
	judge := func(seed uint64) string {
		baseline, candidate := noisyRuns(t, rand.New(rand.NewPCG(1, 1)), 10, 1.1)
		r, err := Judge(t.Context(), baseline, candidate, Options{Seed: seed, Relabellings: 1000})
		if err != nil {
			t.Fatal(err)
		}
		if r.Exact || r.Relabellings != 1000 {
			t.Fatalf("%d relabellings, exact %v: want 1000 at random", r.Relabellings, r.Exact)
		}
		return describe(r)
	}
	if a, b := judge(0), judge(0); a != b {
		t.Errorf("the same runs are judged differently:\n%s\n%s", a, b)
	}
	if a, b := judge(1), judge(2); a == b {
		t.Error("the seed makes no difference")
	}
}

// TestLimits says what is refused.
func TestLimits(t *testing.T) {
	baseline, candidate := noisyRuns(t, rand.New(rand.NewPCG(1, 1)), 3, 1)
	f := func(baseline, candidate []Run, o Options, want error) {
		t.Helper()
		if _, err := Judge(t.Context(), baseline, candidate, o); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	f(baseline[:1], candidate, Options{}, ErrFewRuns)
	f(baseline, candidate[:1], Options{}, ErrFewRuns)
	f(nil, nil, Options{}, ErrFewRuns)
	f(baseline, candidate[:2], Options{Paired: true}, ErrPairs)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	var deep strings.Builder
	for i := range 1 << 13 { // a context is asked once in a while
		fmt.Fprintf(&deep, "main;f%d 1\n", i)
	}
	b, err := profile.ParseFolded(strings.NewReader(deep.String()), profile.TypeCPU, nil)
	if err != nil {
		t.Fatal(err)
	}
	large := []Run{{Batch: b}, {Batch: b}}
	if _, err := Judge(canceled, large, large, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was canceled", err)
	}
}
