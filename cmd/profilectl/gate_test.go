package main

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

func TestBenchmarkOperations(t *testing.T) {
	f := func(text string, want float64) {
		t.Helper()
		if got := benchmarkOperations([]byte(text)); got != want {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
	f("", 0)
	f("goos: linux\nBenchmarkEncode-8   \t     500\t   2345678 ns/op\t 12 B/op\t 1 allocs/op\nPASS\n", 500)
	f("BenchmarkEncode/large-8 500 0.5 ns/op\n", 500)
	f("Benchmark 7 0.5 ns/op", 7)
	// One benchmark several times, by -count.
	f("BenchmarkEncode-8 500 2 ns/op\nBenchmarkEncode-8 600 2 ns/op\n", 1100)
	// Several have no operations in common.
	f("BenchmarkEncode-8 500 2 ns/op\nBenchmarkDecode-8 600 2 ns/op\n", 0)
	f("BenchmarkEncode-8 500 2 ns/op\nBenchmarkEncode 600 2 ns/op\n", 0)
	// What only looks like one.
	f("Benchmarked 500 2 ns/op\n", 0)
	f("BenchmarkEncode-8\n", 0)
	f("BenchmarkEncode-8 many 2 ns/op\n", 0)
	f("BenchmarkEncode-8 -5 2 ns/op\n", 0)
	f("BenchmarkEncode-8 0 2 ns/op\n", 0)
	f("BenchmarkEncode-8 500 2 MB/s\n", 0)
	f("BenchmarkEncode-8 500 fast ns/op\n", 0)
	f("BenchmarkEncode-8 99999999999999999999 2 ns/op\n", 0)
}

func FuzzBenchmarkOperations(f *testing.F) {
	f.Add([]byte("BenchmarkEncode/large-8 500 2345678 ns/op 12 B/op\n"))
	f.Add([]byte("BenchmarkA 1 1 ns/op\nBenchmarkA 2 1 ns/op\n"))
	f.Add([]byte("Benchmark\xff 9 1 ns/op\r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		n := benchmarkOperations(text)
		if !(n >= 0) {
			t.Fatalf("%v operations", n)
		}
		// What is around the lines does not count.
		if again := benchmarkOperations(append([]byte("goos: linux\n"), text...)); again != n {
			t.Errorf("%v operations, and %v behind another line", n, again)
		}
	})
}

// TestPlan says that of every two pairs each side is first in one, by chance in which.
func TestPlan(t *testing.T) {
	ways := map[int]int{}
	for seed := range uint64(100) {
		first := plan(11, rand.New(rand.NewPCG(seed, 1)))
		if len(first) != 11 {
			t.Fatalf("%d pairs, want 11", len(first))
		}
		for i := 1; i < len(first); i += 2 {
			if first[i]+first[i-1] != 1 {
				t.Errorf("seed %d: pairs %d and %d begin with %d and %d", seed, i-1, i, first[i-1], first[i])
			}
		}
		ways[first[0]]++
	}
	if ways[0] < 30 || ways[1] < 30 { // four standard deviations of 5
		t.Errorf("the baseline is first in %d of 100, the candidate in %d", ways[0], ways[1])
	}
}

func TestParsePercent(t *testing.T) {
	f := func(in string, want float64) {
		t.Helper()
		got, err := parsePercent(in)
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q: got %v, %v, want %v", in, got, err, want)
		}
	}
	f("5%", 0.05)
	f(" 0.5 ", 0.5)
	f("0", 0)
	f("NaN", -1)
	f("inf%", -1)
	f("%", -1)
	f("", -1)
}

func TestSourceURI(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.MkdirAll("store/block", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("store/block/read.go", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	f := func(in, want string) {
		t.Helper()
		if got := sourceURI(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	f("store/block/read.go", "store/block/read.go")
	f("/build/agent/7/store/block/read.go", "store/block/read.go")
	f("example.com/us/product/store/block/read.go", "store/block/read.go")
	f("/usr/lib/go/src/sort/sort.go", "")
	f("store/block", "")
	f("", "")
}

// TestHostileNames judges functions whose names are markup: every form has to stay well-formed.
func TestHostileNames(t *testing.T) {
	t.Chdir(t.TempDir())
	name := "<script>`a`|b</details>]]>\x1b[31m&*_"
	for _, side := range []struct {
		file  string
		value int
	}{{"b", 1e9}, {"c", 2e9}} {
		text, err := json.Marshal(map[string]any{
			"$schema": "https://www.speedscope.app/file-format-schema.json",
			"shared":  map[string]any{"frames": []any{map[string]string{"name": name}}},
			"profiles": []any{map[string]any{"type": "sampled", "name": name, "unit": "nanoseconds", "startValue": 0, "endValue": 1,
				"samples": [][]int{{0}}, "weights": []int{side.value}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(side.file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"gate"}
	for range 4 {
		args = append(args, "--baseline", "b", "--candidate", "c")
	}
	args = append(args, "-o", "gate.xml", "-o", "gate.md", "-o", "gate.sarif", "-o", "diff.svg", "-o", "diff.html", "-o", "text")
	var out, errOut strings.Builder
	a := &app{in: strings.NewReader(""), out: &out, err: &errOut, env: func(string) string { return "" }}
	if code := run(t.Context(), a, args); code != 1 {
		t.Fatalf("exit %d, want 1: %s", code, errOut.String())
	}
	for _, file := range []string{"gate.xml", "diff.svg"} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		d := xml.NewDecoder(strings.NewReader(string(data)))
		for {
			if _, err := d.Token(); err != nil {
				if err.Error() != "EOF" {
					t.Errorf("%s: %v", file, err)
				}
				break
			}
		}
	}
	for _, file := range []string{"gate.md", "diff.html"} {
		data, err := os.ReadFile(filepath.Clean(file))
		if err != nil {
			t.Fatal(err)
		}
		text := string(data)
		if file == "gate.md" {
			text = text[strings.Index(text, "<details>"):]
			text = text[:strings.Index(text, "\n\n")] // the summary; what is code may hold anything
		}
		if strings.Contains(text, "<script>`") {
			t.Errorf("%s has the name as markup", file)
		}
	}
	if strings.Contains(out.String()+errOut.String(), "\x1b") {
		t.Error("a name moves the cursor")
	}
}

// TestExamplesForCI reads deploy/ci: the files are YAML, and every flag of profilectl in them exists.
func TestExamplesForCI(t *testing.T) {
	files, err := filepath.Glob("../../deploy/ci/*.yml")
	if err != nil || len(files) < 2 {
		t.Fatalf("examples %q: %v", files, err)
	}
	a := &app{env: func(string) string { return "" }}
	command, _, err := a.root().Find([]string{"gate", "run"})
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var parsed map[string]any
		if err := yaml.Unmarshal(data, &parsed); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		flags := 0
		calls := strings.Split(strings.ReplaceAll(string(data), "\\\n", " "), "profilectl gate run")
		for _, call := range calls[1:] {
			line, _, _ := strings.Cut(call, "\n")
			for _, f := range regexp.MustCompile(`\s--([a-z-]+)`).FindAllStringSubmatch(line, -1) {
				flags++
				if command.Flags().Lookup(f[1]) == nil {
					t.Errorf("%s: profilectl gate run has no flag --%s", file, f[1])
				}
			}
			for _, f := range regexp.MustCompile(`\s-o (\S+)`).FindAllStringSubmatch(line, -1) {
				flags++
				if _, ok := parseGateOutput(f[1]); !ok {
					t.Errorf("%s: -o %s is no form", file, f[1])
				}
			}
		}
		if flags < 5 {
			t.Errorf("%s: only %d flags were seen", file, flags)
		}
	}
}

// TestUnequalRuns says so of runs that are differently long and hold differently much.
func TestUnequalRuns(t *testing.T) {
	f := func(lengths []time.Duration, want bool) {
		t.Helper()
		g := &gating{}
		for i := range g.sides {
			g.sides[i] = &gateSide{}
			for _, l := range lengths {
				g.sides[i].runs = append(g.sides[i].runs, &gateRun{side: side{length: l}})
			}
		}
		if got := g.unequal(); (got != "") != want {
			t.Errorf("%v: %q", lengths, got)
		}
	}
	f([]time.Duration{10 * time.Second, 10*time.Second + time.Millisecond}, false)
	f([]time.Duration{10 * time.Second, 30 * time.Second}, true)
	f([]time.Duration{0, 30 * time.Second}, false) // folded text does not say it
}

// TestInterrupt ends a trial while a command of it runs: the command ends, too, and nobody takes that for a regression.
func TestInterrupt(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := syscall.Mkfifo("started", 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	pids := make(chan int, 1)
	go func() {
		text, err := os.ReadFile("started") // waits for the command
		pid, e := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil || e != nil {
			pid = -1
		}
		pids <- pid
		cancel()
	}()
	var errOut strings.Builder
	a := &app{in: strings.NewReader(""), out: io.Discard, err: &errOut, env: func(string) string { return "" }}
	command := "echo $$ >started; sleep 600; : {out}"
	code := run(ctx, a, []string{"gate", "run", "--baseline", command, "--candidate", command})
	pid := <-pids
	if code != 2 || !strings.Contains(errOut.String(), "interrupted") {
		t.Errorf("exit %d: %s", code, errOut.String())
	}
	if pid <= 0 || syscall.Kill(pid, 0) != syscall.ESRCH {
		t.Errorf("the command %d still runs", pid)
	}
}
