package main

import (
	"bufio"
	_ "embed"
	"fmt"
	"io"
)

//go:embed page/page.css
var pageStyle string

//go:embed page/page.js
var pageScript string

// writeHTML writes a difference as one page that needs nothing else and asks nobody: the drawing, with search and zoom,
// and the table. Names come from other people's programs: all are escaped, and the page may not load anything.
func (v *view) writeHTML(w io.Writer) error {
	c := v.diff
	bw := bufio.NewWriter(w)
	title := escapeXML(v.typ.SampleType + " " + v.title)
	fmt.Fprintf(bw, `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>%s</title>
<style>
%s</style>
</head>
<body>
<h1>%s</h1>
<pre>%s</pre>
<form role="search">
<input type="search" aria-label="Search functions, a regular expression" placeholder="Search functions (regular expression)">
<button type="button">Whole graph</button>
<output></output>
</form>
<div class="graph">
`, title, pageStyle, title, escapeXML(c.summary()))
	if err := v.writeSVG(bw); err != nil {
		return err
	}
	bw.WriteString("</div>\n<div class=\"scroll\">\n<table>\n<thead><tr>")
	for _, head := range []string{"Before", "After", "Self change", "Change", "Total before", "Total after", "Total change", "Function"} {
		fmt.Fprintf(bw, `<th scope="col">%s</th>`, head)
	}
	bw.WriteString("</tr></thead>\n<tbody>\n")
	rows := c.changed()
	for _, r := range rows {
		bw.WriteString("<tr>")
		self, total := c.cells(r.BeforeSelf, r.Self), c.cells(r.BeforeTotal, r.Total)
		for _, cell := range []string{self[0], self[1], self[2], c.ratio(r.BeforeSelf, r.Self), total[0], total[1], total[2]} {
			fmt.Fprintf(bw, "<td>%s</td>", escapeXML(cell))
		}
		fmt.Fprintf(bw, "<td><button type=\"button\">%s</button>", escapeXML(r.Name))
		if r.Mapping != "" {
			fmt.Fprintf(bw, " %s", escapeXML(baseName(r.Mapping)))
		}
		bw.WriteString("</td></tr>\n")
	}
	bw.WriteString("</tbody>\n</table>\n")
	if n := c.count - int64(len(c.rows)); n > 0 && len(rows) == len(c.rows) {
		fmt.Fprintf(bw, "<p>… and %s; %s</p>\n", plural(n, "function"), more(len(c.rows), v.atMost))
	}
	fmt.Fprintf(bw, "</div>\n<script>\n%s</script>\n</body>\n</html>\n", pageScript)
	return bw.Flush()
}
