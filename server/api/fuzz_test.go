package api

import (
	"testing"

	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/server/query/querytest"
)

// FuzzSelection: whatever is asked for, it is answered or it is the question that is wrong, and a selector
// that is understood means the same when it is written out.
func FuzzSelection(f *testing.F) {
	store, engine := querytest.New(f)
	a, err := New(Options{Store: store, Engine: engine})
	if err != nil {
		f.Fatal(err)
	}
	s := queryService{a}

	f.Add("cpu", `{service_name="web", pod=~"a.*"}`, int64(0), int64(0), 0.0, "main", "service_name", int64(0), int32(0))
	f.Add("process", "{service_name!~`x|y`,}", int64(1), int64(10e9), -1.0, "", "pod", int64(1e9), int32(3))
	f.Add("process_cpu:samples:count:cpu:nanoseconds:delta", `pod="a\"\\b\n"`, int64(-1), int64(5), 0.5, "x", "", int64(-1), int32(-1))
	f.Add("", `{a="b`, int64(9e18), int64(1), 1.5, "", "a b", int64(1), int32(1))
	f.Add("s", `{a=~"("}`, int64(0), int64(9e18), 0.1, "", "=", int64(9e18), int32(1<<30))
	f.Fuzz(func(t *testing.T, typ, selector string, start, end int64, share float64, path, label string, step int64, limit int32) {
		sel := &queryv1.Selection{ProfileType: typ, Selector: selector, StartUnixNano: start, EndUnixNano: end}
		if parsed, err := profile.ParseSelector(selector); err == nil {
			again, err := profile.ParseSelector(parsed.String())
			if err != nil || again.String() != parsed.String() || again.Match(querytest.Labels) != parsed.Match(querytest.Labels) {
				t.Fatalf("%q is written as %q, and that is %q, %v", selector, parsed, again, err)
			}
		}
		check := func(what string, err error) { querytest.Blames(t, what, codeOf(err), err) }
		ctx := t.Context()
		// A limit is any number, a path and a label any text: they serve for what has no argument of its own.
		filter := &queryv1.StackFilter{
			Keep: []*queryv1.FrameMatcher{{Field: queryv1.FrameField(limit % 4), Value: path, Regexp: limit%2 == 0}},
			Drop: []*queryv1.FrameMatcher{{Field: queryv1.FrameField(step % 4), Value: label, Regexp: true}},
		}
		other := &queryv1.Selection{ProfileType: typ, TraceIds: []string{path}, SpanIds: []string{label}, SpanNames: []string{path, label}}
		_, err := s.FlameGraph(ctx, &queryv1.FlameGraphRequest{Selection: other, Filter: filter, GroupBy: []string{label, path}})
		check("FlameGraph by span", err)
		diff, err := s.Diff(ctx, &queryv1.DiffRequest{Before: sel, After: &queryv1.Selection{ProfileType: typ}, Filter: filter, MinShare: share, Scale: queryv1.DiffScale(limit % 4)})
		check("Diff", err)
		if err == nil && (diff.Before.UnfilteredTotal < diff.Before.Total || len(diff.Nodes) == 0) {
			t.Fatalf("Diff: %v", diff)
		}
		_, err = s.DiffTop(ctx, &queryv1.DiffTopRequest{Before: sel, After: other, Limit: limit})
		check("DiffTop", err)
		sandwich, err := s.Sandwich(ctx, &queryv1.SandwichRequest{Selection: sel, Function: path, MinShare: share, Filter: &queryv1.StackFilter{CallSite: []string{label}}})
		check("Sandwich", err)
		if err == nil && (sandwich.Total > sandwich.UnfilteredTotal || sandwich.Self > sandwich.Total) {
			t.Fatalf("Sandwich: %v", sandwich)
		}
		flame, err := s.FlameGraph(ctx, &queryv1.FlameGraphRequest{Selection: sel, MinShare: share, Path: []string{path}})
		check("FlameGraph", err)
		if err == nil && (flame.Total != 0 && flame.Total != 1 || len(flame.Nodes) == 0) {
			t.Fatalf("FlameGraph: %v", flame)
		}
		_, err = s.Top(ctx, &queryv1.TopRequest{Selection: sel, Limit: limit})
		check("Top", err)
		_, err = s.Series(ctx, &queryv1.SeriesRequest{Selection: sel, GroupBy: []string{label}, StepNano: step, Limit: limit})
		check("Series", err)
		series, err := s.Series(ctx, &queryv1.SeriesRequest{Selection: other, StepNano: step, Limit: limit, Filter: filter})
		check("Series with a filter", err)
		if err == nil && (series.Unfiltered == nil || len(series.Series) > 0 && len(series.Unfiltered.Values) == 0) {
			t.Fatalf("Series with a filter: %v", series)
		}
		values, err := s.LabelValues(ctx, &queryv1.LabelValuesRequest{Selection: sel, Name: label, Prefix: path, Limit: limit})
		check("LabelValues", err)
		if err == nil && limit > 0 && len(values.Values) > int(limit) {
			t.Fatalf("LabelValues: %d of at most %d", len(values.Values), limit)
		}
		names, err := s.LabelNames(ctx, &queryv1.LabelNamesRequest{Selection: sel, Limit: limit})
		check("LabelNames", err)
		if err == nil && limit > 0 && len(names.Names) > int(limit) {
			t.Fatalf("LabelNames: %d of at most %d", len(names.Names), limit)
		}
		_, err = s.Labels(ctx, &queryv1.LabelsRequest{Selection: sel, Limit: limit})
		check("Labels", err)
		_, err = s.ProfileTypes(ctx, &queryv1.ProfileTypesRequest{StartUnixNano: start, EndUnixNano: end})
		check("ProfileTypes", err)
		_, err = s.Export(ctx, &queryv1.ExportRequest{Selection: sel, Format: queryv1.ExportFormat(limit)})
		check("Export", err)
	})
}
