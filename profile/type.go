package profile

import (
	"fmt"
	"strings"
	"unicode/utf8"
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

// What the agent collects. TypeWall is what a query makes of TypeCPU and TypeOffCPU together:
// nobody stores it. Its period type tells it from the wall-clock profiles that others push.
var (
	TypeCPU        = Type{Name: "process_cpu", SampleType: "cpu", SampleUnit: "nanoseconds", PeriodType: "cpu", PeriodUnit: "nanoseconds"}
	TypeCPUSamples = Type{Name: "process_cpu", SampleType: "samples", SampleUnit: "count", PeriodType: "cpu", PeriodUnit: "nanoseconds"}

	// TypeJavaCPU is what a JVM itself tells of its CPU time, by methods. It is part of TypeCPU's time, not beside it.
	TypeJavaCPU = Type{Name: "java_cpu", SampleType: "java_cpu", SampleUnit: "nanoseconds", PeriodType: "cpu", PeriodUnit: "nanoseconds"}

	TypeOffCPU = Type{Name: "off_cpu", SampleType: "off_cpu", SampleUnit: "nanoseconds", PeriodType: "off_cpu", PeriodUnit: "nanoseconds"}
	// TypeWakers is off-CPU time, until a thread is woken, at the stacks of those who woke it.
	TypeWakers       = Type{Name: "off_cpu", SampleType: "wakers", SampleUnit: "nanoseconds", PeriodType: "off_cpu", PeriodUnit: "nanoseconds"}
	TypeWall         = Type{Name: "wall", SampleType: "wall", SampleUnit: "nanoseconds", PeriodType: "off_cpu", PeriodUnit: "nanoseconds"}
	TypeInuseSpace   = Type{Name: "memory", SampleType: "inuse_space", SampleUnit: "bytes", PeriodType: "space", PeriodUnit: "bytes"}
	TypeInuseObjects = Type{Name: "memory", SampleType: "inuse_objects", SampleUnit: "count", PeriodType: "space", PeriodUnit: "bytes"}
	TypeAllocSpace   = Type{Name: "memory", SampleType: "alloc_space", SampleUnit: "bytes", PeriodType: "space", PeriodUnit: "bytes"}
	TypeAllocObjects = Type{Name: "memory", SampleType: "alloc_objects", SampleUnit: "count", PeriodType: "space", PeriodUnit: "bytes"}

	TypeGoroutines = Type{Name: "goroutine", SampleType: "goroutine", SampleUnit: "count", PeriodType: "goroutine", PeriodUnit: "count"}
	TypePageFaults = Type{Name: "memory", SampleType: "page_faults", SampleUnit: "count", PeriodType: "page_faults", PeriodUnit: "count"}
)

// Level says whether the type's values say how much there is (bytes in use, goroutines) and not how much happened
// (CPU time, allocations). Values of one series at several times are then averaged, where amounts are added.
// These are levels, unless the type is a delta: sample types that are inuse or live or begin so ("inuse_space",
// "live_objects"), and the profiles of goroutines and threads that Go programs have, by whatever plural.
func (t Type) Level() bool {
	if t.Delta {
		return false
	}
	word, _, _ := strings.Cut(t.SampleType, "_")
	switch {
	case word == "inuse", word == "live":
		return true
	case t.Name == "goroutine", t.Name == "goroutines", t.Name == "threadcreate":
		return true
	}
	return false
}

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
	if !utf8.ValidString(s) {
		return Type{}, fmt.Errorf("parsing profile type %q: it is not UTF-8", s)
	}
	for _, p := range f[:2] {
		if p == "" {
			return Type{}, fmt.Errorf("parsing profile type %q: the name and the sample type may not be empty", s)
		}
	}
	return Type{f[0], f[1], f[2], f[3], f[4], delta}, nil
}

// TypeError says why a short name of a profile type does not name one.
type TypeError struct {
	Query string
	// Candidates are the types that the query could mean; none if there is no such type.
	Candidates []Type
	// Known are all types that exist.
	Known []Type
}

// maxListed is how many types an error lists.
const maxListed = 50

func (e *TypeError) Error() string {
	var b strings.Builder
	list := e.Candidates
	switch {
	case len(e.Known) == 0:
		return fmt.Sprintf("profile type %.100q: there are no profiles at all", e.Query)
	case len(list) > 0:
		fmt.Fprintf(&b, "profile type %.100q is ambiguous, it could be one of", e.Query)
	default:
		fmt.Fprintf(&b, "profile type %.100q is unknown, there are", e.Query)
		list = e.Known
	}
	for i, t := range list {
		if i == maxListed {
			fmt.Fprintf(&b, "\n  and %d more", len(list)-i)
			break
		}
		b.WriteString("\n  " + t.String())
	}
	return b.String()
}

// ResolveType finds the type among the known ones that query means: its full name; else its sample type or its
// name; else a prefix of one of the three, as long as that is unambiguous. So "cpu" means
// process_cpu:cpu:nanoseconds:cpu:nanoseconds whether or not there are also process_cpu:samples:… and
// cpu_time:…. Errors are *TypeError.
func ResolveType(query string, known []Type) (Type, error) {
	rules := []func(Type) bool{
		func(t Type) bool { return t.String() == query },
		func(t Type) bool { return t.SampleType == query },
		func(t Type) bool { return t.Name == query },
		func(t Type) bool {
			return strings.HasPrefix(t.String(), query) || strings.HasPrefix(t.SampleType, query)
		},
	}
	for _, rule := range rules {
		var found []Type
		for _, t := range known {
			if rule(t) {
				found = append(found, t)
			}
		}
		switch len(found) {
		case 0:
		case 1:
			return found[0], nil
		default:
			return Type{}, &TypeError{Query: query, Candidates: found, Known: known}
		}
	}
	return Type{}, &TypeError{Query: query, Known: known}
}
