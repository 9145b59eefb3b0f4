package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/proto/perfuse/query/v1/queryv1connect"
)

// listForms are the forms of lists.
var listForms = []string{formTable, formJSON}

// listFlags are those of all commands that print lists.
type listFlags struct {
	when timeRange
	out  string
}

func (l *listFlags) flags(cmd *cobra.Command, from string) {
	l.when.flags(cmd, from)
	cmd.Flags().StringVarP(&l.out, "output", "o", formTable, "form: table or json")
}

func (a *app) types() *cobra.Command {
	var l listFlags
	cmd := &cobra.Command{
		Use:   "types",
		Short: "List the profile types that have samples",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			out, err := parseOutput(l.out, listForms)
			if err != nil {
				return err
			}
			from, to, err := l.when.parse(a.now())
			if err != nil {
				return err
			}
			types, err := a.knownTypes(cmd.Context(), from, to)
			if err != nil {
				return err
			}
			if len(types) == 0 {
				return nothing("no profiles at %s, %s.", a.server, describeRange(from, to))
			}
			return out.write(a, func(w io.Writer) error { return writeTypes(w, a.outTerm, out.form, types) })
		},
	}
	l.flags(cmd, "0")
	return cmd
}

// knownTypes asks the server.
func (a *app) knownTypes(ctx context.Context, from, to time.Time) ([]profile.Type, error) {
	var types []profile.Type
	err := a.ask(ctx, "listing profile types", func(ctx context.Context, c queryv1connect.QueryServiceClient) error {
		resp, err := c.ProfileTypes(ctx, &queryv1.ProfileTypesRequest{StartUnixNano: unixNano(from), EndUnixNano: unixNano(to)})
		if err != nil {
			return err
		}
		for _, t := range resp.Types {
			types = append(types, profile.Type{Name: t.Name, SampleType: t.SampleType, SampleUnit: t.SampleUnit, PeriodType: t.PeriodType, PeriodUnit: t.PeriodUnit, Delta: t.Delta})
		}
		return nil
	})
	return types, err
}

func writeTypes(w io.Writer, term terminal, form string, types []profile.Type) error {
	if form == formJSON {
		type row struct {
			Type string `json:"type"`
			Name string `json:"name"`
			What string `json:"sample_type"`
			Unit string `json:"unit"`
		}
		rows := make([]row, len(types))
		for i, t := range types {
			rows[i] = row{t.String(), t.Name, t.SampleType, t.SampleUnit}
		}
		return printJSON(w, rows)
	}
	t := table{head: []string{"SHORT", "UNIT", "TYPE"}, right: make([]bool, 3)}
	for _, typ := range types {
		t.add(shortest(typ, types), typ.SampleUnit, typ.String())
	}
	_, err := fmt.Fprint(w, t.text(term))
	return err
}

// shortest is a short name that --type understands.
func shortest(t profile.Type, known []profile.Type) string {
	for _, s := range []string{t.SampleType, t.Name, t.Name + ":" + t.SampleType} {
		if r, err := profile.ResolveType(s, known); err == nil && r == t {
			return s
		}
	}
	return t.String()
}
