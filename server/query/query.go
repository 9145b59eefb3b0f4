// Package query answers questions about stored profiles: it finds the profile type that is meant, merges
// what the selection holds, names the addresses that are not named yet, and cuts the answer to size.
//
//	text ─▶ profile type ┐
//	selector, time range ┴▶ Store.Merge ─▶ Symbolize ─▶ profile.Tree | Top | pprof | folded text
//
// An [Engine] holds no profiles of its own, only a bounded cache of names. Equal questions over equal data
// get equal answers, byte for byte.
package query

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-kit/log"
	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/symbolize"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
)

// Options for New.
type Options struct {
	// Store is asked. Required.
	Store storage.Store
	// Resolver names native addresses. Default: they stay addresses.
	Resolver symbolize.Resolver
	// CacheAddresses is how many resolved addresses are kept. Default 200 000, about 40 MB.
	CacheAddresses int
	// Logger gets a line for every file that cannot be symbolized. Default: none.
	Logger log.Logger
	// Registerer gets the metrics. Default: none.
	Registerer prometheus.Registerer
	// OnError is told what went wrong, for the debug page, from several goroutines at once. Default: nobody.
	OnError func(where string, err error)
}

// Engine answers. Its methods are safe for concurrent use.
type Engine struct {
	opts    Options
	cache   *cache
	logger  log.Logger
	metrics metrics
}

// New returns an Engine.
func New(opts Options) (*Engine, error) {
	if opts.Store == nil {
		return nil, errors.New("making the query engine: no store")
	}
	if opts.CacheAddresses == 0 {
		opts.CacheAddresses = 200_000
	}
	if opts.Logger == nil {
		opts.Logger = log.NewNopLogger()
	}
	return &Engine{opts: opts, cache: newCache(opts.CacheAddresses), logger: opts.Logger, metrics: newMetrics(opts.Registerer)}, nil
}

// Question is a selection, and what is wanted of it.
type Question struct {
	// Selection's Type is required.
	Selection storage.Selection
	// By makes a profile of each group of equal values of these labels; none makes one profile of all.
	By []string
	// Filter says which stacks count. Default: all.
	Filter profile.StackFilter
}

// Merged is everything a selection holds, summed by stack, with names.
type Merged struct {
	Batch *profile.Batch
	// Profile is the batch's first one, and the only one if the question groups by nothing; it has no samples if
	// nothing was selected.
	Profile *profile.Profile
	// Series is how many label sets were merged.
	Series int
	// StacksCut says that the store left the least stacks together.
	StacksCut bool
	// Unfiltered is the sum of everything selected, whatever the filter left out.
	Unfiltered int64
}

// Stacks is how many distinct stacks the profiles have.
func (m *Merged) Stacks() int {
	if len(m.Batch.Profiles) == 1 {
		return len(m.Profile.Samples) // the store has merged them
	}
	seen, n := make([]bool, len(m.Batch.Dictionary.Stacks)), 0
	for i := range m.Batch.Profiles {
		for _, s := range m.Batch.Profiles[i].Samples {
			if !seen[s.Stack] {
				seen[s.Stack] = true
				n++
			}
		}
	}
	return n
}

// Merge sums the samples of a selection and names their frames. sel.Type is required.
func (e *Engine) Merge(ctx context.Context, sel storage.Selection) (*Merged, error) {
	return e.Ask(ctx, Question{Selection: sel})
}

// Ask sums the samples of a selection, names their frames and leaves out what the filter does. Of levels it answers the
// mean over time.
func (e *Engine) Ask(ctx context.Context, q Question) (*Merged, error) {
	m, err := e.gather(ctx, q)
	if err != nil {
		return nil, err
	}
	return m, e.finish(ctx, q, m)
}

// gather asks the store.
func (e *Engine) gather(ctx context.Context, q Question) (*Merged, error) {
	m := &Merged{}
	work, workCtx := errgroup.WithContext(ctx)
	var mean float64
	if q.Selection.Type != nil && q.Selection.Type.Level() {
		work.Go(func() (err error) {
			mean, err = e.mean(workCtx, q.Selection)
			return err
		})
	}
	work.Go(func() (err error) {
		if m.Batch, err = e.opts.Store.Merge(workCtx, q.Selection, q.By); err != nil {
			return fmt.Errorf("merging profiles: %w", err)
		}
		return nil
	})
	work.Go(func() error {
		sets, err := e.opts.Store.Labels(workCtx, q.Selection)
		if err != nil {
			return fmt.Errorf("counting series: %w", err)
		}
		m.Series = len(sets)
		return nil
	})
	if err := work.Wait(); err != nil {
		return nil, err
	}
	if len(m.Batch.Profiles) == 0 {
		m.Batch.Profiles = []profile.Profile{{Type: *q.Selection.Type}}
	}
	m.Profile = &m.Batch.Profiles[0]
	m.StacksCut = slices.ContainsFunc(m.Batch.Dictionary.Frames, func(f profile.Frame) bool { return f.Kind == profile.KindCut })
	for i := range m.Batch.Profiles {
		m.Unfiltered += m.Batch.Profiles[i].Total()
	}
	if q.Selection.Type.Level() {
		m.average(mean)
	}
	return m, nil
}

// finish does what needs names.
func (e *Engine) finish(ctx context.Context, q Question, m *Merged) error {
	if err := e.Symbolize(ctx, m.Batch); err != nil {
		return err
	}
	return q.Filter.Apply(ctx, m.Batch)
}

// Series sums a selection over time, in groups, as [storage.Store] says. What the filter leaves out counts 0.
func (e *Engine) Series(ctx context.Context, q Question, step time.Duration) ([]storage.TimeSeries, error) {
	e.judge(&q)
	series, err := e.opts.Store.Series(ctx, q.Selection, q.By, step)
	if err != nil {
		return nil, fmt.Errorf("summing over time: %w", err)
	}
	return series, nil
}

// Exemplars returns the most spans of the largest value for each group and step, as [storage.Store] says. What the
// filter leaves out counts 0.
func (e *Engine) Exemplars(ctx context.Context, q Question, step time.Duration, most int) ([]storage.Exemplar, error) {
	e.judge(&q)
	list, err := e.opts.Store.Exemplars(ctx, q.Selection, q.By, step, most)
	if err != nil {
		return nil, fmt.Errorf("looking for exemplars: %w", err)
	}
	return list, nil
}

// judge lets the store ask which stacks the filter keeps.
func (e *Engine) judge(q *Question) {
	if !q.Filter.Empty() {
		filter := q.Filter
		q.Selection.Stacks = func(ctx context.Context, d *profile.Dictionary) ([]bool, error) { return e.kept(ctx, &filter, d) }
	}
}

// kept says which stacks of a dictionary a filter keeps, after it has named their frames.
func (e *Engine) kept(ctx context.Context, f *profile.StackFilter, d *profile.Dictionary) ([]bool, error) {
	samples := make([]profile.Sample, len(d.Stacks))
	for i := range samples {
		samples[i].Stack = profile.StackIndex(i)
	}
	b := &profile.Batch{Dictionary: d, Profiles: []profile.Profile{{Samples: samples}}}
	if err := e.Symbolize(ctx, b); err != nil {
		return nil, err
	}
	if err := f.Apply(ctx, b); err != nil {
		return nil, err
	}
	kept := make([]bool, len(d.Stacks))
	for _, s := range b.Profiles[0].Samples {
		kept[s.Stack] = true
	}
	return kept, nil
}

type metrics struct {
	resolved   prometheus.Counter
	unresolved *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) metrics {
	m := metrics{
		resolved: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "perfuse_query_resolved_addresses_total", Help: "Addresses that the resolver was asked for and answered.",
		}),
		unresolved: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "perfuse_query_unresolved_addresses_total",
			Help: "Addresses that stayed without a name, by reason (no_debuginfo, not_covered, error).",
		}, []string{"reason"}),
	}
	if reg != nil {
		reg.MustRegister(m.resolved, m.unresolved)
	}
	return m
}
