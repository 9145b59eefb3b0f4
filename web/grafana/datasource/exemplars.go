package datasource

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/data"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
)

// So many keep a panel legible: for each series and step, and in all, of which the largest are taken.
const (
	exemplarsPerStep = 1
	maxExemplars     = 1000
)

// exemplars asks for the spans that cost most, in the shape of Prometheus's exemplars, which is what time series panels draw
// as points: a frame of that name on the topic of annotations, with the fields Time and Value. A point lies where its
// span alone would have been in the series: what it cost, as a rate over the step. Its trace leads to its flame graph.
func (ds *Datasource) exemplars(ctx context.Context, q query, in scope) (*data.Frame, error) {
	sel, err := q.selection(q.Selector, in.From, in.To)
	if err != nil {
		return nil, err
	}
	t, err := ds.resolveType(ctx, q.ProfileType, in)
	if err != nil {
		return nil, err
	}
	resp, err := ds.api.Exemplars(ctx, &queryv1.ExemplarsRequest{
		Selection: sel, GroupBy: q.GroupBy, StepNano: int64(ds.step(in)), Limit: exemplarsPerStep, Filter: q.filter(),
	})
	if err != nil {
		return nil, err
	}
	m := measureOf(t)
	unit, scale := m.overTime()
	if !m.level {
		scale /= time.Duration(resp.StepNano).Seconds()
	}
	list := resp.Exemplars
	if len(list) > maxExemplars {
		slices.SortStableFunc(list, func(a, b *queryv1.Exemplar) int { return cmp.Compare(b.Value, a.Value) })
		list = list[:maxExemplars]
	}
	slices.SortStableFunc(list, func(a, b *queryv1.Exemplar) int { return cmp.Compare(a.TimeUnixNano, b.TimeUnixNano) })
	n := len(list)
	times, values, costs := make([]time.Time, n), make([]float64, n), make([]float64, n)
	traces, spans, names := make([]string, n), make([]string, n), make([]string, n)
	labels := map[string][]string{}
	for i, e := range list {
		times[i], values[i], costs[i] = time.Unix(0, e.TimeUnixNano).UTC(), float64(e.Value)*scale, float64(e.Value)
		traces[i], spans[i], names[i] = e.TraceId, e.SpanId, e.SpanName
		for _, l := range e.Labels {
			if labels[l.Name] == nil {
				labels[l.Name] = make([]string, n)
			}
			labels[l.Name][i] = l.Value
		}
	}
	frame := data.NewFrame("exemplar",
		data.NewField("Time", nil, times),
		data.NewField("Value", nil, values).SetConfig(&data.FieldConfig{Unit: unit}),
		data.NewField("cost", nil, costs).SetConfig(&data.FieldConfig{Unit: m.unit, DisplayName: "cost"}),
		data.NewField("traceID", nil, traces).SetConfig(&data.FieldConfig{DisplayName: "trace", Links: ds.links("traceIds", "of the trace", q, t.String())}),
		data.NewField("spanID", nil, spans).SetConfig(&data.FieldConfig{DisplayName: "span", Links: ds.links("spanIds", "of the span", q, t.String())}),
		data.NewField("span_name", nil, names).SetConfig(&data.FieldConfig{DisplayName: "name"}),
	)
	for _, name := range q.GroupBy {
		if labels[name] != nil {
			frame.Fields = append(frame.Fields, data.NewField(name, nil, labels[name]))
		}
	}
	frame.Meta = &data.FrameMeta{DataTopic: data.DataTopicAnnotations, Custom: map[string]any{"resultType": "exemplar"}}
	return frame, nil
}

// links lead from an id to the flame graph of what was taken while it was served.
func (ds *Datasource) links(field, of string, q query, typ string) []data.DataLink {
	return []data.DataLink{{
		Title: "Flame graph " + of,
		Internal: &data.InternalDataLink{
			DatasourceUID: ds.settings.uid, DatasourceName: ds.settings.name,
			Query: map[string]any{"queryType": kindFlameGraph, "profileType": typ, "selector": q.Selector, field: []string{"${__value.raw}"}},
		},
	}}
}
