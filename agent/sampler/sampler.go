// Package sampler collects samples with stacks, of the CPU, of page faults and of waits: it runs the programs of bpf/cpu and
// bpf/offcpu, feeds them the processes'
// mappings and the unwind tables of the files that they map, drains what they counted, and joins it with
// process, container and symbols into batches of profiles.
//
// The kernel side counts in one of two maps, by epoch; a drain flips the epoch, waits until no program is
// still running with the old one, and then has that map for itself. So no count is lost or seen twice.
package sampler

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"
	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"golang.org/x/sys/unix"

	"github.com/perfuse/perfuse/agent/process"
	"github.com/perfuse/perfuse/bpf/cpu"
	"github.com/perfuse/perfuse/bpf/offcpu"
	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/symbolize/kernel"
)

// Options configures a Sampler. The zero value of each field but Open and Sink is its default.
type Options struct {
	// Rate is samples per second and CPU. Default 19.
	Rate int
	// Interval is the time between two batches. Default 10 s.
	Interval time.Duration
	// FaultRate is at most how many page faults per second and CPU are looked at; each stands for as many as there
	// were since the one before. Default 49; negative: none.
	FaultRate int
	// OffCPU also measures what threads wait for, if the kernel can: see [Sampler.OffCPU].
	OffCPU bool
	// Draws is how many waits of a CPU are looked at in a second before it is every second one, then every fourth, and so
	// on. Default 96.
	Draws int
	// Wakers also says who ends the waits.
	Wakers bool
	// Sync waits until the process table knows what the kernel has reported so far. Default: no wait.
	Sync func(context.Context) error
	// Keep decides which processes are reported; nil is one that nothing is known of. Default: all.
	Keep func(*process.Process) bool
	// TableBytes bounds the kernel memory for unwind tables. Default 256 MiB.
	TableBytes uint64
	// BPFFS is a BPF file system in which other agents say which span a thread serves; see cpu.OpenSpans. MakeSpans
	// begins where nobody has yet. Default: nobody is asked.
	BPFFS     string
	MakeSpans bool
	// Open opens the file behind a mapping. Required.
	Open func(*process.Process, process.Mapping) (process.File, error)
	// Lookup finds the process that had a pid at a time. Required.
	Lookup func(process.PID, time.Time) *process.Process
	// Found is told once of each executable file, while it is open and its process probably lives. It must
	// not block and not keep r. Default: nobody is told.
	Found func(buildID string, p *process.Process, m process.Mapping, r process.File)
	// Sink receives the batches, from one goroutine. It owns them. Required.
	Sink func(*profile.Batch)
	// Logger gets one line per change of state. Default: none.
	Logger log.Logger
}

// Sampler implements process.Observer: the process table must be told of it before it runs.
type Sampler struct {
	opts      Options
	programs  *cpu.Programs
	events    *events
	faults    *events          // nil: none
	offcpu    *offcpu.Programs // nil: not measured
	offcpuErr error
	epochs    []*ebpf.Variable
	links     []link.Link
	reader    *ringbuf.Reader
	kernel    *kernel.Table // nil: its addresses are hidden
	boot      time.Duration // wall clock minus CLOCK_MONOTONIC

	mu          sync.Mutex
	files       *files
	spans       *arena
	processes   map[uint32]*running // by generation
	byPID       map[process.PID]*running
	scratch     []cpu.Mapping
	unpublished uint64
	kernelRead  time.Time

	drain   drain
	restart chan chan struct{}
	ticking chan struct{} // full while a tick runs or must not

	// verify is a test that wants to see every sample again.
	verify func(copies []deferred, stacks map[cpu.Key]seen)
}

// New loads the kernel side. Its error says in one line what is missing.
func New(o Options) (*Sampler, error) { return newSampler(o, nil) }

func newSampler(o Options, verify func([]deferred, map[cpu.Key]seen)) (*Sampler, error) {
	if o.Rate == 0 {
		o.Rate = 19
	}
	if o.Rate < 1 || o.Rate > 10000 {
		return nil, fmt.Errorf("sampling rate %d: want 1 to 10000 samples per second", o.Rate)
	}
	if o.Interval == 0 {
		o.Interval = 10 * time.Second
	}
	if o.FaultRate == 0 {
		o.FaultRate = 49
	}
	if o.TableBytes == 0 {
		o.TableBytes = 256 << 20
	}
	if o.Logger == nil {
		o.Logger = log.NewNopLogger()
	}
	// Needed before 5.11 only, and harmless to lack after it.
	limitErr := rlimit.RemoveMemlock()
	cpus, err := process.OnlineCPUs()
	if err != nil {
		return nil, err
	}
	var spans *ebpf.Map
	if o.BPFFS != "" {
		if spans, err = cpu.OpenSpans(o.BPFFS, o.MakeSpans); err == nil {
			defer spans.Close()
		} else if o.MakeSpans {
			level.Info(o.Logger).Log("msg", "samples will not tell which request they belong to", "err", err)
		}
	}
	perInterval := float64(o.Rate*len(cpus)) * o.Interval.Seconds()
	perInterval += float64(max(o.FaultRate, 0)*len(cpus)) * o.Interval.Seconds()
	stacks := min(max(2*perInterval, 4096), 1<<18)
	if o.OffCPU {
		stacks += 32768 // each thread that waits has one at least
	}
	ringBytes := powerOfTwo(min(max(float64(o.Rate*len(cpus))*ringPerSample, 1<<19), 1<<24))
	p, err := cpu.Load(cpu.Options{
		Verify:    verify != nil,
		Spans:     spans,
		Stacks:    uint32(stacks),
		RingBytes: ringBytes,
	})
	if err != nil {
		return nil, Explain(err, limitErr)
	}
	s := &Sampler{
		verify:    verify,
		opts:      o,
		programs:  p,
		processes: map[uint32]*running{},
		byPID:     map[process.PID]*running{},
		spans:     newArena(p.Mappings.MaxEntries()),
		epochs:    []*ebpf.Variable{p.Epoch},
		restart:   make(chan chan struct{}),
		ticking:   make(chan struct{}, 1),
	}
	s.files = newFiles(p, newTables(p, o.TableBytes), o.Open, o.Found)
	if err := s.attach(); err != nil {
		s.Close()
		return nil, Explain(err, nil)
	}
	if o.OffCPU {
		if s.offcpu, s.offcpuErr = offcpu.Load(p, offcpu.Options{Draws: uint32(o.Draws), RingBytes: ringBytes, Wakers: o.Wakers}); s.offcpuErr == nil {
			s.epochs = append(s.epochs, s.offcpu.Epochs[:]...)
		} else {
			level.Warn(o.Logger).Log("msg", "what threads wait for is not measured", "err", s.offcpuErr)
		}
	}
	return s, nil
}

// ringPerSample is how many bytes of ring there are for each sample of a second. A new stack takes some 500
// bytes, a deferred one up to 31 KB; the reader is woken when the ring is half full.
const ringPerSample = 8 << 10

func powerOfTwo(n float64) uint32 {
	p := uint32(4096)
	for float64(p) < n {
		p *= 2
	}
	return p
}

func (s *Sampler) attach() (err error) {
	for name, prog := range map[string]link.RawTracepointOptions{
		"sched_process_exec": {Name: "sched_process_exec", Program: s.programs.Exec},
		"sched_process_fork": {Name: "sched_process_fork", Program: s.programs.Fork},
		"sched_process_exit": {Name: "sched_process_exit", Program: s.programs.Exit},
	} {
		l, err := link.AttachRawTracepoint(prog)
		if err != nil {
			return fmt.Errorf("attaching to %s: %w", name, err)
		}
		s.links = append(s.links, l)
	}
	if s.reader, err = ringbuf.NewReader(s.programs.Stacks); err != nil {
		return fmt.Errorf("opening the ring of stacks: %w", err)
	}
	if s.kernel, err = kernel.Load("/proc/kallsyms"); err != nil {
		level.Warn(s.opts.Logger).Log("msg", "kernel frames stay without names", "err", err)
	}
	s.kernelRead = time.Now()
	var wall, mono unix.Timespec
	if err := errors.Join(unix.ClockGettime(unix.CLOCK_REALTIME, &wall), unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono)); err != nil {
		return fmt.Errorf("reading clocks: %w", err)
	}
	s.boot = time.Duration(wall.Nano() - mono.Nano())
	return nil
}

// Explain turns the kernel's refusals into what to do about them. limitErr is what came of lifting the limit on
// locked memory.
func Explain(err, limitErr error) error {
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) {
		return err
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("sampling needs root, or CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE: %w", err)
	}
	if limitErr != nil {
		return fmt.Errorf("sampling on this kernel (before 5.11) needs CAP_SYS_RESOURCE to lift the limit on locked memory: %w", err)
	}
	return fmt.Errorf("the kernel refuses the sampler; in a container add CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE or run privileged: %w", err)
}

// Rate is samples per second and CPU.
func (s *Sampler) Rate() int { return s.opts.Rate }

// OffCPU returns why it is not measured what threads wait for; nil if it is.
func (s *Sampler) OffCPU() error {
	if s.offcpu == nil && s.offcpuErr == nil {
		return errors.New("not asked for")
	}
	return s.offcpuErr
}

// Event names what the samples are driven by.
func (s *Sampler) Event() string {
	if s.events != nil && s.events.cycles {
		return "cycles"
	}
	return "cpu-clock"
}

// Run samples until ctx ends, then drains once more.
func (s *Sampler) Run(ctx context.Context) error {
	var wait sync.WaitGroup
	defer wait.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.drain.init(s)
	compiling, stopCompiling := context.WithCancel(context.WithoutCancel(ctx))
	defer stopCompiling()
	wait.Go(func() {
		_ = process.Ahead(func() error {
			s.compileTables(compiling)
			return nil
		})
	})
	wait.Go(func() { s.drain.read(s.reader) })
	defer s.reader.Close()

	var err error
	if s.events, err = openClock(s.programs.Sample.FD(), s.opts.Rate); err != nil {
		return Explain(err, nil)
	}
	defer s.events.close()
	if s.opts.FaultRate > 0 {
		if s.faults, err = openFaults(s.programs.Fault.FD(), s.opts.FaultRate); err != nil {
			level.Warn(s.opts.Logger).Log("msg", "page faults are not counted", "err", err)
		} else {
			defer s.faults.close()
		}
	}
	level.Info(s.opts.Logger).Log("msg", "sampling", "event", s.Event(), "rate", s.opts.Rate, "cpus", len(s.events.perCPU))

	jitter := time.NewTicker(time.Second)
	defer jitter.Stop()
	interval := time.NewTicker(s.opts.Interval)
	defer interval.Stop()
	ticking, stopTicks := context.WithCancel(context.WithoutCancel(ctx))
	defer stopTicks()
	ticked := make(chan struct{})
	go func() { // not waited for: see stuckTick
		defer close(ticked)
		if s.offcpu != nil {
			s.runTicks(ticking)
		}
	}()
	start := time.Now()
	for {
		var restarted chan struct{}
		select {
		case restarted = <-s.restart:
		case <-jitter.C:
			for _, e := range s.allEvents() {
				e.jitter()
			}
			continue
		case <-ctx.Done():
		case <-interval.C:
		}
		last := ctx.Err() != nil
		if last { // the last tick counts waits up to now
			stopTicks()
			select {
			case <-ticked:
			case <-time.After(time.Second):
			}
		}
		end := time.Now()
		if restarted != nil {
			s.beginWaits()
		}
		s.catchUp(last)
		b, err := s.drain.flip(start, end, last)
		if err != nil {
			return fmt.Errorf("draining samples: %w", err)
		}
		start = end
		if restarted != nil {
			interval.Reset(s.opts.Interval)
			close(restarted)
			continue
		}
		if len(b.Profiles) > 0 {
			s.opts.Sink(b)
		}
		if last {
			return nil
		}
		for _, e := range s.allEvents() {
			if err := e.follow(); err != nil {
				level.Warn(s.opts.Logger).Log("msg", "some CPUs are not sampled", "err", err)
			}
		}
	}
}

var errStuck = errors.New("a tick is stuck: a process's memory does not answer")

// beginWaits leaves out what was waited before now.
func (s *Sampler) beginWaits() {
	if s.offcpu == nil {
		return
	}
	release, held := s.holdTicks()
	defer release()
	err := errStuck
	if held {
		err = s.offcpu.Begin()
	}
	if err != nil {
		level.Warn(s.opts.Logger).Log("msg", "waits count from before the recording", "err", err)
	}
}

func (s *Sampler) allEvents() []*events {
	if s.faults == nil {
		return []*events{s.events}
	}
	return []*events{s.events, s.faults}
}

// catchUp gives the process table a moment to learn of the processes that are about to be named, and before
// the last batch the unwind tables one to become ready.
func (s *Sampler) catchUp(last bool) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if s.opts.Sync != nil {
		if err := s.opts.Sync(ctx); err != nil {
			level.Warn(s.opts.Logger).Log("msg", "the process table lags behind; some samples may lack their process", "err", err)
		}
	}
	if last {
		_ = s.Settle(ctx) // what is not ready by then has its reason in the stack
	}
}

// Restart throws away what was counted so far, and returns when that is done or ctx ends. Run must be running.
func (s *Sampler) Restart(ctx context.Context) {
	done := make(chan struct{})
	select {
	case s.restart <- done:
	case <-ctx.Done():
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// compileTables works through the queue of files.
func (s *Sampler) compileTables(ctx context.Context) {
	for {
		s.mu.Lock()
		j, ok := s.files.next()
		if !ok {
			s.files.settle()
		}
		s.mu.Unlock()
		if !ok {
			select {
			case <-ctx.Done():
				return
			case <-s.files.wake:
			}
			continue
		}
		made, err := j.compile()
		s.mu.Lock()
		err = s.files.finished(j.file, made, err, time.Now())
		s.mu.Unlock()
		if err != nil {
			level.Debug(s.opts.Logger).Log("msg", "a file has no unwind table", "err", err)
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// Settle waits until no unwind table is waiting to be compiled, or ctx ends. Run must be running.
func (s *Sampler) Settle(ctx context.Context) error {
	s.mu.Lock()
	settled := s.files.settled
	s.mu.Unlock()
	select {
	case <-settled:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Close unloads the kernel side. Run must have returned.
func (s *Sampler) Close() error {
	for _, l := range s.links {
		l.Close()
	}
	if s.reader != nil {
		s.reader.Close()
	}
	s.files.tables.close()
	if s.offcpu != nil {
		s.offcpu.Close()
	}
	s.programs.Close()
	return nil
}

// Stats are the sampler's own numbers.
type Stats struct {
	// Stacks counts user stacks by how they ended, Drops lost samples by reason.
	Stacks, Drops map[string]uint64
	// Files, Tables and TableRows say what is known; Failed and Evicted count since the start.
	Files, Tables, TableRows, Failed, Evicted uint64
	// Deferred counts the stacks that were walked in the agent, Malformed the records that made no sense.
	Deferred, Malformed uint64
	// Unlabelled counts samples without the labels that their program gave them: they were not readable, or
	// the program had too many different sets.
	Unlabelled uint64
	// Queued files wait for their table.
	Queued int
	// Unpublished counts processes whose mappings found no room in the kernel.
	Unpublished uint64
	// LastError is the newest reason for a failed file.
	LastError string
}

// Stats reads them.
func (s *Sampler) Stats() (Stats, error) {
	stops, drops, err := s.programs.Losses()
	if err != nil {
		return Stats{}, err
	}
	st := Stats{Stacks: map[string]uint64{}, Drops: map[string]uint64{}}
	for i, n := range stops {
		st.Stacks[cpu.Stops[i]] = n
	}
	for i, n := range drops {
		switch cpu.Drop(i) {
		case 0:
		case cpu.DropLabels:
			st.Unlabelled = n
		default:
			st.Drops[cpu.Drops[i]] = n
		}
	}
	s.drain.mu.Lock()
	st.Deferred, st.Malformed = s.drain.late, s.drain.bad
	st.Unlabelled += s.drain.unlabelled
	s.drain.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Files = uint64(len(s.files.byFile))
	st.Tables = s.files.compiled - s.files.evicted
	st.TableRows = uint64(s.files.tables.rows)
	st.Failed, st.Evicted = s.files.failed, s.files.evicted
	st.Queued = len(s.files.queue)
	st.Unpublished = s.unpublished
	if s.files.lastError != nil {
		st.LastError = s.files.lastError.Error()
	}
	return st, nil
}
