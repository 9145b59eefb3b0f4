package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"

	"github.com/perfuse/perfuse/agent/heap"
	"github.com/perfuse/perfuse/agent/heap/hotspot"
	"github.com/perfuse/perfuse/agent/process"
	"github.com/perfuse/perfuse/agent/sampler"
	"github.com/perfuse/perfuse/bpf/cpu"
	"github.com/perfuse/perfuse/bpf/memory"
	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/symbolize"
	"github.com/perfuse/perfuse/symbolize/debuginfo"
)

// MaxSampleBytes bounds RecordOptions.SampleBytes.
const MaxSampleBytes = memory.MaxRate

// RecordOptions says what to record. The zero value records the whole machine until the context ends.
type RecordOptions struct {
	// Rate is samples per second and CPU. Default 97.
	Rate int
	// OffCPU also records what threads wait for.
	OffCPU bool
	// Wakers also records who ends the waits. It wants OffCPU.
	Wakers bool
	// Heap also records memory profiles: what was in use when the recording ended, or at most a second before a process
	// did, and what was allocated. Of Go programs all are looked at, of others those that PID or Command name.
	Heap bool
	// Goroutines counts those of Go programs by stack, at the end.
	Goroutines bool
	// SampleBytes is how many bytes C, C++ and Rust programs allocate to a sample, on average. Default 64 KiB.
	SampleBytes uint64
	// JavaCPU also asks JVMs, of those that PID or Command name, for CPU time by method.
	JavaCPU bool
	// PID restricts the recording to one process and what it starts from now on.
	PID int
	// Command is started once everything is ready, and recorded with all that it starts. The recording
	// ends with it. It inherits standard input and error, and writes to Stdout.
	Command []string
	// Stdout is the command's standard output. Default: the caller's.
	Stdout *os.File
	// Signals that arrive here are passed on to the command.
	Signals <-chan os.Signal
	// Duration bounds the recording. Default: none.
	Duration time.Duration
	// Symbols names native frames; it is told of each executable file. Default: they stay addresses.
	Symbols *debuginfo.Local
	// Logger: default none.
	Logger log.Logger
	// Progress is called once a second with the samples so far. Default: none.
	Progress func(samples int64, elapsed time.Duration)
}

// Recording is what was seen.
type Recording struct {
	// Batch has two profiles per process and thread name, CPU time and samples, and one each of page faults and, if
	// asked for, of waits by reason.
	Batch *profile.Batch
	// Samples is how many were taken of the CPU, Lost how many of all could not be kept.
	Samples, Lost int64
	// Stacks counts user stacks by how they ended ("complete" or the reason), over the whole machine.
	Stacks map[string]uint64
	// Duration is how long it took.
	Duration time.Duration
	// ExitCode is the command's, -1 if there was none or it was killed.
	ExitCode int
	// Event is what drove the sampling.
	Event string
	// Heap says of which processes there is a memory profile, and why of others not.
	Heap heap.Stats
}

// Record profiles without a server.
func Record(ctx context.Context, o RecordOptions) (*Recording, error) {
	if o.Rate == 0 {
		o.Rate = 97
	}
	if o.PID != 0 && len(o.Command) > 0 {
		return nil, errors.New("recording: give a process or a command, not both")
	}
	if o.PID != 0 {
		if err := syscall.Kill(o.PID, 0); errors.Is(err, syscall.ESRCH) {
			return nil, fmt.Errorf("recording: there is no process %d", o.PID)
		}
	}
	if o.Logger == nil {
		o.Logger = log.NewNopLogger()
	}
	r := &recorder{opts: o}
	if o.PID != 0 {
		r.family = newFamily(process.PID(o.PID), 0)
	} else if len(o.Command) > 0 {
		r.family = newFamily(0, process.PID(os.Getpid()))
	}
	return r.run(ctx)
}

type recorder struct {
	opts    RecordOptions
	family  *family // nil: everything
	sampler *sampler.Sampler
	heap    *heap.Heap // nil: not asked for

	mu      sync.Mutex
	batches []*profile.Batch
	levels  map[state]*profile.Batch
	samples int64
}

// state is a series of which only the last value counts.
type state struct {
	typ    profile.Type
	labels string
}

func (r *recorder) run(ctx context.Context) (*Recording, error) {
	late, lateHeap := &lateObserver{}, &lateObserver{}
	var observers []process.Observer
	if r.family != nil {
		observers = append(observers, r.family) // the others ask it
	}
	observers = append(observers, late)
	if r.wantsHeap() {
		observers = append(observers, lateHeap)
	}
	table, err := process.New(process.Options{Observers: observers, Logger: r.opts.Logger})
	if err != nil {
		return nil, sampler.Explain(err, nil)
	}
	defer table.Close()
	o := sampler.Options{
		Rate:     r.opts.Rate,
		Interval: time.Second,
		OffCPU:   r.opts.OffCPU,
		Wakers:   r.opts.Wakers,
		// Someone waits for the answer, and it is short.
		FaultRate: 499,
		Draws:     1000,
		BPFFS:     cpu.DefaultBPFFS,
		Open:      table.Open,
		Lookup:    table.Lookup,
		Sync:      table.Sync,
		Sink:      r.accept,
		Logger:    r.opts.Logger,
	}
	if r.family != nil {
		o.Keep = r.family.has
	}
	if r.opts.Symbols != nil {
		o.Found = r.found
	}
	if r.sampler, err = sampler.New(o); err != nil {
		return nil, err
	}
	defer r.sampler.Close()
	if r.opts.OffCPU {
		if err := r.sampler.OffCPU(); err != nil {
			return nil, fmt.Errorf("recording waits: %w", err)
		}
	}
	late.Observer = r.sampler
	if r.wantsHeap() {
		r.heap = r.newHeap(table)
		defer r.heap.Close()
		lateHeap.Observer = r.heap
	}

	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var wait sync.WaitGroup
	tableCtx, stopTable := context.WithCancel(context.WithoutCancel(ctx))
	defer wait.Wait()
	defer stopTable()
	wait.Go(func() {
		if err := process.Ahead(func() error { return table.Run(tableCtx) }); err != nil {
			stop(err)
		}
	})
	select {
	case <-table.Scanned():
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}

	rec := &Recording{ExitCode: -1}
	sampled := make(chan error, 1)
	sampleCtx, stopSampling := context.WithCancel(ctx)
	defer stopSampling()
	go func() { sampled <- r.sampler.Run(sampleCtx) }()
	// What runs already has its unwind tables before the command starts.
	settling, cancel := context.WithTimeout(ctx, 10*time.Second)
	if err := r.sampler.Settle(settling); err != nil {
		level.Info(r.opts.Logger).Log("msg", "starting before all unwind tables are ready")
	}
	cancel()
	var looking sync.WaitGroup
	if r.heap != nil {
		looking.Go(func() { _ = r.heap.Run(sampleCtx) }) // it has no errors but those in its statistics
	}
	r.sampler.Restart(ctx) // what was counted until now is not of the recording
	start := time.Now()
	err = r.until(ctx, start, rec, sampled)
	stopSampling()
	looking.Wait()
	if err == nil {
		err = <-sampled
	}
	if err != nil {
		return nil, err
	}
	rec.Duration = time.Since(start)
	return rec, r.finish(context.WithoutCancel(ctx), rec)
}

// jvmInterval is how old what is known of a JVM can be when it ends before the recording does. Each look at what lives
// is a full collection.
const jvmInterval = 5 * time.Second

// wantsHeap: of processes that were named, JVMs also tell the names of their methods.
func (r *recorder) wantsHeap() bool {
	return r.opts.Heap || r.opts.JavaCPU || r.opts.Goroutines || r.family != nil
}

// newHeap chooses whose memory is recorded.
func (r *recorder) newHeap(table *process.Table) *heap.Heap {
	o := heap.Options{
		Interval: time.Second, Sampler: r.sampler, Open: table.Open, NoGo: !r.opts.Heap && !r.opts.Goroutines, NoGoroutines: !r.opts.Goroutines, Sink: r.acceptHeap, Logger: r.opts.Logger,
	}
	if r.family == nil {
		return heap.New(o)
	}
	o.Keep = r.family.has
	o.JVM = heap.JVM{Select: r.family.has, AlwaysCPU: true, Options: hotspot.Options{
		Allocations: r.opts.Heap, Live: r.opts.Heap, CPU: r.opts.JavaCPU,
		Interval: jvmInterval,
	}}
	if r.opts.Heap {
		o.Native = heap.Native{
			Select: r.family.has, MaxCalls: -1, Rate: cmp.Or(r.opts.SampleBytes, 64<<10),
			// Programs that are recorded often do all of their work at once, and what is lost of it should not stay long.
			RingBytes: 32 << 20, Sweep: 500 * time.Millisecond,
		}
	}
	return heap.New(o)
}

// errDone ends a recording that went as planned.
var errDone = errors.New("done")

// until waits for the end of the recording: the command's, the duration's or the caller's.
func (r *recorder) until(ctx context.Context, start time.Time, rec *Recording, sampled <-chan error) error {
	var exited chan error
	if len(r.opts.Command) > 0 {
		cmd := exec.Command(r.opts.Command[0], r.opts.Command[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, cmp.Or(r.opts.Stdout, os.Stdout), os.Stderr
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("starting the command: %w", err)
		}
		exited = make(chan error, 1)
		go func() { exited <- cmd.Wait() }()
		defer func() { rec.ExitCode = cmd.ProcessState.ExitCode() }()
		defer func() {
			if cmd.ProcessState == nil {
				_ = cmd.Process.Kill()
				<-exited
			}
		}()
		defer r.forward(cmd)()
	}
	var timeout <-chan time.Time
	if r.opts.Duration > 0 {
		t := time.NewTimer(r.opts.Duration)
		defer t.Stop()
		timeout = t.C
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		case <-timeout:
			return nil
		case err := <-exited:
			var failed *exec.ExitError
			if err != nil && !errors.As(err, &failed) {
				return fmt.Errorf("running the command: %w", err)
			}
			exited = nil
			return nil
		case err := <-sampled:
			if err == nil {
				err = errDone
			}
			return err
		case <-tick.C:
			if r.opts.Progress != nil {
				r.mu.Lock()
				n := r.samples
				r.mu.Unlock()
				r.opts.Progress(n, time.Since(start))
			}
		}
	}
}

// forward passes signals on to the command, until the returned function is called.
func (r *recorder) forward(cmd *exec.Cmd) (stop func()) {
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case s, ok := <-r.opts.Signals:
				if !ok {
					return
				}
				_ = cmd.Process.Signal(s)
			}
		}
	}()
	return func() { close(done) }
}

// found keeps a file open for the end of the recording: its process will be gone by then, perhaps its path too.
func (r *recorder) found(buildID string, p *process.Process, m process.Mapping, f process.File) {
	var err error
	if fd, ok := f.(interface{ Fd() uintptr }); ok {
		var h *os.File
		if h, err = os.Open(fmt.Sprintf("/proc/self/fd/%d", fd.Fd())); err == nil {
			err = r.opts.Symbols.AddFile(buildID, m.Path, fmt.Sprintf("/proc/%d/root", p.PID), h)
		}
	} else {
		content := make([]byte, f.Size())
		if _, err = f.ReadAt(content, 0); err == nil {
			err = r.opts.Symbols.AddBytes(buildID, m.Path, content)
		}
	}
	if err != nil {
		level.Debug(r.opts.Logger).Log("msg", "a file stays without names", "file", m.Path, "err", err)
	}
}

func (r *recorder) accept(b *profile.Batch) {
	var n int64
	for i := range b.Profiles {
		if b.Profiles[i].Type == profile.TypeCPUSamples {
			n += b.Profiles[i].Total()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.batches = append(r.batches, b)
	r.samples += n
}

// acceptHeap takes memory profiles: amounts add up, of what is in use the last value counts.
func (r *recorder) acceptHeap(b *profile.Batch) {
	amounts := &profile.Batch{Dictionary: b.Dictionary}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.levels == nil {
		r.levels = map[state]*profile.Batch{}
	}
	for _, p := range b.Profiles {
		if p.Type.Level() {
			r.levels[state{p.Type, p.Labels.String()}] = &profile.Batch{Dictionary: b.Dictionary, Profiles: []profile.Profile{p}}
		} else {
			amounts.Profiles = append(amounts.Profiles, p)
		}
	}
	r.batches = append(r.batches, amounts)
}

func (r *recorder) finish(ctx context.Context, rec *Recording) error {
	rec.Event = r.sampler.Event()
	rec.Samples = r.samples
	stats, err := r.sampler.Stats()
	if err != nil {
		return err
	}
	rec.Stacks = stats.Stacks
	for _, n := range stats.Drops {
		rec.Lost += int64(n)
	}
	rec.Lost += int64(stats.Malformed)
	if r.heap != nil {
		rec.Heap = r.heap.Stats()
	}
	rec.Batch = profile.Merge(slices.AppendSeq(r.batches, maps.Values(r.levels))...)
	if r.opts.Symbols != nil {
		// A file that cannot be read costs names, not the recording.
		if err := symbolize.Batch(ctx, r.opts.Symbols, rec.Batch); err != nil {
			if ctx.Err() != nil {
				return err
			}
			level.Warn(r.opts.Logger).Log("msg", "some files cannot be symbolized", "err", err)
		}
	}
	withCPU(rec.Batch)
	return nil
}

// withCPU puts a profile of CPU time before each profile of samples.
func withCPU(b *profile.Batch) {
	out := make([]profile.Profile, 0, 2*len(b.Profiles))
	for _, p := range b.Profiles {
		if p.Type != profile.TypeCPUSamples {
			out = append(out, p)
			continue
		}
		t := p
		t.Type = profile.TypeCPU
		t.Samples = make([]profile.Sample, len(p.Samples))
		for i, s := range p.Samples {
			s.Value *= p.Period
			t.Samples[i] = s
		}
		out = append(out, t, p)
	}
	b.Profiles = out
}

// lateObserver lets the table be made before the sampler that it tells.
type lateObserver struct{ process.Observer }

// family is a process and its descendants.
type family struct {
	process.Observer
	parent process.PID // members are what this process starts, itself not
	mu     sync.Mutex
	pids   map[process.PID]bool
	all    map[uint32]bool // by generation, the ended ones too
}

func newFamily(root, parent process.PID) *family {
	f := &family{parent: parent, pids: map[process.PID]bool{}, all: map[uint32]bool{}}
	if root != 0 {
		f.pids[root] = true
	}
	return f
}

func (f *family) has(p *process.Process) bool {
	if p == nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all[p.Generation]
}

func (f *family) Started(p *process.Process, _ []process.Mapping) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pids[p.PID] || f.pids[p.Parent] || f.parent != 0 && p.Parent == f.parent {
		f.pids[p.PID] = true
		f.all[p.Generation] = true
	}
}

func (f *family) Mapped(*process.Process, process.Mapping) {}

func (f *family) Exited(*process.Process) {}
