package fleet

import (
	"context"
	"errors"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	fleetv1 "github.com/perfuse/perfuse/proto/perfuse/fleet/v1"
	"github.com/perfuse/perfuse/proto/perfuse/fleet/v1/fleetv1connect"
	"github.com/perfuse/perfuse/server/api"
	"github.com/perfuse/perfuse/server/query"
	"github.com/perfuse/perfuse/server/scrape"
	"github.com/perfuse/perfuse/storage"
)

// Options for New.
type Options struct {
	// API lends its limits, turns and codes of errors. Required.
	API *api.API
	// Store and Engine say what profiles go through. Required.
	Store  storage.Store
	Engine *query.Engine
	// Debuginfo says which symbols there are. Default: none are kept.
	Debuginfo api.Debuginfo
	// Targets are what is scraped. Default: nothing is.
	Targets func() []scrape.JobStatus
	// Config has its own defaults.
	Config Config
	// Registerer gets the metrics. Default: none.
	Registerer prometheus.Registerer
	// Now tells the time. Default: time.Now.
	Now func() time.Time
}

// Fleet serves FleetService. Its methods are safe for concurrent use.
type Fleet struct {
	opts     Options
	registry *Registry
	symbols  symbols
}

// New returns a Fleet that no agent has reported to.
func New(opts Options) (*Fleet, error) {
	if opts.API == nil || opts.Store == nil || opts.Engine == nil {
		return nil, errors.New("making the fleet's service: no API, no store or no engine")
	}
	if err := opts.Config.Check(); err != nil {
		return nil, err
	}
	if opts.Targets == nil {
		opts.Targets = func() []scrape.JobStatus { return nil }
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	f := &Fleet{opts: opts, registry: NewRegistry(opts.Config, opts.Now), symbols: symbols{turn: make(chan struct{}, 1)}}
	if opts.Registerer != nil {
		opts.Registerer.MustRegister(f.registry)
	}
	return f, nil
}

// Mount adds the handlers.
func (f *Fleet) Mount(mux *http.ServeMux) {
	f.opts.API.Handle(mux, fleetv1.File_perfuse_fleet_v1_fleet_proto.Services().ByName("FleetService"),
		func(opts ...connect.HandlerOption) (string, http.Handler) {
			return fleetv1connect.NewFleetServiceHandler(service{f}, opts...)
		})
}

// service is fleetv1connect.FleetServiceHandler.
type service struct{ *Fleet }

func (s service) Report(_ context.Context, req *fleetv1.ReportRequest) (*fleetv1.ReportResponse, error) {
	switch err := s.registry.Report(req.GetReport()); {
	case errors.Is(err, ErrReport):
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	case errors.Is(err, ErrFull):
		return nil, connect.NewError(connect.CodeResourceExhausted, err)
	case err != nil:
		return nil, err
	}
	return &fleetv1.ReportResponse{IntervalNano: int64(s.registry.Interval())}, nil
}

func (s service) Agents(context.Context, *fleetv1.AgentsRequest) (*fleetv1.AgentsResponse, error) {
	return s.registry.Agents(), nil
}

func (s service) Agent(_ context.Context, req *fleetv1.AgentRequest) (*fleetv1.AgentResponse, error) {
	resp, err := s.registry.Agent(req.GetInstance())
	if err == nil && resp == nil {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("no agent has this instance: it was forgotten, or the server has started anew"))
	}
	return resp, err
}

var (
	agentsDesc    = prometheus.NewDesc("perfuse_fleet_agents", "Agents that are remembered, by state (up, late, stopped).", []string{"state"}, nil)
	reportsDesc   = prometheus.NewDesc("perfuse_fleet_reports_total", "Reports of agents that were taken.", nil, nil)
	refusedDesc   = prometheus.NewDesc("perfuse_fleet_refused_reports_total", "Reports that were refused: malformed, too large, or no room for one more agent.", nil, nil)
	forgottenDesc = prometheus.NewDesc("perfuse_fleet_forgotten_agents_total", "Agents that were forgotten: silent for long, or replaced by a newer one.", nil, nil)
)

// Describe implements prometheus.Collector.
func (r *Registry) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{agentsDesc, reportsDesc, refusedDesc, forgottenDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (r *Registry) Collect(ch chan<- prometheus.Metric) {
	r.mu.Lock()
	now := r.now()
	states := map[fleetv1.State]int{}
	for _, a := range r.agents {
		states[r.state(a, now)]++
	}
	reports, refused, forgotten := r.reports, r.refused, r.forgotten
	r.mu.Unlock()
	for state, name := range map[fleetv1.State]string{fleetv1.State_UP: "up", fleetv1.State_LATE: "late", fleetv1.State_STOPPED: "stopped"} {
		ch <- prometheus.MustNewConstMetric(agentsDesc, prometheus.GaugeValue, float64(states[state]), name)
	}
	for d, n := range map[*prometheus.Desc]uint64{reportsDesc: reports, refusedDesc: refused, forgottenDesc: forgotten} {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n))
	}
}
