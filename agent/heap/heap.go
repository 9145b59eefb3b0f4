// Package heap collects the memory profiles of the processes on a node, and makes batches of them as the sampler does of
// its samples. What Go's runtime keeps by itself is read from outside, of every process ([goheap]); JVMs are asked
// ([hotspot]), and allocators probed ([native]), where somebody has chosen so, since it costs the program something.
//
//	process table ─▶ Started, Mapped, Exited ─▶ which processes, which files
//	every interval: each process's profile ─▶ sampler.Joiner (labels, frames) ─▶ Sink
//	a goroutine a JVM: Flight Recorder ─▶ labels ─▶ Sink
//
// What is in use is a level: it holds for the interval that ends when it is read. What was allocated is an amount: the
// difference to the time before, or, of a process that began under our eyes, to nothing.
//
// A process whose profile cannot be had is said to be so once, with the reason ([Heap.Stats]); it is never an empty
// profile.
package heap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/perfuse/perfuse/agent/heap/goheap"
	"github.com/perfuse/perfuse/agent/heap/hotspot"
	"github.com/perfuse/perfuse/agent/heap/native"
	"github.com/perfuse/perfuse/agent/process"
	"github.com/perfuse/perfuse/agent/sampler"
	"github.com/perfuse/perfuse/profile"
)

// Options configures a Heap. Sampler, Open and Sink are required.
type Options struct {
	// Interval is the time between two looks. Default 15 s.
	Interval time.Duration
	// Sampler names frames.
	Sampler *sampler.Sampler
	// Open opens the file behind a mapping.
	Open func(*process.Process, process.Mapping) (process.File, error)
	// Keep decides which processes are looked at. Default: all.
	Keep func(*process.Process) bool
	// NoGo leaves out Go programs, NoGoroutines only the counts of their goroutines.
	NoGo, NoGoroutines bool
	// MaxGo bounds how many Go programs are looked at: each takes a descriptor and its buckets' stacks. Default 2048.
	MaxGo int
	// Native chooses C, C++ and Rust programs, whose allocators are probed; JVM chooses JVMs. Default: none.
	Native Native
	JVM    JVM
	// Sink receives the batches, one at a time. It owns them.
	Sink func(*profile.Batch)
	// Logger gets one line for each program whose profile cannot be had. Default: none.
	Logger log.Logger
}

// Native says which allocators are probed, and how.
type Native struct {
	// Select chooses processes; nil: none.
	Select func(*process.Process) bool
	// Rate is how many bytes there are to a sample on average. Default 512 KiB.
	Rate uint64
	// AllocOnly leaves out what is in use, for half of the cost.
	AllocOnly bool
	// MaxCalls is how many calls of its allocator in a second make us leave a process alone. Default: as in
	// native.Options; negative: none.
	MaxCalls float64
	// RingBytes and Sweep are as in native.Options. Default: as there.
	RingBytes uint32
	Sweep     time.Duration
}

// JVM says which JVMs are asked, and what.
type JVM struct {
	// Select chooses processes; nil: none.
	Select func(*process.Process) bool
	// MaxProcesses bounds how many are asked. Default 64.
	MaxProcesses int
	// Options are the recording's; its Interval is the time between two looks. Default: the same as of the others. CPU is
	// left out of JVMs that keep frame pointers, unless AlwaysCPU is set: the sampler has it, and is told the
	// names of their methods. Without any of what a recording can have there is none.
	hotspot.Options
	AlwaysCPU bool
}

// Heap implements process.Observer: the process table must be told of it before it runs.
type Heap struct {
	opts  Options
	begun time.Time

	native *native.Profiler // nil: not wanted, or not possible
	jvms   *jvms            // nil: not wanted

	sinking   sync.Mutex
	mu        sync.Mutex
	processes map[uint32]*candidate // by generation
	files     map[process.FileID]*file
	stats     Stats
	said      map[string]bool // what was logged
	ended     map[string]int  // see Stats
	skipped   uint32          // the first process that had no turn in the last look; 0: all had
}

// candidate is a process that may have a memory profile.
type candidate struct {
	process *process.Process
	// Owned by the goroutine of Run.
	go_    *goProcess
	looked map[process.FileID]bool // files of it that were tried
	reason error                   // why it has no profile although it could
	native error                   // the same of the native profiler
	isGo   bool
}

// file is what an executable file was found to be. It does not change.
type file struct {
	layout *goheap.Layout // nil: it has no Go runtime, or not one that we know
	err    error          // why, if it has one
	used   time.Time
}

// Stats are the room's own numbers.
type Stats struct {
	// Go and JVM count processes that have told their memory profile when they were last asked, Native those whose
	// allocator is probed.
	Go     int `json:"go"`
	JVM    int `json:"jvm"`
	Native int `json:"native"`
	// Walks through Go programs, and their time; Partial ones met a limit or a collection.
	Walks   uint64 `json:"walks"`
	Partial uint64 `json:"partial"`
	// Skipped are those that had no turn, since a look took too long.
	Skipped uint64        `json:"skipped"`
	Walking time.Duration `json:"walking_nanoseconds"`
	// Counting is the time that goroutines took.
	Counting time.Duration `json:"counting_nanoseconds"`
	// Samples are the native profiler's own numbers.
	Samples *native.Stats `json:"native_samples,omitempty"`
	// Without counts the processes that have no profile although they could, by reason.
	Without map[string]int `json:"without,omitempty"`
	// Incomplete counts those of whose profile something is missing, by what.
	Incomplete map[string]int `json:"incomplete,omitempty"`
	// Ended counts, likewise, those that have ended since the start.
	Ended map[string]int `json:"ended,omitempty"`
}

// Limits. A file's layout takes a few hundred bytes.
const (
	maxFiles = 16384
	maxGo    = 2048
	maxSaid  = 1000
	// minLook is what a look may take in addition to half of the interval.
	minLook = time.Second
)

// New loads what it takes. Where the kernel cannot have probes on allocators, the log says so, and the rest works.
func New(o Options) *Heap {
	if o.Interval == 0 {
		o.Interval = 15 * time.Second
	}
	if o.MaxGo == 0 {
		o.MaxGo = maxGo
	}
	if o.JVM.MaxProcesses == 0 {
		o.JVM.MaxProcesses = maxJVMs
	}
	if o.JVM.Interval == 0 {
		o.JVM.Interval = o.Interval
	}
	if o.Logger == nil {
		o.Logger = log.NewNopLogger()
	}
	h := &Heap{
		opts:      o,
		begun:     time.Now(),
		processes: map[uint32]*candidate{},
		files:     map[process.FileID]*file{},
		said:      map[string]bool{},
		ended:     map[string]int{},
	}
	if o.Native.Select != nil {
		var err error
		if h.native, err = native.New(native.Options{
			Programs: o.Sampler.Programs(), Open: o.Open, Select: o.Native.Select, Rate: o.Native.Rate, AllocOnly: o.Native.AllocOnly,
			RingBytes: o.Native.RingBytes, Sweep: o.Native.Sweep, MaxCalls: o.Native.MaxCalls,
			Logger: o.Logger,
		}); err != nil {
			level.Warn(o.Logger).Log("msg", "allocators of C, C++ and Rust programs are not probed", "err", err)
			h.native = nil
		}
	}
	if o.JVM.Select != nil {
		h.jvms = newJVMs(h)
	}
	return h
}

// Collectors are the metrics of what New has loaded.
func (h *Heap) Collectors() []prometheus.Collector {
	if h.native == nil {
		return nil
	}
	return []prometheus.Collector{h.native}
}

// Close unloads what New has loaded. Run must have returned.
func (h *Heap) Close() error {
	if h.native == nil {
		return nil
	}
	return h.native.Close()
}

// Started implements process.Observer.
func (h *Heap) Started(p *process.Process, ms []process.Mapping) {
	if p.Kernel {
		return
	}
	h.mu.Lock()
	h.processes[p.Generation] = &candidate{process: p, looked: map[process.FileID]bool{}}
	h.mu.Unlock()
	if h.native != nil {
		h.native.Started(p, ms)
	}
}

// Mapped implements process.Observer. What is mapped is asked for when it is looked at.
func (h *Heap) Mapped(p *process.Process, m process.Mapping) {
	if h.native != nil {
		h.native.Mapped(p, m)
	}
}

// Exited implements process.Observer.
func (h *Heap) Exited(p *process.Process) {
	h.mu.Lock()
	delete(h.processes, p.Generation)
	h.mu.Unlock()
	if h.native != nil {
		h.native.Exited(p)
	}
}

// Run looks every interval until ctx ends, and then once more.
func (h *Heap) Run(ctx context.Context) error {
	var wait sync.WaitGroup
	probing, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer wait.Wait()
	defer stop()
	if h.native != nil {
		wait.Go(func() {
			if err := h.native.Run(probing); err != nil {
				level.Error(h.opts.Logger).Log("msg", "allocators are no longer probed", "err", err)
			}
		})
	}
	tick := time.NewTicker(h.opts.Interval)
	defer tick.Stop()
	known := map[uint32]*candidate{}
	defer func() {
		for _, c := range known {
			c.close()
		}
	}()
	last := time.Now()
	if h.jvms != nil {
		h.jvms.look(ctx, h.all(), last) // what they tell begins now
	}
	for {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		now := time.Now()
		h.look(ctx, known, last, now)
		last = now
		if ctx.Err() != nil {
			if h.jvms != nil {
				h.jvms.wait.Wait()
				h.jvms.flush(last, time.Now())
			}
			return nil
		}
	}
}

// young says whether a process may be a fork that is about to become another program: it has the mappings of its parent,
// perhaps even its memory, and would be taken for it.
func young(p *process.Process, now time.Time) bool {
	return now.Sub(p.StartTime) < 500*time.Millisecond
}

// all returns the processes, the eldest first.
func (h *Heap) all() []*candidate {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.SortedFunc(maps.Values(h.processes), func(a, b *candidate) int {
		return cmp.Compare(a.process.Generation, b.process.Generation)
	})
}

func (h *Heap) emit(b *profile.Batch) {
	h.sinking.Lock()
	defer h.sinking.Unlock()
	h.opts.Sink(b)
}

// look reads every process's profile. known are the processes of the look before.
func (h *Heap) look(ctx context.Context, known map[uint32]*candidate, last, now time.Time) {
	all := h.all()
	alive := make(map[uint32]bool, len(all))
	for _, c := range all {
		alive[c.process.Generation] = true
		known[c.process.Generation] = c
	}
	for g, c := range known {
		if alive[g] {
			continue
		}
		c.close()
		delete(known, g)
		if why := cmp.Or(c.reason, c.native); why != nil {
			addReason(h.ended, why)
		}
	}

	st := Stats{Without: map[string]int{}, Incomplete: map[string]int{}, Ended: maps.Clone(h.ended)}
	j := h.opts.Sampler.Join(last, now)
	opened := 0 // also of programs that tell nothing: they may begin to, and have goroutines
	for _, c := range all {
		if c.go_ != nil {
			opened++
		}
	}
	// Those that had no turn in the last look come first.
	first := max(0, slices.IndexFunc(all, func(c *candidate) bool { return c.process.Generation == h.skipped }))
	h.skipped = 0
	for _, c := range slices.Concat(all[first:], all[:first]) {
		if h.opts.NoGo || young(c.process, now) || h.opts.Keep != nil && !h.opts.Keep(c.process) {
			continue
		}
		if c.go_ != nil && time.Since(now) > h.opts.Interval/2+minLook {
			st.Skipped++
			h.skipped = cmp.Or(h.skipped, c.process.Generation)
			continue
		}
		if c.go_ == nil {
			if c.reason = h.find(c, opened, now); c.go_ != nil {
				opened++
			}
		}
		if c.go_ != nil {
			h.walk(c, j, &st)
		}
		if c.go_ != nil && !h.opts.NoGoroutines {
			h.count(c, j, &st)
		}
		switch {
		case c.reason != nil:
			st.Without[c.reason.Error()]++
			h.say(c.process, c.reason)
		case c.go_ != nil:
			st.Go++
		}
	}
	if h.jvms != nil {
		h.jvms.look(ctx, all, now)
		h.jvms.flush(last, now)
		h.jvms.without(h.say)
	}
	if h.native != nil {
		h.probed(known, j, now, &st)
	}
	h.mu.Lock()
	st.Walks += h.stats.Walks
	st.Partial += h.stats.Partial
	st.Skipped += h.stats.Skipped
	st.Walking += h.stats.Walking
	st.Counting += h.stats.Counting
	h.stats = st
	h.mu.Unlock()
	if b := j.Batch(); len(b.Profiles) > 0 {
		h.emit(b)
	}
}

// probed adds the profiles of probed allocators. That a Go program has none is no news: it was looked at already.
func (h *Heap) probed(known map[uint32]*candidate, j *sampler.Joiner, now time.Time, st *Stats) {
	if err := h.native.AddTo(j); err != nil {
		level.Warn(h.opts.Logger).Log("msg", "no memory profiles by allocator", "err", err)
		return
	}
	if own, err := h.native.Stats(); err == nil {
		st.Samples = &own
	}
	heaps, err := h.native.Heaps()
	if err != nil {
		level.Warn(h.opts.Logger).Log("msg", "no memory profiles by allocator", "err", err)
		return
	}
	for _, one := range heaps {
		c := known[one.Process.Generation]
		switch {
		case one.Err == nil:
			st.Native++
			if one.Incomplete != nil {
				addReason(st.Incomplete, one.Incomplete)
				h.log("memory profile is incomplete", one.Process, one.Incomplete)
			}
		case c == nil || c.isGo || young(c.process, now):
		default:
			c.native = one.Err
			st.Without[one.Err.Error()]++
			h.say(one.Process, one.Err)
		}
	}
}

// find looks for a Go runtime among the files that a process maps. The error says why a Go program has no profile.
func (h *Heap) find(c *candidate, already int, now time.Time) error {
	for _, m := range c.process.Mappings() {
		if m.File == (process.FileID{}) || c.looked[m.File] {
			continue
		}
		f, err := h.file(c.process, m, now)
		if err != nil {
			continue // it may be there at the next look; and if it is gone, so is the process
		}
		c.looked[m.File] = true
		c.isGo = c.isGo || f.layout != nil || f.err != nil
		switch {
		case f.err != nil:
			return f.err
		case f.layout == nil:
			continue
		case already >= h.opts.MaxGo:
			delete(c.looked, m.File)
			return fmt.Errorf("there are more than %d Go programs on this node", h.opts.MaxGo)
		}
		bias, ok := f.layout.Bias(m.Start, m.Offset)
		if !ok {
			delete(c.looked, m.File) // another mapping of it has the code
			continue
		}
		mem, err := goheap.OpenMemory(int(c.process.PID))
		if errors.Is(err, goheap.ErrGone) {
			return nil
		}
		if err != nil {
			delete(c.looked, m.File)
			return err
		}
		c.go_ = &goProcess{mem: mem, reader: goheap.NewReader(f.layout, mem, bias), whole: c.process.StartTime.After(h.begun)}
		return nil
	}
	return c.reason
}

// file returns what the file behind a mapping is.
func (h *Heap) file(p *process.Process, m process.Mapping, now time.Time) (*file, error) {
	if f := h.files[m.File]; f != nil {
		f.used = now
		return f, nil
	}
	r, err := h.opts.Open(p, m)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	f := &file{used: now}
	if f.layout, f.err = findLayout(r); errors.Is(f.err, goheap.ErrNotGo) {
		f.err = nil
	}
	if len(h.files) >= maxFiles {
		h.forgetFiles()
	}
	h.files[m.File] = f
	return f, nil
}

// forgetFiles drops the half that was not used for longest.
func (h *Heap) forgetFiles() {
	times := make([]time.Time, 0, len(h.files))
	for _, f := range h.files {
		times = append(times, f.used)
	}
	slices.SortFunc(times, time.Time.Compare)
	for id, f := range h.files {
		if !f.used.After(times[len(times)/2]) {
			delete(h.files, id)
		}
	}
}

// say logs once for each program why there is no profile.
func (h *Heap) say(p *process.Process, reason error) { h.log("no memory profile", p, reason) }

func (h *Heap) log(what string, p *process.Process, reason error) {
	key := p.Executable + "\x00" + reason.Error()
	if h.said[key] || len(h.said) >= maxSaid {
		return
	}
	h.said[key] = true
	level.Info(h.opts.Logger).Log("msg", what, "executable", p.Executable, "pid", p.PID, "reason", reason)
}

// addReason counts a reason, unless there are too many.
func addReason(to map[string]int, why error) {
	if text := why.Error(); to[text] > 0 || len(to) < maxSaid {
		to[text]++
	}
}

// Stats returns the numbers as of the last look, those of JVMs as of now.
func (h *Heap) Stats() Stats {
	h.mu.Lock()
	st := h.stats
	h.mu.Unlock()
	if h.jvms != nil {
		st.Without, st.Ended = cloned(st.Without), cloned(st.Ended)
		h.jvms.addTo(&st)
	}
	return st
}

// cloned is a copy that can be written to.
func cloned(m map[string]int) map[string]int {
	out := map[string]int{}
	maps.Copy(out, m)
	return out
}

// Reasons says why processes have no profile although they could have, those that have ended among them.
func (s Stats) Reasons() string {
	all := cloned(s.Ended)
	for reason, n := range s.Without {
		all[reason] += n
	}
	var out []string
	for reason, n := range all {
		out = append(out, fmt.Sprintf("%d: %s", n, reason))
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

func (c *candidate) close() {
	if c.go_ != nil {
		c.go_.mem.Close()
		c.go_ = nil
	}
}
