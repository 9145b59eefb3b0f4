package gate

import (
	"fmt"
	"math"
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
