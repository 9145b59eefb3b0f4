package pyroscope

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perfuse/perfuse/profile"
)

// TestLevels draws random trees of one side and of two, with functions of equal names in different files, cut to
// every size, and reads the bars again: nothing is lost, the largest nodes are there, no more than asked for and
// one "other" below each of them.
func TestLevels(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		left, right := randomTree(t, r, 200), randomTree(t, r, 120)
		for _, most := range []int64{-1, 0, 1, 2, 3, 10, 50, 1 << 40} {
			for _, sides := range []int{1, 2} {
				name := fmt.Sprintf("seed %d, %d nodes, %d sides", seed, most, sides)
				draw := func() *graph {
					if sides == 2 {
						return double(left, right)
					}
					return single(left)
				}
				whole, g := draw(), draw()
				g.fold(most)
				want, got := sums(whole), readBars(t, name, g)
				others := 0
				for path, v := range got {
					if strings.HasSuffix(path, ";"+otherName) {
						others++
						continue
					}
					if want[path] != v {
						t.Errorf("%s: %s is %v, want %v", name, path, v, want[path])
					}
				}
				if int64(len(got)) != g.size() {
					t.Errorf("%s: %d bars of %d nodes", name, len(got), g.size())
				}
				if most < 0 || most >= int64(len(want)) {
					if len(got) != len(want) {
						t.Errorf("%s: %d bars, want all %d", name, len(got), len(want))
					}
					continue
				}
				if most == 0 {
					continue
				}
				// Leaves that were not worth folding are extra, one below a node at most, as others are.
				if kept := int64(len(got) - others); kept > 2*most || int64(len(got)) > 2*most+1 {
					t.Errorf("%s: %d bars and %d others", name, kept, others)
				}
				var weights []int64
				for _, v := range want {
					weights = append(weights, v[0]+v[1])
				}
				slices.Sort(weights)
				for path, v := range want {
					if _, ok := got[path]; !ok && v[0]+v[1] > weights[int64(len(weights))-most] {
						t.Errorf("%s: %s is missing, one of the largest", name, path)
					}
				}
			}
		}
	}
}

// randomTree has n stacks of functions of few names, each in one of two files.
func randomTree(t *testing.T, r *rand.Rand, n int) *profile.Tree {
	t.Helper()
	b := &profile.Batch{Dictionary: profile.NewDictionary(), Profiles: []profile.Profile{{Type: profile.TypeCPU}}}
	d := b.Dictionary
	for range n {
		var s profile.Stack
		for range r.IntN(7) {
			f := d.Function(profile.Function{Name: string(rune('a' + r.IntN(6))), File: fmt.Sprint(r.IntN(2))})
			s = append(s, d.Frame(profile.Frame{Lines: []profile.Line{{Function: f}}}))
		}
		b.Profiles[0].Samples = append(b.Profiles[0].Samples, profile.Sample{Stack: d.Stack(s), Value: r.Int64N(1000) + 1})
	}
	return profile.NewTree(b, &b.Profiles[0])
}

// sums returns the totals by path.
func sums(g *graph) map[string][2]int64 {
	out := map[string][2]int64{}
	var walk func(i int32, path string)
	walk = func(i int32, path string) {
		n := &g.nodes[i]
		path += ";" + n.name
		out[path] = n.total
		for c := n.child; c != 0; c = g.nodes[c].next {
			walk(c, path)
		}
	}
	walk(0, "")
	return out
}

// readBars returns the totals by path of the bars that a graph is written as, and checks that they fit: each lies
// above its parent, beside its siblings, and what children leave over is the parent's own.
func readBars(t *testing.T, name string, g *graph) map[string][2]int64 {
	t.Helper()
	type bar struct {
		path         string
		at, end, own [2]int64
	}
	names, levels, _ := g.levels()
	out := map[string][2]int64{}
	above := []*bar{{at: [2]int64{}, end: g.nodes[0].total}}
	for level, l := range levels {
		var here []*bar
		var end [2]int64
		parent := 0
		for v := range slices.Chunk(l.Values, 3*g.sides+1) {
			b := &bar{}
			total := [2]int64{}
			for side := range g.sides {
				b.at[side] = end[side] + v[3*side]
				total[side] = v[3*side+1]
				b.own[side] = total[side]
				end[side] = b.at[side] + total[side]
				if v[3*side] < 0 || v[3*side+2] > total[side] {
					t.Fatalf("%s: level %d: %v", name, level, v)
				}
			}
			b.end = end
			outside := func(p *bar) bool {
				for side := range g.sides {
					if b.at[side] < p.at[side] || b.end[side] > p.end[side] {
						return true
					}
				}
				return false
			}
			for parent < len(above) && outside(above[parent]) {
				parent++
			}
			if parent == len(above) {
				t.Fatalf("%s: level %d: nothing below %v", name, level, v)
			}
			b.path = above[parent].path + ";" + names[v[3*g.sides]]
			for side := range g.sides {
				above[parent].own[side] -= total[side]
			}
			if _, twice := out[b.path]; twice {
				t.Fatalf("%s: %s is there twice", name, b.path)
			}
			out[b.path] = total
			here = append(here, b)
		}
		if level > 0 {
			at := 0
			for v := range slices.Chunk(levels[level-1].Values, 3*g.sides+1) {
				for side := range g.sides {
					if own := above[at].own[side]; own != v[3*side+2] {
						t.Fatalf("%s: %s has %d for itself, its children leave %d", name, above[at].path, v[3*side+2], own)
					}
				}
				at++
			}
		}
		above = here
	}
	return out
}

func TestParseTime(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	f := func(text string, want time.Time) {
		t.Helper()
		if got, err := parseTime(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q is %s, %v, want %s", text, got, err, want)
		}
	}
	f("now", now)
	f("now-1h", now.Add(-time.Hour))
	f("now-90min", now.Add(-90*time.Minute))
	f("now-7d", now.Add(-7*24*time.Hour))
	f("now+30s", now.Add(30*time.Second))
	f("0", time.Unix(0, 0))
	f("1700000000", now)
	f("1700000000000", now)
	f("1700000000000000", now)
	f("1700000000000000000", now)
	f("2023-11-14T22:13:20Z", now)
	for _, text := range []string{"", "nowadays", "now-", "now-h", "now-1", "now1h", "now-1x", "now-1h1m", "-1", "1.5", "now-99999999999h", "now-999y", "tomorrow"} {
		if got, err := parseTime(text, now); err == nil {
			t.Errorf("%q is %s, want an error", text, got)
		}
	}
}
