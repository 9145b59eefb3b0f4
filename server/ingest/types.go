package ingest

import (
	"strings"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/server/limits"
)

// profileType derives our type from what an OTLP profile says about itself. name and delta come from the
// profile's own attributes, if it has them.
//
//	sample type            name
//	samples, cpu           process_cpu, or the period type if that is not cpu (wall, off_cpu, ...)
//	alloc*, inuse*, ...    memory
//	anything else          the sample type itself
//
// A profile without a sample type counts samples of something unknown.
func profileType(name, sampleType, sampleUnit, periodType, periodUnit string, delta bool) profile.Type {
	t := profile.Type{
		Name:       name,
		SampleType: sampleType, SampleUnit: sampleUnit,
		PeriodType: periodType, PeriodUnit: periodUnit,
		Delta: delta,
	}
	if t.SampleType == "" {
		t.SampleType = "samples"
		if t.Name == "" && t.PeriodType == "" {
			t.Name = "unknown"
		}
	}
	if t.SampleUnit == "" {
		t.SampleUnit = "count"
	}
	if t.Name == "" {
		t.Name = typeName(t)
	}
	// Senders that leave the period out mean the usual one; with it their profiles are of one type with
	// everybody else's.
	if t.PeriodType == "" && t.PeriodUnit == "" {
		switch {
		case t.Name == "process_cpu" && (t.SampleType == "cpu" || t.SampleType == "samples"):
			t.PeriodType, t.PeriodUnit = "cpu", "nanoseconds"
		case t.Name == "memory" && t.SampleType != "page_faults":
			t.PeriodType, t.PeriodUnit = "space", "bytes"
		}
	}
	return t
}

// checkType holds the words of a type, which tell series apart as values of labels do, against the limit of those.
func checkType(t profile.Type, lim *limits.Limits, at *place) error {
	for _, word := range []string{t.Name, t.SampleType, t.SampleUnit, t.PeriodType, t.PeriodUnit} {
		if err := limits.Count(limits.LabelValueBytes, int64(len(word)), lim.LabelValueBytes, "%.40q... in the profile type of %s has %d bytes", word, at, len(word)); err != nil {
			return err
		}
	}
	return nil
}

func typeName(t profile.Type) string {
	switch {
	case t.SampleType == "samples" && t.PeriodType != "" && t.PeriodType != "cpu":
		return t.PeriodType
	case t.SampleType == "samples", t.SampleType == "cpu":
		return "process_cpu"
	case strings.HasPrefix(t.SampleType, "alloc"), strings.HasPrefix(t.SampleType, "inuse"), t.SampleType == "page_faults":
		return "memory"
	}
	return t.SampleType
}

// nanosecondsPer is the length of the units in which a period of CPU time is given.
var nanosecondsPer = map[string]int64{
	"nanoseconds": 1, "nanosecond": 1, "ns": 1,
	"microseconds": 1e3, "microsecond": 1e3, "us": 1e3,
	"milliseconds": 1e6, "millisecond": 1e6, "ms": 1e6,
	"seconds": 1e9, "second": 1e9, "s": 1e9,
}

// cpuTime returns the type of CPU time that counts of samples of type t stand for, and the nanoseconds that
// one sample is worth; ok is false if t counts something else or the period is unknown.
func cpuTime(t profile.Type, period int64) (cpu profile.Type, nanos int64, ok bool) {
	per, known := nanosecondsPer[t.PeriodUnit]
	if t.SampleType != "samples" || t.SampleUnit != "count" || t.PeriodType != "cpu" || !known || period <= 0 || period > maxPeriodNanos/per {
		return profile.Type{}, 0, false
	}
	cpu = t
	cpu.SampleType, cpu.SampleUnit, cpu.PeriodUnit = "cpu", "nanoseconds", "nanoseconds"
	return cpu, period * per, true
}

// maxPeriodNanos is an hour: no sampler takes samples that rarely, but a product of two numbers from outside
// has to end somewhere.
const maxPeriodNanos = 3600e9
