// Command agent measures what the agent costs: its CPU and memory, the time its BPF programs take from others, and how
// long it takes to start, at several sampling rates while every core is busy. It prints one table, with the figures
// to reach; README.md says how each column is measured and why.
//
//	./task bench
//	./task bench -- -rates 19 -duration 5m
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/perfuse/perfuse/bench/running"
	"github.com/perfuse/perfuse/e2e/workloads"
)

// loads are the programs that keep the cores busy, one a core, beginning again when there are more cores: what people
// run, with stacks of different makes.
var loads = []string{"go", "cpp", "rust", "c-gcc"}

type config struct {
	rates    []int
	settle   time.Duration // from the agent's start to the beginning of the measurement
	duration time.Duration
	program  string // a built perfuse, "" to build one
}

func main() {
	var c config
	rates := flag.String("rates", "19,97", "sampling rates in Hz, one measurement each")
	flag.DurationVar(&c.duration, "duration", time.Minute, "how long to measure at each rate")
	flag.DurationVar(&c.settle, "settle", 20*time.Second, "how long to wait after the agent's start")
	flag.StringVar(&c.program, "perfuse", "", "the perfuse to measure (default: built from this tree)")
	flag.Parse()
	for _, text := range strings.Split(*rates, ",") {
		rate, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || rate <= 0 {
			fmt.Fprintf(os.Stderr, "bench: %q is no sampling rate\n", text)
			os.Exit(2)
		}
		c.rates = append(c.rates, rate)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, c); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, c config) error {
	folder, err := os.MkdirTemp("", "perfuse-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	if c.program == "" {
		if c.program, err = running.Build(ctx, folder); err != nil {
			return err
		}
	}
	stopLoad, names, err := startLoad(ctx)
	if err != nil {
		return err
	}
	defer stopLoad()
	fmt.Printf("%d cores, all busy with %s; %s a rate\n\n", runtime.NumCPU(), strings.Join(names, ", "), c.duration)
	fmt.Println(header)
	for _, rate := range c.rates {
		r, err := measure(ctx, c, folder, rate)
		if err != nil {
			return fmt.Errorf("measuring at %d Hz: %w", rate, err)
		}
		fmt.Println(r)
	}
	fmt.Println(reach)
	return nil
}

// startLoad starts one workload a core, for ever.
func startLoad(ctx context.Context) (stop func(), names []string, err error) {
	var loading []*exec.Cmd
	stop = func() {
		for _, cmd := range loading {
			cmd.Process.Kill()
			cmd.Wait()
		}
	}
	for i := range 2 * len(loads) * runtime.NumCPU() {
		if len(loading) == runtime.NumCPU() {
			break
		}
		name := loads[i%len(loads)]
		path, err := workloads.Build(name)
		if errors.Is(err, workloads.ErrNoCompiler) {
			continue
		}
		if err != nil {
			stop()
			return nil, nil, err
		}
		cmd := exec.CommandContext(ctx, path)
		cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
		if err := cmd.Start(); err != nil {
			stop()
			return nil, nil, err
		}
		loading = append(loading, cmd)
		names = append(names, name)
	}
	return stop, names, nil
}
