package main

import (
	"fmt"
	"slices"
)

// spread is the median of some rounds, with the lowest and the highest.
type spread struct{ median, low, high float64 }

func spreadOf(values []float64) spread {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return spread{(v[(n-1)/2] + v[n/2]) / 2, v[0], v[n-1]}
}

// times is a ratio as text.
func (s spread) times() string {
	if s.median >= 10 {
		return fmt.Sprintf("×%.1f (%.1f to %.1f)", s.median, s.low, s.high)
	}
	return fmt.Sprintf("×%.3f (%.3f to %.3f)", s.median, s.low, s.high)
}

// seconds is a time as text.
func (s spread) seconds() string {
	return fmt.Sprintf("%.1f s (%.1f to %.1f)", s.median, s.low, s.high)
}

// ratios divides rounds in pairs.
func ratios(of, by []float64) []float64 {
	out := make([]float64, len(of))
	for i := range of {
		out[i] = of[i] / by[i]
	}
	return out
}
