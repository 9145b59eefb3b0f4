package server

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	pprof "github.com/google/pprof/profile"
	statusv1 "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	profilestorev1alpha1 "github.com/perfuse/perfuse/proto/parca/profilestore/v1alpha1"
	"github.com/perfuse/perfuse/proto/parca/profilestore/v1alpha1/profilestorev1alpha1connect"
	pushv1 "github.com/perfuse/perfuse/proto/push/v1"
	"github.com/perfuse/perfuse/proto/push/v1/pushv1connect"
	typesv1 "github.com/perfuse/perfuse/proto/types/v1"
)

// protocol is how a message travels.
type protocol struct {
	name, contentType string
	encodingHeader    string
	enveloped, h2     bool
	// refused reads what is wrong: a code of RPC, and the words.
	refused func(t *testing.T, resp *http.Response, body []byte) (connect.Code, string)
}

var (
	overGRPC        = protocol{"gRPC", "application/grpc", "Grpc-Encoding", true, true, trailersOf}
	overGRPCWeb     = protocol{"gRPC-web", "application/grpc-web+proto", "Grpc-Encoding", true, false, trailersOf}
	overConnect     = protocol{"Connect", "application/proto", "Content-Encoding", false, false, connectErrorOf}
	overConnectJSON = protocol{"Connect JSON", "application/json", "Content-Encoding", false, false, connectErrorOf}
	overOTLP        = protocol{"HTTP", "application/x-protobuf", "Content-Encoding", false, false, statusMessageOf}
	overOTLPJSON    = protocol{"HTTP JSON", "application/json", "Content-Encoding", false, false, statusMessageOf}
	overHTTP        = protocol{"HTTP", "application/octet-stream", "Content-Encoding", false, false, textOf}
)

const noError connect.Code = 0

func trailersOf(t *testing.T, resp *http.Response, body []byte) (connect.Code, string) {
	var code connect.Code
	text := resp.Header.Get("Grpc-Message")
	status := resp.Header.Get("Grpc-Status")
	switch {
	case status != "":
	case resp.Trailer.Get("Grpc-Status") != "":
		status, text = resp.Trailer.Get("Grpc-Status"), resp.Trailer.Get("Grpc-Message")
	case resp.StatusCode == http.StatusOK:
		_, status, text = unframe(t, resp.Header, body)
	default:
		return codeOfStatus(resp.StatusCode), string(body)
	}
	if _, err := fmt.Sscan(status, (*uint32)(&code)); err != nil {
		t.Fatalf("status %q: %v", status, err)
	}
	return code, text
}

func connectErrorOf(t *testing.T, resp *http.Response, body []byte) (code connect.Code, text string) {
	if resp.StatusCode == http.StatusOK {
		return noError, ""
	}
	var e struct{ Code, Message string }
	if json.Unmarshal(body, &e) != nil {
		return codeOfStatus(resp.StatusCode), string(body)
	}
	if err := code.UnmarshalText([]byte(e.Code)); err != nil {
		t.Fatal(err)
	}
	return code, e.Message
}

func statusMessageOf(t *testing.T, resp *http.Response, body []byte) (connect.Code, string) {
	if resp.StatusCode == http.StatusOK {
		return noError, ""
	}
	var st statusv1.Status
	err := proto.Unmarshal(body, &st)
	if resp.Header.Get("Content-Type") == "application/json" {
		err = protojson.Unmarshal(body, &st)
	}
	if err != nil {
		t.Fatalf("%s %q: %v", resp.Status, body, err)
	}
	code := connect.Code(st.Code)
	if got := codeOfStatus(resp.StatusCode); got != code && got != connect.CodeUnimplemented {
		t.Errorf("%s, and in it %s", resp.Status, code)
	}
	return codeOfStatus(resp.StatusCode), st.Message
}

func textOf(t *testing.T, resp *http.Response, body []byte) (connect.Code, string) {
	return codeOfStatus(resp.StatusCode), string(body)
}

// codeOfStatus is the code that a status stands for at the doors of plain HTTP.
func codeOfStatus(status int) connect.Code {
	switch status {
	case http.StatusOK:
		return noError
	case http.StatusBadRequest:
		return connect.CodeInvalidArgument
	case http.StatusRequestEntityTooLarge:
		return connect.CodeResourceExhausted
	case http.StatusUnsupportedMediaType:
		return connect.CodeUnimplemented
	case http.StatusServiceUnavailable:
		return connect.CodeUnavailable
	}
	return connect.CodeUnknown
}

// wire is a door, a protocol that it speaks, and a good body for it.
type wire struct {
	door, path string
	protocol
	good []byte
}

func (w *wire) String() string { return w.door + ", " + w.protocol.name }

// wires are all ways for profiles to come in.
func wires(t *testing.T) (out []wire) {
	t.Helper()
	add := func(door, path string, good []byte, protocols ...protocol) {
		for _, p := range protocols {
			out = append(out, wire{door, path, p, good})
		}
	}
	message := func(door, path string, m proto.Message, binary, text []protocol) {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		add(door, path, b, binary...)
		if b, err = protojson.Marshal(m); err != nil {
			t.Fatal(err)
		}
		add(door, path, b, text...)
	}
	rpc, rpcText := []protocol{overGRPC, overGRPCWeb, overConnect}, []protocol{overConnectJSON}
	const service = "web"
	message("OTLP", "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export", request(service, 4), rpc, rpcText)
	message("OTLP", "/v1development/profiles", request(service, 4), []protocol{overOTLP}, []protocol{overOTLPJSON})
	raw := goodPprof(t)
	message("push", pushv1connect.PusherServicePushProcedure, &pushv1.PushRequest{Series: []*pushv1.RawProfileSeries{{
		Labels: []*typesv1.LabelPair{{Name: "service_name", Value: service}}, Samples: []*pushv1.RawSample{{RawProfile: raw}},
	}}}, rpc, rpcText)
	message("WriteRaw", profilestorev1alpha1connect.ProfileStoreServiceWriteRawProcedure, &profilestorev1alpha1.WriteRawRequest{Series: []*profilestorev1alpha1.RawProfileSeries{{
		Labels:  &profilestorev1alpha1.LabelSet{Labels: []*profilestorev1alpha1.Label{{Name: "service_name", Value: service}}},
		Samples: []*profilestorev1alpha1.RawSample{{RawProfile: raw}},
	}}}, rpc, rpcText)
	record := goodRecord(t, service)
	message("WriteArrow", profilestorev1alpha1connect.ProfileStoreServiceWriteArrowProcedure, &profilestorev1alpha1.WriteArrowRequest{IpcBuffer: record}, rpc, rpcText)
	message("Write", profilestorev1alpha1connect.ProfileStoreServiceWriteProcedure, &profilestorev1alpha1.WriteRequest{Record: record}, []protocol{overGRPC}, nil)
	java, err := os.ReadFile("../profile/testdata/jfr/workload-17.jfr.gz")
	if err != nil {
		t.Fatal(err)
	}
	for format, good := range map[string][]byte{
		"pprof": raw, "folded": []byte("main;work 4\nmain;wait"), "lines": []byte("main;work\nmain;wait\n"), "jfr": gunzip(t, bytes.NewReader(java)),
		"speedscope": []byte(`{"$schema":"https://www.speedscope.app/file-format-schema.json","shared":{"frames":[{"name":"main"}]},"profiles":[{"type":"sampled","name":"x","unit":"none","startValue":0,"endValue":1,"samples":[[0]],"weights":[1]}]}`),
	} {
		if format == "folded" { // so that what is cut off at its end is not good, too
			good = append(good, " 2"...)
		}
		add("/ingest "+format, "/ingest?name=web&format="+format, good, overHTTP)
	}
	return out
}

func goodPprof(t testing.TB) []byte {
	t.Helper()
	f := &pprof.Function{ID: 1, Name: "work"}
	l := &pprof.Location{ID: 1, Line: []pprof.Line{{Function: f}}}
	var raw bytes.Buffer
	if err := (&pprof.Profile{
		SampleType: []*pprof.ValueType{{Type: "cpu", Unit: "nanoseconds"}}, PeriodType: &pprof.ValueType{Type: "cpu", Unit: "nanoseconds"},
		Period: 10_000_000, TimeNanos: time.Now().UnixNano(), DurationNanos: 1e9,
		Function: []*pprof.Function{f}, Location: []*pprof.Location{l}, Sample: []*pprof.Sample{{Location: []*pprof.Location{l}, Value: []int64{30}}},
	}).WriteUncompressed(&raw); err != nil {
		t.Fatal(err)
	}
	return raw.Bytes()
}

// goodRecord is one sample as Parca's agents send it.
func goodRecord(t testing.TB, service string) []byte {
	t.Helper()
	field := func(name string, typ arrow.DataType) arrow.Field { return arrow.Field{Name: name, Type: typ} }
	text, number := arrow.BinaryTypes.Binary, arrow.PrimitiveTypes.Int64
	line := arrow.StructOf(field("line", number), field("function_system_name", text), field("function_filename", text), field("function_start_line", number))
	location := arrow.StructOf(field("address", arrow.PrimitiveTypes.Uint64), field("frame_type", text), field("mapping_file", text), field("mapping_build_id", text),
		field("lines", arrow.ListOf(line)))
	fields := []arrow.Field{field("stacktrace", arrow.ListOf(location))}
	row := map[string]any{"stacktrace": []any{map[string]any{"address": 0, "frame_type": b64("cpython"), "mapping_file": "", "mapping_build_id": "",
		"lines": []any{map[string]any{"line": 1, "function_system_name": b64("work"), "function_filename": "", "function_start_line": 0}}}}}
	for name, value := range map[string]string{"producer": "parca_agent", "sample_type": "cpu", "sample_unit": "nanoseconds", "period_type": "cpu", "period_unit": "nanoseconds", "labels.service_name": service} {
		fields, row[name] = append(fields, field(name, text)), b64(value)
	}
	for name, value := range map[string]int64{"value": 30, "period": 1, "duration": 0, "timestamp": time.Now().UnixNano()} {
		fields, row[name] = append(fields, field(name, number)), value
	}
	rows, err := json.Marshal([]any{row})
	if err != nil {
		t.Fatal(err)
	}
	rec, _, err := array.RecordFromJSON(memory.DefaultAllocator, arrow.NewSchema(fields, nil), bytes.NewReader(rows))
	if err != nil {
		t.Fatal(err)
	}
	defer rec.Release()
	var out bytes.Buffer
	w := ipc.NewWriter(&out, ipc.WithSchema(rec.Schema()))
	if err := errors.Join(w.Write(rec), w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// body puts a message into the protocol's envelope, if it has one.
func (w *wire) body(message []byte, packed bool) []byte {
	if w.enveloped {
		return frame(message, packed)
	}
	return message
}

// send sends a body; headers are names and values beside those of the protocol.
func (w *wire) send(t *testing.T, s *running, body []byte, headers ...string) (connect.Code, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+w.path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", w.contentType)
	req.Header.Set("Grpc-Accept-Encoding", "gzip")
	if w.h2 {
		req.Header.Set("TE", "trailers")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	client := http.DefaultClient
	if w.h2 {
		client = h2c()
		defer client.CloseIdleConnections()
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	code, text := w.refused(t, resp, answer)
	return code, strings.ReplaceAll(text, "%22", `"`)
}
