package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/perfuse/perfuse/profile"
)

// comparison is two sides laid over each other. Values are as they were measured; those that compare are they times
// their side's scale.
type comparison struct {
	typ      profile.Type
	sides    [2]*side // before and after
	scale    string   // what makes them comparable
	why      string
	hint     string // what to do if it is not what was meant
	filtered bool

	tree  *profile.DiffTree // nil in tables that the server made
	rows  []profile.DiffRow
	count int64     // how many functions there are
	cut   int64     // nodes that the server folded
	moved []float64 // by node: how much changed in it and below it, whatever the direction
}

// sort brings rows into order and leaves out what the limit does.
func (c *comparison) sort(d *diffing) {
	profile.SortByChange(c.rows, c.sides[0].scale, c.sides[1].scale, d.draw.sort == "total")
	if d.draw.limit > 0 && len(c.rows) > d.draw.limit {
		c.rows = c.rows[:d.draw.limit]
	}
}

func (c *comparison) write(w io.Writer, d *diffing, term terminal) error {
	if d.out.file != "" {
		term = terminal{}
	}
	b, after := c.sides[0], c.sides[1]
	switch d.out.form {
	case formTable:
		return c.writeTable(w, d, term)
	case formFolded:
		beforeScale, afterScale := c.wholeScales()
		return profile.WriteFoldedDiff(w, b.tree, after.tree, beforeScale, afterScale)
	case formPprof:
		beforeScale, afterScale := c.wholeScales()
		return profile.WritePprof(w, profile.Difference(b.batch, after.batch, beforeScale, afterScale))
	}
	share, _ := d.draw.share(formTree) // checked
	if d.draw.minShare != "" && d.out.form != formTree {
		c.cut += int64(c.tree.Cut(share, b.scale, after.scale))
	}
	c.move()
	v := &view{title: c.title(), typ: c.typ, tree: &c.tree.Tree, cut: c.cut, atMost: d.draw.limit, diff: c}
	switch d.out.form {
	case formSVG:
		return v.writeSVG(w)
	case formHTML:
		return v.writeHTML(w)
	case formJSON:
		return v.writeDiffJSON(w)
	}
	bw := bufio.NewWriter(w)
	bw.WriteString(c.summary())
	if c.moved[0] == 0 {
		bw.WriteString("Nothing changed.\n")
	} else {
		v.writeLines(bw, term, share, "")
	}
	return bw.Flush()
}

// wholeScales are scales for forms of whole numbers: what is after stays as it is.
func (c *comparison) wholeScales() (before, after float64) {
	before, after = c.sides[0].scale, c.sides[1].scale
	if after == 0 {
		return before, after
	}
	return before / after, 1
}

// move fills moved.
func (c *comparison) move() {
	t := c.tree
	c.moved = make([]float64, t.Len())
	for i := t.Len() - 1; i >= 0; i-- {
		c.moved[i] += math.Abs(c.change(t.BeforeSelf[i], t.Self[i]))
		for child := range t.Children(uint32(i)) {
			c.moved[i] += c.moved[child]
		}
	}
}

// scaled returns two values as they compare.
func (c *comparison) scaled(before, after int64) (b, a float64) {
	return float64(before) * c.sides[0].scale, float64(after) * c.sides[1].scale
}

// change is the difference of two values as they compare; what only rounding makes is none.
func (c *comparison) change(before, after int64) float64 {
	b, a := c.scaled(before, after)
	if math.Abs(a-b) <= 1e-12*max(math.Abs(a), math.Abs(b)) {
		return 0
	}
	return a - b
}

// format writes a value that was scaled.
func (c *comparison) format(v float64) string {
	switch c.scale {
	case scaleSamples:
		return profile.FormatRatio(v)
	case scaleTime:
		return profile.FormatFloat(v, c.typ.SampleUnit) + "/s"
	case scaleOperations:
		return profile.FormatFloat(v, c.typ.SampleUnit) + "/op"
	}
	return profile.FormatFloat(v, c.typ.SampleUnit)
}

// formatChange writes a change with its sign; that of shares is in percentage points.
func (c *comparison) formatChange(v float64) string {
	s := c.format(v)
	if c.scale == scaleSamples {
		s = strings.TrimSuffix(s, "%") + "pp"
	}
	if v > 0 {
		s = "+" + s
	} else if v < 0 && s[0] != '-' {
		s = "-" + s // "<0.01%" has none
	}
	return s
}

// cells are two values and their change.
func (c *comparison) cells(before, after int64) [3]string {
	b, a := c.scaled(before, after)
	return [3]string{c.format(b), c.format(a), c.formatChange(c.change(before, after))}
}

// ratio says how much of what was before a change is.
func (c *comparison) ratio(before, after int64) string {
	b, a := c.scaled(before, after)
	switch change := c.change(before, after); {
	case b == 0 && a == 0:
		return ""
	case b == 0:
		return "new"
	case a == 0:
		return "gone"
	case change == 0:
		return "0%"
	default:
		r := change / math.Abs(b)
		s := profile.FormatRatio(math.Abs(r))
		if r < 0 {
			return "-" + s
		}
		return "+" + s
	}
}

// style is the colour of a change: yellow for more, cyan for less, which everybody can tell apart.
func (c *comparison) style(change float64) string {
	switch {
	case change > 0:
		return styleYellow
	case change < 0:
		return styleCyan
	}
	return ""
}

// title says what is compared with what.
func (c *comparison) title() string {
	if b, a := c.sides[0].title, c.sides[1].title; b != a {
		return b + " → " + a
	}
	return c.sides[1].title
}

// summary is four lines: what is compared, both sides, and what changed in all.
func (c *comparison) summary() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, compared %s\n", printable(c.typ.String()), c.why)
	for _, s := range c.sides {
		fmt.Fprintf(&b, "%-6s  %s\n", s.name, c.describe(s))
	}
	fmt.Fprintf(&b, "change  %s\n", c.sum())
	return b.String()
}

// sum is the change of everything.
func (c *comparison) sum() string {
	before, after := c.sides[0].total, c.sides[1].total
	s := c.formatChange(c.change(before, after))
	if r := c.ratio(before, after); r != "" && c.scale != scaleSamples {
		s += " (" + r + ")"
	}
	return s
}

// describe says what a side is and how much it has.
func (c *comparison) describe(s *side) string {
	text := printable(s.title)
	if s.file == "" {
		text += ", " + describeRange(s.from, s.to)
	} else if s.length != 0 {
		text += ", " + profile.FormatValue(int64(s.length), "nanoseconds")
	}
	amounts := []string{c.format(float64(s.total) * s.scale)}
	if c.scale != scaleNone {
		amounts = []string{profile.FormatValue(s.total, c.typ.SampleUnit), amounts[0]}
		if c.scale == scaleTime {
			amounts[0] += " in " + profile.FormatValue(int64(s.covers), "nanoseconds")
		}
	}
	text += ": " + strings.Join(amounts, ", ")
	if c.filtered {
		text += ", " + profile.FormatShare(s.total, s.all) + " of all"
	}
	text += ", " + plural(s.stacks, "stack")
	if s.series > 0 {
		text += ", " + plural(s.series, "series")
	}
	// A service that began in the middle of a range has less to show for it.
	if s.file == "" && s.length != 0 && s.covers > 0 && s.covers < s.length*9/10 && !c.typ.Level() && c.scale != scaleTime {
		text += fmt.Sprintf(" (profiles cover %s of %s)", profile.FormatValue(int64(s.covers), "nanoseconds"), profile.FormatValue(int64(s.length), "nanoseconds"))
	}
	return text
}

// writeTable writes the functions that changed most.
func (c *comparison) writeTable(w io.Writer, d *diffing, term terminal) error {
	kinds := [2]string{"SELF", "TOTAL"}
	byTotal := d.draw.sort == "total"
	if byTotal {
		kinds = [2]string{"TOTAL", "SELF"}
	}
	head := []string{kinds[0] + " BEFORE", "AFTER", "CHANGE", "CHANGE%", kinds[1] + " BEFORE", "AFTER", "CHANGE", "FUNCTION"}
	narrow := term.width > 0 && term.width < 110 // then names need the room
	if narrow {
		head = []string{kinds[0] + " BEFORE", "AFTER", "CHANGE", "CHANGE%", kinds[1] + " CHANGE", "FUNCTION"}
	}
	t := table{head: head, right: make([]bool, len(head)), middle: true}
	for i := range len(head) - 1 {
		t.right[i] = true
	}
	rows := c.changed()
	for _, r := range rows {
		values := [2][2]int64{{r.BeforeSelf, r.Self}, {r.BeforeTotal, r.Total}}
		if byTotal {
			values[0], values[1] = values[1], values[0]
		}
		var row []string
		for i, v := range values {
			cells := c.cells(v[0], v[1])
			if i == 0 || !narrow {
				row = append(row, cells[:2]...)
			}
			row = append(row, cells[2])
			if i == 0 {
				row = append(row, c.ratio(v[0], v[1]))
			}
		}
		name := printable(r.Name)
		if r.Mapping != "" && !narrow {
			name += "  " + baseName(printable(r.Mapping))
		}
		t.add(append(row, name)...)
		t.styles = append(t.styles, c.style(c.change(values[0][0], values[0][1])))
	}
	text := c.summary()
	if len(t.rows) == 0 {
		text += "Nothing changed.\n"
	} else {
		text += t.text(term)
	}
	if n := c.count - int64(len(c.rows)); n > 0 && len(rows) == len(c.rows) {
		text += term.style(styleDim, fmt.Sprintf("… and %s; %s", plural(n, "function"), more(len(c.rows), d.draw.limit))) + "\n"
	}
	_, err := io.WriteString(w, text)
	return err
}

// changed are the rows without those at the end in which nothing changed.
func (c *comparison) changed() []profile.DiffRow {
	n := len(c.rows)
	for n > 0 && c.change(c.rows[n-1].BeforeSelf, c.rows[n-1].Self) == 0 && c.change(c.rows[n-1].BeforeTotal, c.rows[n-1].Total) == 0 {
		n--
	}
	return c.rows[:n]
}

func (c *comparison) treeHead(term terminal) string {
	s := fmt.Sprintf("%9s %9s %10s %8s", "BEFORE", "AFTER", "CHANGE", "CHANGE%")
	if wide(term) {
		s += fmt.Sprintf(" %11s", "SELF CHANGE")
	}
	return s
}

// wide says whether a tree has room for all columns.
func wide(term terminal) bool { return term.width == 0 || term.width >= 100 }

func (c *comparison) treeNumbers(l treeLine, term terminal) (text, style string) {
	before, after := c.tree.BeforeTotal[l.node], c.tree.Total[l.node]
	self := c.change(c.tree.BeforeSelf[l.node], c.tree.Self[l.node])
	if l.small > 0 {
		before, after, self = l.before, l.sum, 0
	}
	cells := c.cells(before, after)
	s := fmt.Sprintf("%9s %9s %10s %8s", cells[0], cells[1], cells[2], c.ratio(before, after))
	if wide(term) {
		selfText := ""
		if self != 0 {
			selfText = c.formatChange(self)
		}
		s += fmt.Sprintf(" %11s", selfText)
	}
	return s + "  ", c.style(c.change(before, after))
}

// sideJSON is a side for machines.
type sideJSON struct {
	Title  string     `json:"title"`
	File   string     `json:"file,omitempty"`
	Type   string     `json:"type"`
	From   *time.Time `json:"from,omitempty"`
	To     *time.Time `json:"to,omitempty"`
	Covers float64    `json:"seconds,omitempty"`
	Total  int64      `json:"total"`
	All    int64      `json:"unfiltered_total"`
	Scale  float64    `json:"scale"`
	Stacks int64      `json:"stacks"`
	Series int64      `json:"series,omitempty"`
	Less   bool       `json:"stacks_cut,omitempty"`
}

type functionJSON struct {
	Name    string     `json:"name"`
	File    string     `json:"file,omitempty"`
	Mapping string     `json:"mapping,omitempty"`
	Kind    string     `json:"kind"`
	Before  nodeBefore `json:"before"`
	Self    int64      `json:"self"`
	Total   int64      `json:"total"`
}

// writeDiffJSON writes both sides, the functions and the tree. Values are as measured, a side's scale is what makes them
// compare.
func (v *view) writeDiffJSON(w io.Writer) error {
	c := v.diff
	var sides [2]sideJSON
	for i, s := range c.sides {
		sides[i] = sideJSON{s.title, s.file, s.typ.String(), timeOrNil(s.from), timeOrNil(s.to), s.covers.Seconds(), s.total, s.all, s.scale, s.stacks, s.series, s.stacksCut}
	}
	functions := make([]functionJSON, len(c.rows))
	for i, r := range c.rows {
		functions[i] = functionJSON{r.Name, r.File, r.Mapping, kindName(r.Kind), nodeBefore{r.BeforeSelf, r.BeforeTotal}, r.Self, r.Total}
	}
	head, err := json.Marshal(struct {
		Type      string         `json:"type"`
		Unit      string         `json:"unit"`
		Scale     string         `json:"scale"`
		Before    sideJSON       `json:"before"`
		After     sideJSON       `json:"after"`
		Count     int64          `json:"function_count"`
		Functions []functionJSON `json:"functions"`
		Nodes     int            `json:"nodes"`
		Cut       int64          `json:"cut,omitempty"`
	}{c.typ.String(), c.typ.SampleUnit, c.scale, sides[0], sides[1], c.count, functions, v.tree.Len(), c.cut})
	if err != nil {
		return err
	}
	bw := bufio.NewWriter(w)
	bw.Write(head[:len(head)-1])
	bw.WriteString(`,"root":`)
	if err := v.writeNodes(bw); err != nil {
		return err
	}
	bw.WriteString("}\n")
	return bw.Flush()
}

// number writes a count of operations as it was typed.
func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
