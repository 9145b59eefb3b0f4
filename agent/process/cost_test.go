package process

import (
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// spawner starts /bin/true at a fixed rate.
const spawner = `
#define _GNU_SOURCE
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
int main(int argc, char **argv) {
	long rate = atol(argv[1]), count = atol(argv[2]);
	char *args[] = {"true", 0}, *env[] = {"HOME=/", 0};
	struct timespec next;
	clock_gettime(CLOCK_MONOTONIC, &next);
	for (long i = 0; i < count; i++) {
		pid_t pid;
		if (posix_spawn(&pid, "/bin/true", 0, 0, args, env))
			return 1;
		waitpid(pid, 0, 0);
		next.tv_nsec += 1000000000 / rate;
		if (next.tv_nsec >= 1000000000)
			next.tv_nsec -= 1000000000, next.tv_sec++;
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, 0);
	}
	return 0;
}`

// BenchmarkTable follows a load of PERFUSE_BENCH_RATE (default 300) processes a second, with no observer.
// It reports what this whole Go process costs. PERFUSE_BENCH_TABLE=off measures the same without a table.
func BenchmarkTable(b *testing.B) {
	rate, _ := strconv.Atoi(os.Getenv("PERFUSE_BENCH_RATE"))
	if rate <= 0 {
		rate = 300
	}
	prog := build(b, "spawner", spawner)
	if os.Getenv("PERFUSE_BENCH_TABLE") != "off" {
		startTable(b, Options{})
	}
	var before, after unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &before)
	start := time.Now()
	b.ResetTimer()
	cmd := exec.Command(prog, strconv.Itoa(rate), strconv.Itoa(b.N))
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Errorf("%v\n%s", err, out)
	}
	b.StopTimer()
	unix.Getrusage(unix.RUSAGE_SELF, &after)
	spent := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	wall := time.Since(start)
	b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N), "cpu-ns/process")
	b.ReportMetric(100*float64(spent)/float64(wall), "%core")
	b.ReportMetric(float64((cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime()).Nanoseconds())/float64(b.N), "load-ns/process")
	b.ReportMetric(float64(b.N)/wall.Seconds(), "processes/s")
}

// BenchmarkApply is what the life of one process costs without the kernel's part: fork, exec, five mappings, exit.
func BenchmarkApply(b *testing.B) {
	opts := Options{Node: "n", Proc: b.TempDir()}
	if err := opts.setDefaults(); err != nil {
		b.Fatal(err)
	}
	table, err := newTable(opts)
	if err != nil {
		b.Fatal(err)
	}
	now := monotonic()
	shell := table.newProcess(1, 0, now)
	shell.identity = &identity{}
	table.start(shell)
	var raw [][]byte
	raw = append(raw, encode(unix.PERF_RECORD_FORK, 0, 0, 2, 1, 2, 1, uint64(0)),
		encode(unix.PERF_RECORD_COMM, unix.PERF_RECORD_MISC_COMM_EXEC, 0, 2, 2, "true"))
	for i, path := range []string{"/usr/bin/true", "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "[vdso]", "/usr/lib/x86_64-linux-gnu/libc.so.6", "/usr/lib/x86_64-linux-gnu/libm.so.6"} {
		raw = append(raw, encodeMap(0, 2, uint64(i+1)<<20, 1<<16, 0, uint64(i), unix.PROT_EXEC, path))
	}
	raw = append(raw, encode(unix.PERF_RECORD_EXIT, 0, 0, 2, 1, 2, 1, uint64(0)))
	in := interner{max: 100}
	b.ReportAllocs()
	for b.Loop() {
		for _, x := range raw {
			now += 1000
			r, err := parseRecord(x)
			if err != nil {
				b.Fatal(err)
			}
			r.time, r.text = now, in.intern(r.name)
			table.apply(&r)
		}
		if len(table.young) > 1000 {
			table.young = nil
			table.forgetEnded(now)
		}
	}
}
