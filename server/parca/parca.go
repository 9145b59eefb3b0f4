// Package parca answers what Parca's clients ask, so that Grafana's Parca datasource and other clients work
// with this server as they are:
//
//	/parca.query.v1alpha1.QueryService/…   gRPC, gRPC-web, Connect
//
// Questions become those of server/api, whose limits, turns and codes of errors hold here too; only the forms
// differ. A flame graph is an Arrow IPC stream of one record. Row 0 is the root; rows are in order of depth, so
// a node's children are neighbours:
//
//	labels_only           bool             false: grouping by label is not served
//	location_address      uint64           0: functions are shown, not addresses
//	mapping_file          dict<binary>     the executable file's path
//	mapping_build_id      dict<binary>     null
//	location_line         uint32           null
//	inlined               bool
//	function_startline    uint32           0 if unknown
//	function_name         dict<binary>     never empty but for the root
//	function_system_name  dict<binary>     null
//	function_file_name    dict<binary>     the source file's path
//	children              list<uint32>     rows
//	parent                int32            a row, -1 for the root
//	cumulative, flat      uint64           in the unit of the type
//	diff                  int64            by how much cumulative is more than in the profile compared with
//	timestamp             int64            0
//	depth                 uint32           0 for the root
//	value_offset          uint64           the cumulative values of what is left of it
//
// Functions that differ in file, mapping or kind are rows of their own, as in our own flame graphs, and what is
// too small to be seen is folded into rows "(small)", so that sums stay right. What is not served is answered
// Unimplemented and named.
package parca

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"connectrpc.com/connect"
	"github.com/perfuse/perfuse/profile"
	profilestorev1alpha1 "github.com/perfuse/perfuse/proto/parca/profilestore/v1alpha1"
	queryv1alpha1 "github.com/perfuse/perfuse/proto/parca/query/v1alpha1"
	"github.com/perfuse/perfuse/proto/parca/query/v1alpha1/queryv1alpha1connect"
	"github.com/perfuse/perfuse/server/api"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/server/query"
	"github.com/perfuse/perfuse/storage"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Options for New.
type Options struct {
	// API lends its limits, turns and metrics. Required.
	API *api.API
	// Store and Engine answer. Required.
	Store  storage.Store
	Engine *query.Engine
	// Limits that hold; zero fields take their defaults.
	Limits limits.Limits
}

// Door answers. Its methods are safe for concurrent use.
type Door struct {
	opts   Options
	limits limits.Limits
}

// New returns a Door.
func New(opts Options) (*Door, error) {
	if opts.API == nil || opts.Store == nil || opts.Engine == nil {
		return nil, errors.New("making Parca's door: no API, no store or no engine")
	}
	return &Door{opts: opts, limits: opts.Limits.OrDefault()}, nil
}

// Mount adds the handlers.
func (d *Door) Mount(mux *http.ServeMux) {
	d.opts.API.Handle(mux, queryv1alpha1.File_parca_query_v1alpha1_query_proto.Services().ByName("QueryService"),
		func(opts ...connect.HandlerOption) (string, http.Handler) {
			return queryv1alpha1connect.NewQueryServiceHandler(service{d}, opts...)
		})
}

// service is queryv1alpha1connect.QueryServiceHandler.
type service struct{ *Door }

// moment reads a time; none is the zero time.
func moment(name string, t *timestamppb.Timestamp) (time.Time, error) {
	if t == nil {
		return time.Time{}, nil
	}
	if err := t.CheckValid(); err != nil {
		return time.Time{}, api.Invalid("%s is not a time: %v", name, err)
	}
	return t.AsTime(), nil
}

func between(start, end *timestamppb.Timestamp) (from, until time.Time, err error) {
	if from, err = moment("start", start); err != nil {
		return from, until, err
	}
	if until, err = moment("end", end); err != nil {
		return from, until, err
	}
	return api.Between(from, until)
}

func (s service) ProfileTypes(ctx context.Context, req *queryv1alpha1.ProfileTypesRequest) (*queryv1alpha1.ProfileTypesResponse, error) {
	start, end, err := between(req.GetStart(), req.GetEnd())
	if err != nil {
		return nil, err
	}
	resp := &queryv1alpha1.ProfileTypesResponse{}
	return resp, s.opts.API.Types(ctx, start, end, func(t profile.Type) {
		resp.Types = append(resp.Types, &queryv1alpha1.ProfileType{
			Name: t.Name, SampleType: t.SampleType, SampleUnit: t.SampleUnit,
			PeriodType: t.PeriodType, PeriodUnit: t.PeriodUnit, Delta: t.Delta,
		})
	})
}

func (s service) HasProfileData(ctx context.Context, req *queryv1alpha1.HasProfileDataRequest) (*queryv1alpha1.HasProfileDataResponse, error) {
	resp := &queryv1alpha1.HasProfileDataResponse{}
	return resp, s.opts.API.Types(ctx, time.Time{}, time.Time{}, func(profile.Type) { resp.HasData = true })
}

func (s service) Labels(ctx context.Context, req *queryv1alpha1.LabelsRequest) (*queryv1alpha1.LabelsResponse, error) {
	resp := &queryv1alpha1.LabelsResponse{}
	return resp, s.opts.API.Query(ctx, func(ctx context.Context) (err error) {
		resp.LabelNames, resp.Warnings, err = s.list(ctx, req, s.opts.Store.LabelNames)
		return err
	})
}

func (s service) Values(ctx context.Context, req *queryv1alpha1.ValuesRequest) (*queryv1alpha1.ValuesResponse, error) {
	resp := &queryv1alpha1.ValuesResponse{}
	return resp, s.opts.API.Query(ctx, func(ctx context.Context) (err error) {
		if req.GetLabelName() == "" {
			return api.Invalid("label_name is empty: want a label's name, as Labels lists them")
		}
		resp.LabelValues, resp.Warnings, err = s.list(ctx, req, func(ctx context.Context, sel storage.Selection) ([]string, error) {
			return s.opts.Store.LabelValues(ctx, req.GetLabelName(), sel)
		})
		return err
	})
}

// labelQuery is a request about labels.
type labelQuery interface {
	GetMatch() []string
	GetStart() *timestamppb.Timestamp
	GetEnd() *timestamppb.Timestamp
	GetProfileType() string
}

// list answers with what ask finds for any of the request's selectors, sorted, at most as many as an answer
// may have; a warning says if there are more.
func (d *Door) list(ctx context.Context, req labelQuery, ask func(context.Context, storage.Selection) ([]string, error)) (out, warnings []string, err error) {
	start, end, err := between(req.GetStart(), req.GetEnd())
	if err != nil {
		return nil, nil, err
	}
	match := req.GetMatch()
	if err := d.opts.API.Terms("match", len(match)); err != nil {
		return nil, nil, err
	}
	if len(match) == 0 {
		match = []string{""}
	}
	for _, m := range match {
		typ, selector := api.SplitQuery(m)
		if typ == "" {
			typ = req.GetProfileType()
		}
		sel, err := d.opts.API.Selection(ctx, typ, selector, start, end, true)
		if err != nil {
			return nil, nil, err
		}
		found, err := ask(ctx, sel)
		if err != nil {
			return nil, nil, fmt.Errorf("listing labels: %w", err)
		}
		out = append(out, found...)
	}
	slices.Sort(out)
	out = slices.Compact(out)
	if most := d.opts.API.MaxValues(); len(out) > most {
		warnings = append(warnings, limits.Count(limits.AnswerValues, int64(len(out)), int64(most), "only the first %d of %d are listed", most, len(out)).Error())
		out = out[:most]
	}
	return out, warnings, nil
}

// QueryRange sums over time: the sum of each step, of levels (bytes in use) the mean.
func (s service) QueryRange(ctx context.Context, req *queryv1alpha1.QueryRangeRequest) (*queryv1alpha1.QueryRangeResponse, error) {
	resp := &queryv1alpha1.QueryRangeResponse{}
	return resp, s.opts.API.Query(ctx, func(ctx context.Context) error {
		sel, err := s.selection(ctx, req.GetQuery(), req.GetStart(), req.GetEnd())
		if err != nil {
			return err
		}
		step := time.Duration(0)
		if req.GetStep() != nil {
			if err := req.GetStep().CheckValid(); err != nil {
				return api.Invalid("step is not a duration: %v", err)
			}
			step = req.GetStep().AsDuration()
		}
		if step, err = s.opts.API.Steps(ctx, sel, step, int(req.GetLimit())); err != nil {
			return err
		}
		by := req.GetSumBy()
		if err := s.opts.API.GroupBy("sum_by", by); err != nil {
			return err
		}
		if len(by) == 0 {
			if by, err = s.opts.Store.LabelNames(ctx, sel); err != nil {
				return fmt.Errorf("listing label names: %w", err)
			}
		}
		series, err := s.opts.Store.Series(ctx, sel, by, step)
		if err != nil {
			return fmt.Errorf("summing over time: %w", err)
		}
		if err := limits.Count(limits.AnswerValues, int64(len(series)), s.limits.AnswerValues,
			"the answer has %d series; sum them up by fewer labels or select fewer", len(series)); err != nil {
			return err
		}
		t := sel.Type
		for _, one := range series {
			w := &queryv1alpha1.MetricsSeries{
				Labelset:   &profilestorev1alpha1.LabelSet{},
				PeriodType: &queryv1alpha1.ValueType{Type: t.PeriodType, Unit: t.PeriodUnit},
				SampleType: &queryv1alpha1.ValueType{Type: t.SampleType, Unit: t.SampleUnit},
			}
			for _, l := range one.Labels {
				w.Labelset.Labels = append(w.Labelset.Labels, &profilestorev1alpha1.Label{Name: l.Name, Value: l.Value})
			}
			for _, p := range one.Points {
				rate := float64(p.Value)
				if !t.Level() {
					rate /= step.Seconds()
				}
				w.Samples = append(w.Samples, &queryv1alpha1.MetricsSample{
					Timestamp: timestamppb.New(time.Unix(0, p.TimeNanos)), Value: p.Value, ValuePerSecond: rate, Duration: int64(step),
				})
			}
			resp.Series = append(resp.Series, w)
		}
		return nil
	})
}

// selection reads a query with its profile type.
func (d *Door) selection(ctx context.Context, query string, start, end *timestamppb.Timestamp) (storage.Selection, error) {
	from, until, err := between(start, end)
	if err != nil {
		return storage.Selection{}, err
	}
	typ, selector := api.SplitQuery(query)
	if typ == "" {
		return storage.Selection{}, api.Invalid(`query is %.100q: want a profile type and a selector, as in process_cpu:cpu:nanoseconds:cpu:nanoseconds{service_name="api"}`, query)
	}
	return d.opts.API.Selection(ctx, typ, selector, from, until, false)
}
