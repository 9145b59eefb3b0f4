package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/perfuse/perfuse/profile"
)

// treeLine is one line to be drawn: a node, or the sum of a node's children that are too small to be shown.
type treeLine struct {
	node   uint32
	small  int   // > 0: not the node, but so many of its children with their subtrees,
	sum    int64 // which make up this,
	before int64 // in a difference this before,
	weight float64
	branch string
	guide  string // what the lines below begin with
}

// writeTree draws the flame graph as an indented tree, siblings in order of their totals. Only a branch
// indents: a function without siblings stands right below its caller, so that deep stacks stay readable.
// Children below minShare of the total are summed up in one line per parent, where they stand beside others and
// reach it together.
func (v *view) writeTree(w io.Writer, term terminal, minShare float64) error {
	bw := bufio.NewWriter(w)
	fmt.Fprintln(bw, v.summary())
	v.writeLines(bw, term, minShare, "SELF")
	return bw.Flush()
}

// writeLines writes the tree below the summary. self is the head of the last column of numbers.
func (v *view) writeLines(bw *bufio.Writer, term terminal, minShare float64, self string) {
	if v.tree.Len() <= 1 {
		return
	}
	fmt.Fprintln(bw, term.style(styleBold, v.treeHead(term, self)))
	limit := minShare * v.weight(0)
	shown := int64(0)
	todo := []treeLine{{node: 0}}
	for len(todo) > 0 {
		l := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		fmt.Fprintln(bw, v.treeLine(l, term))
		if l.small > 0 {
			continue
		}
		shown++
		below := v.below(l, limit)
		slices.Reverse(below)
		todo = append(todo, below...)
	}
	if n := v.named() - shown; n > 0 {
		text := fmt.Sprintf("… and %s below %s; --min-share 0 shows all", plural(n, "node"), percentage(minShare))
		fmt.Fprintln(bw, term.style(styleDim, text))
	}
}

// weight is what a node is ordered and left out by.
func (v *view) weight(i uint32) float64 {
	if v.diff != nil {
		return v.diff.moved[i]
	}
	return float64(v.tree.Total[i])
}

func (v *view) treeHead(term terminal, self string) string {
	if v.diff != nil {
		return v.diff.treeHead(term)
	}
	all := ""
	if v.all != 0 {
		all = fmt.Sprintf(" %7s", "ALL%")
	}
	return fmt.Sprintf("%9s %7s%s %9s", "TOTAL", "TOTAL%", all, self)
}

// treeNumbers is what stands before a name, and its style.
func (v *view) treeNumbers(l treeLine, term terminal) (text, style string) {
	total, self := v.tree.Total[l.node], v.tree.Self[l.node]
	if l.small > 0 {
		total, self = l.sum, 0
	}
	if v.diff != nil {
		return v.diff.treeNumbers(l, term)
	}
	selfText, all := "", ""
	if self != 0 {
		selfText = v.format(self)
	}
	if v.all != 0 {
		all = fmt.Sprintf(" %7s", profile.FormatShare(total, v.all))
	}
	return fmt.Sprintf("%9s %7s%s %9s  ", v.format(total), v.percent(total), all, selfText), ""
}

// named is how many nodes there were before any was folded into "(small)".
func (v *view) named() int64 {
	n := v.cut
	for i := range v.tree.Frame {
		if v.tree.Frames[v.tree.Frame[i]].Kind != profile.KindCut {
			n++
		}
	}
	return n
}

// percentage is a share as --min-share takes it.
func percentage(share float64) string { return strconv.FormatFloat(share*100, 'f', -1, 64) + "%" }

// below returns the lines under l.
func (v *view) below(l treeLine, limit float64) []treeLine {
	t := v.tree
	var lines []treeLine
	rest := treeLine{node: l.node}
	for c := range t.Children(l.node) {
		if v.weight(c) < limit || t.Frames[t.Frame[c]].Kind == profile.KindCut {
			rest.small++
			rest.sum += t.Total[c]
			rest.weight += v.weight(c)
			if v.diff != nil {
				rest.before += v.diff.tree.BeforeTotal[c]
			}
			continue
		}
		lines = append(lines, treeLine{node: c})
	}
	slices.SortStableFunc(lines, func(a, b treeLine) int { return cmp.Compare(v.weight(b.node), v.weight(a.node)) })
	if rest.small > 0 && rest.weight >= limit && len(lines) > 0 {
		lines = append(lines, rest)
	}
	for i := range lines {
		lines[i].branch, lines[i].guide = l.guide, l.guide
		switch {
		case len(lines) == 1:
		case i == len(lines)-1:
			lines[i].branch += "└ "
			lines[i].guide += "  "
		default:
			lines[i].branch += "├ "
			lines[i].guide += "│ "
		}
	}
	return lines
}

func (v *view) treeLine(l treeLine, term terminal) string {
	t := v.tree
	frame := t.Frames[t.Frame[l.node]]
	name, style := printable(t.Name(l.node)), ""
	var notes []string
	switch {
	case l.node == 0 && l.small == 0 && v.root != "":
		name = printable(v.root)
	case l.small > 0:
		name, style = "(small)", styleDim
	case frame.Kind == profile.KindUnwind:
		style = styleRed
	case frame.Kind == profile.KindLabel:
		style = styleBold
	case frame.Kind == profile.KindKernel:
		style = styleYellow
		notes = append(notes, "kernel")
	case frame.Kind == profile.KindJIT || frame.Kind == profile.KindInterpreted:
		style = styleCyan
		notes = append(notes, kindName(frame.Kind))
	}
	if l.small == 0 {
		if frame.Inlined {
			notes = append(notes, "inlined")
		}
		if m := t.Strings[frame.Mapping]; m != "" && frame.Kind == profile.KindNative {
			notes = append(notes, baseName(printable(m)))
		}
	}
	numbers, numbersStyle := v.treeNumbers(l, term)
	branch := l.branch
	// Leave at least half of the rest of the line for names.
	if n := max(6, (term.width-len([]rune(numbers)))/2); term.width > 0 && len([]rune(branch)) > n {
		r := []rune(branch)
		branch = "… " + string(r[len(r)-n+2:])
	}
	room := 0
	if term.width > 0 {
		room = max(8, term.width-len([]rune(numbers))-len([]rune(branch)))
	}
	name = fit(name, room)
	note := ""
	if len(notes) > 0 {
		note = "  " + strings.Join(notes, " ")
		if room > 0 && len([]rune(name))+len([]rune(note)) > room {
			note = ""
		}
	}
	return term.style(numbersStyle, numbers) + term.style(styleDim, branch) + term.style(style, name) + term.style(styleDim, note)
}
