package scrape

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// goroutines is a job of n targets that asks for goroutines only.
func goroutines(n int, more string) string {
	var targets []string
	for i := range n {
		targets = append(targets, fmt.Sprintf("%q", fmt.Sprintf("10.0.0.%d:6060", i+1)))
	}
	return "- job_name: api\n  scrape_interval: 10s\n" + more + `  profiling_config:
    pprof_config: {process_cpu: {enabled: false}, memory: {enabled: false}, mutex: {enabled: false}, block: {enabled: false}}
  static_configs: [{targets: [` + strings.Join(targets, ", ") + "]}]\n"
}

// visits notes when each target was asked, and how many were at once.
type visits struct {
	mu       sync.Mutex
	times    map[string][]time.Time
	now, max int
	inFlight map[string]bool
	twice    bool // one target was asked while it was being asked
}

func (v *visits) begin(host string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.times == nil {
		v.times, v.inFlight = map[string][]time.Time{}, map[string]bool{}
	}
	v.times[host] = append(v.times[host], time.Now())
	v.twice = v.twice || v.inFlight[host]
	v.inFlight[host] = true
	v.now++
	v.max = max(v.max, v.now)
}

func (v *visits) end(host string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.inFlight[host] = false
	v.now--
}

// serve answers after some time.
func (v *visits) serve(after time.Duration) transportFunc {
	return func(r *http.Request) (*http.Response, error) {
		v.begin(r.URL.Host)
		defer v.end(r.URL.Host)
		select {
		case <-time.After(after):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
		return answer(200, encode("goroutine/count", time.Now(), "main;work 3")), nil
	}
}

// run runs a manager for a time of the bubble.
func run(m *Manager, d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	m.Run(ctx)
	synctest.Wait()
}

// values returns those of a metric.
func values(t *testing.T, reg prometheus.Gatherer, name string) (out []float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				out = append(out, m.GetCounter().GetValue()+m.GetGauge().GetValue())
			}
		}
	}
	return out
}

// Each of 100 targets is asked every 10 s, at a moment of its own.
func TestSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var v visits
		k := &keeper{}
		m := newManager(t, goroutines(100, ""), Options{Ingester: k}, v.serve(100*time.Millisecond))
		run(m, 65*time.Second)
		perSecond := make([]int, 10)
		for host, times := range v.times {
			if n := len(times); n < 6 || n > 7 {
				t.Errorf("%s was asked %d times in 65 s", host, n)
			}
			for i := 1; i < len(times); i++ {
				if d := times[i].Sub(times[i-1]); d != 10*time.Second {
					t.Errorf("%s was asked after %s", host, d)
				}
			}
			perSecond[times[0].UnixNano()/1e9%10]++
		}
		if len(v.times) != 100 || slices.Max(perSecond) > 25 || v.twice {
			t.Errorf("%d targets, by second %v, twice at once %v", len(v.times), perSecond, v.twice)
		}
		if got := strings.Count(k.take(), "main;work 3"); got < 600 {
			t.Errorf("%d profiles are stored", got)
		}
	})
}

// A target that takes 25 s is asked every 30 s, never twice at once, and what it misses is counted.
func TestSlowTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var v visits
		reg := prometheus.NewPedanticRegistry()
		m := newManager(t, goroutines(1, "  scrape_timeout: 28s\n"), Options{Ingester: &keeper{}, Registerer: reg}, v.serve(25*time.Second))
		run(m, 100*time.Second)
		times := v.times["10.0.0.1:6060"]
		if v.twice || len(times) < 3 || times[1].Sub(times[0]) != 30*time.Second {
			t.Errorf("asked at %v, twice at once %v", times, v.twice)
		}
		rounds := m.jobs[0].status().Targets[0]
		if rounds.Missed < 4 || fmt.Sprint(values(t, reg, "perfuse_scrape_missed_rounds_total")) != fmt.Sprintf("[%d]", rounds.Missed) {
			t.Errorf("missed %d", rounds.Missed)
		}
	})
}

// No more than so many targets are asked at once, and all get their turn.
func TestConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var v visits
		m := newManager(t, goroutines(20, ""), Options{Ingester: &keeper{}, Concurrency: 3}, v.serve(time.Second))
		run(m, 60*time.Second)
		if v.max != 3 || len(v.times) != 20 {
			t.Errorf("%d at once, %d targets", v.max, len(v.times))
		}
	})
}

// A target's health follows its last round; up says it, too.
func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var do atomic.Pointer[transportFunc]
		var told []string
		reg := prometheus.NewPedanticRegistry()
		m := newManager(t, goroutines(1, "  params: {token: [hush]}\n"), Options{Ingester: &keeper{}, Registerer: reg, OnError: func(where string, err error) {
			told = append(told, where+": "+err.Error())
		}}, transportFunc(func(r *http.Request) (*http.Response, error) { return (*do.Load())(r) }))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go m.Run(ctx)
		synctest.Wait()
		target := func() TargetStatus { return m.Status()[0].Targets[0] }
		if s := target(); s.Health != Unknown || !s.LastScrape.IsZero() {
			t.Errorf("before the first round: %+v", s)
		}
		if up := values(t, reg, "perfuse_scrape_up"); len(up) != 0 {
			t.Errorf("up is %v before the first round", up)
		}
		f := func(want Health, wantErr string, next transportFunc) {
			t.Helper()
			do.Store(&next)
			<-time.After(time.Until(m.jobs[0].running[firstKey(m)].target.next(time.Now(), 10*time.Second)))
			<-time.After(9 * time.Second) // within the same interval, but after the longest wait below
			synctest.Wait()
			s := target()
			if s.Health != want || s.Profiles[0].Error != wantErr {
				t.Errorf("%s, %q; want %s, %q", s.Health, s.Profiles[0].Error, want, wantErr)
			}
			if up := values(t, reg, "perfuse_scrape_up"); len(up) != 1 || (up[0] == 1) != (want == Up) {
				t.Errorf("up is %v", up)
			}
		}
		good := new(visits).serve(0)
		f(Up, "", good)
		f(Down, "the target answers 500 Internal Server Error: Could not enable CPU profiling", func(*http.Request) (*http.Response, error) {
			return answer(500, []byte("Could not enable CPU profiling\nat all\n")), nil
		})
		f(Down, "the target answers 404 Not Found: (no text)", func(*http.Request) (*http.Response, error) { return answer(404, []byte{0xff}), nil })
		f(Up, "", good)
		f(Down, "connection refused", func(r *http.Request) (*http.Response, error) { return nil, errors.New("connection refused") })
		f(Down, "reading pprof: string 0 is not empty", func(r *http.Request) (*http.Response, error) { return answer(200, []byte("\x32\x01a")), nil })
		if len(told) != 2 {
			t.Errorf("told of %q", told)
		}
		cancel()
		synctest.Wait()
		if all := fmt.Sprint(told, m.Status()); strings.Contains(all, "hush") {
			t.Errorf("a parameter is shown: %s", all)
		}
	})
}

func firstKey(m *Manager) uint64 {
	for key := range m.jobs[0].running {
		return key
	}
	return 0
}

// A target that never answers is given up after scrape_timeout, and after seconds more if it measures so long.
func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		took := map[string]time.Duration{}
		m := newManager(t, `
- job_name: api
  scrape_interval: 60s
  scrape_timeout: 3s
  profiling_config: {pprof_config: {process_cpu: {seconds: 20}, memory: {enabled: false}, mutex: {enabled: false}, block: {enabled: false}}}
  static_configs: [{targets: [a]}]`, Options{Ingester: &keeper{}}, transportFunc(func(r *http.Request) (*http.Response, error) {
			start := time.Now()
			<-r.Context().Done()
			took[r.URL.Path+"?"+r.URL.RawQuery] = time.Since(start)
			return nil, r.Context().Err()
		}))
		run(m, 100*time.Second)
		if len(took) != 2 || took["/debug/pprof/goroutine?"] != 3*time.Second || took["/debug/pprof/profile?seconds=20"] != 23*time.Second {
			t.Errorf("%v", took)
		}
		for _, p := range m.Status()[0].Targets[0].Profiles {
			if p.Error != "no answer in time: context deadline exceeded" {
				t.Errorf("%s: %q", p.Name, p.Error)
			}
		}
	})
}

// The end of the context ends what is being asked, and says nothing about the target.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var v visits
		m := newManager(t, goroutines(5, "  scrape_timeout: 1h\n"), Options{Ingester: &keeper{}}, v.serve(time.Hour))
		start := time.Now()
		run(m, 30*time.Second)
		if d := time.Since(start); d != 30*time.Second || v.now != 0 || v.max != 5 {
			t.Errorf("stopped after %s with %d of %d requests", d, v.now, v.max)
		}
		for _, s := range m.Status()[0].Targets {
			if s.Health != Unknown {
				t.Errorf("%s is %s", s.Address, s.Health)
			}
		}
	})
}

// What relabelling, the job and the target say becomes the labels; what is dropped is never asked.
func TestTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		urls := map[string]bool{}
		k := &keeper{}
		m := newManager(t, `
- job_name: api
  scrape_interval: 10s
  scheme: https
  params: {tenant: [a, b], x: ["1"]}
  profiling_config:
    path_prefix: /admin
    pprof_config: {process_cpu: {enabled: false}, memory: {enabled: false}, mutex: {enabled: false}, block: {enabled: false}}
  static_configs:
    - {targets: ["one:80"], labels: {zone: z, __meta_app: shop}}
    - {targets: ["two:80"], labels: {__param_tenant: c, __scheme__: http, instance: second}}
    - {targets: ["three:80"], labels: {drop: yes}}
    - {targets: ["[::1]"], labels: {__address__: ignored}}
    - {targets: ["bad"], labels: {__scheme__: gopher}}
  relabel_configs:
    - {source_labels: [__meta_app], regex: (.+), target_label: service_name}
    - {source_labels: [drop], regex: "yes|true", action: drop}
`, Options{Ingester: k}, transportFunc(func(r *http.Request) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			urls[r.URL.String()] = true
			if r.Header.Get("User-Agent") != "" {
				t.Error("the transport under test replaces the one that sets headers")
			}
			return answer(200, encode("goroutine/count", time.Now(), "main 1")), nil
		}))
		run(m, 15*time.Second)
		for _, want := range []string{
			"https://one:80/admin/debug/pprof/goroutine?tenant=a&tenant=b&x=1",
			"http://two:80/admin/debug/pprof/goroutine?tenant=c&tenant=b&x=1",
			"https://[::1]/admin/debug/pprof/goroutine?tenant=a&tenant=b&x=1",
		} {
			if !urls[want] {
				t.Errorf("%s was not asked", want)
			}
			delete(urls, want)
		}
		if len(urls) > 0 {
			t.Errorf("asked too: %v", urls)
		}
		s := m.Status()[0]
		if s.Dropped != 1 || len(s.Targets) != 3 || len(s.Errors) != 1 || !strings.Contains(s.Errors[0], `__scheme__ is "gopher" after relabelling`) {
			t.Errorf("%+v", s)
		}
		stored := k.take()
		for _, want := range []string{
			`goroutine:goroutine:count:: {instance="one:80", job="api", service_name="shop", zone="z"}`,
			`goroutine:goroutine:count:: {instance="second", job="api", service_name="api"}`,
			`goroutine:goroutine:count:: {instance="[::1]", job="api", service_name="api"}`,
		} {
			if !strings.Contains(stored, want) {
				t.Errorf("not stored: %s\nbut\n%s", want, stored)
			}
		}
	})
}

// More targets than target_limit: the last good ones stay.
func TestTargetLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, goroutines(3, "  target_limit: 2\n"), Options{Ingester: &keeper{}}, new(visits).serve(0))
		run(m, 15*time.Second)
		s := m.Status()[0]
		if len(s.Targets) != 0 || len(s.Errors) != 1 || !strings.Contains(s.Errors[0], "there are 3 targets, target_limit is 2") {
			t.Errorf("%+v", s)
		}
	})
}

// What a target measures for a time is measured together, after what it has at hand.
func TestRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var start time.Time
		var got []string
		m := newManager(t, `
- job_name: api
  profiling_config: {pprof_config: {mutex: {delta: true, seconds: 4}, memory: {enabled: false}}}
  static_configs: [{targets: [a]}]`, Options{Ingester: &keeper{}}, transportFunc(func(r *http.Request) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			if start.IsZero() {
				start = time.Now()
			}
			got = append(got, fmt.Sprintf("%s %s", strings.TrimPrefix(r.URL.Path, "/debug/pprof/"), time.Since(start)))
			wait := time.Second
			if s := r.URL.Query().Get("seconds"); s != "" {
				wait, _ = time.ParseDuration(s + "s")
			}
			mu.Unlock()
			<-time.After(wait)
			mu.Lock()
			return answer(200, encode("goroutine/count", time.Now())), nil
		}))
		run(m, 22*time.Second)
		slices.Sort(got[2:4])
		if want := "[block 0s goroutine 1s mutex 2s profile 2s]"; len(got) < 4 || fmt.Sprint(got[:4]) != want {
			t.Errorf("%v, want %s", got, want)
		}
	})
}
