package jit

import (
	"cmp"
	"container/heap"
	"slices"
	"syscall"
)

type unixStat = syscall.Stat_t

// merge brings what was read into m.entries: sorted, not overlapping, the later line above the earlier one.
func (m *Map) merge() {
	if len(m.fresh) == 0 {
		return
	}
	m.entries = flatten(append(m.entries, m.fresh...))
	m.fresh = nil
}

// flatten sweeps over the entries, whose position says their age, and keeps at each address the youngest.
func flatten(in []entry) []entry {
	order := make([]int, len(in))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(in[a].start, in[b].start), cmp.Compare(a, b))
	})
	out := make([]entry, 0, len(in))
	emit := func(lo, hi uint64, name string) {
		if lo >= hi {
			return
		}
		if n := len(out); n > 0 && out[n-1].end == lo && out[n-1].name == name {
			out[n-1].end = hi
			return
		}
		out = append(out, entry{lo, hi, name})
	}
	var open youngest // entries that have begun and may not have ended
	at := uint64(0)
	advance := func(to uint64) {
		for len(open) > 0 && at < to {
			e := in[open[0]]
			if e.end <= at {
				heap.Pop(&open)
				continue
			}
			hi := min(e.end, to)
			emit(at, hi, e.name)
			at = hi
		}
		at = max(at, to)
	}
	for _, i := range order {
		advance(in[i].start)
		heap.Push(&open, i)
	}
	advance(^uint64(0))
	return out
}

// youngest is a heap of positions, the largest first.
type youngest []int

func (h youngest) Len() int           { return len(h) }
func (h youngest) Less(i, j int) bool { return h[i] > h[j] }
func (h youngest) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *youngest) Push(x any)        { *h = append(*h, x.(int)) }
func (h *youngest) Pop() any {
	o := *h
	x := o[len(o)-1]
	*h = o[:len(o)-1]
	return x
}
