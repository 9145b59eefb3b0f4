package frost

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/dictionary"
)

// metrics are the store's, named perfuse_storage_*.
type metrics struct {
	reg  prometheus.Registerer // nil while nothing is registered
	all  []prometheus.Collector
	now  func() time.Time
	took prometheus.Histogram

	writes, commits, samples, rows, logBytes, flushErrors prometheus.Counter
	blocks, blockBytes, uploadBytes, uploadErrors         prometheus.Counter
	compactions, compactRead, compactWrote, compactErrors prometheus.Counter
	collections, forgetErrors                             prometheus.Counter
	refused, expired                                      *prometheus.CounterVec
	queries                                               *prometheus.HistogramVec
}

func newMetrics(s *Store) *metrics {
	m := &metrics{now: s.o.Now}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "perfuse_storage_" + name, Help: help})
		m.all = append(m.all, c)
		return c
	}
	gauge := func(name, help string, f func(Stats) float64) {
		m.all = append(m.all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "perfuse_storage_" + name, Help: help}, func() float64 { return f(s.Stats()) }))
	}
	m.writes = counter("writes_total", "Batches that were acknowledged.")
	m.commits = counter("commits_total", "Group commits: one log record and one sync each.")
	m.rows = counter("rows_total", "Rows that were stored.")
	m.samples = counter("samples_total", "Samples that were stored.")
	m.logBytes = counter("log_bytes_total", "Bytes written to the log.")
	m.blocks = counter("blocks_written_total", "Blocks that were written.")
	m.blockBytes = counter("blocks_written_bytes_total", "Bytes of blocks that were written.")
	m.flushErrors = counter("maintenance_errors_total", "Failed attempts to write or drop blocks.")
	m.uploadBytes = counter("uploaded_bytes_total", "Bytes copied to object storage.")
	m.uploadErrors = counter("upload_errors_total", "Failed attempts to copy to object storage or delete there.")
	m.compactions = counter("compactions_total", "Blocks that were made of other blocks.")
	m.compactRead = counter("compaction_read_bytes_total", "Size of the blocks that they were made of.")
	m.compactWrote = counter("compaction_written_bytes_total", "Size of the blocks that were made.")
	m.compactErrors = counter("compaction_errors_total", "Failed attempts to compact blocks.")
	m.collections = counter("dictionary_collections_total", "How often the dictionary was cleared of what no row refers to.")
	m.forgetErrors = counter("dictionary_errors_total", "Failed attempts to clear the dictionary or to merge its files.")
	m.expired = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "perfuse_storage_rows_expired_total", Help: "Rows that retention dropped, by what they were too much of: age or size."}, []string{"why"})
	m.refused = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "perfuse_storage_writes_refused_total", Help: "Batches that were refused, by reason."}, []string{"reason"})
	m.took = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "perfuse_storage_write_seconds", Help: "Time until a batch was acknowledged.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14)})
	m.queries = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "perfuse_storage_query_seconds", Help: "Time of queries, by kind.", Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9)}, []string{"kind"})
	m.all = append(m.all, m.refused, m.expired, m.took, m.queries)
	for _, reason := range []ReadOnlyReason{ReasonDiskFull, ReasonIOError, ReasonBroken} {
		m.all = append(m.all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "perfuse_storage_read_only", Help: "1 while writes are refused for this reason.",
			ConstLabels: prometheus.Labels{"reason": string(reason)},
		}, func() float64 {
			if s.Stats().ReadOnlyReason == reason {
				return 1
			}
			return 0
		}))
	}
	gauge("series", "Series that are known.", func(st Stats) float64 { return float64(st.Series) })
	gauge("stacks", "Stacks that are known.", func(st Stats) float64 { return float64(st.Stacks) })
	sum := func(f func(dictionary.Size) int64) func(Stats) float64 {
		return func(st Stats) (n float64) {
			for _, t := range st.Dictionary {
				n += float64(f(t))
			}
			return n
		}
	}
	gauge("dictionary_entries", "Strings, mappings, functions, frames, stacks and series that are known.", sum(func(t dictionary.Size) int64 { return t.Entries }))
	gauge("dictionary_bytes", "Size of what they are.", sum(func(t dictionary.Size) int64 { return t.Bytes }))
	gauge("dictionary_memory_bytes", "Memory that they take.", sum(func(t dictionary.Size) int64 { return t.Memory }))
	gauge("dictionary_forgotten", "Entries that were forgotten, since the store was made.", func(st Stats) float64 { return float64(st.Forgetting.Entries) })
	gauge("dictionary_files", "Files that the dictionary lies in.", func(st Stats) float64 { return float64(st.DictionaryFiles) })
	gauge("dictionary_collection_seconds", "How long the last collection took.", func(st Stats) float64 { return st.Forgetting.Seconds })
	gauge("head_rows", "Rows that are in memory and in the log, not in a block.", func(st Stats) float64 { return float64(st.Head.Rows) })
	gauge("head_bytes", "Size of those rows.", func(st Stats) float64 { return float64(st.Head.Bytes) })
	gauge("block_count", "Blocks.", func(st Stats) float64 { return float64(len(st.Blocks)) })
	gauge("block_bytes", "Size of all blocks.", func(st Stats) float64 { return float64(st.BlockBytes) })
	gauge("uploads_pending", "Blocks that are not copied to object storage yet, and objects that are not deleted there yet.", func(st Stats) float64 { return float64(st.UploadsPending) })
	gauge("upload_pending_bytes", "Size of the blocks that are not copied yet.", func(st Stats) float64 { return float64(st.UploadBytes) })
	gauge("upload_behind_seconds", "For how long object storage has lacked something; 0: it has everything.", func(st Stats) float64 {
		if st.UploadsSince == nil {
			return 0
		}
		return m.now().Sub(*st.UploadsSince).Seconds()
	})
	gauge("log_segments", "Log segments on disk.", func(st Stats) float64 { return float64(st.LogSegments) })
	gauge("log_bytes", "Size of the log on disk.", func(st Stats) float64 { return float64(st.LogBytes) })
	gauge("log_losses", "Damaged places that opening the log found.", func(st Stats) float64 { return float64(len(st.Losses)) })
	return m
}

// register makes the metrics visible; reg may be nil.
func (m *metrics) register(reg prometheus.Registerer) error {
	if reg == nil {
		return nil
	}
	m.reg = reg
	for i, c := range m.all {
		if err := reg.Register(c); err != nil {
			m.all = m.all[:i]
			return fmt.Errorf("registering storage metrics: %w", err)
		}
	}
	return nil
}

func (m *metrics) unregister() {
	if m.reg == nil {
		return
	}
	for _, c := range m.all {
		m.reg.Unregister(c)
	}
}

// write counts the end of a Write.
func (m *metrics) write(began time.Time, err *error) {
	reason := ""
	switch {
	case *err == nil:
		m.writes.Inc()
		m.took.Observe(m.now().Sub(began).Seconds())
		return
	case errors.Is(*err, storage.ErrInvalid):
		reason = "invalid"
	case errors.Is(*err, storage.ErrReadOnly):
		reason = "read_only"
	case errors.Is(*err, storage.ErrLimit):
		reason = "limit"
	default:
		reason = "other"
	}
	m.refused.WithLabelValues(reason).Inc()
}

func (m *metrics) committed(rows []row, logged int) {
	m.commits.Inc()
	m.rows.Add(float64(len(rows)))
	m.logBytes.Add(float64(logged))
	n := int64(0)
	for i := range rows {
		n += rows[i].samples
	}
	m.samples.Add(float64(n))
}

func (m *metrics) flushed(b *meta) {
	m.blocks.Inc()
	m.blockBytes.Add(float64(b.size))
}

func (m *metrics) compacted(b *meta, read int64, dropped totals) {
	m.compactions.Inc()
	m.compactRead.Add(float64(read))
	m.compactWrote.Add(float64(b.size))
	m.expired.WithLabelValues("age").Add(float64(dropped.rows))
}

func (m *metrics) query(kind string, began time.Time) {
	m.queries.WithLabelValues(kind).Observe(m.now().Sub(began).Seconds())
}
