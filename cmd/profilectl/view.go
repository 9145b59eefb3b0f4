package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/perfuse/perfuse/profile"
)

// view is a flame graph together with what it is about, for all outputs that draw it.
type view struct {
	title    string // what was asked: a selector, a command line
	typ      profile.Type
	from, to time.Time
	tree     *profile.Tree
	root     string // what the root stands for; "" is everything
	stacks   int64
	series   int64
	cut      int64 // nodes that were folded into "(small)"
	atMost   int   // rows or series that were asked for; 0: all
	// stacksCut says that there were too many stacks, and that those of the least values are one.
	stacksCut bool
	all       int64 // what is selected without the filter; 0: there is no filter
	// diff is nil for one profile. tree is then what is after.
	diff *comparison
}

func (v *view) total() int64           { return v.tree.Total[0] }
func (v *view) format(n int64) string  { return profile.FormatValue(n, v.typ.SampleUnit) }
func (v *view) percent(n int64) string { return profile.FormatShare(n, v.total()) }

// share is an amount with what it is of everything selected, if a filter leaves something out.
func (v *view) share(n int64) string {
	s := amount(n, v.typ.SampleUnit)
	if v.all != 0 {
		s += fmt.Sprintf(", %s of all %s", profile.FormatShare(n, v.all), v.format(v.all))
	}
	return s
}

// summary is one line: total, unit, sizes, time.
func (v *view) summary() string {
	if v.diff != nil {
		return fmt.Sprintf("%s %s: %s", v.typ, v.title, v.diff.about())
	}
	s := fmt.Sprintf("%s %s: %s", v.typ, v.title, v.share(v.total()))
	if v.stacks > 0 {
		s += ", " + plural(v.stacks, "stack")
	}
	if v.series > 0 {
		s += ", " + plural(v.series, "series")
	}
	return s + ", " + describeRange(v.from, v.to)
}

// amount is a value for people together with its unit and exact size where the short form hides them.
func amount(n int64, unit string) string {
	short := profile.FormatValue(n, unit)
	if unit == "" {
		unit = "count"
	}
	return fmt.Sprintf("%s (%d %s)", short, n, unit)
}

func plural(n int64, noun string) string {
	switch {
	case strings.HasSuffix(noun, "series"):
	case n != 1:
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

func kindName(k profile.Kind) string {
	return [...]string{"native", "kernel", "jit", "interpreted", "unwind", "small", "root", "label"}[k]
}

// writeJSON writes the view as one object whose root is a tree of nested nodes.
func (v *view) writeJSON(w io.Writer) error {
	bw := bufio.NewWriter(w)
	head, err := json.Marshal(struct {
		Title  string     `json:"title"`
		Type   string     `json:"type"`
		Unit   string     `json:"unit"`
		From   *time.Time `json:"from,omitempty"`
		To     *time.Time `json:"to,omitempty"`
		Total  int64      `json:"total"`
		All    int64      `json:"unfiltered_total,omitempty"`
		Stacks int64      `json:"stacks,omitempty"`
		Series int64      `json:"series,omitempty"`
		Nodes  int        `json:"nodes"`
		Cut    int64      `json:"cut,omitempty"`
		Less   bool       `json:"stacks_cut,omitempty"`
	}{v.title, v.typ.String(), v.typ.SampleUnit, timeOrNil(v.from), timeOrNil(v.to), v.total(), v.all, v.stacks, v.series, v.tree.Len(), v.cut, v.stacksCut})
	if err != nil {
		return err
	}
	bw.Write(head[:len(head)-1])
	bw.WriteString(`,"root":`)
	if err := v.writeNodes(bw); err != nil {
		return err
	}
	bw.WriteString("}\n")
	return bw.Flush()
}

type nodeBefore struct {
	Self  int64 `json:"self"`
	Total int64 `json:"total"`
}

func (v *view) nodeBefore(i uint32) *nodeBefore {
	if v.diff == nil {
		return nil
	}
	return &nodeBefore{v.diff.tree.BeforeSelf[i], v.diff.tree.BeforeTotal[i]}
}

// writeNodes writes the tree as nested objects.
func (v *view) writeNodes(bw *bufio.Writer) error {
	var open []uint32 // nodes whose children are being written
	t := v.tree
	for i := range uint32(t.Len()) {
		for len(open) > 0 && t.End[open[len(open)-1]] == i {
			bw.WriteString("]}")
			open = open[:len(open)-1]
		}
		if i > 0 {
			if i != open[len(open)-1]+1 {
				bw.WriteByte(',')
			}
			bw.WriteByte('\n')
		}
		f := t.Frames[t.Frame[i]]
		node, err := json.Marshal(struct {
			Name    string      `json:"name"`
			File    string      `json:"file,omitempty"`
			Line    int32       `json:"line,omitempty"`
			Mapping string      `json:"mapping,omitempty"`
			Kind    string      `json:"kind"`
			Inlined bool        `json:"inlined,omitempty"`
			Before  *nodeBefore `json:"before,omitempty"`
			Self    int64       `json:"self"`
			Total   int64       `json:"total"`
		}{t.Strings[f.Name], t.Strings[f.File], f.StartLine, t.Strings[f.Mapping], kindName(f.Kind), f.Inlined, v.nodeBefore(i), t.Self[i], t.Total[i]})
		if err != nil {
			return err
		}
		bw.Write(node[:len(node)-1])
		if t.End[i] == i+1 {
			bw.WriteByte('}')
			continue
		}
		bw.WriteString(`,"children":[`)
		open = append(open, i)
	}
	for range open {
		bw.WriteString("]}")
	}
	return nil
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// printJSON writes v indented.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
