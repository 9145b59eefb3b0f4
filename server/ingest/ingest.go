// Package ingest takes profiles in. Every door leads to one normaliser, which turns what a client sent into
// a profile.Batch, and the store writes that:
//
//	OTLP over gRPC, gRPC-web, Connect, HTTP ──────┐
//	Parca's WriteRaw, WriteArrow and Write ───────┤
//	Pyroscope's push, /ingest ────────────────────┴▶ decode ▶ validate ▶ normalise ▶ not seen before? ▶ Store.Write ▶ answer
//
// It promises: an answer without error means that the store has the profiles on disk. A request is taken as
// a whole or refused as a whole, with an error that names the field and the index, or the limit. Bytes from
// outside never panic, and never cost much more memory than the limits say.
package ingest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/storage"
	"github.com/prometheus/client_golang/prometheus"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/profiles/v1development"
	profilesv1 "go.opentelemetry.io/proto/otlp/profiles/v1development"
)

// Options for New.
type Options struct {
	// Store takes the profiles. Required.
	Store storage.Store
	// Limits that hold; zero fields take their defaults.
	Limits limits.Limits
	// Refusals counts refused requests. Default: counted nowhere.
	Refusals *limits.Refusals
	// DropAttributes are the attributes that never become labels. Default: DefaultDropAttributes.
	DropAttributes []string
	// Window is how many profile ids are remembered against storing a profile twice. Default
	// storage.RecentIDs, which is also how many survive a restart.
	Window int
	// Logger gets a line when a request is refused or fails, at most one in ten seconds. Default: none.
	Logger log.Logger
	// Registerer gets the metrics. Default: none.
	Registerer prometheus.Registerer
	// OnError is told of every request that failed, for the debug page. Default: nobody.
	OnError func(door string, err error)
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

// Ingester is the way in. Its methods are safe for concurrent use.
type Ingester struct {
	opts       Options
	limits     limits.Limits
	normaliser Normaliser
	seen       *seen
	gate       *gate
	unpacker   *limits.Unpacker
	logger     log.Logger
	quiet      quiet
	metrics    metrics
}

// quiet lets one line in ten seconds through: a client that sends nothing but nonsense does it often.
type quiet struct {
	mu     sync.Mutex
	last   time.Time
	unsaid int
}

func (q *quiet) next(now time.Time) (unsaid int, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.last.IsZero() && now.Sub(q.last) < 10*time.Second {
		q.unsaid++
		return 0, false
	}
	unsaid, q.unsaid, q.last = q.unsaid, 0, now
	return unsaid, true
}

// New returns an Ingester. It asks the store what was delivered last.
func New(opts Options) (*Ingester, error) {
	if opts.Store == nil {
		return nil, errors.New("making the ingester: no store")
	}
	if opts.DropAttributes == nil {
		opts.DropAttributes = DefaultDropAttributes
	}
	if opts.Window == 0 {
		opts.Window = storage.RecentIDs
	}
	if opts.Logger == nil {
		opts.Logger = log.NewNopLogger()
	}
	if opts.Refusals == nil {
		opts.Refusals = limits.NewRefusals(nil)
	}
	stored, err := opts.Store.Recent(context.Background())
	if err != nil {
		return nil, fmt.Errorf("making the ingester: asking for the profiles that were stored last: %w", err)
	}
	lim := opts.Limits.OrDefault()
	return &Ingester{
		gate:       newGate(&lim),
		unpacker:   limits.NewUnpacker(limits.DecompressedBytes, lim.DecompressedBytes),
		opts:       opts,
		limits:     lim,
		normaliser: Normaliser{Limits: lim, DropAttributes: opts.DropAttributes, Now: opts.Now},
		seen:       newSeen(opts.Window, stored),
		logger:     opts.Logger,
		metrics:    newMetrics(opts.Registerer),
	}, nil
}

// Export stores what a request carries, except profiles that were stored before. Errors: ErrInvalid, a
// *limits.Error, the store's, or the context's.
func (g *Ingester) Export(ctx context.Context, req *collectorv1.ExportProfilesServiceRequest) error {
	var keys []profile.ID
	byProfile := map[*profilesv1.Profile]profile.ID{}
	for _, rp := range req.GetResourceProfiles() {
		for _, sp := range rp.GetScopeProfiles() {
			for _, p := range sp.GetProfiles() {
				if k, ok := keyOf(p); ok {
					keys = append(keys, k)
					byProfile[p] = k
				}
			}
		}
	}
	fresh, finish, err := g.seen.claim(ctx, keys)
	if err != nil {
		return fmt.Errorf("waiting for the same profile on another connection: %w", err)
	}
	stored := false
	defer func() { finish(stored) }()
	duplicates := 0
	b, err := g.normaliser.Normalise(req, func(p *profilesv1.Profile) (profile.ID, bool) {
		k, hasID := byProfile[p]
		if hasID && !fresh[k] {
			duplicates++
			return k, false
		}
		return k, true
	})
	if err != nil {
		return err
	}
	if err := g.write(ctx, b); err != nil {
		return err
	}
	stored = true
	g.metrics.duplicates.Add(float64(duplicates))
	return nil
}

// deliver stores a batch, except profiles that were stored before. unsure, if not zero, is what all of them are known by,
// though another sender's may be the same; then they were stored before only if that sender left before our answer.
func (g *Ingester) deliver(ctx context.Context, b *profile.Batch, unsure profile.ID) error {
	var none profile.ID
	keys := map[profile.ID]struct{}{unsure: {}}
	for i := range b.Profiles {
		keys[b.Profiles[i].ID] = struct{}{}
	}
	delete(keys, none)
	fresh, finish, err := g.seen.claim(ctx, slices.Collect(maps.Keys(keys)))
	if err != nil {
		return fmt.Errorf("waiting for the same profile on another connection: %w", err)
	}
	stored := false
	defer func() { finish(stored && (unsure == none || ctx.Err() != nil)) }()
	b.Profiles = slices.DeleteFunc(b.Profiles, func(p profile.Profile) bool {
		return p.ID != none && !fresh[p.ID] || unsure != none && !fresh[unsure]
	})
	if err := g.write(ctx, b); err != nil {
		return err
	}
	stored = true
	g.metrics.duplicates.Add(float64(len(keys) - len(fresh)))
	return nil
}

// writeTime is how long the store may take for one request.
const writeTime = 30 * time.Second

func (g *Ingester) write(ctx context.Context, b *profile.Batch) error {
	if len(b.Profiles) == 0 {
		return nil
	}
	// A client that leaves now will come again with the same profiles: what has begun is brought to its end,
	// so that we know whether they are stored.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTime)
	defer cancel()
	start := time.Now()
	if err := g.opts.Store.Write(ctx, b); err != nil {
		return fmt.Errorf("storing %d profiles: %w", len(b.Profiles), err)
	}
	g.metrics.writeSeconds.Observe(time.Since(start).Seconds())
	g.metrics.profiles.Add(float64(len(b.Profiles)))
	n := 0
	for i := range b.Profiles {
		n += len(b.Profiles[i].Samples)
	}
	g.metrics.samples.Add(float64(n))
	return nil
}

// done books the end of a request at a door.
func (g *Ingester) done(door string, body int, err error) {
	g.metrics.bytes.WithLabelValues(door).Add(float64(body))
	if err == nil {
		g.metrics.requests.WithLabelValues(door, "ok").Inc()
		return
	}
	outcome := "failed"
	var le *limits.Error
	if errors.As(err, &le) {
		outcome = "limit"
		g.opts.Refusals.Add(le.Limit)
	}
	switch {
	case errors.Is(err, ErrBusy):
		outcome = "busy"
	case le != nil:
	case errors.Is(err, ErrInvalid), errors.Is(err, storage.ErrInvalid):
		outcome = "invalid"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		outcome = "cancelled"
	}
	g.metrics.requests.WithLabelValues(door, outcome).Inc()
	if unsaid, ok := g.quiet.next(time.Now()); ok {
		level.Warn(g.logger).Log("msg", "refused profiles", "door", door, "err", err, "unsaid", unsaid)
	}
	if g.opts.OnError != nil {
		g.opts.OnError(door, err)
	}
}

type metrics struct {
	requests     *prometheus.CounterVec
	bytes        *prometheus.CounterVec
	profiles     prometheus.Counter
	samples      prometheus.Counter
	duplicates   prometheus.Counter
	writeSeconds prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "perfuse_ingest_requests_total",
			Help: "Requests with profiles, by door (otlp_grpc, otlp_http, pyroscope_push, pyroscope_ingest, parca_write_raw, parca_write_arrow, parca_write, scrape) and outcome (ok, invalid, limit, busy, failed, cancelled).",
		}, []string{"door", "outcome"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "perfuse_ingest_bytes_total", Help: "Bytes of requests with profiles after decompression, by door.",
		}, []string{"door"}),
		profiles:   counter("perfuse_ingest_profiles_total", "Profiles that were stored."),
		samples:    counter("perfuse_ingest_samples_total", "Samples that were stored."),
		duplicates: counter("perfuse_ingest_duplicate_profiles_total", "Profiles that were acknowledged but had been stored before."),
		writeSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "perfuse_ingest_write_seconds", Help: "Time for the store to have a batch on disk.",
			Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10},
		}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.bytes, m.profiles, m.samples, m.duplicates, m.writeSeconds)
	}
	return m
}
