// Package process is the agent's one table of processes: what runs, what it maps, who it is. Sampler, heap,
// requests and security ask it and nothing else.
//
// It learns from the kernel's own records (perf_event mmap, comm, fork, exit) as they happen, and from one
// scan of /proc at start. A process that has ended stays known for a grace period, so that what was
// measured while it lived can still be named.
package process

import (
	"time"

	"github.com/perfuse/perfuse/profile"
)

// PID is a process (thread group) id in the agent's own pid namespace (the initial one).
type PID uint32

// FileID identifies a file as the kernel does, stable across mount namespaces.
type FileID struct {
	Dev        uint64 // MKDEV(major, minor) as the kernel encodes it: major<<20 | minor
	Inode      uint64
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
// fields do not change after it is announced.
type Process struct {
	PID    PID
	Parent PID
	// Generation numbers executions; it is never used twice in one run of the agent.
	Generation uint32
	// ExecID identifies this execution across nodes and restarts: base64 of node, start time and pid.
	ExecID    string
	StartTime time.Time
	// Comm is the kernel's name of the process (at most 15 bytes).
	Comm string
	// Executable is the path of the main program in its own mount namespace.
	Executable string
	// Labels are those of section "Labels" of the design, relabelled.
	Labels profile.Labels
}
