package native

import (
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/perfuse/perfuse/agent/process"
)

// pairs makes a program allocate and free n times and returns the nanoseconds of its own processor time for each time.
func (x *target) pairs(b testing.TB, n float64) float64 {
	return x.ask(b, "pairs", n)["pairs"].live / 1000
}

// BenchmarkPair prints what a pair of malloc and free costs a program without probes and with them, in turns:
//
//	bare-ns/pair     two programs that nobody watches: the second's share of the first is the noise
//	probed-ns/pair   the watched one
//	slowdown         of the one to the other
//
// The unit of a benchmark's own time means nothing here. go test -run - -bench Pair -benchtime 5x ./agent/heap/native
func BenchmarkPair(b *testing.B) {
	for _, c := range []struct {
		name, preload string
		o             Options
	}{
		{name: "glibc", o: Options{}},
		{name: "glibc/no sessions", o: Options{noSession: true}},
		{name: "glibc/a descriptor each", o: Options{noSession: true, noMulti: true}},
		{name: "glibc/allocations only", o: Options{AllocOnly: true}},
		{name: "glibc/a sample per 4 KiB", o: Options{Rate: 4096, RingBytes: 1 << 24}},
		{name: "jemalloc", preload: "libjemalloc.so.2"},
		{name: "tcmalloc", preload: "libtcmalloc_minimal.so.4"},
		{name: "mimalloc", preload: "libmimalloc.so.2"},
	} {
		b.Run(c.name, func(b *testing.B) {
			env := preload(b, c.preload)
			path := compile(b, "truth.c", "gcc", "-O1")
			c.o.MaxCalls = -1
			r := newRig(b, c.o)
			bare, other, probed := r.start(b, env, path, false), r.start(b, env, path, false), r.start(b, env, path, true)
			var one, two, with []float64
			for b.Loop() {
				one = append(one, bare.pairs(b, 2e6))
				with = append(with, probed.pairs(b, 2e5))
				two = append(two, other.pairs(b, 2e6))
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(one), "bare-ns/pair")
			b.ReportMetric(median(two)/median(one), "bare/bare")
			b.ReportMetric(median(with), "probed-ns/pair")
			b.ReportMetric(median(with)-median(one), "added-ns/pair")
		})
	}
}

// BenchmarkProgram prints how much longer programs take, by their own processor time, in turns: one that takes 300 MB in
// pieces, one that frees at once, Perl with a large hash, and a C++ compiler.
func BenchmarkProgram(b *testing.B) {
	for _, c := range []struct {
		name  string
		comm  string // of the process that is watched
		argv  []string
		input string
	}{
		{"pieces", "truth", nil, "live 300\n"},
		{"freed", "truth", nil, "freed 300\n"},
		{"perl", "perl", []string{"perl", "-e", "$h{$_} = \"x$_\" for 1..300000"}, ""},
		{"c++", "cc1plus", []string{"g++", "-fsyntax-only", "testdata/truth.cc"}, ""},
	} {
		b.Run(c.name, func(b *testing.B) {
			if c.argv == nil {
				c.argv = []string{compile(b, "truth.c", "gcc", "-O1")}
			}
			if _, err := exec.LookPath(c.argv[0]); err != nil {
				b.Skip(err)
			}
			var watch atomic.Bool
			var seen atomic.Int64
			newRig(b, Options{MaxCalls: -1, Select: func(p *process.Process) bool {
				yes := watch.Load() && p.Comm == c.comm
				if yes {
					seen.Add(1)
				}
				return yes
			}})
			var one, two, with []float64
			run := func(watched bool, to *[]float64) {
				watch.Store(watched)
				cmd := exec.Command(c.argv[0], c.argv[1:]...)
				cmd.Stdin = strings.NewReader(c.input)
				if err := cmd.Run(); err != nil {
					b.Fatal(err)
				}
				*to = append(*to, (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds())
			}
			for b.Loop() {
				run(false, &one)
				run(true, &with)
				run(false, &two)
			}
			if seen.Load() == 0 {
				b.Fatalf("%s was never watched", c.comm)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(one)*1e3, "bare-ms")
			b.ReportMetric(median(two)/median(one), "bare/bare")
			b.ReportMetric(median(with)*1e3, "probed-ms")
			b.ReportMetric(median(with)/median(one), "slowdown")
		})
	}
}

func median(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}

// BenchmarkSweep prints what comparing live samples with the kernel side costs.
func BenchmarkSweep(b *testing.B) {
	r := newRig(b, Options{Rate: 2 << 10, RingBytes: 1 << 25, MaxCalls: -1})
	x := r.start(b, nil, compile(b, "truth.c", "gcc", "-O1"), true)
	x.ask(b, "live", 100)
	if _, err := r.Heaps(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := r.sweep(); err != nil {
			b.Fatal(err)
		}
	}
	st, err := r.Stats()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(st.Live), "samples")
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	b.ReportMetric(float64(m.HeapAlloc)/1e6, "heap-MB")
}
