package process

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// watcher keeps what the table says about each execution and checks the order in which it says so.
type watcher struct {
	t       testing.TB
	mu      sync.Mutex
	changed chan struct{}
	procs   []*watched
	byGen   map[uint32]*watched
}

type watched struct {
	p       *Process
	inherit []Mapping
	mapped  []Mapping
	exited  bool
}

func newWatcher(t testing.TB) *watcher {
	return &watcher{t: t, changed: make(chan struct{}), byGen: map[uint32]*watched{}}
}

func (w *watcher) note(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *watcher) Started(p *Process, mappings []Mapping) {
	w.note(func() {
		if w.byGen[p.Generation] != nil {
			w.t.Errorf("generation %d of %s started twice", p.Generation, p.Executable)
		}
		o := &watched{p: p, inherit: mappings}
		w.byGen[p.Generation] = o
		w.procs = append(w.procs, o)
	})
}

func (w *watcher) Mapped(p *Process, m Mapping) {
	w.note(func() {
		o := w.byGen[p.Generation]
		if o == nil || o.exited {
			w.t.Errorf("mapping %v of generation %d outside of its life", m, p.Generation)
			return
		}
		o.mapped = append(o.mapped, m)
	})
}

func (w *watcher) Exited(p *Process) {
	w.note(func() {
		o := w.byGen[p.Generation]
		if o == nil || o.exited {
			w.t.Errorf("generation %d of %s ended outside of its life", p.Generation, p.Executable)
			return
		}
		o.exited = true
	})
}

// find waits until an execution fits.
func (w *watcher) find(what string, fits func(*watched) bool) *watched {
	w.t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		w.mu.Lock()
		changed := w.changed
		for _, o := range w.procs {
			if fits(o) {
				w.mu.Unlock()
				return o
			}
		}
		w.mu.Unlock()
		select {
		case <-changed:
		case <-timeout:
			w.t.Fatalf("the table never told of %s", what)
		}
	}
}

func maps(ms []Mapping, suffix string) bool {
	return slices.ContainsFunc(ms, func(m Mapping) bool { return strings.HasSuffix(m.Path, suffix) })
}

// startTable runs a table until the test ends and waits for its first scan.
func startTable(t testing.TB, opts Options) *Table {
	t.Helper()
	table, err := New(opts)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		t.Skipf("this kernel does not give perf events to this user: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- table.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		table.Close()
	})
	select {
	case <-table.Scanned():
	case <-time.After(20 * time.Second):
		t.Fatal("the scan did not end")
	}
	return table
}

// build compiles a C program.
func build(t testing.TB, name, source string, args ...string) string {
	t.Helper()
	cc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("needs gcc")
	}
	dir := t.TempDir()
	src, out := filepath.Join(dir, name+".c"), filepath.Join(dir, name)
	if err := os.WriteFile(src, []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	if b, err := exec.Command(cc, append([]string{"-O1", "-o", out, src}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	return out
}

// A child that lives until its standard input closes.
func startChild(t testing.TB, path string, args ...string) (cmd *exec.Cmd, line func() string, end func()) {
	t.Helper()
	cmd = exec.Command(path, args...)
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
	var once sync.Once
	end = func() { once.Do(func() { in.Close(); cmd.Wait() }) }
	t.Cleanup(end)
	line = func() string {
		var b []byte
		var c [1]byte
		for {
			if n, err := out.Read(c[:]); n == 0 || err != nil || c[0] == '\n' {
				return string(b)
			}
			b = append(b, c[0])
		}
	}
	return cmd, line, end
}

func TestExec(t *testing.T) {
	w := newWatcher(t)
	table := startTable(t, Options{Observers: []Observer{w}})
	cmd, _, end := startChild(t, "/bin/sh", "-c", "exec cat")
	pid := PID(cmd.Process.Pid)

	of := func(base string) func(*watched) bool {
		return func(o *watched) bool { return o.p.PID == pid && filepath.Base(o.p.Executable) == base }
	}
	real, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	shell := w.find("the shell", func(o *watched) bool { return of(filepath.Base(real))(o) && maps(o.mapped, "libc.so.6") && o.exited })
	cat := w.find("cat", func(o *watched) bool {
		return of("cat")(o) && maps(o.mapped, "/cat") && maps(o.mapped, "libc.so.6") && maps(o.mapped, "[vdso]")
	})
	if cat.p.Generation <= shell.p.Generation || cat.p.Comm != "cat" || cat.p.Parent != PID(os.Getpid()) {
		t.Errorf("cat: %+v after %+v", cat.p, shell.p)
	}
	if len(cat.inherit) != 0 {
		t.Errorf("an exec starts with the mappings %v", cat.inherit)
	}
	if p := table.Lookup(pid, time.Time{}); p != cat.p {
		t.Errorf("looking up %d now: %+v", pid, p)
	}
	if p := table.Lookup(pid, shell.p.StartTime); p != shell.p {
		t.Errorf("looking up %d at the start of the shell: %+v", pid, p)
	}
	if p := table.ByGeneration(shell.p.Generation); p != shell.p {
		t.Errorf("generation %d is %+v", shell.p.Generation, p)
	}
	// What events said equals what /proc says.
	got, want := cat.p.Mappings(), procMaps(t, pid)
	if !slices.EqualFunc(got, want, func(a, b Mapping) bool {
		a.File.Generation = b.File.Generation
		return a == b
	}) {
		t.Errorf("mappings from events:\n%v\nfrom /proc:\n%v", got, want)
	}
	end()
	w.find("cat's end", func(o *watched) bool { return of("cat")(o) && o.exited })
	if p := table.Lookup(pid, time.Time{}); p != cat.p || !p.Exited() {
		t.Errorf("after its end: %+v", p)
	}
}

func procMaps(t testing.TB, pid PID) (ms []Mapping) {
	t.Helper()
	d, err := openProcDir("/proc", pid)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	b, err := d.read("maps", nil, maxMapsBytes)
	if err != nil {
		t.Fatal(err)
	}
	parseMaps(b, func(m Mapping, path []byte) {
		m.Path = string(path)
		ms = append(ms, m)
	})
	return ms
}

func TestForkInherits(t *testing.T) {
	w := newWatcher(t)
	table := startTable(t, Options{Observers: []Observer{w}})
	prog := build(t, "forker", `
#include <stdio.h>
#include <unistd.h>
#include <sys/wait.h>
#include <sys/prctl.h>
int main(void) {
	int child = fork();
	if (child == 0) {
		char c;
		prctl(PR_SET_NAME, "worker\n1");
		read(0, &c, 1);
		_exit(0);
	}
	printf("%d\n", child);
	fflush(stdout);
	wait(0);
	return 0;
}`)
	cmd, line, end := startChild(t, prog)
	line()
	parent := w.find("the parent", func(o *watched) bool { return o.p.PID == PID(cmd.Process.Pid) && maps(o.mapped, "libc.so.6") })
	child := w.find("the child", func(o *watched) bool { return o.p.Parent == parent.p.PID })
	if !maps(child.inherit, "/forker") || !maps(child.inherit, "libc.so.6") {
		t.Errorf("the child has the mappings %v", child.inherit)
	}
	if child.p.Executable != prog || child.p.Comm != "forker" {
		t.Errorf("the child is %+v", child.p)
	}
	end()
	w.find("the child's end", func(o *watched) bool { return o.p == child.p && o.exited })
	w.find("the parent's end", func(o *watched) bool { return o.p == parent.p && o.exited })
	if got := child.p.currentComm(); got != "worker\n1" {
		t.Errorf("the child's name is %q", got)
	}
	if p := table.Lookup(child.p.PID, time.Time{}); p != child.p {
		t.Errorf("the child is looked up as %+v", p)
	}
}

// A library that is loaded while the program runs is known from the kernel, soon; and threads are no
// processes, nor does the leader's end end the process.
func TestDlopenAndThreads(t *testing.T) {
	w := newWatcher(t)
	table := startTable(t, Options{Observers: []Observer{w}})
	lib := build(t, "lib with space.so", "int answer(void) { return 42; }", "-shared", "-fPIC")
	prog := build(t, "loader", `
#include <dlfcn.h>
#include <stdio.h>
#include <pthread.h>
#include <unistd.h>
static void *rest(void *path) {
	char c;
	read(0, &c, 1);
	printf("%d\n", dlopen(path, RTLD_NOW) != 0);
	fflush(stdout);
	read(0, &c, 1);
	_exit(0);
}
int main(int argc, char **argv) {
	pthread_t t;
	pthread_create(&t, 0, rest, argv[1]);
	printf("ready\n");
	fflush(stdout);
	pthread_exit(0);
}`, "-pthread", "-ldl")
	cmd := exec.Command(prog, lib)
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	line := func() {
		b := make([]byte, 16)
		if _, err := out.Read(b); err != nil {
			t.Fatal(err)
		}
	}
	line()
	p := w.find("the loader", func(o *watched) bool { return o.p.Executable == prog })
	// A table that starts now must see the same: its leader is a zombie.
	waitZombie(t, p.p.PID)
	in.Write([]byte{1})
	line()
	w.find("the library", func(o *watched) bool { return o == p && maps(o.mapped, lib) })
	w2 := newWatcher(t)
	startTable(t, Options{Observers: []Observer{w2}})
	late := w2.find("the loader", func(o *watched) bool { return o.p.PID == p.p.PID })
	if !maps(late.inherit, lib) || late.p.Executable != prog {
		t.Errorf("a scan finds %+v with %v", late.p, late.inherit)
	}
	if p.p.Exited() {
		t.Error("the process ended with its leader")
	}
	for _, m := range p.p.Mappings() {
		if m.File == (FileID{}) {
			continue
		}
		if got, ok := late.p.Mapping(m.Start); !ok || got != m {
			t.Errorf("from /proc: %+v\nfrom events: %+v", got, m)
		}
	}
	if n := len(table.Processes()); n < 2 {
		t.Errorf("%d processes", n)
	}
	in.Close()
	w.find("the loader's end", func(o *watched) bool { return o == p && o.exited })
	w2.find("the loader's end", func(o *watched) bool { return o == late && o.exited })
}

func waitZombie(t *testing.T, pid PID) {
	t.Helper()
	d, err := openProcDir("/proc", pid)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		b, err := d.read("stat", nil, maxStatBytes)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := parseStat(b); err == nil && s.state == 'Z' {
			return
		}
	}
	t.Fatal("the leader lives on")
}
