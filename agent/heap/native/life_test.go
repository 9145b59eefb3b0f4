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
	for _, noSession := range []bool{false, true} {
		t.Run(fmt.Sprintf("no sessions %v", noSession), func(t *testing.T) {
			r := newRig(t, Options{Rate: testRate, RingBytes: 1 << 22, noSession: noSession})
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
	for _, noSession := range []bool{false, true} {
		t.Run(fmt.Sprintf("no sessions %v", noSession), func(t *testing.T) {
			r := newRig(t, Options{Rate: testRate, RingBytes: 1 << 22, noSession: noSession})
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

// TestBusy has a process that allocates too often for its bound: it is left alone, and that is said.
func TestBusy(t *testing.T) {
	r := newRig(t, Options{MaxCalls: 1000, Sweep: time.Hour})
	x := r.start(t, nil, compile(t, "truth.c", "gcc", "-O1"), true)
	pid := process.PID(x.cmd.Process.Pid)
	x.ask(t, "churn", 50)
	probed := x.pairs(t, 100000)
	if err := r.sweep(); err != nil {
		t.Fatal(err)
	}
	r.closers.Wait()
	h := r.heapOf(t, pid)
	if !errors.Is(h.Err, errBusy) || len(h.Files) > 0 || len(h.Sites) > 0 {
		t.Errorf("got %+v", h)
	}
	// 50 MB by the KiB, and the pairs, each with its free.
	if want := 2.0 * (50*1024 + 100000); math.Abs(float64(h.Calls)/want-1) > 0.01 {
		t.Errorf("%d calls, want %.0f", h.Calls, want)
	}
	if bare := x.pairs(t, 100000); bare > probed/2 {
		t.Errorf("a pair took %.0f ns with probes, and %.0f without", probed, bare)
	}
	x.ask(t, "live", 10)
	if h := r.heapOf(t, pid); len(h.Sites) > 0 {
		t.Errorf("it is left alone, and has %v", h.Sites)
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
