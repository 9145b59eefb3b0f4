// Command profilectl is the user's command line: it asks a Perfuse server for profiles, uploads to it, and
// records profiles of its own without any server.
//
// Every command exits with 0 if it did what was asked, with 1 if the answer is no or nothing (nothing matches,
// the recorded command failed), with 2 if it could not do it. Answers go to standard output, everything else to
// standard error.
package main

import (
	"context"
	"net/http"
	"os"
	"time"

	"github.com/perfuse/perfuse/agent"
)

func main() {
	os.Exit(run(context.Background(), &app{
		in: os.Stdin, out: os.Stdout, err: os.Stderr,
		inTerm: terminalOf(os.Stdin, os.Getenv), outTerm: terminalOf(os.Stdout, os.Getenv), errTerm: terminalOf(os.Stderr, os.Getenv),
		env:    os.Getenv,
		now:    time.Now,
		http:   http.DefaultClient,
		record: agent.Record,
	}, os.Args[1:]))
}
