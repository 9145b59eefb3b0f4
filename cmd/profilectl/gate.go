package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/profile/gate"
)

// gating is the flags of gate, and what came of them.
type gating struct {
	baseline, candidate []string
	spans               [3]string // of both, of the baseline, of the candidate
	runLabel            string
	slices              int
	operations          [3]float64 // of both, of the baseline, of the candidate
	maxRegression       string
	minShare            string
	fdr, confidence     string
	o                   gate.Options
	limit               int
	outs                []string
	out                 []output
	d                   diffing // the flags that gate shares with diff

	sides    [2]*gateSide
	c        *comparison // what is compared, and how it is written
	warnings []string
	report   *gate.Report
}

func (a *app) gate() *cobra.Command {
	g := &gating{}
	cmd := &cobra.Command{
		Use:   "gate --baseline PROFILES --candidate PROFILES",
		Short: "Fail if a candidate is slower than its baseline, and be right about noise",
		Long: `Compare several profiles of a candidate with several of its baseline, each of another run, and fail if a function
became slower for sure. Whole runs are compared, never samples: how much runs of the same side differ says what is noise.

Exit codes: 0 no regression was found, and these runs could have shown one; 1 there is a regression; 2 nobody could
tell, or something went wrong.

--baseline and --candidate are files (pprof, folded text, JFR, speedscope; patterns as 'old/*.pb.gz'; repeated), each the
profile of one run, or a selector of what a server has: then --run-label says by which label runs differ (run_id, pod).
'profilectl gate run' makes the runs itself. Each side needs 4 runs at least, pairs 6; 10 are better.

A function fails the gate if all of this is so:
  it is larger than --min-share of everything, on either side
  it is a discovery: of what is found, no more than --fdr is to be expected to be mere chance
  the lower end of the interval for by how much it is slower is above --max-regression
What only moved between a function and its callers or callees (inlining), and what was renamed, does not fail; what is
new counts for its callers.

Values per operation are compared if the number of operations is known: from --operations, from a label of the profile
called operations, or from a comment 'operations: N' in a pprof. Else files are compared as they are, one run each, and
selections as shares of each run's total; --scale says otherwise.

-o may be repeated: a form (` + strings.Join(gateForms, ", ") + `), a file whose end says it (gate.md, gate.json,
gate.sarif, diff.svg, diff.html), or both, as junit=gate.xml.`,
		Example: `  profilectl gate --baseline 'main/*.pb.gz' --candidate 'pr/*.pb.gz'
  profilectl gate --baseline '{git_sha="abc"}' --candidate '{git_sha="def"}' --run-label run_id --range -1d..now
  profilectl gate --baseline 'main/*.mem' --candidate 'pr/*.mem' --type alloc_space --max-regression 1%
  profilectl gate --baseline 'main/*' --candidate 'pr/*' -o text -o gate.md -o junit=gate.xml -o diff.html`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := g.check(cmd); err != nil {
				return err
			}
			return couldNot(a.runGate(cmd.Context(), g))
		},
	}
	g.flags(cmd)
	f := cmd.Flags()
	f.StringArrayVar(&g.baseline, "baseline", nil, "files, a pattern for files, or a selector; repeated")
	f.StringArrayVar(&g.candidate, "candidate", nil, "the same of what is judged")
	f.BoolVar(&g.o.Paired, "paired", false, "the first run of one side was made together with the first one of the other, and so on")
	f.StringVar(&g.runLabel, "run-label", "", "the label whose values tell the runs of a selection apart, as run_id or pod")
	f.IntVar(&g.slices, "slices", 0, "cut a selection's range into so many runs; what happens slowly makes neighbours alike, so prefer --run-label")
	f.StringVar(&g.spans[0], "range", "-1h..now", "time range of selectors")
	f.StringVar(&g.spans[1], "baseline-range", "", "that of the baseline alone, as -2h..-1h")
	f.StringVar(&g.spans[2], "candidate-range", "", "that of the candidate alone")
	f.StringVar(&g.d.scale, "scale", "", "what is compared if operations are not known: none, time or samples")
	g.d.narrow.flags(cmd)
	cmd.AddCommand(a.gateRun())
	return cmd
}

// flags are those that 'gate run' has as well.
func (g *gating) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&g.maxRegression, "max-regression", "5%", "by how much a function may become slower")
	f.StringVar(&g.minShare, "min-share", "1%", "functions below this share of everything do not count")
	f.StringVar(&g.fdr, "fdr", "5%", "how much of what is found may be found by mere chance")
	f.StringVar(&g.confidence, "confidence", "95%", "how often intervals have the true value")
	f.Uint64Var(&g.o.Seed, "seed", 0, "of what is random; 0: made of the data")
	f.BoolVar(&g.o.KeepAllocators, "allocators", false, "in types of memory let allocators keep what they take; without, it counts for who called them")
	f.Float64Var(&g.operations[0], "operations", 0, "operations of each run")
	f.Float64Var(&g.operations[1], "baseline-operations", 0, "those of each run of the baseline, if they differ")
	f.Float64Var(&g.operations[2], "candidate-operations", 0, "those of each run of the candidate")
	f.StringVar(&g.d.typ, "type", "cpu", "profile type, or an unambiguous beginning of its name or sample type; of a file without CPU time its last one")
	f.IntVar(&g.limit, "limit", 30, "rows of text and markdown; 0 means all")
	f.StringArrayVarP(&g.outs, "output", "o", []string{formText}, "form ("+strings.Join(gateForms, ", ")+"), file, or FORM=FILE; may be repeated")
}

// couldNot makes of an answer that is no, or nothing, a failure to tell: only a regression ends with 1.
func couldNot(err error) error {
	var answer *answerError
	var slower *slowerError
	if errors.As(err, &answer) && !errors.As(err, &slower) {
		return errors.New(err.Error())
	}
	return err
}

// slowerError is the one answer that ends with 1.
type slowerError struct{ *answerError }

func (e *slowerError) Unwrap() error { return e.answerError }

// check reads the flags.
func (g *gating) check(cmd *cobra.Command) (err error) {
	g.d.typed = cmd.Flags().Changed("type")
	if g.out, err = parseGateOutputs(g.outs); err != nil {
		return err
	}
	for _, p := range []struct {
		flag, text string
		to         *float64
		most       float64
	}{
		{"max-regression", g.maxRegression, &g.o.MaxRegression, 100}, {"min-share", g.minShare, &g.o.MinShare, 1},
		{"fdr", g.fdr, &g.o.FDR, 0.5}, {"confidence", g.confidence, &g.o.Confidence, 0.9999},
	} {
		if *p.to, err = parsePercent(p.text); err != nil || *p.to < 0 || *p.to > p.most {
			return usage("--%s %q: want a share as 5%% or 0.05, at most %s", p.flag, p.text, percentage(p.most))
		}
	}
	if g.o.FDR == 0 || g.o.Confidence == 0 {
		return usage("--fdr and --confidence: want more than 0")
	}
	for _, v := range []*float64{&g.o.MaxRegression, &g.o.MinShare} {
		if *v == 0 {
			*v = -1 // the options' zero is their default
		}
	}
	for i, flag := range []string{"operations", "baseline-operations", "candidate-operations"} {
		if cmd.Flags().Changed(flag) && (!(g.operations[i] > 0) || math.IsInf(g.operations[i], 0)) {
			return usage("--%s %v: want more than 0", flag, g.operations[i])
		}
	}
	switch {
	case (g.operations[1] != 0) != (g.operations[2] != 0):
		return usage("--baseline-operations and --candidate-operations go together")
	case g.operations[0] != 0 && g.operations[1] != 0:
		return usage("give --operations, or --baseline-operations and --candidate-operations")
	case g.operations[0] != 0:
		g.operations[1], g.operations[2] = g.operations[0], g.operations[0]
	}
	if g.operations[1] != 0 && g.d.scale != "" {
		return usage("--scale and --operations do not go together: values are compared per operation")
	}
	if g.slices != 0 && (g.slices < 2 || g.slices > maxRuns) {
		return usage("--slices %d: want 2 to %d", g.slices, maxRuns)
	}
	if g.slices != 0 && g.runLabel != "" {
		return usage("give --run-label or --slices, not both")
	}
	if g.limit < 0 {
		return usage("--limit %d: want 0 or more", g.limit)
	}
	g.d.draw = drawing{limit: g.limit, sort: "self", allocators: g.o.KeepAllocators}
	return g.d.check()
}

// parsePercent reads 5% or 0.05.
func parsePercent(s string) (float64, error) {
	digits, percent := strings.CutSuffix(strings.TrimSpace(s), "%")
	n, err := strconv.ParseFloat(digits, 64)
	if err == nil && (math.IsNaN(n) || math.IsInf(n, 0)) {
		err = strconv.ErrRange
	}
	if percent {
		n /= 100
	}
	return n, err
}

// runGate reads what was selected and judges it.
func (a *app) runGate(ctx context.Context, g *gating) error {
	filter, err := g.d.narrow.filter()
	if err != nil {
		return err
	}
	if err := a.openSides(g); err != nil {
		return err
	}
	if err := a.readRuns(ctx, g, filter); err != nil {
		return err
	}
	return a.judge(ctx, g)
}

// judge judges runs that were read, and writes what came out.
func (a *app) judge(ctx context.Context, g *gating) error {
	if err := g.chooseScale(); err != nil {
		return err
	}
	g.o.Shares = g.c.scale == scaleSamples
	var runs [2][]gate.Run
	for i, s := range g.sides {
		for _, r := range s.runs {
			runs[i] = append(runs[i], gate.Run{Batch: r.batch, Scale: r.scale})
		}
	}
	var err error
	g.report, err = gate.Judge(ctx, runs[0], runs[1], g.o)
	switch {
	case errors.Is(err, gate.ErrFewRuns):
		return &hintError{err, "Give more: each file, each value of --run-label is one run; 'profilectl gate run' makes them."}
	case errors.Is(err, gate.ErrPairs):
		return &hintError{fmt.Errorf("--paired: %w", err), "Leave out the runs without a partner, or --paired."}
	case errors.Is(err, gate.ErrTooLarge):
		return &hintError{err, "Give fewer runs, or filter stacks with --keep, --drop or --call-site."}
	case err != nil:
		return err
	}
	g.report.Warnings = append(g.report.Warnings, g.warnings...)
	if g.c.hint != "" && slices.Max(g.report.Spread[:]) >= unevenSpread {
		g.report.Warnings = append(g.report.Warnings, g.c.hint)
	}
	if err := g.draw(ctx); err != nil {
		return err
	}
	for _, out := range g.out {
		if err := out.write(a, func(w io.Writer) error { return g.write(w, out, a.outTerm) }); err != nil {
			return err
		}
	}
	switch g.report.Verdict {
	case gate.Regression:
		return &slowerError{&answerError{"regression: " + g.headline()}}
	case gate.CouldNotTell:
		return fmt.Errorf("could not tell: %s", g.report.Why)
	}
	return nil
}

// chooseScale decides what is compared, and says why.
func (g *gating) chooseScale() error {
	c := &comparison{typ: g.sides[1].runs[0].typ, scale: scaleNone}
	g.c = c
	known, all, selected := 0, 0, false
	for i, s := range g.sides {
		selected = selected || s.selector != nil
		for _, r := range s.runs {
			if g.operations[i+1] != 0 {
				r.operations = g.operations[i+1]
			}
			if r.operations > 0 {
				known++
			}
			all++
		}
	}
	switch {
	case g.d.scale == scaleTime && c.typ.Level():
		return usage("--scale time: %s says how much there is, not how much happens: want none or samples", c.typ)
	case g.d.scale != "":
		c.scale = g.d.scale
		c.why = map[string]string{scaleNone: "as they are", scaleTime: "per second", scaleSamples: "as shares of each run's total"}[c.scale]
	case known == all:
		c.scale, c.why = scaleOperations, "per operation"
	case c.typ.Level():
		c.why = "as they are"
	case selected:
		c.scale, c.why = scaleSamples, "as shares of each run's total"
	default:
		c.why = "as they are, a run is one operation"
		c.hint = g.unequal()
		if known > 0 {
			g.warnings = append(g.warnings, fmt.Sprintf("only %d of %d runs say how many operations they had: no run's is used", known, all))
		}
	}
	for _, s := range g.sides {
		for _, r := range s.runs {
			switch {
			case c.scale == scaleOperations:
				r.scale = 1 / r.operations
			case s.selector != nil: // the server's says it
			case c.scale == scaleSamples:
				r.scale = 1 / float64(r.all)
			case c.scale == scaleTime && r.length == 0:
				return usage("%s: %s does not say how long it is, so that there are no values per second: want --scale samples or none, or --operations", s.name, r.title)
			case c.scale == scaleTime:
				r.scale = 1 / r.length.Seconds()
			default:
				r.scale = 1
			}
		}
	}
	return nil
}

// unevenSpread is how much runs vary that did not do the same work. Those that only waited differently long vary less.
const unevenSpread = 0.1

// unequal says that runs took differently long: then values as they are say little.
func (g *gating) unequal() string {
	least, most := time.Duration(math.MaxInt64), time.Duration(0)
	for _, s := range g.sides {
		for _, r := range s.runs {
			least, most = min(least, r.length), max(most, r.length)
		}
	}
	if least == 0 || float64(most) <= 1.1*float64(least) {
		return ""
	}
	return fmt.Sprintf("the runs are between %s and %s long: if they did not all do the same work, compare with --scale time or samples, or with --operations",
		profile.FormatValue(int64(least), "nanoseconds"), profile.FormatValue(int64(most), "nanoseconds"))
}

// headline names what is slower.
func (g *gating) headline() string {
	var names []string
	rows := g.report.Regressions()
	for i, r := range rows {
		if i == 3 {
			names = append(names, fmt.Sprintf("and %d more", len(rows)-3))
			break
		}
		c := r.Speaks()
		kind := "self"
		if r.ByTotal {
			kind = "total"
		}
		names = append(names, fmt.Sprintf("%s, %s %s (%s)", printable(r.Name), kind, changeOf(c.Ratio), g.interval(c)))
	}
	return strings.Join(names, "; ")
}

// changeOf writes a ratio as a change: +10.0%.
func changeOf(ratio float64) string {
	switch {
	case math.IsInf(ratio, 1):
		return "new"
	case math.IsNaN(ratio):
		return ""
	case ratio == 0:
		return "gone"
	case math.Abs(ratio-1) < 1e-9:
		return "0%"
	}
	s := profile.FormatRatio(math.Abs(ratio - 1))
	if ratio < 1 {
		return "-" + s
	}
	return "+" + s
}

// interval writes the interval of a ratio.
func (g *gating) interval(c *gate.Comparison) string {
	if !c.Bounded() || math.IsInf(c.Low, 1) || c.High == 0 {
		return "–"
	}
	end := func(ratio float64) string {
		switch {
		case ratio == 0:
			return "-100%"
		case math.IsInf(ratio, 1):
			return "∞"
		}
		return changeOf(ratio)
	}
	return end(c.Low) + " to " + end(c.High)
}
