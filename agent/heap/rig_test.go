package heap

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-kit/log"

	"github.com/perfuse/perfuse/agent/process"
	"github.com/perfuse/perfuse/agent/sampler"
	"github.com/perfuse/perfuse/profile"
)

// rig is a Heap over the real machine that looks at the programs of the test only.
type rig struct {
	*Heap
	t     *testing.T
	table *process.Table

	mu   sync.Mutex
	mine map[process.PID]bool
	told map[string]int64 // values that came, by heap and type
	last map[string]int64 // the newest, likewise
	said bytes.Buffer
	end  func() // ends Run
}

// late lets the table be made before what observes it.
type late struct{ process.Observer }

func newRig(t *testing.T, o Options) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("following every process needs root")
	}
	r := &rig{t: t, mine: map[process.PID]bool{}, told: map[string]int64{}, last: map[string]int64{}}
	first, second := &late{}, &late{}
	var err error
	if r.table, err = process.New(process.Options{Observers: []process.Observer{first, second}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.table.Close() })
	s, err := sampler.New(sampler.Options{
		Open: r.table.Open, Lookup: r.table.Lookup, Sink: func(*profile.Batch) {}, Interval: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	first.Observer = s
	o.Sampler, o.Open, o.Keep, o.Sink = s, r.table.Open, r.isMine, r.accept
	o.Logger = log.NewLogfmtLogger(r)
	r.Heap = New(o)
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	second.Observer = r.Heap
	var wait sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(wait.Wait)
	t.Cleanup(stop)
	run := func(f func(context.Context) error) {
		wait.Go(func() {
			if err := f(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	run(r.table.Run)
	<-r.table.Scanned()
	run(s.Run)
	return r
}

// Write takes what is logged.
func (r *rig) Write(line []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.said.Write(line)
}

func (r *rig) logged() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.said.String()
}

// run runs the Heap until the end of the test, or until end is called.
func (r *rig) run() {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.Run(ctx); err != nil {
			r.t.Error(err)
		}
	}()
	r.end = sync.OnceFunc(func() {
		stop()
		<-done
	})
	r.t.Cleanup(r.end)
}

func (r *rig) isMine(p *process.Process) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return p != nil && r.mine[p.PID]
}

func (r *rig) accept(b *profile.Batch) {
	if err := b.Check(); err != nil {
		r.t.Error(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range b.Profiles {
		p := &b.Profiles[i]
		key := p.Labels.Get(profile.LabelHeap) + " " + p.Type.String()
		r.told[key] += p.Total()
		r.last[key] = p.Total()
	}
}

// toldOf is the sum of what came of a type from a kind of heap.
func (r *rig) toldOf(heap string, t profile.Type) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.told[heap+" "+t.String()]
}

// lastOf is what came of a type from a kind of heap last.
func (r *rig) lastOf(heap string, t profile.Type) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last[heap+" "+t.String()]
}

// until waits for a state of other processes, of which nobody tells.
func (r *rig) until(what string, condition func() bool) {
	r.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			r.t.Fatalf("after 20 s it is not so that %s: %+v", what, r.Stats())
		}
	}
}

// reason returns the one reason that contains a text, and of how many processes it is said.
func reason(in map[string]int, text string) (why string, n int) {
	for w, m := range in {
		if strings.Contains(w, text) {
			why, n = w, n+m
		}
	}
	return why, n
}

// program is a process that does what its standard input says and ends with that.
type program struct {
	rig  *rig
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	said bytes.Buffer
}

// living is a thread that lives as long as the tests do: to the kernel it is the parent with which its children die.
var living = sync.OnceValue(func() chan func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// start starts a program and waits until it is ready.
func (r *rig) start(command ...string) *program {
	r.t.Helper()
	p := &program{rig: r, cmd: exec.Command(command[0], command[1:]...)}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.Stderr = &p.said
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		r.t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	begun := make(chan error)
	r.mu.Lock() // nobody is asked whether it is mine before it is
	living() <- func() { begun <- p.cmd.Start() }
	if err = <-begun; err == nil {
		r.mine[process.PID(p.cmd.Process.Pid)] = true
	}
	r.mu.Unlock()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(p.kill)
	if line := p.line(); line != "ready" {
		r.t.Fatalf("%s says %q", command[0], line)
	}
	return p
}

func (p *program) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
	os.Remove(fmt.Sprintf("/tmp/.java_pid%d", p.cmd.Process.Pid)) // if it was a JVM that listened
}

// line is the next line of its standard output.
func (p *program) line() string {
	p.rig.t.Helper()
	limit := time.AfterFunc(time.Minute, func() { p.cmd.Process.Kill() }) // then reading fails
	defer limit.Stop()
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.rig.t.Fatalf("waiting for the program's answer: %v\n%s", err, p.said.String())
	}
	return strings.TrimSpace(line)
}

func (p *program) do(order string) string {
	p.rig.t.Helper()
	if _, err := fmt.Fprintln(p.in, order); err != nil {
		p.rig.t.Fatal(err)
	}
	return p.line()
}

// built builds programs once.
var built = struct {
	sync.Mutex
	folder string
	err    map[string]error
}{err: map[string]error{}}

// build runs a compiler whose last argument but the sources is the path of its result; without one the test is skipped.
func build(t *testing.T, name string, command ...string) string {
	t.Helper()
	tool, err := exec.LookPath(command[0])
	if err != nil {
		t.Skipf("%s is not installed", command[0])
	}
	built.Lock()
	defer built.Unlock()
	if built.folder == "" {
		if built.folder, err = os.MkdirTemp("", "heap"); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(built.folder, name)
	err, ok := built.err[name]
	if !ok {
		var args []string
		for _, a := range command[1:] {
			args = append(args, strings.ReplaceAll(a, "OUT", out))
		}
		cmd := exec.Command(tool, args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
		if text, failed := cmd.CombinedOutput(); failed != nil {
			err = fmt.Errorf("building %s: %w\n%s", name, failed, text)
		}
		built.err[name] = err
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.folder != "" {
		os.RemoveAll(built.folder)
	}
	os.Exit(code)
}
