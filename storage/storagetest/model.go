package storagetest

import (
	"bytes"
	"context"
	"fmt"
	"math/big"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
)

// Model is a storage.Store that keeps everything in a slice and answers by looking at all of it. It is the
// meaning of the contract, written as plainly as possible, and what other stores are compared with. It keeps
// nothing on disk. The zero Model is ready.
type Model struct {
	mu       sync.RWMutex
	profiles []modelProfile
	ids      []profile.ID
	closed   bool
}

var _ storage.Store = (*Model)(nil)

// modelProfile is a profile that stands by itself: its samples carry their stacks.
type modelProfile struct {
	typ        profile.Type
	labels     profile.Labels
	start, end int64
	period     int64
	samples    []modelSample
}

type modelSample struct {
	stack []modelFrame
	key   string // the stack as text, equal for equal stacks
	link  profile.Link
	time  int64
	value int64
}

type modelFrame struct {
	kind    profile.Kind
	mapping profile.Mapping
	addr    profile.Addr
	lines   []modelLine
}

type modelLine struct {
	function     profile.Function
	line, column int32
}

func (m *Model) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.closed {
		return storage.ErrClosed
	}
	return nil
}

// Write keeps a copy of b.
func (m *Model) Write(ctx context.Context, b *profile.Batch) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.enter(ctx); err != nil {
		return err
	}
	if err := storage.Validate(b); err != nil {
		return err
	}
	for i := range b.Profiles {
		p := &b.Profiles[i]
		mp := modelProfile{
			typ: p.Type, labels: slices.Clone(p.Labels), period: p.Period,
			start: p.TimeNanos, end: p.TimeNanos + p.DurationNanos,
		}
		type identity struct {
			stack string
			link  profile.Link
			time  int64
		}
		at := map[identity]int{}
		for _, s := range p.Samples {
			stack := expandStack(b.Dictionary, s.Stack)
			ms := modelSample{stack: stack, key: fmt.Sprint(stack), link: b.Dictionary.Links[s.Link], time: s.TimeNanos, value: s.Value}
			if ms.time == 0 {
				ms.time = p.TimeNanos
			}
			id := identity{ms.key, ms.link, ms.time}
			if j, ok := at[id]; ok {
				mp.samples[j].value += ms.value
				continue
			}
			at[id] = len(mp.samples)
			mp.samples = append(mp.samples, ms)
		}
		mp.samples = slices.DeleteFunc(mp.samples, func(s modelSample) bool { return s.value == 0 })
		m.profiles = append(m.profiles, mp)
		if len(mp.samples) > 0 && p.ID != (profile.ID{}) {
			m.ids = append(m.ids, p.ID)
		}
	}
	return nil
}

func expandStack(d *profile.Dictionary, i profile.StackIndex) []modelFrame {
	var out []modelFrame
	for _, fi := range d.Stacks[i] {
		f := d.Frames[fi]
		mf := modelFrame{kind: f.Kind, mapping: d.Mappings[f.Mapping], addr: f.Addr}
		for _, l := range f.Lines {
			mf.lines = append(mf.lines, modelLine{d.Functions[l.Function], l.Line, l.Column})
		}
		out = append(out, mf)
	}
	return out
}

func nanos(t time.Time, unset int64) int64 {
	if t.IsZero() {
		return unset
	}
	return t.UnixNano()
}

const endOfTime = int64(1<<63 - 1)

// selected calls f for every profile and those of its samples that are in the selection, if there are any.
func (m *Model) selected(sel storage.Selection, f func(*modelProfile, []modelSample)) {
	start, end := nanos(sel.Start, 0), nanos(sel.End, endOfTime)
	for i := range m.profiles {
		p := &m.profiles[i]
		if sel.Type != nil && *sel.Type != p.typ || !sel.Selector.Match(p.labels) {
			continue
		}
		var in []modelSample
		for _, s := range p.samples {
			if s.time < start || s.time >= end ||
				len(sel.TraceIDs) > 0 && !slices.Contains(sel.TraceIDs, s.link.TraceID) ||
				len(sel.SpanIDs) > 0 && !slices.Contains(sel.SpanIDs, s.link.SpanID) ||
				len(sel.SpanNames) > 0 && !slices.Contains(sel.SpanNames, s.link.SpanName) {
				continue
			}
			in = append(in, s)
		}
		if len(in) > 0 {
			f(p, in)
		}
	}
}

// coarse widens a selection to storage.IndexResolution.
func coarse(sel storage.Selection) storage.Selection {
	r := int64(storage.IndexResolution)
	if !sel.Start.IsZero() {
		sel.Start = time.Unix(0, sel.Start.UnixNano()/r*r)
	}
	if !sel.End.IsZero() {
		if e := sel.End.UnixNano(); e > endOfTime-r {
			sel.End = time.Time{}
		} else {
			sel.End = time.Unix(0, (e+r-1)/r*r)
		}
	}
	return sel
}

// Types implements storage.Store.
func (m *Model) Types(ctx context.Context, start, end time.Time) ([]profile.Type, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	seen := map[string]profile.Type{}
	m.selected(coarse(storage.Selection{Start: start, End: end}), func(p *modelProfile, _ []modelSample) {
		seen[p.typ.String()] = p.typ
	})
	var out []profile.Type
	for _, k := range sortedKeys(seen) {
		out = append(out, seen[k])
	}
	return out, nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// LabelNames implements storage.Store.
func (m *Model) LabelNames(ctx context.Context, sel storage.Selection) ([]string, error) {
	sets, err := m.Labels(ctx, sel)
	seen := map[string]bool{}
	for _, ls := range sets {
		for _, l := range ls {
			seen[l.Name] = true
		}
	}
	return sortedKeys(seen), err
}

// LabelValues implements storage.Store.
func (m *Model) LabelValues(ctx context.Context, name string, sel storage.Selection) ([]string, error) {
	sets, err := m.Labels(ctx, sel)
	seen := map[string]bool{}
	for _, ls := range sets {
		if v := ls.Get(name); v != "" {
			seen[v] = true
		}
	}
	return sortedKeys(seen), err
}

// Labels implements storage.Store.
func (m *Model) Labels(ctx context.Context, sel storage.Selection) ([]profile.Labels, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	seen := map[string]profile.Labels{}
	m.selected(coarse(sel), func(p *modelProfile, _ []modelSample) { seen[p.labels.String()] = p.labels })
	var out []profile.Labels
	for _, ls := range seen {
		out = append(out, ls)
	}
	slices.SortFunc(out, profile.Labels.Compare)
	return out, nil
}

func groupOf(ls profile.Labels, by []string) profile.Labels {
	var out profile.Labels
	for _, l := range ls {
		if slices.Contains(by, l.Name) {
			out = append(out, l)
		}
	}
	return out
}

// Series implements storage.Store.
func (m *Model) Series(ctx context.Context, sel storage.Selection, by []string, step time.Duration) ([]storage.TimeSeries, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	if sel.Type == nil || step <= 0 {
		return nil, fmt.Errorf("%w: a series needs a type and a positive step", storage.ErrInvalid)
	}
	// stretch is the time of profiles that are taken together: of a group, or of a series if the type is a level.
	type stretch struct {
		group, series string
		start, end    int64
	}
	type place struct {
		group, series string
		time          int64
	}
	left, err := m.left(ctx, sel)
	if err != nil {
		return nil, err
	}
	groups := map[string]profile.Labels{}
	points := map[place]int64{}
	stretches := map[stretch]int64{}
	m.selected(sel, func(p *modelProfile, in []modelSample) {
		g := groupOf(p.labels, by)
		groups[g.String()] = g
		at := stretch{group: g.String(), start: p.start, end: max(p.end, p.start+1)}
		if sel.Type.Level() {
			at.series = p.labels.String()
		}
		for _, s := range in {
			v := s.value
			if left[s.key] {
				v = 0
			}
			if sel.Type.Level() || s.time == p.start {
				stretches[at] += v
			} else {
				points[place{group: at.group, time: s.time / int64(step) * int64(step)}] += v
			}
		}
	})
	levels, weights := map[place]*big.Int{}, map[place]int64{}
	for at, v := range stretches {
		for t := at.start / int64(step) * int64(step); t < at.end; t += int64(step) {
			from, to := max(t, at.start), min(t+int64(step), at.end)
			p := place{at.group, at.series, t}
			if !sel.Type.Level() {
				points[p] += share(v, to-at.start, at.end-at.start) - share(v, from-at.start, at.end-at.start)
				continue
			}
			if levels[p] == nil {
				levels[p] = new(big.Int)
			}
			levels[p].Add(levels[p], new(big.Int).Mul(big.NewInt(v), big.NewInt(to-from)))
			weights[p] += to - from
		}
	}
	for p, sum := range levels {
		points[place{group: p.group, time: p.time}] += rounded(sum, big.NewInt(weights[p]))
	}
	var out []storage.TimeSeries
	for k, g := range groups {
		ts := storage.TimeSeries{Labels: g}
		for p, v := range points {
			if p.group == k && v != 0 {
				ts.Points = append(ts.Points, storage.Point{TimeNanos: p.time, Value: v})
			}
		}
		if len(ts.Points) == 0 {
			continue
		}
		sort.Slice(ts.Points, func(i, j int) bool { return ts.Points[i].TimeNanos < ts.Points[j].TimeNanos })
		out = append(out, ts)
	}
	slices.SortFunc(out, func(a, b storage.TimeSeries) int { return a.Labels.Compare(b.Labels) })
	return out, nil
}

// Exemplars implements storage.Store.
func (m *Model) Exemplars(ctx context.Context, sel storage.Selection, by []string, step time.Duration, most int) ([]storage.Exemplar, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	if sel.Type == nil || step <= 0 || most <= 0 {
		return nil, fmt.Errorf("%w: exemplars need a type, a positive step and a positive number", storage.ErrInvalid)
	}
	left, err := m.left(ctx, sel)
	if err != nil {
		return nil, err
	}
	var all []storage.Exemplar
	m.selected(sel, func(p *modelProfile, in []modelSample) {
		sums := map[profile.Link]*storage.Exemplar{}
		for _, s := range in {
			e := sums[s.link]
			if e == nil {
				e = &storage.Exemplar{Labels: groupOf(p.labels, by), TimeNanos: s.time, Link: s.link}
				sums[s.link] = e
			}
			e.TimeNanos = min(e.TimeNanos, s.time)
			if !left[s.key] {
				e.Value += s.value
			}
		}
		for _, e := range sums {
			if e.Value > 0 && (e.Link.TraceID != profile.TraceID{} || e.Link.SpanID != profile.SpanID{}) {
				all = append(all, *e)
			}
		}
	})
	storage.SortExemplars(all, int64(step))
	var out []storage.Exemplar
	for i, e := range all {
		same := 0
		for _, o := range all[:i] {
			if o.TimeNanos/int64(step) == e.TimeNanos/int64(step) && o.Labels.Compare(e.Labels) == 0 {
				same++
			}
		}
		if same < most {
			out = append(out, e)
		}
	}
	return out, nil
}

// left has the keys of the stacks that do not count.
func (m *Model) left(ctx context.Context, sel storage.Selection) (map[string]bool, error) {
	if sel.Stacks == nil {
		return nil, nil
	}
	d, at := profile.NewDictionary(), map[string]profile.StackIndex{}
	m.selected(sel, func(_ *modelProfile, in []modelSample) {
		for _, s := range in {
			at[s.key] = internStack(d, s.stack)
		}
	})
	counts, err := sel.Stacks(ctx, d)
	if err != nil {
		return nil, err
	}
	left := map[string]bool{}
	for key, i := range at {
		left[key] = !counts[i]
	}
	return left, ctx.Err()
}

// share is v*t/d.
func share(v, t, d int64) int64 {
	return rounded(new(big.Int).Mul(big.NewInt(v), big.NewInt(t)), big.NewInt(d))
}

// rounded is a/b to the nearest, halves away from zero.
func rounded(a, b *big.Int) int64 {
	twice := new(big.Int).Add(new(big.Int).Mul(new(big.Int).Abs(a), big.NewInt(2)), b)
	q := twice.Div(twice, new(big.Int).Mul(b, big.NewInt(2))).Int64()
	return q * int64(a.Sign())
}

// Merge implements storage.Store.
func (m *Model) Merge(ctx context.Context, sel storage.Selection, by []string) (*profile.Batch, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	if sel.Type == nil {
		return nil, fmt.Errorf("%w: a merge needs a type", storage.ErrInvalid)
	}
	type group struct {
		labels     profile.Labels
		start, end int64
		period     int64
		stacks     map[string][]modelFrame
		sums       map[string]int64
	}
	groups := map[string]*group{}
	m.selected(sel, func(p *modelProfile, in []modelSample) {
		ls := groupOf(p.labels, by)
		g := groups[ls.String()]
		if g == nil {
			g = &group{labels: ls, start: p.start, end: p.end, period: p.period, stacks: map[string][]modelFrame{}, sums: map[string]int64{}}
			groups[ls.String()] = g
		}
		if g.period != p.period {
			g.period = 0
		}
		g.start, g.end = min(g.start, p.start), max(g.end, p.end)
		for _, s := range in {
			g.start, g.end = min(g.start, s.time), max(g.end, s.time)
			g.stacks[s.key] = s.stack
			g.sums[s.key] += s.value
		}
	})
	b := &profile.Batch{Dictionary: profile.NewDictionary()}
	var sorted []*group
	for _, g := range groups {
		sorted = append(sorted, g)
	}
	slices.SortFunc(sorted, func(a, b *group) int { return a.labels.Compare(b.labels) })
	for _, g := range sorted {
		p := profile.Profile{Type: *sel.Type, Labels: g.labels, TimeNanos: g.start, DurationNanos: g.end - g.start, Period: g.period}
		for _, k := range sortedKeys(g.sums) {
			if g.sums[k] != 0 {
				p.Samples = append(p.Samples, profile.Sample{Stack: internStack(b.Dictionary, g.stacks[k]), Value: g.sums[k]})
			}
		}
		b.Profiles = append(b.Profiles, p)
	}
	return b, nil
}

func internStack(d *profile.Dictionary, stack []modelFrame) profile.StackIndex {
	var s profile.Stack
	for _, f := range stack {
		var lines []profile.Line
		for _, l := range f.lines {
			lines = append(lines, profile.Line{Function: d.Function(l.function), Line: l.line, Column: l.column})
		}
		s = append(s, d.Frame(profile.Frame{Kind: f.kind, Mapping: d.Mapping(f.mapping), Addr: f.addr, Lines: lines}))
	}
	return d.Stack(s)
}

// Recent implements storage.Store.
func (m *Model) Recent(ctx context.Context) ([]profile.ID, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	seen := map[profile.ID]bool{}
	var out []profile.ID
	for i := len(m.ids) - 1; i >= 0 && len(out) < storage.RecentIDs; i-- {
		if id := m.ids[i]; !seen[id] {
			seen[id] = true
			out = append(out, id)
		}
	}
	slices.Reverse(out)
	return out, nil
}

// Close makes every later call ErrClosed.
func (m *Model) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

// Dump writes a batch as text that does not depend on how its dictionary is ordered: two batches say the same
// exactly if their dumps are equal. One profile a paragraph, one sample a line, samples sorted.
func Dump(b *profile.Batch) string {
	var out bytes.Buffer
	for i := range b.Profiles {
		p := &b.Profiles[i]
		fmt.Fprintf(&out, "%s %s time=%d duration=%d period=%d\n", p.Type, p.Labels, p.TimeNanos, p.DurationNanos, p.Period)
		lines := make([]string, 0, len(p.Samples))
		for _, s := range p.Samples {
			line := "  " + dumpStack(expandStack(b.Dictionary, s.Stack))
			if s.Link != 0 {
				l := b.Dictionary.Links[s.Link]
				line += fmt.Sprintf(" link=%x/%x/%q", l.TraceID, l.SpanID, l.SpanName)
			}
			if s.TimeNanos != 0 {
				line += fmt.Sprintf(" time=%d", s.TimeNanos)
			}
			lines = append(lines, fmt.Sprintf("%s %d\n", line, s.Value))
		}
		sort.Strings(lines)
		out.WriteString(strings.Join(lines, ""))
	}
	return out.String()
}

// dumpStack writes a stack root first, frames parted by ";" and inlined functions within a frame by "<", the
// function that was really called first. What is zero is not written.
func dumpStack(stack []modelFrame) string {
	var frames []string
	for _, f := range slices.Backward(stack) {
		var lines []string
		for _, l := range slices.Backward(f.lines) {
			s := l.function.Name
			if fn := l.function; fn.SystemName != "" || fn.File != "" || fn.StartLine != 0 {
				s += fmt.Sprintf("(%s %s:%d)", fn.SystemName, fn.File, fn.StartLine)
			}
			if l.line != 0 || l.column != 0 {
				s += fmt.Sprintf(":%d:%d", l.line, l.column)
			}
			lines = append(lines, s)
		}
		s := strings.Join(lines, "<")
		if f.kind != 0 {
			s += fmt.Sprintf("_[%d]", f.kind)
		}
		if f.mapping != (profile.Mapping{}) || f.addr != 0 {
			s += fmt.Sprintf("@%s/%s+%#x", f.mapping.BuildID, f.mapping.File, uint64(f.addr))
		}
		frames = append(frames, s)
	}
	return strings.Join(frames, ";")
}
