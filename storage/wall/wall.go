// Package wall answers for wall-clock time, which nobody stores: what a program spent on the CPU and what it spent
// waiting, together. A [Store] is another store with one more profile type, profile.TypeWall, where it has
// profile.TypeOffCPU: every question about it is asked for both parts.
//
//	wall = process_cpu:cpu + off_cpu
//
// A part that would exceed a limit of the store refuses the whole, as one question would.
package wall

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
)

// Store implements storage.Store over another one. What is not a question is the other's.
type Store struct{ storage.Store }

// New returns s with wall-clock time.
func New(s storage.Store) Store { return Store{s} }

var parts = []profile.Type{profile.TypeCPU, profile.TypeOffCPU}

// split returns one selection a part; none: the selection is not of wall-clock time.
func split(sel storage.Selection) []storage.Selection {
	if sel.Type == nil || *sel.Type != profile.TypeWall {
		return nil
	}
	out := make([]storage.Selection, len(parts))
	for i := range parts {
		out[i] = sel
		out[i].Type = &parts[i]
	}
	return out
}

// Types implements storage.Store.
func (s Store) Types(ctx context.Context, start, end time.Time) ([]profile.Type, error) {
	types, err := s.Store.Types(ctx, start, end)
	if err != nil || !slices.Contains(types, profile.TypeOffCPU) {
		return types, err
	}
	types = append(slices.Clone(types), profile.TypeWall)
	slices.SortFunc(types, func(a, b profile.Type) int { return strings.Compare(a.String(), b.String()) })
	return types, nil
}

// LabelNames implements storage.Store.
func (s Store) LabelNames(ctx context.Context, sel storage.Selection) ([]string, error) {
	return union(sel, strings.Compare, func(sel storage.Selection) ([]string, error) { return s.Store.LabelNames(ctx, sel) })
}

// LabelValues implements storage.Store.
func (s Store) LabelValues(ctx context.Context, name string, sel storage.Selection) ([]string, error) {
	return union(sel, strings.Compare, func(sel storage.Selection) ([]string, error) { return s.Store.LabelValues(ctx, name, sel) })
}

// Labels implements storage.Store.
func (s Store) Labels(ctx context.Context, sel storage.Selection) ([]profile.Labels, error) {
	return union(sel, profile.Labels.Compare, func(sel storage.Selection) ([]profile.Labels, error) { return s.Store.Labels(ctx, sel) })
}

// union returns what is in the answer to any part, once and sorted.
func union[T any](sel storage.Selection, compare func(a, b T) int, ask func(storage.Selection) ([]T, error)) ([]T, error) {
	sels := split(sel)
	if sels == nil {
		return ask(sel)
	}
	var all []T
	for _, sel := range sels {
		part, err := ask(sel)
		if err != nil {
			return nil, err
		}
		all = append(all, part...)
	}
	slices.SortFunc(all, compare)
	return slices.CompactFunc(all, func(a, b T) bool { return compare(a, b) == 0 }), nil
}

// Series implements storage.Store.
func (s Store) Series(ctx context.Context, sel storage.Selection, by []string, step time.Duration) ([]storage.TimeSeries, error) {
	sels := split(sel)
	if sels == nil {
		return s.Store.Series(ctx, sel, by, step)
	}
	var all []storage.TimeSeries
	for _, sel := range sels {
		part, err := s.Store.Series(ctx, sel, by, step)
		if err != nil {
			return nil, err
		}
		all = append(all, part...)
	}
	slices.SortStableFunc(all, func(a, b storage.TimeSeries) int { return a.Labels.Compare(b.Labels) })
	out := all[:0]
	for _, one := range all {
		if n := len(out); n > 0 && out[n-1].Labels.Compare(one.Labels) == 0 {
			out[n-1].Points = sum(out[n-1].Points, one.Points)
		} else {
			out = append(out, one)
		}
	}
	return slices.DeleteFunc(out, func(one storage.TimeSeries) bool { return len(one.Points) == 0 }), nil
}

// Exemplars implements storage.Store: a span's time on the CPU and its waits are two.
func (s Store) Exemplars(ctx context.Context, sel storage.Selection, by []string, step time.Duration, most int) ([]storage.Exemplar, error) {
	sels := split(sel)
	if sels == nil {
		return s.Store.Exemplars(ctx, sel, by, step, most)
	}
	var all []storage.Exemplar
	for _, sel := range sels {
		part, err := s.Store.Exemplars(ctx, sel, by, step, most)
		if err != nil {
			return nil, err
		}
		all = append(all, part...)
	}
	storage.SortExemplars(all, int64(step))
	n, out := 0, all[:0]
	for i, e := range all {
		if i == 0 || e.TimeNanos/int64(step) != all[i-1].TimeNanos/int64(step) || e.Labels.Compare(all[i-1].Labels) != 0 {
			n = 0
		}
		if n++; n <= most {
			out = append(out, e)
		}
	}
	return out, nil
}

// sum adds two courses; points that become 0 are left out.
func sum(a, b []storage.Point) []storage.Point {
	all := slices.Concat(a, b)
	slices.SortFunc(all, func(a, b storage.Point) int { return int(max(-1, min(1, a.TimeNanos-b.TimeNanos))) })
	out := all[:0]
	for _, p := range all {
		if n := len(out); n > 0 && out[n-1].TimeNanos == p.TimeNanos {
			out[n-1].Value += p.Value
		} else {
			out = append(out, p)
		}
	}
	return slices.DeleteFunc(out, func(p storage.Point) bool { return p.Value == 0 })
}

// Merge implements storage.Store. The merged profiles have no period.
func (s Store) Merge(ctx context.Context, sel storage.Selection, by []string) (*profile.Batch, error) {
	sels := split(sel)
	if sels == nil {
		return s.Store.Merge(ctx, sel, by)
	}
	var batches []*profile.Batch
	for _, sel := range sels {
		b, err := s.Store.Merge(ctx, sel, by)
		if err != nil {
			return nil, err
		}
		for i := range b.Profiles {
			b.Profiles[i].Type, b.Profiles[i].Period = profile.TypeWall, 0
		}
		batches = append(batches, b)
	}
	out := profile.Merge(batches...)
	slices.SortStableFunc(out.Profiles, func(a, b profile.Profile) int { return a.Labels.Compare(b.Labels) })
	return out, nil
}
