package process

import (
	"bufio"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"
)

// BenchmarkScan measures the scan of a node with many processes (PERFUSE_BENCH_PROCESSES, default 1000, which
// are forks of one dynamic program).
func BenchmarkScan(b *testing.B) {
	n, _ := strconv.Atoi(os.Getenv("PERFUSE_BENCH_PROCESSES"))
	if n <= 0 {
		n = 1000
	}
	prog := build(b, "many", `
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>
int main(int argc, char **argv) {
	for (int i = atoi(argv[1]); i > 0; i--) {
		int pid = fork();
		if (pid < 0)
			return 1;
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			pause();
			_exit(0);
		}
	}
	printf("ready\n");
	fflush(stdout);
	char c;
	read(0, &c, 1);
	return 0;
}`)
	cmd := exec.Command(prog, strconv.Itoa(n))
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		b.Fatal(err)
	}
	var took time.Duration
	var known int
	for b.Loop() {
		start := time.Now()
		table := startTable(b, Options{})
		took += time.Since(start)
		known = len(table.Processes())
	}
	b.ReportMetric(float64(took.Microseconds())/float64(b.N)/float64(known), "us/process")
	b.ReportMetric(float64(known), "processes")
}
