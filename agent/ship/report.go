package ship

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	fleetv1 "github.com/perfuse/perfuse/proto/perfuse/fleet/v1"
	"github.com/perfuse/perfuse/proto/perfuse/fleet/v1/fleetv1connect"
)

// ReporterOptions of T.NewReporter. Report is required.
type ReporterOptions struct {
	// Report says what there is to tell. It is called by one goroutine at a time.
	Report func() *fleetv1.Report
	// Interval is the time between two reports until the server has said what it wants. Default 15 seconds.
	Interval time.Duration
	// Logger: default none.
	Logger log.Logger
}

// Reporter tells the server again and again what the agent does, over the connection that profiles take. What a server
// does not hear is not kept: the next report says more.
type Reporter struct {
	opts   ReporterOptions
	send   func(context.Context, *fleetv1.Report) (interval time.Duration, err error)
	soon   chan struct{}
	last   time.Time // when the newest was sent
	silent bool      // the last try failed
	again  backoff
}

const (
	// soonest is the least time between two reports, whatever happens.
	soonest = 3 * time.Second
	// oldServer is how long a server without the service is left alone.
	oldServer = 10 * time.Minute
	// reportTimeout bounds one report.
	reportTimeout = 10 * time.Second
	// The server cannot ask for less or more.
	minReportInterval, maxReportInterval = time.Second, 10 * time.Minute
)

// NewReporter does not connect.
func (t *T) NewReporter(o ReporterOptions) *Reporter {
	o.Interval = cmp.Or(o.Interval, 15*time.Second)
	if o.Logger == nil {
		o.Logger = log.NewNopLogger()
	}
	client := fleetv1connect.NewFleetServiceClient(t.client, t.url, connect.WithGRPC(), connect.WithReadMaxBytes(64<<10))
	return &Reporter{opts: o, soon: make(chan struct{}, 1), send: func(ctx context.Context, report *fleetv1.Report) (time.Duration, error) {
		ctx, cancel := context.WithTimeout(withHeaders(ctx, t.headers), reportTimeout)
		defer cancel()
		resp, err := client.Report(ctx, &fleetv1.ReportRequest{Report: report})
		if err != nil {
			return 0, fmt.Errorf("reporting to %s: %w", t.opts.Address, err)
		}
		return time.Duration(resp.GetIntervalNano()), nil
	}}
}

// withHeaders sends headers with the calls of ctx.
func withHeaders(ctx context.Context, headers http.Header) context.Context {
	ctx, info := connect.NewClientContext(ctx)
	for k, vs := range headers {
		info.RequestHeader()[k] = vs
	}
	return ctx
}

// Soon asks for a report now, or as soon as one may follow the last. It does not block.
func (r *Reporter) Soon() {
	select {
	case r.soon <- struct{}{}:
	default:
	}
}

// Run reports at once and then every interval, with a jitter of a tenth so that a fleet that was started together does
// not report together, until ctx ends. It returns nil then.
func (r *Reporter) Run(ctx context.Context) error {
	for {
		pause := r.tell(ctx, r.opts.Report())
		wait := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			wait.Stop()
			return nil
		case <-wait.C:
			continue
		case <-r.wanted():
		}
		wait.Reset(max(soonest-time.Since(r.last), 0))
		select {
		case <-ctx.Done():
			wait.Stop()
			return nil
		case <-wait.C:
		}
	}
}

// wanted is when a report is asked for: never of a server that does not listen anyway.
func (r *Reporter) wanted() <-chan struct{} {
	if r.silent {
		return nil
	}
	return r.soon
}

// Last is the agent's last word. Run must have returned.
func (r *Reporter) Last(ctx context.Context) {
	report := r.opts.Report()
	report.Stopping = true
	r.tell(ctx, report)
}

// tell sends one report and returns how long to wait for the next.
func (r *Reporter) tell(ctx context.Context, report *fleetv1.Report) time.Duration {
	r.last = time.Now()
	interval, err := r.send(ctx, report)
	if ctx.Err() != nil && err != nil {
		return r.opts.Interval
	}
	if connect.CodeOf(err) == connect.CodeUnimplemented && err != nil {
		if !r.silent {
			level.Info(r.opts.Logger).Log("msg", "the server does not take reports of agents: it is older than this agent")
		}
		r.silent = true
		return oldServer
	}
	switch {
	case err != nil && !r.silent:
		level.Warn(r.opts.Logger).Log("msg", "the server does not hear how this agent does", "err", err)
	case err == nil && r.silent:
		level.Info(r.opts.Logger).Log("msg", "the server hears again how this agent does")
	}
	r.silent = err != nil
	if interval > 0 {
		r.opts.Interval = min(max(interval, minReportInterval), maxReportInterval)
	}
	if err != nil {
		return min(r.again.wait(judge(err)), max(r.opts.Interval, judge(err).after))
	}
	r.again.reset()
	return time.Duration(float64(r.opts.Interval) * (0.9 + 0.2*rand.Float64()))
}
