package sampler

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"runtime/pprof"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perfuse/perfuse/bpf/cpu"
	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/symbolize/kernel"
)

// aKernel has functions at round addresses, those from 0x2000 to 0x3000 of the scheduler.
const aKernel = `
ffff000000001000 T futex_do_wait
ffff000000001100 T do_syscall_64
ffff000000001200 t bpf_prog_1_sched_switch
ffff000000001300 T __traceiter_sched_switch
ffff000000001400 T unix_stream_sendmsg
ffff000000001500 T try_to_wake_up
ffff000000001600 T asm_sysvec_apic_timer_interrupt
ffff000000001700 T sysvec_apic_timer_interrupt
ffff000000001800 T ext4_file_write_iter
ffff000000002000 T __sched_text_start
ffff000000002000 T __schedule
ffff000000002100 T schedule
ffff000000002200 T io_schedule
ffff000000003000 T __sched_text_end
ffff000000003000 T end
`

func withKernel(t *testing.T) *Sampler {
	t.Helper()
	table, err := kernel.Read(strings.NewReader(strings.TrimSpace(aKernel)))
	if err != nil {
		t.Fatal(err)
	}
	return &Sampler{kernel: table, kernelRead: time.Now()}
}

func kernelFrames(addrs ...uint64) (out []cpu.Frame) {
	for _, a := range addrs {
		out = append(out, cpu.Frame{Addr: 0xffff000000000000 + a, Kind: cpu.FrameKernel})
	}
	return out
}

func TestWait(t *testing.T) {
	s := withKernel(t)
	user := cpu.Frame{Addr: 5, Object: 1, Kind: cpu.FrameUser}
	f := func(state uint32, addrs []uint64, want string, left ...uint64) {
		t.Helper()
		b := newBuilder(time.Unix(0, 0), time.Unix(0, 0))
		frames, reason := b.wait(s, cpu.Key{State: state}, append(kernelFrames(addrs...), user))
		if wanted := append(kernelFrames(left...), user); reason != want || !reflect.DeepEqual(frames, wanted) {
			t.Errorf("%#x in state %d: got %x for %q, want %x for %q", addrs, state, frames, reason, wanted, want)
		}
	}
	// The measurement and the scheduler are left out.
	f(cpu.StateInterruptible, []uint64{0x1210, 0x1310, 0x2010, 0x2110, 0x1010, 0x1110}, "futex", 0x1010, 0x1110)
	// An iterator sees neither.
	f(cpu.StateInterruptible, []uint64{0x1010, 0x1110}, "futex", 0x1010, 0x1110)
	// What tells the reason may be the scheduler's.
	f(cpu.StateUninterruptible, []uint64{0x2010, 0x2210, 0x1810}, "disk", 0x1810)
	f(cpu.StateRunnable, []uint64{0x1210, 0x2010, 0x1110}, "cpu", 0x1110)
	f(cpu.StateInterruptible, []uint64{0x2010, 0x1110}, "other", 0x1110)
	f(cpu.StateInterruptible, nil, "unknown")
}

func TestReasons(t *testing.T) {
	f := func(function, want string) {
		t.Helper()
		if got := reasonOf(function); got != want {
			t.Errorf("%s: got %q, want %q", function, got, want)
		}
	}
	f("futex_wait_queue", "futex")
	f("__futex_wait", "futex")
	f("hrtimer_nanosleep", "sleep")
	f("do_epoll_wait", "poll")
	f("poll_schedule_timeout.constprop.0", "poll")
	f("inet_csk_accept", "socket")
	f("anon_pipe_read", "pipe")
	f("io_schedule_timeout", "disk")
	f("do_wait", "child")
	f("ptrace_stop", "stopped")
	f("rwsem_down_write_slowpath", "kernel lock")
	f("do_syscall_64", "")
}

func TestWake(t *testing.T) {
	s := withKernel(t)
	user := cpu.Frame{Addr: 5, Object: 1, Kind: cpu.FrameUser}
	f := func(addrs []uint64, who string, want ...cpu.Frame) {
		t.Helper()
		k := cpu.Key{Comm: [16]int8{'d', 'b'}}
		frames, got := s.wake(k, append(kernelFrames(addrs...), user))
		if got != who || !reflect.DeepEqual(frames, want) {
			t.Errorf("%#x: got %x by %q, want %x by %q", addrs, frames, got, want, who)
		}
	}
	f([]uint64{0x1210, 0x1510, 0x1410, 0x1110}, "db", append(kernelFrames(0x1510, 0x1410, 0x1110), user)...)
	// What an interrupt interrupted has not woken anybody.
	f([]uint64{0x1210, 0x1510, 0x1710, 0x1610, 0x1110}, "an interrupt", kernelFrames(0x1510, 0x1710, 0x1610)...)
}

func TestWaiterOf(t *testing.T) {
	k := cpu.Key{Event: cpu.EventWake, Tgid: 1, Comm: [16]int8{'w'}, Labels: 3}
	binary.NativeEndian.PutUint32(k.TraceId[:], 77)
	binary.NativeEndian.PutUint32(k.TraceId[4:], 9)
	copy(k.TraceId[8:], "longname")
	copy(k.SpanId[:], "er")
	got := waiterOf(k)
	if got.Event != cpu.EventWake || got.Tgid != 77 || got.Generation != 9 || commString(got.Comm) != "longnameer" || got.SpanId != [8]uint8{} || got.Labels != 0 {
		t.Errorf("got %+v", got)
	}
}

// TestHold: a wait that begins in one epoch and counts in later ones has its stack and its labels there, until nobody
// waits for long.
func TestHold(t *testing.T) {
	d := drain{held: map[cpu.Key]held{}, heldStacks: map[uint64]*heldStack{}}
	k := cpu.Key{Event: cpu.EventWait, Stack: 1, Labels: 5}
	st := seen{frames: kernelFrames(0x1010)}
	label := []profile.Label{{Name: "tenant", Value: "a"}}
	now := time.Unix(100, 0)

	counted := map[cpu.Key]uint64{k: 0}
	d.hold(counted, map[cpu.Key]seen{k: st}, map[uint64][]profile.Label{5: label}, now)
	if len(counted) != 0 {
		t.Error("what has only begun is counted")
	}
	for range 3 {
		now = now.Add(holdFor - time.Second)
		stacks, labels := map[cpu.Key]seen{}, map[uint64][]profile.Label{}
		d.hold(map[cpu.Key]uint64{k: 7}, stacks, labels, now)
		if !reflect.DeepEqual(stacks[k], st) || !reflect.DeepEqual(labels[5], label) {
			t.Fatalf("at %s: stack %v, labels %v", now, stacks[k], labels[5])
		}
	}
	d.hold(map[cpu.Key]uint64{}, map[cpu.Key]seen{}, map[uint64][]profile.Label{}, now.Add(holdFor+1))
	if len(d.held) != 0 || d.heldFrames != 0 {
		t.Errorf("%d stacks with %d frames are still held", len(d.held), d.heldFrames)
	}
	// CPU samples are told anew in each epoch.
	d.hold(map[cpu.Key]uint64{}, map[cpu.Key]seen{{Event: cpu.EventCPU}: st}, map[uint64][]profile.Label{}, now)
	if len(d.held) != 0 {
		t.Error("the stack of a CPU sample is held")
	}
}

// waiting is a process of the test's own whose waits are known. Its name is its comm.
type waiting struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// startWaiting starts a program that ends with the test; as says what the test's own program is to do.
func startWaiting(t *testing.T, name, as, path string, args ...string) *waiting {
	t.Helper()
	link := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	w := &waiting{Cmd: exec.Command(link, args...)}
	w.Env = append(os.Environ(), "SAMPLER_TEST_WAITS="+as)
	w.Stderr = os.Stderr
	var err error
	if w.in, err = w.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := w.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	w.out = bufio.NewReader(out)
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Process.Kill(); w.Wait() })
	return w
}

// waited is the time that a process waited, by a label.
func waited(b *profile.Batch, comm, label string) map[string]time.Duration {
	out := map[string]time.Duration{}
	for i := range b.Profiles {
		if p := &b.Profiles[i]; p.Type == profile.TypeOffCPU && p.Labels.Get(profile.LabelComm) == comm {
			out[p.Labels.Get(label)] += time.Duration(p.Total())
		}
	}
	return out
}

// after waits for n batches of intervals that begin after now, and returns how long they are together.
func (l *live) after(t *testing.T, n int, f func(*profile.Batch)) (length time.Duration) {
	t.Helper()
	began := time.Now().UnixNano()
	for at := 0; n > 0; {
		if b := l.next(t, &at); len(b.Profiles) > 0 && b.Profiles[0].TimeNanos >= began {
			n--
			length += time.Duration(b.Profiles[0].DurationNanos)
			f(b)
		}
	}
	return length
}

// needOffCPU skips a test where waits cannot be measured.
func (l *live) needOffCPU(t *testing.T) {
	t.Helper()
	if err := l.OffCPU(); err != nil {
		t.Skip(err)
	}
}

// TestStopped: a thread that was stopped waits to be continued, whether it was so before we came or became so under our eyes.
func TestStopped(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip("sleep is not installed")
	}
	stop := func(name string) {
		w := startWaiting(t, name, "", sleep, "1000")
		if err := w.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		var status unix.WaitStatus
		if _, err := unix.Wait4(w.Process.Pid, &status, unix.WUNTRACED, nil); err != nil || !status.Stopped() {
			t.Fatalf("waiting for %s to be stopped: %v, %v", name, status, err)
		}
	}
	stop("stopped-before")
	l := newLive(t, Options{OffCPU: true, Interval: time.Second}, nil)
	l.needOffCPU(t)
	stop("stopped-under")
	sums := map[string]map[string]time.Duration{"stopped-before": {}, "stopped-under": {}}
	length := l.after(t, 4, func(b *profile.Batch) {
		for comm, sum := range sums {
			for reason, d := range waited(b, comm, profile.LabelReason) {
				sum[reason] += d
			}
		}
	})
	for comm, sum := range sums {
		t.Logf("in %s %s waits %v", length, comm, sum)
		// Of a wait that was drawn the first second counts when it has lasted that long; a tick may be late.
		if d := sum["stopped"] - length; len(sum) != 1 || d < -1500*time.Millisecond || d > 1500*time.Millisecond {
			t.Errorf("%s waits %v, want %s stopped", comm, sum, length)
		}
	}
}

// TestLabelledWaits: waits that were drawn have the labels that the program gave to what waits.
func TestLabelledWaits(t *testing.T) {
	l := newLive(t, Options{OffCPU: true, Interval: time.Second}, nil)
	l.needOffCPU(t)
	// Until the program's table is compiled nobody knows where its labels are, and who is drawn is chance.
	for range 6 {
		if l.labelledWaits(t) {
			return
		}
	}
	t.Error("waits have no labels")
}

// labelledWaits runs the program for a while. Its labels must be where they belong; it returns whether both were seen.
func (l *live) labelledWaits(t *testing.T) bool {
	t.Helper()
	w := startWaiting(t, "labelled", "labelled", "/proc/self/exe")
	sums := map[string]map[string]int64{} // by the user's part of the stack, and label
	l.after(t, 5, func(b *profile.Batch) {
		for _, p := range b.Profiles {
			if p.Type != profile.TypeOffCPU || p.Labels.Get(profile.LabelComm) != "labelled" {
				continue
			}
			for _, s := range p.Samples {
				stack := ""
				for _, f := range b.Dictionary.Stacks[s.Stack] {
					if f := b.Dictionary.Frames[f]; f.Kind == profile.KindNative {
						stack += fmt.Sprintf("%x ", f.Addr)
					}
				}
				if sums[stack] == nil {
					sums[stack] = map[string]int64{}
				}
				sums[stack][p.Labels.Get("route")] += s.Value
			}
		}
	})
	if err := w.in.Close(); err != nil {
		t.Fatal(err)
	}
	var ownLong, ownShort float64
	if _, err := fmt.Fscan(w.out, &ownLong, &ownShort); err != nil {
		t.Fatal(err)
	}
	total, none := map[string]float64{}, 0.0
	for _, by := range sums {
		if by["/long"]+by["/short"] == 0 {
			continue // the runtime's own threads, and rests
		}
		if by["/long"] > 0 && by["/short"] > 0 || by["/rest"] > 0 {
			t.Errorf("one stack has the labels of two: %v", by)
		}
		total["/long"] += float64(by["/long"])
		total["/short"] += float64(by["/short"])
		none += float64(by[""])
	}
	// How much of it was drawn depends on what else this machine does: on busy CPUs a tick meets some, which has no labels, and
	// of what is drawn the first part counts for all.
	t.Logf("/long has %.0f ns, /short %.0f, without a label %.0f; the program says %.0f and %.0f", total["/long"], total["/short"], none, ownLong, ownShort)
	return total["/long"] > 0 && total["/short"] > 0
}

// sleepLabelled is what the test's own program does: a thread waits in system calls for 6, 2 and 60 ms, so seldom that each
// wait is drawn. At the end it says what the first two took.
func sleepLabelled() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	runtime.LockOSThread()
	var long, short time.Duration
	for {
		long += labelled("/long", sleepLong)
		short += labelled("/short", sleepShort)
		labelled("/rest", func() { sleep(60 * time.Millisecond) })
		select {
		case <-done:
			fmt.Println(long.Nanoseconds(), short.Nanoseconds())
			os.Exit(0)
		default:
		}
	}
}

//go:noinline
func sleepLong() { sleep(6 * time.Millisecond) }

//go:noinline
func sleepShort() { sleep(2 * time.Millisecond) }

func sleep(d time.Duration) {
	ts := unix.NsecToTimespec(d.Nanoseconds())
	_ = unix.Nanosleep(&ts, nil) // one that is interrupted is shorter
}

func labelled(route string, f func()) (took time.Duration) {
	pprof.Do(context.Background(), pprof.Labels("route", route), func(context.Context) {
		begin := time.Now()
		f()
		took = time.Since(begin)
	})
	return took
}

func TestMain(m *testing.M) {
	switch os.Getenv("SAMPLER_TEST_WAITS") {
	case "labelled":
		sleepLabelled()
	case "hole":
		if err := serveHole(); err != nil {
			fmt.Println("none:", err)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// aHole is a program with a thread that waits, with a page of its stack out of file descriptor 3. What is in it is needed
// by nobody but by who walks the stack.
const aHole = `
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>
#define PAGE 4096UL
static sem_t there;
static uintptr_t page;
__attribute__((noinline)) static void hold(void)
{
	volatile char room[4 * PAGE];
	room[0] = room[sizeof(room) - 1] = 1;
	page = (uintptr_t)__builtin_frame_address(0) & -PAGE;
	sem_post(&there);
	for (;;)
		pause();
}
__attribute__((noinline)) static void *outer(void *unused)
{
	volatile char room[4 * PAGE];
	room[0] = room[sizeof(room) - 1] = 1;
	hold();
	return unused;
}
int main(void)
{
	pthread_t thread;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sem_init(&there, 0, 0);
	if (pthread_create(&thread, NULL, outer, NULL))
		return 1;
	sem_wait(&there);
	if (mmap((void *)page, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, 3, 0) != (void *)page)
		return 1;
	puts("ready");
	fflush(stdout);
	pause();
	return 0;
}
`

// serveHole is what the test's own program does: it serves a file that can be opened and mapped, and read by nobody, to the
// program in its first argument. It ends with its standard input: then whoever waits for the file has an error.
func serveHole() error {
	path := os.Args[1]
	fuse, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	at := path + ".file"
	if err := os.WriteFile(at, nil, 0o600); err != nil {
		return err
	}
	if err := unix.Mount("hole", at, "fuse", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("fd=%d,rootmode=100600,user_id=0,group_id=0", fuse.Fd())); err != nil {
		return fmt.Errorf("mounting a FUSE file system: %w", err)
	}
	go answerFUSE(int(fuse.Fd()))
	file, err := os.OpenFile(at, os.O_RDWR, 0)
	if err := errors.Join(err, unix.Unmount(at, unix.MNT_DETACH)); err != nil {
		return err
	}
	if _, err := file.Stat(); err != nil { // which has the kernel ask how large it is
		return err
	}
	runtime.LockOSThread() // with this thread the program dies
	cmd := exec.Command(path)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = os.Stdout, os.Stderr, []*os.File{file}
	if err := cmd.Start(); err != nil {
		return err
	}
	time.AfterFunc(time.Minute, func() { os.Exit(1) }) // whatever happens
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

// answerFUSE answers as little of FUSE as it takes to open and map a file, and never a read.
func answerFUSE(fuse int) {
	const (
		forget, getattr, open, read, interrupt, hello, batchForget = 2, 3, 14, 15, 36, 26, 42
		header                                                     = 40
	)
	in := make([]byte, 1<<20)
	for {
		n, err := unix.Read(fuse, in)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n < header {
			return
		}
		var out []byte
		word := func(values ...uint32) {
			for _, v := range values {
				out = binary.NativeEndian.AppendUint32(out, v)
			}
		}
		failed := int32(0)
		switch binary.NativeEndian.Uint32(in[4:]) {
		case forget, batchForget, interrupt, read:
			continue
		case hello:
			// Version 7.31, no readahead, no features; 64 bytes.
			word(7, 31, 0, 0, 1, 4096, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0)
		case getattr:
			// Valid for an hour; inode 1, one page, one block, no times, mode, one link, root's, blocks of a page.
			word(3600, 0, 0, 0, 1, 0, 4096, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, unix.S_IFREG|0o600, 1, 0, 0, 0, 4096, 0)
		case open:
			word(1, 0, 0, 0)
		default:
			failed = -int32(unix.ENOSYS)
		}
		reply := binary.NativeEndian.AppendUint32(nil, uint32(16+len(out)))
		reply = binary.NativeEndian.AppendUint32(reply, uint32(failed))
		reply = append(append(reply, in[8:16]...), out...)
		if _, err := unix.Write(fuse, reply); err != nil {
			return
		}
	}
}

// TestServedMemory: the stack of a thread lies in memory that another process serves, and it does not answer. Nobody asks for
// it: that thread's waits are counted, and all else goes on.
func TestServedMemory(t *testing.T) {
	source := filepath.Join(t.TempDir(), "hole.c")
	if err := os.WriteFile(source, []byte(aHole), 0o600); err != nil {
		t.Fatal(err)
	}
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("gcc is not installed")
	}
	path := filepath.Join(t.TempDir(), "hole")
	// Statically: nobody's probe on a library has to wait for its memory.
	if text, err := exec.Command(gcc, "-O1", "-static", "-pthread", "-o", path, source).CombinedOutput(); err != nil {
		t.Fatalf("building the program: %v\n%s", err, text)
	}
	hole := startWaiting(t, "hole", "hole", "/proc/self/exe", path)
	line, err := hole.out.ReadString('\n')
	if why, ok := strings.CutPrefix(line, "none: "); ok {
		t.Skipf("a process's memory cannot be served here: %s", why)
	}
	if err != nil || line != "ready\n" {
		t.Fatalf("the program says %q: %v", line, err)
	}
	w := startWaiting(t, "labelled", "labelled", "/proc/self/exe")
	busy := startWaiting(t, "busy", "", "/bin/sh", "-c", "while :; do :; done")
	l := newLive(t, Options{OffCPU: true, Interval: time.Second}, nil)
	l.needOffCPU(t)
	ran, slept, served := int64(0), time.Duration(0), time.Duration(0)
	l.after(t, 3, func(b *profile.Batch) {
		for i := range b.Profiles {
			if p := &b.Profiles[i]; p.Type == profile.TypeCPUSamples && p.Labels.Get(profile.LabelComm) == "busy" {
				ran += p.Total()
			}
		}
		slept += waited(b, "labelled", profile.LabelReason)["sleep"]
		for _, d := range waited(b, "hole", profile.LabelReason) {
			served += d
		}
	})
	if ran == 0 || slept == 0 || served < time.Second {
		t.Errorf("%d samples of what runs, %s of what waits, %s of what has its stack there", ran, slept, served)
	}
	busy.Process.Kill()
	w.Process.Kill()
}
