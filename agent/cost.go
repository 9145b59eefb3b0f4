package agent

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// cpuTime is what this process has used, in nanoseconds.
func cpuTime() int64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic("BUG: the kernel does not know this process: " + err.Error())
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// residentBytes is the memory that this process has now, 0 where /proc does not say.
func residentBytes() uint64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, resident uint64
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		return 0
	}
	return resident * uint64(os.Getpagesize())
}

const (
	// The kernel counts the run time of BPF programs only while somebody wants it, for some 20 ns a run of each program
	// on the node: one second a minute is enough.
	bpfLookEvery = time.Minute
	bpfLookFor   = time.Second
	bpfFirstLook = 5 * time.Second
)

// measureBPF measures now and then what this process's BPF programs take, until ctx ends. Before 5.8, or without
// CAP_SYS_ADMIN, only what an administrator has switched on (kernel.bpf_stats_enabled) is seen.
func (t *told) measureBPF(ctx context.Context) error {
	next := time.NewTimer(bpfFirstLook)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-next.C:
		}
		if cores, ok := bpfCores(ctx, bpfLookFor); ctx.Err() == nil {
			if !ok {
				cores = -1
			}
			t.mu.Lock()
			t.bpfCores = cores
			t.mu.Unlock()
		}
		next.Reset(bpfLookEvery)
	}
}

// bpfCores is how much of a processor this process's programs take for a while; not ok where the kernel does not count.
func bpfCores(ctx context.Context, while time.Duration) (cores float64, ok bool) {
	if stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME); err == nil {
		defer stats.Close()
	}
	before, err := bpfRunTime()
	if err != nil {
		return 0, false
	}
	start := time.Now()
	select {
	case <-ctx.Done():
	case <-time.After(while):
	}
	after, err := bpfRunTime()
	if err != nil || after == 0 {
		return 0, false
	}
	return max(float64(after-before), 0) / float64(time.Since(start)), true
}

// bpfRunTime sums up the programs that this process holds, each once.
func bpfRunTime() (time.Duration, error) {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0, fmt.Errorf("listing open files: %w", err)
	}
	seen := map[string]bool{}
	var sum time.Duration
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err != nil || to != "anon_inode:bpf-prog" {
			continue
		}
		text, err := os.ReadFile("/proc/self/fdinfo/" + fd.Name())
		if err != nil {
			continue // closed meanwhile
		}
		if id, ran := bpfRun(string(text)); id != "" && !seen[id] {
			seen[id] = true
			sum += ran
		}
	}
	return sum, nil
}

// bpfRun reads what /proc/PID/fdinfo says of a program: its number, and how long it has run.
func bpfRun(fdinfo string) (id string, ran time.Duration) {
	for line := range strings.Lines(fdinfo) {
		name, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimSpace(value); name {
		case "prog_id":
			id = value
		case "run_time_ns":
			if n, err := strconv.ParseInt(value, 10, 64); err == nil {
				ran = time.Duration(n)
			}
		}
	}
	return id, ran
}
