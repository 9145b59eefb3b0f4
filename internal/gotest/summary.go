package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// event is a line of test2json (see `go doc test2json`), and of go build -json.
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Elapsed    float64
	Output     string
}

// test is what is known of one test while its package runs.
type test struct {
	output  []string
	parent  bool // it has subtests
	outcome string
}

// summary reads events and writes the digest. A package's tests are dropped when it ends.
type summary struct {
	w        io.Writer
	packages map[string]map[string]*test // package → test ("" is the package itself)
	counts   map[string]int              // outcome → tests
	skips    map[string][]string         // reason → tests
	broken   int                         // packages that failed outside a test
}

func newSummary(w io.Writer) *summary {
	return &summary{w: w, packages: map[string]map[string]*test{}, counts: map[string]int{}, skips: map[string][]string{}}
}

func (s *summary) read(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			s.line(line)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading go test's output: %w", err)
		}
	}
}

func (s *summary) line(line string) {
	var e event
	if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &e) != nil {
		fmt.Fprint(s.w, line) // a build's words, a crash: never swallowed
		return
	}
	switch e.Action {
	case "build-output":
		fmt.Fprint(s.w, e.Output)
	case "output":
		t := s.test(e)
		t.output = append(t.output, e.Output)
	case "run":
		if at := strings.LastIndexByte(e.Test, '/'); at >= 0 {
			s.test(event{Package: e.Package, Test: e.Test[:at]}).parent = true
		}
	case "pass", "fail", "skip":
		if e.Test == "" {
			s.packageEnded(e)
		} else {
			s.test(e).outcome = e.Action
		}
	}
}

func (s *summary) test(e event) *test {
	tests := s.packages[e.Package]
	if tests == nil {
		tests = map[string]*test{}
		s.packages[e.Package] = tests
	}
	if tests[e.Test] == nil {
		tests[e.Test] = &test{}
	}
	return tests[e.Test]
}

func (s *summary) packageEnded(e event) {
	tests := s.packages[e.Package]
	delete(s.packages, e.Package)
	names := make([]string, 0, len(tests))
	for name := range tests {
		if name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	failed := 0
	for _, name := range names {
		t := tests[name]
		if t.outcome == "" {
			t.outcome = "fail" // the process died under it
		}
		if t.outcome == "fail" {
			failed++
			fmt.Fprintf(s.w, "%s", strings.Join(t.output, ""))
		}
		if t.parent {
			continue
		}
		s.counts[t.outcome]++
		if t.outcome == "skip" {
			reason := skipReason(t.output)
			s.skips[reason] = append(s.skips[reason], shortPackage(e.Package)+"."+name)
		}
	}
	switch {
	case e.Action == "fail":
		if own := tests[""]; own != nil {
			fmt.Fprintf(s.w, "%s", strings.Join(own.output, ""))
		}
		if failed == 0 {
			s.broken++
		}
		fmt.Fprintf(s.w, "FAIL  %s  %.1fs\n", e.Package, e.Elapsed)
	case len(names) > 0:
		fmt.Fprintf(s.w, "ok    %s  %.1fs  %d tests\n", e.Package, e.Elapsed, len(names))
	}
}

// close prints what was skipped, by reason, and the counts.
func (s *summary) close() {
	for pkg := range s.packages { // go test was cut short
		s.packageEnded(event{Package: pkg, Action: "fail"})
	}
	reasons := make([]string, 0, len(s.skips))
	for reason := range s.skips {
		reasons = append(reasons, reason)
	}
	slices.Sort(reasons)
	for _, reason := range reasons {
		fmt.Fprintf(s.w, "skipped: %s\n", reason)
		for _, name := range s.skips[reason] {
			fmt.Fprintf(s.w, "    %s\n", name)
		}
	}
	fmt.Fprintf(s.w, "%d passed, %d failed, %d skipped\n", s.counts["pass"], s.counts["fail"]+s.broken, s.counts["skip"])
}

// skipReason is what a test said last before it skipped, without the place in the source.
func skipReason(output []string) string {
	for _, line := range slices.Backward(output) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "---") || strings.HasPrefix(line, "===") {
			continue
		}
		if _, said, ok := strings.Cut(line, ".go:"); ok {
			if _, said, ok = strings.Cut(said, ": "); ok {
				return said
			}
		}
		return line
	}
	return "no reason given"
}

func shortPackage(path string) string {
	return strings.TrimPrefix(path, "github.com/perfuse/perfuse/")
}
