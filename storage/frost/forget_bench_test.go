package frost

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage/disk"
	"github.com/perfuse/perfuse/storage/storagetest"
)

// manyStacks is the code of a build: functions, frames and stacks of 30 frames of which the outer ones are common.
func manyStacks(build, stacks int) *profile.Dictionary {
	rnd, d := rand.New(rand.NewPCG(1, uint64(build))), profile.NewDictionary()
	m := d.Mapping(profile.Mapping{BuildID: fmt.Sprintf("%040x", build), File: "/usr/bin/program"})
	frames := make([]profile.FrameIndex, stacks/5)
	for i := range frames {
		fn := d.Function(profile.Function{Name: fmt.Sprintf("package/of/the/program.(*Type%d).Method%d", i/40, i/4), File: fmt.Sprintf("/src/package/file%d.go", i/100)})
		frames[i] = d.Frame(profile.Frame{Mapping: m, Addr: profile.Addr(0x400000 + 64*i), Lines: []profile.Line{{Function: fn, Line: int32(i % 1000)}}})
	}
	var path [30]profile.FrameIndex
	for range stacks {
		for j := range 1 + rnd.IntN(12) {
			path[j] = frames[rnd.IntN(len(frames))]
		}
		for j := 12; path[29] == 0 && j < len(path); j++ {
			path[j] = frames[rnd.IntN(len(frames))]
		}
		d.Stack(path[:])
	}
	return d
}

// BenchmarkForget writes 20 million samples of 20 builds, drops half of them, and says what forgetting costs and
// gives back, and what opening the store costs before and after. Run it with -benchtime 1x.
func BenchmarkForget(b *testing.B) {
	const builds, stacks, profiles, samples = 20, 50_000, 1000, 1000
	for range b.N {
		var clock testClock
		o := Options{Dir: b.TempDir(), Retention: 10*24*time.Hour + time.Hour, Now: clock.now, ForgetEvery: -1}
		s, err := New(o)
		if err != nil {
			b.Fatal(err)
		}
		must := func(err error) {
			b.Helper()
			if err != nil {
				b.Fatal(err)
			}
		}
		rnd := rand.New(rand.NewPCG(1, 1))
		for build := range builds {
			d := manyStacks(build, stacks)
			for p := 0; p < profiles; p += 20 {
				batch := &profile.Batch{Dictionary: d}
				for i := range 20 {
					one := profile.Profile{
						Type: profile.TypeCPU, TimeNanos: clock.now().UnixNano() + int64(p+i)*int64(time.Second), DurationNanos: int64(10 * time.Second),
						Labels: profile.NewLabels(profile.Label{Name: profile.LabelServiceName, Value: fmt.Sprintf("service-%d", i)}, profile.Label{Name: "version", Value: fmt.Sprint(build)}),
					}
					for range samples {
						one.Samples = append(one.Samples, profile.Sample{Stack: profile.StackIndex(1 + rnd.IntN(len(d.Stacks)-1)), Value: 52_631_579})
					}
					batch.Profiles = append(batch.Profiles, one)
				}
				must(s.Write(b.Context(), batch))
			}
			clock.add(24 * time.Hour)
			must(s.Flush(b.Context()))
		}
		must(s.Compact(b.Context()))
		must(maintained(s))
		must(s.Compact(b.Context()))
		measure := func(when string) {
			must(s.Close())
			least := time.Hour
			for range 3 {
				began := time.Now()
				s, err = New(o)
				must(err)
				least = min(least, time.Since(began))
				must(s.Close())
			}
			b.ReportMetric(float64(least.Microseconds())/1000, when+"-open-ms")
			if s, err = New(o); err != nil {
				b.Fatal(err)
			}
			memory := int64(0)
			for _, t := range s.dict.Sizes() {
				memory += t.Memory
			}
			files, err := disk.OS.List(s.dictionaryDir())
			must(err)
			b.ReportMetric(float64(len(files)), when+"-files")
			b.ReportMetric(float64(heapBytes())/1e6, when+"-heap-MB")
			b.ReportMetric(float64(memory)/1e6, when+"-dictionary-MB")
			b.ReportMetric(float64(entries(s))/1e6, when+"-M-entries")
		}
		measure("before")
		// Beside it one writes all the time.
		ctx, stop := context.WithCancel(b.Context())
		var writer sync.WaitGroup
		slowest := time.Duration(0)
		writer.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				began := time.Now()
				if err := s.Write(b.Context(), storagetest.Folded(profile.TypeCPU, "service_name=beside", clock.now().Sub(storagetest.Base), fmt.Sprintf("main;f%d 1", i%100))); err != nil {
					b.Error(err)
					return
				}
				slowest = max(slowest, time.Since(began))
			}
		})
		cpu, began := cpuSeconds(b), time.Now()
		must(s.Forget(b.Context()))
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "forget-ms")
		b.ReportMetric(cpuSeconds(b)-cpu, "forget-cpu-s")
		stop()
		writer.Wait()
		b.ReportMetric(float64(slowest.Microseconds())/1000, "slowest-write-ms")
		b.ReportMetric(float64(s.Stats().Samples)/1e6, "M-samples")
		measure("after")
		must(s.Close())
	}
}
