package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/profile/gate"
)

// pool is many runs of each variant.
type pool map[string][]gate.Run

// poolFile is a variant's file: folded text with one value a run, compressed.
//
//	main;run;index;digest 496000000 488000000 492000000
func poolFile(variant string) string {
	return strings.NewReplacer(" ", "-", "%", "").Replace(variant) + ".txt.gz"
}

// keep writes all runs.
func (p pool) keep(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for _, variant := range slices.Sorted(maps.Keys(p)) {
		data, err := packRuns(p[variant])
		if err != nil {
			return fmt.Errorf("keeping %s: %w", variant, err)
		}
		if err := os.WriteFile(filepath.Join(folder, poolFile(variant)), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func packRuns(runs []gate.Run) ([]byte, error) {
	stacks := map[string][]string{}
	for i, run := range runs {
		var folded bytes.Buffer
		if err := profile.NewTree(run.Batch, &run.Batch.Profiles[0]).WriteFolded(&folded); err != nil {
			return nil, err
		}
		for line := range strings.Lines(folded.String()) {
			at := strings.LastIndexByte(line, ' ')
			stack := line[:at]
			if stacks[stack] == nil {
				stacks[stack] = slices.Repeat([]string{"0"}, len(runs))
			}
			stacks[stack][i] = strings.TrimSpace(line[at:])
		}
	}
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	for _, stack := range slices.Sorted(maps.Keys(stacks)) {
		fmt.Fprintf(z, "%s %s\n", stack, strings.Join(stacks[stack], " "))
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// openPool reads runs that were kept.
func openPool(folder fs.FS) (pool, error) {
	p := pool{}
	for _, v := range variants {
		if p[v.name] != nil {
			continue
		}
		runs, err := unpackRuns(folder, poolFile(v.name))
		if err != nil {
			return nil, fmt.Errorf("reading runs of %s: %w", v.name, err)
		}
		p[v.name] = runs
	}
	return p, nil
}

func unpackRuns(folder fs.FS, name string) ([]gate.Run, error) {
	f, err := folder.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	var folded []*strings.Builder
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		stack := strings.TrimRight(lines.Text(), "0123456789 ")
		for i, value := range strings.Fields(lines.Text()[len(stack):]) {
			if i == len(folded) {
				folded = append(folded, &strings.Builder{})
			}
			if value != "0" {
				fmt.Fprintf(folded[i], "%s %s\n", stack, value)
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	runs := make([]gate.Run, len(folded))
	for i := range folded {
		if runs[i].Batch, err = profile.ParseFolded(strings.NewReader(folded[i].String()), profile.TypeCPU, nil); err != nil {
			return nil, err
		}
	}
	return runs, nil
}

// outcome is what many experiments found.
type outcome struct {
	reports               []*gate.Report
	failed, found, untold int
}

func (o *outcome) share(n int) string {
	return fmt.Sprintf("%d (%.1f%%)", n, 100*float64(n)/float64(len(o.reports)))
}

// draw makes experiments of so many runs a side: of the baseline, and of a variant. No run is twice in one experiment.
func (p pool) draw(ctx context.Context, experiments, runs int, variant string, options gate.Options) (*outcome, error) {
	random := rand.New(rand.NewPCG(uint64(runs), uint64(len(variant)))) // the same experiments each time
	out := &outcome{}
	for range experiments {
		baseline := some(random, p["baseline"], 2*runs)
		candidate := baseline[min(runs, len(baseline)):]
		if variant != "baseline" {
			candidate = some(random, p[variant], runs)
		}
		baseline = baseline[:min(runs, len(baseline))]
		if len(candidate) < runs {
			return nil, fmt.Errorf("%d runs a side of %s are more than were recorded: want more -rounds", runs, variant)
		}
		r, err := gate.Judge(ctx, baseline, candidate, options)
		if err != nil {
			return nil, err
		}
		out.reports = append(out.reports, r)
		switch r.Verdict {
		case gate.Regression:
			out.failed++
		case gate.CouldNotTell:
			out.untold++
		}
		if least(r) <= 0.05 {
			out.found++
		}
	}
	return out, nil
}

// least is the smallest p-value of being slower.
func least(r *gate.Report) float64 {
	p := r.All.Total.P
	for _, row := range r.Rows {
		p = min(p, row.Self.P, row.Total.P)
	}
	return p
}

// some returns n of the runs, or all, in an order by chance.
func some(random *rand.Rand, runs []gate.Run, n int) []gate.Run {
	out := make([]gate.Run, 0, n)
	for _, at := range random.Perm(len(runs))[:min(n, len(runs))] {
		out = append(out, runs[at])
	}
	return out
}
