package gate

import (
	"math"
	"math/rand/v2"
)

// relabelling is one way of saying which runs are the candidate's.
//
// Without pairs it lists the runs that are, of all; with pairs it has one entry per pair, true if its two runs change
// sides.
type relabelling struct {
	group   []int
	swapped []bool
}

// relabellings are those that a test looks at. The first is what was really run.
type relabellings struct {
	list   []relabelling
	exact  bool // they are all that there are
	paired bool
	n, m   int // runs of the baseline and of the candidate
}

// newRelabellings returns all relabellings of n runs and m runs, or, if there are more than most, so many of them at
// random. With what was really run among them, the share of those that are as extreme is an exact p-value in both cases:
// (b+1)/(B+1) in the words of Phipson and Smyth, Permutation P-values should never be zero, 2010.
func newRelabellings(n, m int, paired bool, most int, random *rand.Rand) *relabellings {
	r := &relabellings{paired: paired, n: n, m: m}
	r.exact = countRelabellings(n, m, paired) <= float64(most)
	switch {
	case paired && r.exact:
		for bits := range 1 << n {
			swapped := make([]bool, n)
			for i := range swapped {
				swapped[i] = bits>>i&1 == 1
			}
			r.list = append(r.list, relabelling{swapped: swapped})
		}
	case paired:
		r.list = append(r.list, relabelling{swapped: make([]bool, n)})
		for len(r.list) < most {
			swapped := make([]bool, n)
			for i := range swapped {
				swapped[i] = random.IntN(2) == 1
			}
			r.list = append(r.list, relabelling{swapped: swapped})
		}
	case r.exact:
		// From the last group, which is what was run, down in lexical order to the first.
		group := sequence(n, m)
		for {
			r.list = append(r.list, relabelling{group: append([]int(nil), group...)})
			if !previousGroup(group) {
				break
			}
		}
	default:
		r.list = append(r.list, relabelling{group: sequence(n, m)})
		for len(r.list) < most {
			r.list = append(r.list, relabelling{group: random.Perm(n + m)[:m]})
		}
	}
	return r
}

// sequence is the runs of the candidate, which come after the n of the baseline.
func sequence(n, m int) []int {
	s := make([]int, m)
	for i := range s {
		s[i] = n + i
	}
	return s
}

// previousGroup makes the next smaller one of an ascending group of numbers, false if it is the smallest.
func previousGroup(group []int) bool {
	for i := range group {
		if low := i - 1; i > 0 && group[i]-1 == group[low] || group[i] == 0 {
			continue
		}
		// The smallest that can be made less is; all below it become as large as they can.
		group[i]--
		for j := i - 1; j >= 0; j-- {
			group[j] = group[j+1] - 1
		}
		return true
	}
	return false
}

// countRelabellings says how many relabellings there are.
func countRelabellings(n, m int, paired bool) float64 {
	if paired {
		return math.Pow(2, float64(n))
	}
	all := 1.0
	for i := 1; i <= m; i++ {
		all *= float64(n+i) / float64(i)
	}
	return math.Round(all)
}

// runsFor is the smallest number of runs of each side with which a p-value can be as small as p.
func runsFor(p float64, paired bool) int {
	n := 2
	for countRelabellings(n, n, paired)*p < 1 {
		n++
	}
	return n
}
