package ingest

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/apache/arrow-go/v18/arrow"
	pprof "github.com/google/pprof/profile"
	"github.com/klauspost/compress/gzip"
	"github.com/prometheus/client_golang/prometheus"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/profiles/v1development"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	profilesv1 "go.opentelemetry.io/proto/otlp/profiles/v1development"
	resourcev1 "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/proto"

	"github.com/perfuse/perfuse/profile"
	profilestorev1alpha1 "github.com/perfuse/perfuse/proto/parca/profilestore/v1alpha1"
	"github.com/perfuse/perfuse/proto/parca/profilestore/v1alpha1/profilestorev1alpha1connect"
	pushv1 "github.com/perfuse/perfuse/proto/push/v1"
	typesv1 "github.com/perfuse/perfuse/proto/types/v1"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/server/limits/limitstest"
)

// measured is a profile to be sent through any door: two samples, which may differ in the label tenant.
type measured struct {
	at      time.Time
	label   [2]string // beside service_name
	tenants [2]string
	frames  int
}

func (m measured) pprof(t testing.TB) []byte {
	p := &pprof.Profile{
		SampleType: []*pprof.ValueType{{Type: "cpu", Unit: "nanoseconds"}}, PeriodType: &pprof.ValueType{Type: "cpu", Unit: "nanoseconds"},
		TimeNanos: m.at.UnixNano(), Period: 1,
	}
	for i := range m.frames + 1 {
		f := &pprof.Function{ID: uint64(i + 1), Name: fmt.Sprint("f", i)}
		p.Function = append(p.Function, f)
		p.Location = append(p.Location, &pprof.Location{ID: uint64(i + 1), Line: []pprof.Line{{Function: f}}})
	}
	for i, tenant := range m.tenants {
		s := &pprof.Sample{Location: p.Location[i : i+m.frames], Value: []int64{1}}
		if tenant != "" {
			s.Label = map[string][]string{"tenant": {tenant}}
		}
		p.Sample = append(p.Sample, s)
	}
	var b bytes.Buffer
	if err := p.WriteUncompressed(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (m measured) otlp() proto.Message {
	str := func(s string) *commonv1.AnyValue {
		return &commonv1.AnyValue{Value: &commonv1.AnyValue_StringValue{StringValue: s}}
	}
	d := &profilesv1.ProfilesDictionary{StringTable: []string{"", "cpu", "nanoseconds", "tenant"}}
	d.FunctionTable, d.LocationTable, d.StackTable = []*profilesv1.Function{{}}, []*profilesv1.Location{{}}, []*profilesv1.Stack{{}}
	d.AttributeTable = []*profilesv1.KeyValueAndUnit{{}}
	p := &profilesv1.Profile{SampleType: &profilesv1.ValueType{TypeStrindex: 1, UnitStrindex: 2}, PeriodType: &profilesv1.ValueType{TypeStrindex: 1, UnitStrindex: 2},
		TimeUnixNano: uint64(m.at.UnixNano()), Period: 1}
	for i := range m.frames + 1 {
		d.StringTable = append(d.StringTable, fmt.Sprint("f", i))
		d.FunctionTable = append(d.FunctionTable, &profilesv1.Function{NameStrindex: int32(i + 4)})
		d.LocationTable = append(d.LocationTable, &profilesv1.Location{Lines: []*profilesv1.Line{{FunctionIndex: int32(i + 1)}}})
	}
	for i, tenant := range m.tenants {
		var stack []int32
		for j := range m.frames {
			stack = append(stack, int32(i+j+1))
		}
		d.StackTable = append(d.StackTable, &profilesv1.Stack{LocationIndices: stack})
		s := &profilesv1.Sample{StackIndex: int32(i + 1), Values: []int64{1}}
		if tenant != "" {
			d.AttributeTable = append(d.AttributeTable, &profilesv1.KeyValueAndUnit{KeyStrindex: 3, Value: str(tenant)})
			s.AttributeIndices = []int32{int32(len(d.AttributeTable) - 1)}
		}
		p.Samples = append(p.Samples, s)
	}
	r := &resourcev1.Resource{Attributes: []*commonv1.KeyValue{{Key: "service.name", Value: str("api")}}}
	if m.label[0] != "" {
		r.Attributes = append(r.Attributes, &commonv1.KeyValue{Key: m.label[0], Value: str(m.label[1])})
	}
	return &collectorv1.ExportProfilesServiceRequest{Dictionary: d, ResourceProfiles: []*profilesv1.ResourceProfiles{{
		Resource: r, ScopeProfiles: []*profilesv1.ScopeProfiles{{Profiles: []*profilesv1.Profile{p}}},
	}}}
}

func (m measured) record(t testing.TB) []byte {
	line := arrow.StructOf(field("line", arrow.PrimitiveTypes.Int64), field("function_system_name", runsOfBytes), field("function_filename", runsOfBytes),
		field("function_start_line", arrow.PrimitiveTypes.Int64))
	location := arrow.StructOf(field("address", arrow.PrimitiveTypes.Uint64), field("frame_type", runsOfBytes), field("mapping_file", runsOfBytes),
		field("mapping_build_id", runsOfBytes), field("lines", arrow.ListOf(line)))
	fields := []arrow.Field{field("stacktrace", arrow.ListOf(location)), field("value", arrow.PrimitiveTypes.Int64)}
	for _, name := range strings.Fields("producer sample_type sample_unit period_type period_unit labels.service_name labels.tenant") {
		fields = append(fields, field(name, runsOfBytes))
	}
	for _, name := range strings.Fields("period duration timestamp") {
		fields = append(fields, field(name, runsOfNumbers))
	}
	if m.label[0] != "" {
		fields = append(fields, field("labels."+m.label[0], runsOfBytes))
	}
	var rows []map[string]any
	for i, tenant := range m.tenants {
		var stack []map[string]any
		for j := range m.frames {
			stack = append(stack, map[string]any{"address": 0, "frame_type": "cpython", "mapping_file": "", "mapping_build_id": "", "lines": []map[string]any{
				{"line": 1, "function_system_name": fmt.Sprint("f", i+j), "function_filename": "", "function_start_line": 0}}})
		}
		row := map[string]any{"stacktrace": stack, "value": 1, "producer": "parca_agent", "sample_type": "cpu", "sample_unit": "nanoseconds",
			"period_type": "cpu", "period_unit": "nanoseconds", "period": 1, "duration": 0, "timestamp": m.at.UnixNano(), "labels.service_name": "api", "labels.tenant": tenant}
		if m.label[0] != "" {
			row["labels."+m.label[0]] = m.label[1]
		}
		rows = append(rows, row)
	}
	return stream(t, fromJSON(t, arrow.NewSchema(fields, nil), rows))
}

// The formats of Pyroscope's door beside pprof.
const (
	doorFolded     = doorIngest + " folded"
	doorSpeedscope = doorIngest + " speedscope"
	doorJFR        = doorIngest + " jfr"
)

func (m measured) folded() []byte {
	var b bytes.Buffer
	for i := range m.tenants {
		for j := range m.frames {
			fmt.Fprintf(&b, "f%d;", i+j)
		}
		fmt.Fprintln(&b, "a function whose name is long enough for every limit 1")
	}
	return b.Bytes()
}

// speedscope has a profile for each tenant.
func (m measured) speedscope(t testing.TB) []byte {
	type object map[string]any
	var frames, profiles []object
	for i := range m.frames + 1 {
		frames = append(frames, object{"name": fmt.Sprint("f", i)})
	}
	byTenant := map[string]object{}
	for i, tenant := range m.tenants {
		p := byTenant[tenant]
		if p == nil {
			p = object{"type": "sampled", "name": tenant, "unit": "nanoseconds", "startValue": 0, "endValue": 1, "samples": [][]int{}, "weights": []int{}}
			byTenant[tenant] = p
			profiles = append(profiles, p)
		}
		var stack []int
		for j := range m.frames {
			stack = append(stack, i+j)
		}
		p["samples"], p["weights"] = append(p["samples"].([][]int), stack), append(p["weights"].([]int), 1)
	}
	b, err := json.Marshal(object{"$schema": "https://www.speedscope.app/file-format-schema.json", "shared": object{"frames": frames}, "profiles": profiles})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// recording is a real one, moved to when the profile was taken.
func (m measured) recording(t testing.TB) []byte {
	_, b := javaRecording(t)
	for chunk := b; len(chunk) > 0; chunk = chunk[binary.BigEndian.Uint64(chunk[8:]):] {
		binary.BigEndian.PutUint64(chunk[32:], uint64(m.at.UnixNano())) // its start
		binary.BigEndian.PutUint64(chunk[40:], 0)                       // its duration
	}
	return b
}

// doors is an ingester with all its doors, and what they count.
type doors struct {
	t        testing.TB
	url      string
	client   *http.Client
	store    *keeper
	ingester *Ingester
	registry *prometheus.Registry
}

func openDoors(t *testing.T, lim limits.Limits) *doors {
	d := &doors{t: t, store: &keeper{}, registry: prometheus.NewRegistry()}
	in, err := New(Options{Store: d.store, Limits: lim, Now: func() time.Time { return testNow }, Registerer: d.registry, Refusals: limits.NewRefusals(d.registry)})
	if err != nil {
		t.Fatal(err)
	}
	d.ingester = in
	mux := http.NewServeMux()
	for path, h := range map[string]http.Handler{
		ExportProcedure: in.RPC(), ExportPath: in.HTTP(), PushProcedure: in.Push(), WriteRawProcedure: in.WriteRaw(),
		WriteArrowProcedure: in.WriteArrow(), WriteProcedure: in.Write(), IngestPath: in.Ingest(),
	} {
		mux.Handle(path, h)
	}
	s := httptest.NewUnstartedServer(mux)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	d.url, d.client = s.URL, &http.Client{Transport: transport}
	return d
}

// post sends a body, compressed, and returns the answer's text unless that is a success.
func (d *doors) post(path, contentType string, body []byte) error {
	var packed bytes.Buffer
	zw := gzip.NewWriter(&packed)
	zw.Write(body)
	zw.Close()
	r, err := http.NewRequest(http.MethodPost, d.url+path, &packed)
	if err != nil {
		d.t.Fatal(err)
	}
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("Content-Encoding", "gzip")
	resp, err := d.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s", resp.Status, answer)
	}
	return err
}

func (d *doors) message(path, contentType string, m proto.Message) error {
	body, err := proto.Marshal(m)
	if err != nil {
		d.t.Fatal(err)
	}
	return d.post(path, contentType, body)
}

// send sends a profile through a door.
func (d *doors) send(door string, m measured) error {
	labels := map[string]string{"service_name": "api"}
	if m.label[0] != "" {
		labels[m.label[0]] = m.label[1]
	}
	switch door {
	case doorRPC:
		return d.message(ExportProcedure, "application/proto", m.otlp())
	case doorHTTP:
		return d.message(ExportPath, "application/x-protobuf", m.otlp())
	case doorPush:
		s := &pushv1.RawProfileSeries{Samples: []*pushv1.RawSample{{RawProfile: m.pprof(d.t)}}}
		for k, v := range labels {
			s.Labels = append(s.Labels, &typesv1.LabelPair{Name: k, Value: v})
		}
		return d.message(PushProcedure, "application/proto", &pushv1.PushRequest{Series: []*pushv1.RawProfileSeries{s}})
	case doorWriteRaw:
		s := &profilestorev1alpha1.RawProfileSeries{Samples: []*profilestorev1alpha1.RawSample{{RawProfile: m.pprof(d.t)}}, Labels: &profilestorev1alpha1.LabelSet{}}
		for k, v := range labels {
			s.Labels.Labels = append(s.Labels.Labels, &profilestorev1alpha1.Label{Name: k, Value: v})
		}
		return d.message(WriteRawProcedure, "application/proto", &profilestorev1alpha1.WriteRawRequest{Series: []*profilestorev1alpha1.RawProfileSeries{s}})
	case doorIngest:
		return d.ingest(m, "pprof", m.pprof(d.t))
	case doorFolded:
		return d.ingest(m, "folded", m.folded())
	case doorSpeedscope:
		return d.ingest(m, "speedscope", m.speedscope(d.t))
	case doorJFR:
		return d.ingest(m, "jfr", m.recording(d.t))
	case doorScrape:
		s := Scraped{Body: bytes.NewReader(limitstest.Pack(d.t, "gzip", m.pprof(d.t)))}
		for k, v := range labels {
			s.Labels = profile.NewLabels(append(s.Labels, profile.Label{Name: k, Value: v})...)
		}
		return d.ingester.Scraped(d.t.Context(), s)
	case doorWriteArrow:
		return d.message(WriteArrowProcedure, "application/proto", &profilestorev1alpha1.WriteArrowRequest{IpcBuffer: m.record(d.t)})
	case doorWrite:
		return d.write(m.record(d.t))
	}
	panic("no door " + door)
}

// ingest posts a profile in one of the formats of Pyroscope's door.
func (d *doors) ingest(m measured, format string, body []byte) error {
	name := "api.cpu"
	if m.label[0] != "" {
		name += "{" + m.label[0] + "=" + m.label[1] + "}"
	}
	at := fmt.Sprint(m.at.UnixNano())
	return d.post(IngestPath+"?"+url.Values{"name": {name}, "format": {format}, "from": {at}, "until": {at}}.Encode(), "application/octet-stream", body)
}

// write sends a record over a stream, and waits until the request is booked.
func (d *doors) write(record []byte) error {
	s, err := profilestorev1alpha1connect.NewProfileStoreServiceClient(d.client, d.url, connect.WithGRPC(), connect.WithSendGzip()).Write(context.Background())
	if err != nil {
		return err
	}
	if err := s.Send(&profilestorev1alpha1.WriteRequest{Record: record}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	s.CloseRequest()
	defer s.CloseResponse()
	if _, err = s.Receive(); err != nil {
		return err
	}
	if _, err = s.Receive(); errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// count returns what a metric says for one set of label values.
func (d *doors) count(name string, values ...string) (n float64) {
	families, err := d.registry.Gather()
	if err != nil {
		d.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var got []string
			for _, l := range m.GetLabel() {
				got = append(got, l.GetValue())
			}
			if f.GetName() == name && slices.Equal(got, values) {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

// TestDoors exceeds every limit at every door: each refuses the request as a whole, names the limit and its setting in the
// same words, and counts it. The same profile without a limit is stored.
func TestDoors(t *testing.T) {
	good := measured{at: testNow, frames: 2}
	with := func(f func(*measured)) measured { m := good; f(&m); return m }
	labelled := with(func(m *measured) { m.label = [2]string{"some_label", "some value"} })
	all := []string{doorRPC, doorHTTP, doorPush, doorWriteRaw, doorIngest, doorFolded, doorSpeedscope, doorJFR, doorWriteArrow, doorWrite, doorScrape}
	oneSeries := []string{doorFolded, doorJFR}
	for _, c := range []struct {
		limit   limits.Name
		limits  limits.Limits
		profile measured
		outcome string
	}{
		{"", limits.Limits{}, good, "ok"},
		{"", limits.Limits{}, labelled, "ok"},
		{limits.BodyBytes, limits.Limits{BodyBytes: 30}, good, "limit"},
		{limits.DecompressedBytes, limits.Limits{DecompressedBytes: 60}, good, "limit"},
		{limits.DecodedBytes, limits.Limits{DecodedBytes: 200}, good, "limit"},
		{limits.InFlightBytes, limits.Limits{InFlightBytes: 30}, good, "busy"},
		{limits.SamplesPerRequest, limits.Limits{SamplesPerRequest: 1}, good, "limit"},
		{limits.SeriesPerRequest, limits.Limits{SeriesPerRequest: 1}, with(func(m *measured) { m.tenants = [2]string{"a", "b"} }), "limit"},
		{limits.FramesPerStack, limits.Limits{FramesPerStack: 1}, good, "limit"},
		{limits.LabelsPerSeries, limits.Limits{LabelsPerSeries: 1}, labelled, "limit"},
		{limits.LabelNameBytes, limits.Limits{LabelNameBytes: 9}, labelled, "limit"},
		{limits.LabelValueBytes, limits.Limits{LabelValueBytes: 5}, labelled, "limit"},
		{limits.Future, limits.Limits{}, with(func(m *measured) { m.at = testNow.Add(time.Hour) }), "limit"},
		{limits.Past, limits.Limits{Past: time.Minute}, with(func(m *measured) { m.at = testNow.Add(-time.Hour) }), "limit"},
	} {
		for _, door := range all {
			if c.limit == limits.SeriesPerRequest && slices.Contains(oneSeries, door) {
				continue
			}
			t.Run(fmt.Sprintf("%s %s", c.limit, door), func(t *testing.T) {
				d := openDoors(t, c.limits)
				err := d.send(door, c.profile)
				stored := d.store.take()
				if c.limit == "" {
					if err != nil || strings.Count(stored, "process_cpu:cpu:nanoseconds:cpu:nanoseconds") != 1 {
						t.Errorf("%v, stored:\n%s", err, stored)
					}
				} else {
					for _, want := range []string{"limit " + string(c.limit) + " is ", "limits." + string(c.limit) + " in the", "PERFUSE_LIMITS_" + strings.ToUpper(string(c.limit))} {
						if err == nil || !strings.Contains(err.Error(), want) {
							t.Errorf("got %v, want something with %q", err, want)
						}
					}
					if stored != "" {
						t.Errorf("stored in spite of that:\n%s", stored)
					}
				}
				booked, _, _ := strings.Cut(door, " ")
				if n := d.count("perfuse_ingest_requests_total", booked, c.outcome); n != 1 {
					t.Errorf("%g requests with the outcome %s", n, c.outcome)
				}
				if n := d.count("perfuse_limits_refusals_total", string(c.limit)); c.limit != "" && n != 1 {
					t.Errorf("%g refusals are counted", n)
				}
			})
		}
	}
}
