// Command store measures the server as a store of profiles, on a corpus of real ones: what it costs to take samples in,
// what they need on disk and in memory, how long queries, stop and start take. It prints one table beside the figures
// to reach and the peers'; README.md says how each line is measured and why.
//
//	./task bench:store -- -corpus DIR
//	./task bench:store -- -corpus DIR -samples 1,5,20 -door push -senders 128
//	./task bench:store -- -corpus DIR -samples 19.5 -services 100 -cpu -step 30m     a week of 500 series
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/perfuse/perfuse/bench/running"
)

type config struct {
	corpus   string
	program  string
	door     string
	senders  int
	fleet    fleet
	sizes    []int64 // samples stored when a line of queries is measured
	repeats  int
	only     *regexp.Regexp // the queries that are asked
	profiles string         // where CPU profiles of queries go; empty: nowhere
}

func main() {
	var c config
	sizes := flag.String("samples", "1,5,20", "after how many million samples to measure")
	flag.StringVar(&c.corpus, "corpus", os.Getenv("PERFUSE_CORPUS"), "folder with cpu/ and mem/, pprof files of each kind (bench/README.md)")
	flag.StringVar(&c.door, "door", "writeraw", "writeraw (Parca's) or push (Pyroscope's)")
	flag.IntVar(&c.senders, "senders", 2, "how many send at once")
	flag.IntVar(&c.fleet.services, "services", 20, "how many services of 5 pods there are")
	flag.DurationVar(&c.fleet.step, "step", 10*time.Second, "time between the profiles of a pod")
	flag.BoolVar(&c.fleet.cpuOnly, "cpu", false, "pods have CPU profiles only, no heap profiles")
	flag.IntVar(&c.repeats, "repeats", 7, "how often each query is asked; the median counts")
	only := flag.String("only", "", "ask only the queries whose names this regular expression matches")
	flag.StringVar(&c.profiles, "profiles", "", "folder for CPU profiles of the server, 5 s of each query, to see where its time goes")
	flag.StringVar(&c.program, "perfuse", "", "the perfuse to measure (default: built from this tree)")
	flag.Parse()
	for _, text := range strings.Split(*sizes, ",") {
		n, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
		if err != nil || n <= 0 || len(c.sizes) > 0 && int64(n*1e6) <= c.sizes[len(c.sizes)-1] {
			fmt.Fprintf(os.Stderr, "bench: -samples %q: want growing numbers of millions, as 1,5,20\n", *sizes)
			os.Exit(2)
		}
		c.sizes = append(c.sizes, int64(n*1e6))
	}
	var err error
	if c.only, err = regexp.Compile(*only); err != nil {
		fmt.Fprintf(os.Stderr, "bench: -only: %v\n", err)
		os.Exit(2)
	}
	if c.fleet.services < 8 || c.fleet.step <= 0 || c.senders < 1 || c.repeats < 1 {
		fmt.Fprintln(os.Stderr, "bench: want 8 services or more, a step above 0, and at least one sender and repeat")
		os.Exit(2)
	}
	if c.corpus == "" {
		fmt.Fprintln(os.Stderr, "bench: no corpus: give -corpus DIR or PERFUSE_CORPUS; bench/README.md says what it holds and how to make one")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, c); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, c config) (err error) {
	files, err := readCorpus(c.corpus)
	if err != nil {
		return err
	}
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
	s := &subject{config: c, folder: folder}
	if err := s.start(ctx); err != nil {
		return err
	}
	defer func() { s.process.Stop() }()
	load := newLoad(c.fleet, files, c.sizes[len(c.sizes)-1])
	fmt.Printf("%d senders through %s; profiles of %d series in steps of %s, %s of their time\n", c.senders, c.door, c.fleet.series(), c.fleet.step,
		load.end.Sub(load.start))
	for _, size := range c.sizes {
		if err := s.fill(ctx, load, size); err != nil {
			return fmt.Errorf("filling up to %d samples: %w", size, err)
		}
		if err := s.ask(ctx, load); err != nil {
			return fmt.Errorf("asking %d samples: %w", size, err)
		}
	}
	if err := s.restart(ctx); err != nil {
		return fmt.Errorf("restarting: %w", err)
	}
	fmt.Print(reach)
	return nil
}

// subject is the server that is measured.
type subject struct {
	config
	folder, address string
	process         *running.Process
}

func (s *subject) start(ctx context.Context) (err error) {
	if s.address, err = running.FreeAddress(); err != nil {
		return err
	}
	if s.process, err = running.Start(ctx, s.program, "server", "--http-address", s.address, "--storage-path", s.folder+"/data"); err != nil {
		return err
	}
	return running.Ready(ctx, s.process, s.address)
}

// restart stops the server as an operator does, and starts it over what it has stored.
func (s *subject) restart(ctx context.Context) error {
	began := time.Now()
	s.process.Stop()
	stopped := time.Since(began)
	began = time.Now()
	if err := s.start(ctx); err != nil {
		return err
	}
	fmt.Printf("\nclean stop %.2f s, ready after start %.2f s\n", stopped.Seconds(), time.Since(began).Seconds())
	return nil
}
