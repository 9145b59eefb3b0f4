// Command perfuse is the profiler's one binary: the agent, the server, or both in one process.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the program at once.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:]))
}

// errQuiet is a failure whose reason has been printed already.
var errQuiet = errors.New("failed")

// usageError is a mistake on the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func run(ctx context.Context, args []string) int {
	root := &cobra.Command{
		Use:           "perfuse",
		Short:         "Continuous profiling: see which code uses the CPU, on one laptop or on a fleet",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetArgs(args)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w\nSee '%s --help'", err, c.CommandPath())}
	})
	root.AddCommand(upCommand(), serverCommand(), agentCommand(), doctorCommand(), versionCommand())
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errQuiet):
		return 1
	}
	fmt.Fprintln(os.Stderr, "perfuse:", err)
	if errors.As(err, &usageError{}) {
		return 2
	}
	return 1
}
