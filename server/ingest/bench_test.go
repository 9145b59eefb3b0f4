package ingest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage/storagetest"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/profiles/v1development"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	profilesv1 "go.opentelemetry.io/proto/otlp/profiles/v1development"
	resourcev1 "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/proto"
)

// nowhere is a store that takes everything and keeps nothing.
type nowhere struct{ storagetest.Model }

func (*nowhere) Write(context.Context, *profile.Batch) error { return nil }

// fleetRequest is what an agent sends for 10 s of a busy machine: 20 services with 1000 samples each, 4000
// stacks of 25 frames, 8 threads a service, a tenth of the frames by name.
func fleetRequest() *collectorv1.ExportProfilesServiceRequest {
	rnd := rand.New(rand.NewPCG(1, 2))
	d := &profilesv1.ProfilesDictionary{
		StringTable: []string{"", "samples", "count", "cpu", "nanoseconds", "thread.name"}, FunctionTable: []*profilesv1.Function{{}},
		MappingTable: []*profilesv1.Mapping{{}}, LocationTable: []*profilesv1.Location{{}}, StackTable: []*profilesv1.Stack{{}},
		AttributeTable: []*profilesv1.KeyValueAndUnit{{}}, LinkTable: []*profilesv1.Link{{}},
	}
	str := func(s string) int32 {
		d.StringTable = append(d.StringTable, s)
		return int32(len(d.StringTable) - 1)
	}
	text := func(s string) *commonv1.AnyValue {
		return &commonv1.AnyValue{Value: &commonv1.AnyValue_StringValue{StringValue: s}}
	}
	for i := range 8 {
		d.AttributeTable = append(d.AttributeTable, &profilesv1.KeyValueAndUnit{KeyStrindex: 5, Value: text(fmt.Sprint("worker-", i))})
	}
	gnu := str(attrGNU)
	for i := range 40 {
		d.AttributeTable = append(d.AttributeTable, &profilesv1.KeyValueAndUnit{KeyStrindex: gnu, Value: text(fmt.Sprintf("%040x", i))})
		d.MappingTable = append(d.MappingTable, &profilesv1.Mapping{FilenameStrindex: str(fmt.Sprint("/usr/lib/lib", i, ".so")), AttributeIndices: []int32{int32(len(d.AttributeTable) - 1)}})
	}
	for i := range 10_000 {
		l := &profilesv1.Location{MappingIndex: int32(1 + i%40), Address: uint64(rnd.IntN(1 << 24))}
		if i%10 == 0 {
			d.FunctionTable = append(d.FunctionTable, &profilesv1.Function{NameStrindex: str(fmt.Sprint("function_", i))})
			l = &profilesv1.Location{Lines: []*profilesv1.Line{{FunctionIndex: int32(len(d.FunctionTable) - 1)}}}
		}
		d.LocationTable = append(d.LocationTable, l)
	}
	for range 4000 {
		s := &profilesv1.Stack{}
		for range 25 {
			s.LocationIndices = append(s.LocationIndices, int32(1+rnd.IntN(10_000)))
		}
		d.StackTable = append(d.StackTable, s)
	}
	req := &collectorv1.ExportProfilesServiceRequest{Dictionary: d}
	for i := range 20 {
		p := &profilesv1.Profile{
			SampleType: &profilesv1.ValueType{TypeStrindex: 1, UnitStrindex: 2}, PeriodType: &profilesv1.ValueType{TypeStrindex: 3, UnitStrindex: 4},
			Period: 52631578, TimeUnixNano: uint64(testNow.UnixNano()), DurationNano: 10e9,
		}
		for range 1000 {
			p.Samples = append(p.Samples, &profilesv1.Sample{
				StackIndex: int32(1 + rnd.IntN(4000)), Values: []int64{int64(1 + rnd.IntN(5))}, AttributeIndices: []int32{int32(1 + rnd.IntN(8))},
			})
		}
		req.ResourceProfiles = append(req.ResourceProfiles, &profilesv1.ResourceProfiles{
			Resource: &resourcev1.Resource{Attributes: []*commonv1.KeyValue{
				{Key: "service.name", Value: text(fmt.Sprint("service-", i))}, {Key: "host.name", Value: text("node-1")},
				{Key: "k8s.pod.name", Value: text(fmt.Sprint("pod-", i))}, {Key: "k8s.namespace.name", Value: text("prod")},
			}},
			ScopeProfiles: []*profilesv1.ScopeProfiles{{Profiles: []*profilesv1.Profile{p}}},
		})
	}
	return req
}

// BenchmarkExport is everything from the body to the store's door: estimate, decode, validate, normalise.
func BenchmarkExport(b *testing.B) {
	body, err := proto.Marshal(fleetRequest())
	if err != nil {
		b.Fatal(err)
	}
	in, err := New(Options{Store: &nowhere{}, Now: func() time.Time { return testNow }})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if err := in.decodeAndExport(b.Context(), body, false); err != nil {
			b.Fatal(err)
		}
		n += 20_000
	}
	b.ReportMetric(b.Elapsed().Seconds()/float64(n)*1e6, "s/Msamples")
}
