package ingest

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/klauspost/compress/gzip"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/profiles/v1development"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	profilesv1 "go.opentelemetry.io/proto/otlp/profiles/v1development"
	resourcev1 "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/perfuse/perfuse/profile"
	googlev1 "github.com/perfuse/perfuse/proto/google/v1"
	profilestorev1alpha1 "github.com/perfuse/perfuse/proto/parca/profilestore/v1alpha1"
	pushv1 "github.com/perfuse/perfuse/proto/push/v1"
	typesv1 "github.com/perfuse/perfuse/proto/types/v1"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/server/limits/limitstest"
	"github.com/perfuse/perfuse/storage"
)

// What is said in each format, main;work 4 of CPU time, for a fault to be put into.
type (
	otlpRequest = collectorv1.ExportProfilesServiceRequest
	pprofFile   = googlev1.Profile
	arrowRow    = map[string]any
)

func goodOTLP() *otlpRequest {
	region := []*commonv1.KeyValue{{Key: "service.name", Value: &commonv1.AnyValue{Value: &commonv1.AnyValue_StringValue{StringValue: "api"}}}}
	return &otlpRequest{
		Dictionary: &profilesv1.ProfilesDictionary{
			StringTable:    []string{"", "cpu", "nanoseconds", "main", "work", "region", "eu", "us"},
			FunctionTable:  []*profilesv1.Function{{}, {NameStrindex: 3}, {NameStrindex: 4}},
			LocationTable:  []*profilesv1.Location{{}, {Lines: []*profilesv1.Line{{FunctionIndex: 1}}}, {Lines: []*profilesv1.Line{{FunctionIndex: 2}}}},
			StackTable:     []*profilesv1.Stack{{}, {LocationIndices: []int32{2, 1}}},
			AttributeTable: []*profilesv1.KeyValueAndUnit{{}},
		},
		ResourceProfiles: []*profilesv1.ResourceProfiles{{
			Resource: &resourcev1.Resource{Attributes: region},
			ScopeProfiles: []*profilesv1.ScopeProfiles{{Scope: &commonv1.InstrumentationScope{Name: "test"}, Profiles: []*profilesv1.Profile{{
				SampleType: &profilesv1.ValueType{TypeStrindex: 1, UnitStrindex: 2}, PeriodType: &profilesv1.ValueType{TypeStrindex: 1, UnitStrindex: 2},
				TimeUnixNano: uint64(testNow.UnixNano()), Period: 1, Samples: []*profilesv1.Sample{{StackIndex: 1, Values: []int64{4}}},
			}}}},
		}},
	}
}

func profileOf(r *otlpRequest) *profilesv1.Profile {
	return r.ResourceProfiles[0].ScopeProfiles[0].Profiles[0]
}

func goodPprof() *pprofFile {
	return &pprofFile{
		StringTable: []string{"", "cpu", "nanoseconds", "main", "work", "region", "eu", "us"},
		SampleType:  []*googlev1.ValueType{{Type: 1, Unit: 2}}, PeriodType: &googlev1.ValueType{Type: 1, Unit: 2}, Period: 1, TimeNanos: testNow.UnixNano(),
		Function: []*googlev1.Function{{Id: 1, Name: 3}, {Id: 2, Name: 4}},
		Location: []*googlev1.Location{{Id: 1, Line: []*googlev1.Line{{FunctionId: 1}}}, {Id: 2, Line: []*googlev1.Line{{FunctionId: 2}}}},
		Sample:   []*googlev1.Sample{{LocationId: []uint64{2, 1}, Value: []int64{4}}},
	}
}

func goodRow() arrowRow {
	line := func(name string) []map[string]any {
		return []map[string]any{{"line": 0, "function_system_name": name, "function_filename": "", "function_start_line": 0}}
	}
	location := func(name string) map[string]any {
		return map[string]any{"address": 0, "frame_type": "native", "mapping_file": "", "mapping_build_id": "", "lines": line(name)}
	}
	return arrowRow{
		"stacktrace": []map[string]any{location("work"), location("main")}, "value": 4, "producer": "parca_agent", "sample_type": "cpu", "sample_unit": "nanoseconds",
		"period_type": "cpu", "period_unit": "nanoseconds", "period": 1, "duration": 0, "timestamp": testNow.UnixNano(), "labels.service_name": "api",
	}
}

func recordOf(t testing.TB, rows ...arrowRow) []byte {
	line := arrow.StructOf(field("line", arrow.PrimitiveTypes.Int64), field("function_system_name", runsOfBytes), field("function_filename", runsOfBytes),
		field("function_start_line", arrow.PrimitiveTypes.Int64))
	location := arrow.StructOf(field("address", arrow.PrimitiveTypes.Uint64), field("frame_type", runsOfBytes), field("mapping_file", runsOfBytes),
		field("mapping_build_id", runsOfBytes), field("lines", arrow.ListOf(line)))
	fields := []arrow.Field{field("stacktrace", arrow.ListOf(location))}
	for _, name := range slices.Sorted(maps.Keys(goodRow())) {
		switch goodRow()[name].(type) {
		case string:
			fields = append(fields, field(name, runsOfBytes))
		case int, int64:
			fields = append(fields, field(name, arrow.PrimitiveTypes.Int64))
		}
	}
	return stream(t, fromJSON(t, arrow.NewSchema(fields, nil), rows))
}

// speedscopeOf is a file of the frames main and work.
func speedscopeOf(samples, weights string) string {
	return `{"$schema":"https://www.speedscope.app/file-format-schema.json","shared":{"frames":[{"name":"main"},{"name":"work"}]},` +
		`"profiles":[{"type":"sampled","name":"","unit":"nanoseconds","startValue":0,"endValue":9,"samples":` + samples + `,"weights":` + weights + `}]}`
}

// said is one profile in the formats that can say it; what is nil or empty cannot.
type said struct {
	otlp       func(*otlpRequest)
	pprof      func(*pprofFile)
	labels     []profile.Label // beside a pprof, instead of the service's name
	arrow      func(arrowRow) []arrowRow
	folded     string
	speedscope string
	name       string // the parameter of /ingest; default "api"
	raw        []byte // instead of what pprof says
	replace    [2]string
}

// sayings calls f with each format's name, the doors for it, and what sends it.
func (s *said) sayings(t *testing.T, f func(how, door string, send func(*doors) error)) {
	edit := func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(s.replace[0]), []byte(s.replace[1])) }
	if s.replace[0] == "" {
		edit = func(b []byte) []byte { return b }
	}
	must := func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return edit(b)
	}
	if s.otlp != nil {
		r := goodOTLP()
		s.otlp(r)
		wire, text := must(proto.Marshal(r)), must(protojson.Marshal(r))
		f("OTLP, RPC", doorRPC, func(d *doors) error { return d.post(ExportProcedure, "application/proto", wire) })
		f("OTLP, HTTP", doorHTTP, func(d *doors) error { return d.post(ExportPath, "application/x-protobuf", wire) })
		f("OTLP, JSON", doorHTTP, func(d *doors) error { return d.post(ExportPath, "application/json", text) })
	}
	name := s.name
	if name == "" {
		name = "api"
	}
	ingest := func(format string, body []byte) func(*doors) error {
		return func(d *doors) error {
			q := url.Values{"name": {name}, "format": {format}, "from": {fmt.Sprint(testNow.Unix())}, "units": {"objects"}}
			return d.post(IngestPath+"?"+q.Encode(), "application/octet-stream", body)
		}
	}
	if s.pprof != nil || s.raw != nil {
		raw := s.raw
		if s.pprof != nil {
			p := goodPprof()
			s.pprof(p)
			raw = must(proto.Marshal(p))
		}
		labels := s.labels
		if labels == nil {
			labels = []profile.Label{{Name: "service_name", Value: "api"}}
		}
		var push []*typesv1.LabelPair
		var write []*profilestorev1alpha1.Label
		for _, l := range labels {
			push = append(push, &typesv1.LabelPair{Name: l.Name, Value: l.Value})
			write = append(write, &profilestorev1alpha1.Label{Name: l.Name, Value: l.Value})
		}
		f("push", doorPush, func(d *doors) error {
			return d.message(PushProcedure, "application/proto", &pushv1.PushRequest{Series: []*pushv1.RawProfileSeries{{Labels: push, Samples: []*pushv1.RawSample{{RawProfile: raw}}}}})
		})
		f("WriteRaw", doorWriteRaw, func(d *doors) error {
			return d.message(WriteRawProcedure, "application/proto", &profilestorev1alpha1.WriteRawRequest{Series: []*profilestorev1alpha1.RawProfileSeries{{
				Labels: &profilestorev1alpha1.LabelSet{Labels: write}, Samples: []*profilestorev1alpha1.RawSample{{RawProfile: raw}},
			}}})
		})
		if s.labels == nil {
			f("/ingest pprof", doorIngest, ingest("pprof", raw))
			f("scraped", doorScrape, func(d *doors) error {
				return d.ingester.Scraped(t.Context(), Scraped{Labels: profile.NewLabels(labels...), Body: bytes.NewReader(raw)})
			})
		}
	}
	if s.arrow != nil {
		record := edit(recordOf(t, s.arrow(goodRow())...))
		f("WriteArrow", doorWriteArrow, func(d *doors) error {
			return d.message(WriteArrowProcedure, "application/proto", &profilestorev1alpha1.WriteArrowRequest{IpcBuffer: record})
		})
		f("Write", doorWrite, func(d *doors) error { return d.write(record) })
	}
	if s.folded != "" {
		f("/ingest folded", doorIngest, ingest("folded", edit([]byte(s.folded))))
	}
	if s.speedscope != "" {
		f("/ingest speedscope", doorIngest, ingest("speedscope", edit([]byte(s.speedscope))))
	}
}

func one(f func(arrowRow)) func(arrowRow) []arrowRow {
	return func(r arrowRow) []arrowRow { f(r); return []arrowRow{r} }
}

// TestBadProfiles says the same wrong thing in every format that can say it, at every door. All refuse it in the same way
// and name what is wrong, or all store the same; of what is refused nothing is stored, and the door takes a good profile
// after it.
func TestBadProfiles(t *testing.T) {
	const good = `{service_name="api"} main;work 4`
	nothing := func(*otlpRequest) {}
	two := func(f func(r arrowRow)) func(arrowRow) []arrowRow {
		return func(r arrowRow) []arrowRow { bad := maps.Clone(r); f(bad); return []arrowRow{r, bad} }
	}
	bomb := func(n int) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		for zeros := make([]byte, 1<<20); n > 0; n-- {
			w.Write(zeros)
		}
		w.Close()
		return b.Bytes()
	}
	label := func(region ...string) func(*otlpRequest) {
		return func(r *otlpRequest) {
			for _, v := range region {
				res := r.ResourceProfiles[0].Resource
				res.Attributes = append(res.Attributes, &commonv1.KeyValue{Key: "region", Value: &commonv1.AnyValue{Value: &commonv1.AnyValue_StringValue{StringValue: v}}})
			}
		}
	}
	for _, c := range []struct {
		name    string
		said    said
		limits  limits.Limits
		outcome string
		want    string // in the error; or what is stored, in every format
	}{
		{name: "nothing", outcome: "ok", want: good, said: said{otlp: nothing, pprof: func(*pprofFile) {}, arrow: one(func(arrowRow) {}),
			folded: "main;work 4\n", speedscope: speedscopeOf("[[0,1]]", "[4]")}},

		{name: "an index below zero", outcome: "invalid", want: "-1", said: said{
			otlp:       func(r *otlpRequest) { r.Dictionary.FunctionTable[2].NameStrindex = -1 },
			pprof:      func(p *pprofFile) { p.Function[1].Name = -1 },
			speedscope: speedscopeOf("[[0,-1]]", "[4]")}},
		{name: "a type's index below zero", outcome: "invalid", want: "-1", said: said{
			otlp:  func(r *otlpRequest) { profileOf(r).SampleType.TypeStrindex = -1 },
			pprof: func(p *pprofFile) { p.SampleType[0].Type = -1 }}},
		{name: "an index beyond its table", outcome: "invalid", want: "99", said: said{
			otlp:       func(r *otlpRequest) { r.Dictionary.StackTable[1].LocationIndices[0] = 99 },
			pprof:      func(p *pprofFile) { p.Sample[0].LocationId[0] = 99 },
			speedscope: speedscopeOf("[[0,99]]", "[4]")}},
		{name: "a string beyond its table", outcome: "invalid", want: "99", said: said{
			otlp:  func(r *otlpRequest) { r.Dictionary.FunctionTable[1].NameStrindex = 99 },
			pprof: func(p *pprofFile) { p.Function[0].Name = 99 }}},
		{name: "a function beyond its table", outcome: "invalid", want: "99", said: said{
			otlp:  func(r *otlpRequest) { r.Dictionary.LocationTable[1].Lines[0].FunctionIndex = 99 },
			pprof: func(p *pprofFile) { p.Location[0].Line[0].FunctionId = 99 }}},
		{name: "an id twice", outcome: "invalid", want: "two locations have the id 1", said: said{
			pprof: func(p *pprofFile) { p.Location[1].Id = 1 }}},

		{name: "two values for one type", outcome: "invalid", want: "2", said: said{
			otlp:       func(r *otlpRequest) { profileOf(r).Samples[0].Values = []int64{1, 2} },
			pprof:      func(p *pprofFile) { p.Sample[0].Value = []int64{1, 2} },
			speedscope: speedscopeOf("[[0,1]]", "[1,2]")}},
		{name: "no value", outcome: "invalid", said: said{
			otlp:       func(r *otlpRequest) { profileOf(r).Samples[0].Values = nil },
			pprof:      func(p *pprofFile) { p.Sample[0].Value = nil },
			folded:     "main;work\n",
			speedscope: speedscopeOf("[[0,1]]", "[]")}},
		{name: "a value below zero", outcome: "invalid", want: "-4", said: said{
			otlp:   func(r *otlpRequest) { profileOf(r).Samples[0].Values[0] = -4 },
			pprof:  func(p *pprofFile) { p.Sample[0].Value[0] = -4 },
			arrow:  one(func(r arrowRow) { r["value"] = -4 }),
			folded: "main;work -4\n", speedscope: speedscopeOf("[[0,1]]", "[-4]")}},
		{name: "more than a number can hold", outcome: "invalid", want: "a number can hold", said: said{
			otlp: func(r *otlpRequest) {
				s := profileOf(r).Samples[0]
				s.Values[0] = 1 << 62
				profileOf(r).Samples = append(profileOf(r).Samples, s)
			},
			pprof: func(p *pprofFile) {
				p.Sample[0].Value[0] = 1 << 62
				p.Sample = append(p.Sample, p.Sample[0])
			},
			arrow:  func(r arrowRow) []arrowRow { r["value"] = 1 << 62; return []arrowRow{r, r} },
			folded: "main;work 4611686018427387904\nmain;work 4611686018427387904\n", speedscope: speedscopeOf("[[0,1]]", "[1e19]")}},

		{name: "no stack", outcome: "ok", want: `{service_name="api"}  4`, said: said{
			otlp:   func(r *otlpRequest) { profileOf(r).Samples[0].StackIndex = 0 },
			pprof:  func(p *pprofFile) { p.Sample[0].LocationId = nil },
			arrow:  one(func(r arrowRow) { r["stacktrace"] = []map[string]any{} }),
			folded: "[no stack] 4\n", speedscope: speedscopeOf("[[]]", "[4]")}},
		{name: "no samples", outcome: "ok", want: "", said: said{
			otlp:   func(r *otlpRequest) { profileOf(r).Samples = nil },
			pprof:  func(p *pprofFile) { p.Sample = nil },
			arrow:  func(arrowRow) []arrowRow { return nil },
			folded: "# nothing happened\n", speedscope: speedscopeOf("[]", "[]")}},
		{name: "samples of zero", outcome: "ok", want: "", said: said{
			otlp:   func(r *otlpRequest) { profileOf(r).Samples[0].Values[0] = 0 },
			pprof:  func(p *pprofFile) { p.Sample[0].Value[0] = 0 },
			arrow:  one(func(r arrowRow) { r["value"] = 0 }),
			folded: "main;work 0\n", speedscope: speedscopeOf("[[0,1]]", "[0]")}},
		{name: "neither resource nor labels", outcome: "ok", want: `{service_name="unknown_service"} main;work 4`, said: said{
			otlp: func(r *otlpRequest) {
				r.ResourceProfiles[0].Resource, r.ResourceProfiles[0].ScopeProfiles[0].Scope = nil, nil
			},
			pprof: func(*pprofFile) {}, labels: []profile.Label{},
			arrow: one(func(r arrowRow) { r["labels.service_name"] = "" })}},

		{name: "a label twice", outcome: "ok", want: `{region="us", service_name="api"} main;work 4`, said: said{
			otlp: label("eu", "us"), pprof: func(*pprofFile) {},
			labels: []profile.Label{{Name: "service_name", Value: "api"}, {Name: "region", Value: "eu"}, {Name: "region", Value: "us"}}}},
		{name: "a label twice in a name", outcome: "ok", want: `{region="us", service_name="api"} main;work 4`, said: said{
			name: "api{region=eu,region=us}", folded: "main;work 4\n", speedscope: speedscopeOf("[[0,1]]", "[4]")}},
		{name: "a label without a value", outcome: "ok", want: good, said: said{
			otlp: label(""), pprof: func(*pprofFile) {}, labels: []profile.Label{{Name: "service_name", Value: "api"}, {Name: "region"}}}},
		{name: "a label without a name", outcome: "ok", want: good, said: said{
			otlp: func(r *otlpRequest) {
				label("eu")(r)
				r.ResourceProfiles[0].Resource.Attributes[1].Key = ""
			},
			pprof: func(*pprofFile) {}, labels: []profile.Label{{Name: "service_name", Value: "api"}, {Value: "eu"}}}},

		{name: "a period below zero", outcome: "invalid", want: "-5", said: said{
			otlp:  func(r *otlpRequest) { profileOf(r).Period = -5 },
			arrow: one(func(r arrowRow) { r["period"] = -5 })}},
		{name: "a time below zero", outcome: "invalid", want: "time", said: said{
			otlp:  func(r *otlpRequest) { profileOf(r).TimeUnixNano = 1 << 63 },
			arrow: one(func(r arrowRow) { r["timestamp"] = -5 })}},
		{name: "a duration below zero", outcome: "invalid", want: "duration", said: said{
			otlp:  func(r *otlpRequest) { profileOf(r).DurationNano = 1 << 63 },
			arrow: one(func(r arrowRow) { r["duration"] = -5 })}},
		{name: "times below zero, which the library takes", outcome: "ok", want: good, said: said{
			pprof: func(p *pprofFile) { p.Period, p.TimeNanos, p.DurationNanos = -5, -5, -5 }}},
		{name: "an end beyond all times", outcome: "invalid", want: "duration", said: said{
			otlp:  func(r *otlpRequest) { profileOf(r).DurationNano = math.MaxInt64 },
			pprof: func(p *pprofFile) { p.DurationNanos = math.MaxInt64 },
			arrow: one(func(r arrowRow) { r["duration"] = math.MaxInt64 })}},
		{name: "in the future", outcome: "limit", want: "limit future is 10m0s", said: said{
			otlp:  func(r *otlpRequest) { profileOf(r).TimeUnixNano += uint64(time.Hour) },
			pprof: func(p *pprofFile) { p.TimeNanos += int64(time.Hour) },
			arrow: one(func(r arrowRow) { r["timestamp"] = testNow.Add(time.Hour).UnixNano() })}},

		{name: "the second is bad", outcome: "invalid", want: "-4", said: said{
			otlp: func(r *otlpRequest) {
				bad := proto.CloneOf(profileOf(r))
				bad.Samples[0].Values[0] = -4
				r.ResourceProfiles[0].ScopeProfiles[0].Profiles = append(r.ResourceProfiles[0].ScopeProfiles[0].Profiles, bad)
			},
			pprof: func(p *pprofFile) {
				bad := proto.CloneOf(p.Sample[0])
				bad.Value[0] = -4
				p.Sample = append(p.Sample, bad)
			},
			arrow:  two(func(r arrowRow) { r["value"] = -4 }),
			folded: "main;work 4\nmain;work;deep -4\n", speedscope: speedscopeOf("[[0,1],[0]]", "[4,-4]")}},

		{name: "too deep", outcome: "limit", want: "limit frames_per_stack is 1", limits: limits.Limits{FramesPerStack: 1}, said: said{
			otlp: nothing, pprof: func(*pprofFile) {}, arrow: one(func(arrowRow) {}), folded: "main;work 4\n", speedscope: speedscopeOf("[[0,1]]", "[4]")}},
		{name: "too many samples", outcome: "limit", want: "limit samples_per_request is 1", limits: limits.Limits{SamplesPerRequest: 1}, said: said{
			otlp: func(r *otlpRequest) {
				profileOf(r).Samples = append(profileOf(r).Samples, &profilesv1.Sample{Values: []int64{1}})
			},
			pprof:  func(p *pprofFile) { p.Sample = append(p.Sample, &googlev1.Sample{Value: []int64{1}}) },
			arrow:  two(func(r arrowRow) { r["stacktrace"] = []map[string]any{} }),
			folded: "main;work 4\nmain 1\n", speedscope: speedscopeOf("[[0,1],[0]]", "[4,1]")}},
		{name: "too many series", outcome: "limit", want: "limit series_per_request is 1 ", limits: limits.Limits{SeriesPerRequest: 1}, said: said{
			otlp: func(r *otlpRequest) {
				r.Dictionary.AttributeTable = append(r.Dictionary.AttributeTable, &profilesv1.KeyValueAndUnit{KeyStrindex: 5, Value: &commonv1.AnyValue{Value: &commonv1.AnyValue_StringValue{StringValue: "eu"}}})
				profileOf(r).Samples = append(profileOf(r).Samples, &profilesv1.Sample{Values: []int64{1}, AttributeIndices: []int32{1}})
			},
			pprof: func(p *pprofFile) {
				p.Sample = append(p.Sample, &googlev1.Sample{Value: []int64{1}, Label: []*googlev1.Label{{Key: 5, Str: 6}}})
			},
			arrow: two(func(r arrowRow) { r["labels.service_name"] = "another" })}},
		{name: "a long type", outcome: "limit", want: "limit label_value_bytes is 4096", said: said{
			otlp:  func(r *otlpRequest) { r.Dictionary.StringTable[1] = strings.Repeat("cpu", 2000) },
			pprof: func(p *pprofFile) { p.StringTable[1] = strings.Repeat("cpu", 2000) },
			arrow: one(func(r arrowRow) { r["sample_type"] = strings.Repeat("cpu", 2000) })}},
		{name: "a long value of a label", outcome: "limit", want: "limit label_value_bytes is 2", limits: limits.Limits{LabelValueBytes: 2}, said: said{
			otlp: nothing, pprof: func(*pprofFile) {}, arrow: one(func(arrowRow) {}), folded: "main;work 4\n", speedscope: speedscopeOf("[[0,1]]", "[4]")}},

		{name: "another format", outcome: "invalid", said: said{raw: []byte("main;work 4\n"), folded: speedscopeOf("[[0,1]]", "[4]"), speedscope: "main;work 4\n"}},
		{name: "a bomb in it", outcome: "limit", want: "limit decompressed_bytes is 1048576", limits: limits.Limits{DecompressedBytes: 1 << 20}, said: said{raw: bomb(64)}},
		{name: "a torn packing in it", outcome: "invalid", want: "unexpected EOF", said: said{raw: bomb(1)[:100]}},
	} {
		c.said.sayings(t, func(how, door string, send func(*doors) error) {
			t.Run(c.name+"/"+how, func(t *testing.T) {
				d := openDoors(t, c.limits)
				err := send(d)
				stored := d.stored()
				switch {
				case c.outcome == "ok" && (err != nil || stored != c.want):
					t.Errorf("%v, stored\n%s\nwant\n%s", err, stored, c.want)
				case c.outcome != "ok" && (err == nil || !strings.Contains(err.Error(), c.want)):
					t.Errorf("got %v, want something about %s", err, c.want)
				case c.outcome != "ok" && stored != "":
					t.Errorf("stored in spite of %v:\n%s", err, stored)
				}
				if n := d.count("perfuse_ingest_requests_total", door, c.outcome); n != 1 {
					t.Errorf("%g requests with the outcome %s: %v", n, c.outcome, err)
				}
				if c.limits != (limits.Limits{}) {
					return // which a good profile exceeds, too
				}
				if err := d.post(IngestPath+"?name=api&units=objects", "", []byte("main;work 4\n")); err != nil || d.stored() != good {
					t.Errorf("a good profile after it: %v", err)
				}
			})
		})
	}
}

// TestManySeries: a pprof of a million series, which takes 1.7 GB to read to its end, is not.
func TestManySeries(t *testing.T) {
	p := goodPprof()
	for i := range 1_000_000 {
		p.StringTable = append(p.StringTable, fmt.Sprintf("%x", i))
		p.Sample = append(p.Sample, &googlev1.Sample{LocationId: []uint64{1}, Value: []int64{1}, Label: []*googlev1.Label{{Key: 5, Str: int64(8 + i)}}})
	}
	raw, err := proto.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	in := newIngester(t, &keeper{}, limits.Limits{})
	n := limitstest.Allocated(func() {
		err = in.Scraped(t.Context(), Scraped{Labels: profile.NewLabels(profile.Label{Name: "service_name", Value: "api"}), Body: bytes.NewReader(raw)})
	})
	if err == nil || !strings.Contains(err.Error(), "limit series_per_request is 10000") {
		t.Errorf("got %v", err)
	}
	if n > readCost*int64(len(raw)) {
		t.Errorf("%d MiB are allocated for %d", n>>20, len(raw)>>20)
	}
}

// TestNoUTF8 sends names that are no text at every door: they are refused, or stored with a mark for what is no text.
func TestNoUTF8(t *testing.T) {
	s := said{
		otlp: func(*otlpRequest) {}, pprof: func(*pprofFile) {}, arrow: one(func(arrowRow) {}), folded: "main;work 4\n",
		speedscope: speedscopeOf("[[0,1]]", "[4]"), replace: [2]string{"work", "wo\xff\xfe"},
	}
	s.sayings(t, func(how, door string, send func(*doors) error) {
		d := openDoors(t, limits.Limits{})
		err := send(d)
		got := strings.ReplaceAll(d.stored(), "\uFFFD\uFFFD", "\uFFFD") // JSON's decoder marks each byte
		if strings.HasPrefix(how, "OTLP") {                             // protobuf has no other strings than UTF-8
			if err == nil || got != "" || !strings.Contains(err.Error(), "UTF-8") {
				t.Errorf("%s: %v, stored %q", how, err, got)
			}
		} else if err != nil || got != `{service_name="api"} main;wo`+"\uFFFD"+" 4" {
			t.Errorf("%s: %v, stored %q", how, err, got)
		}
	})
}

// stored is the stacks that were stored since it was asked last.
func (d *doors) stored() string {
	d.t.Helper()
	var out []string
	for _, b := range d.store.batches {
		if err := storage.Validate(b); err != nil {
			d.t.Errorf("the batch breaks the data model: %v", err)
		}
		for i := range b.Profiles {
			p := &b.Profiles[i]
			for _, s := range p.Samples {
				var names []string
				for _, f := range slices.Backward(b.Dictionary.Stacks[s.Stack]) {
					names = append(names, b.Dictionary.Functions[b.Dictionary.Frames[f].Lines[0].Function].Name)
				}
				out = append(out, fmt.Sprintf("%s %s %d", p.Labels, strings.Join(names, ";"), s.Value))
			}
		}
	}
	d.store.batches = nil
	return strings.Join(out, "\n")
}
