package main

import (
	"bufio"
	"fmt"
	"math"
)

// svgLegend is the height of a difference's legend.
const svgLegend = 24.0

// Colours of a difference: orange for more and blue for less, which are told apart with every kind of colour
// blindness, and grey in between. Stops are red, green, blue.
var (
	diffSame = [3]float64{226, 226, 226}
	diffMore = [3]float64{230, 126, 34}
	diffLess = [3]float64{86, 180, 233}
)

// width of a box is what there is before and after together, so that what is gone is seen as well.
func (c *comparison) width(i uint32) float64 {
	b, a := c.scaled(c.tree.BeforeTotal[i], c.tree.Total[i])
	return max(0, b) + max(0, a)
}

func (c *comparison) colour(i uint32) string {
	b, a := c.scaled(c.tree.BeforeTotal[i], c.tree.Total[i])
	return diffColour(share(b, a))
}

// share is where between gone (-1), the same (0) and new (1) a change is: the difference in shares of the sum.
func share(before, after float64) float64 {
	sum := math.Abs(before) + math.Abs(after)
	if sum == 0 {
		return 0
	}
	return (after - before) / sum
}

// diffColour mixes a colour. Small changes are seen, as most are.
func diffColour(share float64) string {
	end := diffMore
	if share < 0 {
		end = diffLess
	}
	part := math.Sqrt(math.Abs(share))
	var rgb [3]int
	for i := range rgb {
		rgb[i] = int(math.Round(diffSame[i] + (end[i]-diffSame[i])*part))
	}
	return fmt.Sprintf("#%02x%02x%02x", rgb[0], rgb[1], rgb[2])
}

// legend are changes with their names, from gone to new.
var legend = []struct {
	share float64
	name  string
}{{-1, "gone"}, {-1. / 3, "half"}, {-1. / 21, "−9%"}, {0, "the same"}, {1. / 21, "+10%"}, {1. / 3, "twice"}, {1, "new"}}

// writeLegend draws what colours mean.
func (c *comparison) writeLegend(bw *bufio.Writer) {
	const box, step = 14.0, 96.0
	y := svgHead
	for i, l := range legend {
		x := svgMargin + float64(i)*step
		fmt.Fprintf(bw, `<rect x="%g" y="%g" width="%g" height="%g" fill="%s"/><text x="%g" y="%g">%s</text>`+"\n",
			x, y, box, box, diffColour(l.share), x+box+5, y+11, l.name)
	}
	fmt.Fprintf(bw, `<text x="%g" y="%g">width: before and after together</text>`+"\n", svgMargin+float64(len(legend))*step, y+11)
}

func (c *comparison) about() string {
	cells := c.cells(c.sides[0].total, c.sides[1].total)
	return fmt.Sprintf("before %s, after %s, %s, compared %s", cells[0], cells[1], c.sum(), c.why)
}

func (c *comparison) tooltip(i uint32) string {
	line := func(what string, before, after int64) string {
		cells := c.cells(before, after)
		s := fmt.Sprintf("%s %s → %s, %s", what, cells[0], cells[1], cells[2])
		if r := c.ratio(before, after); r != "" {
			s += " (" + r + ")"
		}
		return s
	}
	t := c.tree
	s := line("total", t.BeforeTotal[i], t.Total[i])
	if t.BeforeSelf[i] != 0 || t.Self[i] != 0 {
		s += "\n" + line("self", t.BeforeSelf[i], t.Self[i])
	}
	return s
}
