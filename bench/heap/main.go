// Command heap measures what the profilers of memory and of waits cost, each beside the same programs without it, in turns: off-CPU
// time and page faults on a build of the standard library, and the heaps of Go, C and Java on programs that do little else than
// allocate. It prints one table a part, with the figures to reach; README.md says how each is measured and why.
//
//	./task bench:heap
//	./task bench:heap -- -only native,jvm -rounds 5
//	./task bench:heap -- -packages sort -rounds 1 -duration 2s -settle 2s -interval 1s      whether it works
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/perfuse/perfuse/bench/running"
)

type config struct {
	only     []string
	rounds   int
	duration time.Duration // how long each program allocates in a round
	interval time.Duration // between two looks at JVMs
	settle   time.Duration // from an agent's readiness to the beginning of the measurement
	packages []string
	program  string // a built perfuse, "" to build one
}

// parts are what can be asked for, in the order in which they run.
var parts = []string{"builds", "go", "native", "jvm"}

func main() {
	var c config
	only := flag.String("only", strings.Join(parts, ","), "the parts to run")
	packages := flag.String("packages", "std", "what is built, as a list for go build")
	flag.IntVar(&c.rounds, "rounds", 3, "how often everything is measured; medians count")
	flag.DurationVar(&c.duration, "duration", 15*time.Second, "how long each program allocates in a round")
	flag.DurationVar(&c.interval, "interval", 15*time.Second, "time between two looks at JVMs, 1s or more; no longer than -duration, else rounds miss them")
	flag.DurationVar(&c.settle, "settle", 10*time.Second, "how long to wait after an agent's start")
	flag.StringVar(&c.program, "perfuse", "", "the perfuse to measure (default: built from this tree)")
	flag.Parse()
	c.only = strings.Split(*only, ",")
	c.packages = strings.FieldsFunc(*packages, func(r rune) bool { return r == ',' || r == ' ' })
	if err := c.check(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, c); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func (c config) check() error {
	for _, name := range c.only {
		if !slices.Contains(parts, name) {
			return fmt.Errorf("-only %q: want some of %s", name, strings.Join(parts, ","))
		}
	}
	switch {
	case c.rounds < 1 || len(c.packages) == 0:
		return errors.New("want one round and one package or more")
	case c.duration < 500*time.Millisecond || c.interval < time.Second || c.interval > time.Hour || c.settle < 0:
		return errors.New("want a duration of 500ms or more, an interval of 1s to 1h, and no negative time")
	}
	return nil
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
	n, err := startNode(ctx, c.program, folder)
	if err != nil {
		return err
	}
	defer n.server.Stop()
	fmt.Printf("%d cores, %s; %d rounds, medians and ranges\n", runtime.NumCPU(), runtime.GOARCH, c.rounds)
	for _, name := range parts {
		if !slices.Contains(c.only, name) {
			continue
		}
		measure := n.churn
		if name == "builds" {
			measure = n.builds
		}
		if err := measure(ctx, c, name); err != nil {
			return fmt.Errorf("measuring %s: %w", name, err)
		}
	}
	return nil
}
