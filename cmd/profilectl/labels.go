package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/proto/perfuse/query/v1/queryv1connect"
)

func (a *app) labels() *cobra.Command {
	var (
		l        listFlags
		selector string
		limit    int32
	)
	cmd := &cobra.Command{
		Use:   "labels [NAME]",
		Short: "List the names of labels, or the values of one",
		Example: `  profilectl labels
  profilectl labels service_name --selector '{namespace="prod"}'`,
		Args: between(0, "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			out, err := parseOutput(l.out, listForms)
			if err != nil {
				return err
			}
			from, to, err := l.when.parse(a.now())
			if err != nil {
				return err
			}
			parsed, err := profile.ParseSelector(selector)
			if err != nil {
				return fmt.Errorf("--selector: %w", err)
			}
			sel := &queryv1.Selection{Selector: parsed.String(), StartUnixNano: unixNano(from), EndUnixNano: unixNano(to)}
			list, truncated, err := a.listLabels(cmd.Context(), sel, args, limit)
			if err != nil {
				return err
			}
			if len(list) == 0 {
				if len(args) == 1 {
					return nothing("no label %s, %s. 'profilectl labels' lists the names that there are.", args[0], describeRange(from, to))
				}
				return nothing("no labels at %s, %s.", a.server, describeRange(from, to))
			}
			if truncated {
				fmt.Fprintf(a.err, "These are the first %d; %s.\n", len(list), more(len(list), int(limit)))
			}
			return out.write(a, func(w io.Writer) error {
				if out.form == formJSON {
					return printJSON(w, list)
				}
				_, err := fmt.Fprintln(w, printableLines(list))
				return err
			})
		},
	}
	l.flags(cmd, "0")
	cmd.Flags().StringVar(&selector, "selector", "", "only series that this matches")
	cmd.Flags().Int32Var(&limit, "limit", 0, "at most so many; 0 means the server's limit")
	return cmd
}

// listLabels returns the names of labels, or the values of the one that args names.
func (a *app) listLabels(ctx context.Context, sel *queryv1.Selection, args []string, limit int32) (list []string, truncated bool, err error) {
	if len(args) == 0 {
		err = a.ask(ctx, "listing labels", func(ctx context.Context, c queryv1connect.QueryServiceClient) error {
			resp, err := c.LabelNames(ctx, &queryv1.LabelNamesRequest{Selection: sel, Limit: limit})
			if err == nil {
				list, truncated = resp.Names, resp.Truncated
			}
			return err
		})
		return list, truncated, err
	}
	err = a.ask(ctx, "listing values of "+args[0], func(ctx context.Context, c queryv1connect.QueryServiceClient) error {
		resp, err := c.LabelValues(ctx, &queryv1.LabelValuesRequest{Selection: sel, Name: args[0], Limit: limit})
		if err == nil {
			list, truncated = resp.Values, resp.Truncated
		}
		return err
	})
	return list, truncated, err
}

func printableLines(list []string) string {
	lines := make([]string, len(list))
	for i, s := range list {
		lines[i] = printable(s)
	}
	return strings.Join(lines, "\n")
}
