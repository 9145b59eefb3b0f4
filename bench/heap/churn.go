package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/perfuse/perfuse/agent/heap"
	"github.com/perfuse/perfuse/bench/running"
)

// watched is the service whose memory is profiled; its twins have other names.
var watched = fmt.Sprintf("bench-watched-%d", os.Getpid())

// workload is a program of testdata that allocates.
type workload struct {
	name string
	make func(ctx context.Context, folder string) (command []string, err error)
}

// profiler is a configuration of the agent. on says whether it has begun with the watched process: a measurement of a profiler
// that does not profile would look well.
type profiler struct {
	name, config string
	on           func(ctx context.Context, a *collector, pid int) (bool, error)
	probes       bool // it is seen by its BPF programs, too
}

// errMissing: a compiler or a runtime is not installed.
var errMissing = errors.New("is not in PATH")

var workloads = map[string][]workload{
	"go": {{"Go, 1024 stacks", goProgram}},
	"native": {
		{"C, malloc and free", cProgram("pairs")},
		{"C, a tree", cProgram("tree")},
	},
	"jvm": {{"Java", javaProgram}},
}

// profilers returns what a part compares, the agent without any first.
func profilers(part string, interval time.Duration) []profiler {
	selector := fmt.Sprintf(`'{service_name="%s"}'`, watched)
	switch part {
	case "go":
		// All other Go programs of the machine are left out, so that walks are walks through this one.
		only := fmt.Sprintf("relabel_configs: [{source_labels: [service_name], regex: %s, action: keep}]\n", watched)
		return []profiler{
			{name: "none", config: only + "heap: {go: false}\n"},
			{name: "go, interval 1s", config: only + "heap: {interval: 1s}\n", on: reads},
		}
	case "native":
		config := "heap: {interval: 2s, go: false, native: {max_calls: -1, selector: " + selector + "%s}}\n"
		return []profiler{
			{name: "none", config: "heap: {go: false}\n"},
			{name: "native", config: fmt.Sprintf(config, ""), on: probed, probes: true},
			{name: "native, alloc_only", config: fmt.Sprintf(config, ", alloc_only: true"), on: probed, probes: true},
		}
	default:
		config := "heap: {interval: " + interval.String() + ", go: false, jvm: {selector: " + selector + "%s}}\n"
		return []profiler{
			{name: "none", config: "heap: {go: false}\n"},
			{name: "jvm", config: fmt.Sprintf(config, ""), on: records},
			{name: "jvm, live", config: fmt.Sprintf(config, ", live: true"), on: records},
		}
	}
}

// reads says whether the agent has opened the memory of a process.
func reads(_ context.Context, a *collector, pid int) (bool, error) {
	folder := fmt.Sprintf("/proc/%d/fd", a.PID())
	entries, err := os.ReadDir(folder)
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(folder, e.Name())); err == nil && to == fmt.Sprintf("/proc/%d/mem", pid) {
			return true, nil
		}
	}
	return false, err
}

// probed says whether the agent has put probes on the allocator of the one process that it may.
func probed(ctx context.Context, a *collector, _ int) (bool, error) {
	st, err := a.heap(ctx)
	return st.Native > 0, err
}

// records says whether Flight Recorder runs in a process.
func records(_ context.Context, _ *collector, pid int) (bool, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/comm", pid))
	for _, f := range files {
		if name, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(name), "JFR ") {
			return true, nil
		}
	}
	return false, err
}

func goProgram(ctx context.Context, folder string) ([]string, error) {
	path := filepath.Join(folder, "go-churn")
	return []string{path}, compile(ctx, "go", "build", "-o", path, "./bench/heap/testdata/churn")
}

func cProgram(kind string) func(context.Context, string) ([]string, error) {
	return func(ctx context.Context, folder string) ([]string, error) {
		path := filepath.Join(folder, "c-churn")
		return []string{path, kind}, compile(ctx, "gcc", "-O2", "-o", path, "bench/heap/testdata/churn.c")
	}
}

func javaProgram(ctx context.Context, folder string) ([]string, error) {
	path, err := exec.LookPath("java")
	if err != nil {
		return nil, fmt.Errorf("java %w", errMissing)
	}
	return []string{path, "-Xmx512m", "-cp", folder, "Churn"}, compile(ctx, "javac", "-d", folder, "bench/heap/testdata/Churn.java")
}

func compile(ctx context.Context, name string, args ...string) error {
	if _, err := exec.LookPath(name); err != nil {
		return fmt.Errorf("%s %w", name, errMissing)
	}
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// subject is a running workload.
type subject struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
	total work
}

// work is what a program says that it has done: operations, and what they took.
type work struct{ operations, cpu, wall float64 } // nanoseconds

func (w work) nanoseconds() float64 { return w.cpu / w.operations }
func (w work) perSecond() float64   { return w.operations / w.wall * 1e9 }

func startSubject(ctx context.Context, command []string, service string) (*subject, error) {
	s := &subject{cmd: exec.CommandContext(ctx, command[0], command[1:]...)}
	s.cmd.Env = append(os.Environ(), "OTEL_SERVICE_NAME="+service)
	s.cmd.Stderr = os.Stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var err error
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.out = bufio.NewReader(out)
	return s, s.cmd.Start()
}

func (s *subject) stop() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

// work has it allocate for a while.
func (s *subject) work(d time.Duration) (w work, err error) {
	if _, err := fmt.Fprintln(s.in, d.Milliseconds()); err != nil {
		return w, err
	}
	line, err := s.out.ReadString('\n')
	if err == nil {
		_, err = fmt.Sscan(line, &w.operations, &w.cpu, &w.wall)
	}
	if err == nil && (w.operations <= 0 || w.cpu <= 0 || w.wall <= 0) {
		err = errors.New("it is too short a time")
	}
	if err != nil {
		return w, fmt.Errorf("%s, asked to work for %s, said %q: %w", strings.Join(s.cmd.Args, " "), d, line, err)
	}
	return w, nil
}

// churned is what a workload has done beside a profiler, by round.
type churned struct {
	bare, added, cpu, throughput, noise []float64
	agentShare                          float64 // of a core
	rssBytes                            int64
	note                                string
}

// churn compares programs that allocate with and without each profiler, and prints a table.
func (n *node) churn(ctx context.Context, c config, part string) error {
	fmt.Printf("\n%-20s %-19s %8s %9s  %-25s  %-25s  %-25s %10s %8s\n", part, "profiler", "bare ns", "added ns", "CPU an operation", "throughput", "noise",
		"agent CPU", "RSS")
	for _, w := range workloads[part] {
		folder, err := os.MkdirTemp(n.folder, "churn-")
		if err != nil {
			return err
		}
		command, err := w.make(ctx, folder)
		if errors.Is(err, errMissing) {
			fmt.Printf("%-20s not measured: %v\n", w.name, err)
			continue
		}
		if err != nil {
			return err
		}
		for _, p := range profilers(part, c.interval) {
			r, err := n.beside(ctx, c, part, command, p)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", w.name, p.name, err)
			}
			fmt.Printf("%-20s %-19s %8.1f %+9.1f  %-25s  %-25s  %-25s %8.2f %% %5.0f MB\n", w.name, p.name, spreadOf(r.bare).median, spreadOf(r.added).median,
				spreadOf(r.cpu).times(), spreadOf(r.throughput).times(), spreadOf(r.noise).times(), 100*r.agentShare, float64(r.rssBytes)/1e6)
			if r.note != "" {
				fmt.Println(r.note)
			}
		}
	}
	return nil
}

// beside runs all rounds of one workload beside one profiler.
func (n *node) beside(ctx context.Context, c config, part string, command []string, p profiler) (r churned, err error) {
	a, err := n.start(ctx, p.config, c.settle)
	if err != nil {
		return r, err
	}
	defer a.Stop()
	for range c.rounds {
		if p.probes {
			// The last round's process must be forgotten: the agent tells how many it probes, not which.
			if err := a.await(ctx, "the agent probes nothing", func() (bool, error) {
				yes, err := p.on(ctx, a, 0)
				return !yes, err
			}); err != nil {
				return r, err
			}
		}
		if err := round(ctx, c, part, command, p, a, &r); err != nil {
			return r, err
		}
	}
	cpu, rss, err := a.cost()
	if err != nil {
		return r, err
	}
	r.agentShare, r.rssBytes = cpu.Seconds()/time.Since(a.began).Seconds(), rss
	st, err := a.heap(ctx)
	if err == nil && part == "go" && p.on != nil {
		r.note, err = walks(st)
	}
	return r, err
}

func walks(st heap.Stats) (string, error) {
	if st.Walks == 0 {
		return "", fmt.Errorf("the agent has made no walk: %d Go programs, without a profile: %q", st.Go, st.Reasons())
	}
	return fmt.Sprintf("%d walks, %.0f µs each, %d partial", st.Walks, float64(st.Walking.Nanoseconds())/1e3/float64(st.Walks), st.Partial), nil
}

// round starts three processes of one program, of which the agent watches one, and lets them work in turns. The third
// is a second one that nobody watches: what it differs from the first is noise.
func round(ctx context.Context, c config, part string, command []string, p profiler, a *collector, r *churned) error {
	var all [3]*subject
	for i, service := range [...]string{"bench-bare", watched, "bench-control"} {
		s, err := startSubject(ctx, command, service)
		if err != nil {
			return err
		}
		defer s.stop()
		all[i] = s
	}
	if p.on != nil {
		if err := a.await(ctx, "it profiles "+watched, func() (bool, error) { return p.on(ctx, a, all[1].cmd.Process.Pid) }); err != nil {
			return err
		}
	}
	if err := warm(c.duration, p, a, all, r); err != nil {
		return err
	}
	// A look at a JVM stops it, so that its turn must be as long as the time between two; the others' are short, so
	// that whatever else happens on the machine meets all three.
	turns := 20
	if part == "jvm" {
		turns = 1
	}
	for turn := range turns {
		for i := range all {
			s := all[(turn+i)%len(all)]
			w, err := s.work(c.duration / time.Duration(turns))
			if err != nil {
				return err
			}
			s.total.operations += w.operations
			s.total.cpu += w.cpu
			s.total.wall += w.wall
		}
	}
	if p.on != nil {
		if yes, err := p.on(ctx, a, all[1].cmd.Process.Pid); err != nil {
			return err
		} else if st, err := a.heap(ctx); err == nil && !yes {
			return fmt.Errorf("the agent has left %s alone: %q", watched, st.Reasons())
		}
	}
	bare, with, control := all[0].total, all[1].total, all[2].total
	r.bare = append(r.bare, bare.nanoseconds())
	r.added = append(r.added, with.nanoseconds()-bare.nanoseconds())
	r.cpu = append(r.cpu, with.nanoseconds()/bare.nanoseconds())
	r.throughput = append(r.throughput, with.perSecond()/bare.perSecond())
	r.noise = append(r.noise, control.nanoseconds()/bare.nanoseconds())
	return nil
}

// warm lets caches, compilers and heaps settle, and holds the probes to what the program says that it has done. Their runs
// are counted only here: that costs, too.
func warm(d time.Duration, p profiler, a *collector, all [3]*subject, r *churned) error {
	d = max(d/5, 500*time.Millisecond)
	for i, s := range all {
		if i != 1 || !p.probes {
			if _, err := s.work(d); err != nil {
				return err
			}
			continue
		}
		runs, done, err := countRuns(a, s, d)
		if err != nil {
			return err
		}
		if float64(runs) < done.operations {
			return fmt.Errorf("the watched program has allocated %.0f times, but the probes were hit %d times", done.operations, runs)
		}
		r.note = fmt.Sprintf("%.2f runs of BPF programs a pair", float64(runs)/done.operations)
	}
	return nil
}

func countRuns(a *collector, s *subject, d time.Duration) (runs uint64, done work, err error) {
	stats, err := running.CountBPF()
	if err != nil {
		return 0, done, err
	}
	defer stats.Close()
	before, err := running.BPFPrograms(a.PID())
	if err != nil {
		return 0, done, err
	}
	if done, err = s.work(d); err != nil {
		return 0, done, err
	}
	after, err := running.BPFPrograms(a.PID())
	for name, p := range running.SinceBPF(before, after) {
		if strings.HasPrefix(name, "memory_") {
			runs += p.Runs
		}
	}
	return runs, done, err
}
