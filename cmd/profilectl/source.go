package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/proto/perfuse/query/v1/queryv1connect"
)

const (
	// So many lines around one that has a value are shown.
	sourceContext = 3
	// maxSourceBytes bounds a source file of this machine.
	maxSourceBytes = 4 << 20
	tabWidth       = 4
)

// sourceView is one function's lines.
type sourceView struct {
	view     // without a tree
	function string
	files    []sourceFile
}

type sourceFile struct {
	*queryv1.SourceFile
	text []string // by line; nil if the file is not to be had
	note string   // where the text is from, or why there is none
}

func (a *app) querySource(ctx context.Context, v *view, q question, function string) error {
	var resp *queryv1.LinesResponse
	err := a.ask(ctx, "querying", func(ctx context.Context, c queryv1connect.QueryServiceClient) (err error) {
		resp, err = c.Lines(ctx, &queryv1.LinesRequest{Selection: q.sel, Filter: q.filter, Function: function})
		return err
	})
	if err != nil {
		return err
	}
	if resp.SeriesCount == 0 || resp.UnfilteredTotal == 0 {
		return a.empty(v, 0)
	}
	a.sayCut(resp.StacksCut)
	v.all = resp.UnfilteredTotal
	if len(resp.Files) == 0 {
		return a.noSuchFunction(ctx, v, q, function, "--source")
	}
	s := sourceView{view: *v, function: function}
	s.series, s.stacksCut = resp.SeriesCount, resp.StacksCut
	for _, f := range resp.Files {
		s.files = append(s.files, readSource(f))
	}
	return q.out.write(a, func(w io.Writer) error {
		if q.out.form == formJSON {
			return s.writeJSON(w)
		}
		term := a.outTerm
		if q.out.file != "" {
			term = terminal{}
		}
		_, err := io.WriteString(w, s.text(term))
		return err
	})
}

// readSource takes the server's text, or else that of the file on this machine: who profiles what they build has it.
func readSource(f *queryv1.SourceFile) sourceFile {
	text := f.Text
	note := ""
	if text == "" {
		note = "no text: " + f.NoText
		if local, ok := readLocal(f.Path); ok {
			text, note = local, "text of this machine's file"
		}
	}
	out := sourceFile{SourceFile: f, note: note}
	if text != "" {
		out.text = strings.Split(strings.TrimSuffix(strings.ReplaceAll(text, "\r\n", "\n"), "\n"), "\n")
	}
	return out
}

func readLocal(path string) (string, bool) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxSourceBytes {
		return "", false
	}
	data, err := os.ReadFile(path)
	return string(data), err == nil && utf8.Valid(data)
}

// text is a table of lines for each file.
func (s *sourceView) text(term terminal) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s in %s, %s\n", s.typ, printable(s.function), s.title, describeRange(s.from, s.to))
	for _, f := range s.files {
		path := printable(f.Path)
		if path == "" {
			path = "(unknown file)"
		}
		fmt.Fprintf(&b, "\n%s", term.style(styleBold, path))
		if f.Mapping != "" {
			fmt.Fprintf(&b, " of %s", baseName(printable(f.Mapping)))
		}
		fmt.Fprintf(&b, ": %s, self %s\n", s.share(f.Total), s.format(f.Self))
		if f.note != "" {
			fmt.Fprintln(&b, term.style(styleDim, printable(f.note)))
		}
		s.lines(&b, f, term)
	}
	return b.String()
}

func (s *sourceView) lines(b *strings.Builder, f sourceFile, term terminal) {
	fmt.Fprintln(b, term.style(styleBold, fmt.Sprintf("%9s %9s %7s %6s", "SELF", "TOTAL", "ALL%", "LINE")))
	row := func(line int, l *queryv1.SourceLine) {
		self, total, share, number, text := "", "", "", strconv.Itoa(line), ""
		if l != nil {
			total, share = s.format(l.Total), profile.FormatShare(l.Total, s.all)
			if l.Self != 0 {
				self = s.format(l.Self)
			}
		}
		if line == 0 {
			number = "?"
		} else if line <= len(f.text) {
			text = "  " + printable(strings.ReplaceAll(f.text[line-1], "\t", strings.Repeat(" ", tabWidth)))
		}
		out := fit(strings.TrimRight(fmt.Sprintf("%s %s %s %s%s", padLeft(self, 9), padLeft(total, 9), padLeft(share, 7), padLeft(number, 6), text), " "), term.width)
		if l == nil {
			out = term.style(styleDim, out)
		}
		fmt.Fprintln(b, out)
	}
	last := 0 // the last line that was written
	for i, l := range f.Lines {
		at := int(l.Line)
		if f.text != nil && at > 0 {
			from := max(last+1, at-sourceContext)
			if i == 0 && f.StartLine > 0 && int(f.StartLine) < from && from-int(f.StartLine) <= 2*sourceContext {
				from = int(f.StartLine)
			}
			if last > 0 && from > last+1 {
				fmt.Fprintln(b, term.style(styleDim, padLeft("⋮", 34)))
			}
			for n := from; n < at && n <= len(f.text); n++ {
				row(n, nil)
			}
		}
		row(at, l)
		last = at
		next := at + sourceContext
		if i+1 < len(f.Lines) {
			next = min(next, int(f.Lines[i+1].Line)-1)
		}
		if f.text != nil && at > 0 {
			for n := at + 1; n <= next && n <= len(f.text); n++ {
				row(n, nil)
				last = n
			}
		}
	}
}

func (s *sourceView) writeJSON(w io.Writer) error {
	type line struct {
		Line  int32  `json:"line"`
		Self  int64  `json:"self"`
		Total int64  `json:"total"`
		Text  string `json:"text,omitempty"`
	}
	type file struct {
		Path      string `json:"path"`
		Mapping   string `json:"mapping"`
		StartLine int32  `json:"start_line"`
		Self      int64  `json:"self"`
		Total     int64  `json:"total"`
		Lines     []line `json:"lines"`
		Note      string `json:"note,omitempty"`
	}
	files := []file{}
	for _, f := range s.files {
		out := file{Path: f.Path, Mapping: f.Mapping, StartLine: f.StartLine, Self: f.Self, Total: f.Total, Lines: []line{}, Note: f.note}
		for _, l := range f.Lines {
			at := line{Line: l.Line, Self: l.Self, Total: l.Total}
			if l.Line > 0 && int(l.Line) <= len(f.text) {
				at.Text = f.text[l.Line-1]
			}
			out.Lines = append(out.Lines, at)
		}
		files = append(files, out)
	}
	return json.NewEncoder(w).Encode(struct {
		Title    string     `json:"title"`
		Function string     `json:"function"`
		Type     string     `json:"type"`
		Unit     string     `json:"unit"`
		From     *time.Time `json:"from,omitempty"`
		To       *time.Time `json:"to,omitempty"`
		All      int64      `json:"unfiltered_total"`
		Less     bool       `json:"stacks_cut,omitempty"`
		Files    []file     `json:"files"`
	}{s.title, s.function, s.typ.String(), s.typ.SampleUnit, timeOrNil(s.from), timeOrNil(s.to), s.all, s.stacksCut, files})
}
