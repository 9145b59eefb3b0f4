package gate

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// Of the relabellings so many are splits of A/A experiments, and so many tell how large statistics are by chance.
const (
	powerSplits = 200
	powerChance = 2000
)

// power finds the smallest changes that could have been seen: it takes the difference of the sides away, gives the runs to
// sides at random, makes one of them slower, and asks from which factor on the test finds that in four splits of five.
func (j *judge) power(report *Report) {
	report.Effect = math.Inf(1)
	limit := j.o.MaxRegression
	if limit == 0 {
		limit = 0.05
	}
	least := j.o.chance()
	if possible := 1 / countRelabellings(j.n, j.runs-j.n, j.o.Paired); possible > least {
		report.RunsWanted = j.o.LeastRuns()
		report.Verdict = CouldNotTell
		report.Why = fmt.Sprintf("with %d and %d runs chance alone makes the clearest difference that there can be in %.2g%% of all cases, and %.2g%% is wanted: at least %d runs of each side are needed",
			report.Runs[0], report.Runs[1], possible*100, least*100, report.RunsWanted)
		return
	}
	level := make([]*series, len(j.tested))
	for i, c := range j.tested {
		level[i] = c.series.withoutDifference(j.n)
	}
	critical := j.critical(level)
	for i, c := range j.tested {
		c.Effect = j.effect(level[i], critical)
	}
	by := &j.rows[0].Total
	if j.o.Shares {
		by = j.halfOfCost()
	}
	report.Effect = by.Effect
	if report.Effect > limit {
		report.Verdict = CouldNotTell
		what := "everything together"
		if j.o.Shares {
			what = "the functions that make up half of the cost"
		}
		if math.IsInf(report.Effect, 1) {
			report.Why = fmt.Sprintf("the runs vary so much that hardly any change in %s could be seen", what)
			return
		}
		report.RunsWanted = j.runsWanted(by.series, limit)
		report.Why = fmt.Sprintf("the runs vary so much that a change of less than %.3g%% in %s would go unseen, and the limit is %.3g%%: some %d runs of each side would show it",
			report.Effect*100, what, limit*100, report.RunsWanted)
	}
}

// withoutDifference returns the series with both sides at the same mean.
func (s *series) withoutDifference(n int) *series {
	b, c := s.all.b/float64(n), s.all.c/float64(len(s.x)-n)
	values := slices.Clone(s.x)
	for i := range values {
		switch {
		case i < n && b > 0:
			values[i] /= b
		case i >= n && c > 0:
			values[i] /= c
		}
	}
	level := newSeries(values, n)
	level.floor = s.floor
	return level
}

// critical is the statistic that by chance the largest of all reaches no more often than FDR allows.
func (j *judge) critical(list []*series) float64 {
	chance := j.r.list[:min(powerChance, len(j.r.list))]
	largest := make([]float64, len(chance))
	for i := range chance {
		largest[i] = math.Inf(-1)
		for _, s := range list {
			largest[i] = max(largest[i], s.statistic(s.of(&chance[i]), 1, j.o.Paired))
		}
	}
	slices.SortFunc(largest, func(a, b float64) int { return cmp.Compare(b, a) })
	return largest[max(0, int(j.o.FDR*float64(len(largest)))-1)]
}

// effect is the change that the test finds in four of five splits.
func (j *judge) effect(s *series, critical float64) float64 {
	splits := min(powerSplits, len(j.r.list))
	effects := make([]float64, 0, splits)
	for i := range splits {
		// Evenly from all: exact lists are in order.
		t := s.of(&j.r.list[i*len(j.r.list)/splits])
		split := s.split(t, j.o.Paired)
		low, high := 1.0, 1.0
		for split(high) < critical {
			low = high
			if high *= 1.5; high > 1e3 {
				return math.Inf(1)
			}
		}
		for high-low > 1e-4 {
			if middle := (low + high) / 2; split(middle) < critical {
				low = middle
			} else {
				high = middle
			}
		}
		effects = append(effects, high-1)
	}
	slices.Sort(effects)
	return effects[(len(effects)*4-1)/5]
}

// split returns the statistic of a relabelling by the factor that its candidate is slower.
func (s *series) split(t sums, paired bool) func(factor float64) float64 {
	mean := (s.all.b + s.all.c) / float64(len(s.x))
	if paired {
		// In a pair that is not swapped the candidate's run is slower, else the baseline's. With d the difference of a pair and p
		// the candidate's run of it, the slower one differs by d + (factor-1)p; p is near the mean.
		n := float64(s.n)
		sum := t.c - t.b
		squares := s.all.cc - 2*s.bc + s.all.bb
		spread := max(0, squares-sum*sum/n) / (n - 1)
		return func(factor float64) float64 {
			return (sum/n + (factor-1)*mean) / (math.Sqrt(spread/n)*(1+factor)/2 + s.floor*mean*(1+factor)/2)
		}
	}
	n, m := float64(s.n), float64(len(s.x)-s.n)
	sum, squares := t.b+t.c, t.bb+t.cc
	rest, restSquares := s.all.b+s.all.c-sum, s.all.bb+s.all.cc-squares
	candidate := max(0, squares-sum*sum/m) / (m - 1) / m
	baseline := max(0, restSquares-rest*rest/n) / (n - 1) / n
	return func(factor float64) float64 {
		return (factor*sum/m - rest/n) / (math.Sqrt(factor*factor*candidate+baseline) + s.floor*mean*(1+factor)/2)
	}
}

// halfOfCost is the self value up to which, the surest first, functions make up half of what all tested ones cost themselves.
func (j *judge) halfOfCost() *Comparison {
	var list []*Comparison
	sum := 0.0
	for i := range j.rows {
		if c := &j.rows[i].Self; c.Tested {
			list = append(list, c)
			sum += c.Baseline + c.Candidate
		}
	}
	slices.SortStableFunc(list, func(a, b *Comparison) int { return cmp.Compare(a.Effect, b.Effect) })
	below := 0.0
	for _, c := range list {
		if below += c.Baseline + c.Candidate; below >= sum/2 {
			return c
		}
	}
	return &j.rows[0].Total // nothing costs anything itself
}

// runsWanted says how many runs of each side would show a change of the limit in a value, about: as normal distributions have
// it, with each value tested on its own, and as many more as it takes to know how much runs vary.
func (j *judge) runsWanted(s *series, limit float64) int {
	quantile := func(p float64) float64 { return math.Sqrt2 * math.Erfinv(2*p-1) }
	sure := quantile(1 - j.o.FDR/float64(len(j.tested)))
	level := s.withoutDifference(j.n)
	n, m := float64(j.n), float64(j.runs-j.n)
	variance := 0.0 // of the difference of two runs
	for i, v := range level.x {
		if !j.o.Paired {
			variance += 2 * (v - 1) * (v - 1) / (n + m - 2)
		} else if i < j.n {
			d := level.x[j.n+i] - v
			variance += d * d / (n - 1)
		}
	}
	deviation := math.Sqrt(variance) + (s.floor-errorFloor)*math.Sqrt(2/(1/n+1/m))
	z := (sure + quantile(0.8)) * deviation / limit
	return max(int(math.Ceil(z*z+sure*sure/2)), max(j.n, j.runs-j.n)+1)
}
