package scrape

import (
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/perfuse/perfuse/profile"
)

// Health of a target: up if all profiles of its last round were fetched and stored.
type Health string

// Healths.
const (
	Unknown Health = "unknown"
	Up      Health = "up"
	Down    Health = "down"
)

// JobStatus is how a job does.
type JobStatus struct {
	Job      string         `json:"job"`
	Interval string         `json:"interval"`
	Targets  []TargetStatus `json:"targets"`
	// Dropped is how many targets relabelling left out.
	Dropped int `json:"dropped"`
	// Errors are what is wrong with the discovery of targets now.
	Errors []string `json:"errors,omitempty"`
}

// TargetStatus is how a target does.
type TargetStatus struct {
	Address string `json:"address"` // scheme://host:port
	// Labels are those of its profiles, Discovered those before relabelling, parameters left out.
	Labels      map[string]string `json:"labels"`
	Discovered  map[string]string `json:"discovered"`
	Health      Health            `json:"health"`
	LastScrape  time.Time         `json:"last_scrape,omitzero"`
	TookSeconds float64           `json:"took_seconds"`
	// Missed is how many rounds were due while another ran.
	Missed   int             `json:"missed"`
	Profiles []ProfileStatus `json:"profiles"`
}

// ProfileStatus is how one profile of a target does.
type ProfileStatus struct {
	Name        string    `json:"name"`
	Path        string    `json:"path"`
	LastScrape  time.Time `json:"last_scrape,omitzero"`
	TookSeconds float64   `json:"took_seconds"`
	Error       string    `json:"error,omitempty"`
	// Restarts is how often the target was found to have been started anew.
	Restarts int `json:"restarts"`
}

// Status tells about all jobs, in the configuration's order; targets are sorted by their labels.
func (m *Manager) Status() []JobStatus {
	out := make([]JobStatus, 0, len(m.jobs))
	for _, j := range m.jobs {
		out = append(out, j.status())
	}
	return out
}

func (j *job) status() JobStatus {
	j.mu.Lock()
	s := JobStatus{Job: j.config.JobName, Interval: j.config.ScrapeInterval.String(), Targets: []TargetStatus{}, Dropped: j.dropped}
	for _, err := range append(slices.Clone(j.faults), j.fault) {
		if err != nil {
			s.Errors = append(s.Errors, err.Error())
		}
	}
	var loops []*loop
	for _, l := range j.running {
		loops = append(loops, l)
	}
	j.mu.Unlock()
	slices.SortFunc(loops, func(a, b *loop) int { return a.target.labels.Compare(b.target.labels) })
	for _, l := range loops {
		s.Targets = append(s.Targets, l.status())
	}
	return s
}

func (l *loop) status() TargetStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := TargetStatus{
		Address: l.target.scheme + "://" + l.target.address, Labels: labelMap(l.target.labels), Discovered: labelMap(l.target.discovered),
		Health: l.currentHealth(), LastScrape: l.last, TookSeconds: l.took.Seconds(), Missed: l.missed,
	}
	for i, f := range l.fetches {
		p := &l.profiles[i]
		ps := ProfileStatus{Name: f.name, Path: f.path, LastScrape: p.last, TookSeconds: p.took.Seconds(), Restarts: p.restarts}
		if p.err != nil {
			ps.Error = p.err.Error()
		}
		t.Profiles = append(t.Profiles, ps)
	}
	return t
}

func (l *loop) currentHealth() Health {
	if l.health == "" {
		return Unknown
	}
	return l.health
}

func labelMap(ls profile.Labels) map[string]string {
	m := make(map[string]string, len(ls))
	for _, l := range ls {
		if !strings.HasPrefix(l.Name, labelParamPrefix) {
			m[l.Name] = l.Value
		}
	}
	return m
}

type metrics struct {
	scrapes         *prometheus.CounterVec
	missed          *prometheus.CounterVec
	restarts        *prometheus.CounterVec
	discoveryErrors *prometheus.CounterVec
}

func newMetrics(m *Manager, reg prometheus.Registerer) metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "perfuse_scrape_" + name, Help: help}, labels)
	}
	out := metrics{
		scrapes:         counter("scrapes_total", "Profiles that were asked of targets, by job and outcome (ok, failed).", "job", "outcome"),
		missed:          counter("missed_rounds_total", "Rounds of a target that were due while another of it ran, or waited for its turn, by job.", "job"),
		restarts:        counter("restarts_total", "Profiles whose counters had begun anew since the last scrape, by job.", "job"),
		discoveryErrors: counter("discovery_errors_total", "Failures to find targets, by job.", "job"),
	}
	for _, j := range m.jobs {
		for _, c := range []*prometheus.CounterVec{out.missed, out.restarts, out.discoveryErrors} {
			c.WithLabelValues(j.config.JobName)
		}
	}
	if reg != nil {
		reg.MustRegister(out.scrapes, out.missed, out.restarts, out.discoveryErrors, &upCollector{m})
	}
	return out
}

// upCollector is Prometheus' metric up, for targets of ours.
type upCollector struct{ m *Manager }

var upDesc = prometheus.NewDesc("perfuse_scrape_up",
	"1 if all profiles of the target's last round were fetched and stored, else 0; none before its first round. Of targets with equal job and instance the worst counts.",
	[]string{"job", "instance"}, nil)

func (c *upCollector) Describe(ch chan<- *prometheus.Desc) { ch <- upDesc }

func (c *upCollector) Collect(ch chan<- prometheus.Metric) {
	up := map[[2]string]float64{}
	for _, j := range c.m.jobs {
		j.mu.Lock()
		for _, l := range j.running {
			l.mu.Lock()
			health := l.currentHealth()
			l.mu.Unlock()
			key := [2]string{l.target.labels.Get(labelJob), l.target.labels.Get(labelInstance)}
			switch _, known := up[key]; {
			case health == Down:
				up[key] = 0
			case health == Up && !known:
				up[key] = 1
			}
		}
		j.mu.Unlock()
	}
	for key, v := range up {
		ch <- prometheus.MustNewConstMetric(upDesc, prometheus.GaugeValue, v, key[0], key[1])
	}
}
