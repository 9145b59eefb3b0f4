package main

import (
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/profile/gate"
)

const (
	formText     = "text"
	formMarkdown = "markdown"
	formJUnit    = "junit"
	formSARIF    = "sarif"
)

// gateForms are the forms of a judgement; svg and html show the difference of both sides.
var gateForms = []string{formText, formMarkdown, formJUnit, formSARIF, formJSON, formSVG, formHTML}

// parseGateOutputs reads what may be repeated: FORM, FILE, or FORM=FILE. One of them goes to standard output at most.
func parseGateOutputs(flags []string) (outs []output, err error) {
	stdout := 0
	for _, s := range flags {
		out, ok := parseGateOutput(s)
		if !ok {
			return nil, usage("-o %q: want one of %s, a file that ends in .txt, .md, .xml, .sarif, .json, .svg or .html, or FORM=FILE", s, strings.Join(gateForms, ", "))
		}
		if out.file == "" {
			stdout++
		} else if err := out.check(); err != nil {
			return nil, err
		}
		outs = append(outs, out)
	}
	if stdout > 1 {
		return nil, usage("-o: only one form can go to standard output: name files for the others, as junit=gate.xml")
	}
	return outs, nil
}

func parseGateOutput(s string) (output, bool) {
	form, file, named := strings.Cut(s, "=")
	for _, f := range gateForms {
		if form == f && (!named || file != "") {
			return output{form: f, file: file}, true
		}
	}
	for _, e := range []struct{ end, form string }{
		{".txt", formText}, {".md", formMarkdown}, {".xml", formJUnit}, {".sarif", formSARIF}, {".sarif.json", formSARIF}, {".json", formJSON}, {".svg", formSVG}, {".html", formHTML},
	} {
		if strings.HasSuffix(s, e.end) {
			return output{form: e.form, file: s}, true
		}
	}
	return output{}, false
}

func (g *gating) write(w io.Writer, out output, term terminal) error {
	if out.file != "" {
		term = terminal{}
	}
	v := &view{title: g.c.title(), typ: g.c.typ, atMost: g.limit, diff: g.c}
	if g.c.tree != nil {
		v.tree = &g.c.tree.Tree
	}
	switch out.form {
	case formMarkdown:
		return g.writeMarkdown(w)
	case formJUnit:
		return g.writeJUnit(w)
	case formSARIF:
		return g.writeSARIF(w)
	case formJSON:
		return g.writeJSON(w)
	case formSVG:
		return v.writeSVG(w)
	case formHTML:
		return v.writeHTML(w)
	}
	return g.writeText(w, term)
}

// verdict is the first line, which says it all.
func (g *gating) verdict() string {
	limit := percentage(g.limitOf())
	switch n := len(g.report.Regressions()); g.report.Verdict {
	case gate.Regression:
		if n == 1 {
			return fmt.Sprintf("REGRESSION: 1 function is slower by more than %s for sure", limit)
		}
		return fmt.Sprintf("REGRESSION: %d functions are slower by more than %s for sure", n, limit)
	case gate.CouldNotTell:
		return "COULD NOT TELL: " + g.report.Why
	}
	return fmt.Sprintf("PASS: no function is slower by more than %s for sure", limit)
}

func (g *gating) limitOf() float64 { return math.Max(0, g.report.Options.MaxRegression) }

// about are the lines that say what was compared and how well.
func (g *gating) about() (lines []string) {
	r := g.report
	lines = append(lines, fmt.Sprintf("%s, compared %s", printable(g.c.typ.String()), g.c.why))
	for i, s := range g.sides {
		mean := []float64{r.All.Total.Baseline, r.All.Total.Candidate}[i]
		text := fmt.Sprintf("%-9s  %s, %s", s.name, printable(s.title), plural(int64(r.Runs[i]), "run"))
		if s.selector != nil {
			text += ", " + describeRange(s.from, s.to)
		}
		if !r.Options.Shares {
			text += fmt.Sprintf(": %s, runs vary by %s", g.c.format(mean), profile.FormatRatio(r.Spread[i]))
		}
		lines = append(lines, text)
	}
	if !r.Options.Shares {
		lines = append(lines, fmt.Sprintf("change     %s (%s)", changeOf(r.All.Total.Ratio), g.interval(&r.All.Total)))
	}
	return lines
}

// power says what could have been seen.
func (g *gating) power() string {
	r := g.report
	how := "all"
	if !r.Exact {
		how = "at random"
	}
	tests := fmt.Sprintf("%s tested with %d relabellings of runs, %s", plural(int64(r.Tested), "value"), r.Relabellings, how)
	if math.IsInf(r.Effect, 1) {
		return tests
	}
	what := "everything"
	if r.Options.Shares {
		what = "the functions that make up half of the cost"
	}
	return fmt.Sprintf("These runs show a change of %s in %s four times of five; %s.", profile.FormatRatio(r.Effect), what, tests)
}

// told are the rows to be shown, and how many are not.
func (g *gating) told() (rows []gate.Row, left int) {
	for _, r := range g.report.Rows {
		if r.Status == gate.Same {
			continue
		}
		if g.limit > 0 && len(rows) == g.limit {
			left++
			continue
		}
		rows = append(rows, r)
	}
	return rows, left
}

// note says of a row what its numbers do not.
func note(r *gate.Row) string {
	causes := strings.Join(r.Causes, ", ")
	var notes []string
	if r.Was != "" {
		notes = append(notes, "was "+r.Was)
	}
	switch {
	case causes == "":
	case r.Status == gate.Because:
		notes = append(notes, "because of "+causes)
	case r.Status == gate.Moved && r.ByTotal:
		notes = append(notes, "others called these before: "+causes)
	case r.Status == gate.Moved, r.Status == gate.Added:
		notes = append(notes, "from "+causes)
	default:
		notes = append(notes, "with the new "+causes)
	}
	return printable(strings.Join(notes, "; "))
}

// cells are what is said of a row: status, kind, both means, change, interval, p and what could have been seen.
func (g *gating) cells(r *gate.Row) []string {
	c, kind := r.Speaks(), "self"
	if r.ByTotal {
		kind = "total"
	}
	effect, p := "", ""
	if c.Tested {
		p = fmt.Sprintf("%.4f", min(c.P, c.PFaster))
		if !math.IsInf(c.Effect, 1) {
			effect = profile.FormatRatio(c.Effect)
		}
	}
	return []string{r.Status.String(), kind, g.c.format(c.Baseline), g.c.format(c.Candidate), changeOf(c.Ratio), g.interval(c), p, effect}
}

// columns are the heads of cells.
func (g *gating) columns() []string {
	return []string{"STATUS", "OF", "BASELINE", "CANDIDATE", "CHANGE", percentage(g.report.Options.Confidence) + " INTERVAL", "P", "COULD SEE"}
}

// writeText writes the judgement for a terminal.
func (g *gating) writeText(w io.Writer, term terminal) error {
	var b strings.Builder
	style := map[gate.Verdict]string{gate.Pass: styleCyan, gate.Regression: styleRed, gate.CouldNotTell: styleYellow}[g.report.Verdict]
	b.WriteString(strings.Join(g.about(), "\n") + "\n" + term.style(style, g.verdict()) + "\n")
	rows, left := g.told()
	narrow := term.width > 0 && term.width < 110 // then names need the room
	choose := func(cells []string) []string {
		if narrow {
			return []string{cells[0], cells[1], cells[4], cells[5]}
		}
		return cells
	}
	if len(rows) > 0 {
		t := table{head: append(choose(g.columns()), "FUNCTION"), middle: true}
		t.right = make([]bool, len(t.head))
		for i := 2; i < len(t.head)-1; i++ {
			t.right[i] = true
		}
		for i := range rows {
			r := &rows[i]
			name := printable(r.Name)
			if n := note(r); n != "" {
				name += "  (" + n + ")"
			}
			t.add(append(choose(g.cells(r)), name)...)
			t.styles = append(t.styles, rowStyle(r.Status))
		}
		b.WriteString("\n" + t.text(term))
		if left > 0 {
			b.WriteString(term.style(styleDim, fmt.Sprintf("… and %s; --limit shows more", plural(int64(left), "function"))) + "\n")
		}
	}
	for i := range rows {
		r := &rows[i]
		if r.Status != gate.Slower || len(r.Paths) == 0 {
			continue
		}
		b.WriteString("\n" + term.style(styleBold, "Where "+fit(printable(r.Name), max(0, term.width-20))+" became slower") + "\n")
		for _, p := range r.Paths {
			change := fmt.Sprintf("%10s  ", g.c.formatChange(p.Candidate-p.Baseline))
			room := 0
			if term.width > 0 {
				room = max(20, term.width-len(change))
			}
			b.WriteString(change + fitMiddle(printable(strings.Join(p.Functions, " → ")), room) + "\n")
		}
	}
	b.WriteString("\n" + g.power() + "\n")
	for _, warning := range g.report.Warnings {
		b.WriteString(term.style(styleYellow, "warning: ") + printable(warning) + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func rowStyle(s gate.Status) string {
	switch s {
	case gate.Slower:
		return styleRed
	case gate.Faster, gate.Gone:
		return styleCyan
	case gate.Perhaps, gate.Within, gate.Added:
		return styleYellow
	}
	return styleDim
}

// writeMarkdown writes the judgement for a pull request.
func (g *gating) writeMarkdown(w io.Writer) error {
	var b strings.Builder
	icon := map[gate.Verdict]string{gate.Pass: "✅", gate.Regression: "❌", gate.CouldNotTell: "⚠️"}[g.report.Verdict]
	fmt.Fprintf(&b, "### %s %s\n\n", icon, escapeMarkdown(g.verdict()))
	for _, line := range g.about() {
		fmt.Fprintf(&b, "- %s\n", escapeMarkdown(strings.Join(strings.Fields(line), " ")))
	}
	rows, left := g.told()
	if len(rows) > 0 {
		b.WriteString("\n| function |")
		for _, c := range g.columns() {
			b.WriteString(" " + strings.ToLower(c) + " |")
		}
		b.WriteString("\n|---|---|---|" + strings.Repeat("---:|", len(g.columns())-2) + "\n")
		for i := range rows {
			r := &rows[i]
			b.WriteString("| " + codeMarkdown(r.Name))
			if n := note(r); n != "" {
				b.WriteString(" " + escapeMarkdown(n))
			}
			for k, c := range g.cells(r) {
				if k == 0 && r.Status == gate.Slower {
					c = "**" + c + "**"
				}
				b.WriteString(" | " + c)
			}
			b.WriteString(" |\n")
		}
		if left > 0 {
			fmt.Fprintf(&b, "\n… and %s\n", plural(int64(left), "function"))
		}
	}
	for i := range rows {
		r := &rows[i]
		if r.Status != gate.Slower || len(r.Paths) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n<details><summary>Where %s became slower</summary>\n\n", escapeXML(printable(r.Name)))
		for _, p := range r.Paths {
			fmt.Fprintf(&b, "- %s: %s\n", g.c.formatChange(p.Candidate-p.Baseline), codeMarkdown(strings.Join(p.Functions, " → ")))
		}
		b.WriteString("\n</details>\n")
	}
	fmt.Fprintf(&b, "\n%s\n", escapeMarkdown(g.power()))
	for _, warning := range g.report.Warnings {
		fmt.Fprintf(&b, "\n> ⚠️ %s\n", escapeMarkdown(warning))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// escapeMarkdown keeps names of other people's programs from being markup.
func escapeMarkdown(s string) string {
	var b strings.Builder
	for _, r := range printable(s) {
		if strings.ContainsRune("\\`*_{}[]<>#|~@&", r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// codeMarkdown writes a name as code, in a fence that is longer than any in it. A bar would end the table's cell.
func codeMarkdown(s string) string {
	s = strings.ReplaceAll(printable(s), "|", "\\|")
	fence := "`"
	for strings.Contains(s, fence) {
		fence += "`"
	}
	if strings.HasPrefix(s, "`") || strings.HasSuffix(s, "`") {
		s = " " + s + " "
	}
	return fence + s + fence
}
