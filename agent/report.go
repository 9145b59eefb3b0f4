package agent

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perfuse/perfuse/agent/process"
	"github.com/perfuse/perfuse/agent/sampler"
	"github.com/perfuse/perfuse/agent/ship"
	"github.com/perfuse/perfuse/profile"
	fleetv1 "github.com/perfuse/perfuse/proto/perfuse/fleet/v1"
)

// told is what an agent tells the server of itself, as far as no other part knows it.
type told struct {
	instance, node, kernel string
	started                time.Time
	cpus                   int

	mu        sync.Mutex
	samples   uint64
	until     time.Time
	lastError *fleetv1.Problem
	bpfCores  float64
}

// What one report may hold; see Report in proto/perfuse/fleet/v1. The server takes more.
const (
	maxTold      = 32  // entries of a list
	maxToldName  = 200 // bytes
	maxToldError = 600
)

func (t *told) init(o Options) error {
	var id [16]byte
	rand.Read(id[:])
	t.instance = hex.EncodeToString(id[:])
	t.started, t.bpfCores = time.Now(), -1
	if t.node = o.Node; t.node == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("finding the host's name: %w", err)
		}
		t.node = host
	}
	cpus, err := process.OnlineCPUs()
	if err != nil {
		return err
	}
	t.cpus = len(cpus)
	var names unix.Utsname
	if err := unix.Uname(&names); err != nil {
		return fmt.Errorf("asking for the kernel's version: %w", err)
	}
	t.kernel = unix.ByteSliceToString(names.Release[:])
	return nil
}

// count sees every batch that the sampler made.
func (t *told) count(b *profile.Batch) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range b.Profiles {
		p := &b.Profiles[i]
		if p.Type != profile.TypeCPUSamples {
			continue
		}
		t.samples += uint64(max(p.Total(), 0))
		if end := time.Unix(0, p.TimeNanos+p.DurationNanos); end.After(t.until) {
			t.until = end
		}
	}
}

// problem notes an error for the next report, and makes it come soon.
func (a *Agent) problem(where string, err error) {
	a.told.mu.Lock()
	a.told.lastError = &fleetv1.Problem{Where: clip(where, maxToldName), Text: clip(err.Error(), maxToldError), UnixNano: time.Now().UnixNano()}
	a.told.mu.Unlock()
	if a.reporter != nil {
		a.reporter.Soon()
	}
}

// report gathers what there is to tell.
func (a *Agent) report() *fleetv1.Report {
	st, err := a.sampler.Stats()
	if err != nil {
		a.told.mu.Lock()
		a.told.lastError = &fleetv1.Problem{Where: "reading the sampler's counters", Text: clip(err.Error(), maxToldError), UnixNano: time.Now().UnixNano()}
		a.told.mu.Unlock()
	}
	heaps := a.heap.Stats()
	sent, uploads := a.sender.Stats(), a.debuginfo.Stats()
	t := &a.told
	t.mu.Lock()
	defer t.mu.Unlock()
	r := &fleetv1.Report{
		Instance: t.instance, Node: clip(t.node, maxToldName), Version: clip(cmp.Or(a.opts.Version, "unknown"), maxToldName),
		Kernel: clip(t.kernel, maxToldName), Architecture: runtime.GOARCH,
		StartedUnixNano: t.started.UnixNano(), Cpus: uint32(t.cpus),
		Settings: a.settings(), Off: a.off(), LastError: t.lastError,
		Sampling: &fleetv1.Sampling{
			Samples: t.samples, UntilUnixNano: unixNano(t.until), Event: a.sampler.Event(), Rate: uint32(a.sampler.Rate()),
			Processes: uint32(len(a.table.Processes())), Stacks: endings(st.Stacks), Deferred: st.Deferred, Unlabelled: st.Unlabelled,
		},
		Unwinding: &fleetv1.Unwinding{
			Files: st.Files, Tables: st.Tables, Failed: st.Failed, Evicted: st.Evicted, Queued: uint64(st.Queued), LastError: clip(st.LastError, maxToldError),
		},
		Heaps: &fleetv1.Heaps{Go: uint32(heaps.Go), Jvm: uint32(heaps.JVM), Native: uint32(heaps.Native), Without: endings(heaps.Without)},
		Delivery: &fleetv1.Delivery{
			Messages: sent.Messages, Delivered: sent.Delivered, Failures: sent.Failures,
			QueueBytes: sent.QueueBytes, SpoolBytes: sent.SpoolBytes, SpoolMaxBytes: uint64(cmp.Or(a.opts.SpoolMaxBytes, ship.DefaultSpoolMaxBytes)),
		},
		Debuginfo: &fleetv1.Debuginfo{
			Pending: uint64(uploads.Pending), Uploaded: uploads.Uploaded, Failed: uploads.Failed, Gone: uploads.Gone, LastError: clip(uploads.LastError, maxToldError),
		},
		Cost: &fleetv1.Cost{CpuNano: cpuTime(), RssBytes: residentBytes(), WithServer: a.opts.WithServer, BpfCores: t.bpfCores},
	}
	r.Losses = losses(st, sent)
	if s := heaps.Samples; s != nil {
		r.Losses = append(r.Losses, lossesOf(fleetv1.Loss_ALLOCATIONS, s.Drops)...)
	}
	return r
}

func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func losses(st sampler.Stats, sent ship.Stats) []*fleetv1.Loss {
	samples := maps.Clone(st.Drops)
	if st.Malformed > 0 {
		samples["malformed record"] = st.Malformed
	}
	out := lossesOf(fleetv1.Loss_SAMPLES, samples)
	out = append(out, lossesOf(fleetv1.Loss_MESSAGES, sent.Dropped)...)
	if sent.Rejected > 0 {
		out = append(out, &fleetv1.Loss{Kind: fleetv1.Loss_PROFILES, Reason: "rejected by the server", Count: sent.Rejected})
	}
	return out
}

// lossesOf lists what was lost at all, by reason; there are few reasons.
func lossesOf(kind fleetv1.Loss_Kind, counts map[string]uint64) (out []*fleetv1.Loss) {
	for _, reason := range slices.Sorted(maps.Keys(counts)) {
		if n := counts[reason]; n > 0 {
			out = append(out, &fleetv1.Loss{Kind: kind, Reason: clip(strings.ReplaceAll(reason, "_", " "), maxToldName), Count: n})
		}
	}
	return out
}

// endings lists the largest counts.
func endings[N int | uint64](counts map[string]N) (out []*fleetv1.Ending) {
	for end, n := range counts {
		if n > 0 {
			out = append(out, &fleetv1.Ending{End: clip(end, maxToldName), Count: uint64(n)})
		}
	}
	slices.SortFunc(out, func(a, b *fleetv1.Ending) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.End, b.End))
	})
	return out[:min(len(out), maxTold)]
}

// settings are those that say what is measured, and how much.
func (a *Agent) settings() []*fleetv1.Setting {
	o := &a.opts
	var out []*fleetv1.Setting
	put := func(name string, value any) {
		out = append(out, &fleetv1.Setting{Name: name, Value: clip(fmt.Sprint(value), maxToldError)})
	}
	put("sampling rate", fmt.Sprintf("%d Hz", a.sampler.Rate()))
	put("event", a.sampler.Event())
	put("interval", cmp.Or(o.Interval, 10*time.Second))
	put("waits", or(o.OffCPU, true))
	put("wakers", o.Wakers)
	put("page faults", or(o.PageFaults, true))
	put("heap: Go", or(o.Heap.Go, true))
	put("heap: goroutines", or(o.Heap.Goroutines, true))
	if s := o.Heap.Native.Selector; s.set {
		put("heap: native", s.String())
	}
	if s := o.Heap.JVM.Selector; s.set {
		put("heap: JVM", s.String())
	}
	if n := len(o.Relabel); n > 0 {
		put("relabelling rules", n)
	}
	return out
}

// off lists what is not measured.
func (a *Agent) off() []*fleetv1.Off {
	var out []*fleetv1.Off
	put := func(what, why string) { out = append(out, &fleetv1.Off{What: what, Why: clip(why, maxToldError)}) }
	const unasked = "not asked for"
	if err := a.sampler.OffCPU(); err != nil {
		put("waits", err.Error())
	}
	if !or(a.opts.PageFaults, true) {
		put("page faults", unasked)
	}
	if !or(a.opts.Heap.Go, true) {
		put("heap: Go", unasked)
	}
	switch {
	case !a.opts.Heap.Native.Selector.set:
		put("heap: native", "no selector chooses processes")
	case len(a.heap.Collectors()) == 0:
		put("heap: native", "allocators cannot be probed here: the agent's log says why")
	}
	if !a.opts.Heap.JVM.Selector.set {
		put("heap: JVM", "no selector chooses processes")
	}
	return out
}

// clip makes s valid text of at most so many bytes.
func clip(s string, max int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= max {
		return s
	}
	const more = "…"
	return strings.ToValidUTF8(s[:max-len(more)], "") + more
}
