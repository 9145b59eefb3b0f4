// Command gotest runs `go test -json` with its arguments and prints what a reader of a log wants: a line a
// package, the output of what failed, every skipped test with its reason, and a closing line of counts.
//
//	go run ./internal/gotest ./...
//
// It ends with go test's own status. Only tests without subtests are counted, so that a table counts its rows.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
)

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
		os.Exit(2)
	}
	os.Exit(code)
}

func run(args []string) (int, error) {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, fmt.Errorf("opening go test's output: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("starting go test: %w", err)
	}
	s := newSummary(os.Stdout)
	readErr := s.read(out)
	waitErr := cmd.Wait()
	s.close()
	if readErr != nil {
		return 0, readErr
	}
	if exit := (*exec.ExitError)(nil); errors.As(waitErr, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, waitErr
}
