package process

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	registerer prometheus.Registerer
	all        []prometheus.Collector

	records, garbled, lost       prometheus.Counter
	forks, execs, scans          prometheus.Counter
	exitsMissed                  prometheus.Counter
	mappingsDropped              prometheus.Counter
	identities, identitiesUnread prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, t *Table) *metrics {
	m := &metrics{registerer: reg}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "perfuse_process_" + name + "_total", Help: help})
		m.all = append(m.all, c)
		return c
	}
	m.records = counter("records", "Kernel records (exec, mmap, comm, fork, exit) that were read.")
	m.garbled = counter("records_garbled", "Kernel records or rings that made no sense.")
	m.lost = counter("records_lost", "Kernel records that were lost because a ring was full; /proc is read again then.")
	m.forks = counter("forks", "Processes that were made by fork.")
	m.execs = counter("execs", "Programs that were started by exec.")
	m.scans = counter("scans", "Processes that were read from /proc.")
	m.exitsMissed = counter("exits_missed", "Processes that were found gone without a record of their exit.")
	m.mappingsDropped = counter("mappings_dropped", "Mappings that were beyond the limit of one process.")
	m.identities = counter("identities", "Environments and cgroups that were read.")
	m.identitiesUnread = counter("identities_unread", "Processes that ended before their environment could be read.")
	m.all = append(m.all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "perfuse_process_known", Help: "Processes in the table, ended ones included.",
	}, func() float64 {
		t.mu.RLock()
		defer t.mu.RUnlock()
		return float64(len(t.byGeneration))
	}))
	if reg != nil {
		reg.MustRegister(m.all...)
	}
	return m
}

func (m *metrics) unregister() {
	if m.registerer != nil {
		for _, c := range m.all {
			m.registerer.Unregister(c)
		}
	}
}
