// Command gotest runs `go test -json` with its arguments and prints what a reader of a log wants: a line a
// package, the output of what failed, every skipped test with its reason, and a closing line of counts.
//
//	go run ./internal/gotest ./...
//	go run ./internal/gotest ./fast/... -- -p 1 ./slow/...        two runs, one after the other, counted together
//
// It ends with go test's own status, the worst of them. Only tests without subtests are counted, so that a table counts its rows.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
)

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
		os.Exit(2)
	}
	os.Exit(code)
}

// run starts go test once for each group of arguments; "--" stands between two.
func run(args []string) (int, error) {
	s := newSummary(os.Stdout)
	defer s.close()
	worst := 0
	for more := true; more; {
		group := args
		if at := slices.Index(args, "--"); at >= 0 {
			group, args = args[:at], args[at+1:]
		} else {
			more = false
		}
		code, err := goTest(s, group)
		if err != nil {
			return 0, err
		}
		worst = max(worst, code)
	}
	return worst, nil
}

func goTest(s *summary, args []string) (int, error) {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, fmt.Errorf("opening go test's output: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("starting go test: %w", err)
	}
	readErr := s.read(out)
	waitErr := cmd.Wait()
	if readErr != nil {
		return 0, readErr
	}
	if exit := (*exec.ExitError)(nil); errors.As(waitErr, &exit) {
		return max(exit.ExitCode(), 1), nil // -1: it was killed
	}
	return 0, waitErr
}
