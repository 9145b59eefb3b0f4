// Package pyroscope answers what Pyroscope's clients ask, so that Grafana's Pyroscope datasource, Profiles
// Drilldown and scripts work with this server as they are:
//
//	/querier.v1.QuerierService/…   Connect, gRPC, gRPC-web
//	/pyroscope/render              a flame graph as flamebearer JSON, pprof or DOT
//	/pyroscope/render-diff         two flame graphs laid over each other
//
// Questions become those of server/api, whose limits, turns and codes of errors hold here too; only the forms
// differ. A flame graph is bars by level, each bar at a distance from the one before it:
//
//	name    level  x  total        levels
//	total   0      0  10           [0 10 1 0]
//	 main   1      0   6           [0 6 2 1  0 3 3 2]       main 6, a gap of 0, work 3
//	  md5   2      0   4           [0 4 4 3]
//	 work   1      6   3
//
// Here functions of one name are one, whatever file they are in, and what is folded is called "other". In
// selectors a profile's type has labels: __profile_type__, __name__, __type__, __unit__, __period_type__ and
// __period_unit__. What is not served is answered Unimplemented and named; nothing that is asked for is
// ignored.
package pyroscope

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"sort"
	"time"

	"connectrpc.com/connect"
	"github.com/perfuse/perfuse/profile"
	querierv1 "github.com/perfuse/perfuse/proto/querier/v1"
	"github.com/perfuse/perfuse/proto/querier/v1/querierv1connect"
	typesv1 "github.com/perfuse/perfuse/proto/types/v1"
	"github.com/perfuse/perfuse/server/api"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/server/query"
	"github.com/perfuse/perfuse/storage"
	"google.golang.org/protobuf/proto"
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
	// Now is the clock of "now-1h". Default time.Now.
	Now func() time.Time
}

// Door answers. Its methods are safe for concurrent use.
type Door struct {
	opts   Options
	limits limits.Limits
}

// New returns a Door.
func New(opts Options) (*Door, error) {
	if opts.API == nil || opts.Store == nil || opts.Engine == nil {
		return nil, errors.New("making Pyroscope's door: no API, no store or no engine")
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &Door{opts: opts, limits: opts.Limits.OrDefault()}, nil
}

// Mount adds the handlers.
func (d *Door) Mount(mux *http.ServeMux) {
	d.opts.API.Handle(mux, querierv1.File_querier_v1_querier_proto.Services().ByName("QuerierService"),
		func(opts ...connect.HandlerOption) (string, http.Handler) {
			return querierv1connect.NewQuerierServiceHandler(service{d}, opts...)
		})
	d.opts.API.HandleGet(mux, "/pyroscope/render", d.render)
	d.opts.API.HandleGet(mux, "/pyroscope/render-diff", d.renderDiff)
}

// service is querierv1connect.QuerierServiceHandler.
type service struct{ *Door }

// between reads a range in milliseconds, 0 being unbounded.
func between(start, end int64) (from, until time.Time, err error) {
	if start < 0 || end < 0 {
		return from, until, api.Invalid("start and end are milliseconds since 1970, 0 or more")
	}
	if start != 0 {
		from = time.UnixMilli(start)
	}
	if end != 0 {
		until = time.UnixMilli(end)
	}
	return api.Between(from, until)
}

func (s service) ProfileTypes(ctx context.Context, req *querierv1.ProfileTypesRequest) (*querierv1.ProfileTypesResponse, error) {
	start, end, err := between(req.GetStart(), req.GetEnd())
	if err != nil {
		return nil, err
	}
	resp := &querierv1.ProfileTypesResponse{}
	return resp, s.opts.API.Types(ctx, start, end, func(t profile.Type) {
		resp.ProfileTypes = append(resp.ProfileTypes, &typesv1.ProfileType{
			ID: t.String(), Name: t.Name, SampleType: t.SampleType, SampleUnit: t.SampleUnit,
			PeriodType: t.PeriodType, PeriodUnit: t.PeriodUnit,
		})
	})
}

// GetProfileStats says when the first and the last profiles are, as exactly as the index knows.
func (s service) GetProfileStats(ctx context.Context, req *typesv1.GetProfileStatsRequest) (*typesv1.GetProfileStatsResponse, error) {
	resp := &typesv1.GetProfileStatsResponse{}
	return resp, s.opts.API.Query(ctx, func(ctx context.Context) (err error) {
		stored := func(start, end time.Time) bool {
			if err != nil {
				return false
			}
			var types []profile.Type
			types, err = s.opts.Store.Types(ctx, start, end)
			return len(types) > 0
		}
		if resp.DataIngested = stored(time.Time{}, time.Time{}); !resp.DataIngested {
			return err
		}
		// Whether there is anything before or after a moment only changes once.
		const slots = int(math.MaxInt64 / int64(storage.IndexResolution))
		slot := func(i int) time.Time { return time.Unix(0, int64(i)*int64(storage.IndexResolution)) }
		oldest := sort.Search(slots, func(i int) bool { return stored(time.Time{}, slot(i+1)) })
		newest := sort.Search(slots, func(i int) bool { return !stored(slot(i+1), time.Time{}) })
		resp.OldestProfileTime, resp.NewestProfileTime = slot(oldest).UnixMilli(), slot(newest+1).UnixMilli()
		return err
	})
}

// SelectSeries sums over time. The sum of levels (bytes in use) is the mean level of each step, as everywhere.
func (s service) SelectSeries(ctx context.Context, req *querierv1.SelectSeriesRequest) (*querierv1.SelectSeriesResponse, error) {
	resp := &querierv1.SelectSeriesResponse{}
	return resp, s.opts.API.Query(ctx, func(ctx context.Context) error {
		if stacks := req.GetStackTraceSelector(); proto.Size(stacks) > 0 {
			return api.Unserved("a stack_trace_selector in SelectSeries is not served; SelectMergeStacktraces, SelectMergeProfile and Diff take one")
		}
		step := req.GetStep()
		if !(step >= 0 && step <= 1e9) {
			return api.Invalid("step is %g: want seconds, 0 to 1e9", step)
		}
		if req.Limit != nil && req.GetLimit() <= 0 {
			return api.Invalid("limit is %d: want 1 or more, or none", req.GetLimit())
		}
		if err := s.opts.API.GroupBy("group_by", req.GetGroupBy()); err != nil {
			return err
		}
		sel, err := s.selection(ctx, req.GetProfileTypeID(), req.GetLabelSelector(), req.GetStart(), req.GetEnd())
		if err != nil {
			return err
		}
		switch req.GetAggregation() {
		case typesv1.TimeSeriesAggregationType_TIME_SERIES_AGGREGATION_TYPE_SUM:
		case typesv1.TimeSeriesAggregationType_TIME_SERIES_AGGREGATION_TYPE_AVERAGE:
			if !sel.Type.Level() {
				return api.Unserved("the average of %s is not served: its values are amounts, ask for their sum; levels such as inuse_space are averages", sel.Type)
			}
		default:
			return api.Unserved("aggregation %d is not served; served are TIME_SERIES_AGGREGATION_TYPE_SUM and _AVERAGE", req.GetAggregation())
		}
		width, err := s.opts.API.Steps(ctx, sel, time.Duration(math.Round(step*1e9)), 0)
		if err != nil {
			return err
		}
		var by []string
		var constant profile.Labels
		for _, name := range req.GetGroupBy() {
			if value, ofType := typeLabel(*sel.Type, name); ofType {
				constant = append(constant, profile.Label{Name: name, Value: value})
			} else {
				by = append(by, name)
			}
		}
		series, err := s.opts.Store.Series(ctx, sel, by, width)
		if err != nil {
			return fmt.Errorf("summing over time: %w", err)
		}
		if req.Limit != nil {
			series = largest(series, req.GetLimit())
		}
		if err := limits.Count(limits.AnswerValues, int64(len(series)), s.limits.AnswerValues,
			"the answer has %d series; ask for fewer by limit or group_by", len(series)); err != nil {
			return err
		}
		for _, t := range series {
			w := &typesv1.Series{Labels: wireLabels(profile.NewLabels(slices.Concat(t.Labels, constant)...))}
			for _, p := range t.Points {
				w.Points = append(w.Points, &typesv1.Point{Timestamp: p.TimeNanos / 1e6, Value: float64(p.Value)})
			}
			resp.Series = append(resp.Series, w)
		}
		return nil
	})
}

// largest returns the most series with the largest sums, the largest first.
func largest(series []storage.TimeSeries, most int64) []storage.TimeSeries {
	type ranked struct {
		sum float64
		storage.TimeSeries
	}
	order := make([]ranked, len(series))
	for i, t := range series {
		order[i].TimeSeries = t
		for _, p := range t.Points {
			order[i].sum += float64(p.Value)
		}
	}
	slices.SortStableFunc(order, func(a, b ranked) int {
		switch {
		case a.sum > b.sum:
			return -1
		case a.sum < b.sum:
			return 1
		}
		return 0
	})
	out := make([]storage.TimeSeries, min(int64(len(order)), most))
	for i := range out {
		out[i] = order[i].TimeSeries
	}
	return out
}

func wireLabels(ls profile.Labels) []*typesv1.LabelPair {
	out := make([]*typesv1.LabelPair, len(ls))
	for i, l := range ls {
		out[i] = &typesv1.LabelPair{Name: l.Name, Value: l.Value}
	}
	return out
}
