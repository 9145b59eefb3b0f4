package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/perfuse/perfuse/e2e/workloads"
)

// TestTelling records programs that measure themselves, and compares: each function's share, in points of the whole,
// and the sum, in percent.
func TestTelling(t *testing.T) {
	needSampler(t)
	for _, c := range []struct {
		workload, argument, typ string
		points, percent         float64
	}{
		{"waits", "10", "wall", 5, 10},
		{"waits", "10 off", "off_cpu", 5, 10},
		{"faults", "6", "page_faults", 5, 5},
		// Of 90 MB there are 5600 samples (of the JVM some 160, one a TLAB), 560 at the smallest site: its standard error is 4 %, half a point of the whole.
		{"heap-c", "", "inuse_space", 4, 10},
		{"heap-c", "alloc", "alloc_space", 4, 10},
		{"heap-static", "", "inuse_space", 4, 10},
		{"heap-cpp", "", "inuse_space", 4, 10},
		{"heap-rust", "", "inuse_space", 4, 10},
		{"heap-rust", "alloc", "alloc_space", 4, 10},
		{"heap-go", "", "inuse_space", 4, 10},
		{"heap-go-stripped", "", "inuse_space", 4, 10},
		{"heap-go-stripped", "alloc", "alloc_space", 4, 10},
		{"heap-java", "", "inuse_space", 4, 10},
		{"heap-java", "alloc", "alloc_space", 10, 10},
	} {
		t.Run(c.workload+" "+c.typ, func(t *testing.T) {
			path, err := workloads.Build(c.workload)
			if errors.Is(err, workloads.ErrNoCompiler) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			out := filepath.Join(t.TempDir(), "out.folded")
			command := []string{path}
			if c.workload == "heap-java" {
				command = []string{"java", "-Xmx512m", "-cp", path, "Heap"}
			}
			command = append(command, strings.Fields(c.argument)...)
			told := profilectl(t, append([]string{"record", "--type", c.typ, "--sample-bytes", "16384", "-o", out, "--"}, command...)...)
			folded, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			want := tellings(t, told)
			got := map[string]float64{}
			var sumWant, sumGot float64
			for name, v := range want {
				got[name] = valueOf(t, string(folded), name)
				sumWant += v
				sumGot += got[name]
			}
			if sumWant == 0 {
				t.Fatalf("the program tells nothing: %q", told)
			}
			for name, v := range want {
				is, should := 100*got[name]/sumWant, 100*v/sumWant
				t.Logf("%-10s %5.1f %%, the program says %5.1f %%", name, is, should)
				if is > should+c.points || is < should-c.points {
					t.Errorf("%s has %.1f %% of what the program measured, want %.1f ± %.0f", name, is, should, c.points)
				}
			}
			if off := 100 * (sumGot/sumWant - 1); off > c.percent || off < -c.percent {
				t.Errorf("the sum is off by %.1f %%, want at most %.0f", off, c.percent)
			}
			if t.Failed() {
				t.Logf("the heaviest stacks:\n%s", heaviest(string(folded), 20))
			}
		})
	}
}

// TestWakers: who lets go of the lock and who sends the byte is the other thread, in its function.
func TestWakers(t *testing.T) {
	needSampler(t)
	path, err := workloads.Build("waits")
	if errors.Is(err, workloads.ErrNoCompiler) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out.folded")
	want := tellings(t, profilectl(t, "record", "--type", "wakers", "-o", out, "--", path, "5"))
	folded, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	should, got := want["locking"]+want["receiving"], valueOf(t, string(folded), "other")
	t.Logf("ended by the other thread: %.0f ms, the program says %.0f ms", got/1e6, should/1e6)
	if got < 0.9*should || got > 1.1*should {
		t.Errorf("the other thread has ended %.0f ns of waiting, want %.0f ± 10 %%", got, should)
		t.Logf("the heaviest stacks:\n%s", heaviest(string(folded), 20))
	}
}

// TestNothing: what was given back is not in use, and a program that has no memory profile is said to be so.
func TestNothing(t *testing.T) {
	needSampler(t)
	for _, c := range []struct{ workload, argument, said string }{
		{"heap-c", "free", "nothing was seen"},
		{"go", "4", "the linker has removed memory profiling"},
	} {
		t.Run(c.workload, func(t *testing.T) {
			path, err := workloads.Build(c.workload)
			if errors.Is(err, workloads.ErrNoCompiler) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), program(t, "profilectl"), "record", "--type", "inuse_space", "-o", "folded", "--", path, c.argument)
			var said strings.Builder
			cmd.Stderr = &said
			out, err := cmd.Output()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(said.String(), c.said) {
				t.Errorf("got %v and %q, want exit code 1 and %q", err, said.String(), c.said)
			}
			if strings.Contains(string(out), "keep") {
				t.Errorf("what was given back is in use:\n%s", out)
			}
		})
	}
}

// tellings reads the lines that a program printed.
func tellings(t *testing.T, text string) map[string]float64 {
	t.Helper()
	out := map[string]float64{}
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		v, err := strconv.ParseFloat(value, 64)
		if !ok || err != nil {
			t.Fatalf("the program printed %q, want a name and a number", line)
		}
		out[name] = v
	}
	return out
}

// valueOf sums the stacks of a recording, as folded text, that go through a function.
func valueOf(t *testing.T, folded, function string) float64 {
	t.Helper()
	pattern := regexp.MustCompile(`^(\w+::)*` + regexp.QuoteMeta(function) + `(\(.*\))?( \[.*\])?$`)
	var sum float64
	for line := range strings.Lines(folded) {
		line = strings.TrimSuffix(line, "\n")
		space := strings.LastIndexByte(line, ' ')
		if line == "" || line[0] == '#' || space < 0 {
			continue
		}
		v, err := strconv.ParseFloat(line[space+1:], 64)
		if err != nil {
			t.Fatal(fmt.Errorf("reading a recording: %q is no folded stack", line))
		}
		if slices.ContainsFunc(strings.Split(line[:space], ";"), pattern.MatchString) {
			sum += v
		}
	}
	return sum
}

// TestJava: the sampler names the compiled methods of a JVM that keeps frame pointers.
func TestJava(t *testing.T) {
	needSampler(t)
	path, err := workloads.Build("hot-java")
	if errors.Is(err, workloads.ErrNoCompiler) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out.folded")
	want := tellings(t, profilectl(t, "record", "--type", "cpu", "--sampling-rate", "299", "-o", out, "--",
		"java", "-XX:+PreserveFramePointer", "-XX:CompileCommand=quiet", "-XX:CompileCommand=dontinline,Hot.*", "-cp", path, "Hot"))
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var measured strings.Builder
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "JavaCalls::call_helper;") && strings.Contains(line, ";Hot.measured;") {
			measured.WriteString(line)
		}
	}
	var sum, got float64
	for name, v := range want {
		sum += v
		got += valueOf(t, measured.String(), name)
	}
	for name, v := range want {
		is, should := 100*valueOf(t, measured.String(), name)/got, 100*v/sum
		t.Logf("%s %.1f %%, the program says %.1f %%", name, is, should)
		if is < should-6 || is > should+6 { // of 1700 samples: five standard deviations
			t.Errorf("%s has %.1f %% of the samples, want %.1f ± 6", name, is, should)
		}
	}
	if off := 100 * (got/sum - 1); off < -10 || off > 10 {
		t.Errorf("the sum is off by %.1f %%, want at most 10", off)
	}
	if t.Failed() {
		t.Logf("the heaviest stacks:\n%s", heaviest(string(text), 20))
	}
}
