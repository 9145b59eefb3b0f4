package api

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/server/query"
	"github.com/perfuse/perfuse/storage"
)

const (
	defaultSteps  = 200
	defaultSeries = 20
)

// niceSteps are the widths that people expect on a time axis.
var niceSteps = []time.Duration{
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour,
}

// stepFor returns the smallest nice step that cuts a range into at most about 200.
func stepFor(width time.Duration) time.Duration {
	want := width / defaultSteps
	for _, s := range niceSteps {
		if s >= want {
			return s
		}
	}
	const day = 24 * time.Hour
	return (want + day - 1) / day * day
}

func (s queryService) Series(ctx context.Context, req *queryv1.SeriesRequest) (*queryv1.SeriesResponse, error) {
	resp := &queryv1.SeriesResponse{}
	return resp, s.query(ctx, func(ctx context.Context) error {
		most, err := s.atMost(req.GetLimit())
		if err != nil {
			return err
		}
		if req.GetLimit() == 0 {
			most = min(most, defaultSeries)
		}
		q, err := s.question(ctx, req.GetSelection(), req.GetFilter(), req.GetGroupBy())
		if err != nil {
			return err
		}
		step, err := s.step(ctx, req.GetStepNano(), q.Selection)
		if err != nil {
			return err
		}
		series, err := s.opts.Engine.Series(ctx, q, step)
		if err != nil {
			return err
		}
		if !q.Filter.Empty() {
			all, err := s.opts.Engine.Series(ctx, query.Question{Selection: q.Selection}, step)
			if err != nil {
				return err
			}
			resp.Unfiltered = &queryv1.TimeSeries{}
			if len(all) > 0 {
				resp.Unfiltered = wireSeries(&all[0])
			}
		}
		resp.SeriesCount = int64(len(series))
		if len(series) > most {
			series, resp.Truncated = largest(series, most), true
		}
		for i := range series {
			resp.Series = append(resp.Series, wireSeries(&series[i]))
		}
		resp.StepNano, resp.Unit = int64(step), q.Selection.Type.SampleUnit
		return nil
	})
}

// step reads a step_nano, within the limit of points.
func (s queryService) step(ctx context.Context, nano int64, sel storage.Selection) (time.Duration, error) {
	step := time.Duration(nano)
	if step < 0 {
		return 0, invalid("step_nano is %d: want 0 (chosen by the server) or more", step)
	}
	if step > 0 && s.limits.SeriesPoints <= 0 {
		return step, nil
	}
	width, err := s.width(ctx, sel)
	if err != nil {
		return 0, err
	}
	if step == 0 {
		step = stepFor(width)
	}
	n := int64(width / step)
	return step, limits.Count(limits.SeriesPoints, n, s.limits.SeriesPoints, "a time series of %d steps of %s; ask for wider steps or less time", n, step)
}

func wireSeries(t *storage.TimeSeries) *queryv1.TimeSeries {
	w := &queryv1.TimeSeries{Labels: wireLabels(t.Labels), TimeUnixNano: make([]int64, len(t.Points)), Values: make([]int64, len(t.Points))}
	for i, p := range t.Points {
		w.TimeUnixNano[i], w.Values[i] = p.TimeNanos, p.Value
	}
	return w
}

// width is how long the selection's range is. Where it is not bounded on both sides, the data is asked when
// it begins and ends, first by days, then more closely.
func (s queryService) width(ctx context.Context, sel storage.Selection) (time.Duration, error) {
	if !sel.Start.IsZero() && !sel.End.IsZero() {
		return sel.End.Sub(sel.Start), nil
	}
	width := time.Duration(0)
	for _, probe := range []time.Duration{24 * time.Hour, 10 * time.Minute} {
		series, err := s.opts.Store.Series(ctx, sel, nil, probe)
		if err != nil {
			return 0, fmt.Errorf("looking for the first and last sample: %w", err)
		}
		first, last := int64(math.MaxInt64), int64(math.MinInt64)
		for _, t := range series {
			if n := len(t.Points); n > 0 {
				first, last = min(first, t.Points[0].TimeNanos), max(last, t.Points[n-1].TimeNanos)
			}
		}
		if first > last {
			return 0, nil
		}
		if width = time.Duration(last-first) + probe; width > 2*probe {
			break
		}
	}
	return width, nil
}

// largest keeps the most series with the largest sums, in their order, and sums up the others as one with
// the label other="true".
func largest(series []storage.TimeSeries, most int) []storage.TimeSeries {
	sums := make([]float64, len(series))
	order := make([]int, len(series))
	for i, t := range series {
		order[i] = i
		for _, p := range t.Points {
			sums[i] += float64(p.Value)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(sums[b], sums[a]) })
	keep := order[:most]
	slices.Sort(keep)
	other := map[int64]int64{}
	for _, i := range order[most:] {
		for _, p := range series[i].Points {
			other[p.TimeNanos] += p.Value
		}
	}
	out := make([]storage.TimeSeries, 0, most+1)
	for _, i := range keep {
		out = append(out, series[i])
	}
	rest := storage.TimeSeries{Labels: profile.NewLabels(profile.Label{Name: "other", Value: "true"})}
	for t, v := range other {
		rest.Points = append(rest.Points, storage.Point{TimeNanos: t, Value: v})
	}
	slices.SortFunc(rest.Points, func(a, b storage.Point) int { return cmp.Compare(a.TimeNanos, b.TimeNanos) })
	return append(out, rest)
}
