package sampler

import (
	"slices"
	"time"
)

// arena hands out spans of the indices of a kernel array, first fit, and joins what is given back. A span
// that the kernel side may still be reading rests for a grace period before it is used again.
type arena struct {
	free    []span // sorted by start, not adjacent
	resting []restingSpan
	used    uint32
}

type span struct{ first, count uint32 }

type restingSpan struct {
	span
	until time.Time
}

// grace is far beyond the time that one sample takes.
const grace = time.Second

func newArena(size uint32) *arena { return &arena{free: []span{{0, size}}} }

// alloc returns a span of n > 0 indices, or false if there is none.
func (a *arena) alloc(n uint32, now time.Time) (span, bool) {
	a.settle(now)
	for i, f := range a.free {
		if f.count < n {
			continue
		}
		got := span{f.first, n}
		if f.count == n {
			a.free = slices.Delete(a.free, i, i+1)
		} else {
			a.free[i] = span{f.first + n, f.count - n}
		}
		a.used += n
		return got, true
	}
	return span{}, false
}

// release gives s back once the grace period is over.
func (a *arena) release(s span, now time.Time) {
	if s.count > 0 {
		a.resting = append(a.resting, restingSpan{s, now.Add(grace)})
	}
}

func (a *arena) settle(now time.Time) {
	n := 0
	for n < len(a.resting) && !now.Before(a.resting[n].until) {
		a.join(a.resting[n].span)
		n++
	}
	a.resting = slices.Delete(a.resting, 0, n)
}

func (a *arena) join(s span) {
	a.used -= s.count
	i, _ := slices.BinarySearchFunc(a.free, s, func(f, s span) int { return int(int64(f.first) - int64(s.first)) })
	a.free = slices.Insert(a.free, i, s)
	if i+1 < len(a.free) && s.first+s.count == a.free[i+1].first {
		a.free[i].count += a.free[i+1].count
		a.free = slices.Delete(a.free, i+1, i+2)
	}
	if i > 0 && a.free[i-1].first+a.free[i-1].count == a.free[i].first {
		a.free[i-1].count += a.free[i].count
		a.free = slices.Delete(a.free, i, i+1)
	}
}
