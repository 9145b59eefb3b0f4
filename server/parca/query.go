package parca

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/perfuse/perfuse/profile"
	metastorev1alpha1 "github.com/perfuse/perfuse/proto/parca/metastore/v1alpha1"
	queryv1alpha1 "github.com/perfuse/perfuse/proto/parca/query/v1alpha1"
	"github.com/perfuse/perfuse/server/api"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/server/query"
	"github.com/perfuse/perfuse/storage"
)

const (
	// minShare is what a node needs to be seen: half a pixel of a window 2000 pixels wide.
	minShare = 1.0 / 4000
	// instant is how long "a single profile" lasts: those that begin within it are merged.
	instant = time.Second
)

func (s service) Query(ctx context.Context, req *queryv1alpha1.QueryRequest) (*queryv1alpha1.QueryResponse, error) {
	resp := &queryv1alpha1.QueryResponse{}
	return resp, s.opts.API.Query(ctx, func(ctx context.Context) error {
		if err := checkServed(req); err != nil {
			return err
		}
		switch req.GetMode() {
		case queryv1alpha1.QueryRequest_MODE_MERGE, queryv1alpha1.QueryRequest_MODE_SINGLE_UNSPECIFIED:
			sel, err := s.pick(ctx, req.GetMode() == queryv1alpha1.QueryRequest_MODE_MERGE, req.GetMerge(), req.GetSingle())
			if err != nil {
				return err
			}
			return s.report(ctx, req, resp, sel)
		case queryv1alpha1.QueryRequest_MODE_DIFF:
			return s.diff(ctx, req, resp)
		}
		return api.Unserved("mode %d is not served; served are MODE_SINGLE_UNSPECIFIED, MODE_DIFF and MODE_MERGE", req.GetMode())
	})
}

// checkServed refuses what would otherwise be ignored.
func checkServed(req *queryv1alpha1.QueryRequest) error {
	switch {
	case req.GetFilterQuery() != "":
		return api.Unserved("filter_query is not served; filter is")
	case req.GetSandwichByFunction() != "":
		return api.Unserved("sandwich_by_function is not served; served is the whole flame graph")
	case req.GetInvertCallStack():
		return api.Unserved("invert_call_stack is not served; served are stacks from the root")
	}
	grouped := []string{"function_name", "mapping_file", "function_file_name"}
	for _, f := range req.GetGroupBy().GetFields() {
		if !slices.Contains(grouped, f) {
			return api.Unserved("group_by %.100q is not served; functions are always told apart by function_name, mapping_file and function_file_name", f)
		}
	}
	if t := req.GetNodeTrimThreshold(); !(t < 100) {
		return api.Invalid("node_trim_threshold is %g: want per cent below 100, 0 for the default, negative to fold nothing", t)
	}
	return nil
}

// pick reads which profiles are meant: those of a range or those of a moment.
func (d *Door) pick(ctx context.Context, merge bool, m *queryv1alpha1.MergeProfile, one *queryv1alpha1.SingleProfile) (storage.Selection, error) {
	if merge {
		if m == nil {
			return storage.Selection{}, api.Invalid("merge is missing: mode MODE_MERGE wants it")
		}
		return d.selection(ctx, m.GetQuery(), m.GetStart(), m.GetEnd())
	}
	if one.GetTime() == nil {
		return storage.Selection{}, api.Invalid("single.time is missing: mode MODE_SINGLE_UNSPECIFIED wants it")
	}
	at, err := moment("single.time", one.GetTime())
	if err != nil {
		return storage.Selection{}, err
	}
	sel, err := d.selection(ctx, one.GetQuery(), nil, nil)
	if err != nil {
		return sel, err
	}
	sel.Start, sel.End, err = api.Between(at, at.Add(instant))
	return sel, err
}

func (d *Door) report(ctx context.Context, req *queryv1alpha1.QueryRequest, resp *queryv1alpha1.QueryResponse, sel storage.Selection) error {
	switch req.GetReportType() {
	case queryv1alpha1.QueryRequest_REPORT_TYPE_FLAMEGRAPH_ARROW, queryv1alpha1.QueryRequest_REPORT_TYPE_PPROF,
		queryv1alpha1.QueryRequest_REPORT_TYPE_TOP, queryv1alpha1.QueryRequest_REPORT_TYPE_PROFILE_METADATA:
	default:
		return unservedReport(req)
	}
	m, err := d.merge(ctx, req, sel)
	if err != nil {
		return err
	}
	resp.Total = m.Profile.Total()
	resp.Filtered = m.Unfiltered - resp.Total
	switch req.GetReportType() {
	case queryv1alpha1.QueryRequest_REPORT_TYPE_FLAMEGRAPH_ARROW:
		tree := profile.NewTree(m.Batch, m.Profile)
		tree.Cut(foldBelow(req))
		return d.flameGraph(resp, tree, nil)
	case queryv1alpha1.QueryRequest_REPORT_TYPE_PPROF:
		var b bytes.Buffer
		err := profile.WritePprof(&b, m.Batch, m.Profile)
		resp.Report = &queryv1alpha1.QueryResponse_Pprof{Pprof: b.Bytes()}
		return err
	case queryv1alpha1.QueryRequest_REPORT_TYPE_TOP:
		resp.Report = &queryv1alpha1.QueryResponse_Top{Top: d.top(m)}
		return nil
	}
	names, err := d.opts.Store.LabelNames(ctx, sel)
	if err != nil {
		return fmt.Errorf("listing label names: %w", err)
	}
	resp.Report = &queryv1alpha1.QueryResponse_ProfileMetadata{ProfileMetadata: &queryv1alpha1.ProfileMetadata{
		MappingFiles: mappingFiles(profile.NewTree(m.Batch, m.Profile)), Labels: names,
	}}
	return nil
}

func unservedReport(req *queryv1alpha1.QueryRequest) error {
	return api.Unserved("report type %s of mode %s is not served; served are REPORT_TYPE_FLAMEGRAPH_ARROW and, of other modes than MODE_DIFF, "+
		"REPORT_TYPE_PPROF, REPORT_TYPE_TOP and REPORT_TYPE_PROFILE_METADATA", req.GetReportType(), req.GetMode())
}

// mappingFiles lists the files that a tree's frames lie in, sorted.
func mappingFiles(t *profile.Tree) []string {
	var out []string
	for _, f := range t.Frames {
		if f.Mapping != 0 {
			out = append(out, t.Strings[f.Mapping])
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (d *Door) top(m *query.Merged) *queryv1alpha1.Top {
	rows := profile.Top(m.Batch, m.Profile)
	out := &queryv1alpha1.Top{Unit: m.Profile.Type.SampleUnit, Total: int32(min(len(rows), math.MaxInt32))}
	rows = rows[:min(len(rows), d.opts.API.MaxValues())]
	out.Reported = int32(len(rows))
	for _, r := range rows {
		meta := &queryv1alpha1.TopNodeMeta{Function: &metastorev1alpha1.Function{Name: r.Name, SystemName: r.Name, Filename: r.File}}
		if r.Mapping != "" {
			meta.Mapping = &metastorev1alpha1.Mapping{File: r.Mapping}
		}
		out.List = append(out.List, &queryv1alpha1.TopNode{Meta: meta, Cumulative: r.Total, Flat: r.Self})
	}
	return out
}

// diff lays b over a. Unless the request wants absolute values, those of a are scaled to the total of b, so that
// unequal ranges compare by share.
func (d *Door) diff(ctx context.Context, req *queryv1alpha1.QueryRequest, resp *queryv1alpha1.QueryResponse) error {
	if req.GetReportType() != queryv1alpha1.QueryRequest_REPORT_TYPE_FLAMEGRAPH_ARROW {
		return unservedReport(req)
	}
	if req.GetDiff() == nil {
		return api.Invalid("diff is missing: mode MODE_DIFF wants it")
	}
	var sels [2]storage.Selection
	for i, in := range []*queryv1alpha1.ProfileDiffSelection{req.GetDiff().GetA(), req.GetDiff().GetB()} {
		var err error
		if sels[i], err = d.pick(ctx, in.GetMode() == queryv1alpha1.ProfileDiffSelection_MODE_MERGE, in.GetMerge(), in.GetSingle()); err != nil {
			return fmt.Errorf("%s: %w", [...]string{"a", "b"}[i], err)
		}
	}
	if a, b := sels[0].Type, sels[1].Type; a.SampleUnit != b.SampleUnit {
		return api.Invalid("a is in %s (%s) and b in %s (%s): only equal units compare", a.SampleUnit, a, b.SampleUnit, b)
	}
	var trees [2]*profile.Tree
	for i, sel := range sels {
		m, err := d.merge(ctx, req, sel)
		if err != nil {
			return err
		}
		trees[i] = profile.NewTree(m.Batch, m.Profile)
	}
	t := profile.Diff(trees[0], trees[1])
	a, b := t.BeforeTotal[0], t.Total[0]
	ratio := 1.0
	if !req.GetDiff().GetAbsolute() && a > 0 && b > 0 {
		ratio = float64(b) / float64(a)
	}
	t.Cut(foldBelow(req), ratio, 1)
	diffs := make([]int64, t.Len())
	for i := range diffs {
		before := t.BeforeTotal[i]
		if ratio != 1 {
			before = int64(math.Round(float64(before) * ratio))
		}
		diffs[i] = t.Total[i] - before
	}
	resp.Total = b
	return d.flameGraph(resp, &t.Tree, diffs)
}

// foldBelow is the share of the total below which nodes are folded.
func foldBelow(req *queryv1alpha1.QueryRequest) float64 {
	if t := req.GetNodeTrimThreshold(); t != 0 {
		return float64(t) / 100
	}
	return minShare
}

// flameGraph writes a tree; diffs, if not nil, are by node.
func (d *Door) flameGraph(resp *queryv1alpha1.QueryResponse, t *profile.Tree, diffs []int64) error {
	if err := limits.Count(limits.FlameNodes, int64(t.Len()), d.limits.FlameNodes,
		"the flame graph has %d nodes; ask with a larger node_trim_threshold or for less time", t.Len()); err != nil {
		return err
	}
	record, height, err := writeArrow(t, diffs)
	if err != nil {
		return err
	}
	resp.Report = &queryv1alpha1.QueryResponse_FlamegraphArrow{FlamegraphArrow: &queryv1alpha1.FlamegraphArrow{
		Record: record, Unit: t.Unit, Height: height,
	}}
	return nil
}
