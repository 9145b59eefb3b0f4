package heap

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/perfuse/perfuse/agent/process"
	"github.com/perfuse/perfuse/profile"
)

func goProgram(t *testing.T) string {
	return build(t, "heap", "go", "build", "-o", "OUT", "./goheap/testdata/heap")
}

// openMemories counts the descriptors of other processes' memory.
func openMemories(t *testing.T) (n int) {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if to, err := os.Readlink("/proc/self/fd/" + f.Name()); err == nil && strings.HasSuffix(to, "/mem") {
			n++
		}
	}
	return n
}

// TestTooManyGo: programs beyond the limit are said to be so, and have their turn when others end.
func TestTooManyGo(t *testing.T) {
	r := newRig(t, Options{Interval: 10 * time.Millisecond, MaxGo: 2})
	r.run()
	const why = "there are more than 2 Go programs on this node"
	state := func(told, without int) func() bool {
		return func() bool {
			st := r.Stats()
			return st.Go == told && st.Without[why] == without && (without > 0) == (len(st.Without) > 0)
		}
	}
	var programs []*program
	for range 4 {
		programs = append(programs, r.start(goProgram(t), "1"))
	}
	r.until("two are read and two are not", state(2, 2))
	if got := openMemories(t); got != 2 {
		t.Errorf("the memory of %d processes is open, want 2", got)
	}
	programs[3].kill()
	r.until("two are read and one is not", state(2, 1))
	if got := r.Stats().Ended[why]; got != 1 {
		t.Errorf("%d have ended without a profile, want 1", got)
	}
	programs[0].kill()
	r.until("the last two are read", state(2, 0))
	if got := r.Stats().Ended[why]; got != 1 {
		t.Errorf("%d have ended without a profile, want 1: those that ended later had one", got)
	}
	if strings.Count(r.logged(), why) != 1 {
		t.Errorf("want one line about the limit, got\n%s", r.logged())
	}
}

// TestTooManyRemoved: those that tell nothing are held open, too, and count.
func TestTooManyRemoved(t *testing.T) {
	removed := build(t, "removed", "go", "build", "-o", "OUT", "./goheap/testdata/removed")
	r := newRig(t, Options{Interval: 10 * time.Millisecond, MaxGo: 2})
	r.run()
	for range 4 {
		r.start(removed)
	}
	r.until("two are too many", func() bool { return r.Stats().Without["there are more than 2 Go programs on this node"] == 2 })
	if got := openMemories(t); got != 2 {
		t.Errorf("the memory of %d processes is open, want 2", got)
	}
}

// TestReasons: a program that has no profile has a reason, alive and afterwards, and of one program there is one line.
func TestReasons(t *testing.T) {
	removed := build(t, "removed", "go", "build", "-o", "OUT", "./goheap/testdata/removed")
	r := newRig(t, Options{Interval: 10 * time.Millisecond})
	r.run()
	const why = "the linker has removed memory profiling"
	p, q := r.start(removed), r.start(removed)
	r.until("both are without a profile", func() bool { _, n := reason(r.Stats().Without, why); return n == 2 })
	p.kill()
	q.kill()
	r.until("both have ended without one", func() bool {
		_, with := reason(r.Stats().Without, why)
		_, ended := reason(r.Stats().Ended, why)
		return with == 0 && ended == 2
	})
	if got := r.Stats().Reasons(); !strings.HasPrefix(got, "2: "+why) {
		t.Errorf("the reasons are %q", got)
	}
	if got := strings.Count(r.logged(), why); got != 1 {
		t.Errorf("there are %d lines, want one:\n%s", got, r.logged())
	}
}

// TestNativeReasons: the same of allocators; of a Go program, which has a heap of its own, nothing is said.
func TestNativeReasons(t *testing.T) {
	none := build(t, "none", "gcc", "-O2", "-static", "-s", "-o", "OUT", "testdata/none.c")
	o := Options{Interval: 20 * time.Millisecond}
	var r *rig
	o.Native.Select = func(p *process.Process) bool { return r.isMine(p) }
	r = newRig(t, o)
	if r.native == nil {
		t.Skipf("allocators cannot be probed here:\n%s", r.logged())
	}
	r.run()
	p := r.start(none)
	own := r.start(goProgram(t), "1")
	one := func(in map[string]int) bool {
		n := 0
		for why, m := range in {
			if strings.Contains(why, "allocator") {
				n += m
			}
		}
		return n == 1 && len(in) == 1
	}
	r.until("one has no profile, the other has one", func() bool { return one(r.Stats().Without) && r.Stats().Go == 1 })
	p.kill()
	own.kill()
	r.until("it has ended without one", func() bool { return len(r.Stats().Without) == 0 && one(r.Stats().Ended) })
}

// TestDies ends programs while they are looked at all the time: nothing is left of them, and nothing is said, for there is
// nothing wrong.
func TestDies(t *testing.T) {
	r := newRig(t, Options{Interval: time.Millisecond})
	r.run()
	path := goProgram(t)
	for range 3 {
		var programs []*program
		for range 5 {
			p := r.start(path, "1")
			p.do("wide 3000") // so that a look is in one of them for most of the time
			p.do("gc")
			programs = append(programs, p)
		}
		r.until("they are read", func() bool { return r.Stats().Go == len(programs) })
		for _, p := range programs {
			before := r.Stats().Walks
			r.until("there is a new look", func() bool { return r.Stats().Walks > before })
			p.kill()
		}
		r.until("they are gone", func() bool { return r.Stats().Go == 0 })
	}
	st := r.Stats()
	if len(st.Without) > 0 || len(st.Ended) > 0 || r.logged() != "" {
		t.Errorf("want no reasons, got %v, %v and\n%s", st.Without, st.Ended, r.logged())
	}
	if got := openMemories(t); got != 0 {
		t.Errorf("the memory of %d processes is still open", got)
	}
	if r.toldOf("go", profile.TypeInuseSpace) == 0 {
		t.Error("no profile has come")
	}
}

// TestForgets: of processes that have ended nothing stays.
func TestForgets(t *testing.T) {
	r := newRig(t, Options{})
	path := goProgram(t)
	known := map[uint32]*candidate{}
	look := func() {
		now := time.Now().Add(time.Minute) // nothing is young
		r.look(context.Background(), known, now, now)
	}
	var programs []*program
	for range 20 {
		programs = append(programs, r.start(path, "1"))
	}
	if err := r.table.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	look()
	if got := r.Stats().Go; got != 20 {
		t.Fatalf("%d programs are read, want 20", got)
	}
	for _, p := range programs {
		p.kill()
	}
	if err := r.table.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	look()
	for _, c := range known {
		if r.isMine(c.process) {
			t.Errorf("process %d has ended and is still known", c.process.PID)
		}
	}
	for _, c := range r.all() {
		if r.isMine(c.process) {
			t.Errorf("process %d has ended and is still looked at", c.process.PID)
		}
	}
	if got := openMemories(t); got != 0 {
		t.Errorf("the memory of %d processes is still open", got)
	}
}

// TestBounds: what is remembered of files and reasons has an end.
func TestBounds(t *testing.T) {
	h := &Heap{files: map[process.FileID]*file{}}
	begin := time.Unix(0, 0)
	for i := range maxFiles {
		h.files[process.FileID{Inode: uint64(i)}] = &file{used: begin.Add(time.Duration(i))}
	}
	h.forgetFiles()
	if len(h.files) > maxFiles/2 || len(h.files) < maxFiles/2-2 || h.files[process.FileID{Inode: maxFiles - 1}] == nil {
		t.Errorf("%d files are left of %d, want the newer half", len(h.files), maxFiles)
	}
	// All used at once, as by the first look at a large machine.
	for _, f := range h.files {
		f.used = begin
	}
	if h.forgetFiles(); len(h.files) != 0 {
		t.Errorf("%d files are left, want none: no one is older", len(h.files))
	}
	reasons := map[string]int{}
	for i := range 2 * maxSaid {
		addReason(reasons, &os.SyscallError{Syscall: string(rune('a' + i)), Err: os.ErrInvalid})
	}
	if len(reasons) != maxSaid {
		t.Errorf("%d reasons are kept, want %d", len(reasons), maxSaid)
	}
}
