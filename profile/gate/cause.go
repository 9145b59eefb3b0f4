package gate

import (
	"cmp"
	"math"
	"slices"
)

// judgeRows says of every row what became of it. Causes come before what they cause: self values first, then totals, the
// innermost first, each without the growth of causes below it.
func (j *judge) judgeRows() {
	causes := causes{self: map[int32]bool{}, total: map[int32]bool{}}
	for i := range j.rows[1:] {
		r := &j.rows[i+1]
		switch {
		case j.share(&r.Total) < j.o.MinShare:
		case r.Total.Baseline == 0:
			j.setStatus(r, Added, r.Self.Candidate == 0)
			r.Causes = j.shrunkBeside(r)
		case r.Total.Candidate == 0:
			j.setStatus(r, Gone, r.Self.Baseline == 0)
		}
	}
	added := j.belowAdded()
	for i := range j.rows[1:] {
		r := &j.rows[i+1]
		if r.Status == Same && j.fails(&r.Self) {
			j.setStatus(r, Slower, false)
			if by := j.broughtBy(r.at, false, added); by != nil {
				r.Status, r.Causes = Because, by
			} else if from := j.movedFrom(r); from != nil {
				r.Status, r.Causes = Moved, from
			} else {
				causes.self[r.at] = true
			}
		}
	}
	for _, i := range j.inward() {
		r := &j.rows[i]
		if !j.fails(&r.Total) || r.Status == Moved || r.Status == Because {
			continue
		}
		if by := j.broughtBy(r.at, true, added); by != nil && r.Status == Same {
			j.setStatus(r, Because, true)
			r.Causes = by
			continue
		}
		own, below := j.without(r.at, causes)
		switch {
		case !j.limitExceeded(own):
			if r.Status == Same {
				j.setStatus(r, Because, true)
				r.Causes = below
			}
		case r.Status == Slower:
			causes.total[r.at] = true // what it calls became slower, too
		default:
			j.setStatus(r, Slower, true)
			r.own = own.Change()
			if from := j.callsMoved(r); from != nil {
				r.Status, r.Causes = Moved, from
				continue
			}
			r.Causes = j.addedBelow(r.at)
			causes.total[r.at] = true
		}
	}
	j.judgeRest()
}

// belowAdded says of every node which new function it is of or below, if the caller of that one costs more than the limit: what
// new code brings along counts for that caller. 0 if there is none.
func (j *judge) belowAdded() []int32 {
	added := make([]int32, len(j.parent))
	status := func(function int32) *Row {
		if at, ok := j.row[function]; ok {
			return &j.rows[at]
		}
		return nil
	}
	for i := 1; i < len(j.parent); i++ {
		p := j.parent[i]
		added[i] = added[p]
		if r := status(j.function[i]); added[i] == 0 && r != nil && r.Status == Added {
			if caller := status(j.function[p]); caller != nil && j.fails(&caller.Total) {
				added[i] = j.function[i]
			}
		}
	}
	return added
}

// broughtBy names the new functions without which a function's self value, or total, would not fail: only there it costs so much.
func (j *judge) broughtBy(function int32, byTotal bool, added []int32) []string {
	values, rest := j.self, make([]float64, j.runs)
	if byTotal {
		values = j.total
	}
	growth := map[int32]float64{}
	for i := range j.parent {
		if j.function[i] != function || byTotal && !j.outermost[i] {
			continue
		}
		at := j.at(values, int32(i))
		if added[i] != 0 {
			b, c := j.means(at)
			growth[added[i]] += c - b
			continue
		}
		for run, v := range at {
			rest[run] += v
		}
	}
	if len(growth) == 0 {
		return nil
	}
	c := Comparison{series: newSeries(rest, j.n)}
	if c.Baseline, c.Candidate = j.means(rest); c.Baseline+c.Candidate > 0 {
		j.fillInterval(&c)
		if j.limitExceeded(c) {
			return nil
		}
	}
	return j.largest(growth)
}

// judgeRest finds what is slower or faster for sure, and yet no regression. Of totals only what no other value explains.
func (j *judge) judgeRest() {
	slower := causes{self: map[int32]bool{}, total: map[int32]bool{}}
	faster := causes{self: map[int32]bool{}, total: map[int32]bool{}}
	for i := range j.rows[1:] {
		r := &j.rows[i+1]
		slower.self[r.at], faster.self[r.at] = j.found(&r.Self), j.foundFaster(&r.Self)
		slower.total[r.at] = r.Status == Slower && r.ByTotal
		switch {
		case r.Status != Same || j.share(&r.Self) < j.o.MinShare:
		case slower.self[r.at]:
			j.setStatus(r, j.slowness(&r.Self), false)
		case faster.self[r.at]:
			j.setStatus(r, Faster, false)
		}
	}
	for _, i := range j.inward() {
		r := &j.rows[i]
		if r.Status != Same || j.share(&r.Total) < j.o.MinShare {
			continue
		}
		if j.found(&r.Total) {
			if own, _ := j.without(r.at, slower); own.Low > 1 {
				j.setStatus(r, j.slowness(&r.Total), true)
				slower.total[r.at] = true
			}
		} else if j.foundFaster(&r.Total) {
			if own, _ := j.without(r.at, faster); own.High < 1 {
				j.setStatus(r, Faster, true)
				faster.total[r.at] = true
			}
		}
	}
	for i := range j.rows {
		if r := &j.rows[i]; r.Status == Same && r.Was != "" {
			j.setStatus(r, Renamed, !r.Self.Tested)
		}
	}
}

// slowness says which of those a value is that are slower and do not fail.
func (j *judge) slowness(c *Comparison) Status {
	if c.High > 1+j.o.MaxRegression {
		return Perhaps
	}
	return Within
}

func (j *judge) setStatus(r *Row, s Status, byTotal bool) {
	r.Status, r.ByTotal = s, byTotal
	c := r.Speaks()
	r.Share, r.own = j.share(c), c.Change()
	if !c.Bounded() && s != Added && s != Gone {
		j.fillInterval(c)
	}
}

// inward returns the rows in order of their totals, the smallest first; of equal ones the innermost.
func (j *judge) inward() []int {
	depth := make([]int, len(j.parent))
	deepest := make([]int, len(j.functions))
	for i := range j.parent {
		if p := j.parent[i]; p >= 0 {
			depth[i] = depth[p] + 1
		}
		deepest[j.function[i]] = max(deepest[j.function[i]], depth[i])
	}
	order := make([]int, len(j.rows))
	for i := range order {
		order[i] = i
	}
	sum := func(i int) float64 { return j.rows[i].Total.Baseline + j.rows[i].Total.Candidate }
	slices.SortStableFunc(order, func(a, b int) int {
		if x, y := sum(a), sum(b); math.Abs(x-y) > 1e-9*(x+y) {
			return cmp.Compare(x, y)
		}
		return cmp.Compare(deepest[j.rows[b].at], deepest[j.rows[a].at])
	})
	return order
}

// causes are functions that became slower by themselves (self) or by what they call (total).
type causes struct{ self, total map[int32]bool }

// without compares a function's total without the growth of the causes in it, and names these, the largest first.
func (j *judge) without(function int32, c causes) (own Comparison, names []string) {
	values := make([]float64, j.runs)
	removed := make([]float64, j.runs)
	growth := map[int32]float64{}
	remove := func(cause int32, values []float64) {
		for r, v := range values {
			removed[r] += v
		}
		b, a := j.means(values)
		growth[cause] += a - b
	}
	const outside, inside, taken = 0, 1, 2
	state := make([]uint8, len(j.parent))
	for i := range j.parent {
		node, f := int32(i), j.function[i]
		if p := j.parent[i]; p >= 0 {
			state[i] = state[p]
		}
		if state[i] == outside && f == function {
			state[i] = inside
			for r, v := range j.at(j.total, node) {
				values[r] += v
			}
		}
		switch {
		case state[i] != inside:
		case c.total[f] && f != function:
			state[i] = taken
			remove(f, j.at(j.total, node))
		case c.self[f]:
			remove(f, j.at(j.self, node))
		}
	}
	before, _ := j.means(removed)
	for r := range values {
		values[r] += before - removed[r]
	}
	own.series = newSeries(values, j.n)
	own.Baseline, own.Candidate = j.means(values)
	own.Ratio = own.series.ratio()
	j.fillInterval(&own)
	return own, j.largest(growth)
}

func (j *judge) limitExceeded(c Comparison) bool {
	return c.Low > 1+j.o.MaxRegression && j.share(&c) >= j.o.MinShare
}

// largest names the functions with values above 0, the largest first; those below a tenth of the sum are left out.
func (j *judge) largest(values map[int32]float64) (names []string) {
	var list []int32
	sum := 0.0
	for f, v := range values {
		if v > 0 {
			list = append(list, f)
			sum += v
		}
	}
	slices.SortFunc(list, func(a, b int32) int { return cmp.Or(cmp.Compare(values[b], values[a]), cmp.Compare(a, b)) })
	for _, f := range list {
		if values[f] >= sum/10 {
			names = append(names, j.functions[f].Name)
		}
	}
	return names
}

// beside returns, for every function that calls row's or is called by it, what that costs itself just there.
func (j *judge) beside(function int32) map[int32][]float64 {
	out := map[int32][]float64{}
	seen := make([]bool, len(j.parent))
	add := func(node int32) {
		f := j.function[node]
		if seen[node] || f == function || node == 0 {
			return
		}
		seen[node] = true
		if out[f] == nil {
			out[f] = make([]float64, j.runs)
		}
		for r, v := range j.at(j.self, node) {
			out[f][r] += v
		}
	}
	for i := 1; i < len(j.parent); i++ {
		if j.function[i] == function {
			add(j.parent[i])
		} else if j.function[j.parent[i]] == function {
			add(int32(i))
		}
	}
	return out
}

// shrunk returns the neighbours of a function that cost less for sure, with by how much; least is what counts.
func (j *judge) shrunk(function int32, least float64) (values map[int32][]float64, by map[int32]float64) {
	values, by = j.beside(function), map[int32]float64{}
	for f, v := range values {
		b, c := j.means(v)
		if b-c < least {
			delete(values, f)
			continue
		}
		if _, high := j.r.interval(newSeries(v, j.n), (1-j.o.Confidence)/2); high >= 1 {
			delete(values, f)
			continue
		}
		by[f] = b - c
	}
	return values, by
}

// movedFrom names the neighbours that a function's growth came from: its callers, or what it calls, cost less by about as
// much just there, so that all of them together are no regression. That is what inlining does, and its undoing.
func (j *judge) movedFrom(r *Row) []string {
	values, by := j.shrunk(r.at, r.Self.Change()/10)
	if len(by) == 0 {
		return nil
	}
	together := make([]float64, j.runs)
	for i, x := range r.Self.series.x {
		together[i] = x * r.Self.series.mean
	}
	for f := range values {
		for i, v := range values[f] {
			together[i] += v
		}
	}
	c := Comparison{series: newSeries(together, j.n)}
	c.Baseline, c.Candidate = j.means(together)
	j.fillInterval(&c)
	if j.limitExceeded(c) || c.Change() > r.Self.Change()/2 {
		return nil
	}
	return j.largest(by)
}

// shrunkBeside names the neighbours that a new function may have come from.
func (j *judge) shrunkBeside(r *Row) []string {
	_, by := j.shrunk(r.at, r.Total.Change()/10)
	return j.largest(by)
}

// callsMoved names the functions that row's function calls more, of which there is not more in all: others call them less.
// The total of whoever calls all of these says whether that is too much.
func (j *judge) callsMoved(r *Row) []string {
	calls := map[int32][]float64{}
	for i := 1; i < len(j.parent); i++ {
		if p := j.parent[i]; j.function[p] == r.at && j.outermost[i] {
			f := j.function[i]
			if calls[f] == nil {
				calls[f] = make([]float64, j.runs)
			}
			for run, v := range j.at(j.total, int32(i)) {
				calls[f][run] += v
			}
		}
	}
	moved, by := 0.0, map[int32]float64{}
	for f, values := range calls {
		b, c := j.means(values)
		before, after := j.means(j.at(j.totalBy, f))
		if c-b > 0 && after-before <= (c-b)/2 {
			moved += c - b
			by[f] = c - b
		}
	}
	if moved < r.Total.Change()/2 {
		return nil
	}
	return j.largest(by)
}

// addedBelow names the functions below one that only the candidate has.
func (j *judge) addedBelow(function int32) []string {
	growth := map[int32]float64{}
	inside := make([]bool, len(j.parent))
	for i := 1; i < len(j.parent); i++ {
		inside[i] = inside[j.parent[i]] || j.function[j.parent[i]] == function
		if row, ok := j.row[j.function[i]]; ok && inside[i] && j.rows[row].Status == Added {
			_, c := j.means(j.at(j.self, int32(i)))
			growth[j.function[i]] += c
		}
	}
	return j.largest(growth)
}

// sortRows brings the causes of regressions first, by how much slower they became; everything is last of these.
func sortRows(rows []Row) {
	slices.SortStableFunc(rows, func(a, b Row) int {
		everything := func(r *Row) int {
			if r.at == 0 {
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(a.Status, b.Status), cmp.Compare(everything(&a), everything(&b)),
			cmp.Compare(math.Abs(b.own), math.Abs(a.own)), cmp.Compare(a.Name, b.Name), cmp.Compare(a.at, b.at))
	})
}

// mostPaths are shown of one function.
const mostPaths = 3

// paths returns where a function changed most, of paths with a tenth of its change at least.
func (j *judge) paths(r *Row) (out []Path) {
	sign := 1.0
	if r.own < 0 {
		sign = -1
	}
	values := j.self
	if r.ByTotal {
		values = j.total
	}
	change := func(node int32) float64 {
		b, c := j.means(j.at(values, node))
		return sign * (c - b)
	}
	var nodes []int32
	sum := 0.0
	for i := range j.parent {
		if node := int32(i); j.function[i] == r.at && (!r.ByTotal || j.outermost[i]) && change(node) > 0 {
			nodes = append(nodes, node)
			sum += change(node)
		}
	}
	slices.SortStableFunc(nodes, func(a, b int32) int { return cmp.Compare(change(b), change(a)) })
	for _, node := range nodes {
		if len(out) == mostPaths || change(node) < sum/10 {
			break
		}
		p := Path{}
		p.Baseline, p.Candidate = j.means(j.at(values, node))
		for n := node; n > 0; n = j.parent[n] {
			p.Functions = append(p.Functions, j.functions[j.function[n]].Name)
		}
		slices.Reverse(p.Functions)
		if r.ByTotal {
			p.Functions = append(p.Functions, j.below(node, change)...)
		}
		out = append(out, p)
	}
	return out
}

// below follows a change down as long as one call has more than half of it.
func (j *judge) below(node int32, change func(int32) float64) (names []string) {
	all := change(node)
	for {
		next := j.first[node]
		for next != 0 && change(next) <= all/2 {
			next = j.next[next]
		}
		if next == 0 {
			return names
		}
		names = append(names, j.functions[j.function[next]].Name)
		node = next
	}
}
