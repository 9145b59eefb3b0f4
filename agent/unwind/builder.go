package unwind

import (
	"cmp"
	"container/heap"
	"debug/elf"
	"errors"
	"slices"

	"github.com/perfuse/perfuse/profile"
)

// maxRows bounds a table: 8 M rows are 128 MB, eight times what libLLVM has.
const maxRows = 8 << 20

var errTooLarge = errors.New("more than 8388608 rows of unwind information")

// builder collects functions in any order and makes a table of them.
type builder struct {
	spans []span
	steps []step
	ids   map[Rule]uint32
	rules []Rule
	cache [256]uint32 // the rules that were asked for last, by hash
	seq   uint32
	stats Stats
}

// span is a function: its addresses and its part of builder.steps.
type span struct {
	start, end uint64
	seq        uint32 // of two functions at one address the lower one wins
	first, n   uint32
}

// step is a row relative to its function.
type step struct{ off, rule uint32 }

func newBuilder() *builder {
	return &builder{ids: map[Rule]uint32{NoInfo: 0}, rules: []Rule{NoInfo}, seq: 1}
}

// expect makes room for what a section of so many bytes is likely to hold.
func (b *builder) expect(bytes uint64) {
	if b.steps == nil {
		// At most what libLLVM needs, 12 MB: the section may be shorter than it says.
		b.steps = make([]step, 0, min(bytes/6, 1<<20)+64)
		b.spans = make([]span, 0, min(bytes/48, 1<<17)+64)
	}
}

func (b *builder) rule(r Rule) uint32 {
	slot := &b.cache[uint8(uint32(r.Offset)>>3+uint32(r.Offset)>>11+uint32(r.FPOff)*5+uint32(r.CFA)*37+uint32(r.Reg)*67)]
	if b.rules[*slot] == r {
		return *slot
	}
	id, ok := b.ids[r]
	if !ok {
		id = uint32(len(b.rules))
		b.rules = append(b.rules, r)
		b.ids[r] = id
	}
	*slot = id
	return id
}

// begin starts a function. Its rows follow by add, then end.
func (b *builder) begin(start, end uint64) {
	b.spans = append(b.spans, span{start: start, end: end, seq: b.seq, first: uint32(len(b.steps))})
	b.seq++
}

// add gives the function a row from off on. Offsets never fall; a row at the offset of the one before
// replaces it.
func (b *builder) add(off uint32, r Rule) {
	id := b.rule(r)
	s := &b.spans[len(b.spans)-1]
	if n := len(b.steps); uint32(n) > s.first {
		p := &b.steps[n-1]
		if p.off == off {
			p.rule = id
			return
		}
		if p.rule == id {
			return
		}
	}
	b.steps = append(b.steps, step{off, id})
}

func (b *builder) end() error {
	s := &b.spans[len(b.spans)-1]
	s.n = uint32(len(b.steps)) - s.first
	if len(b.steps) > maxRows {
		return errTooLarge
	}
	return nil
}

// table sorts and joins what was collected. The builder is spent then.
func (b *builder) table(m elf.Machine) *Table {
	t := &Table{Machine: m, Rules: b.rules, Stats: b.stats}
	t.Stats.Functions = len(b.spans)
	byStart := func(x, y span) int {
		if c := cmp.Compare(x.start, y.start); c != 0 {
			return c
		}
		return cmp.Compare(x.seq, y.seq)
	}
	if !slices.IsSortedFunc(b.spans, byStart) {
		slices.SortFunc(b.spans, byStart)
	}
	e := emitter{b: b, rows: make([]Row, 0, len(b.steps)+len(b.steps)/4+16)}
	disjoint := true
	for i := 1; i < len(b.spans); i++ {
		if b.spans[i].start < b.spans[i-1].end {
			disjoint = false
			break
		}
	}
	if disjoint {
		for i := range b.spans {
			e.piece(&b.spans[i], b.spans[i].start, b.spans[i].end)
		}
	} else {
		t.Stats.Shadowed = e.overlapping(b.spans)
	}
	t.Rows, t.Rules, t.Stats.LostRules = e.finish()
	return t
}

// emitter writes rows in the order of addresses. Rules are wider here than in the table.
type emitter struct {
	b    *builder
	rows []Row
	wide []uint32 // the rules of rows, once one does not fit into 16 bits
	end  uint64   // of the last piece
}

func (e *emitter) row(addr uint64, rule uint32) {
	if n := len(e.rows); n > 0 && e.rows[n-1].Addr == profile.Addr(addr) {
		e.rows = e.rows[:n-1]
		if e.wide != nil {
			e.wide = e.wide[:n-1]
		}
	}
	if n := len(e.rows); n > 0 {
		last := uint32(e.rows[n-1].Rule)
		if e.wide != nil {
			last = e.wide[n-1]
		}
		if last == rule {
			return
		}
	} else if rule == 0 {
		return
	}
	if rule > 0xffff && e.wide == nil {
		e.wide = make([]uint32, len(e.rows), cap(e.rows))
		for i, r := range e.rows {
			e.wide[i] = uint32(r.Rule)
		}
	}
	e.rows = append(e.rows, Row{profile.Addr(addr), uint16(rule)})
	if e.wide != nil {
		e.wide = append(e.wide, rule)
	}
}

// piece writes the part of a function that lies between from and to.
func (e *emitter) piece(s *span, from, to uint64) {
	if from > e.end && e.end != 0 {
		e.row(e.end, 0)
	}
	steps := e.b.steps[s.first : s.first+s.n]
	skip := 0
	if from > s.start {
		d := uint32(from - s.start)
		skip, _ = slices.BinarySearchFunc(steps, d, func(x step, d uint32) int {
			if x.off <= d {
				return -1
			}
			return 1
		})
		if skip == 0 {
			e.row(from, 0)
		} else {
			e.row(from, steps[skip-1].rule)
		}
	} else if len(steps) == 0 || steps[0].off != 0 {
		e.row(from, 0)
	}
	for _, x := range steps[skip:] {
		a := s.start + uint64(x.off)
		if a >= to {
			break
		}
		e.row(a, x.rule)
	}
	e.end = to
}

// overlapping writes functions that overlap: at each address the one with the lowest sequence number. It
// returns how many did not show at all.
func (e *emitter) overlapping(spans []span) (shadowed int) {
	active := bySeq{spans: spans}
	seen := make([]bool, len(spans))
	next, at := 0, uint64(0)
	for next < len(spans) || len(active.heap) > 0 {
		for len(active.heap) > 0 && spans[active.heap[0]].end <= at {
			heap.Pop(&active)
		}
		if len(active.heap) == 0 {
			if next == len(spans) {
				break
			}
			at = max(at, spans[next].start)
		}
		for next < len(spans) && spans[next].start <= at {
			heap.Push(&active, next)
			next++
		}
		top := active.heap[0]
		if spans[top].end <= at {
			continue
		}
		// The top holds until it ends, or until one with a lower number begins.
		to, n := spans[top].end, next
		for n < len(spans) && spans[n].start < to {
			if spans[n].seq < spans[top].seq {
				to = spans[n].start
				break
			}
			heap.Push(&active, n)
			n++
		}
		next = n
		e.piece(&spans[top], at, to)
		seen[top] = true
		at = to
	}
	for _, s := range seen {
		if !s {
			shadowed++
		}
	}
	return shadowed
}

// bySeq is a heap of indices into spans.
type bySeq struct {
	spans []span
	heap  []int
}

func (h *bySeq) Len() int           { return len(h.heap) }
func (h *bySeq) Less(i, j int) bool { return h.spans[h.heap[i]].seq < h.spans[h.heap[j]].seq }
func (h *bySeq) Swap(i, j int)      { h.heap[i], h.heap[j] = h.heap[j], h.heap[i] }
func (h *bySeq) Push(x any)         { h.heap = append(h.heap, x.(int)) }
func (h *bySeq) Pop() any {
	x := h.heap[len(h.heap)-1]
	h.heap = h.heap[:len(h.heap)-1]
	return x
}

// finish closes the table, and brings the rules down to what 16 bits can name.
func (e *emitter) finish() (rows []Row, rules []Rule, lost int) {
	if len(e.rows) > 0 {
		e.row(e.end, 0)
	}
	const most = 1 << 16
	if e.wide == nil {
		return e.rows, e.b.rules, 0
	}
	uses := make([]uint32, len(e.b.rules))
	for _, r := range e.wide {
		uses[r]++
	}
	order := make([]uint32, 0, len(uses))
	for i := 1; i < len(uses); i++ {
		if uses[i] > 0 {
			order = append(order, uint32(i))
		}
	}
	slices.SortStableFunc(order, func(x, y uint32) int { return cmp.Compare(uses[y], uses[x]) })
	unsupported := Rule{CFA: CFAUnsupported}
	to := make([]uint16, len(uses))
	rules = append(rules, NoInfo, unsupported)
	for _, r := range order {
		switch {
		case e.b.rules[r] == unsupported:
			to[r] = 1
		case len(rules) < most:
			to[r] = uint16(len(rules))
			rules = append(rules, e.b.rules[r])
		default:
			to[r] = 1
			lost++
		}
	}
	rows = e.rows[:0]
	for i, r := range e.wide {
		if n := len(rows); n > 0 && rows[n-1].Rule == to[r] {
			continue
		}
		rows = append(rows, Row{e.rows[i].Addr, to[r]})
	}
	return rows, rules, lost
}
