package sampler

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/go-kit/log/level"

	"github.com/perfuse/perfuse/bpf/cpu"
	"github.com/perfuse/perfuse/profile"
)

// A tick looks at every thread, which costs some 700 ns each: with many threads there are fewer of them.
const (
	minTick       = 60 * time.Millisecond
	maxTick       = 5 * time.Second
	tickPerThread = 600 * time.Microsecond
	// longTick is far longer than a tick takes that is not stuck.
	longTick = 200 * time.Millisecond
)

// stuckTick is when a tick is said to be stuck: memory that was swapped out to a disk that does not answer keeps whoever
// reads it waiting, and unkillable. Then only long waits are not seen.
const stuckTick = 10 * time.Second

// runTicks finds threads that have waited for long, more often than there are drains. Until ctx ends; what is drawn and goes
// on is counted then.
//
// A tick may sleep, so that no grace period waits for it: it keeps out of a drain's way.
func (s *Sampler) runTicks(ctx context.Context) {
	timer := time.NewTimer(minTick)
	defer timer.Stop()
	failed := false
	for last := false; !last; {
		select {
		case <-ctx.Done():
			last = true
		case <-timer.C:
		}
		stuck := time.AfterFunc(stuckTick, func() {
			level.Warn(s.opts.Logger).Log("msg", "long waits are not seen: a process's memory does not answer")
		})
		s.ticking <- struct{}{}
		threads, err := s.offcpu.Tick(last)
		period := min(max(time.Duration(threads)*tickPerThread, minTick), maxTick)
		err = errors.Join(err, s.offcpu.SetPeriod(period))
		<-s.ticking
		stuck.Stop()
		if err != nil && !failed {
			failed = true
			level.Warn(s.opts.Logger).Log("msg", "long waits are not seen", "err", err)
		}
		timer.Reset(time.Duration(float64(period) * (0.5 + rand.Float64())))
	}
}

// holdTicks keeps ticks off until release is called. One that is stuck is not waited for: then held is false.
func (s *Sampler) holdTicks() (release func(), held bool) {
	if s.offcpu == nil {
		return func() {}, false
	}
	patience := time.NewTimer(longTick)
	defer patience.Stop()
	select {
	case s.ticking <- struct{}{}:
		return func() { <-s.ticking }, true
	case <-patience.C:
		return func() {}, false
	}
}

// wait takes from a wait's stack what every wait has on top, the scheduler and the measurement itself, and says what the
// thread waits for.
func (b *builder) wait(s *Sampler, k cpu.Key, frames []cpu.Frame) ([]cpu.Frame, string) {
	kernel := 0
	for kernel < len(frames) && frames[kernel].Kind == cpu.FrameKernel {
		kernel++
	}
	reason := "cpu"
	if k.State != cpu.StateRunnable {
		var ok bool
		if reason, ok = b.reasons[k.Stack]; !ok {
			reason = s.reason(frames[:kernel])
			b.reasons[k.Stack] = reason
		}
	}
	if s.kernel == nil {
		return frames, reason
	}
	// Below the measurement there is the scheduler, and below it who called it.
	scheduling := func(f cpu.Frame) bool { return s.kernel.Scheduling(profile.Addr(f.Addr)) }
	top := slices.IndexFunc(frames[:kernel], scheduling)
	for top >= 0 && top < kernel && scheduling(frames[top]) {
		top++
	}
	return frames[max(top, 0):], reason
}

// wake takes from a waker's stack what the measurement has put on top, and what an interrupt interrupted, and says who it
// was.
func (s *Sampler) wake(k cpu.Key, frames []cpu.Frame) ([]cpu.Frame, string) {
	who := commString(k.Comm)
	top := 0
	for i, f := range frames {
		if f.Kind != cpu.FrameKernel {
			break
		}
		name, _, _ := s.kernelName(profile.Addr(f.Addr))
		switch {
		case name == "try_to_wake_up":
			top = i
		case strings.HasPrefix(name, "asm_sysvec_"), name == "asm_common_interrupt", strings.HasSuffix(name, "_64_irq"):
			return frames[top : i+1], "an interrupt"
		}
	}
	return frames[top:], who
}

// waiterOf returns the key of the thread that waited.
func waiterOf(k cpu.Key) cpu.Key {
	raw := append(k.TraceId[:], k.SpanId[:]...)
	out := cpu.Key{
		Event:      k.Event,
		Tgid:       binary.NativeEndian.Uint32(raw),
		Generation: binary.NativeEndian.Uint32(raw[4:]),
	}
	for i, c := range raw[8:] {
		out.Comm[i] = int8(c)
	}
	return out
}

// reason tells by the kernel's functions, the innermost first, what a thread waits for.
func (s *Sampler) reason(frames []cpu.Frame) string {
	named := false
	for _, f := range frames {
		name, _, ok := s.kernelName(profile.Addr(f.Addr))
		if !ok {
			continue
		}
		named = true
		if r := reasonOf(name); r != "" {
			return r
		}
	}
	if !named {
		return "unknown"
	}
	return "other"
}

// reasons are what a kernel function that begins so waits for; the first that fits holds.
var reasons = []struct{ prefix, reason string }{
	{"futex_", "futex"},
	{"__futex_", "futex"},
	{"do_nanosleep", "sleep"},
	{"hrtimer_nanosleep", "sleep"},
	{"common_nsleep", "sleep"},
	{"ep_poll", "poll"},
	{"do_epoll_wait", "poll"},
	{"do_poll", "poll"},
	{"do_sys_poll", "poll"},
	{"do_select", "poll"},
	{"poll_schedule_timeout", "poll"},
	{"io_cqring_wait", "io_uring"},
	{"__io_uring", "io_uring"},
	{"inet_", "socket"},
	{"inet6_", "socket"},
	{"tcp_", "socket"},
	{"udp_", "socket"},
	{"unix_", "socket"},
	{"sock_", "socket"},
	{"sk_", "socket"},
	{"__skb_wait_for_more_packets", "socket"},
	{"netlink_", "socket"},
	{"anon_pipe_", "pipe"},
	{"pipe_", "pipe"},
	{"wait_for_partner", "pipe"},
	{"io_schedule", "disk"},
	{"blk_", "disk"},
	{"submit_bio_wait", "disk"},
	{"folio_wait_", "disk"},
	{"wait_on_page_", "disk"},
	{"__wait_on_buffer", "disk"},
	{"rq_qos_wait", "disk"},
	{"jbd2_", "disk"},
	{"xlog_", "disk"},
	{"virtqueue_", "disk"},
	{"request_wait_answer", "disk"}, // FUSE
	{"p9_", "disk"},
	{"nfs", "disk"},
	{"rpc_", "disk"},
	{"do_wait", "child"},
	{"kernel_wait", "child"},
	{"do_sigtimedwait", "signal"},
	{"sigsuspend", "signal"},
	{"__ia32_sys_pause", "signal"},
	{"__x64_sys_pause", "signal"},
	{"do_signal_stop", "stopped"},
	{"ptrace_stop", "stopped"},
	{"do_freezer_trap", "stopped"},
	{"n_tty_read", "terminal"},
	{"n_tty_write", "terminal"},
	{"tty_wait", "terminal"},
	{"mutex_lock", "kernel lock"},
	{"__mutex_lock", "kernel lock"},
	{"rwsem_", "kernel lock"},
	{"down_", "kernel lock"},
	{"__down", "kernel lock"},
	{"rt_mutex_", "kernel lock"},
	{"percpu_rwsem_", "kernel lock"},
	{"synchronize_rcu", "kernel lock"},
	{"handle_mm_fault", "memory"},
	{"try_to_free_", "memory"},
	{"mem_cgroup_", "memory"},
	{"read_events", "disk"}, // asynchronous input and output
}

func reasonOf(function string) string {
	for _, r := range reasons {
		if strings.HasPrefix(function, r.prefix) {
			return r.reason
		}
	}
	return ""
}
