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

// poolFile is a variant's file: folded text with a tab and one value a run, compressed.
//
//	main;run;index;digest	496000000 488000000 492000000
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
		fmt.Fprintf(z, "%s\t%s\n", stack, strings.Join(stacks[stack], " "))
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
		stack, values, ok := strings.Cut(lines.Text(), "\t")
		if !ok {
			return nil, fmt.Errorf("%q: want a stack, a tab, and values", lines.Text())
		}
		for i, value := range strings.Fields(values) {
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
		runs[i].Batch.Profiles[0].Period = 1e9 / sampleRate
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

// draw makes experiments of so many pairs of runs: of the baseline and of a variant, from one round each, as 'gate run' makes them.
// No run is twice in one experiment. The baseline has two runs a round: of a variant either is its partner.
func (p pool) draw(ctx context.Context, experiments, runs int, variant string, options gate.Options) (*outcome, error) {
	random := rand.New(rand.NewPCG(uint64(runs), uint64(len(variant)))) // the same experiments each time
	options.Paired = true
	out := &outcome{}
	for range experiments {
		rounds := random.Perm(len(p["baseline"]) / 2)
		if len(rounds) < runs {
			return nil, fmt.Errorf("%d pairs of runs of %s are more than were recorded: want more -rounds", runs, variant)
		}
		var baseline, candidate []gate.Run
		for _, round := range rounds[:runs] {
			either := random.IntN(2)
			baseline = append(baseline, p["baseline"][2*round+either])
			if variant == "baseline" {
				candidate = append(candidate, p["baseline"][2*round+1-either])
			} else {
				candidate = append(candidate, p[variant][round])
			}
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
