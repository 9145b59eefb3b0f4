package pyroscope

import (
	"context"
	"fmt"
	"slices"

	"github.com/perfuse/perfuse/profile"
	querierv1 "github.com/perfuse/perfuse/proto/querier/v1"
	typesv1 "github.com/perfuse/perfuse/proto/types/v1"
	"github.com/perfuse/perfuse/server/api"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/storage"
)

// derived is a label that a profile has from its type.
type derived struct {
	name  string
	value func(profile.Type) string
}

var typeLabels = []derived{
	{"__name__", func(t profile.Type) string { return t.Name }},
	{"__period_type__", func(t profile.Type) string { return t.PeriodType }},
	{"__period_unit__", func(t profile.Type) string { return t.PeriodUnit }},
	{"__profile_type__", func(t profile.Type) string { return t.String() }},
	{"__type__", func(t profile.Type) string { return t.SampleType }},
	{"__unit__", func(t profile.Type) string { return t.SampleUnit }},
}

// typeLabel returns the value of a label that t gives; ok says whether the name is one of those.
func typeLabel(t profile.Type, name string) (value string, ok bool) {
	for _, l := range typeLabels {
		if l.name == name {
			return l.value(t), true
		}
	}
	return "", false
}

// split takes the conditions on the type out of a selector.
func split(in profile.Selector) (onLabels, onType profile.Selector) {
	for _, m := range in {
		if _, ok := typeLabel(profile.Type{}, m.Name); ok {
			onType = append(onType, m)
		} else {
			onLabels = append(onLabels, m)
		}
	}
	return onLabels, onType
}

func matchType(conditions profile.Selector, t profile.Type) bool {
	for _, m := range conditions {
		if value, _ := typeLabel(t, m.Name); !m.Match(value) {
			return false
		}
	}
	return true
}

// selection reads what a question about one type selects.
func (d *Door) selection(ctx context.Context, typ, selector string, start, end int64) (storage.Selection, error) {
	from, until, err := between(start, end)
	if err != nil {
		return storage.Selection{}, err
	}
	sel, err := d.opts.API.Selection(ctx, typ, selector, from, until, false)
	if err != nil {
		return sel, err
	}
	onLabels, onType := split(sel.Selector)
	if !matchType(onType, *sel.Type) {
		onLabels = profile.Selector{{Name: "__profile_type__", Op: profile.MatchEqual, Value: "another"}} // which nothing has
	}
	sel.Selector = onLabels
	return sel, nil
}

// selections reads the matchers of a question about labels: what is in any of them is selected. Where perType,
// or a matcher is about the type, a selection has one type.
func (d *Door) selections(ctx context.Context, matchers []string, start, end int64, perType bool) ([]storage.Selection, error) {
	from, until, err := between(start, end)
	if err != nil {
		return nil, err
	}
	if err := d.opts.API.Terms("matchers", len(matchers)); err != nil {
		return nil, err
	}
	if len(matchers) == 0 {
		matchers = []string{""}
	}
	var out []storage.Selection
	for _, text := range matchers {
		in, err := d.opts.API.Selector(text)
		if err != nil {
			return nil, err
		}
		sel := storage.Selection{Start: from, End: until}
		var onType profile.Selector
		sel.Selector, onType = split(in)
		if len(onType) == 0 && !perType {
			out = append(out, sel)
			continue
		}
		types, err := d.opts.Store.Types(ctx, from, until)
		if err != nil {
			return nil, fmt.Errorf("listing profile types: %w", err)
		}
		for _, t := range types {
			if matchType(onType, t) {
				sel.Type = &t
				out = append(out, sel)
			}
		}
	}
	return out, nil
}

// tooMany refuses an answer that this protocol could only cut without saying so.
func (d *Door) tooMany(n int, what string) error {
	return limits.Count(limits.AnswerValues, int64(n), d.limits.AnswerValues,
		"the answer has %d %s; narrow it by matchers or by less time", n, what)
}

func (s service) LabelNames(ctx context.Context, req *typesv1.LabelNamesRequest) (*typesv1.LabelNamesResponse, error) {
	resp := &typesv1.LabelNamesResponse{}
	return resp, s.opts.API.Query(ctx, func(ctx context.Context) error {
		sels, err := s.selections(ctx, req.GetMatchers(), req.GetStart(), req.GetEnd(), false)
		if err != nil {
			return err
		}
		for _, sel := range sels {
			names, err := s.opts.Store.LabelNames(ctx, sel)
			if err != nil {
				return fmt.Errorf("listing label names: %w", err)
			}
			resp.Names = append(resp.Names, names...)
		}
		if len(resp.Names) > 0 {
			for _, l := range typeLabels {
				resp.Names = append(resp.Names, l.name)
			}
		}
		slices.Sort(resp.Names)
		resp.Names = slices.Compact(resp.Names)
		return s.tooMany(len(resp.Names), "label names")
	})
}

func (s service) LabelValues(ctx context.Context, req *typesv1.LabelValuesRequest) (*typesv1.LabelValuesResponse, error) {
	resp := &typesv1.LabelValuesResponse{}
	return resp, s.opts.API.Query(ctx, func(ctx context.Context) error {
		if req.GetName() == "" {
			return api.Invalid("name is empty: want a label's name, as LabelNames lists them")
		}
		_, ofType := typeLabel(profile.Type{}, req.GetName())
		sels, err := s.selections(ctx, req.GetMatchers(), req.GetStart(), req.GetEnd(), ofType)
		if err != nil {
			return err
		}
		for _, sel := range sels {
			var values []string
			if ofType {
				var sets []profile.Labels
				if sets, err = s.opts.Store.Labels(ctx, sel); len(sets) > 0 {
					value, _ := typeLabel(*sel.Type, req.GetName())
					values = []string{value}
				}
			} else {
				values, err = s.opts.Store.LabelValues(ctx, req.GetName(), sel)
			}
			if err != nil {
				return fmt.Errorf("listing values of label %s: %w", req.GetName(), err)
			}
			resp.Names = append(resp.Names, values...)
		}
		slices.Sort(resp.Names)
		resp.Names = slices.Compact(resp.Names)
		return s.tooMany(len(resp.Names), "label values")
	})
}

func (s service) Series(ctx context.Context, req *querierv1.SeriesRequest) (*querierv1.SeriesResponse, error) {
	resp := &querierv1.SeriesResponse{}
	return resp, s.opts.API.Query(ctx, func(ctx context.Context) error {
		if err := s.opts.API.Terms("label_names", len(req.GetLabelNames())); err != nil {
			return err
		}
		wanted := func(name string) bool {
			return len(req.GetLabelNames()) == 0 || slices.Contains(req.GetLabelNames(), name)
		}
		perType := slices.ContainsFunc(typeLabels, func(l derived) bool { return wanted(l.name) })
		sels, err := s.selections(ctx, req.GetMatchers(), req.GetStart(), req.GetEnd(), perType)
		if err != nil {
			return err
		}
		var out []profile.Labels
		seen := map[string]bool{}
		for _, sel := range sels {
			sets, err := s.opts.Store.Labels(ctx, sel)
			if err != nil {
				return fmt.Errorf("listing label sets: %w", err)
			}
			var ofType []profile.Label
			if sel.Type != nil {
				for _, l := range typeLabels {
					if wanted(l.name) {
						ofType = append(ofType, profile.Label{Name: l.name, Value: l.value(*sel.Type)})
					}
				}
			}
			for _, set := range sets {
				kept := slices.Clone(ofType)
				for _, l := range set {
					if wanted(l.Name) {
						kept = append(kept, l)
					}
				}
				ls := profile.NewLabels(kept...)
				if key := ls.String(); len(ls) > 0 && !seen[key] {
					seen[key] = true
					out = append(out, ls)
				}
			}
			if err := s.tooMany(len(out), "series"); err != nil {
				return err
			}
		}
		slices.SortFunc(out, profile.Labels.Compare)
		for _, ls := range out {
			resp.LabelsSet = append(resp.LabelsSet, &typesv1.Labels{Labels: wireLabels(ls)})
		}
		return nil
	})
}
