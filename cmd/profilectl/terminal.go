package main

import (
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// terminal says whether output is read by a person, how wide their window is and whether they want colours.
// The zero terminal is a file or a pipe.
type terminal struct {
	is     bool
	colour bool
	width  int // columns; 0 if it is no terminal
}

func terminalOf(f *os.File, env func(string) string) terminal {
	ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return terminal{}
	}
	t := terminal{is: true, width: int(ws.Col), colour: env("NO_COLOR") == "" && env("TERM") != "dumb"}
	if t.width == 0 {
		t.width = 80
	}
	return t
}

// Styles are the terminal's own sixteen colours, so that they fit light and dark ones.
const (
	styleDim    = "\x1b[2m"
	styleBold   = "\x1b[1m"
	styleRed    = "\x1b[31m"
	styleYellow = "\x1b[33m"
	styleCyan   = "\x1b[36m"
	styleReset  = "\x1b[0m"
)

func (t terminal) style(style, s string) string {
	if !t.colour || s == "" || style == "" {
		return s
	}
	return style + s + styleReset
}

// fit shortens s to at most width columns, of which the last shows that it did. Width 0 means any.
func fit(s string, width int) string {
	if width <= 0 || utf8.RuneCountInString(s) <= width {
		return s
	}
	n := 0
	for i := range s {
		if n == width-1 {
			return s[:i] + "…"
		}
		n++
	}
	return s
}

// fitMiddle shortens s to at most width columns by leaving out its middle: a name's beginning is the package, its end
// the function. Width 0 means any.
func fitMiddle(s string, width int) string {
	r := []rune(s)
	if width <= 0 || len(r) <= width {
		return s
	}
	if width == 1 {
		return "…"
	}
	head := (width - 1) / 2
	return string(r[:head]) + "…" + string(r[len(r)-(width-1-head):])
}

// printable replaces what would move the cursor or colour the screen: names come from other people's programs.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '\uFFFD'
		}
		return r
	}, s)
}

func padLeft(s string, width int) string {
	return strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s))) + s
}

func padRight(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s)))
}

// table writes rows in aligned columns, two spaces apart. right says which columns hold numbers.
type table struct {
	head  []string
	right []bool
	rows  [][]string
	// styles are by row, for its numbers; none if there are no more.
	styles []string
	// middle shortens the last column in its middle, not the line at its end.
	middle bool
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// text returns the table; width bounds the lines (0: not at all) by shortening the last column.
func (t *table) text(term terminal) string {
	widths := make([]int, len(t.head))
	for _, row := range append([][]string{t.head}, t.rows...) {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	room := 0 // for the last column
	if t.middle && term.width > 0 {
		room = term.width
		for _, w := range widths[:len(widths)-1] {
			room -= w + 2
		}
		room = max(room, 8)
	}
	var b strings.Builder
	for n, row := range append([][]string{t.head}, t.rows...) {
		var line strings.Builder
		for i, c := range row {
			if i > 0 {
				line.WriteString("  ")
			}
			switch {
			case t.right[i]:
				c = padLeft(c, widths[i])
			case i < len(row)-1:
				c = padRight(c, widths[i])
			default:
				c = fitMiddle(c, room)
			}
			if i < len(row)-1 && n > 0 && n <= len(t.styles) {
				c = term.style(t.styles[n-1], c)
			}
			line.WriteString(c)
		}
		s := strings.TrimRight(line.String(), " ")
		if !t.middle {
			s = fit(s, term.width)
		}
		if n == 0 {
			s = term.style(styleBold, s)
		}
		b.WriteString(s + "\n")
	}
	return b.String()
}
