package pyroscope

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/perfuse/perfuse/profile"
	googlev1 "github.com/perfuse/perfuse/proto/google/v1"
	querierv1 "github.com/perfuse/perfuse/proto/querier/v1"
	typesv1 "github.com/perfuse/perfuse/proto/types/v1"
	"github.com/perfuse/perfuse/server/api"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/server/query"
	"github.com/perfuse/perfuse/storage"
	"google.golang.org/protobuf/proto"
)

// merge answers a selection, narrowed to the stacks that begin with the call site.
func (d *Door) merge(ctx context.Context, sel storage.Selection, stacks *typesv1.StackTraceSelector) (*query.Merged, error) {
	if stacks.GetGoPgo() != nil {
		return nil, api.Unserved("stack_trace_selector.go_pgo is not served; served is stack_trace_selector.call_site, and go build takes a pprof as it is")
	}
	// Such as a filter of frames by newer clients: an answer without it would be another one's.
	if len(stacks.ProtoReflect().GetUnknown()) > 0 {
		return nil, api.Unserved("stack_trace_selector has a field that is not served; served is stack_trace_selector.call_site")
	}
	q := query.Question{Selection: sel}
	if err := d.opts.API.Terms("stack_trace_selector.call_site", len(stacks.GetCallSite())); err != nil {
		return nil, err
	}
	for _, l := range stacks.GetCallSite() {
		q.Filter.CallSite = append(q.Filter.CallSite, l.GetName())
	}
	return d.opts.Engine.Ask(ctx, q)
}

// drawn cuts a graph to size and refuses what is still too large.
func (d *Door) drawn(g *graph, most int64) (*graph, error) {
	g.fold(most)
	n := g.size()
	return g, limits.Count(limits.FlameNodes, n, d.limits.FlameNodes,
		"the flame graph has %d nodes; ask with a smaller max_nodes or for less time", n)
}

func checkFormat(f querierv1.ProfileFormat, served ...querierv1.ProfileFormat) error {
	served = append(served, querierv1.ProfileFormat_PROFILE_FORMAT_FLAMEGRAPH)
	if f == querierv1.ProfileFormat_PROFILE_FORMAT_UNSPECIFIED || slices.Contains(served, f) {
		return nil
	}
	return api.Unserved("format %s is not served; served is one of %v", f, served)
}

func checkProfileIDs(ids []string) error {
	if len(ids) > 0 {
		return api.Unserved("profile_id_selector is not served: profiles are merged when they are stored; select by label_selector, time or span")
	}
	return nil
}

// spans reads span and trace ids, which are hexadecimal, into a selection.
func (d *Door) spans(sel *storage.Selection, spanIDs, traceIDs []string) error {
	var span profile.SpanID
	if err := d.opts.API.IDs("span_selector", spanIDs, span[:], func() { sel.SpanIDs = append(sel.SpanIDs, span) }); err != nil {
		return err
	}
	var trace profile.TraceID
	return d.opts.API.IDs("trace_id_selector", traceIDs, trace[:], func() { sel.TraceIDs = append(sel.TraceIDs, trace) })
}

// selected reads what a request for a flame graph, or for one in another format, selects.
func (d *Door) selected(ctx context.Context, req *querierv1.SelectMergeStacktracesRequest, formats ...querierv1.ProfileFormat) (sel storage.Selection, err error) {
	if err := checkFormat(req.GetFormat(), formats...); err != nil {
		return sel, err
	}
	if err := checkProfileIDs(req.GetProfileIdSelector()); err != nil {
		return sel, err
	}
	if sel, err = d.selection(ctx, req.GetProfileTypeID(), req.GetLabelSelector(), req.GetStart(), req.GetEnd()); err != nil {
		return sel, err
	}
	return sel, d.spans(&sel, req.GetSpanSelector(), req.GetTraceIdSelector())
}

func (s service) SelectMergeStacktraces(ctx context.Context, req *querierv1.SelectMergeStacktracesRequest) (*querierv1.SelectMergeStacktracesResponse, error) {
	resp := &querierv1.SelectMergeStacktracesResponse{}
	return resp, s.opts.API.Query(ctx, func(ctx context.Context) error {
		sel, err := s.selected(ctx, req, querierv1.ProfileFormat_PROFILE_FORMAT_DOT, querierv1.ProfileFormat_PROFILE_FORMAT_PPROF)
		if err != nil {
			return err
		}
		m, err := s.merge(ctx, sel, req.GetStackTraceSelector())
		if err != nil {
			return err
		}
		switch req.GetFormat() {
		case querierv1.ProfileFormat_PROFILE_FORMAT_DOT:
			resp.Dot = string(dot(*sel.Type, single(profile.NewTree(m.Batch, m.Profile)), req.GetMaxNodes()))
		case querierv1.ProfileFormat_PROFILE_FORMAT_PPROF:
			resp.Pprof = &querierv1.PprofProfile{Profile: &googlev1.Profile{}}
			err = pprof(m, resp.Pprof.Profile)
		default:
			resp.Flamegraph, err = s.flameGraph(m, req.GetMaxNodes())
		}
		return err
	})
}

func (s service) SelectMergeSpanProfile(ctx context.Context, req *querierv1.SelectMergeSpanProfileRequest) (*querierv1.SelectMergeSpanProfileResponse, error) {
	resp := &querierv1.SelectMergeSpanProfileResponse{}
	return resp, s.opts.API.Query(ctx, func(ctx context.Context) error {
		if err := checkFormat(req.GetFormat()); err != nil {
			return err
		}
		sel, err := s.selection(ctx, req.GetProfileTypeID(), req.GetLabelSelector(), req.GetStart(), req.GetEnd())
		if err != nil {
			return err
		}
		if len(req.GetSpanSelector()) == 0 {
			return api.Invalid("span_selector is empty: want span ids of 16 hexadecimal digits")
		}
		if err := s.spans(&sel, req.GetSpanSelector(), nil); err != nil {
			return err
		}
		m, err := s.merge(ctx, sel, nil)
		if err != nil {
			return err
		}
		resp.Flamegraph, err = s.flameGraph(m, req.GetMaxNodes())
		return err
	})
}

func (d *Door) flameGraph(m *query.Merged, most int64) (*querierv1.FlameGraph, error) {
	g, err := d.drawn(single(profile.NewTree(m.Batch, m.Profile)), most)
	if err != nil {
		return nil, err
	}
	out := &querierv1.FlameGraph{Total: g.nodes[0].total[0]}
	out.Names, out.Levels, out.MaxSelf = g.levels()
	return out, nil
}

func (s service) Diff(ctx context.Context, req *querierv1.DiffRequest) (*querierv1.DiffResponse, error) {
	resp := &querierv1.DiffResponse{}
	return resp, s.opts.API.Query(ctx, func(ctx context.Context) error {
		var sides [2]side
		for i, in := range []*querierv1.SelectMergeStacktracesRequest{req.GetLeft(), req.GetRight()} {
			sel, err := s.selected(ctx, in)
			if err != nil {
				return fmt.Errorf("%s: %w", [...]string{"left", "right"}[i], err)
			}
			sides[i] = side{sel, in.GetStackTraceSelector()}
		}
		most := req.GetLeft().GetMaxNodes()
		if most == 0 {
			most = req.GetRight().GetMaxNodes()
		}
		g, err := s.diff(ctx, sides, most)
		if err != nil {
			return err
		}
		root := &g.nodes[0]
		out := &querierv1.FlameGraphDiff{Total: root.weight(), LeftTicks: root.total[0], RightTicks: root.total[1]}
		out.Names, out.Levels, out.MaxSelf = g.levels()
		resp.Flamegraph = out
		return nil
	})
}

// side is one of the two things that a diff compares.
type side struct {
	storage.Selection
	stacks *typesv1.StackTraceSelector
}

func (d *Door) diff(ctx context.Context, sides [2]side, most int64) (*graph, error) {
	if l, r := sides[0].Type, sides[1].Type; l.SampleUnit != r.SampleUnit {
		return nil, api.Invalid("left is in %s (%s) and right in %s (%s): only equal units compare", l.SampleUnit, l, r.SampleUnit, r)
	}
	var trees [2]*profile.Tree
	for i, s := range sides {
		m, err := d.merge(ctx, s.Selection, s.stacks)
		if err != nil {
			return nil, err
		}
		trees[i] = profile.NewTree(m.Batch, m.Profile)
	}
	return d.drawn(double(trees[0], trees[1]), most)
}

func (s service) SelectMergeProfile(ctx context.Context, req *querierv1.SelectMergeProfileRequest) (*googlev1.Profile, error) {
	resp := &googlev1.Profile{}
	return resp, s.opts.API.Query(ctx, func(ctx context.Context) error {
		if err := checkProfileIDs(req.GetProfileIdSelector()); err != nil {
			return err
		}
		sel, err := s.selection(ctx, req.GetProfileTypeID(), req.GetLabelSelector(), req.GetStart(), req.GetEnd())
		if err != nil {
			return err
		}
		if err := s.spans(&sel, nil, req.GetTraceIdSelector()); err != nil {
			return err
		}
		m, err := s.merge(ctx, sel, req.GetStackTraceSelector())
		if err != nil {
			return err
		}
		return pprof(m, resp)
	})
}

// pprof fills in out, which is pprof as a message.
func pprof(m *query.Merged, out *googlev1.Profile) error {
	p, err := profile.ToPprof(m.Batch, m.Profile)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := p.WriteUncompressed(&b); err != nil {
		return fmt.Errorf("writing pprof: %w", err)
	}
	if err := proto.Unmarshal(b.Bytes(), out); err != nil {
		return fmt.Errorf("reading our own pprof: %w", err)
	}
	return nil
}
