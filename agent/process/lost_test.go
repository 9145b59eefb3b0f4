package process

import (
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// stuck is an observer that hangs while it is told to.
type stuck struct {
	mu   sync.Mutex
	gate chan struct{}
}

func (s *stuck) wait() {
	s.mu.Lock()
	gate := s.gate
	s.mu.Unlock()
	if gate != nil {
		<-gate
	}
}
func (s *stuck) Started(*Process, []Mapping) { s.wait() }
func (s *stuck) Mapped(*Process, Mapping)    { s.wait() }
func (s *stuck) Exited(*Process)             { s.wait() }

// Rings that run over lose records; /proc is read again, and the table is right in the end.
func TestLostRecords(t *testing.T) {
	s := &stuck{}
	reg := prometheus.NewPedanticRegistry()
	table := startTable(t, Options{Observers: []Observer{s}, RingBytes: 4096, Registerer: reg})
	lib := build(t, "lib.so", "int answer(void) { return 42; }", "-shared", "-fPIC")
	prog := build(t, "changer", `
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>
int main(int argc, char **argv) {
	char c;
	printf("r\n");
	fflush(stdout);
	read(0, &c, 1);
	dlopen(argv[1], RTLD_NOW);
	printf("r\n");
	fflush(stdout);
	read(0, &c, 1);
	execl("/bin/cat", "cat", (char *)0);
}`, "-ldl")
	start := func() (*exec.Cmd, func(), func() string) {
		cmd := exec.Command(prog, lib)
		in, _ := cmd.StdinPipe()
		out, _ := cmd.StdoutPipe()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { in.Close(); cmd.Wait() })
		line := func() string {
			b := make([]byte, 2)
			out.Read(b)
			return string(b)
		}
		line()
		return cmd, func() { in.Write([]byte{'x'}) }, line
	}
	stays, goOn, line := start()
	execs, goOn2, line2 := start()
	ends := exec.Command("/bin/cat")
	in, _ := ends.StdinPipe()
	if err := ends.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the programs are known", func() bool {
		p := table.Lookup(PID(ends.Process.Pid), time.Time{})
		return p != nil && p.Comm == "cat" && table.Lookup(PID(execs.Process.Pid), time.Time{}) != nil
	})

	s.mu.Lock()
	s.gate = make(chan struct{})
	s.mu.Unlock()
	// Much happens while nobody reads, last of all what matters.
	storm := func() {
		if out, err := exec.Command("/bin/sh", "-c", "i=0; while [ $i -lt 60 ]; do /bin/true; i=$((i+1)); done").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	storm()
	goOn()
	line() // it has loaded the library
	goOn2()
	line2()
	goOn2() // and the other is cat now
	in.Close()
	ends.Wait()
	fresh := exec.Command("/bin/cat")
	freshIn, _ := fresh.StdinPipe()
	if err := fresh.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { freshIn.Close(); fresh.Wait() })
	eventually(t, "the second one is cat", func() bool { return comm(execs.Process.Pid) == "cat" })
	storm()
	gate := s.gate
	s.mu.Lock()
	s.gate = nil
	s.mu.Unlock()
	close(gate)

	eventually(t, "the table is right", func() bool {
		a := table.Lookup(PID(stays.Process.Pid), time.Time{})
		b := table.Lookup(PID(execs.Process.Pid), time.Time{})
		c := table.Lookup(PID(fresh.Process.Pid), time.Time{})
		d := table.Lookup(PID(ends.Process.Pid), time.Time{})
		return a != nil && maps(a.Mappings(), lib) && !a.Exited() &&
			b != nil && strings.HasSuffix(b.Executable, "/cat") && maps(b.Mappings(), "/cat") &&
			c != nil && strings.HasSuffix(c.Executable, "/cat") && maps(c.Mappings(), "libc.so.6") &&
			(d == nil || d.Exited())
	})
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "perfuse_process_records_lost_total" && f.GetMetric()[0].GetCounter().GetValue() == 0 {
			t.Error("nothing was lost; the test does not test")
		}
	}
}

func comm(pid int) string {
	d, err := openProcDir("/proc", PID(pid))
	if err != nil {
		return ""
	}
	defer d.close()
	b, err := d.read("comm", nil, 64)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// eventually polls what has no event.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never happened: " + what)
		}
	}
}
