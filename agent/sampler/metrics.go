package sampler

import "github.com/prometheus/client_golang/prometheus"

var (
	stacksDesc = prometheus.NewDesc("perfuse_sampler_stacks_total",
		"User stacks by how their walk in the kernel ended: complete, or the reason why not.", []string{"end"}, nil)
	dropsDesc = prometheus.NewDesc("perfuse_sampler_dropped_samples_total",
		"Samples that were lost, by reason.", []string{"reason"}, nil)
	deferredDesc = prometheus.NewDesc("perfuse_sampler_deferred_samples_total",
		"Samples whose stack the agent walked, because the kernel side did not know the process or file yet.", nil, nil)
	unlabelledDesc = prometheus.NewDesc("perfuse_sampler_unlabelled_samples_total",
		"Samples without the labels that their program gave them: not readable, or too many sets.", nil, nil)
	filesDesc = prometheus.NewDesc("perfuse_sampler_files",
		"Executable files that are known.", nil, nil)
	rowsDesc = prometheus.NewDesc("perfuse_sampler_table_rows",
		"Rows of unwind tables in the kernel, 4 bytes each.", nil, nil)
	queueDesc = prometheus.NewDesc("perfuse_sampler_queued_files",
		"Files that wait for their unwind table.", nil, nil)
	failedDesc = prometheus.NewDesc("perfuse_sampler_failed_files_total",
		"Files that could not be opened or have no usable unwind information.", nil, nil)
	evictedDesc = prometheus.NewDesc("perfuse_sampler_evicted_tables_total",
		"Unwind tables that made room for others.", nil, nil)
	unpublishedDesc = prometheus.NewDesc("perfuse_sampler_unpublished_processes_total",
		"Times that a process's mappings found no room in the kernel.", nil, nil)
)

// Describe implements prometheus.Collector.
func (s *Sampler) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		stacksDesc, dropsDesc, deferredDesc, unlabelledDesc, filesDesc, rowsDesc, queueDesc, failedDesc, evictedDesc, unpublishedDesc,
	} {
		c <- d
	}
}

// Collect implements prometheus.Collector.
func (s *Sampler) Collect(c chan<- prometheus.Metric) {
	st, err := s.Stats()
	if err != nil {
		c <- prometheus.NewInvalidMetric(stacksDesc, err)
		return
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		c <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v uint64) {
		c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v))
	}
	for end, n := range st.Stacks {
		counter(stacksDesc, n, end)
	}
	for reason, n := range st.Drops {
		counter(dropsDesc, n, reason)
	}
	counter(deferredDesc, st.Deferred)
	counter(unlabelledDesc, st.Unlabelled)
	gauge(filesDesc, st.Files)
	gauge(rowsDesc, st.TableRows)
	gauge(queueDesc, uint64(st.Queued))
	counter(failedDesc, st.Failed)
	counter(evictedDesc, st.Evicted)
	counter(unpublishedDesc, st.Unpublished)
}
