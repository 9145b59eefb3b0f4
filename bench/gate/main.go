// Command gate measures whether `profilectl gate` is right: how often it fails when nothing changed, from how many runs on it
// finds a slowdown that was put into one function, and whether it tells two versions of a program apart. It records many runs
// of bench/gate/indexer on this machine, in turns, and draws experiments from them; README.md says how.
//
//	./task bench:gate
//	./task bench:gate -- -rounds 40 -keep DIR      more runs, kept; -pool DIR draws from kept ones
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"text/tabwriter"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/profile/gate"
)

// sampleRate is the indexer's.
const sampleRate = 250

// variants of the program that are recorded. The first two are the same.
var variants = []struct {
	name string
	args []string
}{
	{"baseline", nil}, {"baseline", nil},
	{"slower by 5%", []string{"-slower", "5"}}, {"slower by 10%", []string{"-slower", "10"}},
	{"heap sort", []string{"-sort", "heap"}},
}

func main() {
	rounds := flag.Int("rounds", 24, "how often each variant is run; the baseline twice as often")
	documents := flag.Int("documents", 300, "how long a run is")
	experiments := flag.Int("experiments", 200, "how many are drawn for each figure")
	keep := flag.String("keep", "", "keep the runs in this folder, a file each variant")
	from := flag.String("pool", "", "draw from runs that were kept in this folder instead of recording any")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, *rounds, *documents, *experiments, *keep, *from); err != nil {
		fmt.Fprintln(os.Stderr, "gate:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, w io.Writer, rounds, documents, experiments int, keep, from string) (err error) {
	var p pool
	if from != "" {
		p, err = openPool(os.DirFS(from))
	} else {
		p, err = record(ctx, rounds, documents)
	}
	if err != nil {
		return err
	}
	if keep != "" {
		if err := p.keep(keep); err != nil {
			return err
		}
	}
	return p.measure(ctx, w, experiments)
}

// record runs all variants in turns, each round in another order.
func record(ctx context.Context, rounds, documents int) (pool, error) {
	folder, err := os.MkdirTemp("", "gate")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(folder)
	program := filepath.Join(folder, "indexer")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "./bench/gate/indexer")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the program: %w\n%s", err, out)
	}
	p := pool{}
	for round := range rounds {
		for _, at := range rand.Perm(len(variants)) {
			v := variants[at]
			fmt.Fprintf(os.Stderr, "\r\x1b[Kround %d of %d, %s", round+1, rounds, v.name)
			batch, err := recordOnce(ctx, program, filepath.Join(folder, "cpu.pb.gz"), documents, v.args)
			if err != nil {
				return nil, fmt.Errorf("recording %s: %w", v.name, err)
			}
			p[v.name] = append(p[v.name], gate.Run{Batch: batch})
		}
	}
	fmt.Fprint(os.Stderr, "\r\x1b[K")
	return p, nil
}

func recordOnce(ctx context.Context, program, file string, documents int, args []string) (*profile.Batch, error) {
	cmd := exec.CommandContext(ctx, program, append([]string{"-cpuprofile", file, "-documents", fmt.Sprint(documents)}, args...)...)
	// On a busy machine Go's runtime interrupts who computes for long, and time would be that of its interruption.
	cmd.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := profile.ReadPprof(f, profile.PprofOptions{})
	if err != nil {
		return nil, err
	}
	for i := range b.Profiles {
		if b.Profiles[i].Type == profile.TypeCPU {
			return &profile.Batch{Dictionary: b.Dictionary, Profiles: b.Profiles[i : i+1]}, nil
		}
	}
	return nil, fmt.Errorf("a run of %d documents is too short to be sampled", documents)
}

// measure draws experiments and prints what they find.
func (p pool) measure(ctx context.Context, w io.Writer, experiments int) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "Nothing changed: %d experiments each, drawn from %d runs of one program; a run is in one experiment once at most\n\n", experiments, len(p["baseline"]))
	fmt.Fprintln(t, "pairs\tfailed\tfound a change\tcould not tell\tstated rate")
	for _, runs := range []int{6, 10, 20} {
		o, err := p.draw(ctx, experiments, runs, "baseline", gate.Options{Relabellings: 2000})
		if err != nil {
			return err
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t5%%\n", runs, o.share(o.failed), o.share(o.found), o.share(o.untold))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, c := range []struct {
		name, first string
		o           gate.Options
	}{
		{"slower by 5%", "main.digest", gate.Options{MaxRegression: 0.02}},
		{"slower by 10%", "main.digest", gate.Options{MaxRegression: 0.05}},
		{"heap sort", "main.sortWords", gate.Options{MaxRegression: 0.05}},
	} {
		c.o.Relabellings = 2000
		fmt.Fprintf(w, "\n%s, limit %.0f%%; %s is to be found, and named first\n\n", c.name, 100*c.o.MaxRegression, c.first)
		fmt.Fprintln(t, "pairs\tfound\tfailed\tnamed first\tcould not tell")
		for _, runs := range []int{6, 8, 10, 15, 20} {
			if runs > len(p[c.name]) {
				continue
			}
			o, err := p.draw(ctx, experiments, runs, c.name, c.o)
			if err != nil {
				return err
			}
			first, found := 0, 0
			for _, r := range o.reports {
				if rows := r.Regressions(); len(rows) > 0 && rows[0].Name == c.first {
					first++
				}
				for _, row := range r.Rows {
					if row.Name == c.first && (row.Self.P <= 0.05 || row.Total.P <= 0.05) {
						found++
					}
				}
			}
			fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\n", runs, o.share(found), o.share(o.failed), o.share(first), o.share(o.untold))
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	return nil
}
