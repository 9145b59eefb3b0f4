// Package datasource answers what Grafana asks its data source for Perfuse:
//
//	query      a time series, a flame graph, both, or a diff     →  data frames
//	health     is there a server, which one, what does it have   →  a line of text
//	resources  types, label names and values, for the editor     →  JSON
//	streams    a series or a flame graph again at an interval    →  frames, until nobody looks
//
// All of it comes from perfuse.query.v1, the API that the page asks, and values are what the page shows. A flame graph is
// one row a node in the order of a depth-first walk, as Grafana's panel reads it:
//
//	level  value  self  label            level  value  self  valueRight  selfRight  label     (a diff)
//	0      10     0     total            0      10     0     12          0          total
//	1      10     4     main             1      10     4     12          4          main
//	2       6     6     md5              2       6     6      8          8          md5
//
// Nothing is kept between questions: a data source whose settings change is closed and made anew.
package datasource

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"github.com/grafana/grafana-plugin-sdk-go/backend"
	"github.com/grafana/grafana-plugin-sdk-go/backend/httpclient"
	"github.com/grafana/grafana-plugin-sdk-go/backend/instancemgmt"
	"github.com/grafana/grafana-plugin-sdk-go/backend/resource/httpadapter"
	"github.com/perfuse/perfuse/proto/perfuse/query/v1/queryv1connect"
	"golang.org/x/sync/errgroup"
)

// PluginID is the id in plugin.json.
const PluginID = "perfuse-profiling-datasource"

// parallelQueries is how many queries of one panel are asked at a time; the server has its own limit for all.
const parallelQueries = 4

// Datasource is one data source of a Grafana. Its methods are safe for concurrent use.
type Datasource struct {
	settings settings
	http     *http.Client
	api      queryv1connect.QueryServiceClient
	streams  atomic.Int32
	now      func() time.Time

	backend.CallResourceHandler
}

var (
	_ backend.QueryDataHandler      = (*Datasource)(nil)
	_ backend.CheckHealthHandler    = (*Datasource)(nil)
	_ backend.CallResourceHandler   = (*Datasource)(nil)
	_ backend.StreamHandler         = (*Datasource)(nil)
	_ instancemgmt.InstanceDisposer = (*Datasource)(nil)
)

// NewInstance makes a Datasource of what its settings page says.
func NewInstance(ctx context.Context, in backend.DataSourceInstanceSettings) (instancemgmt.Instance, error) {
	s, err := readSettings(in)
	if err != nil {
		return nil, err
	}
	opts, err := in.HTTPClientOptions(ctx)
	if err != nil {
		return nil, backend.DownstreamErrorf("reading the data source's settings for HTTP: %w", err)
	}
	if s.bearer != "" {
		opts.Header.Set("Authorization", "Bearer "+s.bearer)
	}
	opts.ForwardHTTPHeaders = true // what Grafana lets through, such as the token of a user who signed in by OAuth
	client, err := httpclient.New(opts)
	if err != nil {
		return nil, backend.DownstreamErrorf("making the HTTP client: %w", err)
	}
	ds := &Datasource{
		settings: s,
		http:     client,
		api:      queryv1connect.NewQueryServiceClient(client, s.url, connect.WithReadMaxBytes(s.answerBytes)),
		now:      time.Now,
	}
	ds.CallResourceHandler = httpadapter.New(ds.resources())
	return ds, nil
}

// Dispose closes what the data source keeps open.
func (ds *Datasource) Dispose() { ds.http.CloseIdleConnections() }

// QueryData answers each query for itself: one that fails does not keep the others from their answers.
func (ds *Datasource) QueryData(ctx context.Context, req *backend.QueryDataRequest) (*backend.QueryDataResponse, error) {
	answers := make([]backend.DataResponse, len(req.Queries))
	var g errgroup.Group
	g.SetLimit(parallelQueries)
	for i, in := range req.Queries {
		g.Go(func() error {
			answers[i] = ds.answer(ctx, in)
			return nil
		})
	}
	g.Wait()
	out := backend.NewQueryDataResponse()
	for i, in := range req.Queries {
		out.Responses[in.RefID] = answers[i]
	}
	return out, nil
}

func (ds *Datasource) answer(ctx context.Context, in backend.DataQuery) backend.DataResponse {
	q, err := readQuery(in.QueryType, in.JSON)
	if err != nil {
		return ds.failure(err)
	}
	frames, err := ds.frames(ctx, q, scope{in.TimeRange, in.Interval})
	if err != nil {
		return ds.failure(err)
	}
	return backend.DataResponse{Frames: frames, Status: backend.StatusOK}
}

// CheckHealth says which server there is and what it has.
func (ds *Datasource) CheckHealth(ctx context.Context, _ *backend.CheckHealthRequest) (*backend.CheckHealthResult, error) {
	types, err := ds.types(ctx, time.Time{}, time.Time{})
	if err != nil {
		return &backend.CheckHealthResult{Status: backend.HealthStatusError, Message: ds.explain(err).message}, nil
	}
	message := fmt.Sprintf("Perfuse %s has %d profile types", ds.serverVersion(ctx), len(types))
	if len(types) == 0 {
		message = fmt.Sprintf("Perfuse %s answers, but has no profiles yet: start an agent, or send it some", ds.serverVersion(ctx))
	}
	return &backend.CheckHealthResult{Status: backend.HealthStatusOk, Message: message}, nil
}

// serverVersion is what the server's build page says, or nothing much: a proxy may keep /debug/ to itself.
func (ds *Datasource) serverVersion(ctx context.Context) string {
	const unknown = "(of unknown version)"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, ds.settings.url+"/debug/build", nil)
	if err != nil {
		return unknown
	}
	resp, err := ds.http.Do(req)
	if err != nil {
		return unknown
	}
	defer resp.Body.Close()
	const pageBytes = 1 << 16
	page, err := io.ReadAll(io.LimitReader(resp.Body, pageBytes))
	if err != nil {
		return unknown
	}
	for line := range strings.Lines(string(page)) {
		// The columns of runtime/debug.BuildInfo.
		if f := strings.Fields(line); len(f) >= 3 && f[0] == "mod" {
			return f[2]
		}
	}
	return unknown
}
