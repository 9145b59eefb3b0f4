package hotspot

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/perfuse/perfuse/profile"
)

// TestLive: 100 MB of known sites, freed memory is gone, and what is freed is not anyone's.
func TestLive(t *testing.T) {
	eachJDK(t, func(t *testing.T, home string) {
		p := run(t, home, nil)
		r := p.start(Options{Live: true})
		p.do("keep 60")
		p.do("keep-nodes 20")
		p.do("keep-large 20")
		p.do("churn 500")
		b := dump(t, r, false)
		space := ofType(t, b, profile.TypeInuseSpace)
		sites := by(b, space, "Workload.half", "Workload.third", "Workload.fifth", "Workload.nodes", "Workload.large")
		// Three sites of one class, told apart by some 100 samples: four standard deviations. TestLiveManySamples sees more.
		array := 2_016.0
		near(t, "half", sites["Workload.half"], 15_000*array, 0.4)
		near(t, "third", sites["Workload.third"], 9_000*array, 0.6)
		near(t, "fifth", sites["Workload.fifth"], 6_000*array, 0.8)
		near(t, "nodes", sites["Workload.nodes"], 500_000*40, 0.1)
		near(t, "large", sites["Workload.large"], 10*2_000_016, 0.1)
		objects := by(b, ofType(t, b, profile.TypeInuseObjects), "Workload.half", "Workload.nodes", "Workload.large")
		near(t, "nodes, objects", objects["Workload.nodes"], 500_000, 0.1)
		near(t, "half, objects", objects["Workload.half"], 15_000, 0.4)
		near(t, "large, objects", objects["Workload.large"], 10, 0.5)

		classes, err := r.j.Histogram(context.Background(), true)
		if err != nil {
			t.Fatal(err)
		}
		var total int64
		for _, c := range classes {
			total += c.Bytes
		}
		near(t, "total by histogram", space.Total(), float64(total), 0.1)

		p.do("free")
		b = dump(t, r, true)
		sites = by(b, ofType(t, b, profile.TypeInuseSpace), "Workload.half", "Workload.third", "Workload.fifth", "Workload.nodes", "Workload.large")
		for _, name := range []string{"Workload.half", "Workload.third", "Workload.fifth", "Workload.nodes", "Workload.large"} {
			if sites[name] > 1e6 {
				t.Errorf("%s still has %d bytes", name, sites[name])
			}
		}
		p.clean()
	})
}

// TestLiveManySamples: with a sample as large as the recorder's option makes it, sites that share a class are told apart as well as the
// option promises. Most objects are allocated outside of the small TLABs.
func TestLiveManySamples(t *testing.T) {
	eachJDK(t, func(t *testing.T, home string) {
		p := run(t, home, nil, "-XX:FlightRecorderOptions=old-object-queue-size=4096", "-XX:TLABSize=32k", "-XX:-ResizeTLAB")
		r := p.start(Options{Live: true})
		p.do("keep 60")
		b := dump(t, r, true)
		sites := by(b, ofType(t, b, profile.TypeInuseSpace), "Workload.half", "Workload.third", "Workload.fifth")
		array := 2_016.0
		near(t, "half", sites["Workload.half"], 15_000*array, 0.12)
		near(t, "third", sites["Workload.third"], 9_000*array, 0.2)
		near(t, "fifth", sites["Workload.fifth"], 6_000*array, 0.3)
		p.clean()
	})
}

// TestAllocations: the sum is what the program's own counters say, by site and class, over two intervals without a gap.
func TestAllocations(t *testing.T) {
	eachJDK(t, func(t *testing.T, home string) {
		p := run(t, home, nil)
		p.do("churn 200") // before the recording: in no sum
		r := p.start(Options{Allocations: true})
		before := p.allocated()
		p.do("churn-slowly 150")
		first := dump(t, r, false)
		p.do("churn-slowly 150")
		want := float64(p.allocated() - before)
		second := dump(t, r, true)
		var space, churned, objects int64
		for _, b := range []*profile.Batch{first, second} {
			s := ofType(t, b, profile.TypeAllocSpace)
			space += s.Total()
			churned += by(b, s, "Workload.churn")["Workload.churn"]
			objects += by(b, ofType(t, b, profile.TypeAllocObjects), "Workload.churn")["Workload.churn"]
		}
		near(t, "alloc_space", space, want, 0.1)
		near(t, "alloc_space of churn", churned, 3000*100*1016, 0.1)
		// Objects per byte are known by class, not by site (see allocations): a TLAB that the JDK itself began with a byte[] of 32 bytes,
		// and there are some 300 TLABs here, makes 10 % more of the program's.
		near(t, "alloc_objects of churn", objects, 3000*100, 0.35)
		p.clean()
	})
}

// TestLeak: what grows by 1 MB/s is the first line of the difference of two moments, and that much.
func TestLeak(t *testing.T) {
	eachJDK(t, func(t *testing.T, home string) {
		p := run(t, home, nil)
		r := p.start(Options{Live: true})
		p.do("leak 1")
		p.do("keep 20")
		first := dump(t, r, false)
		p.do("leak 4")
		second := dump(t, r, true)
		before, after := ofType(t, first, profile.TypeInuseSpace), ofType(t, second, profile.TypeInuseSpace)
		growth := map[string]int64{}
		for name, v := range byCaller(second, after) {
			growth[name] += v
		}
		for name, v := range byCaller(first, before) {
			growth[name] -= v
		}
		most := slices.MaxFunc(slices.Collect(maps.Keys(growth)), func(a, b string) int { return cmp.Compare(growth[a], growth[b]) })
		if most != "byte[] Workload.leak" {
			t.Errorf("what grew most: %q by %d; the leak by %d", most, growth[most], growth["byte[] Workload.leak"])
		}
		// 4 MB are a few TLABs: how much of the class's growth is the leak's is a rough estimate yet, that it is most is not.
		near(t, "growth", growth["byte[] Workload.leak"], 4*500*2_016, 0.9)
		p.clean()
	})
}

// byCaller sums a profile by class and allocating function.
func byCaller(b *profile.Batch, p *profile.Profile) map[string]int64 {
	sums := map[string]int64{}
	for _, s := range p.Samples {
		var names []string
		for _, f := range b.Dictionary.Stacks[s.Stack][:2] {
			names = append(names, b.Dictionary.Functions[b.Dictionary.Frames[f].Lines[0].Function].Name)
		}
		sums[strings.Join(names, " ")] += s.Value
	}
	return sums
}

// TestCPU: 70 to 30, and all of the time, also of more threads than the recorder samples at once.
func TestCPU(t *testing.T) {
	eachJDK(t, func(t *testing.T, home string) {
		p := run(t, home, nil)
		for _, c := range []struct {
			name, command string
		}{{"one thread", "burn 1 300"}, {"eight threads", "burn 8 40"}} {
			t.Run(c.name, func(t *testing.T) {
				r := p.start(Options{CPU: true})
				before, err := r.j.cpuTimes()
				if err != nil {
					t.Fatal(err)
				}
				p.do(c.command)
				b := dump(t, r, true)
				after, err := r.j.cpuTimes()
				if err != nil {
					t.Fatal(err)
				}
				cpu := ofType(t, b, profile.TypeCPU)
				sites := by(b, cpu, "Workload.seventy", "Workload.thirty")
				both := float64(sites["Workload.seventy"] + sites["Workload.thirty"])
				// Some 225 samples: four standard deviations.
				near(t, "seventy", sites["Workload.seventy"], 0.7*both, 0.18)
				near(t, "CPU time", cpu.Total(), float64(after.since(before).java()), 0.1)
				// What the recorder's own thread was too late to sample is said to be that, and little on an idle machine.
				near(t, "of it by method", int64(both), float64(cpu.Total()), 0.35)
				p.clean()
			})
		}
	})
}

// TestCollectors: the other collectors, with threads that come and go.
func TestCollectors(t *testing.T) {
	home, ok := jdks()[21]
	if !ok {
		t.Skip("no JDK 21 here: agent/heap/hotspot/testdata/jdks fetches it")
	}
	for _, c := range []struct{ option, threads string }{
		{"-XX:+UseSerialGC", "platform"}, {"-XX:+UseParallelGC", "virtual"}, {"-XX:+UseZGC", "virtual"}, {"-XX:+UseShenandoahGC", "platform"},
	} {
		t.Run(c.option+" "+c.threads, func(t *testing.T) {
			p := run(t, home, nil, c.option)
			p.do("churn-threads 100 " + c.threads)
			r := p.start(Options{Allocations: true, Live: true})
			p.do("keep-nodes 50")
			p.do("churn-threads 300 " + c.threads)
			b := dump(t, r, true)
			space := ofType(t, b, profile.TypeInuseSpace)
			near(t, "nodes", by(b, space, "Workload.nodes")["Workload.nodes"], classBytes(t, p, "Workload$Node"), 0.1)
			churned := by(b, ofType(t, b, profile.TypeAllocSpace), "Workload.churn")["Workload.churn"]
			// What a thread allocates after its last sample is lost when it ends; here each allocates 1 MB.
			near(t, "churn", churned, 300*1000*1016, 0.3)
			p.clean()
		})
	}
}

func classBytes(t *testing.T, p *program, name string) float64 {
	t.Helper()
	classes, err := p.find().Histogram(context.Background(), true)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range classes {
		if c.Name == name {
			return float64(c.Bytes)
		}
	}
	t.Fatalf("no %s", name)
	return 0
}
