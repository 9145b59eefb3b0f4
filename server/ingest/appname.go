package ingest

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/perfuse/perfuse/profile"
)

// Pyroscope's way of naming what a profile is of: an application, perhaps what was measured, labels.
//
//	shop.checkout.cpu{region=eu,version=1.2}

// parseAppName takes such a name apart. Labels' values hold everything but ',' and '}'.
func parseAppName(s string) (app string, labels []profile.Label, err error) {
	app, rest, braces := strings.Cut(s, "{")
	app = strings.TrimSpace(app)
	if app == "" {
		return "", nil, invalid("name is %.100q: want an application's name, as in name=shop.cpu{region=eu}", s)
	}
	if !braces {
		return app, nil, nil
	}
	rest, after, closed := strings.Cut(rest, "}")
	if !closed || strings.TrimSpace(after) != "" {
		return "", nil, invalid("name is %.100q: want one pair of braces at its end", s)
	}
	for pair := range strings.SplitSeq(rest, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		name, value, ok := strings.Cut(pair, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || name == "" {
			return "", nil, invalid("name is %.100q: the label %.40q is not of the form label=value", s, pair)
		}
		labels = append(labels, profile.Label{Name: name, Value: value})
	}
	return app, labels, nil
}

// measure is what values of text without types of its own mean.
type measure struct {
	typ   profile.Type
	timed bool // values are counts of samples and stand for time
}

func newMeasure(name, sample, unit, period, periodUnit string) measure {
	return measure{typ: profile.Type{Name: name, SampleType: sample, SampleUnit: unit, PeriodType: period, PeriodUnit: periodUnit}}
}

var (
	cpuMeasure  = measure{profile.TypeCPU, true}
	wallMeasure = measure{profile.Type{Name: "wall", SampleType: "wall", SampleUnit: "nanoseconds", PeriodType: "cpu", PeriodUnit: "nanoseconds"}, true}

	// measures are told by the last part of an application's name. The types are those that the same things have in pprof.
	measures = map[string]measure{
		"cpu": cpuMeasure, "itimer": cpuMeasure, "wall": wallMeasure,
		"inuse_objects":              newMeasure("memory", "inuse_objects", "count", "space", "bytes"),
		"inuse_space":                newMeasure("memory", "inuse_space", "bytes", "space", "bytes"),
		"alloc_objects":              newMeasure("memory", "alloc_objects", "count", "space", "bytes"),
		"alloc_space":                newMeasure("memory", "alloc_space", "bytes", "space", "bytes"),
		"goroutines":                 newMeasure("goroutine", "goroutine", "count", "goroutine", "count"),
		"mutex_count":                newMeasure("mutex", "contentions", "count", "contentions", "count"),
		"mutex_duration":             newMeasure("mutex", "delay", "nanoseconds", "contentions", "count"),
		"block_count":                newMeasure("block", "contentions", "count", "contentions", "count"),
		"block_duration":             newMeasure("block", "delay", "nanoseconds", "contentions", "count"),
		"lock_count":                 newMeasure("block", "contentions", "count", "block", "count"),
		"lock_duration":              newMeasure("block", "delay", "nanoseconds", "block", "count"),
		"alloc_in_new_tlab_objects":  newMeasure("memory", "alloc_in_new_tlab_objects", "count", "space", "bytes"),
		"alloc_in_new_tlab_bytes":    newMeasure("memory", "alloc_in_new_tlab_bytes", "bytes", "space", "bytes"),
		"alloc_outside_tlab_objects": newMeasure("memory", "alloc_outside_tlab_objects", "count", "space", "bytes"),
		"alloc_outside_tlab_bytes":   newMeasure("memory", "alloc_outside_tlab_bytes", "bytes", "space", "bytes"),
		"live":                       newMeasure("memory", "live", "count", "objects", "count"),
		"exceptions":                 newMeasure("exceptions", "samples", "count", "exceptions", "count"),
	}

	// measuresByUnit are told by the parameter units, if the name does not tell.
	measuresByUnit = map[string]measure{
		"": cpuMeasure, "samples": cpuMeasure, "trace_samples": wallMeasure,
		"objects": measures["alloc_objects"], "bytes": measures["alloc_space"], "goroutines": measures["goroutines"],
		"lock_samples": measures["mutex_count"], "lock_nanoseconds": measures["mutex_duration"], "exceptions": measures["exceptions"],
	}
)

// measureOf returns what an application's profile measures, and the application's name without that.
func measureOf(app, units string) (measure, string, error) {
	if at := strings.LastIndexByte(app, '.'); at > 0 {
		if m, ok := measures[app[at+1:]]; ok {
			return m, app[:at], nil
		}
	}
	m, ok := measuresByUnit[units]
	if !ok {
		return m, app, invalid("units is %.40q: want one of samples, objects, bytes, goroutines, lock_samples, lock_nanoseconds, trace_samples, exceptions", units)
	}
	return m, app, nil
}

// timeSpan is when something was measured, in nanoseconds since the Unix epoch; the zero one: not known.
type timeSpan struct{ from, until int64 }

// leastTime is when times begin to be ones: in the first months of 1970 they are in microseconds, as some of
// Pyroscope's older clients write them into their pprofs, or nonsense.
const leastTime = int64(300 * 24 * time.Hour)

// give fills in what a profile does not say of itself.
func (s timeSpan) give(p *profile.Profile) {
	if s.from == 0 || p.TimeNanos > leastTime {
		return
	}
	p.TimeNanos = s.from
	if p.DurationNanos == 0 {
		p.DurationNanos = s.until - s.from
	}
}

// parseSpan reads the parameters from and until; until is now unless it is given, from is until.
func parseSpan(from, until string, now time.Time) (s timeSpan, err error) {
	s.until = now.UnixNano()
	if until != "" {
		if s.until, err = parseMoment("until", until, now); err != nil {
			return s, err
		}
	}
	s.from = s.until
	if from != "" {
		if s.from, err = parseMoment("from", from, now); err != nil {
			return s, err
		}
	}
	if s.from > s.until {
		return s, invalid("from=%s is after until=%s", from, until)
	}
	return s, nil
}

// parseMoment reads a time: a number since the Unix epoch, whose size tells its unit, RFC 3339, or now-1h.
func parseMoment(name, s string, now time.Time) (int64, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n > 0 {
		unit := int64(1)
		switch { // seconds until the year 5138, milliseconds until then, ...
		case n < 1e11:
			unit = 1e9
		case n < 1e14:
			unit = 1e6
		case n < 1e17:
			unit = 1e3
		}
		if n <= math.MaxInt64/unit {
			return n * unit, nil
		}
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil && t.Unix() > 0 && t.Year() < 2262 {
		return t.UnixNano(), nil
	}
	if ago, ok := strings.CutPrefix(s, "now"); ok {
		if ago == "" {
			return now.UnixNano(), nil
		}
		if d, err := time.ParseDuration(ago); err == nil && d <= 0 && -d < time.Duration(now.UnixNano()) {
			return now.Add(d).UnixNano(), nil
		}
	}
	return 0, invalid("%s=%.40q: want seconds since 1970, a time as 2026-01-02T15:04:05Z, or now-5m", name, s)
}

// sampleTypes is what Pyroscope's clients say of a pprof's sample types.
type sampleTypes map[string]struct {
	DisplayName string `json:"display-name"`
	Cumulative  bool   `json:"cumulative"`
}

// rename tells mutexes from blocking and processor from wall-clock time where the sample types alone do not.
func (c sampleTypes) rename(b *profile.Batch) {
	name := ""
	for i := range b.Profiles {
		t := &b.Profiles[i].Type
		display := c[t.SampleType].DisplayName
		for _, word := range []string{"mutex", "block", "wall"} {
			if strings.HasPrefix(display, word) || word == "wall" && t.SampleType == word {
				name = word
			}
		}
	}
	for i := range b.Profiles {
		if name != "" {
			b.Profiles[i].Type.Name = name
		}
	}
}

// cumulative says whether a type's values only grow while a program runs.
func (c sampleTypes) cumulative(sampleType string) bool {
	if c == nil {
		return slices.Contains([]string{"alloc_objects", "alloc_space", "contentions", "delay"}, sampleType)
	}
	return c[sampleType].Cumulative
}

// subtract takes what was there before away from cumulative types. Both batches share a dictionary.
func (c sampleTypes) subtract(b, before *profile.Batch) {
	type key struct {
		typ    profile.Type
		labels string
		stack  profile.StackIndex
		link   profile.LinkIndex
	}
	was := map[key]int64{}
	for i := range before.Profiles {
		p := &before.Profiles[i]
		labels := p.Labels.String()
		for _, s := range p.Samples {
			was[key{p.Type, labels, s.Stack, s.Link}] += s.Value
		}
	}
	for i := range b.Profiles {
		p := &b.Profiles[i]
		if !c.cumulative(p.Type.SampleType) {
			continue
		}
		labels := p.Labels.String()
		for j := range p.Samples {
			s := &p.Samples[j]
			s.Value = max(s.Value-was[key{p.Type, labels, s.Stack, s.Link}], 0)
		}
		p.Samples = slices.DeleteFunc(p.Samples, func(s profile.Sample) bool { return s.Value == 0 })
	}
	b.Profiles = slices.DeleteFunc(b.Profiles, func(p profile.Profile) bool { return len(p.Samples) == 0 })
}

// blank says whether there is nothing to see in text.
func blank(b []byte) bool {
	return !slices.ContainsFunc(b, func(c byte) bool { return !unicode.IsSpace(rune(c)) })
}
