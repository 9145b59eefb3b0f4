// Package server composes the rooms below it into one process that listens: ingest takes profiles in, query
// and api answer, the page is what people see. Everything is on one port, told apart by path:
//
//	/                                          the page
//	/perfuse.query.v1.QueryService/…           Connect, gRPC, gRPC-web
//	/perfuse.debuginfo.v1.DebuginfoService/…   Connect, gRPC, gRPC-web
//	/perfuse.fleet.v1.FleetService/…           Connect, gRPC, gRPC-web
//	/querier.v1.QuerierService/…               Pyroscope's clients: Connect, gRPC, gRPC-web
//	/pyroscope/render, /pyroscope/render-diff  Pyroscope's clients: JSON
//	/parca.query.v1alpha1.QueryService/…       Parca's clients: gRPC, gRPC-web, Connect
//	/opentelemetry.proto.collector.…/Export    OTLP over gRPC (also on 4317 and 4318)
//	/v1development/profiles                    OTLP over HTTP (also on 4317 and 4318)
//	/metrics /healthz /readyz /debug/          for those who run it
//
// The ports are taken before the store opens, so that a taken port is an error at once and a store that
// recovers for a while is visible: /healthz answers, everything else is 503 until /readyz is 200.
//
//	New: listen ─▶ Run: serve ─▶ Open ─▶ ready ─▶ (context ends) not ready ─▶ drain ─▶ close the store
package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/perfuse/perfuse/server/api"
	"github.com/perfuse/perfuse/server/fleet"
	"github.com/perfuse/perfuse/server/ingest"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/server/parca"
	"github.com/perfuse/perfuse/server/pyroscope"
	"github.com/perfuse/perfuse/server/query"
	"github.com/perfuse/perfuse/server/scrape"
	"github.com/perfuse/perfuse/server/sources"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/wall"
	"github.com/perfuse/perfuse/symbolize"
	"github.com/perfuse/perfuse/web"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/net/netutil"
)

// Backends are what the server serves from.
type Backends struct {
	// Store keeps profiles. Required. The server closes it when Run ends.
	Store storage.Store
	// Resolver names native addresses. Default: they stay addresses.
	Resolver symbolize.Resolver
	// Debuginfo takes files from agents. Default: none are taken.
	Debuginfo api.Debuginfo
	// Run does background work from then on until its context ends, as debuginfo.Store.Run does; if it
	// returns an error, the server stops. Default: there is none.
	Run func(ctx context.Context) error
	// Close is called after Store.Close and after Run returned. Default: nothing.
	Close func() error
}

// Options for New. The zero value lacks only Open.
type Options struct {
	// HTTPAddress is where everything is served. Default 127.0.0.1:7070.
	HTTPAddress string
	// OTLPAddresses are where OTLP alone is served too. Default (nil) 127.0.0.1:4317 and 127.0.0.1:4318,
	// each only if it is free; addresses that are given must be. Empty: none.
	OTLPAddresses []string
	// AllowedHosts are the host names, beside localhost and addresses, by which browsers may ask a server
	// that listens on loopback. Default: none.
	AllowedHosts []string

	// Open returns what to serve from. Run calls it once, with its own context, after the ports are open.
	// Required.
	Open func(ctx context.Context) (Backends, error)
	// Page serves what no other path does. Default: web.Handler.
	Page http.Handler
	// Limits that hold; zero fields take their defaults.
	Limits limits.Limits
	// DropAttributes are OTLP attributes that never become labels. Default: ingest.DefaultDropAttributes.
	DropAttributes []string
	// Sources says where source files are. Default: nowhere.
	Sources sources.Rules
	// Scrape are jobs that fetch profiles, as they come out of a configuration file. Default: none.
	Scrape []scrape.Config
	// Fleet is how agents are remembered. Its zero fields take their defaults.
	Fleet fleet.Config

	// Logger gets a line per change of state. Default: none.
	Logger log.Logger
	// Registry collects the metrics and is what /metrics shows. Default: one of its own.
	Registry *prometheus.Registry
	// Settings is shown on the debug page as the configuration in force. Default: the options' own.
	Settings any
	// Status is shown on the debug page: queues, drops, whatever parts beside the server want to tell.
	// Each is called when the page is. Default: none.
	Status map[string]func() any
}

// Server listens. Make it with New, use it with Run.
type Server struct {
	opts     Options
	logger   log.Logger
	main     net.Listener
	otlp     []net.Listener
	registry *prometheus.Registry
	refusals *limits.Refusals
	errors   errorLog
	panics   prometheus.Counter
	started  time.Time
	hostname string

	backend  atomic.Pointer[backend]
	inFlight requests
	closing  sync.Once
}

// requests counts those that are being handled. Unlike a sync.WaitGroup it may rise from zero while somebody
// waits.
type requests struct {
	mu    sync.Mutex
	n     int
	empty chan struct{} // closed when n becomes 0; nil if nobody waits
}

func (r *requests) begin() {
	r.mu.Lock()
	r.n++
	r.mu.Unlock()
}

func (r *requests) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n--
	if r.n == 0 && r.empty != nil {
		close(r.empty)
		r.empty = nil
	}
}

func (r *requests) count() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return float64(r.n)
}

// Wait returns once there were none for a moment.
func (r *requests) Wait() {
	r.mu.Lock()
	if r.n == 0 {
		r.mu.Unlock()
		return
	}
	if r.empty == nil {
		r.empty = make(chan struct{})
	}
	empty := r.empty
	r.mu.Unlock()
	<-empty
}

// backend is what handles requests once the store is open.
type backend struct {
	Backends
	http, otlp http.Handler
	scraper    *scrape.Manager
	sources    *sources.Files
}

// New takes the ports. If the server is not run, Close gives them back.
func New(opts Options) (*Server, error) {
	if opts.Open == nil {
		return nil, errors.New("making the server: no way to open a store")
	}
	if opts.HTTPAddress == "" {
		opts.HTTPAddress = "127.0.0.1:7070"
	}
	if opts.Logger == nil {
		opts.Logger = log.NewNopLogger()
	}
	if opts.Registry == nil {
		opts.Registry = prometheus.NewRegistry()
		opts.Registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	if opts.Settings == nil {
		opts.Settings = map[string]any{
			"http_address": opts.HTTPAddress, "otlp_addresses": opts.OTLPAddresses, "limits": opts.Limits.OrDefault(),
		}
	}
	s := &Server{opts: opts, logger: opts.Logger, registry: opts.Registry, started: time.Now()}
	s.hostname, _ = os.Hostname() // without it only the other names count
	s.refusals = limits.NewRefusals(s.registry)
	s.panics = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "perfuse_server_panics_total", Help: "Requests that ended in a panic, which is a bug.",
	})
	s.registry.MustRegister(s.panics, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "perfuse_server_requests_in_flight", Help: "Requests that are being handled, this one included.",
	}, s.inFlight.count))
	if err := s.listen(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Addr is the address of the one port.
func (s *Server) Addr() string { return s.main.Addr().String() }

// OTLPAddrs are the additional addresses for OTLP that were free.
func (s *Server) OTLPAddrs() []string {
	var out []string
	for _, l := range s.otlp {
		out = append(out, l.Addr().String())
	}
	return out
}

// URL is where a browser on this machine finds the page.
func (s *Server) URL() string { return pageURL(s.main.Addr()) }

// Ready says whether the store is open.
func (s *Server) Ready() bool { return s.backend.Load() != nil }

// Close gives the ports back. After Run it does nothing.
func (s *Server) Close() error {
	var err error
	s.closing.Do(func() {
		if s.main != nil {
			err = s.main.Close()
		}
		for _, l := range s.otlp {
			err = errors.Join(err, l.Close())
		}
	})
	return err
}

const (
	// stopTime is how long requests may take to end once the server stops; then their connections are cut.
	stopTime = 1500 * time.Millisecond
	// flushTime is for the last answers to leave.
	flushTime = 100 * time.Millisecond
	// maxConnections at once, per port; more wait in the kernel's queue.
	maxConnections = 4096
)

// Run opens the backends and serves until the context ends; it returns nil then, or why it could not serve.
func (s *Server) Run(ctx context.Context) error {
	defer s.Close()
	requests, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()

	servers := []*http.Server{s.httpServer(requests, s.handler())}
	listeners := []net.Listener{s.main}
	for _, l := range s.otlp {
		servers = append(servers, s.httpServer(requests, s.otlpHandler()))
		listeners = append(listeners, l)
	}
	failed := make(chan error, len(servers)+1)
	for i, srv := range servers {
		l := writeDeadlines{netutil.LimitListener(listeners[i], maxConnections)}
		go func() {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serving on %s: %w", l.Addr(), err)
			}
		}()
	}
	level.Info(s.logger).Log("msg", "listening", "url", s.URL(), "otlp", fmt.Sprint(s.OTLPAddrs()))

	var background sync.WaitGroup
	work, stopWork := context.WithCancel(requests)
	defer stopWork()
	opened := make(chan error, 1)
	openCtx, stopOpening := context.WithCancel(ctx)
	defer stopOpening()
	go func() { opened <- s.open(openCtx) }()

	var err error
	open := false
	for running := true; running; {
		select {
		case err = <-opened:
			opened = nil
			if running = err == nil; running {
				open = true
				b := s.backend.Load()
				background.Go(func() { b.scraper.Run(work) })
				if b.Run != nil {
					background.Go(func() {
						if err := b.Run(work); err != nil {
							failed <- fmt.Errorf("working in the background: %w", err)
						}
					})
				}
				level.Info(s.logger).Log("msg", "ready", "after", time.Since(s.started).Round(time.Millisecond))
			}
		case err = <-failed:
			running = false
		case <-ctx.Done():
			running = false
		}
	}

	// Stop in reverse order: no new work, end what runs, close what it needed.
	stopOpening()
	if opened != nil {
		open = <-opened == nil
	}
	b := s.backend.Swap(nil)
	stopRequests := time.AfterFunc(stopTime/2, cut)
	defer stopRequests.Stop()
	s.drain(servers)
	cut()
	stopWork()
	background.Wait()
	if open {
		err = errors.Join(err, b.close())
	}
	level.Info(s.logger).Log("msg", "stopped")
	return err
}

// drain lets requests end, for stopTime at most, and closes all connections. An HTTP/2 connection without
// requests would stay open for another second, in which its client may still send; nobody is here to answer.
func (s *Server) drain(servers []*http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	var shut sync.WaitGroup
	for _, srv := range servers {
		shut.Go(func() { srv.Shutdown(ctx) })
	}
	idle := make(chan struct{})
	go func() {
		defer close(idle)
		s.inFlight.Wait()
		time.Sleep(flushTime)
	}()
	select {
	case <-idle:
	case <-ctx.Done():
	}
	for _, srv := range servers {
		srv.Close()
	}
	cancel()
	shut.Wait()
}

func (b *backend) close() error {
	var err error
	if b.sources != nil {
		err = b.sources.Close()
	}
	if e := b.Store.Close(); e != nil {
		err = errors.Join(err, fmt.Errorf("closing the store: %w", e))
	}
	if b.Backends.Close != nil {
		if e := b.Backends.Close(); e != nil {
			err = errors.Join(err, fmt.Errorf("closing the backends: %w", e))
		}
	}
	return err
}

// open opens the backends and, with them, the paths that need them.
func (s *Server) open(ctx context.Context) error {
	backends, err := s.opts.Open(ctx)
	if err != nil {
		return err
	}
	b := &backend{Backends: backends}
	if err := s.compose(b); err != nil {
		return errors.Join(err, b.close())
	}
	s.backend.Store(b)
	return nil
}

// compose is the list of rooms.
func (s *Server) compose(b *backend) error {
	in, err := ingest.New(ingest.Options{
		Store: b.Store, Limits: s.opts.Limits, Refusals: s.refusals, DropAttributes: s.opts.DropAttributes,
		Logger: log.With(s.logger, "room", "ingest"), Registerer: s.registry, OnError: s.errors.add,
	})
	if err != nil {
		return err
	}
	questions := wall.New(b.Store)
	engine, err := query.New(query.Options{
		Store: questions, Resolver: b.Resolver,
		Logger: log.With(s.logger, "room", "query"), Registerer: s.registry, OnError: s.errors.add,
	})
	if err != nil {
		return err
	}
	if b.sources, err = sources.New(s.opts.Sources); err != nil {
		return err
	}
	services, err := api.New(api.Options{
		Store: questions, Engine: engine, Debuginfo: b.Debuginfo, Sources: b.sources, Limits: s.opts.Limits, Refusals: s.refusals,
		Logger: log.With(s.logger, "room", "api"), Registerer: s.registry, OnError: s.errors.add,
	})
	if err != nil {
		return err
	}
	b.scraper, err = scrape.New(scrape.Options{
		Ingester: in, Configs: s.opts.Scrape, Limits: s.opts.Limits,
		Logger: log.With(s.logger, "room", "scrape"), Registerer: s.registry, OnError: s.errors.add,
	})
	if err != nil {
		return err
	}
	agents, err := fleet.New(fleet.Options{
		API: services, Store: questions, Engine: engine, Debuginfo: b.Debuginfo, Targets: b.scraper.Status, Config: s.opts.Fleet,
		Registerer: s.registry,
	})
	if err != nil {
		return err
	}
	otlp, all := http.NewServeMux(), http.NewServeMux()
	rpc, post := in.RPC(), in.HTTP()
	for _, mux := range []*http.ServeMux{otlp, all} {
		mux.Handle(ingest.ExportProcedure, rpc)
		mux.Handle(ingest.ExportPath, post)
	}
	all.Handle(ingest.PushProcedure, in.Push())
	all.Handle(ingest.WriteRawProcedure, in.WriteRaw())
	all.Handle(ingest.WriteArrowProcedure, in.WriteArrow())
	all.Handle(ingest.WriteProcedure, in.Write())
	for _, path := range []string{ingest.IngestPath, ingest.PyroscopeIngestPath} {
		all.Handle(path, in.Ingest())
	}
	services.Mount(all)
	agents.Mount(all)
	toPyroscope, err := pyroscope.New(pyroscope.Options{API: services, Store: questions, Engine: engine, Limits: s.opts.Limits})
	if err != nil {
		return err
	}
	toPyroscope.Mount(all)
	toParca, err := parca.New(parca.Options{API: services, Store: questions, Engine: engine, Limits: s.opts.Limits})
	if err != nil {
		return err
	}
	toParca.Mount(all)
	services.HandleUnknown(all, s.page())
	services.HandleUnknown(otlp, http.NotFoundHandler())
	b.http, b.otlp = all, otlp
	return nil
}

func (s *Server) page() http.Handler {
	if s.opts.Page != nil {
		return s.opts.Page
	}
	return web.Handler()
}
