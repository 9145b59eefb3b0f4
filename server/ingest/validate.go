package ingest

import (
	"errors"
	"fmt"
	"math"

	"github.com/perfuse/perfuse/server/limits"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/profiles/v1development"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	profilesv1 "go.opentelemetry.io/proto/otlp/profiles/v1development"
)

// ErrInvalid: the request breaks the rules of OTLP. Sending it again is useless.
var ErrInvalid = errors.New("invalid profiles")

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// place names a place in a request without building its text before it is needed.
type place struct {
	table string
	index int
	up    *place
}

func (p *place) String() string {
	s := p.table
	if p.index >= 0 {
		s += fmt.Sprintf("[%d]", p.index)
	}
	if p.up != nil {
		s = p.up.String() + "." + s
	}
	return s
}

// index checks a reference into a table of n entries. 0 is always good: it means none, also where a sender
// left the table out.
func index(i int32, n int, at *place, field, table string) error {
	if i == 0 || i > 0 && int(i) < n {
		return nil
	}
	if i < 0 {
		return invalid("%s.%s is %d: want an index of %s, which has %d entries", at, field, i, table, n)
	}
	return invalid("%s.%s is %d: %s has %d entries", at, field, i, table, n)
}

func indices(is []int32, n int, at *place, field, table string) error {
	for i, v := range is {
		if v != 0 && (v < 0 || int(v) >= n) {
			return index(v, n, at, fmt.Sprintf("%s[%d]", field, i), table)
		}
	}
	return nil
}

// validate checks every index, length and number of a request, so that what comes after it cannot fail on
// them. It reads the request once and allocates nothing unless it fails.
func validate(req *collectorv1.ExportProfilesServiceRequest, lim *limits.Limits) error {
	d := req.GetDictionary()
	if err := validateDictionary(d, lim); err != nil {
		return err
	}
	samples := int64(0)
	for i, rp := range req.GetResourceProfiles() {
		at := &place{"resource_profiles", i, nil}
		if err := validateKeyValues(rp.GetResource().GetAttributes(), d, &place{"resource", -1, at}); err != nil {
			return err
		}
		for j, sp := range rp.GetScopeProfiles() {
			at := &place{"scope_profiles", j, at}
			for k, p := range sp.GetProfiles() {
				n, err := validateProfile(p, d, &place{"profiles", k, at})
				if err != nil {
					return err
				}
				samples += n
			}
		}
	}
	return limits.Count(limits.SamplesPerRequest, samples, lim.SamplesPerRequest, "the request has %d samples", samples)
}

func validateDictionary(d *profilesv1.ProfilesDictionary, lim *limits.Limits) error {
	strs := len(d.GetStringTable())
	at := place{up: &place{"dictionary", -1, nil}}
	if strs > 0 && d.GetStringTable()[0] != "" {
		return invalid("dictionary.string_table[0] is %.40q: want \"\", since every string that is not set refers to it", d.GetStringTable()[0])
	}
	at.table = "mapping_table"
	for i, m := range d.GetMappingTable() {
		at.index = i
		if err := index(m.GetFilenameStrindex(), strs, &at, "filename_strindex", "string_table"); err != nil {
			return err
		}
		if err := indices(m.GetAttributeIndices(), len(d.GetAttributeTable()), &at, "attribute_indices", "attribute_table"); err != nil {
			return err
		}
	}
	at.table = "function_table"
	for i, f := range d.GetFunctionTable() {
		at.index = i
		if err := index(f.GetNameStrindex(), strs, &at, "name_strindex", "string_table"); err != nil {
			return err
		}
		if err := index(f.GetSystemNameStrindex(), strs, &at, "system_name_strindex", "string_table"); err != nil {
			return err
		}
		if err := index(f.GetFilenameStrindex(), strs, &at, "filename_strindex", "string_table"); err != nil {
			return err
		}
	}
	at.table = "location_table"
	for i, l := range d.GetLocationTable() {
		at.index = i
		if err := index(l.GetMappingIndex(), len(d.GetMappingTable()), &at, "mapping_index", "mapping_table"); err != nil {
			return err
		}
		if n := len(l.GetLines()); lim.FramesPerStack > 0 && int64(n) > lim.FramesPerStack {
			return limits.Count(limits.FramesPerStack, int64(n), lim.FramesPerStack, "%s has %d lines", &at, n)
		}
		for j, line := range l.GetLines() {
			if f := line.GetFunctionIndex(); f != 0 && (f < 0 || int(f) >= len(d.GetFunctionTable())) {
				return index(f, len(d.GetFunctionTable()), &place{"lines", j, &at}, "function_index", "function_table")
			}
		}
		if err := indices(l.GetAttributeIndices(), len(d.GetAttributeTable()), &at, "attribute_indices", "attribute_table"); err != nil {
			return err
		}
	}
	at.table = "stack_table"
	for i, s := range d.GetStackTable() {
		at.index = i
		n := len(s.GetLocationIndices())
		if lim.FramesPerStack > 0 && int64(n) > lim.FramesPerStack {
			return limits.Count(limits.FramesPerStack, int64(n), lim.FramesPerStack, "%s has %d frames", &at, n)
		}
		if err := indices(s.GetLocationIndices(), len(d.GetLocationTable()), &at, "location_indices", "location_table"); err != nil {
			return err
		}
	}
	at.table = "link_table"
	for i, l := range d.GetLinkTable() {
		at.index = i
		if n := len(l.GetTraceId()); n != 0 && n != 16 {
			return invalid("%s.trace_id has %d bytes: want 16", &at, n)
		}
		if n := len(l.GetSpanId()); n != 0 && n != 8 {
			return invalid("%s.span_id has %d bytes: want 8", &at, n)
		}
	}
	at.table = "attribute_table"
	for i, a := range d.GetAttributeTable() {
		at.index = i
		if err := index(a.GetKeyStrindex(), strs, &at, "key_strindex", "string_table"); err != nil {
			return err
		}
		if err := validateValue(a.GetValue(), strs, &at); err != nil {
			return err
		}
	}
	return nil
}

// validateKeyValues checks a resource's attributes, whose strings may lie in the dictionary too.
func validateKeyValues(kvs []*commonv1.KeyValue, d *profilesv1.ProfilesDictionary, at *place) error {
	for i, kv := range kvs {
		at := &place{"attributes", i, at}
		if err := index(kv.GetKeyStrindex(), len(d.GetStringTable()), at, "key_strindex", "string_table"); err != nil {
			return err
		}
		if err := validateValue(kv.GetValue(), len(d.GetStringTable()), at); err != nil {
			return err
		}
	}
	return nil
}

func validateValue(v *commonv1.AnyValue, strs int, at *place) error {
	if s, ok := v.GetValue().(*commonv1.AnyValue_StringValueStrindex); ok {
		return index(s.StringValueStrindex, strs, at, "value.string_value_strindex", "string_table")
	}
	return nil
}

// validateProfile returns how many observations the profile has.
func validateProfile(p *profilesv1.Profile, d *profilesv1.ProfilesDictionary, at *place) (samples int64, err error) {
	strs := len(d.GetStringTable())
	for _, vt := range []struct {
		field string
		v     *profilesv1.ValueType
	}{{"sample_type", p.GetSampleType()}, {"period_type", p.GetPeriodType()}} {
		if err := index(vt.v.GetTypeStrindex(), strs, at, vt.field+".type_strindex", "string_table"); err != nil {
			return 0, err
		}
		if err := index(vt.v.GetUnitStrindex(), strs, at, vt.field+".unit_strindex", "string_table"); err != nil {
			return 0, err
		}
	}
	switch {
	case p.GetTimeUnixNano() > math.MaxInt64:
		return 0, invalid("%s.time_unix_nano is %d, beyond the year 2262", at, p.GetTimeUnixNano())
	case p.GetDurationNano() > math.MaxInt64-p.GetTimeUnixNano():
		return 0, invalid("%s.duration_nano is %d, which ends beyond the year 2262", at, p.GetDurationNano())
	case p.GetPeriod() < 0:
		return 0, invalid("%s.period is %d: want 0 (unknown) or more", at, p.GetPeriod())
	}
	if err := indices(p.GetAttributeIndices(), len(d.GetAttributeTable()), at, "attribute_indices", "attribute_table"); err != nil {
		return 0, err
	}
	s := place{"samples", 0, at}
	for i, sample := range p.GetSamples() {
		s.index = i
		n, err := validateSample(sample, d, &s)
		if err != nil {
			return 0, err
		}
		samples += int64(n)
	}
	return samples, nil
}

func validateSample(s *profilesv1.Sample, d *profilesv1.ProfilesDictionary, at *place) (observations int, err error) {
	if err := index(s.GetStackIndex(), len(d.GetStackTable()), at, "stack_index", "stack_table"); err != nil {
		return 0, err
	}
	if err := index(s.GetLinkIndex(), len(d.GetLinkTable()), at, "link_index", "link_table"); err != nil {
		return 0, err
	}
	if err := indices(s.GetAttributeIndices(), len(d.GetAttributeTable()), at, "attribute_indices", "attribute_table"); err != nil {
		return 0, err
	}
	values, times := len(s.GetValues()), len(s.GetTimestampsUnixNano())
	switch {
	case values == 0 && times == 0:
		return 0, invalid("%s has neither values nor timestamps_unix_nano: want at least one entry of one", at)
	case values > 1 && times == 0:
		return 0, invalid("%s.values has %d entries for one sample type and no timestamps_unix_nano: want 1", at, values)
	case values > 0 && times > 0 && values != times:
		return 0, invalid("%s has %d values and %d timestamps_unix_nano: want as many of both, or no values", at, values, times)
	}
	for i, v := range s.GetValues() {
		if v < 0 {
			return 0, invalid("%s.values[%d] is %d: want 0 or more", at, i, v)
		}
	}
	for i, t := range s.GetTimestampsUnixNano() {
		if t > math.MaxInt64 {
			return 0, invalid("%s.timestamps_unix_nano[%d] is %d, beyond the year 2262", at, i, t)
		}
	}
	return max(values, times), nil
}
