// Package memory is the kernel side of heap sampling: uprobe programs that draw one allocation per so many bytes, walk
// its stack, and remember its address until it is freed.
//
// [Load] picks what this kernel can run. What the probes are put on, and the cookies that tell the programs what a
// function does, are package agent/heap/native's.
package memory

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target amd64,arm64 -go-package memory -type memory_event -type memory_alloc -type live_key -type live -type memory_kind -type memory_drop -type form memory memory.bpf.c -- -O2 -g -mcpu=v3 -Wall -Wextra -Werror -Wno-unused-parameter -I../include

import (
	"errors"
	"fmt"
	"math"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"

	"github.com/perfuse/perfuse/bpf/cpu"
)

// The records of the ring, and the entries of Live.
type (
	// Event is a free, and the beginning of an Alloc.
	Event = memoryMemoryEvent
	// Alloc is a sampled allocation. FrameCount frames (cpu.Frame) follow, the allocator's function first.
	Alloc = memoryMemoryAlloc
	Key   = memoryLiveKey
	Live  = memoryLive
)

// Kinds of records.
const (
	KindAlloc = uint32(memoryMemoryKindMEMORY_ALLOC)
	KindFree  = uint32(memoryMemoryKindMEMORY_FREE)
)

// Form is what a function of an allocator does.
type Form uint8

// In the arguments that a cookie names.
const (
	Size           = Form(memoryFormFORM_SIZE)            // returns size bytes
	Product        = Form(memoryFormFORM_PRODUCT)         // returns size * count bytes
	Realloc        = Form(memoryFormFORM_REALLOC)         // frees pointer and returns size bytes
	ReallocProduct = Form(memoryFormFORM_REALLOC_PRODUCT) // frees pointer and returns size * count bytes
	Out            = Form(memoryFormFORM_OUT)             // puts the address of size bytes where pointer points
	Free           = Form(memoryFormFORM_FREE)            // frees pointer
)

// Cookie is what a probe tells the program: the agent's number of the process, what the function does, and in which
// registers its arguments are at the probe (x86: as instructions number them; arm64: x0 to x2). leaf says that the
// function calls no other one that has a probe; throws that an exception may leave it: it must be a leaf, and have Begin
// alone. What it returns is not known.
func Cookie(watch uint32, f Form, leaf, throws bool, pointer, size, count uint8) uint64 {
	c := uint64(watch)<<32 | uint64(f) | uint64(pointer&15)<<8 | uint64(size&15)<<12 | uint64(count&15)<<16
	if leaf {
		c |= 1 << 4
	}
	if throws {
		c |= 1 << 5
	}
	return c
}

// Drops names what was lost, by number.
var Drops = [...]string{
	memoryMemoryDropMEMORY_DROP_NONE:      "none",
	memoryMemoryDropMEMORY_DROP_STATE:     "no storage for the thread",
	memoryMemoryDropMEMORY_DROP_WALKS:     "too many walks at once",
	memoryMemoryDropMEMORY_DROP_RING:      "ring full",
	memoryMemoryDropMEMORY_DROP_LIVE:      "not tracked",
	memoryMemoryDropMEMORY_DROP_FREE_RING: "free: ring full",
	memoryMemoryDropMEMORY_DROP_THROWS:    "may throw",
	memoryMemoryDropMEMORY_DROP_BLIND:     "not tracked: may throw",
}

// Options are fixed when the programs are loaded. The zero value works.
type Options struct {
	// Rate is how many bytes there are to a sample on average. Default 512 KiB, at most 1 TiB.
	Rate uint64
	// Live is how many samples are remembered until they are freed. Default 65536.
	Live uint32
	// RingBytes is the size of the buffer for samples, a power of two. Default 1 MiB.
	RingBytes uint32
	// ThrowLimit is above how many bytes a function that may throw is not sampled. Default 1 GiB.
	ThrowLimit uint64
	// NoFrees: nothing is remembered, and no function that frees needs a probe.
	NoFrees bool
	// NoSession does without sessions, NoMulti without many probes on one descriptor, as on a kernel that has none.
	NoSession, NoMulti bool
}

// DefaultRate is the bytes per sample where none are given.
const DefaultRate = 512 << 10

// MaxRate bounds what is asked for.
const MaxRate = 1 << 40

// Programs are loaded programs with their maps.
type Programs struct {
	// Session serves both ends of a call. Nil: the kernel has no sessions (before 6.13).
	Session *ebpf.Program
	// Begin and End are for the two ends, End nil if there is Session. With Multi they are put on many places at once by
	// Attach (Linux 6.6), and else each is a probe of its own.
	Begin, End *ebpf.Program
	Multi      bool

	Samples, Live *ebpf.Map

	drops, calls, watches *ebpf.Map

	coll *ebpf.Collection
}

// attachSession is BPF_TRACE_UPROBE_SESSION.
const attachSession = ebpf.AttachType(57)

// Load loads the programs, which unwind by the maps of p. An error is a *ebpf.VerifierError, wraps ebpf.ErrNotSupported, or is the permission that
// is missing.
func Load(p *cpu.Programs, o Options) (*Programs, error) {
	if o.Rate == 0 {
		o.Rate = DefaultRate
	}
	if o.Rate > MaxRate {
		return nil, fmt.Errorf("one sample per %d bytes: want at most %d", o.Rate, uint64(MaxRate))
	}
	if o.ThrowLimit == 0 {
		o.ThrowLimit = 1 << 30
	}
	if o.Live == 0 {
		o.Live = 65536
	}
	if o.RingBytes == 0 {
		o.RingBytes = 1 << 20
	}
	if err := features.HaveProgramHelper(ebpf.Kprobe, asm.FnLoop); errors.Is(err, ebpf.ErrNotSupported) {
		return nil, fmt.Errorf("heap sampling needs Linux 5.17 for bpf_loop: %w", err)
	}
	session := !o.NoSession && have(attachSession)
	multi := session || !o.NoMulti && have(ebpf.AttachTraceUprobeMulti)
	spec, err := loadMemory()
	if err != nil {
		return nil, fmt.Errorf("reading the embedded programs: %w", err)
	}
	delete(spec.Programs, "memory_draw")
	if session {
		delete(spec.Programs, "memory_end")
	} else {
		delete(spec.Programs, "memory_session")
	}
	if multi {
		for _, name := range []string{"memory_begin", "memory_end"} {
			if p := spec.Programs[name]; p != nil {
				p.AttachType = ebpf.AttachTraceUprobeMulti
			}
		}
	}
	delete(spec.Maps, "scratches") // of programs that nothing can interrupt but their own kind
	spec.Maps["live_samples"].MaxEntries = o.Live
	spec.Maps["samples"].MaxEntries = o.RingBytes
	for name, v := range map[string]any{
		"rate_ln2":    uint64(float64(o.Rate) * math.Ln2),
		"throw_limit": o.ThrowLimit,
		"frees":       !o.NoFrees,
	} {
		if err := spec.Variables[name].Set(v); err != nil {
			return nil, fmt.Errorf("setting %s: %w", name, err)
		}
	}
	shared, err := p.Share(spec)
	if err != nil {
		return nil, err
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared})
	if err != nil {
		return nil, fmt.Errorf("loading programs: %w", err)
	}
	return &Programs{
		Session: coll.Programs["memory_session"],
		Begin:   coll.Programs["memory_begin"],
		End:     coll.Programs["memory_end"],
		Multi:   multi,
		Samples: coll.Maps["samples"],
		Live:    coll.Maps["live_samples"],
		drops:   coll.Maps["memory_drops"],
		calls:   coll.Maps["call_counts"],
		watches: coll.Maps["watches"],
		coll:    coll,
	}, nil
}

// Close unloads everything.
func (p *Programs) Close() { p.coll.Close() }

// Watches is how many processes can be told apart by Calls.
const Watches = 1024

// Watch makes the programs heed the probes that have a number in their cookies, and no others with the same number
// modulo Watches; Unwatch makes them heed none of those. Both at once, whatever the probes need to come and go.
func (p *Programs) Watch(watch uint32) error { return p.setWatch(watch, watch) }

// Unwatch undoes Watch.
func (p *Programs) Unwatch(watch uint32) error { return p.setWatch(watch, 0) }

func (p *Programs) setWatch(watch, value uint32) error {
	if err := p.watches.Put(watch%Watches, value); err != nil {
		return fmt.Errorf("setting which process is watched: %w", err)
	}
	return nil
}

// Calls returns how many calls have come by the probes of a process, by the number in its cookies, and of those before it
// whose number was the same modulo Watches.
func (p *Programs) Calls(watch uint32) (n uint64, err error) {
	if n, err = sum(p.calls, watch%Watches); err != nil {
		return 0, fmt.Errorf("reading how often probes were hit: %w", err)
	}
	return n, nil
}

func sum(m *ebpf.Map, i uint32) (n uint64, err error) {
	var each []uint64
	if err := m.Lookup(i, &each); err != nil {
		return 0, err
	}
	for _, v := range each {
		n += v
	}
	return n, nil
}

// Losses returns how much was lost for each of Drops since the programs were loaded.
func (p *Programs) Losses() (drops [len(Drops)]uint64, err error) {
	for i := range drops {
		if drops[i], err = sum(p.drops, uint32(i)); err != nil {
			return drops, fmt.Errorf("reading drops: %w", err)
		}
	}
	return drops, nil
}
