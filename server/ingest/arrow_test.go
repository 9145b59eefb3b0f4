package ingest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"google.golang.org/protobuf/proto"

	profilestorev1alpha1 "github.com/perfuse/perfuse/proto/parca/profilestore/v1alpha1"
	"github.com/perfuse/perfuse/proto/parca/profilestore/v1alpha1/profilestorev1alpha1connect"
	"github.com/perfuse/perfuse/server/limits"
)

func stream(t testing.TB, rec arrow.Record, opts ...ipc.Option) []byte {
	t.Helper()
	var b bytes.Buffer
	w := ipc.NewWriter(&b, append(opts, ipc.WithSchema(rec.Schema()))...)
	if err := errors.Join(w.Write(rec), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// The columns of the agent's first schema: runs of dictionary entries, which are bytes.
var (
	dictionaryType = &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Uint32, ValueType: arrow.BinaryTypes.Binary}
	runsOfBytes    = arrow.RunEndEncodedOf(arrow.PrimitiveTypes.Int32, dictionaryType)
	runsOfNumbers  = arrow.RunEndEncodedOf(arrow.PrimitiveTypes.Int32, arrow.PrimitiveTypes.Int64)
	runsOfUnsigned = arrow.RunEndEncodedOf(arrow.PrimitiveTypes.Int32, arrow.PrimitiveTypes.Uint64)
)

func field(name string, typ arrow.DataType) arrow.Field {
	return arrow.Field{Name: name, Type: typ, Nullable: true}
}

// fromJSON makes a record of rows; strings in them are given as they are.
func fromJSON(t testing.TB, schema *arrow.Schema, rows []map[string]any) arrow.Record {
	t.Helper()
	var encode func(v any) any
	encode = func(v any) any {
		switch v := v.(type) {
		case string:
			return base64.StdEncoding.EncodeToString([]byte(v))
		case []map[string]any:
			out := make([]any, len(v))
			for i, e := range v {
				out[i] = encode(e)
			}
			return out
		case map[string]any:
			out := map[string]any{}
			for k, e := range v {
				out[k] = encode(e)
			}
			return out
		}
		return v
	}
	text, err := json.Marshal(encode(rows))
	if err != nil {
		t.Fatal(err)
	}
	rec, _, err := array.RecordFromJSON(memory.DefaultAllocator, schema, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// firstSamples is two samples of one stack and one of another, in the agent's first schema.
func firstSamples(t testing.TB) arrow.Record {
	schema := arrow.NewSchema([]arrow.Field{
		field("labels.comm", runsOfBytes), field("labels.thread_id", runsOfBytes),
		field("stacktrace_id", runsOfBytes), field("value", arrow.PrimitiveTypes.Int64),
		field("producer", runsOfBytes), field("sample_type", runsOfBytes), field("sample_unit", runsOfBytes), field("period_type", runsOfBytes),
		field("period_unit", runsOfBytes), field("temporality", runsOfBytes),
		field("period", runsOfNumbers), field("duration", runsOfNumbers), field("timestamp", runsOfNumbers),
	}, nil)
	row := func(id, thread string, value int) map[string]any {
		return map[string]any{
			"labels.comm": "api", "labels.thread_id": thread, "stacktrace_id": id, "value": value,
			"producer": "parca_agent", "sample_type": "samples", "sample_unit": "count", "period_type": "cpu", "period_unit": "nanoseconds",
			"temporality": "delta", "period": 50_000_000, "duration": 1_000_000_000, "timestamp": testNow.UnixMilli(),
		}
	}
	return fromJSON(t, schema, []map[string]any{row("id-1", "7", 2), row("id-2", "8", 1), row("id-1", "9", 3)})
}

func firstStacks(t testing.TB, ids ...string) arrow.Record {
	line := arrow.StructOf(field("line", arrow.PrimitiveTypes.Int64), field("function_name", dictionaryType), field("function_system_name", dictionaryType),
		field("function_filename", runsOfBytes), field("function_start_line", arrow.PrimitiveTypes.Int64))
	location := arrow.StructOf(field("address", arrow.PrimitiveTypes.Uint64), field("frame_type", runsOfBytes),
		field("mapping_start", runsOfUnsigned), field("mapping_limit", runsOfUnsigned), field("mapping_offset", runsOfUnsigned),
		field("mapping_file", runsOfBytes), field("mapping_build_id", runsOfBytes), field("lines", arrow.ListOf(line)))
	schema := arrow.NewSchema([]arrow.Field{
		field("stacktrace_id", arrow.BinaryTypes.Binary), field("is_complete", arrow.FixedWidthTypes.Boolean), field("locations", arrow.ListOf(location)),
	}, nil)
	native := map[string]any{"address": 0x1234, "frame_type": "native", "mapping_file": "/bin/api", "mapping_build_id": "ABCD"}
	kernel := map[string]any{"address": 1, "frame_type": "kernel", "mapping_file": "[kernel.kallsyms]", "lines": []map[string]any{
		{"line": 0, "function_name": "vfs_read", "function_system_name": "", "function_filename": "vmlinux", "function_start_line": 0}}}
	python := map[string]any{"address": 0, "frame_type": "cpython", "lines": []map[string]any{
		{"line": 12, "function_name": "handler", "function_system_name": "", "function_filename": "app.py", "function_start_line": 10}}}
	rows := map[string]map[string]any{
		"id-1": {"stacktrace_id": "id-1", "is_complete": true, "locations": []map[string]any{kernel, native}},
		"id-2": {"stacktrace_id": "id-2", "is_complete": true, "locations": []map[string]any{python, native}},
	}
	var out []map[string]any
	for _, id := range ids {
		out = append(out, rows[id])
	}
	return fromJSON(t, schema, out)
}

const wantFirst = `process_cpu:cpu:nanoseconds:cpu:nanoseconds {comm="api", service_name="api"}
  12:00:00 for 1s, period 50000000
  [abcd /bin/api+0x1234];k:vfs_read(vmlinux:0)[ [kernel.kallsyms]+0x1] 100000000
  [abcd /bin/api+0x1234];int:handler(app.py:12) 50000000
  [abcd /bin/api+0x1234];k:vfs_read(vmlinux:0)[ [kernel.kallsyms]+0x1] 150000000
process_cpu:samples:count:cpu:nanoseconds {comm="api", service_name="api"}
  12:00:00 for 1s, period 50000000
  [abcd /bin/api+0x1234];k:vfs_read(vmlinux:0)[ [kernel.kallsyms]+0x1] 2
  [abcd /bin/api+0x1234];int:handler(app.py:12) 1
  [abcd /bin/api+0x1234];k:vfs_read(vmlinux:0)[ [kernel.kallsyms]+0x1] 3
`

// ingestServer serves an ingester's Parca doors as the server does.
func ingestServer(t *testing.T, in *Ingester) (profilestorev1alpha1connect.ProfileStoreServiceClient, func()) {
	mux := http.NewServeMux()
	mux.Handle(WriteProcedure, in.Write())
	mux.Handle(WriteArrowProcedure, in.WriteArrow())
	s := httptest.NewUnstartedServer(mux)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	return profilestorev1alpha1connect.NewProfileStoreServiceClient(&http.Client{Transport: transport}, s.URL, connect.WithGRPC()), s.Close
}

func open(t testing.TB, client profilestorev1alpha1connect.ProfileStoreServiceClient) *connect.BidiStreamForClientSimple[profilestorev1alpha1.WriteRequest, profilestorev1alpha1.WriteResponse] {
	t.Helper()
	s, err := client.Write(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestWrite is the conversation of an agent with the first schema.
func TestWrite(t *testing.T) {
	k := &keeper{}
	in := newIngester(t, k, limits.Limits{})
	client, stop := ingestServer(t, in)
	defer stop()
	talk := func(records ...[]byte) (wanted []string, err error) {
		s := open(t, client)
		defer s.CloseResponse()
		for i, r := range records {
			if err := s.Send(&profilestorev1alpha1.WriteRequest{Record: r}); err != nil {
				break // Receive says why
			}
			if i == len(records)-1 {
				s.CloseRequest()
			}
			answer, err := s.Receive()
			if err != nil {
				return wanted, err
			}
			if len(answer.Record) > 0 {
				r, err := ipc.NewReader(bytes.NewReader(answer.Record))
				if err != nil {
					return wanted, err
				}
				for r.Next() {
					for row := range int(r.Record().NumRows()) {
						wanted = append(wanted, string(r.Record().Column(0).(*array.Binary).Value(row)))
					}
				}
			}
		}
		_, err = s.Receive()
		return wanted, err
	}
	samples := stream(t, firstSamples(t))
	wanted, err := talk(samples, stream(t, firstStacks(t, "id-2", "id-1")))
	if err == nil || connect.CodeOf(err) != connect.CodeUnknown && !strings.Contains(err.Error(), "EOF") {
		t.Errorf("the stream ended with %v", err)
	}
	if got := strings.Join(wanted, " "); got != "id-1 id-2" {
		t.Errorf("asked for %q", got)
	}
	if got := k.take(); got != wantFirst {
		t.Errorf("got\n%swant\n%s", got, wantFirst)
	}
	for _, c := range []struct {
		name    string
		records [][]byte
		want    string
	}{
		{"a stack is missing", [][]byte{samples, stream(t, firstStacks(t, "id-1"))}, "the stack 69642d32 of row 1 is not among those that were sent"},
		{"no stacks", [][]byte{samples, samples}, "record: the column locations: want lists, it is missing"},
		{"no record", [][]byte{{}}, "the body is empty: want a WriteRequest"},
		{"garbage", [][]byte{[]byte("garbage!garbage!")}, "record: not an Arrow IPC stream"},
	} {
		if _, err := talk(c.records...); err == nil || !strings.Contains(err.Error(), c.want) || connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := k.take(); got != "" {
			t.Errorf("%s: stored in spite of an error:\n%s", c.name, got)
		}
	}
	s := open(t, client)
	s.CloseRequest()
	if _, err := s.Receive(); err == nil || !strings.Contains(err.Error(), "the stream has no records") {
		t.Errorf("an empty stream: %v", err)
	}
	s = open(t, client)
	if err := s.Send(&profilestorev1alpha1.WriteRequest{Record: samples}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Receive(); err != nil {
		t.Fatal(err)
	}
	s.CloseRequest()
	if _, err := s.Receive(); err == nil || !strings.Contains(err.Error(), "the stream ends before the stacks") {
		t.Errorf("half a conversation: %v", err)
	}
	if got := k.take(); got != "" {
		t.Errorf("half a conversation stored\n%s", got)
	}
	if held := in.gate.wire.Load(); held != 0 {
		t.Errorf("%d bytes are held after all left", held)
	}
}

// secondSamples is what firstSamples and firstStacks say, in the second schema. Later agents pack it in other ways.
func secondSamples(t testing.TB, later bool) arrow.Record {
	mem := memory.DefaultAllocator
	views := func(vs ...string) arrow.Array {
		b := array.NewStringViewBuilder(mem)
		for _, v := range vs {
			if v == "" {
				b.AppendNull()
			} else {
				b.AppendString(v)
			}
		}
		return b.NewArray()
	}
	entries := func(vs ...string) arrow.Array {
		b := array.NewDictionaryBuilder(mem, &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Uint32, ValueType: arrow.BinaryTypes.String}).(*array.BinaryDictionaryBuilder)
		for _, v := range vs {
			if v == "" {
				b.AppendNull()
			} else if err := b.AppendString(v); err != nil {
				t.Fatal(err)
			}
		}
		return b.NewArray()
	}
	runs := func(n int, v string) arrow.Array {
		b := array.NewRunEndEncodedBuilder(mem, arrow.PrimitiveTypes.Int32, arrow.BinaryTypes.String)
		b.Append(uint64(n))
		b.ValueBuilder().(*array.StringBuilder).Append(v)
		return b.NewArray()
	}
	signed := func(vs ...int64) arrow.Array {
		b := array.NewInt64Builder(mem)
		b.AppendValues(vs, nil)
		return b.NewArray()
	}
	unsigned := func(vs ...uint64) arrow.Array {
		b := array.NewUint64Builder(mem)
		b.AppendValues(vs, nil)
		return b.NewArray()
	}
	number := func(vs ...int64) arrow.Array {
		if !later {
			return signed(vs...)
		}
		out := make([]uint64, len(vs))
		for i, v := range vs {
			out[i] = uint64(v)
		}
		return unsigned(out...)
	}
	repeated := func(n int, v arrow.Array) arrow.Array {
		ends := array.NewInt32Builder(mem)
		ends.Append(int32(n))
		return array.NewRunEndEncodedArray(ends.NewArray(), v, n, 0)
	}
	word := views
	if later {
		word = entries
	}
	dictionary := func(values arrow.Array, indices ...uint32) arrow.Array {
		b := array.NewUint32Builder(mem)
		b.AppendValues(indices, nil)
		return array.NewDictionaryArray(&arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Uint32, ValueType: values.DataType()}, b.NewArray(), values)
	}
	structOf := func(names string, columns ...arrow.Array) arrow.Array {
		s, err := array.NewStructArray(columns, strings.Fields(names))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	list := func(values arrow.Array, view bool, bounds ...int32) arrow.Array { // start and length of each
		var offsets, sizes []int32
		for i := 0; i < len(bounds); i += 2 {
			offsets, sizes = append(offsets, bounds[i]), append(sizes, bounds[i+1])
		}
		if view {
			return array.MakeFromData(array.NewData(arrow.ListViewOf(values.DataType()), len(offsets), []*memory.Buffer{
				nil, memory.NewBufferBytes(arrow.Int32Traits.CastToBytes(offsets)), memory.NewBufferBytes(arrow.Int32Traits.CastToBytes(sizes)),
			}, []arrow.ArrayData{values.Data()}, 0, 0))
		}
		offsets = append(offsets, int32(values.Len()))
		return array.MakeFromData(array.NewData(arrow.ListOf(values.DataType()), len(sizes), []*memory.Buffer{
			nil, memory.NewBufferBytes(arrow.Int32Traits.CastToBytes(offsets)),
		}, []arrow.ArrayData{values.Data()}, 0, 0))
	}
	functions := dictionary(structOf("system_name filename start_line", views("vfs_read", "handler"), word("vmlinux", "app.py"), number(0, 10)), 0, 1)
	lines := structOf("line function", number(0, 12), functions)
	if later {
		lines = structOf("line column function", number(0, 12), number(0, 5), functions)
	}
	locations := structOf("address frame_type mapping_file mapping_build_id lines",
		unsigned(1, 0x1234, 0), word("kernel", "native", "cpython"), word("[kernel.kallsyms]", "/bin/api", ""), word("", "ABCD", ""),
		list(lines, later, 0, 1, 1, 0, 1, 1))
	stacks := list(dictionary(locations, 0, 1, 2, 1), true, 0, 2, 2, 2, 0, 2)
	times := array.NewTimestampBuilder(mem, &arrow.TimestampType{Unit: arrow.Nanosecond, TimeZone: "UTC"})
	for range 3 {
		times.Append(arrow.Timestamp(testNow.UnixNano()))
	}
	columns := []arrow.Array{
		stacks, signed(2, 1, 3), runs(3, "parca_agent"), runs(3, "samples"), runs(3, "count"), runs(3, "cpu"), runs(3, "nanoseconds"), runs(3, "delta"),
		repeated(3, signed(50_000_000)), repeated(3, number(1_000_000_000)), times.NewArray(),
	}
	names := strings.Fields("stacktrace value producer sample_type sample_unit period_type period_unit temporality period duration timestamp")
	comm := repeated(3, entries("api"))
	if later {
		columns, names = append(columns, structOf("comm", comm)), append(names, "labels")
	} else {
		columns, names = append(columns, comm), append(names, "labels.comm")
	}
	fields := make([]arrow.Field, len(columns))
	for i, c := range columns {
		fields[i] = field(names[i], c.DataType())
	}
	return array.NewRecord(arrow.NewSchema(fields, nil), columns, 3)
}

func arrowRequest(t testing.TB, record []byte) *rawRequest {
	t.Helper()
	body, err := proto.Marshal(&profilestorev1alpha1.WriteArrowRequest{IpcBuffer: record})
	if err != nil {
		t.Fatal(err)
	}
	return &rawRequest{body: body}
}

func TestWriteArrow(t *testing.T) {
	for name, rec := range map[string]arrow.Record{"first agents": secondSamples(t, false), "later agents": secondSamples(t, true)} {
		for packing, opts := range map[string][]ipc.Option{"plain": nil, "LZ4": {ipc.WithLZ4()}} {
			k := &keeper{}
			in := newIngester(t, k, limits.Limits{})
			if err := in.writeArrow(t.Context(), arrowRequest(t, stream(t, rec, opts...))); err != nil {
				t.Errorf("%s, %s: %v", name, packing, err)
				continue
			}
			if got := k.take(); got != wantFirst {
				t.Errorf("%s, %s: got\n%swant\n%s", name, packing, got, wantFirst)
			}
		}
	}
	// Also as a stream, which is how agents send it to servers that know no WriteArrow.
	k := &keeper{}
	client, stop := ingestServer(t, newIngester(t, k, limits.Limits{}))
	defer stop()
	s := open(t, client)
	if err := s.Send(&profilestorev1alpha1.WriteRequest{Record: stream(t, secondSamples(t, true))}); err != nil {
		t.Fatal(err)
	}
	s.CloseRequest()
	if answer, err := s.Receive(); err != nil || len(answer.Record) > 0 {
		t.Errorf("answer %v %v", answer, err)
	}
	if got := k.take(); got != wantFirst {
		t.Errorf("as a stream: got\n%s", got)
	}
	if _, err := client.WriteArrow(t.Context(), &profilestorev1alpha1.WriteArrowRequest{}); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("an empty request: %v", err)
	}
}

func TestWriteArrowLimits(t *testing.T) {
	record := stream(t, secondSamples(t, true))
	for _, c := range []struct {
		limits limits.Limits
		record []byte
		want   string
	}{
		{limits.Limits{SamplesPerRequest: 2}, record, "the request has 3 samples: limit samples_per_request is 2"},
		{limits.Limits{FramesPerStack: 1}, record, "the stack of row 0 has 2 frames: limit frames_per_stack is 1"},
		{limits.Limits{DecodedBytes: 500}, record, "limit decoded_bytes is 500"},
		{limits.Limits{LabelsPerSeries: 1}, record, "record has 2 labels: limit labels_per_series is 1"},
		{limits.Limits{LabelValueBytes: 2}, record, "limit label_value_bytes is 2"},
		{limits.Limits{}, record[:len(record)/2], "record: not an Arrow IPC stream, or truncated"},
		{limits.Limits{}, stream(t, secondSamples(t, true), ipc.WithZstd()), "compressed with zstd: want LZ4"},
	} {
		k := &keeper{}
		err := newIngester(t, k, c.limits).writeArrow(t.Context(), arrowRequest(t, c.record))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
		if got := k.take(); got != "" {
			t.Errorf("stored in spite of an error:\n%s", got)
		}
	}
}

func FuzzWriteArrow(f *testing.F) {
	f.Add(stream(f, secondSamples(f, false)), []byte{})
	f.Add(stream(f, secondSamples(f, true), ipc.WithLZ4()), []byte{})
	f.Add(stream(f, firstSamples(f)), stream(f, firstStacks(f, "id-1", "id-2")))
	k := &keeper{}
	in, err := New(Options{Store: k, Now: func() time.Time { return testNow }, Limits: limits.Limits{DecodedBytes: 4 << 20}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, samples, stacks []byte) {
		_, err := in.wantedStacks(t.Context(), samples)
		k.fuzzed(t, err)
		if len(stacks) == 0 {
			stacks = nil
		}
		k.fuzzed(t, in.storeArrow(t.Context(), samples, stacks))
	})
}
