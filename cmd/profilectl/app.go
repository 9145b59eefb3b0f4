package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/perfuse/perfuse/agent"
)

const (
	defaultServer = "http://127.0.0.1:7070"
	serverEnv     = "PROFILECTL_SERVER"
)

// app is what all commands share: where they read and write, what time it is, and the global flags.
type app struct {
	in               io.Reader
	out, err         io.Writer
	inTerm           terminal
	outTerm, errTerm terminal
	env              func(string) string
	now              func() time.Time
	http             *http.Client
	record           func(context.Context, agent.RecordOptions) (*agent.Recording, error)

	server  string
	timeout time.Duration
}

// answerError ends a command with code 1: it worked, but the answer is no.
type answerError struct{ text string }

func (e *answerError) Error() string { return e.text }

func nothing(format string, args ...any) error { return &answerError{fmt.Sprintf(format, args...)} }

// hintError adds what to do next to an error.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() + "\n" + e.hint }
func (e *hintError) Unwrap() error { return e.err }

// run executes one command line and returns its exit code.
func run(ctx context.Context, a *app, args []string) int {
	root := a.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	var answer *answerError
	if errors.As(err, &answer) {
		fmt.Fprintln(a.err, "profilectl:", answer.text)
		return 1
	}
	fmt.Fprintln(a.err, "profilectl:", err)
	var usage *usageError
	if errors.As(err, &usage) || strings.HasPrefix(err.Error(), "unknown ") {
		fmt.Fprintf(a.err, "See %s --help\n", cmd.CommandPath())
	}
	return 2
}

// usageError is a command line that makes no sense.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usage(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "profilectl",
		Short:         "Ask a Perfuse server for profiles, upload to it, or record without one",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage("unknown command %q", args[0])
			}
			return cmd.Help()
		},
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })

	server := a.env(serverEnv)
	if server == "" {
		server = defaultServer
	}
	root.PersistentFlags().StringVar(&a.server, "server", server, "the server's URL; also from "+serverEnv)
	root.PersistentFlags().DurationVar(&a.timeout, "timeout", time.Minute, "give up on an answer after this long")
	root.AddCommand(a.query(), a.diff(), a.types(), a.labels(), a.series(), a.gate(), a.upload(), a.recordCommand(), a.debuginfo(), a.storage(),
		a.agents(), a.targets(), a.version())
	return root
}

// exactly wants n arguments and says which.
func exactly(names ...string) cobra.PositionalArgs { return between(len(names), names...) }

// between wants at least min arguments and at most one per name.
func between(min int, names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < min:
			return usage("missing %s", names[len(args)])
		case len(args) > len(names):
			return usage("unexpected argument %q; selectors with spaces need quotes", args[len(names)])
		}
		return nil
	}
}
