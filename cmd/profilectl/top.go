package main

import (
	"fmt"
	"io"
	"slices"

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
	if t.all != 0 {
		out.head = slices.Insert(out.head, 4, "ALL%")
		out.right = slices.Insert(out.right, 4, true)
	}
	for _, r := range t.rows {
		name := printable(r.Name)
		if r.Mapping != "" {
			name += "  " + baseName(printable(r.Mapping))
		}
		row := []string{profile.FormatValue(r.Self, unit), profile.FormatShare(r.Self, t.sum), profile.FormatValue(r.Total, unit), profile.FormatShare(r.Total, t.sum)}
		if t.all != 0 {
			row = append(row, profile.FormatShare(r.Total, t.all))
		}
		out.add(append(row, name)...)
	}
	text := fmt.Sprintf("%s %s: %s, %s\n", t.typ, t.title, t.share(t.sum), describeRange(t.from, t.to))
	text += out.text(term)
	if n := t.count - int64(len(t.rows)); n > 0 {
		text += term.style(styleDim, fmt.Sprintf("… and %s; %s", plural(n, "function"), more(len(t.rows), t.atMost))) + "\n"
	}
	_, err := io.WriteString(w, text)
	return err
}

// more says how to see what a limit cut, having got so many of those that were asked for (0: all).
func more(got, asked int) string {
	if asked == 0 || got < asked {
		return "the server gives no more (its limit answer_values)"
	}
	return "--limit shows more"
}

func baseName(path string) string {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return path[i+1:]
		}
	}
	return path
}
