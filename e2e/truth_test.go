package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/perfuse/perfuse/e2e/workloads"
)

// At 499 Hz, 3 CPU seconds are some 1500 samples. Were they drawn independently, the split's standard error would be 1.2
// points; a round of a workload being some 25 samples long, it is a third of that.
const (
	truthRate    = 499
	truthSeconds = 3
)

// TestTruth records each workload as a user would, and holds the recording against what the workload is known to do.
func TestTruth(t *testing.T) {
	needSampler(t)
	for _, w := range workloads.All {
		t.Run(w.Name, func(t *testing.T) {
			path, err := workloads.Build(w.Name)
			if errors.Is(err, workloads.ErrNoCompiler) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			w, _ := workloads.Named(w.Name)
			folded := record(t, path, fmt.Sprint(truthSeconds))
			v, err := workloads.Judge(w, folded)
			if err != nil {
				t.Fatal(err)
			}
			samples := float64(v.Total) / (1e9 / truthRate)
			t.Logf("%.0f samples, %.2f %% whole, hot %.1f %% = %.1f/%.1f/%.1f, %.2f %% off the chain", samples, v.Whole, v.Hot,
				v.Split["hot70"], v.Split["hot20"], v.Split["hot10"], v.OffChain)
			if samples < 1000 {
				t.Errorf("%.0f samples are too few to judge", samples)
			}
			for _, fault := range v.Faults {
				t.Error(fault)
			}
			if t.Failed() {
				t.Logf("for example: %s", v.Example)
				t.Logf("the heaviest stacks:\n%s", heaviest(folded, 12))
			}
		})
	}
}

// record runs a command under `profilectl record` and returns its profile as folded text.
func record(t *testing.T, command ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	args := append([]string{"record", "--sampling-rate", fmt.Sprint(truthRate), "-o", "folded", "--"}, command...)
	cmd := exec.CommandContext(ctx, program(t, "profilectl"), args...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		t.Fatalf("profilectl %s: %v\n%s", strings.Join(args, " "), err, said.Bytes())
	}
	return out.String()
}

// heaviest returns the n stacks of the largest values.
func heaviest(folded string, n int) string {
	lines := strings.Split(strings.TrimSpace(folded), "\n")
	value := func(line string) (v int64) {
		fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &v)
		return v
	}
	sort.SliceStable(lines, func(i, j int) bool { return value(lines[i]) > value(lines[j]) })
	return strings.Join(lines[:min(n, len(lines))], "\n")
}
