package frost

import (
	"cmp"
	"context"
	"slices"
)

// Cardinality says what the series consist of, for people who look for the label that has too many values. It
// counts every series of which the store has heard, also those of which nothing is left.
type Cardinality struct {
	Series int `json:"series"`
	// Types and Labels are those with most series and most values.
	Types  []Count       `json:"types"`
	Labels []LabelCounts `json:"labels"`
	// LabelNames is how many there are.
	LabelNames int `json:"label_names"`
}

// Count is a value and how many series have it.
type Count struct {
	Value  string `json:"value"`
	Series int    `json:"series"`
}

// LabelCounts is a label's name, how many values it has, and those with most series.
type LabelCounts struct {
	Name   string  `json:"name"`
	Values int     `json:"values"`
	Series int     `json:"series"`
	Top    []Count `json:"top"`
}

// Storage returns Stats and Cardinality, to be shown as JSON.
func (s *Store) Storage(ctx context.Context, top int) (any, error) {
	c, err := s.Cardinality(ctx, top)
	if err != nil {
		return nil, err
	}
	return struct {
		Stats
		Cardinality Cardinality `json:"cardinality"`
	}{s.Stats(), c}, nil
}

// Cardinality returns the n first of each list. It costs a look at every type and label.
func (s *Store) Cardinality(ctx context.Context, n int) (Cardinality, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return Cardinality{}, err
	}
	defer leave()
	s.mu.RLock()
	defer s.mu.RUnlock()
	c := Cardinality{Series: s.index.count}
	for typ, ids := range s.index.byType {
		c.Types = append(c.Types, Count{typ.String(), len(ids)})
	}
	c.Types = first(c.Types, n)
	labels := map[string]*LabelCounts{}
	for l, ids := range s.index.byLabel {
		lc := labels[l.Name]
		if lc == nil {
			lc = &LabelCounts{Name: l.Name}
			labels[l.Name] = lc
		}
		lc.Values++
		lc.Series += len(ids)
	}
	c.LabelNames = len(labels)
	for _, lc := range labels {
		c.Labels = append(c.Labels, *lc)
	}
	slices.SortFunc(c.Labels, func(a, b LabelCounts) int {
		return cmp.Or(cmp.Compare(b.Values, a.Values), cmp.Compare(a.Name, b.Name))
	})
	c.Labels = c.Labels[:min(n, len(c.Labels))]
	top := map[string]*LabelCounts{}
	for i := range c.Labels {
		top[c.Labels[i].Name] = &c.Labels[i]
	}
	for l, ids := range s.index.byLabel {
		if lc := top[l.Name]; lc != nil {
			lc.Top = append(lc.Top, Count{l.Value, len(ids)})
			if len(lc.Top) >= 64*n { // of a million values only a few are kept at any time
				lc.Top = first(lc.Top, n)
			}
		}
	}
	for i := range c.Labels {
		c.Labels[i].Top = first(c.Labels[i].Top, n)
	}
	return c, ctx.Err()
}

// first returns the n with most series, those before all others of equal count that come first by value.
func first(counts []Count, n int) []Count {
	slices.SortFunc(counts, func(a, b Count) int {
		return cmp.Or(cmp.Compare(b.Series, a.Series), cmp.Compare(a.Value, b.Value))
	})
	return counts[:min(n, len(counts))]
}
