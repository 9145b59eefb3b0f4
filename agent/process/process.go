// Package process is the agent's one table of processes: what runs, what it maps, who it is. Sampler, heap,
// requests and security ask it and nothing else.
//
// It learns from the kernel's own records (perf_event mmap, comm, fork, exit) as they happen, and from one
// scan of /proc at start. A process that has ended stays known for a grace period, so that what was
// measured while it lived can still be named.
//
//	kernel ring of CPU 0 ─┐
//	kernel ring of CPU 1 ─┼─ merged by time ─▶ Table ─▶ Observer.Started, Mapped, Exited
//	/proc (start, losses) ────────────────────▲
//
// One execution of one program is one [Process], with its own generation: fork makes one (with the parent's
// mappings), exec makes one (with none, its mappings follow), threads are part of theirs. The kernel does
// not report munmap: a mapping holds until another one covers it or the process ends.
//
// All of this needs CAP_PERFMON (or CAP_SYS_ADMIN); looking into processes of others needs CAP_SYS_PTRACE,
// opening their files by mapping CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE.
package process

import (
	"cmp"
	"encoding/base64"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/perfuse/perfuse/profile"
)

// PID is a process (thread group) id in the agent's own pid namespace (the initial one).
type PID uint32

// FileID identifies a file as the kernel does, stable across mount namespaces. It is what the kernel's
// mmap records say; for what the scan of /proc finds, whose maps lack the generation, the table has the
// kernel make such a record (see identify.go), so that both sources give the same id for the same file.
type FileID struct {
	Dev   uint64 // MKDEV(major, minor) as the kernel encodes it: major<<20 | minor
	Inode uint64
	// Generation tells apart two files that had the same inode number one after the other. 0 if unknown.
	Generation uint32
}

// Mapping is an executable range of a process's memory.
type Mapping struct {
	Start, End uint64
	// Offset is where in the file the range begins, in bytes.
	Offset uint64
	// File is zero for memory without a file (JIT code, vDSO).
	File FileID
	// Path is the file's path in the process's own mount namespace, or a virtual name such as "[vdso]"
	// or "//anon".
	Path string
}

// Process is one execution of one program: an exec makes a new Process with the same PID. Its exported
// fields do not change after it is announced; its methods are safe for concurrent use.
type Process struct {
	PID    PID
	Parent PID
	// Generation numbers executions from 1; it is never used twice in one run of the agent.
	Generation uint32
	// StartTime is when this execution began: the exec or the fork. Of a process that was there before
	// the agent it is the start of the process (the time of its last exec is not known to anyone).
	StartTime time.Time
	// Comm is the kernel's name of the process (at most 15 bytes) when it started.
	Comm string
	// Executable is the path of the main program in its own mount namespace. Empty for kernel threads.
	Executable string
	// Kernel: a thread of the kernel. It has no mappings.
	Kernel bool

	table *Table
	// start, end, synced are CLOCK_MONOTONIC in nanoseconds: of the beginning; of the exit, 0 before it; of
	// the scan that read all there was, 0 if there was none.
	start, end, synced uint64
	older, newer       *Process // of the same PID, guarded by Table.mu

	// Owned by the table's goroutine.
	threads    int
	leaderGone bool
	born       uint64 // start of the process, which execs do not change; CLOCK_BOOTTIME, nanoseconds, 0 if unknown

	mu       sync.Mutex
	comm     string // as it is now
	mappings []Mapping
	shared   bool // mappings is shared with another process: copy before changing it
	identity *identity

	described sync.Once
	labels    profile.Labels
	dropped   bool
}

// ExecID identifies this execution across nodes and restarts: base64 of node, start time and pid.
func (p *Process) ExecID() string {
	b := append([]byte(p.table.opts.Node), ':')
	b = strconv.AppendInt(b, p.StartTime.UnixNano(), 10)
	b = append(b, ':')
	b = strconv.AppendUint(b, uint64(p.PID), 10)
	return base64.StdEncoding.EncodeToString(b)
}

// Exited says whether the process has ended (or is another program now).
func (p *Process) Exited() bool {
	p.table.mu.RLock()
	defer p.table.mu.RUnlock()
	return p.end != 0
}

// Mappings returns the executable mappings, sorted by address; the caller must not change them.
func (p *Process) Mappings() []Mapping {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shared = true
	return p.mappings
}

// Mapping returns the mapping that holds an address of the process.
func (p *Process) Mapping(addr uint64) (Mapping, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i, ok := slices.BinarySearchFunc(p.mappings, addr, func(m Mapping, a uint64) int { return cmp.Compare(m.Start, a) })
	if !ok {
		i--
	}
	if i < 0 || addr >= p.mappings[i].End {
		return Mapping{}, false
	}
	return p.mappings[i], true
}

// addMapping puts m over whatever was in its range. It returns false if m was there already or if there
// are more than limit mappings.
func (p *Process) addMapping(m Mapping, limit int) (added, full bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// The first mapping that ends after m starts, and the first that starts at or after m's end.
	lo := search(p.mappings, func(o *Mapping) bool { return o.End > m.Start })
	hi := search(p.mappings, func(o *Mapping) bool { return o.Start >= m.End })
	if hi == lo+1 && p.mappings[lo] == m {
		return false, false
	}
	var keep [2]Mapping
	n := 0
	if lo < hi {
		if o := p.mappings[lo]; o.Start < m.Start {
			o.End = m.Start
			keep[n], n = o, n+1
		}
	}
	before := n
	if lo < hi {
		if o := p.mappings[hi-1]; o.End > m.End {
			if o.File != (FileID{}) {
				o.Offset += m.End - o.Start
			}
			o.Start = m.End
			keep[n], n = o, n+1
		}
	}
	if len(p.mappings)-(hi-lo)+n+1 > limit {
		return false, true
	}
	if p.shared {
		p.mappings, p.shared = slices.Clone(p.mappings), false
	}
	replace := append(make([]Mapping, 0, 3), keep[:before]...)
	replace = append(replace, m)
	replace = append(replace, keep[before:n]...)
	p.mappings = slices.Replace(p.mappings, lo, hi, replace...)
	return true, false
}

// search returns the index of the first mapping for which f is true; f is false before it and true after.
func search(ms []Mapping, f func(*Mapping) bool) int {
	lo, hi := 0, len(ms)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if f(&ms[mid]) {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo
}

// share gives a fork the mappings of its parent.
func (p *Process) share() []Mapping {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shared = true
	return p.mappings
}
