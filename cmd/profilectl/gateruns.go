package main

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	pprof "github.com/google/pprof/profile"

	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
)

// maxRuns bounds the runs of a side.
const maxRuns = 1000

// gateSide is the baseline or the candidate.
type gateSide struct {
	name     string
	title    string
	selector profile.Selector // nil: files
	from, to time.Time
	runs     []*gateRun
}

// gateRun is one run: a file, or what a server has of it.
type gateRun struct {
	side
	operations float64 // 0: unknown
}

// operationsLabel is the label, or the beginning of a pprof's comment, that says how many operations a run had.
const operationsLabel = "operations"

// openSides finds out what was asked for: which files there are, and which selectors.
func (a *app) openSides(g *gating) error {
	for i, name := range []string{"baseline", "candidate"} {
		s := &gateSide{name: name}
		g.sides[i] = s
		args := [][]string{g.baseline, g.candidate}[i]
		if len(args) == 0 {
			return usage("--%s is missing: files as 'old/*.pb.gz', or a selector as '{version=\"1.4\"}'", name)
		}
		s.title = strings.Join(args, ", ")
		for _, arg := range args {
			if err := g.open(s, arg, len(args)); err != nil {
				return err
			}
		}
		if s.selector == nil {
			continue
		}
		span, flag := g.spans[i+1], name+"-range"
		if span == "" {
			span, flag = g.spans[0], "range"
		}
		var err error
		if s.from, s.to, err = parseSpan(span, a.now()); err != nil {
			return usage("--%s %s", flag, err)
		}
	}
	b, c := g.sides[0], g.sides[1]
	if b.selector != nil && c.selector != nil && b.title == c.title && b.from.Equal(c.from) && b.to.Equal(c.to) {
		return usage("both sides are the same: %s, %s", b.title, describeRange(b.from, b.to))
	}
	if g.runLabel == "" && g.slices == 0 && (b.selector != nil || c.selector != nil) {
		return &hintError{usage("a selection is one run, and each side needs several: say with --run-label which label tells runs apart"),
			"'profilectl labels' lists labels: run_id, pod, host_name. --slices 10 cuts the range instead; neighbouring slices of one process are alike, so that less is noise than should be."}
	}
	return nil
}

// open takes one argument for files or for a selector.
func (g *gating) open(s *gateSide, arg string, args int) error {
	if trimmed := strings.TrimSpace(arg); trimmed == "" || trimmed[0] == '{' || bareSelector.MatchString(arg) {
		parsed, err := profile.ParseSelector(arg)
		if err != nil {
			return fmt.Errorf("--%s: %w", s.name, err)
		}
		if args > 1 {
			return usage("--%s: a selector stands alone, what it selects are the runs", s.name)
		}
		if parsed == nil {
			parsed = profile.Selector{}
		}
		s.selector, s.title = parsed, parsed.String()+g.d.narrow.describe()
		return nil
	}
	if len(g.d.narrow.traceIDs)+len(g.d.narrow.spanIDs)+len(g.d.narrow.spanName) > 0 {
		return usage("traces and spans are selected on a server, but --%s is files", s.name)
	}
	files := []string{arg}
	if strings.ContainsAny(arg, "*?[") {
		found, err := filepath.Glob(arg)
		if err != nil {
			return usage("--%s %q: %s", s.name, arg, err)
		}
		if len(found) == 0 {
			return &hintError{fmt.Errorf("--%s: no file matches %s", s.name, arg), "Patterns are *, ? and [a-z]; quote them, so that the shell leaves them alone."}
		}
		files = found
	}
	for _, f := range files {
		s.runs = append(s.runs, &gateRun{side: side{name: s.name, file: f, title: f}})
	}
	if len(s.runs) > maxRuns {
		return usage("--%s: %d files, more than %d", s.name, len(s.runs), maxRuns)
	}
	return nil
}

// readRuns gets all profiles, of one type. What a file is decides first: a server has all types, folded text is of any.
func (a *app) readRuns(ctx context.Context, g *gating, filter *queryv1.StackFilter) error {
	var told *profile.Type
	var folded []*gateRun
	for _, s := range g.sides {
		for _, r := range s.runs {
			var err error
			if r.data, err = a.readFile(r.file); err != nil {
				return &hintError{fmt.Errorf("%s: reading %s: %w", s.name, r.file, err), hintForFile(err)}
			}
			if isFolded(r.data) {
				folded = append(folded, r)
				continue
			}
			if err := r.readTyped(&g.d); err != nil {
				return err
			}
			r.findOperations()
			r.data = nil
			if told == nil {
				told = &r.typ
			}
		}
	}
	for _, s := range g.sides {
		if s.selector == nil {
			continue
		}
		typ, err := a.selectRuns(ctx, g, s, told)
		if err != nil {
			return err
		}
		told = &typ
	}
	for _, r := range folded {
		var err error
		if told != nil {
			r.typ = *told
		} else if r.typ, err = parseUploadType(g.d.typ); err != nil {
			return err
		}
		if r.batch, err = profile.ParseFolded(bytes.NewReader(r.data), r.typ, nil); err != nil {
			return &hintError{fmt.Errorf("%s: reading %s: %w", r.name, r.file, err), hintForFile(err)}
		}
		r.data = nil
	}
	if err := g.sameTypes(); err != nil {
		return err
	}
	return a.filterRuns(ctx, g, filter)
}

// sameTypes says whether all values are of one kind.
func (g *gating) sameTypes() error {
	var first *gateRun
	for _, s := range g.sides {
		for _, r := range s.runs {
			if first == nil {
				first = r
			}
			if r.typ.SampleType != first.typ.SampleType || r.typ.SampleUnit != first.typ.SampleUnit {
				return &hintError{fmt.Errorf("%s is %s, but %s is %s: they cannot be compared", first.title, first.typ, r.title, r.typ),
					"Want runs of one type; --type says which, if files have several."}
			}
		}
	}
	return nil
}

// filterRuns fetches what a server has, leaves out the stacks that the filter does, and the runs that have nothing at all.
func (a *app) filterRuns(ctx context.Context, g *gating, filter *queryv1.StackFilter) error {
	scale := g.d.scale
	if scale == "" {
		scale = scaleSamples
		if g.sides[1].firstType(g.sides[0]).Level() {
			scale = scaleNone
		}
	}
	cut := false
	for _, s := range g.sides {
		for i, r := range s.runs {
			var err error
			if r.file == "" {
				if a.errTerm.is {
					fmt.Fprintf(a.err, "\r\x1b[Kfetching the %s, run %d of %d", s.name, i+1, len(s.runs))
				}
				err = a.fetch(ctx, &comparison{typ: r.typ, scale: scale}, &r.side, &g.d, filter)
				if a.errTerm.is {
					fmt.Fprint(a.err, "\r\x1b[K")
				}
				cut = cut || r.stacksCut
				if err == nil {
					r.findOperations()
				}
			} else {
				if r.belowZero() {
					return &hintError{fmt.Errorf("%s: %s has values below zero: it is a difference, no run", s.name, r.file), "Want the profiles that it was made of."}
				}
				err = r.filter(ctx, filter)
			}
			if err != nil {
				return err
			}
			if r.file != "" && r.all == 0 {
				return nothing("%s: %s holds no samples of %s: there is nothing to compare. Leave it out if its run failed.", s.name, r.file, r.typ)
			}
		}
		s.runs = slices.DeleteFunc(s.runs, func(r *gateRun) bool { return r.all == 0 })
		total := int64(0)
		for _, r := range s.runs {
			total += r.total
		}
		switch {
		case len(s.runs) == 0:
			return nothing("%s: no samples of %s match %s, %s.\nTry another range (--%s-range -24h..-23h); 'profilectl labels' and 'profilectl types' list what there is.",
				s.name, g.sides[1].firstType(g.sides[0]), s.title, describeRange(s.from, s.to), s.name)
		case total == 0:
			return nothing("%s: no stack passes the filter. 'profilectl query' lists the names of functions; a part of one is a regular expression: --keep json.", s.name)
		}
	}
	a.sayCut(cut)
	if cut {
		g.warnings = append(g.warnings, fmt.Sprintf("some runs had too many stacks for one answer: callers of what became %q seem to cost less than they do", profile.CutName))
	}
	return nil
}

func (r *gateRun) belowZero() bool {
	for i := range r.batch.Profiles {
		if slices.ContainsFunc(r.batch.Profiles[i].Samples, func(s profile.Sample) bool { return s.Value < 0 }) {
			return true
		}
	}
	return false
}

// firstType is the type of the runs, which is the same on both sides.
func (s *gateSide) firstType(other *gateSide) profile.Type {
	for _, r := range append(slices.Clone(s.runs), other.runs...) {
		return r.typ
	}
	return profile.TypeCPU
}

// selectRuns asks the server which runs a selection has.
func (a *app) selectRuns(ctx context.Context, g *gating, s *gateSide, told *profile.Type) (profile.Type, error) {
	ask := side{name: s.name, selector: s.selector.String(), title: s.title, from: s.from, to: s.to}
	if err := a.findServersType(ctx, &g.d, &ask, told); err != nil {
		return ask.typ, err
	}
	add := func(selector profile.Selector, title string, from, to time.Time) {
		r := &gateRun{side: ask}
		r.selector, r.title, r.from, r.to = selector.String(), title, from, to
		if !from.IsZero() && !to.IsZero() {
			r.length = to.Sub(from)
		}
		s.runs = append(s.runs, r)
	}
	if g.slices > 0 {
		if s.from.IsZero() || s.to.IsZero() {
			return ask.typ, usage("--slices: the range of the %s has no beginning: want one as -1h..now", s.name)
		}
		step := s.to.Sub(s.from) / time.Duration(g.slices)
		for i := range g.slices {
			from := s.from.Add(time.Duration(i) * step)
			add(s.selector, fmt.Sprintf("%s, %s", s.title, describeRange(from, from.Add(step))), from, from.Add(step))
		}
		return ask.typ, nil
	}
	values, truncated, err := a.listLabels(ctx, ask.selection(&g.d.narrow), []string{g.runLabel}, maxRuns)
	if err != nil {
		return ask.typ, err
	}
	if truncated {
		return ask.typ, usage("--run-label %s: %s has more than %d values in the %s's range: want a shorter one, or another label", g.runLabel, s.title, maxRuns, s.name)
	}
	for _, v := range values {
		matcher, err := profile.NewMatcher(g.runLabel, profile.MatchEqual, v)
		if err != nil {
			return ask.typ, err
		}
		if v != "" {
			add(append(slices.Clone(s.selector), matcher), fmt.Sprintf("%s=%q", g.runLabel, v), s.from, s.to)
		}
	}
	if len(s.runs) == 0 {
		return ask.typ, &hintError{fmt.Errorf("%s: nothing that matches %s has the label %s, %s", s.name, s.title, g.runLabel, describeRange(s.from, s.to)),
			"'profilectl labels' lists the names of labels; try another range with --range -24h..now."}
	}
	return ask.typ, nil
}

// findOperations looks for how many operations a run had: a label, or a comment in a pprof.
func (r *gateRun) findOperations() {
	note := func(text string) {
		if n, err := strconv.ParseFloat(strings.TrimSpace(text), 64); err == nil && n > 0 && n < 1e18 {
			r.operations = n
		}
	}
	for i := range r.batch.Profiles {
		note(r.batch.Profiles[i].Labels.Get(operationsLabel))
	}
	if r.operations != 0 || r.data == nil || profile.IsJFR(r.data) || profile.IsSpeedscope(r.data) || !bytes.Contains(r.data, []byte(operationsLabel+":")) {
		return
	}
	if p, err := pprof.ParseData(r.data); err == nil {
		for _, c := range p.Comments {
			if text, ok := strings.CutPrefix(c, operationsLabel+":"); ok {
				note(text)
			}
		}
	}
}

// withOperations adds the comment that findOperations reads. What is no pprof stays as it is.
func withOperations(data []byte, operations float64) ([]byte, error) {
	p, err := pprof.ParseData(data)
	if err != nil {
		return data, nil
	}
	p.Comments = append(p.Comments, operationsLabel+": "+number(operations))
	var buf bytes.Buffer
	if err := p.Write(&buf); err != nil {
		return nil, fmt.Errorf("writing a profile's comment: %w", err)
	}
	return buf.Bytes(), nil
}
