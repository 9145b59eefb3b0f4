package gate

import (
	"fmt"
	"maps"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/perfuse/perfuse/profile"
)

// alike is how much two functions must have in common to be taken for one: the share of what calls them, and of what they call,
// that is the same.
const alike = 0.5

// findRenamed makes one function of two of which only the baseline has one and only the candidate the other, if the same
// functions call them, they call the same ones, and none is more than twice the other. It returns the former names. Outer
// functions are found after inner ones or before, so it looks again as long as it finds any.
func (j *judge) findRenamed() map[int32]string {
	was := map[int32]string{}
	for {
		to := j.renamedOnce()
		if len(to) == 0 {
			return was
		}
		for gone, come := range to {
			if name := j.functions[gone].Name; name != j.functions[come].Name {
				was[come] = name
			}
		}
		j.rename(to)
	}
}

func (j *judge) renamedOnce() map[int32]int32 {
	var gone, come []int32
	all := [2]float64{}
	all[0], all[1] = j.means(j.total[:j.runs])
	for f := 1; f < len(j.functions); f++ {
		if !isCode(&j.functions[f]) {
			continue
		}
		switch b, c := j.means(j.at(j.totalBy, int32(f))); {
		case c == 0 && b > 0 && b >= j.o.MinShare/2*all[0]:
			gone = append(gone, int32(f))
		case b == 0 && c > 0 && c >= j.o.MinShare/2*all[1]:
			come = append(come, int32(f))
		}
	}
	if len(gone) == 0 || len(come) == 0 {
		return nil
	}
	around := j.around(append(append([]int32(nil), gone...), come...))
	likeness := func(g, c int32) float64 {
		a, b := around[g], around[c]
		if j.functions[g].Kind != j.functions[c].Kind || a.total > 2*b.total || b.total > 2*a.total {
			return 0
		}
		callers, callees := common(a.callers, b.callers), common(a.callees, b.callees)
		if callers < alike || callees < alike {
			return 0
		}
		if j.functions[g].Name == j.functions[c].Name {
			return 2 + callers + callees // another file or binary of that name
		}
		return callers + callees
	}
	best := func(of int32, among []int32, likeness func(a, b int32) float64) (at int32) {
		most, second := 0.0, 0.0
		for _, o := range among {
			if l := likeness(of, o); l > most {
				most, second, at = l, most, o
			} else {
				second = max(second, l)
			}
		}
		if most == second {
			return 0
		}
		return at
	}
	to := map[int32]int32{}
	for _, g := range gone {
		c := best(g, come, likeness)
		if c != 0 && best(c, gone, func(c, g int32) float64 { return likeness(g, c) }) == g {
			to[g] = c
		}
	}
	return to
}

// surroundings are shares of a function's total by who calls it and by what it calls, itself (-1) included.
type surroundings struct {
	callers, callees map[int32]float64
	total            float64
}

func (j *judge) around(functions []int32) map[int32]*surroundings {
	out := map[int32]*surroundings{}
	for _, f := range functions {
		out[f] = &surroundings{callers: map[int32]float64{}, callees: map[int32]float64{}}
	}
	sum := func(values []float64) float64 {
		b, c := j.means(values)
		return b + c // one of them is 0
	}
	for i := 1; i < len(j.parent); i++ {
		node, p := int32(i), j.parent[i]
		if s := out[j.function[i]]; s != nil {
			s.callees[-1] += sum(j.at(j.self, node))
			if j.outermost[i] {
				s.callers[j.function[p]] += sum(j.at(j.total, node))
				s.total += sum(j.at(j.total, node))
			}
		}
		if s := out[j.function[p]]; s != nil && j.function[i] != j.function[p] {
			s.callees[j.function[i]] += sum(j.at(j.total, node))
		}
	}
	for _, s := range out {
		for _, m := range []map[int32]float64{s.callers, s.callees} {
			all := 0.0
			for _, f := range sortedKeys(m) {
				all += m[f]
			}
			for f := range m {
				m[f] /= all
			}
		}
	}
	return out
}

func sortedKeys(m map[int32]float64) []int32 { return slices.Sorted(maps.Keys(m)) }

// common is the share that two distributions have in common.
func common(a, b map[int32]float64) (sum float64) {
	for _, f := range sortedKeys(a) {
		sum += math.Min(a[f], b[f])
	}
	return sum
}

// Shares of unfinished stacks and of functions without names from which on they are worth a word: if that is how the sides
// differ, in percent points, and if there are so many.
const (
	unevenShare  = 0.01
	unnamedShare = 0.1
)

// warnings says what of the profiles cannot be compared.
func (j *judge) warnings() (out []string) {
	unfinished, unnamed := [2]float64{}, [2]float64{}
	for f := 1; f < len(j.functions); f++ {
		to, values := &unnamed, j.selfBy
		switch {
		case j.functions[f].Kind == profile.KindUnwind:
			to, values = &unfinished, j.totalBy
		case !isUnnamed(&j.functions[f]):
			continue
		}
		b, c := j.means(j.at(values, int32(f)))
		for i, v := range [2]float64{b, c} {
			if j.all[i] > 0 {
				to[i] += v / j.all[i]
			}
		}
	}
	if math.Abs(unfinished[1]-unfinished[0]) >= unevenShare {
		out = append(out, fmt.Sprintf("unfinished stacks are %s of the baseline and %s of the candidate: totals of callers that only one side shows cannot be compared",
			profile.FormatRatio(unfinished[0]), profile.FormatRatio(unfinished[1])))
	}
	if math.Abs(unnamed[1]-unnamed[0]) >= unevenShare || max(unnamed[0], unnamed[1]) >= unnamedShare {
		out = append(out, fmt.Sprintf("functions without names are %s of the baseline and %s of the candidate: another build has them at other addresses, so keep symbols or upload debug information",
			profile.FormatRatio(unnamed[0]), profile.FormatRatio(unnamed[1])))
	}
	return out
}

// isUnnamed says whether a function is called by its address.
func isUnnamed(f *Function) bool {
	return f.Name == "[unknown]" || strings.HasPrefix(f.Name, "0x") ||
		f.Mapping != "" && strings.HasPrefix(f.Name, path.Base(f.Mapping)+"+0x")
}
