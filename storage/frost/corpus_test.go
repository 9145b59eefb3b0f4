package frost

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/storagetest"
)

// corpus is a load of real profiles: 20 services of 5 pods, each a CPU and a heap profile every 10 seconds.
type corpus struct {
	cpu, mem []corpusProfile
}

type corpusProfile struct {
	batch    *profile.Batch
	messages int // pprof samples: what FIELD.md counts
}

// loadCorpus reads the profiles below PERFUSE_CORPUS, which bench/README.md describes.
func loadCorpus(b *testing.B) corpus {
	b.Helper()
	root := os.Getenv("PERFUSE_CORPUS")
	if root == "" {
		b.Skip("PERFUSE_CORPUS is not set to a directory with cpu/*.pb.gz and mem/*.pb.gz")
	}
	load := func(kind, name string) (out []corpusProfile) {
		err := filepath.WalkDir(filepath.Join(root, kind), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".pb.gz") {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			batch, err := profile.ReadPprof(bytes.NewReader(data), profile.PprofOptions{Name: name})
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			// Every sample message has a stack; the columns share it.
			most := 0
			for i := range batch.Profiles {
				most = max(most, len(batch.Profiles[i].Samples))
			}
			out = append(out, corpusProfile{batch, most})
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		return out
	}
	return corpus{load("cpu", "process_cpu"), load("mem", "memory")}
}

// at returns profile n of the load. It shares the corpus' dictionary and samples.
func (c corpus) at(n int) (*profile.Batch, int) {
	step, series := n/200, n%200
	service, pod := series/2/5, series/2%5
	from := c.cpu
	if series%2 == 1 {
		from = c.mem
	}
	p := from[(n/2)%len(from)]
	b := &profile.Batch{Dictionary: p.batch.Dictionary, Profiles: slices.Clone(p.batch.Profiles)}
	ls := profile.NewLabels(
		profile.Label{Name: "service_name", Value: fmt.Sprintf("service-%02d", service)}, profile.Label{Name: "pod", Value: fmt.Sprintf("service-%02d-%d", service, pod)},
		profile.Label{Name: "cluster", Value: "c1"}, profile.Label{Name: "namespace", Value: fmt.Sprintf("ns-%d", service%4)},
		profile.Label{Name: "node", Value: fmt.Sprintf("node-%d", pod)}, profile.Label{Name: "region", Value: "r1"}, profile.Label{Name: "version", Value: "v1"})
	for i := range b.Profiles {
		b.Profiles[i].Labels = ls
		b.Profiles[i].TimeNanos = storagetest.Base.Add(time.Duration(step) * 10 * time.Second).UnixNano()
	}
	return b, p.messages
}

func cpuSeconds(b *testing.B) float64 {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		b.Fatal(err)
	}
	return float64(ru.Utime.Sec+ru.Stime.Sec) + float64(ru.Utime.Usec+ru.Stime.Usec)/1e6
}

// rssBytes is the resident memory of the process.
func rssBytes(b *testing.B) int64 {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(data))[1], 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// heapBytes is what is reachable.
func heapBytes() int64 {
	runtime.GC()
	runtime.GC() // pools keep what they had for one collection
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func diskBytes(b *testing.B, dir string) (n int64) {
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			var info fs.FileInfo
			if info, err = d.Info(); err == nil {
				n += info.Size()
			}
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// BenchmarkCorpus writes PERFUSE_BENCH_SAMPLES pprof samples (default 1 million) with two senders, waits until
// all is in blocks, asks, and opens the store again. Run it with -benchtime 1x; parsing is not part of it.
func BenchmarkCorpus(b *testing.B) {
	c := loadCorpus(b)
	target := int64(1e6)
	if v, err := strconv.ParseInt(os.Getenv("PERFUSE_BENCH_SAMPLES"), 10, 64); err == nil {
		target = v
	}
	for range b.N {
		dir := b.TempDir()
		runtime.GC()
		s, err := New(Options{Dir: dir, Retention: -1})
		if err != nil {
			b.Fatal(err)
		}
		var next, done atomic.Int64
		var mu sync.Mutex
		var acks []time.Duration
		baseHeap := heapBytes()
		baseRSS, cpu, began := rssBytes(b), cpuSeconds(b), time.Now()
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				for done.Load() < target {
					batch, n := c.at(int(next.Add(1) - 1))
					sent := time.Now()
					if err := s.Write(b.Context(), batch); err != nil {
						b.Error(err)
						return
					}
					took := time.Since(sent)
					done.Add(int64(n))
					mu.Lock()
					acks = append(acks, took)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		elapsed := time.Since(began).Seconds()
		million := float64(done.Load()) / 1e6
		b.ReportMetric(float64(done.Load())/elapsed, "samples/s")
		b.ReportMetric((cpuSeconds(b)-cpu)/million, "ingest-cpu-s/M")
		slices.Sort(acks)
		b.ReportMetric(float64(acks[len(acks)/2].Microseconds())/1000, "ack-p50-ms")
		b.ReportMetric(float64(acks[len(acks)*99/100].Microseconds())/1000, "ack-p99-ms")
		b.ReportMetric(float64(rssBytes(b)-baseRSS)/1e6, "rss-MB")
		b.ReportMetric(float64(heapBytes()-baseHeap)/1e6, "heap-MB")
		b.ReportMetric(float64(diskBytes(b, dir))/million/1e6, "disk-live-B/sample")
		ask := func(name string, f func() error) {
			best := time.Hour
			for range 5 {
				began := time.Now()
				if err := f(); err != nil {
					b.Fatal(err)
				}
				best = min(best, time.Since(began))
			}
			b.ReportMetric(float64(best.Microseconds())/1000, name+"-ms")
		}
		cpuType := profile.TypeCPU
		inuse := profile.Type{Name: "memory", SampleType: "alloc_space", SampleUnit: "bytes", PeriodType: "space", PeriodUnit: "bytes"}
		one, err := profile.ParseSelector(`{service_name="service-07"}`)
		if err != nil {
			b.Fatal(err)
		}
		questions := func(prefix string) {
			merge := func(sel storage.Selection) func() error {
				return func() error {
					got, err := s.Merge(b.Context(), sel, nil)
					if err == nil && len(got.Profiles) != 1 {
						err = fmt.Errorf("%d profiles", len(got.Profiles))
					}
					return err
				}
			}
			ask(prefix+"merge-all-cpu", merge(storage.Selection{Type: &cpuType}))
			ask(prefix+"merge-all-mem", merge(storage.Selection{Type: &inuse}))
			ask(prefix+"merge-one-mem", merge(storage.Selection{Type: &inuse, Selector: one}))
			ask(prefix+"types", func() error { _, err := s.Types(b.Context(), time.Time{}, time.Time{}); return err })
			ask(prefix+"values", func() error {
				_, err := s.LabelValues(b.Context(), "service_name", storage.Selection{})
				return err
			})
			ask(prefix+"series", func() error {
				_, err := s.Series(b.Context(), storage.Selection{Type: &inuse}, []string{"service_name"}, 10*time.Second)
				return err
			})
		}
		questions("head-")
		began = time.Now()
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "close-head-ms")
		cpu = cpuSeconds(b)
		began = time.Now()
		if s, err = New(Options{Dir: dir, Retention: -1}); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "open-replay-ms")
		b.ReportMetric((cpuSeconds(b)-cpu)*1000, "open-replay-cpu-ms")
		cpu = cpuSeconds(b)
		if err := s.Flush(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric((cpuSeconds(b)-cpu)/million, "flush-cpu-s/M")
		b.ReportMetric(float64(heapBytes()-baseHeap)/1e6, "heap-in-blocks-MB")
		b.ReportMetric(float64(diskBytes(b, dir))/million/1e6, "disk-B/sample")
		questions("block-")
		began = time.Now()
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "close-ms")
		began = time.Now()
		s, err = New(Options{Dir: dir, Retention: -1})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "open-ms")
		st := s.Stats()
		b.Logf("%d samples, %d values stored, %d stacks, %d blocks, dictionary %v", done.Load(), st.Samples, st.Stacks, len(st.Blocks), st.Dictionary)
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
