package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/perfuse/perfuse/agent/doctor"
)

func doctorCommand() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Say what the agent can do on this machine, and what it lacks",
		Long: "Tries what the agent needs (loads its programs, opens its events) and takes it down again. The exit\n" +
			"code is 0 if profiling works, 1 if not.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			checks := doctor.Run()
			var err error
			switch format {
			case "text":
				err = writeChecks(c.OutOrStdout(), checks)
			case "json":
				e := json.NewEncoder(c.OutOrStdout())
				e.SetIndent("", "  ")
				err = e.Encode(checks)
			default:
				return usageError{fmt.Errorf("unknown output format %q: want text or json", format)}
			}
			if err != nil {
				return err
			}
			for _, k := range checks {
				if k.Status == doctor.Failed {
					return errQuiet
				}
			}
			return nil
		},
	}
	c.Flags().StringVarP(&format, "output", "o", "text", "text or json")
	return c
}

func writeChecks(w io.Writer, checks []doctor.Check) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, k := range checks {
		fmt.Fprintf(t, "%s\t%s\t%s\n", k.Status, k.Name, k.Finding)
		if k.Remedy != "" {
			fmt.Fprintf(t, "\t\t→ %s\n", k.Remedy)
		}
	}
	return t.Flush()
}
