package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/perfuse/perfuse/bench/running"
)

// state is what profiles a build.
type state struct {
	name, config string
	agent        bool
}

var states = []state{
	{name: "no agent"},
	{name: "CPU only", agent: true, config: "off_cpu: false\npage_faults: false\n"},
	{name: "with off-CPU, page faults", agent: true, config: "off_cpu: true\npage_faults: true\n"},
}

// built is what the builds in one state have cost, by round.
type built struct {
	cpu, wall, agent []float64 // seconds
	busy             float64   // seconds of all processors, all rounds
	rssBytes         int64     // the most
	programs         map[string]running.BPFProgram
}

// builds measures builds in turns: without an agent, with one that samples CPU time, and with one that also follows waits and
// page faults.
func (n *node) builds(ctx context.Context, c config, _ string) error {
	version, err := exec.CommandContext(ctx, "go", "version").Output()
	if err != nil {
		return fmt.Errorf("asking for Go's version (is go in PATH?): %w", err)
	}
	fmt.Printf("\ngo build -a %s, %s\n\n", strings.Join(c.packages, " "), strings.TrimSpace(strings.TrimPrefix(string(version), "go version ")))
	results := make([]built, len(states))
	for range c.rounds {
		for i, s := range states {
			if err := n.build(ctx, c, s, &results[i]); err != nil {
				return fmt.Errorf("building (%s): %w", s.name, err)
			}
		}
	}
	printBuilds(results)
	return nil
}

func (n *node) build(ctx context.Context, c config, s state, r *built) error {
	folder, err := os.MkdirTemp(n.folder, "build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	if !s.agent {
		cpu, wall, err := goBuild(ctx, folder, c.packages)
		r.cpu, r.wall, r.agent = append(r.cpu, cpu), append(r.wall, wall), append(r.agent, 0)
		return err
	}
	stats, err := running.CountBPF()
	if err != nil {
		return err
	}
	defer stats.Close()
	a, err := n.start(ctx, s.config+"heap: {go: false}\n", c.settle)
	if err != nil {
		return err
	}
	defer a.Stop()
	before, err := running.BPFPrograms(a.PID())
	if err != nil {
		return err
	}
	busyBefore, err := running.BusyTime()
	if err != nil {
		return err
	}
	cpu, wall, err := goBuild(ctx, folder, c.packages)
	if err != nil {
		return err
	}
	busyAfter, err := running.BusyTime()
	if err != nil {
		return err
	}
	r.busy += (busyAfter - busyBefore).Seconds()
	after, err := running.BPFPrograms(a.PID())
	if err != nil {
		return err
	}
	own, rss, err := a.cost()
	if err != nil {
		return err
	}
	r.cpu, r.wall, r.agent, r.rssBytes = append(r.cpu, cpu), append(r.wall, wall), append(r.agent, own.Seconds()), max(r.rssBytes, rss)
	if r.programs == nil {
		r.programs = map[string]running.BPFProgram{}
	}
	for name, p := range running.SinceBPF(before, after) {
		sum := r.programs[name]
		r.programs[name] = running.BPFProgram{Name: name, Runs: sum.Runs + p.Runs, Time: sum.Time + p.Time}
	}
	return nil
}

// goBuild builds all packages anew, into a cache of its own. CPU time is that of all processes of the build.
func goBuild(ctx context.Context, folder string, packages []string) (cpu, wall float64, err error) {
	cache, tmp := filepath.Join(folder, "cache"), filepath.Join(folder, "tmp")
	for _, f := range []string{cache, tmp} {
		if err := os.Mkdir(f, 0o700); err != nil {
			return 0, 0, err
		}
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-a"}, packages...)...)
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), "GOCACHE="+cache, "GOTMPDIR="+tmp, "GOFLAGS=", "CGO_ENABLED=0", "GOWORK=off", "GOTOOLCHAIN=local")
	// Its compilers end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	began := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, 0, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(), time.Since(began).Seconds(), nil
}

func printBuilds(results []built) {
	without, cpuOnly, all := results[0], results[1], results[2]
	fmt.Printf("%-26s %-25s %-26s %-25s %-26s %10s %8s\n", "", "CPU of the build", "to none", "time", "to none", "agent CPU", "RSS")
	for i, s := range states {
		r := results[i]
		line := fmt.Sprintf("%-26s %-25s %-26s %-25s %-26s", s.name, spreadOf(r.cpu).seconds(), spreadOf(ratios(r.cpu, without.cpu)).times(),
			spreadOf(r.wall).seconds(), spreadOf(ratios(r.wall, without.wall)).times())
		if s.agent {
			line += fmt.Sprintf(" %8.2f %% %5.0f MB", 100*spreadOf(ratios(r.agent, r.cpu)).median, float64(r.rssBytes)/1e6)
		}
		fmt.Println(strings.TrimSpace(line))
	}
	for i, s := range states {
		if s.agent {
			fmt.Printf("\nBPF programs, %s\n", s.name)
			printPrograms(results[i])
		}
	}
	share := func(r built) float64 {
		var t time.Duration
		for name, p := range r.programs {
			if extra(name) {
				t += p.Time
			}
		}
		return t.Seconds() / r.busy
	}
	fmt.Printf("\noff-CPU and page faults together: %.2f %% of the machine's CPU time by their programs' run time; the agent's own %+.2f %% of the build's; by pairs, all of it, %s\n",
		100*share(all), 100*(spreadOf(ratios(all.agent, all.cpu)).median-spreadOf(ratios(cpuOnly.agent, cpuOnly.cpu)).median), spreadOf(ratios(all.cpu, cpuOnly.cpu)).times())
	fmt.Println("to reach: 1 % together, on std")
}

// extra says whether a program is one of off-CPU time or page faults.
func extra(name string) bool {
	return strings.HasPrefix(name, "fault_") || strings.HasPrefix(name, "sched_") || name == "waiting"
}

func printPrograms(r built) {
	fmt.Printf("%-16s %12s %10s %10s %16s %16s\n", "", "runs", "µs a run", "CPU", "of the build's", "of the machine's")
	for _, p := range slices.SortedFunc(maps.Values(r.programs), func(a, b running.BPFProgram) int {
		return cmp.Or(cmp.Compare(b.Time, a.Time), strings.Compare(a.Name, b.Name))
	}) {
		fmt.Printf("%-16s %12d %10.2f %8.3f s %14.3f %% %14.3f %%\n", p.Name, p.Runs, float64(p.Time.Nanoseconds())/1e3/float64(max(p.Runs, 1)), p.Time.Seconds(),
			100*p.Time.Seconds()/sum(r.cpu), 100*p.Time.Seconds()/r.busy)
	}
}

func sum(values []float64) (total float64) {
	for _, v := range values {
		total += v
	}
	return total
}
