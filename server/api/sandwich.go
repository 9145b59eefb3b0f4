package api

import (
	"context"

	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
)

func (s queryService) Sandwich(ctx context.Context, req *queryv1.SandwichRequest) (*queryv1.SandwichResponse, error) {
	resp := &queryv1.SandwichResponse{}
	return resp, s.query(ctx, func(ctx context.Context) error {
		share, err := share(req.GetMinShare())
		if err != nil {
			return err
		}
		if req.GetFunction() == "" {
			return invalid("function is empty: want a function's name, as Top lists them")
		}
		if err := s.Terms("callers_path", len(req.GetCallersPath())); err != nil {
			return err
		}
		if err := s.Terms("callees_path", len(req.GetCalleesPath())); err != nil {
			return err
		}
		m, tree, err := s.tree(ctx, req.GetSelection(), req.GetFilter(), nil)
		if err != nil {
			return err
		}
		sandwich, err := tree.Sandwich(ctx, req.GetFunction())
		if err != nil {
			return err
		}
		callers, err := s.cut(sandwich.Callers, req.GetCallersPath(), share)
		if err != nil {
			return err
		}
		callees, err := s.cut(sandwich.Callees, req.GetCalleesPath(), share)
		if err != nil {
			return err
		}
		resp.Unit, resp.Total, resp.Self, resp.UnfilteredTotal = tree.Unit, sandwich.Total, sandwich.Self, m.Unfiltered
		resp.Callers, resp.Callees = callers.wire, callees.wire
		resp.StackCount, resp.SeriesCount, resp.StacksCut = int64(m.Stacks()), int64(m.Series), m.StacksCut
		return nil
	})
}
