package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	pprof "github.com/google/pprof/profile"

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

// TestLabels holds what the labels of goroutines say of the same code against what is known.
func TestLabels(t *testing.T) {
	needSampler(t)
	for _, w := range workloads.Labelled {
		t.Run(w.Name, func(t *testing.T) {
			path, err := workloads.Build(w.Name)
			if err != nil {
				t.Fatal(err)
			}
			out := filepath.Join(t.TempDir(), "labels.pb.gz")
			profilectl(t, "record", "--sampling-rate", fmt.Sprint(truthRate), "-o", out, "--", path, fmt.Sprint(truthSeconds))
			f, err := os.Open(out)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			p, err := pprof.Parse(f)
			if err != nil {
				t.Fatal(err)
			}
			value := slices.IndexFunc(p.SampleType, func(v *pprof.ValueType) bool { return v.Type == "samples" })
			if value < 0 {
				t.Fatalf("there are no samples in %v", p.SampleType)
			}
			var work, system, labelled int64
			routes := map[string]int64{}
			for _, s := range p.Sample {
				in := func(name string) bool {
					return slices.ContainsFunc(s.Location, func(l *pprof.Location) bool {
						return slices.ContainsFunc(l.Line, func(l pprof.Line) bool { return l.Function.Name == name })
					})
				}
				if !in("main.work") {
					continue
				}
				n := s.Value[value]
				work += n
				if in("runtime.systemstack") {
					system += n
				}
				if route := s.Label["route"]; len(route) == 1 {
					routes[route[0]] += n
					if want := map[string]string{"/heavy": "7", "/light": "8"}[route[0]]; len(s.Label["user_id"]) == 1 && s.Label["user_id"][0] == want {
						labelled += n
					}
				}
			}
			share := func(n int64) float64 { return 100 * float64(n) / float64(max(work, 1)) }
			t.Logf("%d samples in work, %.1f %% of them on the system's stack; %.2f %% with both labels; /heavy %.1f %%, /light %.1f %%",
				work, share(system), share(labelled), share(routes["/heavy"]), share(routes["/light"]))
			if work < 1000 || system == 0 {
				t.Errorf("%d samples in work, %d on the system's stack: too few to judge", work, system)
			}
			// Until the program's table is compiled, some ten milliseconds, nobody knows where its labels are.
			if got := share(labelled); got < 98 {
				t.Errorf("%.2f %% of the samples have both labels, want 98", got)
			}
			if got := share(routes["/heavy"]); got < 72 || got > 78 {
				t.Errorf("/heavy has %.2f %%, want 75 ± 3", got)
			}
		})
	}
}

// record runs a command under `profilectl record` and returns its profile as folded text.
func record(t *testing.T, command ...string) string {
	t.Helper()
	return profilectl(t, append([]string{"record", "--sampling-rate", fmt.Sprint(truthRate), "-o", "folded", "--"}, command...)...)
}

// profilectl runs a command and returns what it prints.
func profilectl(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
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
