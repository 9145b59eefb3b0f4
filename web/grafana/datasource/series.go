package datasource

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/data"
	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
)

// lead is how much earlier than its range a panel asks: profiles that began before what is asked for are not in the
// answer.
const lead = time.Minute

// maxSteps bounds a panel's points, whatever interval Grafana asks for; the server's own limit is not below it.
const maxSteps = 10_000

// series asks for sums over time and lays them on a grid of steps, as the page does: what is not there is 0.
func (ds *Datasource) series(ctx context.Context, q query, in scope) (*data.Frame, error) {
	sel, err := q.selection(q.Selector, in.From, in.To)
	if err != nil {
		return nil, err
	}
	t, err := ds.resolveType(ctx, q.ProfileType, in)
	if err != nil {
		return nil, err
	}
	step := ds.step(in)
	sel.StartUnixNano, sel.EndUnixNano = max(0, in.From.Add(-lead).UnixNano()), in.To.Add(step).UnixNano()
	now := ds.now()
	resp, err := ds.api.Series(ctx, &queryv1.SeriesRequest{
		Selection: sel, GroupBy: q.GroupBy, StepNano: int64(step), Limit: q.Limit, Filter: q.filter(),
	})
	if err != nil {
		return nil, err
	}
	m := measureOf(t)
	frame := data.NewFrame("series")
	frame.Meta = &data.FrameMeta{
		Type: data.FrameTypeTimeSeriesWide, TypeVersion: data.FrameTypeVersion{0, 1}, PreferredVisualization: data.VisTypeGraph,
		Custom: map[string]any{"profileType": t.String(), "stepSeconds": time.Duration(resp.StepNano).Seconds(), "rate": !m.level},
	}
	if resp.Truncated {
		note(frame.Meta, data.NoticeSeverityInfo, "There are %d series: the smaller ones are one, other=true. A larger limit shows more of them.", resp.SeriesCount)
	}
	g := newGrid(resp, in, now)
	if g == nil {
		note(frame.Meta, data.NoticeSeverityInfo, "No profile of %s matches in this range.", t)
		frame.Fields = data.Fields{data.NewField("time", nil, []time.Time{})}
		return frame, nil
	}
	frame.Fields = append(frame.Fields, data.NewField("time", nil, g.times))
	unit, scale := m.overTime()
	for _, s := range resp.Series {
		labels := data.Labels{}
		var values []string
		for _, l := range s.Labels {
			labels[l.Name] = l.Value
			values = append(values, l.Value)
		}
		name := strings.Join(values, ", ")
		if labels["other"] == "true" {
			name = "other"
		}
		f := data.NewField(t.SampleType, labels, g.lay(s, m.level, scale))
		f.Config = &data.FieldConfig{Unit: unit, DisplayNameFromDS: name}
		frame.Fields = append(frame.Fields, f)
	}
	return frame, nil
}

// step is at least what the data source's settings say, and a whole number of milliseconds.
func (ds *Datasource) step(in scope) time.Duration {
	step := max(in.interval, ds.settings.minStep, in.Duration()/maxSteps)
	return (step + time.Millisecond - 1).Truncate(time.Millisecond)
}

// grid is the steps of a panel.
type grid struct {
	// start is the beginning of the first step, step the width of each, in nanoseconds.
	start, step int64
	times       []time.Time
	// seconds is how long each step has lasted: less than its width if it still ran when the server was asked, so that
	// it does not look like a fall.
	seconds []float64
}

// newGrid has the server's steps that begin in the range, or nil if the answer is empty. Where profiles are further apart
// than steps, as those of a moment, a step of the grid is several of the server's.
func newGrid(resp *queryv1.SeriesResponse, in scope, now time.Time) *grid {
	var times []int64
	for _, s := range resp.Series {
		times = append(times, s.TimeUnixNano...)
	}
	slices.Sort(times)
	times = slices.Compact(times)
	if len(times) == 0 || resp.StepNano <= 0 {
		return nil
	}
	from, to := in.From.UnixNano(), in.To.UnixNano()
	g := &grid{step: resp.StepNano * rhythm(times, resp.StepNano)}
	// Steps have an origin of the server's own: count from one of them to the range's first.
	offset := (times[0] - from) % g.step
	if offset < 0 {
		offset += g.step
	}
	g.start = from + offset
	for at := g.start; at < to; at += g.step {
		lasted := min(now.UnixNano(), at+g.step) - at
		g.times = append(g.times, time.Unix(0, at).UTC())
		g.seconds = append(g.seconds, max(float64(lasted), float64(g.step)/10)/1e9)
	}
	if len(g.times) == 0 {
		return nil
	}
	return g
}

// rhythm is how many steps lie between the times at which anything was measured: the median, if there are enough to tell.
func rhythm(times []int64, step int64) int64 {
	if len(times) < 4 {
		return 1
	}
	gaps := make([]int64, len(times)-1)
	for i := range gaps {
		gaps[i] = times[i+1] - times[i]
	}
	slices.Sort(gaps)
	return max(1, int64(math.Round(float64(gaps[len(gaps)/2])/float64(step))))
}

// lay returns a value a step: amounts per second, levels as the mean of what was met in the step.
func (g *grid) lay(s *queryv1.TimeSeries, level bool, scale float64) []float64 {
	out := make([]float64, len(g.times))
	met := make([]float64, len(g.times))
	for k, at := range s.TimeUnixNano {
		i := (at - g.start) / g.step
		if at < g.start || i >= int64(len(out)) {
			continue
		}
		out[i] += float64(s.Values[k])
		met[i]++
	}
	for i := range out {
		if level {
			out[i] /= max(1, met[i])
		} else {
			out[i] *= scale / g.seconds[i]
		}
	}
	return out
}

// resolveType finds the type that a query names, by any unambiguous prefix.
func (ds *Datasource) resolveType(ctx context.Context, name string, in scope) (profile.Type, error) {
	if t, err := profile.ParseType(name); err == nil {
		return t, nil
	}
	types, err := ds.types(ctx, in.From, in.To)
	if err != nil {
		return profile.Type{}, err
	}
	t, err := profile.ResolveType(name, types)
	if err != nil {
		return t, asked{err, http.StatusNotFound}
	}
	return t, nil
}

func (ds *Datasource) types(ctx context.Context, from, to time.Time) ([]profile.Type, error) {
	req := &queryv1.ProfileTypesRequest{}
	if !from.IsZero() {
		req.StartUnixNano, req.EndUnixNano = from.UnixNano(), to.UnixNano()
	}
	resp, err := ds.api.ProfileTypes(ctx, req)
	if err != nil {
		return nil, err
	}
	out := make([]profile.Type, 0, len(resp.Types))
	for _, t := range resp.Types {
		parsed, err := profile.ParseType(t.Id)
		if err != nil {
			return nil, fmt.Errorf("reading the server's list of types: %w", err)
		}
		out = append(out, parsed)
	}
	return out, nil
}
