// Package gate judges whether a candidate became slower than its baseline, from several profiles of each, and is right
// about noise. It is pure: no I/O, and the same runs give the same judgement.
//
// The unit is the run: a benchmark's, a pod's, a recording's. Samples of one run are not independent of each other, so
// whole runs are relabelled and no sample ever is. A judgement takes these steps:
//
//	runs ─▶ ledger: every function and call path by run ─▶ renamed functions become one
//	     ─▶ which functions count: by all runs together, so that it does not depend on which side a run is on
//	     ─▶ one test for each self value and total, adjusted for how many there are      (statistic.go)
//	     ─▶ the ratio with its interval, by inverting that test
//	     ─▶ what only moved, what is because of what                                     (cause.go)
//	     ─▶ the smallest change that these runs could have shown                         (power.go)
//
// A function fails the gate if it is a discovery, if the lower end of its ratio's interval is above the limit, and if it is
// large enough to matter. All else passes, unless the runs could not have shown a change as large as the limit: then
// nobody can tell.
package gate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/perfuse/perfuse/profile"
)

// Everything is the name of all functions together.
const Everything = "everything"

// Run is what one run measured: profiles of one type, of which each value times Scale is compared with those of other
// runs. Scale 0 means 1.
type Run struct {
	Batch *profile.Batch
	Scale float64
}

// Options say when a gate fails. The zero value works.
type Options struct {
	// MaxRegression is by how much a function may become slower. Default 0.05; below zero: not at all.
	MaxRegression float64
	// MinShare is how much of everything, on either side, a function must be to count. Default 0.01; below zero: all count.
	MinShare float64
	// FDR is the share of wrong discoveries to be expected. Default 0.05.
	FDR float64
	// Confidence is how often intervals have the true ratio. Default 0.95.
	Confidence float64
	// Paired says that the first run of the baseline was made together with the first one of the candidate, and so on.
	Paired bool
	// Shares says that scales make each run's sum the same: everything cannot change then.
	Shares bool
	// KeepAllocators leaves what allocators take with them; by default it counts for who called them.
	KeepAllocators bool
	// Relabellings is how many are looked at if there are more. Default 10000.
	Relabellings int
	// Seed is that of the relabellings; 0: made of the data.
	Seed uint64
}

func (o *Options) setDefaults() {
	set := func(v *float64, to float64) {
		if *v == 0 {
			*v = to
		}
		*v = max(*v, 0)
	}
	set(&o.MaxRegression, 0.05)
	set(&o.MinShare, 0.01)
	set(&o.FDR, 0.05)
	set(&o.Confidence, 0.95)
	if o.Relabellings <= 0 {
		o.Relabellings = 10000
	}
}

// chance is the p-value that both conditions of a regression want.
func (o *Options) chance() float64 { return min(o.FDR, (1-o.Confidence)/2) }

// LeastRuns is how many runs of each side it takes to tell anything.
func (o Options) LeastRuns() int {
	o.setDefaults()
	return runsFor(o.chance(), o.Paired)
}

// Verdict is a gate's answer.
type Verdict uint8

// The answers.
const (
	Pass Verdict = iota
	Regression
	CouldNotTell
)

func (v Verdict) String() string { return [...]string{"pass", "regression", "could not tell"}[v] }

// Status is what became of a function.
type Status uint8

// What can become of a function, worst first.
const (
	Slower  Status = iota // it fails the gate
	Because               // its total grew by what it calls, or by what it costs itself: see Causes
	Moved                 // its cost came from a neighbour, and their caller costs what it did: see Causes
	Added                 // there is none in the baseline; its callers' totals say whether that is too much
	Perhaps               // slower for sure, but not for sure by more than the limit
	Within                // slower for sure, and for sure within the limit
	Faster                // for sure
	Gone                  // there is none in the candidate
	Renamed               // and nothing else was found: see Was
	Same                  // nothing was found
)

func (s Status) String() string {
	return [...]string{"slower", "because", "moved", "new", "perhaps", "within limit", "faster", "gone", "renamed", "same"}[s]
}

// Comparison is a value on both sides.
type Comparison struct {
	Baseline, Candidate float64 // means over runs
	Ratio, Low, High    float64 // of the candidate to the baseline, with its interval; +Inf if there is no baseline
	// P is that of being slower, PFaster that of being faster, adjusted for all that were tested; 1 if it was not.
	P, PFaster float64
	// Effect is the smallest change that these runs show in four of five cases: 0.03 is 3 %. +Inf if none.
	Effect float64
	Tested bool

	series *series
}

// Change is by how much the candidate is above the baseline.
func (c *Comparison) Change() float64 { return c.Candidate - c.Baseline }

// Bounded says whether there is an interval: there is none of what was not looked at, or of too few runs.
func (c *Comparison) Bounded() bool { return c.Low > 0 || !math.IsInf(c.High, 1) }

// Row is what became of one function.
type Row struct {
	Function
	Line   int32 // where it begins in its file, 0 if unknown
	Status Status
	// ByTotal says that it is the total that Status speaks of, not the self value.
	ByTotal     bool
	Self, Total Comparison
	Share       float64 // of everything: the larger of both sides, of the value that Status speaks of
	Was         string  // its name in the baseline if it was renamed
	Causes      []string
	Paths       []Path

	at  int32   // in the ledger
	own float64 // its change without that of its causes
}

// Speaks returns the value that the status speaks of.
func (r *Row) Speaks() *Comparison {
	if r.ByTotal {
		return &r.Total
	}
	return &r.Self
}

// Path is a call path from the root, on which a function became slower or faster.
type Path struct {
	Functions           []string
	Baseline, Candidate float64
}

// Report is a judgement.
type Report struct {
	Verdict Verdict
	// Why says in words why nobody can tell; else it is empty.
	Why string
	// Runs of the baseline and of the candidate, and by how much they vary: standard deviation by mean.
	Runs   [2]int
	Spread [2]float64
	All    Row // everything
	// Rows are the functions that count, the causes of regressions first, by how much slower they became.
	Rows []Row
	// Tested is how many self values and totals were tested, with how many relabellings, of which there are no more if Exact.
	Tested, Relabellings int
	Exact                bool
	// Effect is the smallest change that these runs could have shown in everything, or, of shares, in the functions that make
	// up half of all cost; RunsWanted is how many runs of each side would show one as large as the limit, 0 if these do or nobody knows.
	Effect     float64
	RunsWanted int
	Warnings   []string
	Options    Options // with their defaults
}

// Regressions are the rows that fail the gate.
func (r *Report) Regressions() []Row {
	return slices.DeleteFunc(slices.Clone(r.Rows), func(r Row) bool { return r.Status != Slower })
}

// Errors of [Judge].
var (
	ErrFewRuns  = errors.New("each side needs two runs at least, to see how much they vary")
	ErrPairs    = errors.New("pairs need as many runs of the baseline as of the candidate")
	ErrTooLarge = errors.New("the runs have too many call paths to be compared")
)

// Judge compares the runs of a candidate with those of a baseline, all of one profile type. The batches stay as they are.
func Judge(ctx context.Context, baseline, candidate []Run, o Options) (*Report, error) {
	o.setDefaults()
	switch {
	case len(baseline) < 2 || len(candidate) < 2:
		return nil, fmt.Errorf("%w: there are %d and %d", ErrFewRuns, len(baseline), len(candidate))
	case o.Paired && len(baseline) != len(candidate):
		return nil, fmt.Errorf("%w: there are %d and %d", ErrPairs, len(baseline), len(candidate))
	}
	fold := !o.KeepAllocators && len(candidate[0].Batch.Profiles) > 0 && candidate[0].Batch.Profiles[0].Type.Memory()
	ledger, err := newLedger(ctx, withScales(baseline), withScales(candidate), fold)
	if err != nil {
		return nil, err
	}
	j := &judge{ledger: ledger, o: o}
	return j.judge(), nil
}

func withScales(runs []Run) []Run {
	out := slices.Clone(runs)
	for i := range out {
		if out[i].Scale == 0 {
			out[i].Scale = 1
		}
	}
	return out
}

// judge is one judgement.
type judge struct {
	*ledger
	o       Options
	r       *relabellings
	rows    []Row
	row     map[int32]int // by function of the ledger
	renamed map[int32]string
	all     [2]float64 // everything, by side
	tested  []*Comparison
}

func (j *judge) judge() *Report {
	j.renamed = j.findRenamed()
	seed := j.o.Seed
	if seed == 0 {
		seed = j.seed()
	}
	j.r = newRelabellings(j.n, j.runs-j.n, j.o.Paired, j.o.Relabellings, rand.New(rand.NewPCG(seed, 0)))
	j.collect()
	j.test()
	j.judgeRows()

	report := &Report{
		Runs: [2]int{j.n, j.runs - j.n}, Tested: len(j.tested), Relabellings: len(j.r.list), Exact: j.r.exact, Options: j.o,
		Warnings: j.warnings(),
	}
	report.Spread[0], report.Spread[1] = spread(j.total[:j.n]), spread(j.total[j.n:j.runs])
	j.power(report)
	if slices.ContainsFunc(j.rows, func(r Row) bool { return r.Status == Slower }) {
		report.Verdict, report.Why = Regression, ""
	}
	report.All, report.Rows = j.rows[0], slices.Clone(j.rows[1:])
	if report.All.Status == Slower {
		report.Rows = append(report.Rows, report.All) // its own cause: no function is one
	}
	sortRows(report.Rows)
	for i := range report.Rows {
		if r := &report.Rows[i]; r.Status != Same {
			r.Paths = j.paths(r)
		}
	}
	return report
}

func spread(values []float64) float64 {
	var mean, squares float64
	for _, v := range values {
		mean += v / float64(len(values))
	}
	if mean == 0 {
		return 0
	}
	for _, v := range values {
		squares += (v - mean) * (v - mean)
	}
	if s := math.Sqrt(squares/float64(len(values)-1)) / mean; s > 1e-12 {
		return s
	}
	return 0 // but for rounding
}

// collect makes rows of the functions that are large enough on average of all runs. That they must be half of MinShare there
// lets in those that only one side has.
func (j *judge) collect() {
	pooled := 0.0
	for _, v := range j.total[:j.runs] {
		pooled += v
	}
	j.all[0], j.all[1] = j.means(j.total[:j.runs])
	j.row = map[int32]int{}
	all := j.samples(j.total[:j.runs])
	counts := func(values []float64) bool {
		sum := 0.0
		for _, v := range values {
			sum += v
		}
		return sum > 0 && sum >= j.o.MinShare/2*pooled
	}
	compare := func(values []float64) Comparison {
		c := Comparison{P: 1, PFaster: 1, Effect: math.Inf(1), Tested: counts(values), series: newSeries(values, j.n)}
		c.Baseline, c.Candidate = j.means(values)
		c.Ratio, c.Low, c.High = c.series.ratio(), 0, math.Inf(1)
		if samples := j.samples(values); samples > 0 {
			c.series.floor = floorOf(samples, samples/all, j.n, j.runs-j.n)
		}
		return c
	}
	for f := range j.functions {
		row := Row{Function: j.functions[f], Line: j.lines[f], Status: Same, at: int32(f), Was: j.renamed[int32(f)]}
		row.Total = compare(j.at(j.totalBy, row.at))
		row.Self = compare(j.at(j.selfBy, row.at))
		if f == 0 {
			row.Total.Tested = !j.o.Shares
			row.Self.Tested, row.ByTotal = false, true
		} else if !isCode(&row.Function) || !row.Total.Tested && !row.Self.Tested {
			continue
		}
		j.row[row.at] = len(j.rows)
		j.rows = append(j.rows, row)
	}
}

// isCode says whether it is a function at all. What a server cut travels by its name.
func isCode(f *Function) bool {
	return f.Kind != profile.KindUnwind && f.Kind != profile.KindCut && f.Name != profile.CutName
}

// test fills p-values and intervals.
func (j *judge) test() {
	var list []*series
	for i := range j.rows {
		for _, c := range []*Comparison{&j.rows[i].Self, &j.rows[i].Total} {
			if c.Tested {
				j.tested = append(j.tested, c)
				list = append(list, c.series)
			}
		}
	}
	p, faster := j.r.stepDown(list, 1), j.r.stepDown(list, -1)
	for i, c := range j.tested {
		c.P, c.PFaster = p[i], faster[i]
		if j.found(c) || j.foundFaster(c) || c == &j.rows[0].Total {
			j.fillInterval(c)
		}
	}
}

func (j *judge) fillInterval(c *Comparison) {
	c.Low, c.High = j.r.interval(c.series, (1-j.o.Confidence)/2)
}

func (j *judge) found(c *Comparison) bool       { return c.Tested && c.P <= j.o.FDR }
func (j *judge) foundFaster(c *Comparison) bool { return c.Tested && c.PFaster <= j.o.FDR }

// share is how much of everything a value is on the side where that is more.
func (j *judge) share(c *Comparison) float64 {
	share := 0.0
	for i, v := range [2]float64{c.Baseline, c.Candidate} {
		if j.all[i] > 0 {
			share = max(share, v/j.all[i])
		}
	}
	return share
}

// fails says whether a value alone would fail the gate.
func (j *judge) fails(c *Comparison) bool {
	return j.found(c) && c.Baseline > 0 && c.Low > 1+j.o.MaxRegression && j.share(c) >= j.o.MinShare
}
