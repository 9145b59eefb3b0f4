package main

import (
	"fmt"
	"io"

	"github.com/perfuse/perfuse/profile"
)

// topTable is a table of functions with what it is about.
type topTable struct {
	view  // without a tree
	rows  []profile.TopRow
	sum   int64 // of everything, rows or not
	count int64 // how many functions there are
}

// write prints the rows as an aligned table.
func (t *topTable) write(w io.Writer, term terminal) error {
	unit := t.typ.SampleUnit
	out := table{head: []string{"SELF", "SELF%", "TOTAL", "TOTAL%", "FUNCTION"}, right: []bool{true, true, true, true, false}}
	for _, r := range t.rows {
		name := printable(r.Name)
		if r.Mapping != "" {
			name += "  " + baseName(printable(r.Mapping))
		}
		out.add(profile.FormatValue(r.Self, unit), profile.FormatShare(r.Self, t.sum),
			profile.FormatValue(r.Total, unit), profile.FormatShare(r.Total, t.sum), name)
	}
	text := fmt.Sprintf("%s %s: %s, %s\n", t.typ, t.title, amount(t.sum, unit), describeRange(t.from, t.to))
	text += out.text(term)
	if n := t.count - int64(len(t.rows)); n > 0 {
		text += term.style(styleDim, fmt.Sprintf("… and %s; --limit shows more", plural(n, "function"))) + "\n"
	}
	_, err := io.WriteString(w, text)
	return err
}

func baseName(path string) string {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return path[i+1:]
		}
	}
	return path
}
