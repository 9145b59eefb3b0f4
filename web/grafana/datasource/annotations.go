package datasource

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/data"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
)

// maxAnnotations keeps a panel legible.
const maxAnnotations = 200

// beginnings marks when values of a label were first seen: a version that was rolled out, a node that came. What was seen
// in as much time before the range is nothing new.
func (ds *Datasource) beginnings(ctx context.Context, q query, in scope) (*data.Frame, error) {
	from := in.From.Add(-in.Duration())
	sel, err := q.selection(q.Selector, from, in.To)
	if err != nil {
		return nil, err
	}
	t, err := ds.resolveType(ctx, q.ProfileType, in)
	if err != nil {
		return nil, err
	}
	sel.ProfileType = t.String()
	resp, err := ds.api.Series(ctx, &queryv1.SeriesRequest{Selection: sel, GroupBy: []string{q.Label}, StepNano: int64(ds.step(in)), Limit: 10_000, Filter: q.filter()})
	if err != nil {
		return nil, err
	}
	type beginning struct {
		at    time.Time
		value string
	}
	var found []beginning
	for _, s := range resp.Series {
		value := ""
		for _, l := range s.Labels {
			if l.Name == q.Label {
				value = l.Value
			}
		}
		if value == "" || len(s.TimeUnixNano) == 0 || s.TimeUnixNano[0] < in.From.UnixNano() {
			continue
		}
		found = append(found, beginning{time.Unix(0, s.TimeUnixNano[0]).UTC(), value})
	}
	slices.SortFunc(found, func(a, b beginning) int {
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		return strings.Compare(a.value, b.value)
	})
	frame := data.NewFrame("annotations")
	frame.Meta = &data.FrameMeta{DataTopic: data.DataTopicAnnotations}
	if len(found) > maxAnnotations {
		note(frame.Meta, data.NoticeSeverityWarning, "%d values of %s begin in this range; the first %d are shown.", len(found), q.Label, maxAnnotations)
		found = found[:maxAnnotations]
	}
	times, titles, texts, tags := make([]time.Time, len(found)), make([]string, len(found)), make([]string, len(found)), make([]string, len(found))
	for i, b := range found {
		times[i], titles[i] = b.at, fmt.Sprintf("%s %s", q.Label, b.value)
		texts[i], tags[i] = fmt.Sprintf("first profile of %s=%q", q.Label, b.value), q.Label
	}
	frame.Fields = data.Fields{data.NewField("time", nil, times), data.NewField("title", nil, titles), data.NewField("text", nil, texts), data.NewField("tags", nil, tags)}
	return frame, nil
}
