package native

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/perfuse/perfuse/agent/process"
	"github.com/perfuse/perfuse/agent/sampler"
	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/symbolize/elf"
)

// rig is sampler and profiler over the real machine.
type rig struct {
	*Profiler
	sampler *sampler.Sampler
	table   *process.Table
	mu      sync.Mutex
	more    sync.Cond
	chosen  map[process.PID]bool
	looks   map[process.PID]int
	names   map[string][]elf.Symbol // by file
	attr    *syscall.SysProcAttr    // of what is started

	unreadable string // a file
}

// late lets the table be made before what observes it.
type late struct{ process.Observer }

func newRig(t testing.TB, o Options) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("probes need root")
	}
	r := &rig{chosen: map[process.PID]bool{}, looks: map[process.PID]int{}, names: map[string][]elf.Symbol{}}
	r.more.L = &r.mu
	first, second := &late{}, &late{}
	var err error
	if r.table, err = process.New(process.Options{Observers: []process.Observer{first, second}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.table.Close() })
	r.sampler, err = sampler.New(sampler.Options{
		Open: r.table.Open, Lookup: r.table.Lookup, Sink: func(*profile.Batch) {}, Interval: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.sampler.Close() })
	first.Observer = r.sampler
	o.Programs, o.Open = r.sampler.Programs(), func(p *process.Process, m process.Mapping) (process.File, error) {
		if m.Path == r.unreadable {
			return nil, fmt.Errorf("reading %s: no", m.Path)
		}
		return r.table.Open(p, m)
	}
	if o.Select == nil {
		o.Select = func(p *process.Process) bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.chosen[p.PID]
		}
	}
	o.looked = func(p *process.Process) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.looks[p.PID]++
		r.more.Broadcast()
	}
	r.Profiler, err = New(o)
	if errors.Is(err, ebpf.ErrNotSupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Profiler.Close() })
	second.Observer = r.Profiler
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
	run(r.sampler.Run)
	run(r.Profiler.Run)
	return r
}

// kernel is what a kernel can.
type kernel struct{ noSession, noMulti bool }

// kernels are this one, one from 6.6 on, and one before.
var kernels = []kernel{{}, {noSession: true}, {noSession: true, noMulti: true}}

func (k kernel) with(o Options) Options {
	o.noSession, o.noMulti = k.noSession, k.noMulti
	return o
}

func (k kernel) String() string {
	return fmt.Sprintf("no sessions %v, no multi %v", k.noSession, k.noMulti)
}

// target is a program that does as it is told.
type target struct {
	rig *rig
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// amounts are what a program says of one of its functions.
type amounts struct{ live, allocated float64 }

// start starts a program and, if it is to be watched, waits until it has its probes and the tables of its files are made.
func (r *rig) start(t testing.TB, env []string, path string, watched bool) *target {
	t.Helper()
	x := &target{rig: r, cmd: exec.Command(path)}
	x.cmd.Env = append(os.Environ(), env...)
	x.cmd.Stderr = os.Stderr
	x.cmd.SysProcAttr = r.attr
	var err error
	if x.in, err = x.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := x.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	x.out = bufio.NewScanner(out)
	r.mu.Lock() // it is not asked about before it is known
	if err := x.cmd.Start(); err != nil {
		r.mu.Unlock()
		t.Fatal(err)
	}
	pid := process.PID(x.cmd.Process.Pid)
	r.chosen[pid] = watched
	r.mu.Unlock()
	t.Cleanup(func() {
		x.in.Close()
		x.cmd.Process.Kill()
		x.cmd.Wait()
	})
	x.ask(t, "hello", 0) // it runs: all its libraries are mapped
	if watched {
		if err := r.table.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.until(t, func() bool { return r.allLooked(pid, path) })
		if err := r.sampler.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return x
}

// allLooked says whether the program that a process has become has its probes on all that it maps. The process was a copy of
// ours before.
func (r *rig) allLooked(pid process.PID, path string) bool {
	r.Profiler.mu.Lock()
	defer r.Profiler.mu.Unlock()
	for _, w := range r.watched {
		if w.process.PID != pid || w.process.Executable != path || len(w.names) == 0 {
			continue
		}
		for _, m := range w.process.Mappings() {
			if m.File != (process.FileID{}) && !w.files[m.File] {
				return false
			}
		}
		return true
	}
	return false
}

// until waits until a process was looked at and f is true.
func (r *rig) until(t testing.TB, f func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 30*time.Second, errors.New("the probes did not come"))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.more.Broadcast()
	})()
	for {
		r.mu.Lock()
		before := fmt.Sprint(r.looks)
		r.mu.Unlock()
		if f() {
			return
		}
		r.mu.Lock()
		for fmt.Sprint(r.looks) == before && ctx.Err() == nil {
			r.more.Wait()
		}
		r.mu.Unlock()
		if ctx.Err() != nil {
			for _, h := range r.heapsNow(t) {
				t.Logf("%d %s, mappings %+v: %v, %v, %v", h.Process.PID, h.Process.Executable, h.Process.Mappings(), h.Files, h.Err, h.Incomplete)
			}
			t.Fatal(context.Cause(ctx))
		}
	}
}

func (r *rig) heapsNow(t testing.TB) []Heap {
	t.Helper()
	hs, err := r.Heaps()
	if err != nil {
		t.Fatal(err)
	}
	return hs
}

// ask gives a command and returns what the program answers.
func (x *target) ask(t testing.TB, command string, mb float64) map[string]amounts {
	t.Helper()
	if _, err := fmt.Fprintf(x.in, "%s %g\n", command, mb); err != nil {
		t.Fatal(err)
	}
	out := map[string]amounts{}
	for x.out.Scan() {
		var name string
		var a amounts
		if _, err := fmt.Sscan(x.out.Text(), &name, &a.live, &a.allocated); err != nil {
			t.Fatalf("%q: %v", x.out.Text(), err)
		}
		if name == "end" {
			return out
		}
		out[name] = a
	}
	t.Fatalf("the program has ended: %v", x.out.Err())
	return nil
}

// stacks returns the values of a type by stack, as names from the leaf on, of the profiles that the profiler makes now.
func (r *rig) stacks(t testing.TB, b *profile.Batch, typ profile.Type, pid int) map[string]float64 {
	t.Helper()
	out := map[string]float64{}
	d := b.Dictionary
	for _, p := range b.Profiles {
		if p.Type != typ {
			continue
		}
		for _, s := range p.Samples {
			var names []string
			for _, i := range d.Stacks[s.Stack] {
				f := d.Frames[i]
				switch {
				case len(f.Lines) > 0:
					names = append(names, d.Functions[f.Lines[0].Function].Name)
				default:
					names = append(names, r.symbol(pid, d.Mappings[f.Mapping].File, uint64(f.Addr)))
				}
			}
			out[strings.Join(names, ";")] += float64(s.Value)
		}
	}
	return out
}

func (r *rig) collect(t testing.TB) *profile.Batch {
	t.Helper()
	now := time.Now()
	j := r.sampler.Join(now, now)
	if err := r.AddTo(j); err != nil {
		t.Fatal(err)
	}
	return j.Batch()
}

// symbol names an address of a file.
func (r *rig) symbol(pid int, file string, addr uint64) string {
	syms, ok := r.names[file]
	if !ok {
		f, err := elf.Open(fmt.Sprintf("/proc/%d/root%s", pid, file))
		if err == nil {
			for i := range f.Sections {
				if s := &f.Sections[i]; s.Type == elf.SectionSymtab || s.Type == elf.SectionDynsym {
					_ = f.Symbols(s, func(_ int, sym elf.Symbol) bool {
						if sym.Type == elf.SymbolFunc && sym.Section != 0 {
							syms = append(syms, sym)
						}
						return true
					})
				}
			}
			f.Close()
		}
		slices.SortFunc(syms, func(a, b elf.Symbol) int { return cmp.Compare(a.Addr, b.Addr) })
		r.names[file] = syms
	}
	name := "?"
	for _, s := range syms {
		if s.Addr <= addr && addr < s.Addr+max(s.Size, 1) {
			name = s.Name
		}
	}
	return name
}

// bySite sums stacks by the outermost function that is one of the sites.
func bySite(stacks map[string]float64, sites map[string]amounts) map[string]float64 {
	out := map[string]float64{}
	for stack, v := range stacks {
		found := ""
		for frame := range strings.SplitSeq(stack, ";") {
			for name := range sites {
				// As C has it, or mangled: behind its length, and before the hash or the arguments.
				if frame == name || strings.Contains(frame, fmt.Sprintf("%d%s", len(name), name)) {
					found = name
				}
			}
		}
		out[found] += v
	}
	return out
}

// compile makes a program of testdata; it skips the test if it cannot.
func compile(t testing.TB, source string, command ...string) string {
	t.Helper()
	tool, err := exec.LookPath(command[0])
	if err != nil {
		tool = filepath.Join(os.Getenv("HOME"), ".cargo/bin", command[0])
		if _, err := os.Stat(tool); err != nil {
			t.Skipf("%s is not installed", command[0])
		}
	}
	out := filepath.Join(t.TempDir(), strings.TrimSuffix(source, filepath.Ext(source)))
	args := append(slices.Clone(command[1:]), "-o", out, filepath.Join("testdata", source))
	if text, err := exec.Command(tool, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", tool, err, text)
	}
	return out
}

// preload returns the environment that puts a library first; it skips the test if there is none.
func preload(t testing.TB, library string) []string {
	t.Helper()
	if library == "" {
		return nil
	}
	for _, pattern := range []string{"/usr/lib/*/", "/usr/lib/", "/usr/lib64/"} {
		if found, _ := filepath.Glob(pattern + library); len(found) > 0 {
			return []string{"LD_PRELOAD=" + found[0]}
		}
	}
	t.Skipf("%s is not installed", library)
	return nil
}
