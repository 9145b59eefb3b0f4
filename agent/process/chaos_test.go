package process

import (
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// chaos does at random what processes do: fork, fork and exec, exec itself, also from a thread, vfork, load
// a library, map code without a file, end, end its main thread only. About a quarter of the processes stay.
const chaos = `
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
static char **args;
static unsigned seed;
static int next(int n) { return (int)((seed = seed * 1103515245 + 12345) >> 16 & 0x7fff) % n; }
static void again(int depth) {
	char s[16], d[16];
	sprintf(s, "%u", seed); sprintf(d, "%d", depth);
	char *a[] = {args[0], args[1], s, d, 0};
	execv(args[0], a);
	_exit(9);
}
static void *stay(void *p) { pause(); return p; }
static void *quick(void *p) { return p; }
static void *exec_thread(void *p) { again((int)(long)p); return 0; }
static void live(int depth) {
	pthread_t t;
	for (int i = 0; i < 5; i++) {
		switch (next(9)) {
		case 0: case 1:
			if (depth > 0) {
				int old = seed, pid = fork();
				if (pid == 0) { seed = old * 31 + i; signal(SIGCHLD, SIG_IGN); live(depth - 1); }
			}
			break;
		case 2: case 3:
			if (depth > 0 && fork() == 0) { seed += i; again(depth - 1); }
			break;
		case 4: if (!dlopen(args[1], RTLD_NOW)) _exit(8); break;
		case 5: mmap(0, 4096 * (1 + next(3)), PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); break;
		case 6: pthread_create(&t, 0, quick, 0); pthread_join(t, 0); break;
		case 7: if (depth > 0 && next(3) == 0) again(depth - 1); break;
		case 8:
			if (depth > 0 && next(3) == 0) { pthread_create(&t, 0, exec_thread, (void *)(long)(depth - 1)); pause(); }
			break;
		}
	}
	switch (next(4)) {
	case 0: pause();
	case 1: pthread_create(&t, 0, stay, 0); pthread_exit(0);
	}
	_exit(0);
}
int main(int argc, char **argv) {
	args = argv;
	seed = atoi(argv[2]);
	signal(SIGCHLD, SIG_IGN);
	if (argv[4]) {
		/* The first one adopts all orphans and ends when its input does. */
		char c;
		prctl(PR_SET_CHILD_SUBREAPER, 1);
		argv[4] = 0;
		for (int i = 0; i < 12; i++)
			if (fork() == 0) { seed = seed * 7 + i; live(atoi(argv[3])); }
		write(1, "r\n", 2);
		read(0, &c, 1);
		kill(0, SIGKILL);
	}
	live(atoi(argv[3]));
}`

// After chaos, the table says of every process of it what /proc says, and that the others have ended.
func TestChaos(t *testing.T) {
	w := newWatcher(t)
	table := startTable(t, Options{Observers: []Observer{w}})
	prog := build(t, "chaos", chaos, "-pthread", "-ldl")
	lib := build(t, "lib.so", "int answer(void) { return 42; }", "-shared", "-fPIC")
	for seed := range 4 {
		cmd := exec.Command(prog, lib, string(rune('1'+seed)), "5", "first")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, 2)); err != nil {
			t.Fatal(err)
		}
		group := cmd.Process.Pid
		var wrong string
		check := func() bool {
			wrong = compare(t, table, group)
			return wrong == ""
		}
		for deadline := time.Now().Add(20 * time.Second); !check(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("seed %d: %s", seed, wrong)
			}
		}
		in.Close()
		cmd.Wait()
		eventually(t, "all of it has ended", func() bool {
			for _, p := range table.Processes() {
				if p.Executable == prog {
					return false
				}
			}
			return true
		})
	}
	n := 0
	eventually(t, "every execution has an end", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		n = 0
		for _, o := range w.procs {
			if o.p.Executable == prog {
				n++
				if !o.exited {
					return false
				}
			}
		}
		return true
	})
	t.Logf("%d executions, reread %v", n, table.queue.pause > 0)
}

// compare says what differs between the table and /proc for the processes of a group.
func compare(t *testing.T, table *Table, group int) string {
	pids, err := listPIDs("/proc")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, pid := range pids {
		if g, err := unix.Getpgid(int(pid)); err != nil || g != group {
			continue
		}
		d, err := openProcDir("/proc", pid)
		if err != nil {
			return "a process has gone"
		}
		defer d.close()
		b, err := d.read("stat", nil, maxStatBytes)
		if err != nil {
			return "a process has gone"
		}
		s, err := parseStat(b)
		if err != nil {
			t.Fatal(err)
		}
		if s.state == 'Z' {
			tid := otherThread(d, pid)
			if tid == 0 {
				return "a zombie"
			}
			if d, err = openProcDir("/proc", tid); err != nil {
				return "a thread has gone"
			}
			defer d.close()
		}
		n++
		p := table.Lookup(pid, time.Time{})
		if p == nil || p.Exited() {
			known := "nothing"
			if p != nil {
				known = fmt.Sprintf("%+v synced %d end %d threads %d leaderGone %v", p.StartTime, p.synced, p.end, p.threads, p.leaderGone)
			}
			return fmt.Sprintf("process %d (%c, %d threads, ending %v) is not known to live: %s", pid, s.state, s.threads, s.ending, known)
		}
		exe, err := d.readlink("exe")
		if err != nil || p.Executable != exe {
			return fmt.Sprintf("executable of %d (%c, %d threads, ending %v) is %q, really %q; generation %d since %v, synced %d, start %d, now %d, %d threads, leaderGone %v, maps %v", pid, s.state, s.threads, s.ending,
				p.Executable, exe, p.Generation, p.StartTime, p.synced, p.start, monotonic(), p.threads, p.leaderGone, p.Mappings())
		}
		b, err = d.read("maps", nil, maxMapsBytes)
		if err != nil {
			return "a process has gone"
		}
		wrong := ""
		ours := p.Mappings()
		parseMaps(b, func(m Mapping, path []byte) {
			// The kernel merges neighbours without a record: every page must be known, not every range.
			for at := m.Start; at < m.End; {
				i := search(ours, func(o *Mapping) bool { return o.End > at })
				if i == len(ours) || ours[i].Start > at || ours[i].Path != string(path) || ours[i].File.Inode != m.File.Inode ||
					m.File.Inode != 0 && ours[i].Offset+(at-ours[i].Start) != m.Offset+(at-m.Start) {
					wrong = "the mapping of " + string(path) + " is not known"
					return
				}
				at = ours[i].End
			}
		})
		if wrong != "" {
			return wrong
		}
		if !strings.HasSuffix(p.Executable, "chaos") {
			return "a stranger in the group"
		}
	}
	if n < 2 {
		return "nobody is left"
	}
	return ""
}
