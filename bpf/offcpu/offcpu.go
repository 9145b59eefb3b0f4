// Package offcpu is the kernel side of off-CPU profiles: a program at sched_switch that draws some waits and an
// iterator that finds those that last. They count by the same keys, in the same maps, and unwind by the same tables as
// package cpu. bpf/include/wait.h says how.
package offcpu

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target amd64,arm64 -go-package offcpu offcpu offcpu.bpf.c -- -O2 -g -mcpu=v3 -Wall -Wextra -Werror -Wno-unused-parameter -I../include
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target amd64,arm64 -go-package offcpu waiting waiting.bpf.c -- -O2 -g -mcpu=v3 -Wall -Wextra -Werror -Wno-unused-parameter -I../include

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/perfuse/perfuse/bpf/cpu"
)

// Options are fixed when the programs are loaded. The zero value works.
type Options struct {
	// Threads is how many threads can be followed. Default 32768.
	Threads uint32
	// Wakers also looks who ends the waits.
	Wakers bool
	// Draws is how many waits of a CPU are drawn in a second before the chance halves. Default 96.
	Draws uint32
	// RingBytes is the size of the ring of stacks.
	RingBytes uint32
}

// Programs are loaded and attached. Their methods are not safe for concurrent use.
type Programs struct {
	// Epochs are to be set together with that of package cpu.
	Epochs [2]*ebpf.Variable

	elapsed, last, visited *ebpf.Variable
	begun                  [2]*ebpf.Variable
	tick                   *ebpf.Variable
	colls                  []*ebpf.Collection
	links                  []link.Link
	iter                   *link.Iter
	before                 time.Time
}

// Load loads and attaches the programs, which share the maps of p. It wraps ebpf.ErrNotSupported on kernels before 5.18.
func Load(p *cpu.Programs, o Options) (_ *Programs, err error) {
	if o.Threads == 0 {
		o.Threads = 32768
	}
	out := &Programs{}
	defer func() {
		if err != nil {
			out.Close()
		}
	}()
	sched, err := loadOffcpu()
	if err != nil {
		return nil, fmt.Errorf("reading the embedded programs: %w", err)
	}
	iter, err := loadWaiting()
	if err != nil {
		return nil, fmt.Errorf("reading the embedded programs: %w", err)
	}
	if o.Draws != 0 {
		if err := sched.Variables["draws"].Set(max(o.Draws, 2)); err != nil {
			return nil, fmt.Errorf("setting draws: %w", err)
		}
	}
	if !o.Wakers {
		delete(sched.Programs, "sched_waking")
	}
	var threads *ebpf.Map
	for _, spec := range []*ebpf.CollectionSpec{sched, iter} {
		coll, err := load(spec, p, threads, o)
		if err != nil {
			return nil, err
		}
		out.Epochs[len(out.colls)] = coll.Variables["epoch"]
		out.begun[len(out.colls)] = coll.Variables["begun_at"]
		out.colls = append(out.colls, coll)
		threads = coll.Maps["threads"]
	}
	vars := out.colls[1].Variables
	out.tick = out.colls[0].Variables["tick"]
	out.elapsed, out.last, out.visited = vars["elapsed"], vars["last"], vars["visited"]
	for name, program := range out.colls[0].Programs {
		l, err := link.AttachTracing(link.TracingOptions{Program: program})
		if err != nil {
			return nil, fmt.Errorf("attaching to %s: %w", name, err)
		}
		out.links = append(out.links, l)
	}
	if out.iter, err = link.AttachIter(link.IterOptions{Program: out.colls[1].Programs["waiting"]}); err != nil {
		return nil, fmt.Errorf("attaching the iterator over tasks: %w", err)
	}
	out.before = time.Now()
	return out, nil
}

func load(spec *ebpf.CollectionSpec, p *cpu.Programs, threads *ebpf.Map, o Options) (*ebpf.Collection, error) {
	replace, err := p.Share(spec)
	if err != nil {
		return nil, err
	}
	spec.Maps["threads"].MaxEntries = o.Threads
	if threads != nil {
		replace["threads"] = threads
		spec.Maps["waits"].MaxEntries = o.Threads
	}
	if err := spec.Variables["ring_wakeup_bytes"].Set(o.RingBytes / 2); err != nil {
		return nil, fmt.Errorf("setting ring_wakeup_bytes: %w", err)
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replace})
	var refused *ebpf.VerifierError
	if errors.As(err, &refused) {
		// An older kernel has other arguments at sched_switch, or none of the helpers; its error's number means nothing.
		return nil, fmt.Errorf("loading the off-CPU programs, which want Linux 5.18 or later: %w: %v", ebpf.ErrNotSupported, refused)
	}
	if err != nil {
		return nil, fmt.Errorf("loading the off-CPU programs, which want Linux 5.18 or later: %w", err)
	}
	return coll, nil
}

// Begin leaves out of all counts what was before now.
func (p *Programs) Begin() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("reading the clock: %w", err)
	}
	for _, v := range p.begun {
		if err := v.Set(uint64(now.Nano())); err != nil {
			return fmt.Errorf("setting when measuring began: %w", err)
		}
	}
	p.before = time.Now()
	return nil
}

// SetPeriod says how long it is between two ticks from now on: so much of long waits is left to them.
func (p *Programs) SetPeriod(d time.Duration) error {
	if err := p.tick.Set(uint64(d)); err != nil {
		return fmt.Errorf("setting the time between two ticks: %w", err)
	}
	return nil
}

// Tick credits all threads that have waited for long with the time since the tick before. The last tick also counts
// the waits that have been drawn and go on. It returns how many threads there are.
func (p *Programs) Tick(last bool) (threads int, err error) {
	now := time.Now()
	if err := errors.Join(p.elapsed.Set(uint64(now.Sub(p.before))), p.last.Set(last), p.visited.Set(uint64(0))); err != nil {
		return 0, fmt.Errorf("preparing the iterator over tasks: %w", err)
	}
	p.before = now
	r, err := p.iter.Open()
	if err != nil {
		return 0, fmt.Errorf("opening the iterator over tasks: %w", err)
	}
	defer r.Close()
	if _, err := io.Copy(io.Discard, r); err != nil {
		return 0, fmt.Errorf("iterating over tasks: %w", err)
	}
	var n uint64
	if err := p.visited.Get(&n); err != nil {
		return 0, fmt.Errorf("counting threads: %w", err)
	}
	return int(n), nil
}

// Close detaches and unloads the programs.
func (p *Programs) Close() {
	if p.iter != nil {
		p.iter.Close()
	}
	for _, l := range p.links {
		l.Close()
	}
	for _, c := range p.colls {
		c.Close()
	}
}
