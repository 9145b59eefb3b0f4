package frost

import (
	"context"
	"fmt"
	"slices"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/dictionary"
)

// stackSums is a sum for each stack, in pages, so that it costs what was met and not what is known.
type stackSums struct {
	pages [][]int64
}

const pageStacks = 512

func (t *stackSums) add(id dictionary.StackID, v int64) {
	page := int(id / pageStacks)
	if page >= len(t.pages) {
		t.pages = append(t.pages, make([][]int64, page+1-len(t.pages))...)
	}
	if t.pages[page] == nil {
		t.pages[page] = make([]int64, pageStacks)
	}
	t.pages[page][id%pageStacks] += v
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
	for page, values := range o.sums.pages {
		for i, v := range values {
			if v != 0 {
				m.sums.add(dictionary.StackID(page*pageStacks+i), v)
			}
		}
	}
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
	stacks := dictionary.StackID(s.dict.StackCount())
	sums := make([][]*merged, workers())
	fns := make([]func(*part) error, len(sums))
	for w := range fns {
		groups := make([]*merged, len(q.labels))
		sums[w] = groups
		fns[w] = func(p *part) error {
			if n := len(p.samples.stacks); p.samples.stacks[n-1] >= stacks { // they are sorted
				return fmt.Errorf("%w: stack %d is not in the dictionary", errCorruptRow, p.samples.stacks[n-1])
			}
			m := groups[p.group]
			if m == nil {
				m = &merged{}
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
				return nil
			}
			for _, i := range p.picked {
				m.sums.add(p.samples.stacks[i], p.samples.values[i])
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
	b := &profile.Batch{Dictionary: profile.NewDictionary()}
	order := make([]group, 0, len(groups))
	for g, m := range groups {
		if m != nil {
			order = append(order, group(g))
		}
	}
	slices.SortFunc(order, func(x, y group) int { return q.labels[x].Compare(q.labels[y]) })
	r := s.dict.NewResolver(b.Dictionary)
	for _, g := range order {
		m := groups[g]
		p := profile.Profile{Type: typ, Labels: q.labels[g], TimeNanos: m.start, DurationNanos: m.end - m.start, Period: m.period}
		for page, values := range m.sums.pages {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			for i, v := range values {
				if v == 0 {
					continue
				}
				stack, err := r.Stack(dictionary.StackID(page*pageStacks + i))
				if err != nil {
					return nil, fmt.Errorf("merging: %w", err)
				}
				p.Samples = append(p.Samples, profile.Sample{Stack: stack, Value: v})
			}
		}
		b.Profiles = append(b.Profiles, p)
	}
	return b, nil
}
