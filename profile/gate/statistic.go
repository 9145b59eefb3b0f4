package gate

import (
	"cmp"
	"math"
	"slices"
)

// errorFloor is added to the standard error of a difference, as a share of the mean: functions whose runs agree to that, as
// allocations do, are certain and not infinitely so, and one whose few runs agree by chance does not outweigh all others
// (the constant s0 of Tusher, Tibshirani and Chu, Significance analysis of microarrays, 2001).
//
// Sampled CPU time has a noise that is known, the root of the number of samples: samplingFloor of it is added. Without, the
// largest of a hundred statistics is that of a function whose few runs agree by chance: of recorded runs, six pairs would
// show a change of 12 % in everything, and show one of 6 % with it (bench/gate).
const (
	errorFloor    = 0.001
	samplingFloor = 0.5
)

// floorOf is what is added to the standard error of a function that has so many samples a run, a share of all of them, of n and m runs.
func floorOf(samples, share float64, n, m int) float64 {
	if samples <= 0 {
		return errorFloor
	}
	return errorFloor + samplingFloor*math.Sqrt((1-share)/samples*(1/float64(n)+1/float64(m)))
}

// sums are of the runs that a relabelling gives to the candidate: those of the baseline and those of the candidate apart,
// so that the statistic is known for a candidate that is divided by whatever. With pairs they are signed.
type sums struct{ b, c, bb, cc float64 }

// series is a value by run, those of the baseline first, in shares of its mean.
type series struct {
	x     []float64
	n     int // runs of the baseline
	mean  float64
	floor float64 // of the standard error
	all   sums
	bc    float64 // of pairs, the products
}

func newSeries(values []float64, n int) *series {
	s := &series{x: make([]float64, len(values)), n: n, floor: errorFloor}
	for _, v := range values {
		s.mean += v / float64(len(values))
	}
	if s.mean == 0 {
		return s
	}
	for i, v := range values {
		s.x[i] = v / s.mean
	}
	s.all = s.sum(0, len(values))
	for i := 0; i < n && n+i < len(values); i++ {
		s.bc += s.x[i] * s.x[n+i]
	}
	return s
}

func (s *series) sum(from, to int) (t sums) {
	for i := from; i < to; i++ {
		if v := s.x[i]; i < s.n {
			t.b += v
			t.bb += v * v
		} else {
			t.c += v
			t.cc += v * v
		}
	}
	return t
}

// of returns the sums of a relabelling.
func (s *series) of(r *relabelling) (t sums) {
	if r.swapped != nil {
		for i, swapped := range r.swapped {
			if swapped {
				t.b -= s.x[i]
				t.c -= s.x[s.n+i]
			} else {
				t.b += s.x[i]
				t.c += s.x[s.n+i]
			}
		}
		return t
	}
	for _, i := range r.group {
		if v := s.x[i]; i < s.n {
			t.b += v
			t.bb += v * v
		} else {
			t.c += v
			t.cc += v * v
		}
	}
	return t
}

// statistic is how many standard errors the candidate is above the baseline under a relabelling, once the candidate's runs are
// divided by ratio. The error is each side's own (Welch's), with which a permutation test holds its level also where
// the sides vary differently (Janssen, Studentized permutation tests for non-i.i.d. hypotheses, 1997).
func (s *series) statistic(t sums, ratio float64, paired bool) float64 {
	floor := s.floor * (s.all.b + s.all.c/ratio) / float64(len(s.x))
	if paired {
		n := float64(s.n)
		sum := t.c/ratio - t.b
		squares := s.all.cc/(ratio*ratio) - 2*s.bc/ratio + s.all.bb
		spread := max(0, squares-sum*sum/n) / (n - 1)
		return quotient(sum/n, math.Sqrt(spread/n)+floor)
	}
	n, m := float64(s.n), float64(len(s.x)-s.n)
	sum, squares := t.b+t.c/ratio, t.bb+t.cc/(ratio*ratio)
	rest, restSquares := s.all.b+s.all.c/ratio-sum, s.all.bb+s.all.cc/(ratio*ratio)-squares
	spread := max(0, squares-sum*sum/m)/(m-1)/m + max(0, restSquares-rest*rest/n)/(n-1)/n
	return quotient(sum/m-rest/n, math.Sqrt(spread)+floor)
}

func quotient(difference, by float64) float64 {
	if by <= 0 {
		return 0 // there is nothing of it anywhere
	}
	return difference / by
}

// tie is how far below another a statistic may be and yet be equal to it, by rounding.
func tie(t float64) float64 { return t - 1e-9*(1+math.Abs(t)) }

// stepDown returns for each series the p-value of being more in the candidate (sign 1) or less (-1), adjusted for that all
// of them are looked at: the step-down of largest statistics of Westfall and Young, Resampling-based multiple testing, 1993.
// If no more than p are believed, the chance that any of them is wrong is at most p, and so is the share of wrong ones
// to be expected. It keeps how the functions depend on each other, and needs no smaller p-values for more of them, as
// Benjamini and Hochberg's procedure would: few runs have no small ones.
func (r *relabellings) stepDown(list []*series, sign float64) []float64 {
	observed := make([]float64, len(list))
	order := make([]int, len(list))
	for i, s := range list {
		observed[i] = sign * s.statistic(s.of(&r.list[0]), 1, r.paired)
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(observed[a], observed[b]) })
	p := make([]float64, len(list))
	largest := make([]float64, len(r.list))
	for i := range largest {
		largest[i] = math.Inf(-1)
	}
	for _, at := range order {
		s, limit, extreme := list[at], tie(observed[at]), 0
		for i := range r.list {
			largest[i] = max(largest[i], sign*s.statistic(s.of(&r.list[i]), 1, r.paired))
			if largest[i] >= limit {
				extreme++
			}
		}
		p[at] = float64(extreme) / float64(len(r.list))
	}
	for i := len(order) - 2; i >= 0; i-- { // what is less extreme is no surer
		p[order[i]] = max(p[order[i]], p[order[i+1]])
	}
	return p
}

// interval returns the ratios of candidate to baseline that the test does not reject, at alpha on each side: it
// divides the candidate's runs by a ratio and asks whether the sides still differ. So it is as wide as few runs make it
// (a percentile bootstrap of five runs covers 84 % instead of 95 %), and is exact where the candidate's runs are
// distributed as the baseline's times the ratio. The ends are 0 and infinite if there are too few runs for any.
func (r *relabellings) interval(s *series, alpha float64) (low, high float64) {
	ratio := s.ratio()
	if math.IsNaN(ratio) || ratio == 0 || math.IsInf(ratio, 1) {
		return ratio, ratio
	}
	if alpha*float64(len(r.list)) < 1 {
		return 0, math.Inf(1)
	}
	each := make([]sums, len(r.list))
	for i := range r.list {
		each[i] = s.of(&r.list[i])
	}
	rejected := func(by, sign float64) bool {
		limit := tie(sign * s.statistic(each[0], by, r.paired))
		extreme, most := 0, int(alpha*float64(len(each))+1e-9)
		for _, t := range each {
			if sign*s.statistic(t, by, r.paired) >= limit {
				if extreme++; extreme > most {
					return false
				}
			}
		}
		return true
	}
	end := func(sign float64) float64 {
		in, out, step := ratio, ratio, 1.05
		for !rejected(out, sign) {
			in = out
			out *= math.Pow(step, -sign)
			step *= step
			if step > 1e6 {
				return math.Inf(1)
			}
		}
		for math.Abs(in/out-1) > 1e-5 {
			if middle := math.Sqrt(in * out); rejected(middle, sign) {
				out = middle
			} else {
				in = middle
			}
		}
		return in
	}
	low, high = end(1), end(-1)
	if math.IsInf(low, 1) {
		low = 0
	}
	return low, high
}

// ratio is the mean of the candidate to that of the baseline: NaN if there is nothing of it.
func (s *series) ratio() float64 {
	b, c := s.all.b/float64(s.n), s.all.c/float64(len(s.x)-s.n)
	if b == 0 && c == 0 {
		return math.NaN()
	}
	return c / b
}
