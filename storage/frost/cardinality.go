package frost

import (
	"cmp"
	"context"
	"math"
	"slices"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/dictionary"
)

// Cardinality says what the series consist of, for people who look for the label that has too many values. It
// counts every series of which the store has heard and that it has not forgotten, also if nothing is left of it.
type Cardinality struct {
	Series int `json:"series"`
	// Types and Labels are those with most series and most values.
	Types  []Count       `json:"types"`
	Labels []LabelCounts `json:"labels"`
	// LabelNames and TypeNames are how many there are.
	LabelNames int `json:"label_names"`
	TypeNames  int `json:"type_names"`
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

// SeriesSize is how much of a series is kept.
type SeriesSize struct {
	Type    string `json:"type"`
	Labels  string `json:"labels"`
	Rows    int64  `json:"rows"`
	Samples int64  `json:"samples"`
}

// Overview is what the store tells of itself, to be shown as JSON.
type Overview struct {
	Stats
	Cardinality Cardinality `json:"cardinality"`
	// Heaviest is nil if nobody asked for it.
	Heaviest []SeriesSize `json:"heaviest_series,omitempty"`
}

// Storage returns an Overview: of types and labels the top first, and, if series is not 0, as many of the heaviest
// series.
func (s *Store) Storage(ctx context.Context, top, series int) (any, error) {
	c, err := s.Cardinality(ctx, top)
	if err != nil {
		return nil, err
	}
	o := Overview{Stats: s.Stats(), Cardinality: c}
	if series > 0 {
		o.Heaviest, err = s.Heaviest(ctx, series)
	}
	return o, err
}

// Heaviest returns the n series with most samples. It reads some numbers of every row that is kept, also of blocks
// in object storage, but no samples.
func (s *Store) Heaviest(ctx context.Context, n int) ([]SeriesSize, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	q := s.ask(storage.Selection{}, 0, math.MaxInt64, func(*seriesEntry) profile.Labels { return nil })
	defer q.release()
	sizes := make([]SeriesSize, len(q.groups))
	// A scan asks once about every row whether it is wanted; none is, so that payloads stay where they are.
	count := func(c *recordColumns, i int) reading {
		if id := c.ints[colSeries][i]; id >= 0 && id < int64(len(sizes)) {
			sizes[id].Rows++
			sizes[id].Samples += c.ints[colSamples][i]
		}
		return readNothing
	}
	for _, h := range q.heads {
		err := h.scan(ctx, q.bounds, readNumbers, func(c *recordColumns) error {
			for i := range c.n {
				count(c, i)
			}
			return nil
		})
		if err != nil {
			return nil, queryError(ctx, "counting samples", err)
		}
	}
	if err := scanBlocks(ctx, q.blocks, q.bounds, count, func(*recordColumns) error { return nil }); err != nil {
		return nil, queryError(ctx, "counting samples", err)
	}
	ids := make([]dictionary.SeriesID, 0, len(sizes))
	for id := range sizes {
		if sizes[id].Rows > 0 {
			ids = append(ids, dictionary.SeriesID(id))
		}
	}
	slices.SortFunc(ids, func(a, b dictionary.SeriesID) int {
		return cmp.Or(cmp.Compare(sizes[b].Samples, sizes[a].Samples), cmp.Compare(a, b))
	})
	out := make([]SeriesSize, min(n, len(ids)))
	s.mu.RLock()
	defer s.mu.RUnlock()
	for i := range out {
		out[i] = sizes[ids[i]]
		e := &s.index.byID[ids[i]]
		out[i].Type, out[i].Labels = e.typ.String(), e.labels.String()
	}
	return out, nil
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
	c.TypeNames = len(c.Types)
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
