package main

import (
	"bufio"
	"encoding/xml"
	"fmt"
	"hash/fnv"
	"io"
	"strconv"
	"strings"

	"github.com/perfuse/perfuse/profile"
)

// Measures of the drawing, in pixels.
const (
	svgWidth  = 1200.0
	svgRow    = 18.0
	svgHead   = 46.0
	svgMargin = 10.0
	svgGlyph  = 6.7 // a letter of the 11 px monospace font
	svgMinBox = 0.3 // narrower boxes are left out
)

// The style follows the viewer's light or dark mode. Fill colours are set per box, with one lightness each.
const svgStyle = `
  svg { font: 11px ui-monospace, Menlo, Consolas, monospace; background: #fff; color: #1b1f24; }
  text { fill: currentColor; white-space: pre; pointer-events: none; }
  .t { font: 600 13px system-ui, sans-serif; } .s { font: 12px system-ui, sans-serif; opacity: .75; }
  rect { stroke: #fff; stroke-width: .5; } g:hover > rect { stroke: #000; stroke-width: 1; }
  @media (prefers-color-scheme: dark) {
    svg { background: #14171b; color: #e6e8eb; } rect { stroke: #14171b; filter: brightness(.55); }
    g:hover > rect { stroke: #fff; }
  }
`

// writeSVG draws the flame graph as one file without scripts, the root on top. The tooltip of a box says what
// it is and how large.
func (v *view) writeSVG(w io.Writer) error {
	t := v.tree
	depth, rows := make([]uint16, t.Len()), 1
	x := make([]float64, t.Len())
	scale := 0.0
	if all := v.width(0); all > 0 {
		scale = (svgWidth - 2*svgMargin) / all
	}
	visible := func(i uint32) bool { return v.width(i)*scale >= svgMinBox }
	for i := range uint32(t.Len()) {
		at := x[i] // a node's own value comes after its children's
		for c := range t.Children(i) {
			x[c] = at
			at += v.width(c)
			depth[c] = depth[i] + 1
			if visible(c) {
				rows = max(rows, int(depth[c])+1)
			}
		}
	}
	left := v.named()
	for i := range uint32(t.Len()) {
		if visible(i) && t.Frames[t.Frame[i]].Kind != profile.KindCut {
			left--
		}
	}
	head := svgHead
	if v.diff != nil {
		head += svgLegend
	}
	height := head + float64(rows)*svgRow + svgMargin

	bw := bufio.NewWriter(w)
	fmt.Fprintf(bw, `<svg xmlns="http://www.w3.org/2000/svg" width="%g" height="%g" viewBox="0 0 %g %g" role="img">`+"\n", svgWidth, height, svgWidth, height)
	fmt.Fprintf(bw, "<title>%s</title>\n<style>%s</style>\n", escapeXML(v.summary()), svgStyle)
	fmt.Fprintf(bw, `<text class="t" x="%g" y="18">%s</text>`+"\n", svgMargin, escapeXML(fit(v.typ.String()+" "+v.title, 150)))
	about := v.about()
	if left > 0 {
		about += fmt.Sprintf(", %s too narrow to be drawn", plural(left, "node"))
	}
	fmt.Fprintf(bw, `<text class="s" x="%g" y="36">%s</text>`+"\n", svgMargin, escapeXML(about))
	if v.diff != nil {
		v.diff.writeLegend(bw)
	}
	for i := range uint32(t.Len()) {
		if !visible(i) {
			continue
		}
		left, top, width := svgMargin+x[i]*scale, head+float64(depth[i])*svgRow, v.width(i)*scale
		fmt.Fprintf(bw, `<g><title>%s</title><rect x="%.2f" y="%g" width="%.2f" height="%g" fill="%s"/>`,
			escapeXML(v.tooltip(i)), left, top, width, svgRow, v.colour(i))
		if letters := int((width - 6) / svgGlyph); letters >= 3 {
			fmt.Fprintf(bw, `<text x="%.2f" y="%g">%s</text>`, left+3, top+13, escapeXML(fit(t.Name(i), letters)))
		}
		bw.WriteString("</g>\n")
	}
	bw.WriteString("</svg>\n")
	return bw.Flush()
}

// width is how wide a box is, in any unit.
func (v *view) width(i uint32) float64 {
	if v.diff != nil {
		return v.diff.width(i)
	}
	return float64(v.tree.Total[i])
}

func (v *view) colour(i uint32) string {
	if v.diff != nil {
		return v.diff.colour(i)
	}
	return svgColour(v.tree, i)
}

// about is the line below the title of a drawing.
func (v *view) about() string {
	if v.diff != nil {
		return v.diff.about()
	}
	return v.share(v.total()) + ", " + describeRange(v.from, v.to)
}

func (v *view) tooltip(i uint32) string {
	t := v.tree
	f := t.Frames[t.Frame[i]]
	s := t.Strings[f.Name] + "\n"
	if v.diff != nil {
		s += v.diff.tooltip(i)
	} else {
		s += fmt.Sprintf("total %s (%s), self %s (%s)", v.format(t.Total[i]), v.percent(t.Total[i]), v.format(t.Self[i]), v.percent(t.Self[i]))
	}
	if v.all != 0 {
		s += fmt.Sprintf("\n%s of everything", profile.FormatShare(t.Total[i], v.all))
	}
	if f.File != 0 {
		s += "\n" + t.Strings[f.File]
		if f.StartLine > 0 {
			s += ":" + strconv.Itoa(int(f.StartLine))
		}
	}
	if f.Mapping != 0 {
		s += "\n" + t.Strings[f.Mapping]
	}
	if f.Inlined {
		s += "\ninlined"
	}
	return s
}

// svgColour gives the functions of one package or library one hue, and each of them its own shade.
func svgColour(t *profile.Tree, i uint32) string {
	f := t.Frames[t.Frame[i]]
	name := t.Strings[f.Name]
	shade := 64 + int(hash(name)%14)
	switch f.Kind {
	case profile.KindRoot, profile.KindCut, profile.KindLabel:
		return "#b8bec6"
	case profile.KindUnwind:
		return "#e5737a"
	case profile.KindKernel:
		return fmt.Sprintf("hsl(32 75%% %d%%)", shade)
	}
	return fmt.Sprintf("hsl(%d 48%% %d%%)", 70+hash(packageOf(name, t.Strings[f.Mapping]))%240, shade)
}

// packageOf is the part of a name that says where the function belongs: "net/http" of net/http.(*conn).serve,
// "std::map" of std::map::find, else the executable.
func packageOf(name, mapping string) string {
	if i := strings.IndexAny(name, "(<["); i > 0 {
		name = name[:i]
	}
	slash := strings.LastIndexByte(name, '/') + 1
	if i := strings.IndexByte(name[slash:], '.'); i > 0 {
		return name[:slash+i]
	}
	if i := strings.LastIndex(name, "::"); i > 0 {
		return name[:i]
	}
	return mapping
}

func hash(s string) uint32 {
	h := fnv.New32a()
	io.WriteString(h, s)
	return h.Sum32()
}

// escapeXML escapes markup, and replaces what XML cannot hold at all.
func escapeXML(s string) string {
	var b strings.Builder
	if err := xml.EscapeText(&b, []byte(s)); err != nil {
		panic("BUG: writing to a strings.Builder: " + err.Error())
	}
	return b.String()
}
