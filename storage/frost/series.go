package frost

import (
	"cmp"
	"context"
	"fmt"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/dictionary"
)

// point is a step of a group.
type point struct {
	group group
	step  int64
}

// stretch is the time [start, start+duration) of rows, and what their samples add up to. For amounts the series is
// 0: all of a group are spread as one.
type stretch struct {
	group           group
	series          dictionary.SeriesID
	start, duration int64
	value           int64
}

func compareStretches(a, b stretch) int {
	switch {
	case a.group != b.group:
		return cmp.Compare(a.group, b.group)
	case a.series != b.series:
		return cmp.Compare(a.series, b.series)
	case a.start != b.start:
		return cmp.Compare(a.start, b.start)
	}
	return cmp.Compare(a.duration, b.duration)
}

// timeline gathers parts, and lays them on steps as the package comment of storage says.
type timeline struct {
	step   int64
	level  bool
	most   int // points
	points atomic.Int64
	// stretches of levels are kept for each profile: of amounts, only those that reach into another step.
	stretches atomic.Int64
}

// mostStretches is how many stretches there may be for each point, 40 bytes each.
const mostStretches = 16

func (l *timeline) tooMany() error {
	return fmt.Errorf("%w: the series have more than %d points; take a longer step or fewer groups", storage.ErrLimit, l.most)
}

// join returns what two sorted lists have, sorted.
func join(a, b []stretch) []stretch {
	if len(a) == 0 {
		return b
	}
	out := make([]stretch, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if compareStretches(a[0], b[0]) <= 0 {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// gathered is what one goroutine that scans found: what lies in one step, and what is to be laid on several.
type gathered struct {
	points    map[point]int64
	stretches []stretch
	// last are the places in stretches, plus 1, of some of those that came last: the series of one machine have
	// the same times.
	last [1024]int32
	// at is where value belongs that is not in points yet: rows come in order of time.
	at    point
	value int64
}

func newGathered() *gathered { return &gathered{points: map[point]int64{}} }

func (g *gathered) addPoint(at point, v int64) {
	if at != g.at {
		g.flush()
		g.at = at
	}
	g.value += v
}

func (g *gathered) flush() {
	if g.value != 0 {
		g.points[g.at] += g.value
		g.value = 0
	}
}

func (g *gathered) addStretch(at stretch) {
	h := uint64(at.start)/1e6 ^ uint64(at.series)*31 ^ uint64(at.group)*17
	slot := &g.last[h%uint64(len(g.last))]
	if *slot > 0 {
		if s := &g.stretches[*slot-1]; compareStretches(*s, at) == 0 {
			s.value += at.value
			return
		}
	}
	g.stretches = append(g.stretches, at)
	*slot = int32(len(g.stretches))
}

func (l *timeline) gather(g *gathered, p *part) error {
	r := p.row
	points, stretches := len(g.points), len(g.stretches)
	at := stretch{group: p.group, start: r.time, duration: max(r.duration, 1)}
	spread := true
	switch s := p.samples; {
	case p.all && (l.level || s == nil || len(s.times) == 0):
		at.value = r.total
	case l.level || len(s.times) == 0:
		for _, i := range p.picked {
			at.value += s.values[i]
		}
	default:
		spread = false
		p.each(func(i int) {
			if s.times[i] == r.time {
				spread = true
				at.value += s.values[i]
				return
			}
			g.addPoint(point{p.group, s.times[i] / l.step}, s.values[i])
		})
	}
	switch {
	case !spread:
	case l.level:
		at.series = r.series
		g.addStretch(at)
	case l.last(&at) > r.time/l.step:
		g.addStretch(at)
	default:
		g.addPoint(point{p.group, r.time / l.step}, at.value)
	}
	if n := len(g.points) - points; n > 0 && l.points.Add(int64(n)) > int64(l.most) {
		return l.tooMany()
	}
	if n := len(g.stretches) - stretches; n > 0 && l.stretches.Add(int64(n)) > mostStretches*int64(l.most) {
		return fmt.Errorf("%w: the series have more than %d profiles that must be kept apart; select less time or fewer series", storage.ErrLimit, mostStretches*l.most)
	}
	return nil
}

// last is the last step that a stretch is in.
func (l *timeline) last(at *stretch) int64 { return (at.start + at.duration - 1) / l.step }

// value is what a step of a group gets.
type value struct{ step, value int64 }

// lay returns the points of all groups, by group.
func (l *timeline) lay(ctx context.Context, found []*gathered, groups int) ([][]storage.Point, error) {
	var sorting sync.WaitGroup
	for _, g := range found {
		g.flush()
		sorting.Go(func() { slices.SortFunc(g.stretches, compareStretches) })
	}
	sorting.Wait()
	values, combined := make([][]value, groups), make([]int, groups)
	var all []stretch
	for _, g := range found {
		for at, v := range g.points {
			values[at.group] = append(values[at.group], value{at.step, v})
		}
		all = join(all, g.stretches)
	}
	var board board
	for len(all) > 0 {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		// An island is stretches without an empty step between them.
		first, last, n := all[0].start/l.step, l.last(&all[0]), 1
		for n < len(all) && all[n].group == all[0].group && all[n].series == all[0].series && all[n].start/l.step <= last+1 {
			last = max(last, l.last(&all[n]))
			n++
		}
		if last-first >= int64(l.most) {
			return nil, l.tooMany()
		}
		board.begin(last - first + 1)
		if l.level {
			board.average(l.step, first, all[:n])
		} else {
			board.spread(l.step, first, all[:n])
		}
		g := all[0].group
		list := values[g]
		for i, v := range board.sums {
			if v != 0 {
				list = append(list, value{first + int64(i), v})
			}
		}
		if len(list) >= 2*combined[g] {
			list = board.combine(list)
			combined[g] = max(len(list), 4096)
		}
		values[g] = list
		if len(list) > 4*l.most {
			return nil, l.tooMany()
		}
		all = all[n:]
	}
	out, points := make([][]storage.Point, groups), 0
	for g, list := range values {
		list = board.combine(list)
		if points += len(list); points > l.most {
			return nil, l.tooMany()
		}
		out[g] = make([]storage.Point, len(list))
		for i, v := range list {
			out[g][i] = storage.Point{TimeNanos: v.step * l.step, Value: v.value}
		}
	}
	return out, nil
}

// board is where stretches are laid on the steps from a first to a last one.
type board struct {
	sums  []int64
	means []mean
}

// begin makes all n steps 0.
func (b *board) begin(n int64) {
	b.sums = slices.Grow(b.sums[:0], int(n))[:n]
	clear(b.sums)
}

// same returns how many of the first stretches are one, and its value.
func same(list []stretch) (n int, v int64) {
	for n < len(list) && list[n].start == list[0].start && list[n].duration == list[0].duration {
		v += list[n].value
		n++
	}
	return n, v
}

// spread lays amounts. The list is sorted.
func (b *board) spread(step, first int64, list []stretch) {
	for len(list) > 0 {
		n, v := same(list)
		start, d := list[0].start, list[0].duration
		list = list[n:]
		s := start / step
		sums := b.sums[s-first : (start+d-1)/step-first+1]
		negative := v < 0
		abs := uint64(v)
		if negative {
			abs = -abs
		}
		put := func(i int, n uint64) {
			if negative {
				n = -n
			}
			sums[i] += int64(n)
		}
		end := len(sums) - 1
		if end == 0 {
			put(0, abs)
			continue
		}
		// What has passed at the end of the first step, plus one half, and what passes in a whole step, as
		// quotients and remainders: the other steps need no division.
		passed, rest := divide(abs, uint64((s+1)*step-start), uint64(d)/2, uint64(d))
		put(0, passed)
		if end > 1 {
			each, more := divide(abs, uint64(step), 0, uint64(d))
			for i := 1; i < end; i++ {
				n := each
				if rest >= uint64(d)-more {
					rest -= uint64(d) - more
					n++
				} else {
					rest += more
				}
				put(i, n)
				passed += n
			}
		}
		put(end, abs-passed)
	}
}

// divide returns (a*b+c)/d and its remainder. The quotient must fit.
func divide(a, b, c, d uint64) (quo, rem uint64) {
	hi, lo := bits.Mul64(a, b)
	lo, carry := bits.Add64(lo, c, 0)
	return bits.Div64(hi+carry, lo, d)
}

// average lays levels of one series. The list is sorted.
func (b *board) average(step, first int64, list []stretch) {
	b.means = slices.Grow(b.means[:0], len(b.sums))[:len(b.sums)]
	clear(b.means)
	for len(list) > 0 {
		n, v := same(list)
		from, end := list[0].start, list[0].start+list[0].duration
		list = list[n:]
		for s := from/step - first; from < end; s++ {
			to := end
			if rest := step - from%step; rest < end-from {
				to = from + rest
			}
			b.means[s].add(v, uint64(to-from))
			from = to
		}
	}
	for i := range b.means {
		b.sums[i] = b.means[i].value()
	}
}

// combine makes a group's values one for each step, in order, without those that are 0.
func (b *board) combine(list []value) []value {
	if len(list) == 0 {
		return list
	}
	first, last := list[0].step, list[0].step
	for _, v := range list {
		first, last = min(first, v.step), max(last, v.step)
	}
	out := list[:0]
	if (last-first)/4 <= int64(len(list)) {
		b.begin(last - first + 1)
		for _, v := range list {
			b.sums[v.step-first] += v.value
		}
		for i, v := range b.sums {
			if v != 0 {
				out = append(out, value{first + int64(i), v})
			}
		}
		return out
	}
	slices.SortFunc(list, func(a, b value) int { return cmp.Compare(a.step, b.step) })
	for len(list) > 0 {
		v := list[0]
		list = list[1:]
		for len(list) > 0 && list[0].step == v.step {
			v.value += list[0].value
			list = list[1:]
		}
		if v.value != 0 {
			out = append(out, v)
		}
	}
	return out
}

// mean is a weighted one in the making. Its sum has 128 bits.
type mean struct {
	hi, lo, weight uint64
}

func (m *mean) add(v int64, weight uint64) {
	abs := uint64(v)
	if v < 0 {
		abs = -abs
	}
	hi, lo := bits.Mul64(abs, weight)
	carry := uint64(0)
	if v < 0 {
		m.lo, carry = bits.Sub64(m.lo, lo, 0)
		m.hi, _ = bits.Sub64(m.hi, hi, carry)
	} else {
		m.lo, carry = bits.Add64(m.lo, lo, 0)
		m.hi, _ = bits.Add64(m.hi, hi, carry)
	}
	m.weight += weight
}

// value is the mean, rounded to the nearest, halves away from zero.
func (m *mean) value() int64 {
	if m.weight == 0 {
		return 0 // the weights did not fit
	}
	hi, lo, negative := m.hi, m.lo, int64(m.hi) < 0
	carry := uint64(0)
	if negative {
		lo, carry = bits.Sub64(0, lo, 0)
		hi, _ = bits.Sub64(0, hi, carry)
	}
	lo, carry = bits.Add64(lo, m.weight/2, 0)
	hi += carry
	q, _ := bits.Div64(hi%m.weight, lo, m.weight) // hi is smaller, unless the sum did not fit
	if negative {
		return -int64(q)
	}
	return int64(q)
}

// Series implements storage.Store.
func (s *Store) Series(ctx context.Context, sel storage.Selection, by []string, step time.Duration) ([]storage.TimeSeries, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	defer s.metrics.query("series", s.o.Now())
	if sel.Type == nil || step <= 0 {
		return nil, fmt.Errorf("%w: a series needs a type and a positive step", storage.ErrInvalid)
	}
	from, to := timeRange(sel.Start, sel.End)
	q := s.ask(sel, from, to, groupBy(by))
	defer q.release()
	l := timeline{step: int64(step), level: sel.Type.Level(), most: s.o.MaxPoints}
	var stacks *verdicts
	if sel.Stacks != nil {
		if stacks, err = q.judged(ctx, sel.Stacks); err != nil {
			return nil, err
		}
	}
	q.totals, q.level = stacks == nil, l.level
	found := make([]*gathered, workers())
	fns := make([]func(*part) error, len(found))
	for w := range fns {
		g := newGathered()
		found[w] = g
		fns[w] = func(p *part) error {
			if stacks != nil {
				if err := stacks.apply(ctx, p); err != nil {
					return err
				}
			}
			return l.gather(g, p)
		}
	}
	if err := q.scan(ctx, fns...); err != nil {
		return nil, queryError(ctx, "summing a series", err)
	}
	points, err := l.lay(ctx, found, len(q.labels))
	if err != nil {
		return nil, err
	}
	var out []storage.TimeSeries
	for g, ps := range points {
		if len(ps) > 0 {
			out = append(out, storage.TimeSeries{Labels: q.labels[g], Points: ps})
		}
	}
	slices.SortFunc(out, func(a, b storage.TimeSeries) int { return a.Labels.Compare(b.Labels) })
	return out, nil
}
