// Package goheap reads the memory profile of a Go program from outside: which call stacks allocated, how much,
// and how much of it is still in use. The program is not stopped, gets no signal and need not know.
//
// Go's runtime samples an allocation every MemProfileRate bytes on average, from the start of every program, and
// counts by stack and size in buckets that it never frees and only pushes at the front of a list:
//
//	runtime.mbuckets ──▶ bucket ──allnext──▶ bucket ──▶ ... ──▶ nil
//
//	 0 next      8 allnext   16 typ (1: memory)   24 hash   32 size   40 nstk
//	48 nstk return addresses, the leaf first
//	   active       {allocs, frees, alloc_bytes, free_bytes}
//	   future [3]   the same, for collections to come
//
// [Find] learns from an executable file where the variables are, [Reader] walks the list in the memory of a process that
// runs it, [OpenMemory] opens that memory.
//
// # What is counted
//
// What runtime.MemProfile would answer at that moment. Allocations count at once and frees when they are swept, so the
// runtime publishes both only later, as of a collection's end: into active, by way of future[runtime.mProfCycle mod 3].
// A profile is therefore active plus that part, up to two collections old, and what is in use agrees with what the
// collector found alive. Before the first collection nothing is published: then everything counts, as in the runtime.
//
// # What is taken for true
//
// The process writes while we read. A bucket's header and stack never change, so they are read once. Its counts are read
// in one piece. Should the runtime begin to publish while we read, some buckets would be of one collection and some of the
// next: that is noticed (the number of the collection, or what was to be published is gone) and the walk begins again.
// Every pointer and number is checked, and what one walk may read is bounded: a hostile process can make its own profile
// wrong, and nothing else.
//
// # Goroutines
//
// [Reader.Goroutines] counts goroutines by stack: all of them are in one list, and one that is not on a CPU has left in
// runtime.g where it goes on, from where frame pointers lead to its beginning. It takes three reads a goroutine, 5 to 8 µs.
//
// Go 1.20 to 1.26 on amd64 and arm64. Sources: runtime/mprof.go, runtime/symtabinl.go, runtime/traceback.go and
// runtime/pprof/protomem.go of each release.
package goheap

import (
	"errors"
	"math"
)

// What callers may want to tell apart. All of them say what can be done.
var (
	ErrNotGo = errors.New("not a Go program")
	// ErrRemoved: nothing in the program can read a memory profile, so the linker has switched it off.
	ErrRemoved = errors.New("the linker has removed memory profiling, since nothing in the program reads it:" +
		" import net/http/pprof or refer to runtime.MemProfile, or set runtime.MemProfileRate first thing in main")
	// ErrOff: the program has set its rate to 0.
	ErrOff = errors.New("the program has switched memory profiling off: look for runtime.MemProfileRate in it, and for memprofilerate in its GODEBUG")
	// ErrLayout: the machine code of the runtime, or what lies in its memory, is unlike that of Go 1.20 to 1.26.
	ErrLayout = errors.New("this Go runtime keeps its memory profile in a way that is not known: Go 1.20 to 1.26 can be read")
	// ErrGone: the process has ended, or executes another program now.
	ErrGone = errors.New("the process has ended or executes another program: open it anew")
	// ErrStuck: a read of its memory does not return, since whoever has to provide that memory does not answer. What was begun is
	// waited for no longer; until it ends there is no other.
	ErrStuck = errors.New("a part of the process's memory does not answer: look for files of FUSE or NFS that it maps")
	// ErrPermission: the kernel does not let us read the process's memory.
	ErrPermission = errors.New("no permission to read the process's memory: run as root or with CAP_SYS_PTRACE, and see kernel.yama.ptrace_scope")
)

// Profile is what one walk has found.
type Profile struct {
	// Rate is the mean number of bytes between samples; at 1 everything has been counted.
	Rate int64
	// Buckets are in order of their addresses; new ones may come between. Several may have the same stack and differ by size. Buckets in which nothing is published yet are left out.
	Buckets []Bucket
	// Complete is false if buckets are missing; Reason says why.
	Complete bool
	Reason   string
	// Consistent is false if each walk that could be afforded met a collection: buckets may then be of two collections.
	Consistent bool
	// Anew says that the Reader knew nothing before: it is the first profile, or the list made no sense the last time and was read from its
	// beginning. Then nothing that is known of buckets from earlier profiles counts. Buckets that are missing in a profile that is not
	// Complete come in later ones, and what they count may be older than both.
	Anew bool
	// Early says that no collection has published anything yet, so that everything counts. The next profile may have
	// less: what a collection has published by then.
	Early bool
}

// Bucket counts the sampled allocations of one size by one stack since the program's start, as the runtime does.
type Bucket struct {
	// Addr is where it is in the process. It tells buckets apart, and stays the same until a profile is Anew.
	Addr uint64
	// Stack has the leaf first, in addresses of the process. Each is a return address: what it belongs to is found one
	// byte before it. There is one for each machine frame, from which inlined functions follow. (The runtime has one for
	// each inlined function, too; those are taken out. There are no marks of skipped frames: the runtime has none since
	// Go 1.20, and the one that begins block and mutex profiles since 1.23 does not occur here.)
	//
	// On top is the function that allocates and, since Go 1.26, what it calls in the runtime: mallocgc and, say,
	// makeslice. Allocations by the runtime for others, as in maps, have its frames in every version. runtime/pprof
	// leaves out leading functions whose names begin with "runtime." or, since Go 1.24, "internal/runtime/", unless that
	// would be all. At the bottom is runtime.goexit, if the stack is no deeper than what is recorded: 32 functions before
	// Go 1.23, 128 or what GODEBUG profstackdepth says since.
	//
	// It belongs to the Reader and must not be changed.
	Stack []uint64
	// Size is that of each object.
	Size int64

	Allocs, Frees         int64
	AllocBytes, FreeBytes int64
}

// Alloc estimates how many objects and bytes were allocated, as runtime/pprof does.
func (b *Bucket) Alloc(rate int64) (objects, bytes int64) {
	return scale(b.Allocs, b.AllocBytes, rate)
}

// InUse estimates how many objects and bytes of these were in use when the last collection that counts began.
func (b *Bucket) InUse(rate int64) (objects, bytes int64) {
	return scale(b.Allocs-b.Frees, b.AllocBytes-b.FreeBytes, rate)
}

// scale divides by the probability that an object of the mean size is sampled: 1-exp(-size/rate), for samples are
// drawn by a Poisson process over bytes.
func scale(objects, bytes, rate int64) (int64, int64) {
	if objects == 0 || bytes == 0 {
		return 0, 0
	}
	if rate <= 1 {
		return min(objects, maxHeap), min(bytes, maxHeap)
	}
	mean := float64(bytes) / float64(objects)
	factor := 1 / (1 - math.Exp(-mean/float64(rate)))
	return whole(float64(objects) * factor), whole(float64(bytes) * factor)
}

// maxHeap bounds what a hostile process says that it has, so that sums of it stay numbers: 256 TiB.
const maxHeap = 1 << 48

func whole(f float64) int64 { return int64(min(f, maxHeap)) }
