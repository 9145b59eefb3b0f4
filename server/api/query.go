package api

import (
	"bytes"
	"context"
	"fmt"
	"sort"
	"strings"

	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/storage"
)

// queryService is queryv1connect.QueryServiceHandler.
type queryService struct{ *API }

func (s queryService) ProfileTypes(ctx context.Context, req *queryv1.ProfileTypesRequest) (*queryv1.ProfileTypesResponse, error) {
	start, end, err := timeRange(req.GetStartUnixNano(), req.GetEndUnixNano())
	if err != nil {
		return nil, err
	}
	resp := &queryv1.ProfileTypesResponse{}
	return resp, s.Types(ctx, start, end, func(t profile.Type) {
		resp.Types = append(resp.Types, &queryv1.ProfileType{
			Id: t.String(), Name: t.Name, SampleType: t.SampleType, SampleUnit: t.SampleUnit,
			PeriodType: t.PeriodType, PeriodUnit: t.PeriodUnit, Delta: t.Delta,
		})
	})
}

// list answers a question about labels, of which it wants so many at the most.
func (s queryService) list(ctx context.Context, in *queryv1.Selection, limit int32, ask func(ctx context.Context, sel storage.Selection, most int) error) error {
	return s.query(ctx, func(ctx context.Context) error {
		sel, err := s.selection(ctx, in, true)
		if err != nil {
			return err
		}
		most, err := s.atMost(limit)
		if err != nil {
			return err
		}
		return ask(ctx, sel, most)
	})
}

func (s queryService) LabelNames(ctx context.Context, req *queryv1.LabelNamesRequest) (*queryv1.LabelNamesResponse, error) {
	resp := &queryv1.LabelNamesResponse{}
	return resp, s.list(ctx, req.GetSelection(), req.GetLimit(), func(ctx context.Context, sel storage.Selection, most int) error {
		names, err := s.opts.Store.LabelNames(ctx, sel)
		if err != nil {
			return fmt.Errorf("listing label names: %w", err)
		}
		if len(names) > most {
			names, resp.Truncated = names[:most], true
		}
		resp.Names = names
		if !req.GetCountValues() {
			return nil
		}
		sets, err := s.opts.Store.Labels(ctx, sel)
		if err != nil {
			return fmt.Errorf("counting label values: %w", err)
		}
		resp.ValueCounts = countValues(names, sets)
		return nil
	})
}

// countValues returns by name how many values it has in sets.
func countValues(names []string, sets []profile.Labels) []int64 {
	values := make(map[string]map[string]struct{}, len(names))
	for _, n := range names {
		values[n] = map[string]struct{}{}
	}
	for _, set := range sets {
		for _, l := range set {
			if of := values[l.Name]; of != nil {
				of[l.Value] = struct{}{}
			}
		}
	}
	counts := make([]int64, len(names))
	for i, n := range names {
		counts[i] = int64(len(values[n]))
	}
	return counts
}

func (s queryService) LabelValues(ctx context.Context, req *queryv1.LabelValuesRequest) (*queryv1.LabelValuesResponse, error) {
	resp := &queryv1.LabelValuesResponse{}
	return resp, s.list(ctx, req.GetSelection(), req.GetLimit(), func(ctx context.Context, sel storage.Selection, most int) error {
		if req.GetName() == "" {
			return invalid("name is empty: want a label's name, as LabelNames lists them")
		}
		values, err := s.opts.Store.LabelValues(ctx, req.GetName(), sel)
		if err != nil {
			return fmt.Errorf("listing values of label %s: %w", req.GetName(), err)
		}
		if p := req.GetPrefix(); p != "" {
			// Values are sorted, so those with the prefix are neighbours.
			from := sort.SearchStrings(values, p)
			values = values[from:]
			values = values[:sort.Search(len(values), func(i int) bool { return !strings.HasPrefix(values[i], p) })]
		}
		if len(values) > most {
			values, resp.Truncated = values[:most], true
		}
		resp.Values = values
		return nil
	})
}

func (s queryService) Labels(ctx context.Context, req *queryv1.LabelsRequest) (*queryv1.LabelsResponse, error) {
	resp := &queryv1.LabelsResponse{}
	return resp, s.list(ctx, req.GetSelection(), req.GetLimit(), func(ctx context.Context, sel storage.Selection, most int) error {
		sets, err := s.opts.Store.Labels(ctx, sel)
		if err != nil {
			return fmt.Errorf("listing label sets: %w", err)
		}
		if len(sets) > most {
			sets, resp.Truncated = sets[:most], true
		}
		for _, ls := range sets {
			resp.Sets = append(resp.Sets, &queryv1.LabelSet{Labels: wireLabels(ls)})
		}
		return nil
	})
}

func (s queryService) Top(ctx context.Context, req *queryv1.TopRequest) (*queryv1.TopResponse, error) {
	resp := &queryv1.TopResponse{}
	return resp, s.query(ctx, func(ctx context.Context) error {
		most, err := s.functionsAtMost(req.GetLimit())
		if err != nil {
			return err
		}
		m, tree, err := s.tree(ctx, req.GetSelection(), req.GetFilter(), nil)
		if err != nil {
			return err
		}
		if req.GetFoldAllocators() && m.Profile.Type.Memory() {
			tree = tree.FoldAllocators()
		}
		rows := tree.Top()
		if req.GetOrder() == queryv1.TopOrder_TOP_ORDER_TOTAL {
			profile.SortByTotal(rows)
		}
		resp.Unit, resp.Total, resp.FunctionCount = tree.Unit, tree.Total[0], int64(len(rows))
		resp.UnfilteredTotal, resp.SeriesCount, resp.StacksCut = m.Unfiltered, int64(m.Series), m.StacksCut
		if len(rows) > most {
			rows, resp.Truncated = rows[:most], true
		}
		for _, r := range rows {
			resp.Functions = append(resp.Functions, &queryv1.TopFunction{
				Name: r.Name, File: r.File, Mapping: r.Mapping, Kind: frameKind(r.Kind), Self: r.Self, Total: r.Total,
			})
		}
		return nil
	})
}

func (s queryService) Export(ctx context.Context, req *queryv1.ExportRequest) (*queryv1.ExportResponse, error) {
	resp := &queryv1.ExportResponse{}
	return resp, s.query(ctx, func(ctx context.Context) error {
		q, err := s.question(ctx, req.GetSelection(), req.GetFilter(), nil)
		if err != nil {
			return err
		}
		m, err := s.opts.Engine.Ask(ctx, q)
		if err != nil {
			return err
		}
		var out bytes.Buffer
		switch f := req.GetFormat(); f {
		case queryv1.ExportFormat_EXPORT_FORMAT_PPROF:
			err = profile.WritePprof(&out, profile.Ordered(m.Batch)) // the store's order follows from how data came in
		case queryv1.ExportFormat_EXPORT_FORMAT_FOLDED:
			err = profile.WriteFolded(&out, m.Batch, m.Profile)
		default:
			return invalid("format is %d: want EXPORT_FORMAT_PPROF or EXPORT_FORMAT_FOLDED", f)
		}
		resp.Data, resp.Total, resp.UnfilteredTotal = out.Bytes(), m.Profile.Total(), m.Unfiltered
		resp.StackCount, resp.SeriesCount, resp.StacksCut = int64(m.Stacks()), int64(m.Series), m.StacksCut
		return err
	})
}
