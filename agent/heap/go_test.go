package heap

import (
	"reflect"
	"testing"

	"github.com/perfuse/perfuse/agent/heap/goheap"
)

// TestSince: what is told as allocated is what was allocated between two looks, and all of it if the program began under our eyes.
func TestSince(t *testing.T) {
	// A rate of 1 is no sampling: nothing is scaled.
	look := func(flags string, bytes ...int64) *goheap.Profile {
		p := &goheap.Profile{Rate: 1, Complete: true}
		for _, f := range flags {
			switch f {
			case 'a':
				p.Anew = true
			case 'e':
				p.Early = true
			case 'i':
				p.Complete = false
			}
		}
		for i, n := range bytes {
			if n > 0 { // 0: it is not in the profile
				p.Buckets = append(p.Buckets, goheap.Bucket{Addr: uint64(0x1000 * (i + 1)), Size: 1, Allocs: n, AllocBytes: n})
			}
		}
		return p
	}
	for _, c := range []struct {
		name  string
		whole bool
		looks []*goheap.Profile
		want  [][]int64
	}{
		{"ran before", false, []*goheap.Profile{look("a", 100, 10), look("", 103, 10)}, [][]int64{{0, 0}, {3, 0}}},
		{"began under our eyes", true, []*goheap.Profile{look("a", 100), look("", 103)}, [][]int64{{100}, {3}}},
		{"a new bucket", false, []*goheap.Profile{look("a", 100), look("", 100, 7), look("", 100, 9)}, [][]int64{{0}, {0, 7}, {0, 2}}},
		{"early", true, []*goheap.Profile{look("ae", 100), look("e", 120), look("", 110)}, [][]int64{{0}, {0}, {110}}},
		{"ran before, early", false, []*goheap.Profile{look("ae", 100), look("", 110), look("", 111)}, [][]int64{{0}, {0}, {1}}},
		{"the first look lacks a bucket", false, []*goheap.Profile{look("ai", 100), look("", 100, 50), look("", 100, 51)}, [][]int64{{0}, {0, 0}, {0, 1}}},
		{"the same under our eyes", true, []*goheap.Profile{look("ai", 100), look("", 100, 50)}, [][]int64{{100}, {0, 50}}},
		{"a later look lacks a bucket", false, []*goheap.Profile{look("a", 100, 50), look("i", 100), look("", 100, 53)}, [][]int64{{0, 0}, {0}, {0, 3}}},
		{"the reader begins anew", true, []*goheap.Profile{look("a", 100), look("a", 105), look("", 106)}, [][]int64{{100}, {0}, {1}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := &goProcess{whole: c.whole}
			var got [][]int64
			for _, p := range c.looks {
				var row []int64
				for _, a := range g.since(p) {
					if a.objects != a.bytes {
						t.Errorf("%d objects of one byte have %d bytes", a.objects, a.bytes)
					}
					row = append(row, a.bytes)
				}
				got = append(got, row)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// TestLevels: what lacks buckets is not told as freed memory, but for ever nothing is no answer either.
func TestLevels(t *testing.T) {
	g := &goProcess{}
	for i, complete := range []bool{true, false, false, false, false, false, true, false} {
		want := complete || i == 5
		if got := g.levels(&goheap.Profile{Complete: complete}); got != want {
			t.Errorf("look %d: %v, want %v", i, got, want)
		}
	}
}
