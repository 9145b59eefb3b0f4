package native

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/perfuse/perfuse/agent/process"
	"github.com/perfuse/perfuse/bpf/memory"
	"github.com/perfuse/perfuse/profile"
)

// TestEnds lets a watched process end: nothing of it stays, here nor in the kernel.
func TestEnds(t *testing.T) {
	r := newRig(t, Options{Rate: testRate, RingBytes: 1 << 22})
	x := r.start(t, nil, compile(t, "truth.c", "gcc", "-O1"), true)
	x.ask(t, "live", 20)
	r.collect(t)
	sites := x.ask(t, "churn", 40)
	if n := r.remembered(t); n == 0 {
		t.Fatal("the kernel side remembers nothing")
	}
	x.in.Close()
	r.until(t, func() bool { return len(r.heapsNow(t)) == 0 })
	b := r.collect(t)
	got := bySite(r.stacks(t, b, profile.TypeAllocSpace, os.Getpid()), sites)
	near(t, "allocated last", got["site_churn"], sites["site_churn"].allocated, testRate)
	if live := r.stacks(t, b, profile.TypeInuseSpace, os.Getpid()); len(live) > 0 {
		t.Errorf("of what has ended is live: %v", live)
	}
	if err := r.sweep(); err != nil {
		t.Fatal(err)
	}
	st, err := r.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if n := r.remembered(t); n != 0 || st.Live != 0 || st.Stacks != 0 || st.Processes != 0 {
		t.Errorf("after the process has ended the kernel side remembers %d samples, and here is %+v", n, st)
	}
}

// remembered counts what the kernel side remembers until it is freed.
func (r *rig) remembered(t *testing.T) (n int) {
	t.Helper()
	var key memory.Key
	var value memory.Live
	it := r.programs.Live.Iterate()
	for it.Next(&key, &value) {
		n++
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestExec has a watched process become another program, while it still has the old one's probes.
func TestExec(t *testing.T) {
	for _, kernel := range kernels {
		t.Run(kernel.String(), func(t *testing.T) {
			r := newRig(t, kernel.with(Options{Rate: testRate, RingBytes: 1 << 22}))
			x := r.start(t, nil, compile(t, "truth.c", "gcc", "-O1"), true)
			pid := process.PID(x.cmd.Process.Pid)
			x.ask(t, "live", 20)
			before := r.heapOf(t, pid).Process.Generation
			if _, err := fmt.Fprintln(x.in, "exec 0"); err != nil {
				t.Fatal(err)
			}
			x.ask(t, "hello", 0)
			if err := r.table.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.until(t, func() bool {
				for _, h := range r.heapsNow(t) {
					if h.Process.PID == pid && h.Process.Generation != before && len(h.Files) > 0 {
						return true
					}
				}
				return false
			})
			if err := r.sampler.Settle(t.Context()); err != nil {
				t.Fatal(err)
			}
			sites := x.ask(t, "live", 60)
			live := bySite(r.stacks(t, r.collect(t), profile.TypeInuseSpace, int(pid)), sites)
			total, want := 0.0, 0.0
			for name := range sites {
				total += live[name]
				if name != "truth" {
					want += sites[name].live
				}
			}
			near(t, "all live", total, want, testRate)
			x.ask(t, "drop", 0)
			if live := bySite(r.stacks(t, r.collect(t), profile.TypeInuseSpace, int(pid)), sites); live["site_small"]+live["site_realloc"] > 0 {
				t.Errorf("all is freed, and live is %v", live)
			}
		})
	}
}

// TestFork has a watched process fork: the copy is a process of its own, which was not chosen.
func TestFork(t *testing.T) {
	for _, kernel := range kernels {
		t.Run(kernel.String(), func(t *testing.T) {
			r := newRig(t, kernel.with(Options{Rate: testRate, RingBytes: 1 << 22}))
			x := r.start(t, nil, compile(t, "truth.c", "gcc", "-O1"), true)
			x.ask(t, "live", 60)
			before := r.stacks(t, r.collect(t), profile.TypeInuseSpace, x.cmd.Process.Pid)
			x.ask(t, "fork", 20)
			b := r.collect(t)
			if after := r.stacks(t, b, profile.TypeInuseSpace, x.cmd.Process.Pid); !maps.Equal(before, after) {
				t.Errorf("before the fork %v were live, after it %v", before, after)
			}
			if did := r.stacks(t, b, profile.TypeAllocSpace, x.cmd.Process.Pid); len(did) > 0 {
				t.Errorf("what the copy allocates counts for the process: %v", did)
			}
			sites := x.ask(t, "drop", 0)
			for name, bytes := range bySite(r.stacks(t, r.collect(t), profile.TypeInuseSpace, x.cmd.Process.Pid), sites) {
				if name != "" && bytes > 0 {
					t.Errorf("all is freed, and %.0f bytes of %s are live", bytes, name)
				}
			}
		})
	}
}

// TestContainer watches a process with a root directory and namespaces of its own.
func TestContainer(t *testing.T) {
	r := newRig(t, Options{Rate: testRate, RingBytes: 1 << 22})
	path := compile(t, "truth.c", "gcc", "-O1", "-static")
	r.attr = &syscall.SysProcAttr{Chroot: filepath.Dir(path), Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	x := r.start(t, nil, "/"+filepath.Base(path), true)
	sites := x.ask(t, "live", 60)
	delete(sites, "truth")
	live := bySite(r.stacks(t, r.collect(t), profile.TypeInuseSpace, x.cmd.Process.Pid), sites)
	total, want := 0.0, 0.0
	for name := range sites {
		total += live[name]
		want += sites[name].live
	}
	near(t, "all live", total, want, testRate)
}

// TestLost has a ring of one page that nobody reads: most records are lost, and what is live is right all the same
// after two sweeps.
func TestLost(t *testing.T) {
	r := newRig(t, Options{Rate: testRate, RingBytes: uint32(os.Getpagesize()), Poll: time.Hour, Sweep: time.Hour})
	x := r.start(t, nil, compile(t, "truth.c", "gcc", "-O1"), true)
	pid := x.cmd.Process.Pid
	x.ask(t, "live", 1)
	r.collect(t)
	x.ask(t, "churn", 10)
	x.ask(t, "drop", 0)
	sites := x.ask(t, "churn", 10)
	st, err := r.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if st.Drops["ring full"] == 0 || st.Drops["free: ring full"] == 0 {
		t.Fatalf("nothing was lost: %v", st.Drops)
	}
	live := func() float64 {
		return bySite(r.stacks(t, r.collect(t), profile.TypeInuseSpace, pid), sites)["site_small"]
	}
	if live() == 0 {
		t.Error("all frees have come")
	}
	for range 2 {
		if err := r.sweep(); err != nil {
			t.Fatal(err)
		}
	}
	if got := live(); got != 0 {
		t.Errorf("%.0f bytes are live after all was freed", got)
	}
	if n := r.remembered(t); n != 0 {
		t.Errorf("the kernel side remembers %d samples of what was freed", n)
	}
	if st, err = r.Stats(); err != nil || st.Reclaimed == 0 {
		t.Errorf("%+v, %v: nothing is counted as reclaimed", st, err)
	}
}

// TestThreads samples nearly every allocation of many threads on few processors, whose walks interrupt each other: a
// stack that was mixed from two would be at no site.
func TestThreads(t *testing.T) {
	r := newRig(t, Options{Rate: 512, RingBytes: 1 << 26})
	x := r.start(t, nil, compile(t, "truth.c", "gcc", "-O1", "-pthread"), true)
	sites := x.ask(t, "threads", 0)
	for range 3 {
		sites = x.ask(t, "threads", 0)
	}
	stacks := r.stacks(t, r.collect(t), profile.TypeAllocObjects, x.cmd.Process.Pid)
	objects, other := 0.0, 0.0
	for stack, n := range stacks {
		if strings.Contains(stack, ";site_thread;thread;") && !strings.Contains(stack, "[unwind") {
			objects += n
		} else if other += n; n > 200 {
			t.Logf("%s: %.0f", stack, n)
		}
	}
	want := sites["site_thread"].allocated / 700
	t.Logf("%.0f of %.0f objects at their site, %.0f at others", objects, want, other)
	// What a thread's start allocates is at others.
	if math.Abs(objects/want-1) > 0.02 || other > want/100 {
		t.Errorf("%.0f objects at their site, want %.0f; %.0f at others: %v", objects, want, other, stacks)
	}
	st, err := r.Stats()
	if err != nil || st.Drops["too many walks at once"] > 0 || st.Drops["ring full"] > 0 {
		t.Errorf("%+v, %v", st, err)
	}
}

// TestPreempted has threads that take the processor from others in the midst of a walk, and walk themselves: no stack may
// be of both. Where the kernel is not built to preempt itself (preempt=none) nobody is interrupted there.
func TestPreempted(t *testing.T) {
	r := newRig(t, Options{Rate: 256, RingBytes: 1 << 26, Poll: 20 * time.Millisecond})
	x := r.start(t, nil, compile(t, "truth.c", "gcc", "-O0", "-pthread"), true) // without tail calls
	if sites := x.ask(t, "storm", 5000); sites["hurried"].live == 0 {
		t.Skip("no thread can have a real-time class here")
	}
	var calm, hurried, other float64
	for stack, n := range r.stacks(t, r.collect(t), profile.TypeAllocObjects, x.cmd.Process.Pid) {
		a, b := strings.Count(stack, "site_calm"), strings.Count(stack, "site_hurry")
		switch {
		case a == 101 && b == 0 && !strings.Contains(stack, "[unwind"):
			calm += n
		case a == 0 && b == 21 && !strings.Contains(stack, "[unwind"):
			hurried += n
		case a+b > 0:
			other += n
			t.Errorf("%.0f times %s", n, stack)
		}
	}
	st, err := r.Stats()
	t.Logf("%.0f calm, %.0f hurried; %+v, %v", calm, hurried, st, err)
	if calm < 1000 || math.Abs(hurried/10000-1) > 0.1 {
		t.Errorf("%.0f objects of calm threads, %.0f of hurried ones, want 10000", calm, hurried)
	}
	if st.Drops["too many walks at once"] > 0 {
		t.Errorf("%d walks found no memory", st.Drops["too many walks at once"])
	}
}

// TestLater gives a process that is watched an allocator more.
func TestLater(t *testing.T) {
	plugin := compile(t, "plugin.c", "gcc", "-O1", "-fno-builtin", "-shared", "-fPIC", "-Wl,-Bsymbolic")
	r := newRig(t, Options{Rate: testRate, RingBytes: 1 << 22})
	x := r.start(t, []string{"PLUGIN=" + plugin}, compile(t, "truth.c", "gcc", "-O1"), true)
	x.ask(t, "dlopen", 0)
	pid := process.PID(x.cmd.Process.Pid)
	r.until(t, func() bool { return len(r.heapOf(t, pid).Files) == 2 })
	if err := r.sampler.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	sites := x.ask(t, "plugin", 40)
	sites["site_plugin"] = amounts{}
	got := bySite(r.stacks(t, r.collect(t), profile.TypeInuseSpace, int(pid)), sites)
	near(t, "site_plugin live", got["site_plugin"], 40<<20, testRate) // its calloc calls malloc: counted once
}

// TestAllocOnly leaves out frees.
func TestAllocOnly(t *testing.T) {
	r := newRig(t, Options{Rate: testRate, RingBytes: 1 << 22, AllocOnly: true})
	x := r.start(t, nil, compile(t, "truth.c", "gcc", "-O1"), true)
	sites := x.ask(t, "churn", 40)
	b := r.collect(t)
	got := bySite(r.stacks(t, b, profile.TypeAllocSpace, x.cmd.Process.Pid), sites)
	near(t, "site_churn allocated", got["site_churn"], sites["site_churn"].allocated, testRate)
	if live := r.stacks(t, b, profile.TypeInuseSpace, x.cmd.Process.Pid); len(live) > 0 || r.remembered(t) > 0 {
		t.Errorf("without frees nothing is known to be live, and it says %v", live)
	}
}

// TestNoAllocator watches a program whose allocator has no name: it is said so, not shown as empty.
func TestNoAllocator(t *testing.T) {
	r := newRig(t, Options{Rate: testRate})
	x := r.start(t, nil, compile(t, "truth.c", "gcc", "-O1", "-static", "-s"), false)
	r.mu.Lock()
	r.chosen[process.PID(x.cmd.Process.Pid)] = true
	r.mu.Unlock()
	// It has been seen and was not chosen: as if it came now.
	if err := r.table.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := r.table.Lookup(process.PID(x.cmd.Process.Pid), time.Now())
	if p == nil {
		t.Fatal("the process is not known")
	}
	r.Started(p, nil)
	r.until(t, func() bool { return len(r.heapsNow(t)) == 1 })
	if h := r.heapOf(t, p.PID); !errors.Is(h.Err, errNoAllocator) {
		t.Errorf("got reason %v", h.Err)
	}
}

// TestIncomplete has a process of which one file cannot be read: it has a profile, and that says so.
func TestIncomplete(t *testing.T) {
	path := compile(t, "truth.c", "gcc", "-O1")
	r := newRig(t, Options{Rate: testRate})
	r.unreadable = path
	x := r.start(t, nil, path, true)
	x.ask(t, "live", 10)
	h := r.heapOf(t, process.PID(x.cmd.Process.Pid))
	if h.Err != nil || h.Incomplete == nil || !strings.Contains(h.Incomplete.Error(), path) || len(h.Sites) == 0 {
		t.Errorf("%d stacks, no profile: %v, incomplete: %v", len(h.Sites), h.Err, h.Incomplete)
	}
	if st, err := r.Stats(); err != nil || len(st.Without) > 0 || len(st.Incomplete) != 1 {
		t.Errorf("%+v, %v", st, err)
	}
}

// choose has a process watched that was started without.
func (r *rig) choose(t *testing.T, x *target) process.PID {
	t.Helper()
	pid := process.PID(x.cmd.Process.Pid)
	r.mu.Lock()
	r.chosen[pid] = true
	r.mu.Unlock()
	if err := r.table.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := r.table.Lookup(pid, time.Now())
	if p == nil {
		t.Fatal("the process is not known")
	}
	r.Started(p, nil) // it was not chosen before: as if it came now
	return pid
}

// watchOf returns what is watched of a process.
func (r *rig) watchOf(pid process.PID) *watch {
	r.Profiler.mu.Lock()
	defer r.Profiler.mu.Unlock()
	for _, w := range r.watched {
		if w.process.PID == pid {
			return w
		}
	}
	return nil
}

// TestUnwinds leaves programs alone that take stack traces where they allocate, and says so.
func TestUnwinds(t *testing.T) {
	r := newRig(t, Options{Rate: testRate})
	for _, how := range []string{"-static-libasan", "-shared-libasan"} {
		command := []string{"gcc", "-O1", "-fsanitize=address", how}
		if how == "-shared-libasan" {
			command = command[:3]
		}
		x := r.start(t, []string{"ASAN_OPTIONS=detect_leaks=0"}, compile(t, "truth.c", command...), false)
		pid := r.choose(t, x)
		r.until(t, func() bool { w := r.watchOf(pid); return w != nil && w.stopped })
		h := r.heapOf(t, pid)
		if w := r.watchOf(pid); !errors.Is(h.Err, errUnwinds) || len(h.Files) > 0 || len(w.links) > 0 {
			t.Errorf("%s: got reason %v, %v", how, h.Err, h.Files)
		}
		x.ask(t, "churn", 1)
	}
}

// TestLinks counts descriptors by what the kernel can: they are what takes long to go away.
func TestLinks(t *testing.T) {
	path := compile(t, "truth.c", "gcc", "-O1", "-static")
	f := func(o Options, least, most int) {
		t.Helper()
		r := newRig(t, o)
		x := r.start(t, nil, path, true)
		if n := len(r.watchOf(process.PID(x.cmd.Process.Pid)).links); n < least || n > most {
			t.Errorf("%d descriptors, want %d to %d", n, least, most)
		}
	}
	f(Options{}, 1, 2)
	f(Options{noSession: true}, 2, 2)
	f(Options{noSession: true, noMulti: true}, 10, 100)
}

// TestPlaces has more processes than can be watched. One waits, with a reason, until the other's probes are gone.
func TestPlaces(t *testing.T) {
	r := newRig(t, Options{Rate: testRate, MaxProcesses: 1, noSession: true})
	path := compile(t, "truth.c", "gcc", "-O1")
	a, b := r.start(t, nil, path, false), r.start(t, nil, path, false)
	first := r.choose(t, a)
	r.until(t, func() bool { w := r.watchOf(first); return w != nil && len(r.heapOf(t, first).Files) > 0 })
	second := r.choose(t, b)
	waits := func() bool {
		r.Profiler.mu.Lock()
		defer r.Profiler.mu.Unlock()
		return len(r.waiting) == 1 && len(r.byID)+r.closing == 1
	}
	r.until(t, waits)
	if h := r.heapOf(t, second); h.Err == nil || !strings.Contains(h.Err.Error(), "more processes are chosen") {
		t.Errorf("got reason %v", h.Err)
	}
	if st, err := r.Stats(); err != nil || st.Refused == 0 || st.Processes != 1 || len(st.Without) != 1 {
		t.Errorf("%+v, %v", st, err)
	}
	r.oneByOne.Lock() // the kernel takes its time
	a.in.Close()
	r.until(t, func() bool { return r.watchOf(first) == nil })
	if !waits() || r.watchOf(second) != nil {
		t.Error("probes that are being taken away do not count")
	}
	r.oneByOne.Unlock()
	r.until(t, func() bool { w := r.watchOf(second); return w != nil && len(r.heapOf(t, second).Files) > 0 })
	b.ask(t, "live", 10)
	if h := r.heapOf(t, second); len(h.Sites) == 0 || h.Err != nil {
		t.Errorf("%d stacks, %v", len(h.Sites), h.Err)
	}
}

// TestDetach ends while the kernel takes long to take probes away: nobody waits for that.
func TestDetach(t *testing.T) {
	r := newRig(t, Options{})
	x := r.start(t, nil, compile(t, "truth.c", "gcc", "-O1"), true)
	r.oneByOne.Lock()
	done := make(chan struct{})
	go func() {
		r.detach()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(closeTime + 20*time.Second):
		t.Error("it waits for the kernel")
	}
	calls := r.programs.Calls
	before, err := calls(1)
	x.pairs(t, 1000)
	after, err2 := calls(1)
	if before != after || err != nil || err2 != nil {
		t.Errorf("%d calls are heeded after the end; %v, %v", after-before, err, err2)
	}
	r.oneByOne.Unlock()
	r.closers.Wait()
}

// TestReads has samples of one process come while another's files are searched: they are taken off the ring.
func TestReads(t *testing.T) {
	r := newRig(t, Options{Rate: testRate, Poll: time.Hour, Sweep: time.Hour, RingBytes: 1 << 22})
	path := compile(t, "truth.c", "gcc", "-O1")
	a, b := r.start(t, nil, path, true), r.start(t, nil, path, false)
	w := r.watchOf(process.PID(a.cmd.Process.Pid))
	a.ask(t, "live", 10)
	pid := r.choose(t, b)
	r.until(t, func() bool { return r.watchOf(pid) != nil })
	r.Profiler.mu.Lock()
	defer r.Profiler.mu.Unlock()
	if len(w.heap.live) == 0 {
		t.Error("nobody has read the ring")
	}
}

// TestBusy has a process that allocates too often: it is left alone, and that is said. It is not judged by a moment.
func TestBusy(t *testing.T) {
	r := newRig(t, Options{Sweep: time.Hour})
	path := compile(t, "truth.c", "gcc", "-O1")
	x := r.start(t, nil, path, true)
	pid := process.PID(x.cmd.Process.Pid)
	x.ask(t, "churn", 50)
	probed := x.pairs(t, 100000)
	sweep := func(since time.Duration) {
		t.Helper()
		w := r.watchOf(pid)
		r.Profiler.mu.Lock()
		w.judged = time.Now().Add(-since)
		r.Profiler.mu.Unlock()
		if err := r.sweep(); err != nil {
			t.Fatal(err)
		}
	}
	sweep(time.Millisecond)
	sweep(10 * time.Second)
	// 50 MB by the KiB, and the pairs, each with its free.
	calls := 2.0 * (50*1024 + 100000)
	if h := r.heapOf(t, pid); h.Err != nil || math.Abs(float64(h.Calls)/calls-1) > 0.01 {
		t.Errorf("%v, %d calls, want %.0f", h.Err, h.Calls, calls)
	}
	r.Profiler.mu.Lock()
	r.opts.MaxCalls = calls/(31*60) - 1 // in half of the time between sweeps
	r.Profiler.mu.Unlock()
	sweep(31 * time.Minute)
	r.closers.Wait()
	h := r.heapOf(t, pid)
	if !errors.Is(h.Err, errBusy) || len(h.Files) > 0 || len(h.Sites) > 0 {
		t.Errorf("got %+v", h)
	}
	if bare := x.pairs(t, 100000); bare > probed/2 {
		t.Errorf("a pair took %.0f ns with probes, and %.0f without", probed, bare)
	}
	x.ask(t, "live", 10)
	if h := r.heapOf(t, pid); len(h.Sites) > 0 {
		t.Errorf("it is left alone, and has %v", h.Sites)
	}

	// When it ends, another one has its number.
	busy := r.watchOf(pid)
	r.Profiler.mu.Lock()
	r.lastID = busy.id + memory.Watches - 1
	r.Profiler.mu.Unlock()
	y := r.start(t, nil, path, false)
	other := r.choose(t, y)
	r.until(t, func() bool { w := r.watchOf(other); return w != nil && len(r.heapOf(t, other).Files) > 0 })
	if a, b := r.watchOf(pid).id%memory.Watches, r.watchOf(other).id%memory.Watches; a != b {
		t.Fatalf("the one has place %d, the other %d", a, b)
	}
	x.in.Close()
	r.until(t, func() bool { return r.watchOf(pid) == nil })
	y.ask(t, "live", 10)
	if h := r.heapOf(t, other); len(h.Sites) == 0 {
		t.Error("the end of one has silenced the other")
	}
}

// TestGuard has a process that is near what is left alone if nobody says so: with others beside it, it is beyond.
func TestGuard(t *testing.T) {
	r := newRig(t, Options{})
	path := compile(t, "truth.c", "gcc", "-O1")
	x := r.start(t, nil, path, true)
	pid := process.PID(x.cmd.Process.Pid)
	const calls = 200_000
	x.pairs(t, calls/2)
	if err := r.sweep(); err != nil {
		t.Fatal(err)
	}
	judge := func() error {
		t.Helper()
		w := r.watchOf(pid)
		r.Profiler.mu.Lock()
		w.judged, w.judgedCalls = time.Now().Add(-judgeTime), 0
		w.base -= 5*450_000 - calls // as if there had been more
		err := r.count(w)
		w.base += 5*450_000 - calls
		r.Profiler.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		return r.heapOf(t, pid).Err
	}
	if err := judge(); err != nil {
		t.Errorf("alone: %v", err)
	}
	for range 2 {
		r.start(t, nil, path, true)
	}
	if err := judge(); !errors.Is(err, errBusy) {
		t.Errorf("among others: got reason %v", err)
	}
}

const diesEnv = "PERFUSE_TEST_WATCH_PID"

// TestDies kills whoever has put the probes, as hard as can be. The process goes on, without probes.
func TestDies(t *testing.T) {
	if text := os.Getenv(diesEnv); text != "" {
		watchUntilKilled(t, text)
		return
	}
	idle := newRig(t, Options{})
	x := idle.start(t, nil, compile(t, "truth.c", "gcc", "-O1"), false)
	pairs := func() float64 { return x.ask(t, "pairs", 200000)["pairs"].live / 1000 } // nanoseconds
	bare := pairs()

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	agent := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestDies$", "-test.v")
	agent.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s", diesEnv, x.cmd.Process.Pid, x.cmd.Path))
	out, err := agent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	defer agent.Wait()
	defer agent.Process.Kill()
	lines, ready := bufio.NewScanner(out), false
	for !ready && lines.Scan() {
		ready = strings.Contains(lines.Text(), "probes are there")
	}
	if !ready {
		t.Fatal("the other agent has put no probes")
	}
	probed := pairs()
	if err := agent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = agent.Wait() // killed
	after := pairs()
	for range 50 { // the kernel takes them away when it gets to it
		if after < probed/2 {
			break
		}
		after = pairs()
	}
	t.Logf("a pair of malloc and free: %.0f ns, with probes %.0f, after their owner was killed %.0f", bare, probed, after)
	if probed < 4*bare || after > probed/2 {
		t.Errorf("a pair took %.0f ns, with probes %.0f, after their owner was killed %.0f", bare, probed, after)
	}
	x.ask(t, "live", 10)
	x.ask(t, "drop", 0)
}

// watchUntilKilled is the other agent of TestDies.
func watchUntilKilled(t *testing.T, text string) {
	number, path, _ := strings.Cut(text, " ")
	n, err := strconv.Atoi(number)
	if err != nil {
		t.Fatal(err)
	}
	pid := process.PID(n)
	r := newRig(t, Options{Select: func(p *process.Process) bool { return p.PID == pid }})
	r.until(t, func() bool { return r.allLooked(pid, filepath.Clean(path)) })
	fmt.Println("probes are there")
	<-t.Context().Done()
}
