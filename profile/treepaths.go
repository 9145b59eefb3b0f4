package profile

import (
	"context"
	"math/rand/v2"
)

// paths are the stacks of a tree to be.
type paths struct {
	frames []uint32 // of all paths; 0 is in none
	list   []path
	poll   poll
}

// path is a stack from the root on, frames[at:end], and what ends there.
type path struct {
	at, end int
	shared  int // how many frames it has in common with the one before
	value   int64
}

// poll asks a context once in a while.
type poll struct {
	ctx   context.Context
	turns int
	over  bool
}

func (p *poll) ended() bool {
	if p.turns++; p.turns&pollMask == 0 && p.ctx.Err() != nil {
		p.over = true
	}
	return p.over
}

// key is the frame of a path at some depth, 0 at its end.
func (ps *paths) key(p *path, depth int) uint32 {
	if at := p.at + depth; at < p.end {
		return ps.frames[at]
	}
	return 0
}

// sort brings paths that are equal up to depth into order, by radix and quicksort (Bentley and Sedgewick, Fast
// algorithms for sorting and searching strings, 1997): each frame of a path that tells it from others is looked at
// about once, where a table of nodes looks up every frame.
func (ps *paths) sort(list []path, depth int) {
	for len(list) > fewPaths {
		if ps.poll.ended() {
			return
		}
		pivot := ps.pivot(list, depth)
		// list[:less] is below the pivot, list[more:] above it.
		less, more := 0, len(list)
		for i := 0; i < more; {
			switch k := ps.key(&list[i], depth); {
			case k < pivot:
				list[less], list[i] = list[i], list[less]
				less++
				i++
			case k > pivot:
				more--
				list[more], list[i] = list[i], list[more]
			default:
				i++
			}
		}
		ps.sort(list[:less], depth)
		ps.sort(list[more:], depth)
		if pivot == 0 {
			return // they end here: they are equal
		}
		list, depth = list[less:more], depth+1
	}
	for i := 1; i < len(list); i++ {
		for j := i; j > 0 && ps.less(&list[j], &list[j-1], depth); j-- {
			list[j], list[j-1] = list[j-1], list[j]
		}
	}
}

// fewPaths are sorted by insertion.
const fewPaths = 12

// pivot returns the median of three keys at random, so that nobody can send stacks that take the square of their
// number to sort. The order does not depend on it.
func (ps *paths) pivot(list []path, depth int) uint32 {
	var k [3]uint32
	for i := range k {
		k[i] = ps.key(&list[rand.IntN(len(list))], depth)
	}
	return max(min(k[0], k[1]), min(max(k[0], k[1]), k[2]))
}

func (ps *paths) less(a, b *path, depth int) bool {
	for ; ; depth++ {
		x, y := ps.key(a, depth), ps.key(b, depth)
		if x != y {
			return x < y
		}
		if x == 0 {
			return false
		}
	}
}

// lay makes nodes of sorted paths.
func (ps *paths) lay(t *Tree) {
	n, depth := 1, 0
	before := []uint32(nil)
	for i := range ps.list {
		p := &ps.list[i]
		now := ps.frames[p.at:p.end]
		for p.shared < len(now) && p.shared < len(before) && now[p.shared] == before[p.shared] {
			p.shared++
		}
		n += len(now) - p.shared
		depth = max(depth, len(now))
		before = now
	}
	t.Frame, t.Self, t.Total, t.End = make([]uint32, 1, n), make([]int64, n), make([]int64, n), make([]uint32, n)
	open := make([]uint32, 1, depth+1) // the nodes of the path before, the root first
	leave := func(to int) {
		for len(open) > to {
			node := open[len(open)-1]
			open = open[:len(open)-1]
			t.End[node] = uint32(len(t.Frame))
			t.Total[node] += t.Self[node]
			if len(open) > 0 {
				t.Total[open[len(open)-1]] += t.Total[node]
			}
		}
	}
	for i := range ps.list {
		p := &ps.list[i]
		leave(p.shared + 1)
		for _, f := range ps.frames[p.at+p.shared : p.end] {
			open = append(open, uint32(len(t.Frame)))
			t.Frame = append(t.Frame, f)
		}
		t.Self[open[len(open)-1]] += p.value
	}
	leave(0)
}
