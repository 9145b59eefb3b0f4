package native

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/perfuse/perfuse/bpf/memory"
)

// Stats are the profiler's own numbers.
type Stats struct {
	// Drops counts what was lost since the start by reason; not all are samples.
	Drops map[string]uint64
	// Processes are watched, Refused were chosen and had to wait. Live samples, and Stacks that hold them.
	Processes, Live, Stacks int
	Refused                 uint64
	// Reclaimed samples were found to be gone without having been told, NoRoom had one stack too many, Late came after
	// their process, Malformed made no sense.
	Reclaimed, NoRoom, Late, Malformed uint64
	// Calls came by the probes of the processes that are watched, as of the last sweep.
	Calls uint64
	// Without counts processes without a profile, Incomplete those of which some is not seen, by reason.
	Without, Incomplete map[string]int
	// Session says that the kernel has uprobe sessions, which make unsampled allocations cheaper.
	Session bool
}

// Stats reads them.
func (p *Profiler) Stats() (Stats, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return Stats{}, errors.New("the heap profiler is closed")
	}
	drops, err := p.programs.Losses()
	if err != nil {
		return Stats{}, err
	}
	st := Stats{
		Drops: map[string]uint64{}, Processes: len(p.byID), Stacks: p.budget.stacks, Refused: p.refused,
		Reclaimed: p.reclaimed, NoRoom: p.budget.refused, Late: p.late, Malformed: p.malformed,
		Without: map[string]int{}, Incomplete: map[string]int{}, Session: p.programs.Session != nil,
	}
	for i, n := range drops {
		if i > 0 {
			st.Drops[memory.Drops[i]] = n
		}
	}
	if n := len(p.waiting); n > 0 {
		st.Without[p.errPlaces().Error()] = n
	}
	for _, w := range p.watched {
		switch err, incomplete := w.reasons(); {
		case err != nil:
			st.Without[err.Error()]++
		case incomplete != nil:
			st.Incomplete[incomplete.Error()]++
		}
		st.Live += len(w.heap.live)
		st.Calls += w.calls
		st.Reclaimed += w.heap.reclaimed
	}
	return st, nil
}

var (
	dropsDesc = prometheus.NewDesc("perfuse_heap_native_dropped_total",
		"What was lost of heaps, by reason; some are samples, some only their tracking.", []string{"reason"}, nil)
	processesDesc = prometheus.NewDesc("perfuse_heap_native_processes",
		"Processes whose allocators are watched.", nil, nil)
	refusedDesc = prometheus.NewDesc("perfuse_heap_native_refused_processes_total",
		"Processes that had to wait until others had ended.", nil, nil)
	callsDesc = prometheus.NewDesc("perfuse_heap_native_calls_total",
		"Calls of allocators that came by a probe, half a microsecond each, of processes that run.", nil, nil)
	liveDesc = prometheus.NewDesc("perfuse_heap_native_live_samples",
		"Sampled allocations that have not been freed.", nil, nil)
	stacksDesc = prometheus.NewDesc("perfuse_heap_native_stacks",
		"Stacks that hold memory, or have allocated since they were last asked for.", nil, nil)
)

// Describe implements prometheus.Collector.
func (p *Profiler) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{dropsDesc, processesDesc, refusedDesc, callsDesc, liveDesc, stacksDesc} {
		c <- d
	}
}

// Collect implements prometheus.Collector.
func (p *Profiler) Collect(c chan<- prometheus.Metric) {
	st, err := p.Stats()
	if err != nil {
		c <- prometheus.NewInvalidMetric(dropsDesc, err)
		return
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		c <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v int) {
		c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v))
	}
	for reason, n := range st.Drops {
		counter(dropsDesc, n, reason)
	}
	counter(dropsDesc, st.Reclaimed, "free not told, found by looking")
	counter(dropsDesc, st.NoRoom, "stack: too many")
	counter(dropsDesc, st.Late, "process had ended")
	counter(dropsDesc, st.Malformed, "malformed")
	counter(refusedDesc, st.Refused)
	counter(callsDesc, st.Calls)
	gauge(processesDesc, st.Processes)
	gauge(liveDesc, st.Live)
	gauge(stacksDesc, st.Stacks)
}
