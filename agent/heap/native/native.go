// Package native profiles the heap of C, C++ and Rust programs: whose memory is live, and who allocates.
//
// Nothing in the programs changes. For each chosen process the functions of its allocators are found by name (malloc and
// its kin of glibc, musl, jemalloc, tcmalloc, mimalloc, in libraries or linked statically, with the prefixes that they are
// given), and a probe is put on each. One allocation per so many bytes is a sample (bpf/memory): it stands for
// 1/(1-e^(-size/rate)) allocations of its size, is known by its stack and address, and lives until its address is freed.
//
//	process ─▶ [Profiler] ─▶ functions of its files ─▶ probes ─▶ bpf/memory ─▶ ring ─▶ heap of the process ─▶ profiles
//
// What a process allocated before it was watched is not known, nor when it is freed: live memory is what was allocated
// since ([Heap.Since]) and is still there.
//
// A probe costs its process half a microsecond per call (docs/decisions/0020-probes-on-allocators.md), which is much for a
// malloc: hence processes are chosen. Probes belong to file descriptors of ours: whatever happens to us, the kernel takes them
// away, and the process goes on.
//
// What is lost is counted by reason and does not stay: a sample whose free was not told is gone when its address is
// allocated again, or when the kernel side has not known it at two sweeps.
//
// Not seen: memory that programs map themselves, allocators under other names, stripped static programs,
// jemalloc's xallocx, mimalloc's mi_heap functions.
package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"golang.org/x/sys/unix"

	"github.com/perfuse/perfuse/agent/process"
	"github.com/perfuse/perfuse/agent/sampler"
	"github.com/perfuse/perfuse/bpf/cpu"
	"github.com/perfuse/perfuse/bpf/memory"
	"github.com/perfuse/perfuse/profile"
)

// What is measured.
var (
	TypeAllocSpace   = profile.Type{Name: "memory", SampleType: "alloc_space", SampleUnit: "bytes", PeriodType: "space", PeriodUnit: "bytes"}
	TypeAllocObjects = profile.Type{Name: "memory", SampleType: "alloc_objects", SampleUnit: "count", PeriodType: "space", PeriodUnit: "bytes"}
	TypeInuseSpace   = profile.Type{Name: "memory", SampleType: "inuse_space", SampleUnit: "bytes", PeriodType: "space", PeriodUnit: "bytes"}
	TypeInuseObjects = profile.Type{Name: "memory", SampleType: "inuse_objects", SampleUnit: "count", PeriodType: "space", PeriodUnit: "bytes"}
)

// Options configures a Profiler. The zero value of each field but Programs, Open and Select is its default.
type Options struct {
	// Programs are the sampler's, whose unwind tables the stacks are walked by. Required; they outlive the Profiler.
	Programs *cpu.Programs
	// Open opens the file behind a mapping. Required.
	Open func(*process.Process, process.Mapping) (process.File, error)
	// Select chooses processes. It is asked once for each, from one goroutine. Required.
	Select func(*process.Process) bool
	// Rate is how many bytes there are to a sample on average. Default 512 KiB.
	Rate uint64
	// AllocOnly leaves out what is in use: frees have no probes, which halves the cost.
	AllocOnly bool
	// MaxProcesses bounds how many processes are watched at once. Default 64.
	MaxProcesses int
	// MaxLive bounds the samples that are live, of all processes. Default 65536: 32 GiB at the default rate.
	MaxLive uint32
	// MaxStacks bounds the stacks that hold memory, of all processes: what is beyond is one stack without
	// frames per process. Default 16384, some 500 bytes each.
	MaxStacks int
	// RingBytes is the size of the buffer for samples, a power of two. Default 1 MiB.
	RingBytes uint32
	// Poll is how often the buffer is read. Default 100 ms.
	Poll time.Duration
	// Sweep is how often live samples are compared with what the kernel side knows. Default 10 s.
	Sweep time.Duration
	// Logger gets one line per change of state. Default: none.
	Logger log.Logger

	// noSession does as on a kernel without uprobe sessions. looked is told when what a process maps was
	// looked at, and when it has ended.
	noSession bool
	looked    func(*process.Process)
}

// Profiler implements process.Observer: the process table must be told of it before it runs. Its methods are
// safe for concurrent use.
type Profiler struct {
	opts     Options
	programs *memory.Programs
	reader   *ringbuf.Reader

	// What the process table told, by generation.
	queue struct {
		sync.Mutex
		told map[uint32]*told
		todo []uint32
		wake chan struct{}
	}

	mu           sync.Mutex
	closed       bool
	watched      map[uint32]*watch // by generation
	byID         map[uint32]*watch
	lastID       uint32
	budget       budget
	files        map[process.FileID]*allocator
	malformed    uint64
	late         uint64 // records of processes that are no longer watched
	reclaimed    uint64 // of processes that have ended
	refused      uint64 // processes beyond MaxProcesses
	sweptUnknown map[memory.Key]uint64
	rec          ringbuf.Record
}

type told struct {
	process        *process.Process
	queued, exited bool
}

// allocator is what a file was found to have.
type allocator struct {
	hooks []hook
	err   error
}

// watch is a process whose allocators have probes.
type watch struct {
	id      uint32
	process *process.Process
	since   time.Time
	files   map[process.FileID]bool // that were looked at
	names   []string                // of those that have an allocator
	links   []io.Closer
	err     error // the first reason why a file has no probes
	heap    *heap
}

// New loads the kernel side. Its error wraps ebpf.ErrNotSupported where the kernel is too old, and says in one line what
// is missing.
func New(o Options) (*Profiler, error) {
	if o.Programs == nil || o.Open == nil || o.Select == nil {
		return nil, errors.New("profiling heaps: Programs, Open and Select must be given")
	}
	if o.Rate == 0 {
		o.Rate = memory.DefaultRate
	}
	if o.MaxProcesses == 0 {
		o.MaxProcesses = 64
	}
	if o.MaxLive == 0 {
		o.MaxLive = 65536
	}
	if o.MaxStacks == 0 {
		o.MaxStacks = 16384
	}
	if o.Poll == 0 {
		o.Poll = 100 * time.Millisecond
	}
	if o.Sweep == 0 {
		o.Sweep = 10 * time.Second
	}
	if o.Logger == nil {
		o.Logger = log.NewNopLogger()
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return nil, fmt.Errorf("reading how much memory there is: %w", err)
	}
	programs, err := memory.Load(o.Programs, memory.Options{
		// By its heuristics the kernel refuses only what is larger than all memory.
		ThrowLimit: info.Totalram * uint64(info.Unit) / 8,
		Rate:       o.Rate, Live: o.MaxLive, RingBytes: o.RingBytes, NoFrees: o.AllocOnly, NoSession: o.noSession,
	})
	if err != nil {
		return nil, sampler.Explain(err, nil)
	}
	p := &Profiler{
		opts:     o,
		programs: programs,
		watched:  map[uint32]*watch{},
		byID:     map[uint32]*watch{},
		budget:   budget{most: o.MaxStacks},
		files:    map[process.FileID]*allocator{},
	}
	p.queue.told = map[uint32]*told{}
	p.queue.wake = make(chan struct{}, 1)
	if p.reader, err = ringbuf.NewReader(programs.Samples); err != nil {
		programs.Close()
		return nil, fmt.Errorf("opening the ring of allocations: %w", err)
	}
	return p, nil
}

// Started implements process.Observer.
func (p *Profiler) Started(proc *process.Process, _ []process.Mapping) {
	if proc.Kernel {
		return
	}
	p.queue.Lock()
	defer p.queue.Unlock()
	p.queue.told[proc.Generation] = &told{process: proc}
	p.push(proc.Generation)
}

// Mapped implements process.Observer.
func (p *Profiler) Mapped(proc *process.Process, _ process.Mapping) {
	p.queue.Lock()
	defer p.queue.Unlock()
	p.push(proc.Generation)
}

// Exited implements process.Observer.
func (p *Profiler) Exited(proc *process.Process) {
	p.queue.Lock()
	defer p.queue.Unlock()
	if t := p.queue.told[proc.Generation]; t != nil {
		t.exited = true
		p.push(proc.Generation)
	}
}

// push queues a process unless it was not chosen.
func (p *Profiler) push(generation uint32) {
	t := p.queue.told[generation]
	if t == nil || t.queued {
		return
	}
	t.queued = true
	p.queue.todo = append(p.queue.todo, generation)
	select {
	case p.queue.wake <- struct{}{}:
	default:
	}
}

// Run puts probes on processes as they come and collects samples until ctx ends. Then it takes all probes away.
func (p *Profiler) Run(ctx context.Context) error {
	poll := time.NewTicker(p.opts.Poll)
	defer poll.Stop()
	sweep := time.NewTicker(p.opts.Sweep)
	defer sweep.Stop()
	defer p.detach()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.queue.wake:
			p.work(ctx)
		case <-poll.C:
			if err := p.read(); err != nil {
				return fmt.Errorf("reading the ring of allocations: %w", err)
			}
		case <-sweep.C:
			if err := p.sweep(); err != nil {
				return fmt.Errorf("reading the samples that are live: %w", err)
			}
		}
	}
}

// Close unloads the kernel side. Run must have returned.
func (p *Profiler) Close() error {
	p.detach()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	err := p.reader.Close()
	p.programs.Close()
	return err
}

func (p *Profiler) detach() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.watched {
		p.end(w)
	}
}

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
			if w != nil {
				_ = p.readLocked() // what it did last
				p.end(w)
			}
		case w == nil:
			if w = p.choose(t.process); w == nil {
				p.queue.Lock()
				delete(p.queue.told, generation)
				p.queue.Unlock()
			}
		}
		if w != nil && !exited {
			p.look(w)
		}
		p.mu.Unlock()
		if p.opts.looked != nil && w != nil {
			p.opts.looked(t.process)
		}
	}
}

// choose begins to watch a process, or returns nil.
func (p *Profiler) choose(proc *process.Process) *watch {
	if !p.opts.Select(proc) {
		return nil
	}
	if len(p.watched) >= p.opts.MaxProcesses {
		p.refused++
		if p.refused == 1 {
			level.Warn(p.opts.Logger).Log("msg", "more processes are chosen for heap profiles than can be watched at once; "+
				"choose fewer, or raise the bound", "bound", p.opts.MaxProcesses)
		}
		return nil
	}
	p.lastID++
	w := &watch{
		id:      p.lastID,
		process: proc,
		files:   map[process.FileID]bool{},
		heap:    newHeap(p.opts.Rate, &p.budget),
	}
	p.watched[proc.Generation] = w
	p.byID[w.id] = w
	return w
}

// end takes a process's probes away and forgets it.
func (p *Profiler) end(w *watch) {
	for _, l := range w.links {
		l.Close()
	}
	p.reclaimed += w.heap.reclaimed
	w.heap.close()
	delete(p.watched, w.process.Generation)
	delete(p.byID, w.id)
}

// read takes records off the ring.
func (p *Profiler) read() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.readLocked()
}

// longAgo makes the reader return when there is nothing more.
var longAgo = time.Unix(1, 0)

func (p *Profiler) readLocked() error {
	if len(p.watched) == 0 || p.closed {
		return nil
	}
	p.reader.SetDeadline(longAgo)
	for {
		err := p.reader.ReadInto(&p.rec)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
		p.accept(p.rec.RawSample)
	}
}

func (p *Profiler) accept(raw []byte) {
	r, ok := decode(raw)
	if !ok {
		p.malformed++
		return
	}
	w := p.byID[r.Event.Watch]
	switch {
	case w == nil:
		p.late++
	case r.alloc:
		w.heap.alloc(r.Event.Addr, r.Event.Id, r.Size, r.Untracked == 0, r.frames)
	default:
		w.heap.free(r.Event.Addr, r.Event.Id)
	}
}

// sweep finds samples whose free was not told, and what the kernel side remembers of processes that are gone.
func (p *Profiler) sweep() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.opts.AllocOnly || p.closed || len(p.watched) == 0 && p.lastID == 0 {
		return nil
	}
	byWatch := map[*watch]map[uint64]uint64{}
	for _, w := range p.watched {
		byWatch[w] = map[uint64]uint64{}
	}
	keys, values := make([]memory.Key, 1024), make([]memory.Live, 1024)
	unknown := map[memory.Key]uint64{}
	var gone []memory.Key
	var cursor ebpf.MapBatchCursor
	for {
		n, err := p.programs.Live.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			w := p.byID[keys[i].Watch]
			if w == nil {
				gone = append(gone, keys[i])
				continue
			}
			byWatch[w][keys[i].Addr] = values[i].Id
			if x := w.heap.live[keys[i].Addr]; x == nil || x.id != values[i].Id {
				unknown[keys[i]] = values[i].Id
			}
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			break
		}
		if errors.Is(err, unix.ENOSPC) { // a bucket holds more
			keys, values = make([]memory.Key, 2*len(keys)), make([]memory.Live, 2*len(values))
			continue
		}
		if err != nil {
			return err
		}
	}
	for w, kernel := range byWatch {
		w.heap.sweep(kernel)
	}
	// As with those that only we know: what is unknown to us twice in a row is no record on its way.
	for k, id := range unknown {
		if p.sweptUnknown[k] == id {
			gone = append(gone, k)
			delete(unknown, k)
		}
	}
	p.sweptUnknown = unknown
	for _, k := range gone {
		if err := p.programs.Live.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
	return nil
}

// Heap is what is known of a process's memory at a moment.
type Heap struct {
	Process *process.Process
	// Since is when the probes were there: what was allocated before is not in it.
	Since time.Time
	// Files have an allocator. If there is none, Err says why.
	Files []string
	Err   error
	Sites []Site
}

// Site is what one stack holds, estimated from its samples.
type Site struct {
	// Frames have the allocator's function first. None: all stacks that found no room.
	Frames []cpu.Frame
	// Inuse is what lives, Alloc what was allocated since the profiles of [Profiler.Collect] before.
	InuseBytes, InuseObjects, AllocBytes, AllocObjects float64
	// Samples are how many live samples there are: the standard error of InuseBytes is about its Samples'th part's
	// square root.
	Samples int
}

// Heaps returns the state of all processes that are watched, the eldest first.
func (p *Profiler) Heaps() ([]Heap, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.readLocked(); err != nil {
		return nil, fmt.Errorf("reading the ring of allocations: %w", err)
	}
	return p.heaps(), nil
}

func (p *Profiler) heaps() []Heap {
	out := make([]Heap, 0, len(p.watched))
	for _, w := range p.watched {
		h := Heap{Process: w.process, Since: w.since, Files: slices.Clone(w.names), Err: w.err}
		if len(h.Files) == 0 && h.Err == nil {
			h.Err = errNoAllocator
		}
		for key, s := range w.heap.stacks {
			h.Sites = append(h.Sites, Site{
				Frames:     parseFrames([]byte(key)),
				InuseBytes: s.inuseSize, InuseObjects: s.inuseObjects,
				AllocBytes: s.allocSize, AllocObjects: s.allocObjects,
				Samples: s.samples,
			})
		}
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b Heap) int { return int(a.Process.Generation) - int(b.Process.Generation) })
	return out
}

// Collect adds the profiles of all processes that are watched: what is in use now, and what was allocated since it was
// asked before. Values are estimates, rounded.
func (p *Profiler) Collect(j *sampler.Joiner) error {
	p.mu.Lock()
	err := p.readLocked()
	heaps := p.heaps()
	for _, w := range p.watched {
		w.heap.taken()
	}
	p.mu.Unlock()
	for _, h := range heaps {
		for i := range h.Sites {
			s := &h.Sites[i]
			if len(s.Frames) == 0 {
				s.Frames = []cpu.Frame{{Kind: cpu.FrameStopped, Addr: math.MaxUint64}}
			}
			for _, x := range []struct {
				typ   profile.Type
				value float64
			}{
				{TypeInuseSpace, s.InuseBytes},
				{TypeInuseObjects, s.InuseObjects},
				{TypeAllocSpace, s.AllocBytes},
				{TypeAllocObjects, s.AllocObjects},
			} {
				if n := int64(math.Round(x.value)); n > 0 && (!p.opts.AllocOnly || x.typ == TypeAllocSpace || x.typ == TypeAllocObjects) {
					j.Add(sampler.Sample{Process: h.Process, Type: x.typ, Period: int64(p.opts.Rate), Stack: s.Frames, Value: n})
				}
			}
		}
	}
	if err != nil {
		return fmt.Errorf("reading the ring of allocations: %w", err)
	}
	return nil
}

// Stats are the profiler's own numbers.
type Stats struct {
	// Drops counts what was lost since the start by reason; not all are samples.
	Drops map[string]uint64
	// Processes are watched, Refused were chosen and are not. Live samples, and Stacks that hold them.
	Processes, Live, Stacks int
	Refused                 uint64
	// Reclaimed samples were found to be gone without having been told, NoRoom had one stack too many, Late came after
	// their process, Malformed made no sense.
	Reclaimed, NoRoom, Late, Malformed uint64
	// Session says that the kernel has uprobe sessions, which make unsampled allocations cheaper.
	Session bool
}

// Stats reads them.
func (p *Profiler) Stats() (Stats, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return Stats{}, errors.New("the heap profiler is closed")
	}
	drops, err := p.programs.Losses()
	if err != nil {
		return Stats{}, err
	}
	st := Stats{
		Drops: map[string]uint64{}, Processes: len(p.watched), Stacks: p.budget.stacks, Refused: p.refused,
		Reclaimed: p.reclaimed, NoRoom: p.budget.refused, Late: p.late, Malformed: p.malformed,
		Session: p.programs.Session != nil,
	}
	for i, n := range drops {
		if i > 0 {
			st.Drops[memory.Drops[i]] = n
		}
	}
	for _, w := range p.watched {
		st.Live += len(w.heap.live)
		st.Reclaimed += w.heap.reclaimed
	}
	return st, nil
}
