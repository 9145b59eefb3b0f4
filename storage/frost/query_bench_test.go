package frost

import (
	"fmt"
	"testing"
	"time"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
)

// BenchmarkFlame is what a flame graph and the chart above it cost the store, and what making a tree of the answer costs,
// on a million samples of the corpus.
func BenchmarkFlame(b *testing.B) {
	c := loadCorpus(b)
	s, err := New(Options{Dir: b.TempDir(), Retention: -1})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for i, done := 0, 0; done < 1e6; i++ {
		batch, n := c.at(i)
		if err := s.Write(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
		done += n
	}
	heap := profile.Type{Name: "memory", SampleType: "inuse_space", SampleUnit: "bytes", PeriodType: "space", PeriodUnit: "bytes"}
	one, err := profile.ParseSelector(`{service_name="service-07"}`)
	if err != nil {
		b.Fatal(err)
	}
	questions := []struct {
		name string
		sel  storage.Selection
	}{
		{"one service, CPU", storage.Selection{Type: &profile.TypeCPU, Selector: one}},
		{"one service, heap", storage.Selection{Type: &heap, Selector: one}},
		{"everything, CPU", storage.Selection{Type: &profile.TypeCPU}},
		{"everything, heap", storage.Selection{Type: &heap}},
	}
	run := func(b *testing.B, ask func() error) {
		cpu := cpuSeconds(b)
		for b.Loop() {
			if err := ask(); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric((cpuSeconds(b)-cpu)/float64(b.N)*1e3, "cpu-ms/op")
	}
	for _, place := range []string{"memory", "blocks"} {
		for _, q := range questions {
			b.Run("merge/"+q.name+", "+place, func(b *testing.B) {
				run(b, func() error {
					got, err := s.Merge(b.Context(), q.sel, nil)
					if err == nil && len(got.Profiles) != 1 {
						err = fmt.Errorf("%d profiles", len(got.Profiles))
					}
					return err
				})
			})
			b.Run("series/"+q.name+", "+place, func(b *testing.B) {
				run(b, func() error {
					_, err := s.Series(b.Context(), q.sel, []string{"service_name"}, 10*time.Second)
					return err
				})
			})
		}
		if err := s.Flush(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	for _, q := range questions {
		b.Run("tree/"+q.name, func(b *testing.B) {
			got, err := s.Merge(b.Context(), q.sel, nil)
			if err != nil {
				b.Fatal(err)
			}
			var tree *profile.Tree
			run(b, func() error {
				tree = profile.NewTree(got, &got.Profiles[0])
				return nil
			})
			b.ReportMetric(float64(len(got.Profiles[0].Samples)), "stacks")
			b.ReportMetric(float64(tree.Len()), "nodes")
		})
	}
}
