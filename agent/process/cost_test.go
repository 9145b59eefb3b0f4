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
