package e2e

import (
	"strconv"
	"testing"
	"time"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/profiles/v1development"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	profilesv1 "go.opentelemetry.io/proto/otlp/profiles/v1development"
	resourcev1 "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/proto"
)

// export returns an OTLP request with one profile of service: each name is a stack main;name of value 1.
func export(t *testing.T, service string, at time.Time, names ...string) []byte {
	t.Helper()
	body, err := proto.Marshal(request(service, at, names...))
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func request(service string, at time.Time, names ...string) *collectorv1.ExportProfilesServiceRequest {
	d := &profilesv1.ProfilesDictionary{
		MappingTable:   []*profilesv1.Mapping{{}},
		LinkTable:      []*profilesv1.Link{{}},
		AttributeTable: []*profilesv1.KeyValueAndUnit{{}},
		StringTable:    []string{"", "samples", "count", "cpu", "nanoseconds"},
		FunctionTable:  []*profilesv1.Function{{}},
		LocationTable:  []*profilesv1.Location{{}},
		StackTable:     []*profilesv1.Stack{{}},
	}
	location := func(name string) int32 {
		d.StringTable = append(d.StringTable, name)
		d.FunctionTable = append(d.FunctionTable, &profilesv1.Function{NameStrindex: int32(len(d.StringTable) - 1)})
		d.LocationTable = append(d.LocationTable, &profilesv1.Location{
			Lines: []*profilesv1.Line{{FunctionIndex: int32(len(d.FunctionTable) - 1)}},
		})
		return int32(len(d.LocationTable) - 1)
	}
	p := &profilesv1.Profile{
		SampleType:   &profilesv1.ValueType{TypeStrindex: 1, UnitStrindex: 2},
		PeriodType:   &profilesv1.ValueType{TypeStrindex: 3, UnitStrindex: 4},
		TimeUnixNano: uint64(at.UnixNano()),
		DurationNano: uint64(time.Second),
	}
	main := location("main")
	for _, name := range names {
		d.StackTable = append(d.StackTable, &profilesv1.Stack{LocationIndices: []int32{location(name), main}})
		p.Samples = append(p.Samples, &profilesv1.Sample{StackIndex: int32(len(d.StackTable) - 1), Values: []int64{1}})
	}
	return &collectorv1.ExportProfilesServiceRequest{
		Dictionary: d,
		ResourceProfiles: []*profilesv1.ResourceProfiles{{
			Resource: &resourcev1.Resource{Attributes: []*commonv1.KeyValue{{
				Key:   "service.name",
				Value: &commonv1.AnyValue{Value: &commonv1.AnyValue_StringValue{StringValue: service}},
			}}},
			ScopeProfiles: []*profilesv1.ScopeProfiles{{Profiles: []*profilesv1.Profile{p}}},
		}},
	}
}

// numbered returns count names, prefix and a number from first on.
func numbered(prefix string, first, count int) []string {
	names := make([]string, count)
	for i := range names {
		names[i] = prefix + strconv.Itoa(first+i)
	}
	return names
}
