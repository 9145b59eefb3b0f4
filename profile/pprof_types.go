package profile

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// maxPprofTypes bounds the value columns: each makes a profile.
const maxPprofTypes = 64

// profileTypes names the types of the value columns.
func (f *pprofFile) profileTypes(name string) ([]Type, error) {
	if len(f.types) > maxPprofTypes {
		return nil, fmt.Errorf("%w: %d sample types, the limit is %d", ErrTooLarge, len(f.types), maxPprofTypes)
	}
	if len(f.types) == 0 && f.samples > 0 {
		return nil, errors.New("there are samples, but no sample types")
	}
	part := func(s string) string { return strings.ReplaceAll(strings.Clone(s), ":", "_") }
	period, periodUnit, err := f.texts(f.periodType, 1, 2)
	if err != nil {
		return nil, fmt.Errorf("the period's type: %w", err)
	}
	types := make([]Type, len(f.types))
	for i, s := range f.types {
		typ, unit, err := f.texts(s, 1, 2)
		if err != nil {
			return nil, fmt.Errorf("sample type %d: %w", i, err)
		}
		if typ == "" {
			typ = "unknown"
		}
		types[i] = Type{SampleType: part(typ), SampleUnit: part(unit), PeriodType: part(period), PeriodUnit: part(periodUnit)}
		if slices.Contains(types[:i], types[i]) {
			return nil, fmt.Errorf("the sample type %s:%s occurs twice", typ, unit)
		}
	}
	if name == "" {
		name = pprofName(types, period)
	}
	for i := range types {
		types[i].Name = part(name)
	}
	return types, nil
}

// pprofName tells what kind of profile it is, as Parca and Pyroscope call it.
func pprofName(types []Type, period string) string {
	has := func(names ...string) bool {
		return slices.ContainsFunc(types, func(t Type) bool { return slices.Contains(names, t.SampleType) })
	}
	switch {
	case has("cpu"), period == "cpu":
		return "process_cpu"
	case has("inuse_space", "inuse_objects", "alloc_space", "alloc_objects"), period == "space":
		return "memory"
	case has("contentions"):
		return "contention"
	case has("goroutine"), period == "goroutine":
		return "goroutine"
	case period != "":
		return period
	case len(types) > 0:
		return types[0].SampleType
	}
	return "unknown"
}
