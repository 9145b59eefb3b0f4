package ship

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	registerer prometheus.Registerer
	own        *prometheus.Registry // of the same, for those who want to read them here
	all        []prometheus.Collector

	batches, bytes, failures, rejected, cut prometheus.Counter
	dropped                                 *prometheus.CounterVec
	seconds                                 prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, t *T) *metrics {
	m := &metrics{registerer: reg}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "perfuse_ship_" + name + "_total", Help: help})
		m.all = append(m.all, c)
		return c
	}
	m.batches = counter("batches", "Messages with profiles that were taken for delivery.")
	m.bytes = counter("bytes", "Compressed bytes of messages that were taken for delivery.")
	m.failures = counter("failures", "Tries to deliver that failed and are made again.")
	m.rejected = counter("rejected_profiles", "Profiles that the server rejected in messages that it took.")
	m.cut = counter("spool_cut_bytes", "Bytes of torn or damaged spool segments that were given up.")
	m.dropped = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "perfuse_ship_dropped_batches_total",
		Help: "Messages with profiles that were lost, by reason (spool_full, queue_full, spool_failed, refused, damaged, closed).",
	}, []string{"reason"})
	m.seconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "perfuse_ship_request_seconds", Help: "Time that delivered messages took.",
		Buckets: prometheus.ExponentialBuckets(0.002, 4, 8),
	})
	gauge := func(name, help string, f func() float64) {
		m.all = append(m.all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "perfuse_ship_" + name, Help: help}, f))
	}
	gauge("queue_bytes", "Compressed bytes that wait in memory.", func() float64 {
		t.mu.Lock()
		defer t.mu.Unlock()
		return float64(t.queued)
	})
	gauge("spool_bytes", "Bytes that wait on disk.", func() float64 {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.spool == nil {
			return 0
		}
		_, bytes := t.spool.size()
		return float64(bytes)
	})
	m.all = append(m.all, m.dropped, m.seconds)
	m.own = prometheus.NewRegistry()
	m.own.MustRegister(m.all...)
	if reg != nil {
		reg.MustRegister(m.all...)
	}
	return m
}

func (m *metrics) drop(reason string, n int) {
	if n > 0 {
		m.dropped.WithLabelValues(reason).Add(float64(n))
	}
}

func (m *metrics) unregister() {
	if m.registerer != nil {
		for _, c := range m.all {
			m.registerer.Unregister(c)
		}
	}
}

// Stats are the sender's own numbers, since the start unless it says otherwise.
type Stats struct {
	// Messages were taken for delivery, Delivered are those that the server took, Failures the tries that are made again.
	Messages, Delivered, Failures uint64
	// Rejected are profiles that the server did not take of messages that it took.
	Rejected uint64
	// Dropped counts lost messages by reason.
	Dropped map[string]uint64
	// QueueBytes and SpoolBytes wait now.
	QueueBytes, SpoolBytes uint64
}

// Stats reads them.
func (t *T) Stats() Stats {
	st := Stats{Dropped: map[string]uint64{}}
	families, err := t.metrics.own.Gather()
	if err != nil {
		panic("BUG: our own metrics cannot be read: " + err.Error())
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			n := uint64(m.GetCounter().GetValue() + m.GetGauge().GetValue())
			switch f.GetName() {
			case "perfuse_ship_batches_total":
				st.Messages = n
			case "perfuse_ship_request_seconds":
				st.Delivered = m.GetHistogram().GetSampleCount()
			case "perfuse_ship_failures_total":
				st.Failures = n
			case "perfuse_ship_rejected_profiles_total":
				st.Rejected = n
			case "perfuse_ship_dropped_batches_total":
				st.Dropped[m.GetLabel()[0].GetValue()] = n
			case "perfuse_ship_queue_bytes":
				st.QueueBytes = n
			case "perfuse_ship_spool_bytes":
				st.SpoolBytes = n
			}
		}
	}
	return st
}
