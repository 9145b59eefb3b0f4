package gate

import (
	"context"
	"fmt"
	"hash/fnv"
	"math"
	"slices"

	"github.com/perfuse/perfuse/profile"
)

// Function is what tells one function from others.
type Function struct {
	Name    string
	File    string // source file, "" if unknown
	Mapping string // executable file, "" if unknown
	Kind    profile.Kind
}

// ledger is what every function and every call path cost in every run: the trees of all runs laid over each other.
// Node 0 is the root, a node's number is above its parent's.
type ledger struct {
	runs, n   int // runs, and how many of them are of the baseline, the first ones
	scales    []float64
	periods   []float64  // by run: what a sample counts, 0 if that is unknown
	functions []Function // 0 is everything
	lines     []int32    // by function: where it begins, 0 if unknown
	parent    []int32
	function  []int32   // by node
	self      []float64 // by node, then by run
	total     []float64

	// Made of these by sum.
	outermost       []bool    // by node: no node above it is of its function; of those that recur only these count
	first, next     []int32   // by node: its first child, its next sibling; 0 if none
	selfBy, totalBy []float64 // by function, then by run
}

// maxValues bounds the values of a ledger: call paths times runs. They take a GiB.
const maxValues = 1 << 26

// runLabel tells the runs of one side in the tree of all of them.
const runLabel = "run"

// newLedger reads the runs. Functions of the baseline that lie under another path in the candidate are matched
// ([profile.Align]), and allocators count for their callers if fold says so.
func newLedger(ctx context.Context, baseline, candidate []Run, fold bool) (*ledger, error) {
	var trees [2]*profile.Tree
	l := &ledger{n: len(baseline), runs: len(baseline) + len(candidate)}
	for i, runs := range [][]Run{baseline, candidate} {
		batches := make([]*profile.Batch, len(runs))
		for k, run := range runs {
			b := &profile.Batch{Dictionary: run.Batch.Dictionary, Profiles: slices.Clone(run.Batch.Profiles)}
			for j := range b.Profiles {
				b.Profiles[j].Labels = profile.NewLabels(profile.Label{Name: runLabel, Value: runName(k)})
			}
			batches[k] = b
			l.scales = append(l.scales, run.Scale)
			l.periods = append(l.periods, period(run.Batch))
		}
		var err error
		if trees[i], err = profile.GroupTree(ctx, profile.Merge(batches...), []string{runLabel}); err != nil {
			return nil, err
		}
	}
	trees[0] = profile.Align(trees[0], trees[1])
	in := &ledgerBuilder{ledger: l, functionAt: map[Function]int32{}, nodeAt: map[[2]int32]int32{}}
	in.addFunction(Function{Name: Everything, Kind: profile.KindRoot}, 0)
	in.addNode(-1, 0)
	for i, t := range trees {
		if fold {
			t = t.FoldAllocators()
		}
		for c := range t.Children(0) {
			at := 0
			if _, err := fmt.Sscanf(t.Name(c), runLabel+"=%d", &at); err != nil {
				return nil, fmt.Errorf("reading the tree of all runs: %q: %w", t.Name(c), err)
			}
			in.add(t, c, at+i*l.n)
			if len(l.self) > maxValues {
				return nil, fmt.Errorf("%w: %d call paths in %d runs so far", ErrTooLarge, len(l.parent), l.runs)
			}
		}
	}
	l.sum()
	return l, nil
}

// period is what a sample of CPU time counts in the batch's values.
func period(b *profile.Batch) float64 {
	if len(b.Profiles) == 0 || b.Profiles[0].Type.PeriodType != "cpu" {
		return 0
	}
	switch p := &b.Profiles[0]; p.Type.SampleType {
	case "samples":
		return 1
	case "cpu":
		return float64(p.Period)
	}
	return 0
}

// samples is how many samples a run has of what values are, in the mean; 0 if that is unknown.
func (l *ledger) samples(values []float64) (mean float64) {
	for r, v := range values {
		if l.periods[r] == 0 {
			return 0
		}
		mean += v / l.scales[r] / l.periods[r] / float64(l.runs)
	}
	return mean
}

func runName(i int) string { return fmt.Sprintf("%06d", i) }

// ledgerBuilder finds what a ledger has already.
type ledgerBuilder struct {
	*ledger
	functionAt map[Function]int32
	nodeAt     map[[2]int32]int32 // by parent and function
}

func (l *ledgerBuilder) addFunction(f Function, line int32) int32 {
	at, ok := l.functionAt[f]
	if !ok {
		at = int32(len(l.functions))
		l.functionAt[f] = at
		l.functions = append(l.functions, f)
		l.lines = append(l.lines, 0)
	}
	if line > 0 && (l.lines[at] == 0 || line < l.lines[at]) {
		l.lines[at] = line
	}
	return at
}

func (l *ledgerBuilder) addNode(parent, function int32) int32 {
	key := [2]int32{parent, function}
	at, ok := l.nodeAt[key]
	if !ok {
		at = int32(len(l.parent))
		l.nodeAt[key] = at
		l.parent = append(l.parent, parent)
		l.function = append(l.function, function)
		l.self = append(l.self, make([]float64, l.runs)...)
	}
	return at
}

// add lays the subtree below node top of t, which stands for a run, over what there is.
func (l *ledgerBuilder) add(t *profile.Tree, top uint32, run int) {
	functions := make([]int32, len(t.Frames))
	type open struct {
		end  uint32
		node int32
	}
	path := []open{{t.End[top], 0}}
	l.self[run] += float64(t.Self[top]) * l.scales[run]
	for i := top + 1; i < t.End[top]; i++ {
		for path[len(path)-1].end <= i {
			path = path[:len(path)-1]
		}
		f := t.Frame[i]
		if functions[f] == 0 {
			frame := t.Frames[f]
			functions[f] = l.addFunction(Function{t.Strings[frame.Name], t.Strings[frame.File], t.Strings[frame.Mapping], frame.Kind}, frame.StartLine)
		}
		node := l.addNode(path[len(path)-1].node, functions[f])
		l.self[int(node)*l.runs+run] += float64(t.Self[i]) * l.scales[run]
		path = append(path, open{t.End[i], node})
	}
}

// sum fills what is made of functions, parents and self values.
func (l *ledger) sum() {
	l.total = slices.Clone(l.self)
	l.first, l.next = make([]int32, len(l.parent)), make([]int32, len(l.parent))
	for i := len(l.parent) - 1; i > 0; i-- {
		p := l.parent[i]
		l.next[i], l.first[p] = l.first[p], int32(i)
		below, above := l.at(l.total, int32(i)), l.at(l.total, p)
		for r, v := range below {
			above[r] += v
		}
	}
	l.outermost = make([]bool, len(l.parent))
	l.selfBy, l.totalBy = make([]float64, len(l.functions)*l.runs), make([]float64, len(l.functions)*l.runs)
	add := func(to, values []float64) {
		for r, v := range values {
			to[r] += v
		}
	}
	for i := range l.parent {
		node, f := int32(i), l.function[i]
		l.outermost[i] = true
		for p := l.parent[i]; p >= 0 && l.outermost[i]; p = l.parent[p] {
			l.outermost[i] = l.function[p] != f
		}
		add(l.at(l.selfBy, f), l.at(l.self, node))
		if l.outermost[i] {
			add(l.at(l.totalBy, f), l.at(l.total, node))
		}
	}
}

// at is what values has of a node or function, by run.
func (l *ledger) at(values []float64, i int32) []float64 {
	return values[int(i)*l.runs : (int(i)+1)*l.runs]
}

// means returns the means of both sides.
func (l *ledger) means(values []float64) (baseline, candidate float64) {
	for _, v := range values[:l.n] {
		baseline += v / float64(l.n)
	}
	for _, v := range values[l.n:] {
		candidate += v / float64(l.runs-l.n)
	}
	return baseline, candidate
}

// rename makes one function of two.
func (l *ledger) rename(to map[int32]int32) {
	out := &ledgerBuilder{ledger: &ledger{runs: l.runs, n: l.n, scales: l.scales, periods: l.periods, functions: l.functions, lines: l.lines}, nodeAt: map[[2]int32]int32{}}
	nodes := make([]int32, len(l.parent))
	for i := range l.parent {
		parent, function := int32(-1), l.function[i]
		if i > 0 {
			parent = nodes[l.parent[i]]
		}
		if f, ok := to[function]; ok {
			function = f
		}
		nodes[i] = out.addNode(parent, function)
		self := out.at(out.self, nodes[i])
		for r, v := range l.at(l.self, int32(i)) {
			self[r] += v
		}
	}
	*l = *out.ledger
	l.sum()
}

// seed is made of the values: the same runs are judged with the same relabellings.
func (l *ledger) seed() uint64 {
	h := fnv.New64a()
	var b [8]byte
	for _, v := range l.total[:l.runs] {
		bits := math.Float64bits(v)
		for i := range b {
			b[i] = byte(bits >> (8 * i))
		}
		h.Write(b[:])
	}
	return h.Sum64()
}
