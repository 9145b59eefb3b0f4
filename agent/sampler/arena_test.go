package sampler

import (
	"math/rand/v2"
	"testing"
	"time"
)

// TestArena compares with a naive model: a slice that remembers the owner of each index.
func TestArena(t *testing.T) {
	const size = 1000
	rng := rand.New(rand.NewPCG(1, 2))
	a := newArena(size)
	owner := make([]int, size)
	live := map[int]span{}
	now := time.Unix(0, 0)
	for id := 1; id < 20000; id++ {
		now = now.Add(time.Duration(rng.IntN(300)) * time.Millisecond)
		if rng.IntN(2) == 0 {
			for k, s := range live {
				for i := s.first; i < s.first+s.count; i++ {
					if owner[i] != k {
						t.Fatalf("index %d of span %v is owned by %d", i, s, owner[i])
					}
					owner[i] = 0
				}
				a.release(s, now)
				delete(live, k)
				break
			}
			continue
		}
		s, ok := a.alloc(uint32(1+rng.IntN(60)), now)
		if !ok {
			continue
		}
		live[id] = s
		for i := s.first; i < s.first+s.count; i++ {
			if owner[i] != 0 {
				t.Fatalf("index %d is handed out twice: %d and %d", i, owner[i], id)
			}
			owner[i] = id
		}
	}
	for _, s := range live {
		a.release(s, now)
	}
	a.settle(now.Add(2 * grace))
	if len(a.free) != 1 || a.free[0] != (span{0, size}) || a.used != 0 {
		t.Errorf("after all is given back: free %v, used %d", a.free, a.used)
	}
}

func TestArenaRests(t *testing.T) {
	now := time.Unix(0, 0)
	a := newArena(10)
	s, _ := a.alloc(10, now)
	a.release(s, now)
	if _, ok := a.alloc(1, now.Add(grace-1)); ok {
		t.Error("a span is reused within the grace period")
	}
	if _, ok := a.alloc(10, now.Add(grace)); !ok {
		t.Error("a span is not reused after the grace period")
	}
}
