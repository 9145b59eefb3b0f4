package frost

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
)

// moment is a step of a group.
type moment struct {
	group group
	step  int64
}

// exemplars keeps the largest of each moment. It is for one goroutine.
type exemplars struct {
	step, most int64
	left       int // how many may still be kept
	of         map[moment][]storage.Exemplar
	// By link of a row.
	sums, first []int64
}

// add keeps one if it is among the largest; false if there are too many moments.
func (e *exemplars) add(at moment, x storage.Exemplar) bool {
	list := e.of[at]
	i, _ := slices.BinarySearchFunc(list, x, func(a, b storage.Exemplar) int { return a.Compare(&b) })
	if int64(len(list)) == e.most {
		if i == len(list) {
			return true
		}
		list = list[:len(list)-1]
	} else if e.left--; e.left < 0 {
		return false
	}
	e.of[at] = slices.Insert(list, i, x)
	return true
}

// gather takes the spans of a part of a row.
func (e *exemplars) gather(s *Store, q *question, p *part) error {
	n := len(p.samples.table)
	e.sums, e.first = append(e.sums[:0], make([]int64, n)...), append(e.first[:0], make([]int64, n)...)
	seen := make([]bool, n)
	p.each(func(i int) {
		l := p.samples.links[i]
		e.sums[l] += p.samples.values[i]
		if t := p.time(i); !seen[l] || t < e.first[l] {
			seen[l], e.first[l] = true, t
		}
	})
	for i := 1; i < n; i++ {
		l := p.samples.table[i]
		if e.sums[i] <= 0 || l.trace == (profile.TraceID{}) && l.span == (profile.SpanID{}) {
			continue
		}
		x := storage.Exemplar{Labels: q.labels[p.group], TimeNanos: e.first[i], Value: e.sums[i], Link: profile.Link{TraceID: l.trace, SpanID: l.span, SpanName: s.dict.Text(l.name)}}
		if !e.add(moment{p.group, x.TimeNanos / e.step}, x) {
			return fmt.Errorf("%w: so many groups and steps with spans; ask for wider steps, less time or fewer groups", storage.ErrLimit)
		}
	}
	return nil
}

// Exemplars implements storage.Store.
func (s *Store) Exemplars(ctx context.Context, sel storage.Selection, by []string, step time.Duration, most int) ([]storage.Exemplar, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	defer s.metrics.query("exemplars", s.o.Now())
	if sel.Type == nil || step <= 0 || most <= 0 {
		return nil, fmt.Errorf("%w: exemplars need a type, a positive step and a positive number", storage.ErrInvalid)
	}
	from, to := timeRange(sel.Start, sel.End)
	q := s.ask(sel, from, to, groupBy(by))
	defer q.release()
	var stacks *verdicts
	if sel.Stacks != nil {
		if stacks, err = q.judged(ctx, sel.Stacks); err != nil {
			return nil, err
		}
	}
	q.onlyLinks = true // from here on: a judge has to be asked about every stack of a selection
	found := make([]*exemplars, workers())
	fns := make([]func(*part) error, len(found))
	for w := range fns {
		e := &exemplars{step: int64(step), most: int64(most), left: s.o.MaxPoints, of: map[moment][]storage.Exemplar{}}
		found[w] = e
		fns[w] = func(p *part) error {
			if stacks != nil {
				if err := stacks.apply(ctx, p); err != nil {
					return err
				}
			}
			return e.gather(s, q, p)
		}
	}
	if err := q.scan(ctx, fns...); err != nil {
		return nil, queryError(ctx, "looking for exemplars", err)
	}
	all := found[0]
	for _, e := range found[1:] {
		for at, list := range e.of {
			for _, x := range list {
				if !all.add(at, x) {
					return nil, fmt.Errorf("%w: so many groups and steps with spans; ask for wider steps, less time or fewer groups", storage.ErrLimit)
				}
			}
		}
	}
	var out []storage.Exemplar
	for _, list := range all.of {
		out = append(out, list...)
	}
	storage.SortExemplars(out, int64(step))
	return out, nil
}
