package frost

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/dictionary"
)

// stackSums is a sum for each stack, in pages, so that it costs what was met and not what is known.
type stackSums struct {
	pages [][]int64
	// left is how many pages may still be made, for all sums of one question; nil: any number.
	left *atomic.Int64
	full bool // there was one page too many
}

const pageStacks = 512

func (t *stackSums) add(id dictionary.StackID, v int64) {
	page := int(id / pageStacks)
	if page >= len(t.pages) {
		t.pages = append(t.pages, make([][]int64, page+1-len(t.pages))...)
	}
	if t.pages[page] == nil {
		if t.left != nil && t.left.Add(-1) < 0 {
			t.full = true
			return
		}
		t.pages[page] = make([]int64, pageStacks)
	}
	t.pages[page][id%pageStacks] += v
}

// join adds the other sums, which are not valid any more.
func (t *stackSums) join(o *stackSums) {
	if len(t.pages) < len(o.pages) {
		t.pages, o.pages = o.pages, t.pages
	}
	for page, values := range o.pages {
		switch {
		case values == nil:
		case t.pages[page] == nil:
			t.pages[page] = values
		default:
			for i, v := range values {
				t.pages[page][i] += v
			}
		}
	}
}

// count is how many sums are not 0.
func (t *stackSums) count() (n int) {
	for _, values := range t.pages {
		for _, v := range values {
			if v != 0 {
				n++
			}
		}
	}
	return n
}

// each calls f with every stack whose sum is not 0, in order of their ids.
func (t *stackSums) each(ctx context.Context, f func(dictionary.StackID, int64) error) error {
	for page, values := range t.pages {
		if err := ctx.Err(); err != nil {
			return err
		}
		for i, v := range values {
			if v == 0 {
				continue
			}
			if err := f(dictionary.StackID(page*pageStacks+i), v); err != nil {
				return err
			}
		}
	}
	return nil
}

// knownStacks is the stacks that the dictionary is known to have.
type knownStacks struct {
	s   *Store
	end dictionary.StackID
}

// check is an error if a part has a stack that the dictionary has not, which grows while questions are answered.
func (k *knownStacks) check(p *part) error {
	last := p.samples.stacks[len(p.samples.stacks)-1] // they are sorted
	if last < k.end {
		return nil
	}
	if k.end = dictionary.StackID(k.s.dict.StackCount()); last >= k.end {
		return fmt.Errorf("%w: stack %d is not in the dictionary", errCorruptRow, last)
	}
	return nil
}

// merged is one profile of an answer in the making.
type merged struct {
	sums       stackSums
	start, end int64
	period     int64
	rows       int64
}

func (m *merged) cover(start, end, period int64) {
	if m.rows == 0 {
		m.start, m.end, m.period = start, end, period
	}
	m.rows++
	m.start, m.end = min(m.start, start), max(m.end, end)
	if m.period != period {
		m.period = 0
	}
}

func (m *merged) join(o *merged) {
	if o.rows == 0 {
		return
	}
	m.cover(o.start, o.end, o.period)
	m.sums.join(&o.sums)
}

// Merge implements storage.Store.
func (s *Store) Merge(ctx context.Context, sel storage.Selection, by []string) (*profile.Batch, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	defer s.metrics.query("merge", s.o.Now())
	if sel.Type == nil {
		return nil, fmt.Errorf("%w: a merge needs a type", storage.ErrInvalid)
	}
	from, to := timeRange(sel.Start, sel.End)
	q := s.ask(sel, from, to, groupBy(by))
	defer q.release()
	sums := make([][]*merged, workers())
	var left atomic.Int64
	left.Store(s.o.maxPages)
	fns := make([]func(*part) error, len(sums))
	for w := range fns {
		groups := make([]*merged, len(q.labels))
		sums[w] = groups
		known := knownStacks{s: s}
		fns[w] = func(p *part) error {
			if err := known.check(p); err != nil {
				return err
			}
			m := groups[p.group]
			if m == nil {
				m = &merged{sums: stackSums{left: &left}}
				groups[p.group] = m
			}
			start, end := p.row.time, p.row.time+p.row.duration
			if len(p.samples.times) > 0 {
				p.each(func(i int) { start, end = min(start, p.samples.times[i]), max(end, p.samples.times[i]) })
			}
			m.cover(start, end, p.row.period)
			if p.all {
				for i, id := range p.samples.stacks {
					m.sums.add(id, p.samples.values[i])
				}
			} else {
				for _, i := range p.picked {
					m.sums.add(p.samples.stacks[i], p.samples.values[i])
				}
			}
			if m.sums.full {
				return fmt.Errorf("%w: a merge of so many stacks and groups does not fit into memory; select less time or fewer series, or group by fewer labels", storage.ErrLimit)
			}
			return nil
		}
	}
	if err := q.scan(ctx, fns...); err != nil {
		return nil, queryError(ctx, "merging", err)
	}
	all := sums[0]
	for _, groups := range sums[1:] {
		for g, m := range groups {
			switch {
			case m == nil:
			case all[g] == nil:
				all[g] = m
			default:
				all[g].join(m)
			}
		}
	}
	return s.resolve(ctx, q, *sel.Type, all)
}

// resolve names the stacks of an answer. The order of everything in it follows from what is stored.
func (s *Store) resolve(ctx context.Context, q *question, typ profile.Type, groups []*merged) (*profile.Batch, error) {
	order := make([]group, 0, len(groups))
	for g, m := range groups {
		if m != nil {
			order = append(order, group(g))
		}
	}
	slices.SortFunc(order, func(x, y group) int { return q.labels[x].Compare(q.labels[y]) })
	b, err := s.name(ctx, q, typ, groups, order, weight{})
	if !errors.Is(err, errManyFrames) {
		return b, err
	}
	least, err := s.leastKept(ctx, groups)
	if err != nil {
		return nil, err
	}
	return s.name(ctx, q, typ, groups, order, least)
}

// errManyFrames: the stacks of an answer have more than Options.MaxFrames.
var errManyFrames = errors.New("too many frames")

// name makes a batch of sums. Stacks that weigh less than the least are one.
func (s *Store) name(ctx context.Context, q *question, typ profile.Type, groups []*merged, order []group, least weight) (*profile.Batch, error) {
	b := &profile.Batch{Dictionary: profile.NewDictionary()}
	r := s.dict.NewResolver(b.Dictionary)
	rest := make([]int64, len(order)) // what is left out of each profile
	frames := 0
	for i, g := range order {
		m := groups[g]
		n := m.sums.count()
		r.Grow(n)
		p := profile.Profile{Type: typ, Labels: q.labels[g], TimeNanos: m.start, DurationNanos: m.end - m.start, Period: m.period, Samples: make([]profile.Sample, 0, n)}
		err := m.sums.each(ctx, func(id dictionary.StackID, v int64) error {
			if least.compare(weigh(g, id, v)) > 0 {
				rest[i] += v
				return nil
			}
			known := len(b.Dictionary.Stacks)
			stack, err := r.Stack(id)
			if err != nil {
				return fmt.Errorf("merging: %w", err)
			}
			if len(b.Dictionary.Stacks) > known {
				if frames += len(b.Dictionary.Stacks[stack]); frames > s.o.MaxFrames && least == (weight{}) {
					return errManyFrames
				}
			}
			p.Samples = append(p.Samples, profile.Sample{Stack: stack, Value: v})
			return nil
		})
		if err != nil {
			return nil, err
		}
		b.Profiles = append(b.Profiles, p)
	}
	for i, v := range rest {
		if v != 0 {
			d := b.Dictionary
			cut := d.Frame(profile.Frame{Kind: profile.KindCut, Lines: []profile.Line{{Function: d.Function(profile.Function{Name: profile.CutName})}}})
			b.Profiles[i].Samples = append(b.Profiles[i].Samples, profile.Sample{Stack: d.Stack(profile.Stack{cut}), Value: v})
		}
	}
	return b, nil
}

// weight orders the stacks of an answer: larger values, then earlier groups and stacks, weigh more. The zero weight is
// the least.
type weight struct {
	value uint64 // without its sign
	group group
	stack dictionary.StackID
}

func weigh(g group, id dictionary.StackID, v int64) weight {
	w := weight{value: uint64(v), group: g, stack: id}
	if v < 0 {
		w.value = -w.value
	}
	return w
}

func (w weight) compare(o weight) int {
	return cmp.Or(cmp.Compare(w.value, o.value), cmp.Compare(o.group, w.group), cmp.Compare(o.stack, w.stack))
}

// leastKept returns the weight from which on stacks are kept so that all have at most Options.MaxFrames.
func (s *Store) leastKept(ctx context.Context, groups []*merged) (weight, error) {
	var all []weight
	for g, m := range groups {
		if m == nil {
			continue
		}
		err := m.sums.each(ctx, func(id dictionary.StackID, v int64) error {
			all = append(all, weigh(group(g), id, v))
			return nil
		})
		if err != nil {
			return weight{}, err
		}
	}
	slices.SortFunc(all, func(a, b weight) int { return b.compare(a) })
	frames := 0
	for i, w := range all {
		if frames += s.dict.Depth(w.stack); frames > s.o.MaxFrames {
			return all[max(i-1, 0)], nil
		}
	}
	return weight{}, nil
}
