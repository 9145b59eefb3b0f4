package api

import (
	"context"

	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/server/query"
)

func (s queryService) Diff(ctx context.Context, req *queryv1.DiffRequest) (*queryv1.DiffResponse, error) {
	resp := &queryv1.DiffResponse{}
	return resp, s.query(ctx, func(ctx context.Context) error {
		share, err := share(req.GetMinShare())
		if err != nil {
			return err
		}
		path := req.GetPath()
		if err := s.Terms("path", len(path)); err != nil {
			return err
		}
		before, after, err := s.sides(ctx, req)
		if err != nil {
			return err
		}
		if len(path) > 0 {
			before.Tree, after.Tree = before.Tree.Subtree(path), after.Tree.Subtree(path)
		}
		tree := profile.Diff(before.Tree, after.Tree)
		resp.NodeCount = int64(tree.Len())
		resp.CutCount = int64(tree.Cut(share, before.Scale, after.Scale) + tree.CutTo(s.mostNodes(), before.Scale, after.Scale))
		resp.Unit, resp.Before, resp.After = tree.Unit, wireSide(before), wireSide(after)
		resp.Strings, resp.Frames, resp.Nodes = tree.Strings, wireFrames(&tree.Tree), tree.AppendNodes(nil)
		return nil
	})
}

func (s queryService) DiffTop(ctx context.Context, req *queryv1.DiffTopRequest) (*queryv1.DiffTopResponse, error) {
	resp := &queryv1.DiffTopResponse{}
	return resp, s.query(ctx, func(ctx context.Context) error {
		most, err := s.functionsAtMost(req.GetLimit())
		if err != nil {
			return err
		}
		before, after, err := s.sides(ctx, req)
		if err != nil {
			return err
		}
		if req.GetFoldAllocators() {
			for _, side := range []*query.Side{before, after} {
				if side.Profile.Type.Memory() {
					side.Tree = side.Tree.FoldAllocators()
				}
			}
		}
		tree := profile.Diff(before.Tree, after.Tree)
		rows := tree.Top(before.Scale, after.Scale)
		if req.GetOrder() == queryv1.DiffTopOrder_DIFF_TOP_ORDER_TOTAL {
			profile.SortByChange(rows, before.Scale, after.Scale, true)
		}
		resp.Unit, resp.Before, resp.After = tree.Unit, wireSide(before), wireSide(after)
		resp.FunctionCount = int64(len(rows))
		if len(rows) > most {
			rows, resp.Truncated = rows[:most], true
		}
		for _, r := range rows {
			resp.Functions = append(resp.Functions, &queryv1.DiffFunction{
				Name: r.Name, File: r.File, Mapping: r.Mapping, Kind: frameKind(r.Kind),
				SelfBefore: r.BeforeSelf, SelfAfter: r.Self, TotalBefore: r.BeforeTotal, TotalAfter: r.Total,
			})
		}
		return nil
	})
}

// diffRequest is what both questions about a difference have.
type diffRequest interface {
	GetBefore() *queryv1.Selection
	GetAfter() *queryv1.Selection
	GetFilter() *queryv1.StackFilter
	GetScale() queryv1.DiffScale
}

// sides answers both questions of a difference.
func (s queryService) sides(ctx context.Context, req diffRequest) (before, after *query.Side, err error) {
	var scale query.Scale
	switch req.GetScale() {
	case queryv1.DiffScale_DIFF_SCALE_NONE:
	case queryv1.DiffScale_DIFF_SCALE_TIME:
		scale = query.ScaleTime
	case queryv1.DiffScale_DIFF_SCALE_TOTAL:
		scale = query.ScaleTotal
	default:
		return nil, nil, invalid("scale is %d: want DIFF_SCALE_NONE, DIFF_SCALE_TIME or DIFF_SCALE_TOTAL", req.GetScale())
	}
	b, err := s.question(ctx, req.GetBefore(), req.GetFilter(), nil)
	if err != nil {
		return nil, nil, named("before", err)
	}
	a, err := s.question(ctx, req.GetAfter(), req.GetFilter(), nil)
	if err != nil {
		return nil, nil, named("after", err)
	}
	return s.opts.Engine.Diff(ctx, b, a, scale)
}

func wireSide(s *query.Side) *queryv1.DiffSide {
	return &queryv1.DiffSide{
		Total: s.Tree.Total[0], UnfilteredTotal: s.Unfiltered, DurationNano: int64(s.Duration), Scale: s.Scale,
		StackCount: int64(s.Stacks()), SeriesCount: int64(s.Series), StacksCut: s.StacksCut,
	}
}
