package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// many are the processes of TestMany.
const many = 10_000

// sleepers is a program that starts as many processes as its argument says, which wait in dozing. It ends, and they with
// it, at the end of its standard input.
const sleepers = `
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

__attribute__((noinline, noclone)) static void dozing(void)
{
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	char c;

	if (argc < 2 || setpgid(0, 0))
		return 1;
	signal(SIGTERM, SIG_IGN);
	for (int i = atoi(argv[1]); i > 0; i--) {
		int pid = fork();

		if (pid == 0) {
			signal(SIGTERM, SIG_DFL);
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			dozing();
		}
		if (pid < 0) {
			printf("none: %d processes are left to start: %s\n", i, strerror(errno));
			fflush(stdout);
			break;
		}
	}
	puts("ready");
	fflush(stdout);
	while (read(0, &c, 1) > 0)
		;
	kill(0, SIGTERM);
	while (wait(NULL) > 0)
		;
	return 0;
}
`

// TestMany: beside ten thousand processes that sleep, a recording and an agent begin soon, stay small, and know how long
// they all slept.
func TestMany(t *testing.T) {
	needSampler(t)
	startSleepers(t)

	t.Run("record", func(t *testing.T) {
		const seconds = 10
		cmd := exec.Command(program(t, "profilectl"), "record", "--type", "off_cpu", "--duration", fmt.Sprint(seconds)+"s", "-o", "folded")
		var folded, said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &folded, &said
		began := time.Now()
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v\n%s", err, said.String())
		}
		took := time.Since(began)
		rss := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss >> 10
		slept := valueOf(t, folded.String(), "dozing") / 1e9
		summary := regexp.MustCompile(`recorded the machine for (\S+):.* (\d+) lost`).FindStringSubmatch(said.String())
		if summary == nil {
			t.Fatalf("it is not said how long it took and how much was lost: %q", said.String())
		}
		recorded, err := time.ParseDuration(summary[1])
		if err != nil {
			t.Fatal(err)
		}
		want := many * recorded.Seconds()
		burnt := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		t.Logf("%s in all, %s of CPU time, %d MB; they slept %.0f s, should %.0f; %s lost", took, burnt, rss, slept, want, summary[2])
		// Some 3 s of CPU time and 170 MB on a quiet machine; beside others the time is theirs, too.
		if took > (seconds+60)*time.Second || burnt > 30*time.Second {
			t.Errorf("it took %s, and %s of CPU time, for %d s", took, burnt, seconds)
		}
		if rss > 500 {
			t.Errorf("it had %d MB", rss)
		}
		if off := 100 * (slept/want - 1); off < -15 || off > 15 {
			t.Errorf("they slept %.0f s by the recording, want %.0f: off by %.1f %%", slept, want, off)
			t.Logf("%s\n%s", said.String(), heaviest(folded.String(), 10))
		}
	})

	t.Run("agent", func(t *testing.T) {
		config := filepath.Join(t.TempDir(), "perfuse.yaml")
		if err := os.WriteFile(config, []byte("agent: {interval: 2s, heap: {interval: 2s}}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		in := start(t, "up", freeAddress(t), t.TempDir(), "--config", config)
		ready := time.Since(began)
		eventually(t, 30*time.Second, "it tells that they sleep", func() bool { return in.value(t, "sleepers", "off_cpu") > 0 })
		rss := in.rss(t) >> 20
		t.Logf("ready after %s, it tells after %s and has %d MB", ready, time.Since(began), rss)
		if rss > 600 {
			t.Errorf("it has %d MB", rss)
		}
		if _, metrics := in.get(t, "/metrics"); !strings.Contains(metrics, "perfuse_sampler_dropped_samples_total") {
			t.Error("it is not told how much was lost")
		}
		in.stop(t)
	})
}

// startSleepers starts them until the end of the test, or skips it where there is no room for them.
func startSleepers(t *testing.T) {
	t.Helper()
	for file, need := range map[string]int{"/proc/sys/kernel/pid_max": 2 * many, "/proc/sys/kernel/threads-max": 2 * many} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && n < need {
			t.Skipf("%s is %d, and %d processes need twice as many", file, n, many)
		}
	}
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("gcc is not installed")
	}
	source, path := filepath.Join(t.TempDir(), "sleepers.c"), filepath.Join(t.TempDir(), "sleepers")
	if err := os.WriteFile(source, []byte(sleepers), 0o600); err != nil {
		t.Fatal(err)
	}
	if text, err := exec.Command(gcc, "-O2", "-static", "-o", path, source).CombinedOutput(); err != nil {
		t.Fatalf("building the program: %v\n%s", err, text)
	}
	cmd := exec.Command(path, fmt.Sprint(many))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if why, ok := strings.CutPrefix(line, "none: "); ok {
		t.Skip(strings.TrimSpace(why))
	}
	if err != nil || line != "ready\n" {
		t.Fatalf("the program says %q: %v", line, err)
	}
	t.Logf("%d processes began in %s", many, time.Since(began))
}
