// Package cpu is the kernel side of CPU sampling: perf_event programs that walk kernel and user stacks and
// count them, and the tracepoints that keep their process table true while the agent catches up.
//
// [Load] picks what this kernel can run. The maps and the records in them are described in
// bpf/include/wire.h; their Go types are generated from it. Package agent/sampler fills and drains them.
package cpu

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target amd64,arm64 -go-package cpu -type stack_record -type deferred -type sample_key -type frame -type process -type mapping -type object -type block -type rule -type stop -type drop -type frame_kind -type label_record -type label -type record_kind -type event -type state cpu cpu.bpf.c -- -O2 -g -Wall -Wextra -Werror -Wno-unused-parameter -I../include

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
)

// The records of bpf/include/wire.h.
type (
	Key    = cpuSampleKey
	Record = cpuStackRecord
	// Deferred is a sample whose user stack the agent walks. On the wire it ends after StackBytes.
	Deferred = cpuDeferred
	// LabelRecord ends after FrameCount labels on the wire.
	LabelRecord = cpuLabelRecord
	Label       = cpuLabel
	Frame       = cpuFrame
	Process     = cpuProcess
	Mapping     = cpuMapping
	Object      = cpuObject
	Block       = cpuBlock
	Rule        = cpuRule
	Stop        = cpuStop
	Drop        = cpuDrop
)

// Kinds of frames.
const (
	FrameUser    = uint32(cpuFrameKindFRAME_USER)
	FrameKernel  = uint32(cpuFrameKindFRAME_KERNEL)
	FrameStopped = uint32(cpuFrameKindFRAME_STOPPED)
)

// Slots is how many perf events make one sample: one of them, drawn at random, is taken.
const Slots = 4

// FaultSlots is the same for page faults.
const FaultSlots = 8

// Kinds of records.
const (
	RecordStack  = uint32(cpuRecordKindRECORD_STACK)
	RecordWalk   = uint32(cpuRecordKindRECORD_WALK)
	RecordVerify = uint32(cpuRecordKindRECORD_VERIFY)
	RecordLabels = uint32(cpuRecordKindRECORD_LABELS)
)

// Events are what a Key counts.
const (
	EventCPU   = uint32(cpuEventEVENT_CPU)
	EventFault = uint32(cpuEventEVENT_FAULT)
	EventWait  = uint32(cpuEventEVENT_WAIT)
	EventWake  = uint32(cpuEventEVENT_WAKE)
)

// States are how a thread left the CPU.
const (
	StateRunnable        = uint32(cpuStateSTATE_RUNNABLE)
	StateInterruptible   = uint32(cpuStateSTATE_INTERRUPTIBLE)
	StateUninterruptible = uint32(cpuStateSTATE_UNINTERRUPTIBLE)
)

// BlocksPending as an Object's BlockCount says that its table is being compiled.
const BlocksPending = ^uint32(0)

// ChunkRows is how many rows a chunk of unwind tables holds.
const ChunkRows = 1 << 18

// Why a walk ended.
const (
	StopComplete    = cpuStopSTOP_COMPLETE
	StopNoProcess   = cpuStopSTOP_NO_PROCESS
	StopNoMapping   = cpuStopSTOP_NO_MAPPING
	StopNoUnwind    = cpuStopSTOP_NO_UNWIND
	StopRead        = cpuStopSTOP_READ
	StopRegister    = cpuStopSTOP_REGISTER
	StopUnsupported = cpuStopSTOP_UNSUPPORTED
	StopNoProgress  = cpuStopSTOP_NO_PROGRESS
	StopTooDeep     = cpuStopSTOP_TOO_DEEP
	StopPending     = cpuStopSTOP_PENDING
)

// Stops names why a user stack could not be finished, by number.
var Stops = [...]string{
	cpuStopSTOP_COMPLETE:    "complete",
	cpuStopSTOP_NO_PROCESS:  "process not known yet",
	cpuStopSTOP_NO_MAPPING:  "no executable mapping",
	cpuStopSTOP_NO_UNWIND:   "no unwind information",
	cpuStopSTOP_READ:        "stack not readable",
	cpuStopSTOP_REGISTER:    "register not known",
	cpuStopSTOP_UNSUPPORTED: "unsupported unwind rule",
	cpuStopSTOP_NO_PROGRESS: "stack pointer stuck",
	cpuStopSTOP_TOO_DEEP:    "too deep",
	cpuStopSTOP_PENDING:     "unwind table not ready",
	cpuStopSTOP_EXEC:        "program being replaced",
}

// DropLabels is the one number in Drops that counts no lost samples: their labels were lost.
const DropLabels = cpuDropDROP_LABELS

// Drops names what was lost, by number.
var Drops = [...]string{
	cpuDropDROP_NONE:        "none",
	cpuDropDROP_SCRATCH:     "no scratch memory",
	cpuDropDROP_COUNTS_FULL: "counts full",
	cpuDropDROP_RING_FULL:   "ring full",
	cpuDropDROP_TAIL_CALL:   "tail call",
	cpuDropDROP_LABELS:      "labels not readable",
	cpuDropDROP_THREADS:     "too many threads",
}

// Options are fixed when the programs are loaded. The zero value works.
type Options struct {
	// Stacks is how many distinct stacks an epoch may have. Default 16384.
	Stacks uint32
	// RingBytes is the size of the buffer for new stacks, a power of two. Default 1 MiB.
	RingBytes uint32
	// Spans says which span a thread serves; see [OpenSpans]. Nil: nobody says so. Load does not keep it.
	Spans *ebpf.Map
	// Verify sends registers and stack of every sample too, so that a test can walk them again.
	Verify bool
}

// Programs are loaded programs with their maps.
type Programs struct {
	// Sample and Fault are to be attached to perf events: of the clock, and of page faults.
	Sample, Fault *ebpf.Program
	// Exec, Fork and Exit are for the raw tracepoints sched_process_exec, _fork and _exit.
	Exec, Fork, Exit *ebpf.Program

	// Counts are written alternately, by Epoch.
	Counts [2]*ebpf.Map
	Epoch  *ebpf.Variable
	Stacks *ebpf.Map

	Processes, Mappings, Objects, Blocks, Rules, Chunks *ebpf.Map

	drops, stops *ebpf.Map
	// NewChunk makes a map for Chunks.
	NewChunk func() (*ebpf.Map, error)

	spans bool // whether somebody says which span a thread serves
	coll  *ebpf.Collection
}

// Load loads the programs that this kernel can run: with bpf_loop (5.17), else with tail calls. An error is a
// *ebpf.VerifierError, wraps ebpf.ErrNotSupported, or is the permission that is missing.
func Load(o Options) (*Programs, error) {
	spec, err := loadCpu()
	if err != nil {
		return nil, fmt.Errorf("reading the embedded programs: %w", err)
	}
	if o.Stacks == 0 {
		o.Stacks = 16384
	}
	if o.RingBytes == 0 {
		o.RingBytes = 1 << 20
	}
	spec.Maps["counts_even"].MaxEntries = o.Stacks
	spec.Maps["counts_odd"].MaxEntries = o.Stacks
	spec.Maps["stacks"].MaxEntries = o.RingBytes
	for name, v := range map[string]any{
		"ring_wakeup_bytes": o.RingBytes / 2,
		"verify":            o.Verify,
	} {
		if err := spec.Variables[name].Set(v); err != nil {
			return nil, fmt.Errorf("setting %s: %w", name, err)
		}
	}
	loop := true
	if err := features.HaveProgramHelper(ebpf.PerfEvent, asm.FnLoop); errors.Is(err, ebpf.ErrNotSupported) {
		loop = false
	}
	if loop {
		delete(spec.Programs, "cpu_tail")
		delete(spec.Programs, "fault_tail")
		delete(spec.Programs, "tail_step")
	} else {
		delete(spec.Programs, "cpu_loop")
		delete(spec.Programs, "fault_loop")
	}
	var opts ebpf.CollectionOptions
	if o.Spans != nil {
		if err := useSpans(spec, &opts, o.Spans); err != nil {
			return nil, fmt.Errorf("setting the map of spans: %w", err)
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, opts)
	if err != nil {
		return nil, fmt.Errorf("loading programs: %w", err)
	}
	p := &Programs{
		Sample:    coll.Programs["cpu_loop"],
		Fault:     coll.Programs["fault_loop"],
		Exec:      coll.Programs["process_exec"],
		Fork:      coll.Programs["process_fork"],
		Exit:      coll.Programs["process_exit"],
		Counts:    [2]*ebpf.Map{coll.Maps["counts_even"], coll.Maps["counts_odd"]},
		Epoch:     coll.Variables["epoch"],
		Stacks:    coll.Maps["stacks"],
		Processes: coll.Maps["processes"],
		Mappings:  coll.Maps["mappings"],
		Objects:   coll.Maps["objects"],
		Blocks:    coll.Maps["blocks"],
		Rules:     coll.Maps["rules"],
		Chunks:    coll.Maps["chunks"],
		drops:     coll.Maps["drops"],
		stops:     coll.Maps["stops"],
		spans:     o.Spans != nil,
		coll:      coll,
	}
	inner := spec.Maps["chunks"].InnerMap
	p.NewChunk = func() (*ebpf.Map, error) { return ebpf.NewMap(inner) }
	if !loop {
		p.Sample, p.Fault = coll.Programs["cpu_tail"], coll.Programs["fault_tail"]
		if err := coll.Maps["tail"].Put(uint32(0), coll.Programs["tail_step"]); err != nil {
			coll.Close()
			return nil, fmt.Errorf("setting the tail call: %w", err)
		}
	}
	return p, nil
}

// shared are the maps that programs have in common which are loaded from other objects: what is known of processes
// and files, and where samples go.
var shared = []string{"processes", "mappings", "objects", "blocks", "rules", "chunks", "counts_even", "counts_odd", "stacks", "drops", "stops", spansMap}

// Share makes the programs of spec, of which nothing is loaded yet, use the maps of p that they have by the same names.
// It returns them for ebpf.CollectionOptions.MapReplacements.
func (p *Programs) Share(spec *ebpf.CollectionSpec) (map[string]*ebpf.Map, error) {
	out := map[string]*ebpf.Map{}
	for _, name := range shared {
		m, s := p.coll.Maps[name], spec.Maps[name]
		if s == nil || m == nil {
			continue
		}
		s.Type, s.ValueSize, s.MaxEntries, s.Flags = m.Type(), m.ValueSize(), m.MaxEntries(), m.Flags()
		s.Key, s.Value = nil, nil
		out[name] = m
	}
	if v := spec.Variables["spans_enabled"]; v != nil {
		if err := v.Set(p.spans); err != nil {
			return nil, fmt.Errorf("setting spans_enabled: %w", err)
		}
	}
	return out, nil
}

// Close unloads everything.
func (p *Programs) Close() { p.coll.Close() }

// Losses returns how many user stacks ended for each reason of Stops, and how many samples were lost for
// each of Drops, since the programs were loaded.
func (p *Programs) Losses() (stops [len(Stops)]uint64, drops [len(Drops)]uint64, err error) {
	for i := range stops {
		if stops[i], err = sum(p.stops, i); err != nil {
			return stops, drops, fmt.Errorf("reading stops: %w", err)
		}
	}
	for i := range drops {
		if drops[i], err = sum(p.drops, i); err != nil {
			return stops, drops, fmt.Errorf("reading drops: %w", err)
		}
	}
	return stops, drops, nil
}

func sum(m *ebpf.Map, i int) (n uint64, err error) {
	var each []uint64
	if err := m.Lookup(uint32(i), &each); err != nil {
		return 0, err
	}
	for _, v := range each {
		n += v
	}
	return n, nil
}
