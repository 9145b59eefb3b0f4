package profile

import (
	"fmt"
	"strings"
)

// Type names what a profile measures, as Parca and Pyroscope write it:
//
//	name:sample_type:sample_unit:period_type:period_unit[:delta]
//
// for instance process_cpu:cpu:nanoseconds:cpu:nanoseconds. Delta is true for profiles that cover a time
// span (CPU, allocations since the last profile), false for a state at one moment (bytes in use).
type Type struct {
	Name       string
	SampleType string
	SampleUnit string
	PeriodType string
	PeriodUnit string
	Delta      bool
}

// CPU and its sibling are what the sampler collects.
var (
	TypeCPU        = Type{Name: "process_cpu", SampleType: "cpu", SampleUnit: "nanoseconds", PeriodType: "cpu", PeriodUnit: "nanoseconds"}
	TypeCPUSamples = Type{Name: "process_cpu", SampleType: "samples", SampleUnit: "count", PeriodType: "cpu", PeriodUnit: "nanoseconds"}
)

// String returns the type as it is written in queries.
func (t Type) String() string {
	s := strings.Join([]string{t.Name, t.SampleType, t.SampleUnit, t.PeriodType, t.PeriodUnit}, ":")
	if t.Delta {
		s += ":delta"
	}
	return s
}

// ParseType reads what String writes.
func ParseType(s string) (Type, error) {
	f := strings.Split(s, ":")
	delta := len(f) == 6 && f[5] == "delta"
	if len(f) != 5 && !delta {
		return Type{}, fmt.Errorf("parsing profile type %q: want name:sample_type:sample_unit:period_type:period_unit[:delta]", s)
	}
	for _, p := range f[:2] {
		if p == "" {
			return Type{}, fmt.Errorf("parsing profile type %q: the name and the sample type may not be empty", s)
		}
	}
	return Type{f[0], f[1], f[2], f[3], f[4], delta}, nil
}
