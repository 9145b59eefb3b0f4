// Package api serves the Connect services that people's programs talk to: QueryService (the page, profilectl,
// the CI gate) and DebuginfoService (agents). Handlers check the request, ask the rooms behind them and
// translate; errors become RPC codes here and nowhere deeper, and each says what to do next.
//
// Every query runs within limits: so many at once, so long, so many nodes and values. A client that leaves
// ends its query.
package api

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	debuginfov1 "github.com/perfuse/perfuse/proto/perfuse/debuginfo/v1"
	"github.com/perfuse/perfuse/proto/perfuse/debuginfo/v1/debuginfov1connect"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/proto/perfuse/query/v1/queryv1connect"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/server/query"
	"github.com/perfuse/perfuse/server/sources"
	"github.com/perfuse/perfuse/storage"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"
)

// Options for New.
type Options struct {
	// Store and Engine answer. Required.
	Store  storage.Store
	Engine *query.Engine
	// Debuginfo keeps debug information. Default: the service says that this server keeps none.
	Debuginfo Debuginfo
	// Sources has the text of source files. Default: of none.
	Sources Sources
	// Limits that hold; zero fields take their defaults.
	Limits limits.Limits
	// Refusals counts what the limits refused. Default: counted nowhere.
	Refusals *limits.Refusals
	// Logger gets a line per failed request. Default: none.
	Logger log.Logger
	// Registerer gets the metrics. Default: none.
	Registerer prometheus.Registerer
	// OnError is told of every request that failed through our fault, for the debug page. Default: nobody.
	OnError func(where string, err error)
}

// Sources is what [sources.Files] does.
type Sources interface {
	// Text returns a source file's text by its path in debug information; the error says why it cannot be had.
	Text(path string) (string, error)
}

// API serves both services. Its methods are safe for concurrent use.
type API struct {
	opts    Options
	limits  limits.Limits
	turns   *semaphore.Weighted
	logger  log.Logger
	seconds *prometheus.HistogramVec
}

// New returns an API.
func New(opts Options) (*API, error) {
	if opts.Store == nil || opts.Engine == nil {
		return nil, errors.New("making the API: no store or no engine")
	}
	if opts.Logger == nil {
		opts.Logger = log.NewNopLogger()
	}
	if opts.Sources == nil {
		opts.Sources = &sources.Files{}
	}
	if opts.Refusals == nil {
		opts.Refusals = limits.NewRefusals(nil)
	}
	a := &API{opts: opts, limits: opts.Limits.OrDefault(), logger: opts.Logger}
	turns := a.limits.ConcurrentQueries
	if turns <= 0 {
		turns = 1 << 30
	}
	a.turns = semaphore.NewWeighted(turns)
	a.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "perfuse_api_request_seconds",
		Help:    "Time to answer, by procedure and code.",
		Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60},
	}, []string{"procedure", "code"})
	if opts.Registerer != nil {
		opts.Registerer.MustRegister(a.seconds)
	}
	return a, nil
}

// Mount adds the handlers of both services.
func (a *API) Mount(mux *http.ServeMux) {
	a.Handle(mux, queryv1.File_perfuse_query_v1_query_proto.Services().ByName("QueryService"), func(opts ...connect.HandlerOption) (string, http.Handler) {
		return queryv1connect.NewQueryServiceHandler(queryService{a}, opts...)
	})
	newDebuginfo := func(opts ...connect.HandlerOption) (string, http.Handler) {
		return debuginfov1connect.NewDebuginfoServiceHandler(debuginfoService{a}, opts...)
	}
	a.Handle(mux, debuginfov1.File_perfuse_debuginfo_v1_debuginfo_proto.Services().ByName("DebuginfoService"), newDebuginfo)
	// A file comes in many messages, none of which has to be large.
	_, upload := newDebuginfo(append(a.handlerOptions(limits.BodyBytes, a.limits.BodyBytes), connect.WithReadMaxBytes(a.maxMessage()))...)
	mux.Handle(debuginfov1connect.DebuginfoServiceUploadProcedure, a.limitBody(upload, limits.UploadBytes, a.limits.UploadBytes))
}

// handlerOptions are those of all services; a message may have so many bytes when it is unpacked.
func (a *API) handlerOptions(unpacked limits.Name, max int64) []connect.HandlerOption {
	return append(limits.HandlerOptions(unpacked, max, a.book), connect.WithInterceptors(edge{a}), connect.WithCompressMinBytes(1024))
}

func (a *API) limitBody(h http.Handler, name limits.Name, max int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = r.WithContext(r.Context()) // net/http holds on to its own request's body
		r.Body = limits.Body(r.Body, name, max, "the request body", a.book)
		h.ServeHTTP(w, r)
	})
}

// maxMessage bounds a message of an upload.
func (a *API) maxMessage() int {
	if a.limits.BodyBytes <= 0 {
		return 0
	}
	return int(min(a.limits.BodyBytes, math.MaxInt32))
}

// book counts what a limit refused and returns err.
func (a *API) book(err error) {
	var le *limits.Error
	if errors.As(err, &le) {
		a.opts.Refusals.Add(le.Limit)
	}
}

// query waits for its turn and runs f within the limit of time.
func (a *API) query(ctx context.Context, f func(ctx context.Context) error) error {
	if a.limits.QueryTime > 0 {
		tooLong := &limits.Error{Limit: limits.QueryTime, What: "the query takes too long; ask for less time or fewer series", Max: a.limits.QueryTime.String()}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, a.limits.QueryTime, tooLong)
		defer cancel()
	}
	if a.turns.Acquire(ctx, 1) != nil {
		err := context.Cause(ctx)
		if errors.As(err, new(*limits.Error)) {
			err = limits.Count(limits.ConcurrentQueries, math.MaxInt64, a.limits.ConcurrentQueries, "the query has waited %s for its turn", a.limits.QueryTime)
		}
		return fmt.Errorf("waiting for other queries to end: %w", err)
	}
	defer a.turns.Release(1)
	err := f(ctx)
	if err != nil && ctx.Err() != nil {
		// Whatever the store says about a context that ended, the reason is why it ended.
		return context.Cause(ctx)
	}
	return err
}

// edge is the border of RPC: it gives errors their codes, times requests, and logs what is our fault.
type edge struct{ *API }

func (a edge) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		start := time.Now()
		resp, err := next(ctx, req)
		return resp, a.finish(req.Spec().Procedure, start, err)
	}
}

func (a edge) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (a edge) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		start := time.Now()
		return a.finish(conn.Spec().Procedure, start, next(ctx, conn))
	}
}

func (a edge) finish(procedure string, start time.Time, err error) error {
	if err == nil {
		a.seconds.WithLabelValues(procedure, "ok").Observe(time.Since(start).Seconds())
		return nil
	}
	var ce *connect.Error
	if !errors.As(err, &ce) {
		a.book(err)
		ce = connect.NewError(codeOf(err), err)
	}
	a.seconds.WithLabelValues(procedure, ce.Code().String()).Observe(time.Since(start).Seconds())
	switch ce.Code() {
	case connect.CodeInternal, connect.CodeUnavailable, connect.CodeUnknown:
		level.Error(a.logger).Log("msg", "request failed", "procedure", procedure, "err", err)
		if a.opts.OnError != nil {
			a.opts.OnError(procedure, err)
		}
	}
	return ce
}
