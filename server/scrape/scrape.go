// Package scrape fetches profiles from programs that serve them over HTTP, as Go's net/http/pprof does under
// /debug/pprof/, by jobs that are written as for Prometheus and Parca (see [Config]).
//
//	static, files, Kubernetes ─▶ labels ─▶ relabelling ─▶ targets ─▶ one loop each ─▶ differences ─▶ ingest
//
// Each target has its place in the interval by its hash, so that a thousand targets are not asked at once and a
// restart does not move them. At that place its profiles are fetched; while they are, the target is not asked
// again: what would be due is missed and counted.
//
// Values that count since the start of a process (allocations, contentions) are stored as what was added since the
// last scrape that was stored, so the parts add up to the whole; the first scrape gives none. A process that was
// started anew counts from zero: its values are stored as they are. Bytes in use and goroutines are levels.
//
// A discovery that cannot ask keeps the targets that it had. Nothing of requests' headers, parameters and
// passwords is logged or shown.
package scrape

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"
	commonconfig "github.com/prometheus/common/config"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/profile/relabel"
	"github.com/perfuse/perfuse/server/ingest"
	"github.com/perfuse/perfuse/server/limits"
)

const userAgent = "perfuse"

// Ingester stores what was fetched; *ingest.Ingester is one.
type Ingester interface {
	Scraped(context.Context, ingest.Scraped) error
}

// Options for New.
type Options struct {
	// Ingester stores profiles. Required.
	Ingester Ingester
	// Configs are the jobs, as they come out of a configuration file. Default: none.
	Configs []Config
	// Limits that hold; zero fields take their defaults.
	Limits limits.Limits
	// Concurrency bounds how many targets are asked at once; others wait. Default 1000.
	Concurrency int
	// Logger gets a line when a target's or a discovery's health changes. Default: none.
	Logger log.Logger
	// Registerer gets the metrics. Default: none.
	Registerer prometheus.Registerer
	// OnError is told of every failure, for the debug page. Default: nobody.
	OnError func(where string, err error)
}

// Manager runs jobs. Make it with New, use it with Run.
type Manager struct {
	opts    Options
	logger  log.Logger
	jobs    []*job
	slots   chan struct{}
	metrics metrics
}

// New makes the jobs' clients and discoveries. Nothing is asked before Run.
func New(opts Options) (*Manager, error) {
	if opts.Ingester == nil {
		return nil, errors.New("making the scraper: no ingester")
	}
	if opts.Concurrency <= 0 {
		opts.Concurrency = 1000
	}
	if opts.Logger == nil {
		opts.Logger = log.NewNopLogger()
	}
	if opts.OnError == nil {
		opts.OnError = func(string, error) {}
	}
	opts.Limits = opts.Limits.OrDefault()
	m := &Manager{opts: opts, logger: opts.Logger, slots: make(chan struct{}, opts.Concurrency)}
	if err := Check(opts.Configs); err != nil {
		return nil, fmt.Errorf("making the scraper: %w", err)
	}
	for i := range opts.Configs {
		j, err := m.newJob(&opts.Configs[i])
		if err != nil {
			return nil, fmt.Errorf("making the scraper: job %q: %w", opts.Configs[i].JobName, err)
		}
		m.jobs = append(m.jobs, j)
	}
	m.metrics = newMetrics(m, opts.Registerer)
	return m, nil
}

// Run scrapes until ctx ends, and returns nil then.
func (m *Manager) Run(ctx context.Context) error {
	var wait sync.WaitGroup
	for _, j := range m.jobs {
		wait.Go(func() { j.run(ctx) })
	}
	wait.Wait()
	return nil
}

// job is a Config at work.
type job struct {
	*Manager
	config      *Config
	logger      log.Logger
	rules       *relabel.Rules
	client      *http.Client
	fetches     []fetch
	discoverers []discoverer
	changed     chan struct{} // holds one entry if targets are not what groups says

	mu      sync.Mutex
	groups  map[string]*group // by discoverer and source
	faults  []error           // by discoverer: what is wrong with it
	fault   error             // what is wrong with the targets
	running map[uint64]*loop
	dropped int
}

// group is what one source told, relabelled.
type group struct {
	targets []*target
	dropped int
	err     error
}

func (m *Manager) newJob(c *Config) (*job, error) {
	j := &job{
		Manager: m, config: c, logger: log.With(m.logger, "job", c.JobName), fetches: c.fetches(), changed: make(chan struct{}, 1),
		groups: map[string]*group{}, running: map[uint64]*loop{},
	}
	var err error
	if j.rules, err = relabel.New(c.Relabel, maxLabelBytes); err != nil {
		return nil, err
	}
	if j.client, err = commonconfig.NewClientFromConfig(c.HTTP, c.JobName, commonconfig.WithUserAgent(userAgent)); err != nil {
		return nil, err
	}
	if len(c.Static) > 0 {
		j.discoverers = append(j.discoverers, &staticDiscovery{c.Static})
	}
	for _, f := range c.File {
		j.discoverers = append(j.discoverers, &fileDiscovery{config: f, maxBytes: m.opts.Limits.BodyBytes})
	}
	for _, k := range c.Kubernetes {
		found, err := newKubernetes(k, m.opts.Limits)
		if err != nil {
			return nil, fmt.Errorf("kubernetes_sd_configs: %w", err)
		}
		for _, d := range found {
			j.discoverers = append(j.discoverers, d)
		}
	}
	j.faults = make([]error, len(j.discoverers))
	return j, nil
}

// settleTime is how long changes gather before the targets follow them: a rollout changes many pods.
const settleTime = time.Second

func (j *job) run(ctx context.Context) {
	var wait sync.WaitGroup
	defer wait.Wait()
	for i, d := range j.discoverers {
		wait.Go(func() {
			d.run(ctx, func(source string, targets []profile.Labels) {
				j.emit(fmt.Sprintf("%d %s", i, source), targets)
			}, func(err error) { j.report(i, err) })
		})
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-j.changed:
		}
		j.sync(ctx, &wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(settleTime):
		}
	}
}

// emit takes what a discoverer found.
func (j *job) emit(source string, found []profile.Labels) {
	g := &group{}
	for _, ls := range found {
		t, err := newTarget(j.config, j.rules, ls)
		switch {
		case err != nil:
			g.err = err
		case t == nil:
			g.dropped++
		default:
			g.targets = append(g.targets, t)
		}
	}
	j.mu.Lock()
	if len(found) == 0 {
		delete(j.groups, source)
	} else {
		j.groups[source] = g
	}
	j.mu.Unlock()
	select {
	case j.changed <- struct{}{}:
	default:
	}
}

// report takes what is wrong with a discoverer now.
func (j *job) report(i int, err error) {
	j.mu.Lock()
	before := j.faults[i]
	j.faults[i] = err
	j.mu.Unlock()
	j.tellChange(j.discoverers[i].name(), before, err)
	if err != nil {
		j.metrics.discoveryErrors.WithLabelValues(j.config.JobName).Inc()
	}
}

// tellChange logs what became wrong or right.
func (j *job) tellChange(where string, before, now error) {
	switch {
	case now == nil && before != nil:
		level.Info(j.logger).Log("msg", "discovery works again", "discovery", where)
	case now != nil && (before == nil || before.Error() != now.Error()):
		level.Warn(j.logger).Log("msg", "discovery failed", "discovery", where, "err", now)
		j.opts.OnError("scrape "+j.config.JobName, now)
	}
}

// sync starts and stops loops so that they are those of groups.
func (j *job) sync(ctx context.Context, wait *sync.WaitGroup) {
	j.mu.Lock()
	defer j.mu.Unlock()
	want := map[uint64]*target{}
	before := j.fault
	j.dropped, j.fault = 0, nil
	for _, g := range j.groups {
		j.dropped += g.dropped
		// Of several the same one each time, so that it is logged once.
		if g.err != nil && (j.fault == nil || g.err.Error() < j.fault.Error()) {
			j.fault = g.err
		}
		for _, t := range g.targets {
			want[t.key] = t
		}
	}
	if n := len(want); n > j.config.TargetLimit {
		j.fault = fmt.Errorf("there are %d targets, target_limit is %d; the last good ones stay: raise it, or drop some with relabel_configs", n, j.config.TargetLimit)
	}
	j.tellChange("targets", before, j.fault)
	if len(want) > j.config.TargetLimit {
		return
	}
	for key, l := range j.running {
		if want[key] == nil {
			l.stop()
			delete(j.running, key)
		}
	}
	for key, t := range want {
		if j.running[key] == nil {
			l := &loop{job: j, target: t, profiles: make([]profileState, len(j.fetches))}
			var looping context.Context
			looping, l.stop = context.WithCancel(ctx)
			j.running[key] = l
			wait.Go(func() { l.run(looping) })
		}
	}
}
