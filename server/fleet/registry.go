// Package fleet knows what the agents, the scraped targets and the symbols do, and tells people: it serves
// FleetService.
//
// Agents report every interval that the answer names. The registry keeps, in memory only, the last report of each
// agent as it came and the counters of its last reports, from which rates are made:
//
//	       report            no report for 3 intervals
//	(new) ───────▶ up ─────────────────────────────────▶ late ─┐
//	               │  ▲ ◀──────── report ──────────────────┘   ├─▶ forgotten: after ForgetAfter, when its room is
//	               └──┼── last word ──▶ stopped ───────────────┘   needed, or when its node has a newer agent
//	                  └──── report ────────┘
//
// An agent that runs anew is another instance. Two that run at one time under one node's name are both shown.
// Everything in a report is bounded; what is beyond is refused as a whole with an error that names the bound.
package fleet

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/perfuse/perfuse/proto/perfuse/fleet/v1"
)

// Config is the section fleet of the server's configuration. A field that is 0 takes its default.
type Config struct {
	// Interval is how often agents are to report: 1 s to 5 min. Default 15 s.
	Interval time.Duration `yaml:"interval"`
	// ForgetAfter is how long an agent that does not report any more is shown. Default 24 h.
	ForgetAfter time.Duration `yaml:"forget_after"`
	// MaxAgents is how many are remembered at one time. Default 10 000.
	MaxAgents int64 `yaml:"max_agents"`
}

// OrDefault returns c with every 0 replaced by its default.
func (c Config) OrDefault() Config {
	return Config{
		Interval:    cmp.Or(c.Interval, 15*time.Second),
		ForgetAfter: cmp.Or(c.ForgetAfter, 24*time.Hour),
		MaxAgents:   cmp.Or(c.MaxAgents, 10_000),
	}
}

// Check says what is wrong with a configuration.
func (c Config) Check() error {
	switch {
	case c.Interval != 0 && (c.Interval < time.Second || c.Interval > 5*time.Minute):
		return fmt.Errorf("fleet: interval %s: want 1s to 5m", c.Interval)
	case c.ForgetAfter != 0 && c.ForgetAfter < time.Minute:
		return fmt.Errorf("fleet: forget_after %s: want 1m or more", c.ForgetAfter)
	case c.MaxAgents < 0:
		return fmt.Errorf("fleet: max_agents %d: want 1 or more", c.MaxAgents)
	}
	return nil
}

const (
	// lateAfter intervals without a report make an agent late.
	lateAfter = 3
	// rateSpan is what rates are made of, historySpan what is kept for losses and for a small chart.
	rateSpan    = time.Minute
	historySpan = 10 * time.Minute
	maxHistory  = 48
)

// ErrFull: there are as many agents as the registry remembers, and all of them are up.
var ErrFull = errors.New("the registry of agents is full")

// Registry remembers agents. Its methods are safe for concurrent use.
type Registry struct {
	config Config
	now    func() time.Time

	mu        sync.Mutex
	agents    map[string]*agent // by instance
	nodes     map[string]int    // how many agents a node's name has
	swept     time.Time
	reports   uint64
	refused   uint64
	forgotten uint64
}

// agent is one instance.
type agent struct {
	row  *fleetv1.Agent // State, Seen and rates are made when asked for
	body []byte         // the last report, as it is decoded again when asked for

	first, seen time.Time
	stopped     bool
	history     []moment // the oldest first
}

// moment is what an agent's counters were.
type moment struct {
	at                     time.Time
	until                  int64 // when samples were counted, in the agent's nanoseconds
	samples, samplesLost   uint64
	messages, messagesLost uint64
	cpuNanos               int64
	rss                    uint64
	bpfCores               float64
}

// NewRegistry returns an empty one. now is nil for the real clock.
func NewRegistry(c Config, now func() time.Time) *Registry {
	if now == nil {
		now = time.Now
	}
	return &Registry{config: c.OrDefault(), now: now, agents: map[string]*agent{}, nodes: map[string]int{}}
}

// Interval is how often agents are to report.
func (r *Registry) Interval() time.Duration { return r.config.Interval }

// Report takes an agent's word. It keeps nothing of it. Errors are those of Check, and ErrFull.
func (r *Registry) Report(report *fleetv1.Report) error {
	err := r.report(report)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.refused++
		return err
	}
	r.reports++
	return nil
}

func (r *Registry) report(report *fleetv1.Report) error {
	if err := Check(report); err != nil {
		return err
	}
	body, err := proto.Marshal(report)
	if err != nil {
		return fmt.Errorf("keeping a report: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	r.sweep(now)
	a := r.agents[report.GetInstance()]
	switch {
	case a == nil:
		if err := r.makeRoom(now); err != nil {
			return err
		}
		a = &agent{first: now}
		r.agents[report.GetInstance()] = a
		r.nodes[report.GetNode()]++
	case a.row.GetNode() != report.GetNode():
		r.unname(a)
		r.nodes[report.GetNode()]++
	}
	a.row, a.body, a.seen, a.stopped = rowOf(report), body, now, report.GetStopping()
	a.remember(momentOf(report, now))
	if r.nodes[report.GetNode()] > 1 {
		r.replace(report.GetNode(), now)
	}
	return nil
}

// rowOf is what the list shows of a report.
func rowOf(r *fleetv1.Report) *fleetv1.Agent {
	return &fleetv1.Agent{
		Instance: r.GetInstance(), Node: r.GetNode(), Version: r.GetVersion(), Kernel: r.GetKernel(), Architecture: r.GetArchitecture(),
		StartedUnixNano: r.GetStartedUnixNano(), Cpus: r.GetCpus(), Samples: r.GetSampling().GetSamples(), RssBytes: r.GetCost().GetRssBytes(),
		WithServer: r.GetCost().GetWithServer(), Processes: r.GetSampling().GetProcesses(),
		WaitingBytes: sum(r.GetDelivery().GetQueueBytes(), r.GetDelivery().GetSpoolBytes()),
		Off:          uint32(len(r.GetOff())), LastError: proto.CloneOf(r.GetLastError()),
	}
}

func momentOf(r *fleetv1.Report, at time.Time) moment {
	m := moment{
		at: at, until: r.GetSampling().GetUntilUnixNano(), samples: r.GetSampling().GetSamples(), messages: r.GetDelivery().GetMessages(),
		cpuNanos: r.GetCost().GetCpuNano(), rss: r.GetCost().GetRssBytes(), bpfCores: max(r.GetCost().GetBpfCores(), 0),
	}
	for _, l := range r.GetLosses() {
		switch l.GetKind() {
		case fleetv1.Loss_SAMPLES:
			m.samplesLost = sum(m.samplesLost, l.GetCount())
		case fleetv1.Loss_MESSAGES:
			m.messagesLost = sum(m.messagesLost, l.GetCount())
		}
	}
	return m
}

// sum stays at the largest number: counters come from outside.
func sum(a, b uint64) uint64 {
	if a+b < a {
		return ^uint64(0)
	}
	return a + b
}

// remember adds to the history. One second has one moment at most, so that an agent that reports without pause does not
// push the minutes before it out.
func (a *agent) remember(m moment) {
	n := len(a.history)
	if n >= 2 && m.at.Sub(a.history[n-2].at) < time.Second {
		a.history[n-1] = m
		return
	}
	old := 0
	for old < n && (m.at.Sub(a.history[old].at) > historySpan || n-old >= maxHistory) {
		old++
	}
	a.history = append(slices.Delete(a.history, 0, old), m)
}

// sweep forgets who was not heard of for long, now and then.
func (r *Registry) sweep(now time.Time) {
	if now.Sub(r.swept) < r.config.Interval {
		return
	}
	r.swept = now
	for id, a := range r.agents {
		if now.Sub(a.seen) > r.config.ForgetAfter {
			r.forget(id)
		}
	}
}

// makeRoom forgets who has not reported for the longest, if there is no room for one more.
func (r *Registry) makeRoom(now time.Time) error {
	if int64(len(r.agents)) < r.config.MaxAgents {
		return nil
	}
	oldest := ""
	for id, a := range r.agents {
		if r.state(a, now) != fleetv1.State_UP && (oldest == "" || a.seen.Before(r.agents[oldest].seen)) {
			oldest = id
		}
	}
	if oldest == "" {
		return fmt.Errorf("%w: limit max_agents is %d (to change it: fleet.max_agents in the configuration file, or PERFUSE_FLEET_MAX_AGENTS)", ErrFull, r.config.MaxAgents)
	}
	r.forget(oldest)
	return nil
}

// replace forgets those of a node that have gone and whose place a newer one has taken.
func (r *Registry) replace(node string, now time.Time) {
	var newest time.Time
	for _, a := range r.agents {
		if a.row.GetNode() == node && r.state(a, now) == fleetv1.State_UP && a.first.After(newest) {
			newest = a.first
		}
	}
	for id, a := range r.agents {
		if a.row.GetNode() == node && r.state(a, now) != fleetv1.State_UP && newest.After(a.seen) {
			r.forget(id)
		}
	}
}

func (r *Registry) forget(id string) {
	r.unname(r.agents[id])
	delete(r.agents, id)
	r.forgotten++
}

func (r *Registry) unname(a *agent) {
	if r.nodes[a.row.GetNode()]--; r.nodes[a.row.GetNode()] == 0 {
		delete(r.nodes, a.row.GetNode())
	}
}

func (r *Registry) state(a *agent, now time.Time) fleetv1.State {
	switch {
	case a.stopped:
		return fleetv1.State_STOPPED
	case now.Sub(a.seen) > lateAfter*r.config.Interval:
		return fleetv1.State_LATE
	}
	return fleetv1.State_UP
}

// Agents lists all, by node and start, and sums up those that are up.
func (r *Registry) Agents() *fleetv1.AgentsResponse {
	r.mu.Lock()
	now := r.now()
	r.sweep(now)
	resp := &fleetv1.AgentsResponse{Sums: &fleetv1.Sums{}, NowUnixNano: now.UnixNano(), IntervalNano: int64(r.config.Interval)}
	var taken, lost float64
	for _, a := range r.agents {
		row := r.row(a, now)
		resp.Agents = append(resp.Agents, row)
		s := resp.Sums
		switch row.State {
		case fleetv1.State_LATE:
			s.Late++
			continue
		case fleetv1.State_STOPPED:
			s.Stopped++
			continue
		}
		s.Up++
		s.SamplesPerSecond += row.SamplesPerSecond
		s.Cores += row.Cores
		s.Cpus += row.Cpus
		s.RssBytes = sum(s.RssBytes, row.RssBytes)
		if row.WithServer {
			s.WithServer++
		}
		measured := a.measured()
		taken, lost = taken+measured, lost+measured*row.LostShare
	}
	r.mu.Unlock()
	if taken > 0 {
		resp.Sums.LostShare = lost / taken
	}
	slices.SortFunc(resp.Agents, func(a, b *fleetv1.Agent) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.StartedUnixNano, b.StartedUnixNano), cmp.Compare(a.Instance, b.Instance))
	})
	return resp
}

// row is the caller's.
func (r *Registry) row(a *agent, now time.Time) *fleetv1.Agent {
	of := a.row
	row := &fleetv1.Agent{ // not proto.Clone: there may be ten thousand
		Instance: of.Instance, Node: of.Node, Version: of.Version, Kernel: of.Kernel, Architecture: of.Architecture, StartedUnixNano: of.StartedUnixNano,
		Cpus: of.Cpus, Samples: of.Samples, RssBytes: of.RssBytes, WithServer: of.WithServer, Processes: of.Processes, WaitingBytes: of.WaitingBytes,
		Off: of.Off, LastError: of.LastError, // nobody writes to it
		State: r.state(a, now), SeenUnixNano: a.seen.UnixNano(),
	}
	last := len(a.history) - 1
	if row.State == fleetv1.State_UP {
		first := last
		for first > 0 && a.history[last].at.Sub(a.history[first-1].at) <= rateSpan+r.config.Interval/2 {
			first--
		}
		lately := between(&a.history[first], &a.history[last])
		row.SamplesPerSecond, row.Cores = lately.samples, lately.cores
	}
	row.LostShare = between(&a.history[0], &a.history[last]).lost
	return row
}

// measured is how many samples an agent has seen in its history, those that were lost among them.
func (a *agent) measured() float64 {
	first, last := a.history[0], a.history[len(a.history)-1]
	return grown(first.samples, last.samples) + grown(first.samplesLost, last.samplesLost)
}

// rates are what a second brings, and the share that was lost.
type rates struct{ samples, cores, lost float64 }

// between makes rates of two moments. What an agent counted before its first report is not in them.
func between(first, last *moment) rates {
	m := rates{cores: last.bpfCores}
	if seconds := last.at.Sub(first.at).Seconds(); seconds > 0 {
		sampled := seconds
		// Samples are counted by the batch. The agent's own times fit them better than ours, if they are in order.
		if own := (float64(last.until) - float64(first.until)) / 1e9; own > 0 && own < 2*seconds+60 {
			sampled = own
		}
		m.samples = grown(first.samples, last.samples) / sampled
		m.cores += max(float64(last.cpuNanos-first.cpuNanos), 0) / 1e9 / seconds
	}
	share := func(lost, arrived float64) float64 {
		if lost == 0 {
			return 0
		}
		return lost / (lost + arrived)
	}
	// Taken for delivery were those that were lost on the way, too.
	lostMessages := grown(first.messagesLost, last.messagesLost)
	kept := 1 - share(grown(first.samplesLost, last.samplesLost), grown(first.samples, last.samples))
	kept *= 1 - share(lostMessages, max(grown(first.messages, last.messages)-lostMessages, 0))
	m.lost = 1 - kept
	return m
}

// grown is by how much a counter has grown; one that went back has not.
func grown(before, after uint64) float64 {
	if after <= before {
		return 0
	}
	return float64(after - before)
}

// Agent returns all that one has told, nil if none has this instance.
func (r *Registry) Agent(instance string) (*fleetv1.AgentResponse, error) {
	r.mu.Lock()
	now := r.now()
	r.sweep(now)
	a := r.agents[instance]
	if a == nil {
		r.mu.Unlock()
		return nil, nil
	}
	resp := &fleetv1.AgentResponse{Agent: r.row(a, now), Report: &fleetv1.Report{}}
	for i := 1; i < len(a.history); i++ {
		now := &a.history[i]
		m := between(&a.history[i-1], now)
		resp.History = append(resp.History, &fleetv1.Moment{
			UnixNano: now.at.UnixNano(), SamplesPerSecond: m.samples, Cores: m.cores, LostShare: m.lost, RssBytes: now.rss,
		})
	}
	body := a.body
	r.mu.Unlock()
	if err := proto.Unmarshal(body, resp.Report); err != nil {
		return nil, fmt.Errorf("reading a kept report: %w", err)
	}
	return resp, nil
}
