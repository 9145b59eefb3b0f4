package native

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/go-kit/log/level"

	"github.com/perfuse/perfuse/agent/process"
	"github.com/perfuse/perfuse/bpf/memory"
)

// watch is a process that was chosen:
//
//	waiting ──a place is free──▶ watched ──exit──▶ its probes are taken away ──▶ the place is free
//	   ▲                           │
//	   └──no place── chosen        └─ too busy, or not safe ──▶ stopped: it keeps the reason, not the place
type watch struct {
	id      uint32
	process *process.Process
	since   time.Time
	files   map[process.FileID]bool // that were looked at
	names   []string                // of those that have an allocator
	links   []io.Closer
	// err is the first reason why a file has no probes, incomplete why those that there are do not tell everything.
	err, incomplete error
	heap            *heap
	stopped         bool
	// How many calls came by its probes; base are those of others before it. The rate is judged from when it was last.
	base, calls, judgedCalls uint64
	judged                   time.Time
}

// maxWaiting bounds the processes that wait for a place, and those that were stopped.
const maxWaiting = 4096

// work does what was queued.
func (p *Profiler) work(ctx context.Context) {
	for ctx.Err() == nil {
		p.queue.Lock()
		if len(p.queue.todo) == 0 {
			p.queue.todo = nil
			p.queue.Unlock()
			return
		}
		generation := p.queue.todo[0]
		p.queue.todo = p.queue.todo[1:]
		t := p.queue.told[generation]
		if t == nil { // it exited while it was being looked at, and was not chosen
			p.queue.Unlock()
			continue
		}
		t.queued = false
		exited := t.exited
		if exited {
			delete(p.queue.told, generation)
		}
		p.queue.Unlock()

		p.mu.Lock()
		w := p.watched[generation]
		switch {
		case exited:
			delete(p.waiting, generation)
			if w != nil {
				_ = p.readLocked() // what it did last
				p.end(w)
			}
		case w == nil:
			if w = p.choose(t); w == nil && p.waiting[generation] == nil {
				p.queue.Lock()
				delete(p.queue.told, generation)
				p.queue.Unlock()
			}
		}
		if w != nil && !exited {
			p.look(ctx, w)
		}
		p.mu.Unlock()
		if p.opts.looked != nil && (w != nil || t.chosen) {
			p.opts.looked(t.process)
		}
	}
}

// choose begins to watch a process, or returns nil.
func (p *Profiler) choose(t *told) *watch {
	proc := t.process
	t.chosen = t.chosen || p.opts.Select(proc)
	if !t.chosen {
		return nil
	}
	if p.places() <= 0 {
		p.wait(proc)
		return nil
	}
	delete(p.waiting, proc.Generation)
	// A number whose place is free: those of others come back after memory.Watches.
	p.lastID++
	for p.taken(p.lastID) {
		p.lastID++
	}
	w := &watch{
		id:      p.lastID,
		process: proc,
		files:   map[process.FileID]bool{},
		heap:    newHeap(p.opts.Rate, &p.budget),
		judged:  time.Now(),
	}
	var err error
	if w.base, err = p.programs.Calls(w.id); err == nil {
		err = p.programs.Watch(w.id)
	}
	if err != nil {
		level.Error(p.opts.Logger).Log("msg", "a process is not watched", "pid", proc.PID, "err", err)
		return nil
	}
	p.watched[proc.Generation] = w
	p.byID[w.id] = w
	return w
}

func (p *Profiler) bound() int { return min(p.opts.MaxProcesses, memory.Watches/2) }

// places is how many processes more can be watched.
func (p *Profiler) places() int {
	return min(p.bound()-len(p.byID)-p.closing, p.bound()+maxWaiting-len(p.watched))
}

func (p *Profiler) errPlaces() error {
	return fmt.Errorf("more processes are chosen for heap profiles than the %d that can have probes at once; choose fewer by the selector", p.bound())
}

func (p *Profiler) wait(proc *process.Process) {
	if p.waiting[proc.Generation] != nil {
		return
	}
	p.refused++
	if p.refused == 1 {
		level.Warn(p.opts.Logger).Log("msg", "a process waits for its heap profile", "pid", proc.PID, "err", p.errPlaces())
	}
	if len(p.waiting) < maxWaiting {
		p.waiting[proc.Generation] = proc
	}
}

// retry queues those that have waited longest for the places that there are.
func (p *Profiler) retry() {
	n := min(p.places(), len(p.waiting))
	if n <= 0 {
		return
	}
	p.queue.Lock()
	defer p.queue.Unlock()
	for _, generation := range slices.Sorted(maps.Keys(p.waiting))[:n] {
		p.push(generation)
	}
}

// taken says whether a process that is watched has the place of a number. 0 stands for none.
func (p *Profiler) taken(id uint32) bool {
	if id == 0 {
		return true
	}
	for other := range p.byID {
		if other%memory.Watches == id%memory.Watches {
			return true
		}
	}
	return false
}

// end takes a process's probes away and forgets it, but for what it has allocated last.
func (p *Profiler) end(w *watch) {
	delete(p.watched, w.process.Generation)
	if !w.stopped {
		p.unhook(w)
	}
	p.reclaimed += w.heap.reclaimed
	if p.ended = append(p.ended, w); len(p.ended) > p.opts.MaxProcesses {
		p.ended[0].heap.close()
		p.ended = p.ended[1:]
	}
}

// stop takes a process's probes away for a reason, and what was known of its heap.
func (p *Profiler) stop(w *watch, why error) {
	p.unhook(w)
	p.reclaimed += w.heap.reclaimed
	w.heap.close()
	w.heap = newHeap(p.opts.Rate, &p.budget)
	w.names, w.since, w.incomplete, w.stopped = nil, time.Time{}, nil, true
	w.err = why
	level.Warn(p.opts.Logger).Log("msg", "heap is not profiled", "pid", w.process.PID, "comm", w.process.Comm, "err", why)
}

// unhook takes a process's probes away, in the background: each that has a descriptor of its own waits for a grace period of the
// kernel, some 100 ms, and closing several at once makes that longer, not shorter. Its number is free, its place only when
// they are gone.
func (p *Profiler) unhook(w *watch) {
	if err := p.programs.Unwatch(w.id); err != nil {
		level.Error(p.opts.Logger).Log("msg", "probes are heeded until they are gone", "pid", w.process.PID, "err", err)
	}
	delete(p.byID, w.id)
	if len(w.links) == 0 {
		p.retry()
		return
	}
	links := w.links
	w.links = nil
	p.closing++
	p.closers.Go(func() {
		p.oneByOne.Lock()
		for _, l := range links {
			l.Close()
		}
		p.oneByOne.Unlock()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.closing--
		p.retry()
	})
}

var errBusy = errors.New("it allocates so often that probes would cost it too much")

// judgeTime is over how long a process's calls are counted at least before they are found to be too many.
const judgeTime = 5 * time.Second

// count counts the calls of a process, and takes its probes away if they are too many.
func (p *Profiler) count(w *watch) error {
	if w.stopped {
		return nil
	}
	n, err := p.programs.Calls(w.id)
	if err != nil {
		return err
	}
	w.calls = n - w.base
	now := time.Now()
	seconds := now.Sub(w.judged)
	if seconds < max(p.opts.Sweep/2, judgeTime) {
		return nil
	}
	rate := float64(w.calls-w.judgedCalls) / seconds.Seconds()
	// At each call the kernel asks the probes of all processes that have one at the same place, and that takes its time.
	rate *= 1 + float64(len(p.byID)-1)/12
	w.judged, w.judgedCalls = now, w.calls
	if p.opts.MaxCalls > 0 && rate > p.opts.MaxCalls {
		p.stop(w, fmt.Errorf("%w: more than %.0f calls per second", errBusy, p.opts.MaxCalls))
	}
	return nil
}

// reasons says why there is no profile, or else why it does not say everything.
func (w *watch) reasons() (err, incomplete error) {
	if len(w.names) == 0 {
		return cmp.Or(w.err, errNoAllocator), nil
	}
	return nil, cmp.Or(w.incomplete, w.err)
}
