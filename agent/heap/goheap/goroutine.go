package goheap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"go/version"
	"io"
	"strings"
)

// ErrGoroutines: the file's runtime keeps its goroutines in a way that is not known; heap profiles may be read nevertheless.
var ErrGoroutines = errors.New("this Go runtime keeps its goroutines in a way that is not known: ask its /debug/pprof/goroutine")

// Goroutines are those that a process had while it was read.
type Goroutines struct {
	// Stacks are those of goroutines that wait or could run. The runtime's own are among them: runtime/pprof leaves out
	// stacks whose outermost function, before runtime.goexit, is of package runtime, runtime.main excepted.
	Stacks []GoroutineStack
	// Running are on a CPU or were while they were read, or they are in a system call of a runtime that keeps no frame
	// pointer of these (before Go 1.23): their stacks cannot be read from outside.
	Running int
	// Complete is false if there are more; Reason says why.
	Complete bool
	Reason   string
}

// GoroutineStack counts goroutines at the same place. Addresses are as in [Bucket], but a stack is cut at 128 frames.
type GoroutineStack struct {
	Stack []uint64
	Count int
}

// scheduler says where the runtime keeps goroutines, and where in one (runtime.g) things are.
type scheduler struct {
	all        uint64 // address of runtime.allgs
	status, bp int
	// syscalls says that the frame pointer is saved before system calls.
	syscalls bool
}

// Offsets in runtime.g, the same in all versions: the stack's bounds, and where it goes on.
const (
	stackLow, stackHigh = 0, 8
	schedSP, schedPC    = 56, 64
	// maxGoroutine is as far as we look into one.
	maxGoroutine = 256

	maxGoroutineFrames = 128
	maxGoroutineStack  = 1 << 30 // Go's own limit, on 64-bit machines
)

// What runtime.g's status may be, the collector's bit aside.
const (
	statusRunnable  = 1
	statusRunning   = 2
	statusSyscall   = 3
	statusWaiting   = 4
	statusCopying   = 8
	statusPreempted = 9
	statusLeaked    = 10 // waits for what nobody can do any more
	statusScan      = 0x1000
)

// findScheduler reads it from allgadd, which looks at a goroutine's status and appends to the list, and from mcall, which
// saves where a goroutine goes on.
func findScheduler(m machine, toolchain string, allgadd []byte, at uint64, mcall []byte) *scheduler {
	s := &scheduler{}
	var ok [3]bool
	s.all, ok[0] = m.slice(allgadd, at)
	s.status, ok[1] = m.firstField(allgadd)
	s.bp, ok[2] = m.savedFramePointer(mcall)
	if !ok[0] || !ok[1] || !ok[2] || s.status < schedPC || s.status > maxGoroutine-4 || s.bp <= schedPC || s.bp > maxGoroutine-8 {
		return nil
	}
	toolchain, _, _ = strings.Cut(strings.TrimPrefix(toolchain, "devel "), " ")
	since := func(v string) bool { return version.IsValid(toolchain) && version.Compare(toolchain, v) >= 0 }
	if m.arm64 && !since("go1.21") {
		return nil // frame pointers are wrong there after a stack has grown
	}
	s.syscalls = since("go1.23")
	return s
}

// Goroutines counts goroutines by their stacks. One that moves while it is read is counted as running. The errors are
// [ErrGoroutines], [ErrGone] and [ErrStuck].
func (r *Reader) Goroutines(limits Limits) (*Goroutines, error) {
	sched := r.layout.scheduler
	if sched == nil {
		return nil, ErrGoroutines
	}
	limits = limits.orDefaults()
	return await(r, limits.Duration, func() (*Goroutines, error) { return r.goroutines(sched, limits) })
}

func (r *Reader) goroutines(sched *scheduler, limits Limits) (*Goroutines, error) {
	b := &budget{bytes: limits.Bytes, until: r.now().Add(limits.Duration), now: r.now}
	var slice [24]byte
	if _, err := r.mem.ReadAt(slice[:], int64(sched.all+r.bias)); err != nil {
		return nil, fmt.Errorf("reading the list of goroutines: %w", err)
	}
	le := binary.LittleEndian
	list, n, room := le.Uint64(slice[:]), le.Uint64(slice[8:]), le.Uint64(slice[16:])
	if n > room || list%8 != 0 || list > 1<<62 {
		return nil, fmt.Errorf("%w: a list of %d at %#x", ErrGoroutines, n, list)
	}
	out := &Goroutines{Complete: true}
	cut := func(reason error) { out.Complete, out.Reason = false, reason.Error() }
	if n > uint64(limits.Goroutines) {
		cut(fmt.Errorf("more than %d goroutines", limits.Goroutines))
		n = uint64(limits.Goroutines)
	}
	g := goroutine{mem: r.mem, sched: sched, budget: b}
	known := map[string]int{}
	var chunk [4096]byte
	for n > 0 {
		part := chunk[:min(n*8, uint64(len(chunk)))]
		if err := g.read(part, list); err != nil {
			if errors.Is(err, ErrGone) {
				return nil, err
			}
			cut(err)
			break
		}
		list, n = list+uint64(len(part)), n-uint64(len(part)/8)
		for ; len(part) > 0; part = part[8:] {
			state, err := g.walk(le.Uint64(part))
			switch {
			case errors.Is(err, ErrGone):
				return nil, err
			case errors.Is(err, errBytes) || errors.Is(err, errTime):
				cut(err)
				return out, nil
			case err != nil || state == moving:
				out.Running++ // or its memory is no goroutine's any more
				continue
			case state == absent:
				continue
			}
			i, ok := known[string(g.key)]
			if !ok {
				i = len(out.Stacks)
				known[string(g.key)] = i
				out.Stacks = append(out.Stacks, GoroutineStack{Stack: append([]uint64(nil), g.stack...)})
			}
			out.Stacks[i].Count++
		}
	}
	return out, nil
}

// goroutine reads one after the other.
type goroutine struct {
	mem    io.ReaderAt
	sched  *scheduler
	budget *budget

	stack []uint64
	key   []byte // the same in bytes

	before, after [maxGoroutine]byte
	buf           [1024]byte // most stacks are shorter
	parts         []piece    // what was read of the stack
	seen          []byte     // the bytes of all parts
}

// piece is a part of a stack.
type piece struct{ at, size uint64 }

const (
	absent = iota // never begun, or over
	moving
	standing
)

func (g *goroutine) read(b []byte, addr uint64) error {
	if err := g.budget.take(len(b)); err != nil {
		return err
	}
	if addr > 1<<62 {
		return fmt.Errorf("%w: %#x", errMemory, addr)
	}
	_, err := g.mem.ReadAt(b, int64(addr))
	return err
}

// walk follows the frame pointers of the goroutine at addr.
func (g *goroutine) walk(addr uint64) (state int, err error) {
	before, after := g.before[:], g.after[:]
	if err := g.read(before, addr); err != nil {
		return 0, err
	}
	le := binary.LittleEndian
	word := func(at int) uint64 { return le.Uint64(before[at:]) }
	switch le.Uint32(before[g.sched.status:]) &^ statusScan {
	case statusRunnable, statusWaiting, statusPreempted, statusLeaked:
	case statusSyscall:
		if !g.sched.syscalls {
			return moving, nil
		}
	case statusRunning, statusCopying:
		return moving, nil
	default:
		return absent, nil
	}
	low, high, sp, pc, fp := word(stackLow), word(stackHigh), word(schedSP), word(schedPC), word(g.sched.bp)
	if low >= high || high-low > maxGoroutineStack || sp < low || sp > high {
		return moving, nil
	}
	g.stack, g.key, g.parts, g.seen = g.stack[:0], g.key[:0], g.parts[:0], g.seen[:0]
	if fp == 0 {
		pc++ // it has not begun: what follows is the function's first instruction
	}
	g.push(pc)
	// On arm64 a frame's pointer is 8 below its stack pointer.
	var at uint64 // of what is in buf
	have := uint64(0)
	for fp != 0 && len(g.stack) < maxGoroutineFrames {
		if fp+8 < sp || fp > high-16 || fp%8 != 0 {
			return moving, nil
		}
		if fp < at || fp+16 > at+have {
			at, have = fp, min(uint64(len(g.buf)), high-fp)
			if err := g.read(g.buf[:have], at); err != nil {
				return 0, err
			}
			g.parts, g.seen = append(g.parts, piece{at, have}), append(g.seen, g.buf[:have]...)
		}
		next := le.Uint64(g.buf[fp-at:])
		if pc = le.Uint64(g.buf[fp-at+8:]); pc == 0 {
			break
		}
		g.push(pc)
		if next != 0 && next <= fp {
			return moving, nil
		}
		fp = next
	}
	// What it was must be what it is.
	if err := g.read(after, addr); err != nil {
		return 0, err
	}
	for _, f := range [][2]int{{stackLow, 16}, {schedSP, 16}, {g.sched.bp, 8}, {g.sched.status, 4}} {
		b, a := before[f[0]:][:f[1]], after[f[0]:][:f[1]]
		if string(b) != string(a) && !(f[0] == g.sched.status && (le.Uint32(b)^le.Uint32(a)) == statusScan) {
			return moving, nil
		}
	}
	// It may have run and come to stand at the same place: then its stack is another one.
	seen := g.seen
	for _, p := range g.parts {
		if err := g.read(g.buf[:p.size], p.at); err != nil {
			return 0, err
		}
		if !bytes.Equal(seen[:p.size], g.buf[:p.size]) {
			return moving, nil
		}
		seen = seen[p.size:]
	}
	return standing, nil
}

func (g *goroutine) push(pc uint64) {
	g.stack = append(g.stack, pc)
	g.key = binary.LittleEndian.AppendUint64(g.key, pc)
}
