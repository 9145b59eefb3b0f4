// Package heap collects the memory profiles of the processes on a node, and makes batches of them as the sampler does of
// its samples. What a runtime keeps by itself is read from outside: [goheap] for Go.
//
//	process table ─▶ Started, Mapped, Exited ─▶ which processes, which files
//	every interval: each process's profile ─▶ sampler.Joiner (labels, frames) ─▶ Sink
//
// What is in use is a level: it holds for the interval that ends when it is read. What was allocated is an amount: the
// difference to the time before, or, of a process that began under our eyes, to nothing.
//
// A process whose profile cannot be had is said to be so once, with the reason ([Heap.Stats]); it is never an empty
// profile.
package heap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"github.com/perfuse/perfuse/agent/heap/goheap"
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
	// Sink receives the batches, from one goroutine. It owns them.
	Sink func(*profile.Batch)
	// Logger gets one line for each program whose profile cannot be had. Default: none.
	Logger log.Logger
}

// Heap implements process.Observer: the process table must be told of it before it runs.
type Heap struct {
	opts  Options
	begun time.Time

	mu        sync.Mutex
	processes map[uint32]*candidate // by generation
	files     map[process.FileID]*file
	stats     Stats
	said      map[string]bool // what was logged
}

// candidate is a process that may have a memory profile.
type candidate struct {
	process *process.Process
	// Owned by the goroutine of Run.
	go_    *goProcess
	looked map[process.FileID]bool // files of it that were tried
	reason error                   // why it has no profile although it could
}

// file is what an executable file was found to be. It does not change.
type file struct {
	layout *goheap.Layout // nil: it has no Go runtime, or not one that we know
	err    error          // why, if it has one
	used   time.Time
}

// Stats are the room's own numbers.
type Stats struct {
	// Go counts processes of which the last look has found a memory profile.
	Go int `json:"go"`
	// Walks and their time; Partial ones met a limit or a collection.
	Walks, Partial uint64
	Walking        time.Duration
	// Without counts the processes that have no profile although they are Go programs, by reason.
	Without map[string]int `json:"without,omitempty"`
}

// Limits. A file's layout takes a few hundred bytes, a process two descriptors and its buckets' stacks.
const (
	maxFiles       = 16384
	maxGoProcesses = 2048
	maxSaid        = 1000
)

// New returns a Heap that has not looked yet.
func New(o Options) *Heap {
	if o.Interval == 0 {
		o.Interval = 15 * time.Second
	}
	if o.Logger == nil {
		o.Logger = log.NewNopLogger()
	}
	return &Heap{
		opts:      o,
		begun:     time.Now(),
		processes: map[uint32]*candidate{},
		files:     map[process.FileID]*file{},
		said:      map[string]bool{},
	}
}

// Started implements process.Observer.
func (h *Heap) Started(p *process.Process, _ []process.Mapping) {
	if p.Kernel {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.processes[p.Generation] = &candidate{process: p, looked: map[process.FileID]bool{}}
}

// Mapped implements process.Observer. What is mapped is asked for when it is looked at.
func (h *Heap) Mapped(*process.Process, process.Mapping) {}

// Exited implements process.Observer.
func (h *Heap) Exited(p *process.Process) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.processes, p.Generation)
}

// Run looks every interval until ctx ends, and then once more.
func (h *Heap) Run(ctx context.Context) error {
	tick := time.NewTicker(h.opts.Interval)
	defer tick.Stop()
	known := map[uint32]*candidate{}
	defer func() {
		for _, c := range known {
			c.close()
		}
	}()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		now := time.Now()
		h.look(known, last, now)
		last = now
		if ctx.Err() != nil {
			return nil
		}
	}
}

// look reads every process's profile. known are the processes of the look before.
func (h *Heap) look(known map[uint32]*candidate, last, now time.Time) {
	h.mu.Lock()
	all := make([]*candidate, 0, len(h.processes))
	for g, c := range h.processes {
		all = append(all, c)
		known[g] = c
	}
	for g, c := range known {
		if h.processes[g] == nil {
			c.close()
			delete(known, g)
		}
	}
	h.mu.Unlock()
	slices.SortFunc(all, func(a, b *candidate) int { return int(int64(a.process.Generation) - int64(b.process.Generation)) })

	st := Stats{Without: map[string]int{}}
	j := h.opts.Sampler.Join(last, now)
	for _, c := range all {
		if h.opts.Keep != nil && !h.opts.Keep(c.process) {
			continue
		}
		if c.go_ == nil {
			c.reason = h.find(c, st.Go, now)
		}
		if c.go_ != nil {
			h.walk(c, j, &st)
		}
		switch {
		case c.reason != nil:
			st.Without[c.reason.Error()]++
			h.say(c)
		case c.go_ != nil:
			st.Go++
		}
	}
	h.mu.Lock()
	st.Walks += h.stats.Walks
	st.Partial += h.stats.Partial
	st.Walking += h.stats.Walking
	h.stats = st
	h.mu.Unlock()
	if b := j.Batch(); len(b.Profiles) > 0 {
		h.opts.Sink(b)
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
		switch {
		case f.err != nil:
			return f.err
		case f.layout == nil:
			continue
		case already >= maxGoProcesses:
			return fmt.Errorf("there are more than %d Go programs on this node", maxGoProcesses)
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
func (h *Heap) say(c *candidate) {
	key := c.process.Executable + "\x00" + c.reason.Error()
	if h.said[key] || len(h.said) >= maxSaid {
		return
	}
	h.said[key] = true
	level.Info(h.opts.Logger).Log("msg", "no memory profile", "executable", c.process.Executable, "pid", c.process.PID, "reason", c.reason)
}

// Stats returns the numbers as of the last look.
func (h *Heap) Stats() Stats {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stats
}

// Reasons says, by the program's path, why processes have no profile although they could have, as of the last look.
func (s Stats) Reasons() string {
	var out []string
	for reason, n := range s.Without {
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
