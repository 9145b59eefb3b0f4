package frost

import (
	"fmt"
	"testing"
	"time"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
)

// BenchmarkCompaction writes a million samples of the corpus in many small blocks, and says
// what opening the store and asking costs before and after they became one. Run it with -benchtime 1x.
func BenchmarkCompaction(b *testing.B) {
	c := loadCorpus(b)
	one, err := profile.ParseSelector(`{service_name="service-07"}`)
	if err != nil {
		b.Fatal(err)
	}
	inuse := profile.Type{Name: "memory", SampleType: "alloc_space", SampleUnit: "bytes", PeriodType: "space", PeriodUnit: "bytes"}
	cpuType := profile.TypeCPU
	for range b.N {
		o := Options{Dir: b.TempDir(), Retention: -1, CompactBytes: -1}
		s, err := New(o)
		if err != nil {
			b.Fatal(err)
		}
		samples := 0
		for n := 0; samples < 1e6; n++ {
			batch, messages := c.at(n)
			samples += messages
			if err := s.Write(b.Context(), batch); err != nil {
				b.Fatal(err)
			}
			if n%25 == 24 {
				if err := s.Flush(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		}
		if err := s.Flush(b.Context()); err != nil {
			b.Fatal(err)
		}
		measure := func(when string) {
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
			best := func(name string, runs int, f func() error) {
				least := time.Hour
				for range runs {
					began := time.Now()
					if err := f(); err != nil {
						b.Fatal(err)
					}
					least = min(least, time.Since(began))
				}
				b.ReportMetric(float64(least.Microseconds())/1000, when+"-"+name+"-ms")
			}
			opened := false
			best("open", 3, func() (err error) {
				if opened {
					if err := s.Close(); err != nil {
						return err
					}
				}
				opened = true
				s, err = New(o)
				return err
			})
			merge := func(sel storage.Selection) func() error {
				return func() error {
					got, err := s.Merge(b.Context(), sel, nil)
					if err == nil && len(got.Profiles) != 1 {
						err = fmt.Errorf("%d profiles", len(got.Profiles))
					}
					return err
				}
			}
			best("first-merge-cpu", 1, merge(storage.Selection{Type: &cpuType}))
			best("merge-cpu", 10, merge(storage.Selection{Type: &cpuType}))
			best("merge-mem", 5, merge(storage.Selection{Type: &inuse}))
			best("merge-one-mem", 10, merge(storage.Selection{Type: &inuse, Selector: one}))
			st := s.Stats()
			b.ReportMetric(float64(len(st.Blocks)), when+"-blocks")
			b.ReportMetric(float64(st.BlockBytes)/float64(samples), when+"-B/sample")
			b.ReportMetric(float64(heapBytes())/1e6, when+"-heap-MB")
		}
		measure("before")
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		o.CompactBytes = 0
		cpu, began := cpuSeconds(b), time.Now()
		if s, err = New(o); err != nil {
			b.Fatal(err)
		}
		if err := s.Compact(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric((cpuSeconds(b)-cpu)/float64(samples)*1e6, "compact-cpu-s/M")
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "compact-ms")
		measure("after")
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
