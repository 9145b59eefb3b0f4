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
// A probe costs its process half a microsecond per call (docs/decisions/0021-probes-on-allocators.md), which is much for a
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
	"cmp"
	"context"
	"errors"
	"fmt"
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
	// MaxProcesses bounds how many processes have probes at once, those included whose probes are being taken away. Others
	// wait for a place. Default 64, at most 512.
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
	// MaxCalls is how many calls of its allocators per second, averaged over half of Sweep and five seconds at least, make us
	// leave a process alone: each takes half a microsecond, and a twelfth of that more for each other process that is watched.
	// Default 500 000 if there is no other, three tenths of a processor; negative: no bound.
	MaxCalls float64
	// Logger gets one line per change of state. Default: none.
	Logger log.Logger

	// noSession does as on a kernel without uprobe sessions, noMulti as on one before 6.6. looked is told when what a process maps was
	// looked at, and when it has ended.
	noSession, noMulti bool
	looked             func(*process.Process)
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

	// What takes probes away, one process's at a time.
	closers  sync.WaitGroup
	oneByOne sync.Mutex
	detached sync.Once

	mu           sync.Mutex
	closed       bool
	watched      map[uint32]*watch           // by generation
	waiting      map[uint32]*process.Process // those that wait for a place, likewise
	byID         map[uint32]*watch           // without those that were stopped
	closing      int                         // processes whose probes are being taken away
	lastID       uint32
	budget       budget
	files        map[process.FileID]*allocator
	malformed    uint64
	late         uint64   // records of processes that are no longer watched
	reclaimed    uint64   // of processes that have ended
	refused      uint64   // processes that had to wait for a place
	ended        []*watch // whose last allocations nobody has asked for yet
	sweptUnknown map[memory.Key]uint64
	rec          ringbuf.Record
}

type told struct {
	process        *process.Process
	queued, exited bool
	chosen         bool // owned by Run's goroutine
}

// allocator is what a file was found to have.
type allocator struct {
	hooks   []hook
	unwinds string // what it is that takes stack traces within allocations
	err     error
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
	if o.MaxCalls == 0 {
		o.MaxCalls = 500_000
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
		Rate:       o.Rate, Live: o.MaxLive, RingBytes: o.RingBytes, NoFrees: o.AllocOnly, NoSession: o.noSession, NoMulti: o.noMulti,
	})
	if err != nil {
		return nil, sampler.Explain(err, nil)
	}
	p := &Profiler{
		opts:     o,
		programs: programs,
		watched:  map[uint32]*watch{},
		waiting:  map[uint32]*process.Process{},
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

// closeTime bounds what Close and the end of Run wait for probes to be gone. They are not heeded any more, and go with us.
const closeTime = 2 * time.Second

func (p *Profiler) detach() {
	p.detached.Do(func() {
		p.mu.Lock()
		clear(p.waiting)
		for _, w := range p.watched {
			p.end(w)
		}
		p.mu.Unlock()
		gone := make(chan struct{})
		go func() {
			p.closers.Wait()
			close(gone)
		}()
		select {
		case <-gone:
		case <-time.After(closeTime):
			level.Info(p.opts.Logger).Log("msg", "the kernel goes on taking probes off allocators, which on this one takes long")
		}
	})
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
	if p.closed || p.lastID == 0 {
		return nil
	}
	for _, w := range p.watched {
		if err := p.count(w); err != nil {
			return err
		}
	}
	if p.opts.AllocOnly {
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
	// Files have an allocator with probes. Err says why there are none: then there is no profile, and else Err is nil.
	Files []string
	Err   error
	// Incomplete says what of it is not seen.
	Incomplete error
	// Calls came by the probes so far, as of the last sweep: each has cost half a microsecond.
	Calls uint64
	Sites []Site
}

// Site is what one stack holds, estimated from its samples.
type Site struct {
	// Frames have the allocator's function first. None: all stacks that found no room.
	Frames []cpu.Frame
	// Inuse is what lives, Alloc what was allocated since the profiles of [Profiler.AddTo] before.
	InuseBytes, InuseObjects, AllocBytes, AllocObjects float64
	// Samples are how many live samples there are: the standard error of InuseBytes is about 1/sqrt(Samples) of it.
	Samples int
}

// Heaps returns the state of all processes that are watched or wait for it, the eldest first.
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
		out = append(out, w.state())
	}
	for _, proc := range p.waiting {
		out = append(out, Heap{Process: proc, Err: p.errPlaces()})
	}
	slices.SortFunc(out, func(a, b Heap) int { return cmp.Compare(a.Process.Generation, b.Process.Generation) })
	return out
}

func (w *watch) state() Heap {
	h := Heap{Process: w.process, Since: w.since, Files: slices.Clone(w.names), Calls: w.calls}
	h.Err, h.Incomplete = w.reasons()
	for key, s := range w.heap.stacks {
		h.Sites = append(h.Sites, Site{
			Frames:     parseFrames([]byte(key)),
			InuseBytes: s.inuseSize, InuseObjects: s.inuseObjects,
			AllocBytes: s.allocSize, AllocObjects: s.allocObjects,
			Samples: s.samples,
		})
	}
	return h
}

// AddTo adds the profiles of all processes that are watched: what is in use now, and what was allocated since it was
// asked before, also by those that have ended. Values are estimates, rounded.
func (p *Profiler) AddTo(j *sampler.Joiner) error {
	p.mu.Lock()
	err := p.readLocked()
	heaps := p.heaps()
	living := len(heaps)
	for _, w := range p.watched {
		w.heap.taken()
	}
	for _, w := range p.ended {
		h := w.state()
		for i := range h.Sites {
			h.Sites[i].InuseBytes, h.Sites[i].InuseObjects = 0, 0
		}
		heaps = append(heaps, h)
		w.heap.close()
	}
	p.ended = nil
	p.mu.Unlock()
	for i, h := range heaps {
		if i < living && h.Err == nil && !p.opts.AllocOnly {
			j.Touch(h.Process, heapName, profile.TypeInuseSpace, profile.TypeInuseObjects)
		}
		for i := range h.Sites {
			p.addSite(j, h.Process, &h.Sites[i])
		}
	}
	if err != nil {
		return fmt.Errorf("reading the ring of allocations: %w", err)
	}
	return nil
}

// heapName tells these profiles from those of runtimes that have a heap of their own.
const heapName = "native"

func (p *Profiler) addSite(j *sampler.Joiner, proc *process.Process, s *Site) {
	frames := s.Frames
	if len(frames) == 0 {
		frames = []cpu.Frame{{Kind: cpu.FrameStopped, Addr: math.MaxUint64}}
	}
	add := func(t profile.Type, v float64) {
		if n := int64(math.Round(v)); n > 0 {
			j.Add(sampler.Sample{Process: proc, Heap: heapName, Type: t, Period: int64(p.opts.Rate), Stack: frames, Value: n})
		}
	}
	add(profile.TypeAllocSpace, s.AllocBytes)
	add(profile.TypeAllocObjects, s.AllocObjects)
	add(profile.TypeInuseSpace, s.InuseBytes)
	add(profile.TypeInuseObjects, s.InuseObjects)
}
