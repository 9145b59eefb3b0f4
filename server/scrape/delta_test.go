package scrape

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	_ "net/http/pprof"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	pprof "github.com/google/pprof/profile"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/server/ingest"
)

const heapTypes = "alloc_space/bytes inuse_space/bytes"

// memory asks for the memory profile only.
const memory = `- job_name: api
  scrape_interval: 10s
  profiling_config:
    pprof_config: {process_cpu: {enabled: false}, goroutine: {enabled: false}, mutex: {enabled: false}, block: {enabled: false}}
  static_configs: [{targets: ["a:1"]}]
`

// Counters become differences, levels stay; a failure to store loses nothing; a process that starts anew counts
// from zero; what falls by rounding is no restart.
func TestDeltas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &keeper{}
		var lines atomic.Pointer[[]string]
		m := newManager(t, memory, Options{Ingester: k}, transportFunc(func(r *http.Request) (*http.Response, error) {
			if len(*lines.Load()) == 0 {
				return answer(503, nil), nil
			}
			return answer(200, encode(heapTypes, time.Now(), *lines.Load()...)), nil
		}))
		go m.Run(t.Context())
		synctest.Wait()
		<-time.After(time.Until(m.jobs[0].running[firstKey(m)].target.next(time.Now(), 10*time.Second)) - time.Second)
		f := func(want string, next ...string) {
			t.Helper()
			lines.Store(&next)
			<-time.After(10 * time.Second)
			synctest.Wait()
			var got []string
			for line := range strings.Lines(k.take()) {
				word := strings.Fields(line)
				if strings.HasPrefix(line, " ") {
					got = append(got, strings.TrimSpace(line))
				} else {
					typ := strings.Split(word[0], ":")
					_, d, _ := strings.Cut(word[len(word)-1], "+")
					got = append(got, typ[1]+" "+d)
				}
			}
			if g := strings.Join(got, ", "); g != want {
				t.Errorf("%q\n got %s\nwant %s", next, g, want)
			}
		}
		f("inuse_space 10s, main;a 50", "main;a 1000 50", "main;b 500 0")
		f("alloc_space 10s, main;a 300, inuse_space 10s, main;a 20", "main;a 1300 20", "main;b 500 0")
		f("alloc_space 10s, main;c 7", "main;a 1300 0", "main;b 500 0", "main;c 7 0")
		f("", "main;a 1300 0", "main;b 500 0", "main;c 7 0")
		f("")
		f("alloc_space 20s, main;b 1", "main;a 1300 0", "main;b 501 0", "main;c 7 0")
		// Not stored, then stored with what comes after.
		k.failNext(errors.New("the disk is full"))
		f("", "main;a 1400 0", "main;b 501 0", "main;c 7 0")
		f("alloc_space 20s, main;a 101", "main;a 1401 0", "main;b 501 0", "main;c 7 0")
		// A counter falls by less than a thousandth and comes back: no restart, and nothing is told twice.
		f("alloc_space 10s, main;b 1", "main;a 1400 0", "main;b 502 0", "main;c 7 0")
		f("alloc_space 10s, main;a 2", "main;a 1403 0", "main;b 502 0", "main;c 7 0")
		if n := m.Status()[0].Targets[0].Profiles[0].Restarts; n != 0 {
			t.Errorf("%d restarts", n)
		}
		// A restart: fewer bytes, then one that allocates more than before but not at the same place.
		f("alloc_space 10s, main;a 30, inuse_space 10s, main;a 30", "main;a 30 30")
		f("alloc_space 10s, main;z 9000", "main;z 9000 0")
		f("alloc_space 10s, main;z 1", "main;z 9001 0")
		if n := m.Status()[0].Targets[0].Profiles[0].Restarts; n != 2 {
			t.Errorf("%d restarts, want 2", n)
		}
	})
}

// A target that measures for a time answers differences: they are stored as they are, without those of levels.
func TestMeasuredDelta(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &keeper{}
		m := newManager(t, strings.Replace(memory, "{process_cpu", "{memory: {delta: true, keep_sample_type: [{type: alloc_space, unit: bytes}, {type: inuse_space, unit: bytes}]}, process_cpu", 1),
			Options{Ingester: k}, transportFunc(func(r *http.Request) (*http.Response, error) {
				if r.URL.Query().Get("seconds") != "9" {
					t.Errorf("asked for %s", r.URL)
				}
				<-time.After(9 * time.Second)
				return answer(200, encode("alloc_objects/count "+heapTypes, time.Now(), "main;a 1 100 -50", "main;b 1 -3 5")), nil
			}))
		run(m, 30*time.Second)
		got := k.take()
		if !strings.HasPrefix(got, "memory:alloc_space:bytes:: ") || !strings.Contains(got, "+9s\n  main;a 100\n") || strings.Contains(got, "inuse") ||
			strings.Contains(got, "main;b") || strings.Contains(got, "objects") {
			t.Error(got)
		}
	})
}

//go:noinline
func allocateKnown(n, size int) [][]byte {
	keep := make([][]byte, 0, n)
	for range n {
		keep = append(keep, make([]byte, size))
	}
	return keep
}

// TestAgainstProcess scrapes this process, whose allocations are known, and compares with what the pprof library
// says is the difference of the same answers.
func TestAgainstProcess(t *testing.T) {
	server := httptest.NewServer(http.DefaultServeMux)
	defer server.Close()
	k := &keeper{}
	m := newManager(t, fmt.Sprintf(`
- job_name: self
  params: {gc: ["1"]}
  profiling_config:
    pprof_config: {process_cpu: {enabled: false}, memory: {path: /debug/pprof/heap}, goroutine: {enabled: false}, mutex: {enabled: false}, block: {enabled: false}}
  static_configs: [{targets: [%q]}]`, strings.TrimPrefix(server.URL, "http://")), Options{Ingester: k}, nil)
	j := m.jobs[0]
	var answers []*pprof.Profile
	next := j.client.Transport
	j.client.Transport = transportFunc(func(r *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(r)
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return nil, err
		}
		p, err := pprof.ParseData(body)
		if err != nil {
			return nil, err
		}
		answers = append(answers, p)
		resp.Body = io.NopCloser(bytes.NewReader(body))
		return resp, nil
	})
	j.emit("", expand(j.config.Static))
	var tgt *target
	for _, g := range j.groups {
		tgt = g.targets[0]
	}
	l := &loop{job: j, target: tgt, profiles: make([]profileState, len(j.fetches))}
	const n, size = 1000, 8 << 10
	// The heap profile is of the end of the collection before last: what was allocated before the first
	// scrape must be in it.
	runtime.GC()
	l.round(t.Context())
	kept := allocateKnown(n, size)
	runtime.GC()
	l.round(t.Context())
	kept = append(kept, allocateKnown(n/2, size)...)
	runtime.GC()
	l.round(t.Context())
	runtime.KeepAlive(kept)
	if s := l.status(); s.Health != Up || s.Profiles[0].Restarts != 0 {
		t.Fatalf("%+v", s)
	}
	if len(answers) != 3 || len(k.batches) != 3 {
		t.Fatalf("%d answers, %d batches", len(answers), len(k.batches))
	}

	got := map[string]int64{}
	for i, b := range k.batches {
		for _, p := range b.Profiles {
			if p.Type.SampleType == "alloc_space" || p.Type.SampleType == "alloc_objects" {
				if i == 0 {
					t.Error("the first scrape has a difference")
				}
				for _, s := range p.Samples {
					got[p.Type.SampleType+" "+stackText(b.Dictionary, s.Stack)] += s.Value
				}
			}
		}
	}
	answers[0].Scale(-1)
	diff, err := pprof.Merge([]*pprof.Profile{answers[0], answers[2]})
	if err != nil {
		t.Fatal(err)
	}
	want, known := map[string]int64{}, int64(0)
	for _, s := range diff.Sample {
		var names []string
		for _, loc := range s.Location {
			for _, line := range loc.Line {
				names = append([]string{line.Function.Name}, names...)
			}
		}
		stack := strings.Join(names, ";")
		for i, typ := range diff.SampleType {
			if strings.HasPrefix(typ.Type, "alloc_") && s.Value[i] != 0 {
				want[typ.Type+" "+stack] += s.Value[i]
				if typ.Type == "alloc_objects" && strings.HasSuffix(stack, ".allocateKnown") && s.NumLabel["bytes"] != nil && s.NumLabel["bytes"][0] == size {
					known += s.Value[i]
				}
			}
		}
	}
	if known != n+n/2 {
		t.Errorf("the pprof library finds %d known allocations, there are %d", known, n+n/2)
	}
	for stack, v := range want {
		if got[stack] != v {
			t.Errorf("%s: stored %d, the pprof library says %d", stack, got[stack], v)
		}
		delete(got, stack)
	}
	if len(got) > 0 {
		t.Errorf("stored too: %v", got)
	}
	inuse := int64(0)
	last := k.batches[2]
	for _, p := range last.Profiles {
		if p.Type.SampleType == "inuse_space" {
			for _, s := range p.Samples {
				if strings.HasSuffix(stackText(last.Dictionary, s.Stack), ".allocateKnown") {
					inuse += s.Value
				}
			}
		}
	}
	if min := int64((n + n/2) * size); inuse < min || inuse > min+min/10 {
		t.Errorf("%d bytes in use, held are %d", inuse, min)
	}
}

// FuzzDeltas: whatever two answers are, the second gives amounts above 0 only, and the same again gives nothing.
func FuzzDeltas(f *testing.F) {
	at := time.Unix(1e9, 0)
	// Not compressed, so that what the fuzzer changes is the profile.
	plain := func(types string, at time.Time, lines ...string) []byte {
		zr, err := gzip.NewReader(bytes.NewReader(encode(types, at, lines...)))
		if err != nil {
			f.Fatal(err)
		}
		b, err := io.ReadAll(zr)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	f.Add(plain(heapTypes, at, "main;a 1000 50"), plain(heapTypes, at.Add(time.Second), "main;a 1300 20", "main;b 5 5"))
	f.Add(plain("contentions/count delay/nanoseconds", at, "x 3 100"), plain("contentions/count delay/nanoseconds", at, "x 1 50"))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		read := func(b []byte) *profile.Batch {
			got, err := profile.ReadPprof(bytes.NewReader(b), profile.PprofOptions{MaxBytes: 1 << 20})
			if err != nil {
				t.Skip()
			}
			return got
		}
		fe := &fetch{}
		old, _ := fe.edit(read(first), time.Second, nil)
		b := read(second)
		next, _ := fe.edit(b, time.Second, old)
		for _, p := range b.Profiles {
			if p.DurationNanos < 0 || len(p.Samples) == 0 {
				t.Fatalf("%+v", p)
			}
			for _, s := range p.Samples {
				if s.Value <= 0 {
					t.Fatalf("%s: %d", p.Type, s.Value)
				}
			}
		}
		again := read(second)
		_, restarted := fe.edit(again, time.Second, next)
		if restarted {
			return // raised by what was before
		}
		for _, p := range again.Profiles {
			if cumulative(p.Type) {
				t.Fatalf("told twice: %s", p.Type)
			}
		}
	})
}

// BenchmarkDeltas is what a scrape of a heap with 5000 stacks costs beside decoding it.
func BenchmarkDeltas(b *testing.B) {
	var lines []string
	for i := range 5000 {
		lines = append(lines, fmt.Sprintf("main;serve;handle;f%d;g%d;h%d;alloc%d %d 5", i%7, i%100, i%1000, i, 1000+i))
	}
	data := encode(heapTypes, time.Now(), lines...)
	fe := &fetch{}
	var old *counters
	for b.Loop() {
		b.StopTimer()
		got, err := profile.ReadPprof(bytes.NewReader(data), profile.PprofOptions{})
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		old, _ = fe.edit(got, time.Second, old)
	}
}

var _ Ingester = (*ingest.Ingester)(nil)
