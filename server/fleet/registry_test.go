package fleet

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/perfuse/perfuse/proto/perfuse/fleet/v1"
)

// says is a report of an agent that has taken so many samples and used so many seconds.
func says(node, instance string, samples uint64, seconds float64, losses ...*fleetv1.Loss) *fleetv1.Report {
	return &fleetv1.Report{
		Instance: instance, Node: node, Version: "1.2", Kernel: "6.12", Architecture: "arm64", StartedUnixNano: time.Now().UnixNano(), Cpus: 4,
		Sampling: &fleetv1.Sampling{Samples: samples, UntilUnixNano: time.Now().UnixNano(), Processes: 7},
		Delivery: &fleetv1.Delivery{Messages: samples / 100, QueueBytes: 10, SpoolBytes: 20},
		Cost:     &fleetv1.Cost{CpuNano: int64(seconds * 1e9), RssBytes: 50 << 20, BpfCores: 0.25},
		Losses:   losses,
	}
}

func lost(kind fleetv1.Loss_Kind, n uint64) *fleetv1.Loss {
	return &fleetv1.Loss{Kind: kind, Reason: "ring full", Count: n}
}

// states says who is there, as "node/instance state" in order.
func states(r *Registry) string {
	var out []string
	for _, a := range r.Agents().Agents {
		out = append(out, fmt.Sprintf("%s/%s %s", a.Node, a.Instance, strings.ToLower(a.State.String())))
	}
	return strings.Join(out, ", ")
}

func take(t *testing.T, r *Registry, reports ...*fleetv1.Report) {
	t.Helper()
	for _, report := range reports {
		if err := r.Report(report); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLife follows an agent through all states.
func TestLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry(Config{}, nil)
		f := func(want string) {
			t.Helper()
			if got := states(r); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		f("")
		take(t, r, says("a", "one", 0, 0))
		f("a/one up")
		time.Sleep(45 * time.Second)
		f("a/one up") // three intervals are not over yet
		time.Sleep(time.Second)
		f("a/one late")
		take(t, r, says("a", "one", 0, 0))
		f("a/one up")
		last := says("a", "one", 0, 0)
		last.Stopping = true
		take(t, r, last)
		f("a/one stopped")
		time.Sleep(24 * time.Hour)
		f("a/one stopped")
		time.Sleep(time.Minute)
		f("")
		if resp, err := r.Agent("one"); resp != nil || err != nil {
			t.Errorf("a forgotten agent is %v, %v", resp, err)
		}
	})
}

// TestOneName: two agents of one node are both shown; one whose place a newer one has taken is not, once it is gone.
func TestOneName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry(Config{}, nil)
		for range 10 {
			take(t, r, says("a", "one", 0, 0), says("a", "two", 0, 0), says("b", "three", 0, 0))
			time.Sleep(15 * time.Second)
		}
		if got, want := states(r), "a/one up, a/two up, b/three up"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		// One and three are killed; four comes in one's place.
		for range 4 {
			take(t, r, says("a", "four", 0, 0), says("a", "two", 0, 0))
			time.Sleep(15 * time.Second)
		}
		if got, want := states(r), "a/four up, a/two up, b/three late"; sorted(got) != sorted(want) {
			t.Errorf("got %q, want %q", got, want)
		}
		// Two does not report any more either, but four was there before: nobody has taken its place.
		for range 5 {
			take(t, r, says("a", "four", 0, 0))
			time.Sleep(15 * time.Second)
		}
		if got, want := states(r), "a/four up, a/two late, b/three late"; sorted(got) != sorted(want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func sorted(list string) string {
	parts := strings.Split(list, ", ")
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// TestRates: what is shown is what has grown, over the last minute, and of losses over the last ten.
func TestRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry(Config{}, nil)
		f := func(what string, got, want float64) {
			t.Helper()
			if math.Abs(got-want) > 1e-6 {
				t.Errorf("%s is %v, want %v", what, got, want)
			}
		}
		// What was before the first report is in no rate.
		take(t, r, says("a", "one", 1_000_000, 1000, lost(fleetv1.Loss_SAMPLES, 5000)))
		a := r.Agents().Agents[0]
		f("samples/s of one report", a.SamplesPerSecond, 0)
		f("cores of one report", a.Cores, 0.25)
		f("losses of one report", a.LostShare, 0)
		if a.Samples != 1_000_000 || a.WaitingBytes != 30 || a.Processes != 7 || a.RssBytes != 50<<20 {
			t.Errorf("the row is %v", a)
		}
		// 20 a second and half a processor; of 300 samples of each interval 15 are lost, but none in the last minute.
		for i := range 24 {
			time.Sleep(15 * time.Second)
			n := uint64(i + 1)
			take(t, r, says("a", "one", 1_000_000+300*n, 1000+7.5*float64(n), lost(fleetv1.Loss_SAMPLES, 5000+15*min(n, 20))))
		}
		a = r.Agents().Agents[0]
		f("samples/s", a.SamplesPerSecond, 20)
		f("cores", a.Cores, 0.75)
		f("lost", a.LostShare, 300./(300+7200))
		// Ten minutes later without a loss nothing of it is left.
		for i := range 41 {
			time.Sleep(15 * time.Second)
			take(t, r, says("a", "one", 1_007_200+300*uint64(i+1), 1180, lost(fleetv1.Loss_SAMPLES, 5300)))
		}
		f("lost later", r.Agents().Agents[0].LostShare, 0)
		f("cores later", r.Agents().Agents[0].Cores, 0.25)
		one, err := r.Agent("one")
		if err != nil {
			t.Fatal(err)
		}
		if n := len(one.History); n != 40 {
			t.Errorf("%d moments are kept, want 40", n)
		}
		for _, m := range one.History {
			f("a moment's samples/s", m.SamplesPerSecond, 20)
		}
		if got := one.Report.Losses[0].Count; got != 5300 {
			t.Errorf("the report says that %d were lost, want 5300", got)
		}
		// Its counters go back: it has not measured less than nothing.
		time.Sleep(15 * time.Second)
		take(t, r, says("a", "one", 5, 1))
		a = r.Agents().Agents[0]
		if a.SamplesPerSecond < 0 || a.Cores < 0 || a.LostShare < 0 {
			t.Errorf("rates below nothing: %v", a)
		}
		// An agent that is late does not sample now, as far as anybody knows.
		time.Sleep(time.Minute)
		f("samples/s of one that is late", r.Agents().Agents[0].SamplesPerSecond, 0)
	})
}

// TestBatches: samples come in batches of ten seconds, reports every fifteen; the rate is even nevertheless.
func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry(Config{}, nil)
		start := time.Now()
		for range 12 {
			time.Sleep(15 * time.Second)
			report := says("a", "one", 0, 0)
			batches := time.Since(start) / (10 * time.Second)
			report.Sampling.Samples = uint64(batches) * 190
			report.Sampling.UntilUnixNano = start.Add(batches * 10 * time.Second).UnixNano()
			take(t, r, report)
		}
		if got := r.Agents().Agents[0].SamplesPerSecond; math.Abs(got-19) > 1e-6 {
			t.Errorf("%v samples a second, want 19", got)
		}
	})
}

// TestSums adds up who is up: a large agent's losses weigh more than a small one's.
func TestSums(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry(Config{}, nil)
		for i := range uint64(5) {
			take(t, r,
				says("large", "1", 9000*i, float64(i), lost(fleetv1.Loss_SAMPLES, 1000*i)),
				says("small", "2", 100*i, float64(i)))
			if i == 0 {
				take(t, r, says("gone", "3", 0, 0))
			}
			time.Sleep(14 * time.Second)
		}
		s := r.Agents().Sums
		if s.Up != 2 || s.Late != 1 || s.Stopped != 0 || s.Cpus != 8 || s.RssBytes != 100<<20 {
			t.Errorf("the sums are %v", s)
		}
		if want := 4000. / 40400; math.Abs(s.LostShare-want) > 1e-6 {
			t.Errorf("lost is %v, want %v", s.LostShare, want)
		}
		if want := 9100. / 14; math.Abs(s.SamplesPerSecond-want) > 1e-6 {
			t.Errorf("%v samples a second, want %v", s.SamplesPerSecond, want)
		}
	})
}

// TestFull: there is room for so many. Who is gone makes room, who is up does not.
func TestFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry(Config{MaxAgents: 3}, nil)
		take(t, r, says("a", "1", 0, 0))
		time.Sleep(time.Second)
		take(t, r, says("b", "2", 0, 0), says("c", "3", 0, 0))
		err := r.Report(says("d", "4", 0, 0))
		if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "PERFUSE_FLEET_MAX_AGENTS") {
			t.Fatalf("got %v, want an error that names the limit", err)
		}
		take(t, r, says("b", "2", 0, 0)) // one that is known may go on
		time.Sleep(time.Minute)
		take(t, r, says("d", "4", 0, 0))
		if got, want := states(r), "b/2 late, c/3 late, d/4 up"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// TestNodeChanges: an agent that calls itself otherwise is still one agent.
func TestNodeChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry(Config{}, nil)
		take(t, r, says("a", "1", 0, 0), says("b", "1", 0, 0), says("a", "1", 0, 0), says("b", "1", 0, 0))
		if got, want := states(r), "b/1 up"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		time.Sleep(25 * time.Hour)
		take(t, r, says("c", "2", 0, 0))
		if len(r.nodes) != 1 || r.nodes["c"] != 1 {
			t.Errorf("names are counted as %v", r.nodes)
		}
	})
}

// TestFlood: an agent that reports without pause keeps its minutes.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry(Config{}, nil)
		for i := range 20 {
			for range 100 {
				take(t, r, says("a", "1", uint64(i), 0))
			}
			time.Sleep(10 * time.Second)
		}
		one, err := r.Agent("1")
		if err != nil {
			t.Fatal(err)
		}
		first, last := one.History[0], one.History[len(one.History)-1]
		if got := time.Duration(last.UnixNano - first.UnixNano); got < 3*time.Minute {
			t.Errorf("the history goes back %s only", got)
		}
	})
}

// TestCheck refuses what is more than a report may be, by name.
func TestCheck(t *testing.T) {
	f := func(want string, change func(*fleetv1.Report)) {
		t.Helper()
		report := says("a", "1", 0, 0)
		if change != nil {
			change(report)
		}
		err := Check(report)
		if want == "" {
			if err != nil {
				t.Errorf("refused: %v", err)
			}
			return
		}
		if !errors.Is(err, ErrReport) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	long := strings.Repeat("x", 300)
	f("", nil)
	f("", func(r *fleetv1.Report) { r.Cost.BpfCores = -1 })
	f("instance is missing", func(r *fleetv1.Report) { r.Instance = "" })
	f("node is missing", func(r *fleetv1.Report) { r.Node = "" })
	f("instance's bytes are 300: want at most 64", func(r *fleetv1.Report) { r.Instance = long })
	f("node's bytes are 300: want at most 256", func(r *fleetv1.Report) { r.Node = long })
	f("version's bytes", func(r *fleetv1.Report) { r.Version = long })
	f("kernel's bytes", func(r *fleetv1.Report) { r.Kernel = long })
	f("architecture's bytes", func(r *fleetv1.Report) { r.Architecture = long })
	f("cpus are 65537", func(r *fleetv1.Report) { r.Cpus = 65537 })
	f("settings' entries are 65: want at most 64", func(r *fleetv1.Report) { r.Settings = make([]*fleetv1.Setting, 65) })
	f("settings.name's bytes", func(r *fleetv1.Report) { r.Settings = []*fleetv1.Setting{{Name: long}} })
	f("off.why's bytes", func(r *fleetv1.Report) { r.Off = []*fleetv1.Off{{Why: strings.Repeat("x", 1025)}} })
	f("losses' entries", func(r *fleetv1.Report) { r.Losses = make([]*fleetv1.Loss, 65) })
	f("losses.reason's bytes", func(r *fleetv1.Report) { r.Losses = []*fleetv1.Loss{{Reason: long}} })
	f("sampling.stacks.end's bytes", func(r *fleetv1.Report) { r.Sampling.Stacks = []*fleetv1.Ending{{End: long}} })
	f("last_error.text's bytes", func(r *fleetv1.Report) { r.LastError = &fleetv1.Problem{Text: strings.Repeat("x", 1025)} })
	f("cost.cpu_nano is -1", func(r *fleetv1.Report) { r.Cost.CpuNano = -1 })
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), -0.5, 1e9} {
		f("cost.bpf_cores", func(r *fleetv1.Report) { r.Cost.BpfCores = v })
	}
	f("the report's bytes", func(r *fleetv1.Report) {
		for i := range 20 {
			r.Settings = append(r.Settings, &fleetv1.Setting{Name: fmt.Sprint(i), Value: strings.Repeat("x", 1000)})
		}
	})
	f("instance is missing", func(r *fleetv1.Report) { proto.Reset(r) })
	if err := Check(nil); !errors.Is(err, ErrReport) {
		t.Errorf("no report at all: %v", err)
	}
}

// TestConfig holds what may be set.
func TestConfig(t *testing.T) {
	f := func(c Config, want string) {
		t.Helper()
		if err := c.Check(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", c, err, want)
		}
	}
	f(Config{}, "")
	f(Config{Interval: time.Second, ForgetAfter: time.Minute, MaxAgents: 1}, "")
	f(Config{Interval: time.Millisecond}, "interval 1ms: want 1s to 5m")
	f(Config{Interval: time.Hour}, "interval 1h0m0s")
	f(Config{ForgetAfter: time.Second}, "forget_after 1s: want 1m or more")
	f(Config{MaxAgents: -1}, "max_agents -1")
}

// FuzzReport feeds a registry what may come over the wire, twice at different times: it answers sound numbers whatever
// was said.
func FuzzReport(f *testing.F) {
	add := func(r *fleetv1.Report) {
		b, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, b)
	}
	add(says("a", "1", 100, 1, lost(fleetv1.Loss_SAMPLES, 3), lost(fleetv1.Loss_MESSAGES, 1)))
	add(says("a", "1", math.MaxUint64, 1e9, lost(fleetv1.Loss_SAMPLES, math.MaxUint64), lost(fleetv1.Loss_SAMPLES, math.MaxUint64)))
	add(&fleetv1.Report{Instance: "1", Node: "a", StartedUnixNano: math.MinInt64, Delivery: &fleetv1.Delivery{QueueBytes: math.MaxUint64, SpoolBytes: math.MaxUint64, Messages: 1}})
	add(&fleetv1.Report{Instance: "1", Node: "a", Cost: &fleetv1.Cost{CpuNano: math.MaxInt64, BpfCores: 65536, RssBytes: math.MaxUint64}})
	add(&fleetv1.Report{})
	early, err := proto.Marshal(&fleetv1.Report{Instance: "1", Node: "a", Sampling: &fleetv1.Sampling{UntilUnixNano: math.MinInt64}})
	if err != nil {
		f.Fatal(err)
	}
	late, err := proto.Marshal(&fleetv1.Report{Instance: "1", Node: "a", Sampling: &fleetv1.Sampling{UntilUnixNano: math.MaxInt64, Samples: 9}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(early, late)
	f.Fuzz(func(t *testing.T, first, second []byte) {
		now := time.Unix(1_800_000_000, 0)
		r := NewRegistry(Config{MaxAgents: 2}, func() time.Time { return now })
		for _, b := range [][]byte{first, second} {
			report := &fleetv1.Report{}
			if proto.Unmarshal(b, report) != nil {
				continue
			}
			err := r.Report(report)
			if err == nil && proto.Size(report) > MaxReportBytes {
				t.Fatalf("%d bytes were taken", proto.Size(report))
			}
			now = now.Add(15 * time.Second)
		}
		list := r.Agents()
		sound := func(what string, v float64) {
			if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
				t.Errorf("%s is %v", what, v)
			}
		}
		share := func(what string, v float64) {
			if sound(what, v); v > 1 {
				t.Errorf("%s is %v", what, v)
			}
		}
		share("the sum of losses", list.Sums.LostShare)
		sound("the sum of samples", list.Sums.SamplesPerSecond)
		sound("the sum of processors", list.Sums.Cores)
		for _, a := range list.Agents {
			sound("samples/s", a.SamplesPerSecond)
			sound("cores", a.Cores)
			share("lost", a.LostShare)
			one, err := r.Agent(a.Instance)
			if err != nil || one == nil {
				t.Fatalf("a listed agent is %v, %v", one, err)
			}
			for _, m := range one.History {
				sound("a moment's samples/s", m.SamplesPerSecond)
				sound("a moment's cores", m.Cores)
				share("a moment's losses", m.LostShare)
			}
		}
	})
}

// BenchmarkReport is what one report costs a registry of ten thousand.
func BenchmarkReport(b *testing.B) {
	r, reports := crowd(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := r.Report(reports[i%len(reports)]); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAgents is what the list of ten thousand costs.
func BenchmarkAgents(b *testing.B) {
	r, _ := crowd(b)
	b.ReportAllocs()
	for b.Loop() {
		if n := len(r.Agents().Agents); n != 10_000 {
			b.Fatal(n)
		}
	}
}

func crowd(b *testing.B) (*Registry, []*fleetv1.Report) {
	r := NewRegistry(Config{}, nil)
	var reports []*fleetv1.Report
	for i := range 10_000 {
		report := says(fmt.Sprintf("node-%d", i), fmt.Sprintf("%032x", i), 100, 1, lost(fleetv1.Loss_SAMPLES, 1))
		for k := range 16 {
			report.Settings = append(report.Settings, &fleetv1.Setting{Name: fmt.Sprint("setting ", k), Value: strings.Repeat("x", 40)})
		}
		reports = append(reports, report)
		if err := r.Report(report); err != nil {
			b.Fatal(err)
		}
	}
	return r, reports
}
