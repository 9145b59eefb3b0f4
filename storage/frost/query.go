package frost

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/dictionary"
)

// group is the place of a series in an answer; 0 is none.
type group uint32

// question is a selection in the store's terms, and what it is to be read from.
type question struct {
	s      *Store
	groups []group          // by series
	labels []profile.Labels // by group, from 1 on
	bounds bounds
	linked bool
	// totals says that a row's total stands for its samples, where all of them are selected and, but for levels, none
	// has a time of its own.
	totals, level bool
	// onlyLinks says that samples without a link do not matter.
	onlyLinks bool
	traces    map[profile.TraceID]bool
	spans     map[profile.SpanID]bool
	names     map[dictionary.StringID]bool
	heads     []*head
	blocks    []*block
}

func nanos(t time.Time, unset int64) int64 {
	switch {
	case t.IsZero():
		return unset
	case t.Unix() <= math.MinInt64/int64(time.Second):
		return math.MinInt64
	case t.Unix() >= math.MaxInt64/int64(time.Second):
		return math.MaxInt64
	}
	return t.UnixNano()
}

// timeRange returns the bounds of a selection in nanoseconds, the end not included.
func timeRange(start, end time.Time) (from, to int64) {
	return max(nanos(start, 0), 0), nanos(end, math.MaxInt64)
}

// ask makes a question of a selection. groupOf gives each series' labels in the answer. The caller must call
// release. A question that nothing can answer has neither heads nor blocks.
func (s *Store) ask(sel storage.Selection, from, to int64, groupOf func(*seriesEntry) profile.Labels) *question {
	q := &question{s: s, linked: len(sel.TraceIDs)+len(sel.SpanIDs)+len(sel.SpanNames) > 0, labels: make([]profile.Labels, 1)}
	if len(sel.TraceIDs) > 0 {
		q.traces = setOf(sel.TraceIDs)
	}
	if len(sel.SpanIDs) > 0 {
		q.spans = setOf(sel.SpanIDs)
	}
	if len(sel.SpanNames) > 0 {
		q.names = map[dictionary.StringID]bool{}
		for _, n := range sel.SpanNames {
			if id, ok := s.dict.FindText(n); ok {
				q.names[id] = true
			}
		}
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	q.groups = make([]group, len(s.index.byID))
	q.bounds = bounds{services: [2]int64{math.MaxInt64, -1}, series: [2]int64{math.MaxInt64, -1}, from: from, to: to}
	known := map[string]group{}
	var selected []dictionary.SeriesID
	s.index.match(sel.Type, sel.Selector, func(id dictionary.SeriesID, e *seriesEntry) {
		ls := groupOf(e)
		key := ls.String()
		g, ok := known[key]
		if !ok {
			g = group(len(q.labels))
			q.labels = append(q.labels, ls)
			known[key] = g
		}
		q.groups[id] = g
		selected = append(selected, id)
		// A value that a series has is in the dictionary.
		service, _ := s.dict.FindText(e.labels.Get(profile.LabelServiceName))
		q.bounds.services[0], q.bounds.services[1] = min(q.bounds.services[0], int64(service)), max(q.bounds.services[1], int64(service))
		q.bounds.series[0], q.bounds.series[1] = min(q.bounds.series[0], int64(id)), max(q.bounds.series[1], int64(id))
	})
	if len(selected) == 0 || from >= to {
		return q
	}
	has := func(sp *span) bool {
		if !sp.overlaps(from, to) {
			return false
		}
		a, b := bucketOf(from), bucketOf(to-1)
		if len(sp.series) < len(selected) {
			for id, rs := range sp.series {
				if int(id) < len(q.groups) && q.groups[id] != 0 && rs.overlap(a, b) {
					return true
				}
			}
			return false
		}
		return slices.ContainsFunc(selected, func(id dictionary.SeriesID) bool {
			rs := sp.series[id]
			return rs != nil && rs.overlap(a, b)
		})
	}
	for _, h := range append(s.sealed[:len(s.sealed):len(s.sealed)], s.active) {
		if has(&h.span) {
			h.readers.Add(1)
			q.heads = append(q.heads, h)
		}
	}
	for _, b := range s.blocks {
		if has(&b.span) {
			b.readers.Add(1)
			q.blocks = append(q.blocks, b)
		}
	}
	return q
}

func setOf[T comparable](list []T) map[T]bool {
	m := make(map[T]bool, len(list))
	for _, v := range list {
		m[v] = true
	}
	return m
}

// release lets go of what the question reads from.
func (q *question) release() {
	for _, h := range q.heads {
		h.readers.Done()
	}
	for _, b := range q.blocks {
		b.readers.Done()
	}
	q.heads, q.blocks = nil, nil
}

// part is a row and those of its samples that are selected.
type part struct {
	row   *row
	group group
	// samples are nil if the row's total stands for them.
	samples *samplesOf
	// all says that every sample is selected; else picked has the indices of those that are.
	all    bool
	picked []int
}

// each calls f with the index in the row of every selected sample.
func (p *part) each(f func(i int)) {
	if p.all {
		for i := range p.samples.stacks {
			f(i)
		}
		return
	}
	for _, i := range p.picked {
		f(i)
	}
}

// time is when sample i was taken.
func (p *part) time(i int) int64 {
	if len(p.samples.times) == 0 {
		return p.row.time
	}
	return p.samples.times[i]
}

// want says what of a row is to be read.
func (q *question) want(c *recordColumns, i int) reading {
	id, time, first, last := c.ints[colSeries][i], c.ints[colTime][i], c.ints[colFirst][i], c.ints[colLast][i]
	switch {
	case id < 0 || id >= int64(len(q.groups)) || q.groups[id] == 0 || last < q.bounds.from || first >= q.bounds.to:
		return readNothing
	case q.totals && !q.linked && first >= q.bounds.from && last < q.bounds.to && (q.level || first == time && last == time):
		return readNumbers
	}
	return readAll
}

// scan calls each of fns, from one goroutine each, with the selected parts of the data.
func (q *question) scan(ctx context.Context, fns ...func(*part) error) error {
	var unread atomic.Bool // there are rows in memory that need their samples
	readers := func(from, to reading) []func(*recordColumns) error {
		out := make([]func(*recordColumns) error, len(fns))
		for i, fn := range fns {
			out[i] = q.reader(fn, from, to, &unread)
		}
		return out
	}
	for _, h := range q.heads {
		from := readNumbers
		if q.totals {
			if err := h.scan(ctx, q.bounds, readNumbers, readers(readNumbers, readNumbers)...); err != nil {
				return err
			}
			if !unread.Swap(false) {
				continue
			}
			from = readAll
		}
		if err := h.scan(ctx, q.bounds, readAll, readers(from, readAll)...); err != nil {
			return err
		}
	}
	return scanBlocks(ctx, q.blocks, q.bounds, q.want, readers(readNumbers, readAll)...)
}

// reader gives fn the parts of rows of which something between from and to is wanted, and notes whether there is one
// of which more is.
func (q *question) reader(fn func(*part) error, from, to reading, more *atomic.Bool) func(*recordColumns) error {
	var decoded samplesOf
	var p part
	return func(c *recordColumns) error {
		for i := range c.n {
			w := q.want(c, i)
			if w > to {
				more.Store(true)
			}
			if w < from || w > to {
				continue
			}
			r := c.row(i)
			p.row, p.group = &r, q.groups[r.series]
			p.samples, p.all = nil, true
			if w == readAll {
				if q.onlyLinks && len(r.payload) > 0 && r.payload[0]&flagLinks == 0 {
					continue
				}
				if err := decoded.decode(r.payload, r.time); err != nil {
					return fmt.Errorf("reading a row of series %d: %w", r.series, err)
				}
				p.samples = &decoded
				if q.pick(&p); !p.all && len(p.picked) == 0 || len(decoded.stacks) == 0 {
					continue
				}
			}
			if err := fn(&p); err != nil {
				return err
			}
		}
		return nil
	}
}

// pick selects the samples of a row.
func (q *question) pick(p *part) {
	within := p.row.first >= q.bounds.from && p.row.last < q.bounds.to
	p.all, p.picked = within && !q.linked, p.picked[:0]
	if p.all {
		return
	}
	s := p.samples
	for i := range s.stacks {
		if t := p.time(i); !within && (t < q.bounds.from || t >= q.bounds.to) {
			continue
		}
		if q.linked {
			var l link
			if len(s.links) > 0 && s.links[i] != 0 {
				l = s.table[s.links[i]]
			}
			if q.traces != nil && !q.traces[l.trace] || q.spans != nil && !q.spans[l.span] || q.names != nil && !q.names[l.name] {
				continue
			}
		}
		p.picked = append(p.picked, i)
	}
}

// workers is how many goroutines scan.
func workers() int { return min(runtime.GOMAXPROCS(0), 4) }

// queryError makes an error of a scan the caller's.
func queryError(ctx context.Context, what string, err error) error {
	if cerr := ctx.Err(); cerr != nil {
		return cerr
	}
	if err != nil && !errors.Is(err, storage.ErrLimit) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return err
}

// found calls f, once, for every series that has samples in the selection, as exactly as the index knows time.
func (s *Store) found(ctx context.Context, sel storage.Selection, f func(*seriesEntry)) error {
	from, to := coarse(timeRange(sel.Start, sel.End))
	if len(sel.TraceIDs)+len(sel.SpanIDs)+len(sel.SpanNames) > 0 {
		return s.foundLinked(ctx, sel, from, to, f)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if from >= to {
		return nil
	}
	a, b := bucketOf(from), bucketOf(to-1)
	var spans []*span
	for _, h := range append(s.sealed[:len(s.sealed):len(s.sealed)], s.active) {
		if h.span.overlaps(from, to) {
			spans = append(spans, &h.span)
		}
	}
	for _, blk := range s.blocks {
		if blk.span.overlaps(from, to) {
			spans = append(spans, &blk.span)
		}
	}
	s.index.match(sel.Type, sel.Selector, func(id dictionary.SeriesID, e *seriesEntry) {
		for _, sp := range spans {
			if rs := sp.series[id]; rs != nil && rs.overlap(a, b) {
				f(e)
				return
			}
		}
	})
	return ctx.Err()
}

// foundLinked looks into the samples: the index does not know links.
func (s *Store) foundLinked(ctx context.Context, sel storage.Selection, from, to int64, f func(*seriesEntry)) error {
	q := s.ask(sel, from, to, func(*seriesEntry) profile.Labels { return nil })
	defer q.release()
	seen := make([]atomic.Bool, len(q.groups))
	fn := func(p *part) error {
		seen[p.row.series].Store(true)
		return nil
	}
	fns := make([]func(*part) error, workers())
	for i := range fns {
		fns[i] = fn
	}
	if err := q.scan(ctx, fns...); err != nil {
		return queryError(ctx, "looking for links", err)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for id := range seen {
		if seen[id].Load() {
			f(&s.index.byID[id])
		}
	}
	return nil
}

// Types implements storage.Store.
func (s *Store) Types(ctx context.Context, start, end time.Time) ([]profile.Type, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	defer s.metrics.query("types", s.o.Now())
	seen := map[profile.Type]bool{}
	if err := s.found(ctx, storage.Selection{Start: start, End: end}, func(e *seriesEntry) { seen[e.typ] = true }); err != nil {
		return nil, err
	}
	return slices.SortedFunc(maps.Keys(seen), func(a, b profile.Type) int { return cmp.Compare(a.String(), b.String()) }), nil
}

// LabelNames implements storage.Store.
func (s *Store) LabelNames(ctx context.Context, sel storage.Selection) ([]string, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	defer s.metrics.query("label_names", s.o.Now())
	seen := map[string]bool{}
	err = s.found(ctx, sel, func(e *seriesEntry) {
		for _, l := range e.labels {
			seen[l.Name] = true
		}
	})
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(seen)), nil
}

// LabelValues implements storage.Store.
func (s *Store) LabelValues(ctx context.Context, name string, sel storage.Selection) ([]string, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	defer s.metrics.query("label_values", s.o.Now())
	seen := map[string]bool{}
	err = s.found(ctx, sel, func(e *seriesEntry) {
		if v := e.labels.Get(name); v != "" {
			seen[v] = true
		}
	})
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(seen)), nil
}

// Labels implements storage.Store.
func (s *Store) Labels(ctx context.Context, sel storage.Selection) ([]profile.Labels, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	defer s.metrics.query("labels", s.o.Now())
	var out []profile.Labels
	err = s.found(ctx, sel, func(e *seriesEntry) { out = append(out, slices.Clone(e.labels)) })
	if err != nil {
		return nil, err
	}
	// Series of several types have the same labels.
	slices.SortFunc(out, profile.Labels.Compare)
	return slices.CompactFunc(out, func(a, b profile.Labels) bool { return a.Compare(b) == 0 }), nil
}

// groupBy returns the labels that a series has in an answer grouped by names.
func groupBy(by []string) func(*seriesEntry) profile.Labels {
	return func(e *seriesEntry) profile.Labels {
		var out profile.Labels
		for _, l := range e.labels {
			if slices.Contains(by, l.Name) {
				out = append(out, l)
			}
		}
		return out
	}
}
