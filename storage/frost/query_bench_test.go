package frost

import (
	"testing"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
)

// BenchmarkFlame is what a flame graph costs the store, and what making a tree of its answer costs, on a million samples
// of the corpus.
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
	for _, q := range []struct {
		name string
		sel  storage.Selection
	}{
		{"one service, CPU", storage.Selection{Type: &profile.TypeCPU, Selector: one}},
		{"one service, heap", storage.Selection{Type: &heap, Selector: one}},
		{"everything, CPU", storage.Selection{Type: &profile.TypeCPU}},
		{"everything, heap", storage.Selection{Type: &heap}},
	} {
		var got *profile.Batch
		b.Run("merge/"+q.name, func(b *testing.B) {
			cpu := cpuSeconds(b)
			for b.Loop() {
				if got, err = s.Merge(b.Context(), q.sel, nil); err != nil || len(got.Profiles) != 1 {
					b.Fatal(len(got.Profiles), err)
				}
			}
			b.ReportMetric((cpuSeconds(b)-cpu)/float64(b.N)*1e3, "cpu-ms/op")
			b.ReportMetric(float64(len(got.Profiles[0].Samples)), "stacks")
		})
		b.Run("tree/"+q.name, func(b *testing.B) {
			var tree *profile.Tree
			cpu := cpuSeconds(b)
			for b.Loop() {
				tree = profile.NewTree(got, &got.Profiles[0])
			}
			b.ReportMetric((cpuSeconds(b)-cpu)/float64(b.N)*1e3, "cpu-ms/op")
			b.ReportMetric(float64(tree.Len()), "nodes")
		})
	}
}
