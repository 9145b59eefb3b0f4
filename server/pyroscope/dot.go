package pyroscope

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/perfuse/perfuse/profile"
)

// defaultFunctions is how many functions a call graph shows where nobody says.
const defaultFunctions = 100

// dot writes the call graph of one side in Graphviz' language: the most functions with the largest totals (0:
// 100; less: all) and the calls between them. A function, or a call, that is on a stack several times counts once.
func dot(t profile.Type, g *graph, most int64) []byte {
	type function struct {
		name        string
		self, total int64
		open        int // how often it is on the path that is being walked
		id          int
	}
	type call struct{ from, to *function }
	type weight struct {
		total int64
		open  int
	}
	functions := map[string]*function{}
	calls := map[call]*weight{}
	var walk func(at int32, caller *function)
	walk = func(at int32, caller *function) {
		n := &g.nodes[at]
		f := functions[n.name]
		if f == nil {
			f = &function{name: n.name}
			functions[n.name] = f
		}
		f.self += n.self[0]
		if f.open == 0 {
			f.total += n.total[0]
		}
		f.open++
		var edge *weight
		if caller != nil {
			if edge = calls[call{caller, f}]; edge == nil {
				edge = &weight{}
				calls[call{caller, f}] = edge
			}
			if edge.open == 0 {
				edge.total += n.total[0]
			}
			edge.open++
		}
		for c := n.child; c != 0; c = g.nodes[c].next {
			walk(c, f)
		}
		f.open--
		if edge != nil {
			edge.open--
		}
	}
	for c := g.nodes[0].child; c != 0; c = g.nodes[c].next {
		walk(c, nil)
	}

	shown := make([]*function, 0, len(functions))
	for _, f := range functions {
		shown = append(shown, f)
	}
	slices.SortFunc(shown, func(a, b *function) int {
		return cmp.Or(cmp.Compare(b.total, a.total), cmp.Compare(b.self, a.self), strings.Compare(a.name, b.name))
	})
	if most == 0 {
		most = defaultFunctions
	}
	if most > 0 && most < int64(len(shown)) {
		shown = shown[:most]
	}
	var b bytes.Buffer
	total := g.nodes[0].total[0]
	fmt.Fprintf(&b, "digraph %s {\n  label=%s\n  node [shape=box]\n", quote(t.SampleType), quote(t.String()+" "+profile.FormatValue(total, t.SampleUnit)))
	for i, f := range shown {
		f.id = i + 1
		fmt.Fprintf(&b, "  N%d [label=%s]\n", f.id, quote(fmt.Sprintf("%s\n%s (%s) of %s (%s)", f.name,
			profile.FormatValue(f.self, t.SampleUnit), profile.FormatShare(f.self, total),
			profile.FormatValue(f.total, t.SampleUnit), profile.FormatShare(f.total, total))))
	}
	edges := make([]call, 0, len(calls))
	for c := range calls {
		if c.from.id > 0 && c.to.id > 0 {
			edges = append(edges, c)
		}
	}
	slices.SortFunc(edges, func(x, y call) int {
		return cmp.Or(cmp.Compare(x.from.id, y.from.id), cmp.Compare(x.to.id, y.to.id))
	})
	for _, c := range edges {
		fmt.Fprintf(&b, "  N%d -> N%d [label=%s]\n", c.from.id, c.to.id, quote(profile.FormatValue(calls[c].total, t.SampleUnit)))
	}
	b.WriteString("}\n")
	return b.Bytes()
}

var quoter = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", " ")

func quote(s string) string { return `"` + quoter.Replace(s) + `"` }
