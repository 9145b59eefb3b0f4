package datasource

import (
	"context"
	"fmt"
	"strings"

	"github.com/grafana/grafana-plugin-sdk-go/data"
	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
)

// maxNodes is what a browser's flame graph panel takes: it makes several objects of each node.
const maxNodes = 100_000

func (ds *Datasource) flameGraph(ctx context.Context, q query, in scope) (*data.Frame, error) {
	sel, err := q.selection(q.Selector, in.From, in.To)
	if err != nil {
		return nil, err
	}
	resp, err := ds.api.FlameGraph(ctx, &queryv1.FlameGraphRequest{Selection: sel, MinShare: q.MinShare, Filter: q.filter(), GroupBy: q.GroupBy})
	if err != nil {
		return nil, err
	}
	t, err := profile.DecodeNodes(resp.Nodes, treeFrames(resp.Frames), resp.Strings)
	if err != nil {
		return nil, err
	}
	if err := checkSize(t); err != nil {
		return nil, err
	}
	unit := unitOf(resp.Unit)
	rows := newRows(t)
	frame := rows.frame(
		data.NewField("level", nil, rows.level),
		inUnit(data.NewField("value", nil, t.Total), unit),
		inUnit(data.NewField("self", nil, t.Self), unit),
	)
	frame.Meta.Custom = map[string]any{"profileType": q.ProfileType, "total": resp.Total, "unfilteredTotal": resp.UnfilteredTotal, "nodeCount": resp.NodeCount, "cutCount": resp.CutCount}
	if resp.SeriesCount == 0 {
		note(frame.Meta, data.NoticeSeverityInfo, "No profile of %s matches in this range.", q.ProfileType)
	} else if resp.Total == 0 && resp.UnfilteredTotal != 0 {
		note(frame.Meta, data.NoticeSeverityInfo, "Profiles match, but no stack meets the filters.")
	}
	if resp.StacksCut {
		noteStacksCut(frame.Meta, "")
	}
	return frame, nil
}

// diff has the query's own selection on the right and what it is compared with on the left, as Grafana's panel calls
// them. The panel compares shares of both sides' totals.
func (ds *Datasource) diff(ctx context.Context, q query, in scope) (*data.Frame, error) {
	selector, earlier, err := q.left(in.TimeRange)
	if err != nil {
		return nil, err
	}
	left, err := q.selection(selector, earlier.From, earlier.To)
	if err != nil {
		return nil, err
	}
	right, err := q.selection(q.Selector, in.From, in.To)
	if err != nil {
		return nil, err
	}
	req := &queryv1.DiffRequest{Before: left, After: right, Filter: q.filter(), MinShare: q.MinShare}
	var m measure
	if q.Before.PerSecond {
		req.Scale = queryv1.DiffScale_DIFF_SCALE_TIME
		t, err := ds.resolveType(ctx, q.ProfileType, in)
		if err != nil {
			return nil, err
		}
		m = measureOf(t)
	}
	resp, err := ds.api.Diff(ctx, req)
	if err != nil {
		return nil, err
	}
	t, err := profile.DecodeDiffNodes(resp.Nodes, treeFrames(resp.Frames), resp.Strings)
	if err != nil {
		return nil, err
	}
	if err := checkSize(&t.Tree); err != nil {
		return nil, err
	}
	rows := newRows(&t.Tree)
	fields := []*data.Field{data.NewField("level", nil, rows.level)}
	for _, c := range []struct {
		name   string
		values []int64
		side   *queryv1.DiffSide
	}{{"value", t.BeforeTotal, resp.Before}, {"self", t.BeforeSelf, resp.Before}, {"valueRight", t.Total, resp.After}, {"selfRight", t.Self, resp.After}} {
		if !q.Before.PerSecond {
			fields = append(fields, inUnit(data.NewField(c.name, nil, c.values), unitOf(resp.Unit)))
			continue
		}
		unit, scale := m.overTime()
		scaled := make([]float64, len(c.values))
		for i, v := range c.values {
			scaled[i] = float64(v) * c.side.GetScale() * scale
		}
		fields = append(fields, inUnit(data.NewField(c.name, nil, scaled), unit))
	}
	frame := rows.frame(fields...)
	frame.Meta.Custom = map[string]any{
		"profileType": q.ProfileType, "total": resp.Before.GetTotal(), "totalRight": resp.After.GetTotal(),
		"scale": resp.Before.GetScale(), "scaleRight": resp.After.GetScale(), "nodeCount": resp.NodeCount, "cutCount": resp.CutCount,
	}
	for _, side := range []struct {
		name string
		*queryv1.DiffSide
	}{{"before", resp.Before}, {"now", resp.After}} {
		if side.GetSeriesCount() == 0 {
			note(frame.Meta, data.NoticeSeverityWarning, "No profile of %s matches %s: there is nothing to compare.", q.ProfileType, side.name)
		}
		if side.GetStacksCut() {
			noteStacksCut(frame.Meta, side.name+": ")
		}
	}
	return frame, nil
}

func noteStacksCut(meta *data.FrameMeta, side string) {
	note(meta, data.NoticeSeverityWarning, "%sThere are too many stacks for one answer: those of the least values are one, (small). Less time or fewer series have them all.", side)
}

func checkSize(t *profile.Tree) error {
	if n := t.Len(); n > maxNodes {
		return invalid("the flame graph has %d frames, more than the %d that a panel can draw: raise the smallest share, or ask for less time", n, maxNodes)
	}
	return nil
}

// unitOf is Grafana's id for values of the unit.
func unitOf(unit string) string { return measureOf(profile.Type{SampleUnit: unit}).unit }

func inUnit(f *data.Field, unit string) *data.Field {
	f.Config = &data.FieldConfig{Unit: unit}
	return f
}

func treeFrames(in []*queryv1.FlameFrame) []profile.TreeFrame {
	out := make([]profile.TreeFrame, len(in))
	for i, f := range in {
		out[i] = profile.TreeFrame{Name: f.Name, File: f.File, Mapping: f.Mapping}
	}
	return out
}

// rows are the columns that flame graphs and diffs share.
type rows struct {
	level []int64
	label []data.EnumItemIndex
	texts []string
}

// newRows labels a node by its function's name, whatever file that is in: the panel shows nothing else.
func newRows(t *profile.Tree) *rows {
	r := &rows{level: make([]int64, t.Len()), label: make([]data.EnumItemIndex, t.Len())}
	known := map[string]data.EnumItemIndex{}
	var ends []uint32 // of the nodes above
	for i := range uint32(t.Len()) {
		for len(ends) > 0 && ends[len(ends)-1] <= i {
			ends = ends[:len(ends)-1]
		}
		r.level[i] = int64(len(ends))
		ends = append(ends, t.End[i])
		name := t.Name(i)
		at, ok := known[name]
		if !ok {
			at = data.EnumItemIndex(len(r.texts))
			known[name] = at
			r.texts = append(r.texts, name)
		}
		r.label[i] = at
	}
	return r
}

func (r *rows) frame(fields ...*data.Field) *data.Frame {
	label := data.NewField("label", nil, r.label)
	label.Config = &data.FieldConfig{TypeConfig: &data.FieldTypeConfig{Enum: &data.EnumFieldConfig{Text: r.texts}}}
	frame := data.NewFrame("flamegraph", append(fields, label)...)
	frame.Meta = &data.FrameMeta{PreferredVisualization: "flamegraph"}
	return frame
}

// plain turns the labels of a flame graph into text: a stream sends its schema once, and an enum's texts are part of it.
func plain(frame *data.Frame) {
	for i, f := range frame.Fields {
		if f.Type() != data.FieldTypeEnum {
			continue
		}
		texts := f.Config.TypeConfig.Enum.Text
		out := make([]string, f.Len())
		for row := range out {
			out[row] = texts[f.At(row).(data.EnumItemIndex)]
		}
		frame.Fields[i] = data.NewField(f.Name, f.Labels, out)
	}
}

func (q query) String() string {
	return fmt.Sprintf("%s %s%s", q.kind, q.ProfileType, strings.TrimSpace(q.Selector))
}
