package sampler

import (
	"encoding/binary"
	"reflect"
	"strings"
	"testing"
	"time"

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
	d := drain{held: map[cpu.Key]held{}}
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
