package server

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/server/limits"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

func compress(t testing.TB, encoding string, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	switch encoding {
	case "gzip":
		w = gzip.NewWriter(&out)
	case "deflate":
		w = zlib.NewWriter(&out)
	case "zstd":
		zw, err := zstd.NewWriter(&out)
		if err != nil {
			t.Fatal(err)
		}
		w = zw
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// bomb is a gibibyte of zeros, packed: 64 members or frames of 16 MiB. A format that has but one member gets
// a quarter of it, since packing takes longer than everything else here.
func bomb(t testing.TB, encoding string) []byte {
	if encoding == "deflate" {
		var out bytes.Buffer
		w, err := zlib.NewWriterLevel(&out, zlib.BestSpeed)
		if err != nil {
			t.Fatal(err)
		}
		zeros := make([]byte, 1<<20)
		for range 1 << 8 {
			w.Write(zeros)
		}
		w.Close()
		return out.Bytes()
	}
	return bytes.Repeat(compress(t, encoding, make([]byte, 16<<20)), 64)
}

// TestBadBodies throws what is broken, empty or far too large at every door for profiles. Each is refused
// with an error that says what is wrong, at a bounded cost of memory, and the server takes a good profile
// after each.
func TestBadBodies(t *testing.T) {
	s := start(t, Options{})
	good, err := proto.Marshal(request("web", 4))
	if err != nil {
		t.Fatal(err)
	}
	// Two bytes a sample, 170 in memory: 40 MB would become 3.4 GB.
	many := bytes.Repeat([]byte{0x12, 0x00}, 20<<20)
	wrap := func(field protowire.Number, b []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, field, protowire.BytesType), b)
	}
	swollen := wrap(1, wrap(2, wrap(2, many)))
	deep := []byte{}
	for range 10_000 { // an attribute in an attribute in an attribute
		deep = wrap(5, wrap(1, deep))
	}
	deep = wrap(1, wrap(1, wrap(1, wrap(2, deep))))

	const (
		toLarge   = "the request body is too large: limit body_bytes is 33554432 (to change it: limits.body_bytes in the configuration file, or PERFUSE_LIMITS_BODY_BYTES)"
		unpacked  = "the request body after decompression is too large: limit decompressed_bytes is 67108864"
		swells    = "limit decoded_bytes is 536870912"
		malformed = "the body is not an ExportProfilesServiceRequest in protobuf"
	)
	bodies := []struct {
		name     string
		encoding string
		body     []byte
		code     connect.Code
		status   int
		want     string
	}{
		{"garbage", "", []byte("\xff\xff\xff\xffgarbage\x00\x01"), connect.CodeInvalidArgument, 400, malformed},
		{"HTML", "", []byte("<html><body>hello</body></html>"), connect.CodeInvalidArgument, 400, malformed},
		{"truncated", "", good[:len(good)-7], connect.CodeInvalidArgument, 400, malformed},
		{"empty", "", nil, connect.CodeInvalidArgument, 400, "the body is empty"},
		{"empty, packed", "gzip", compress(t, "gzip", nil), connect.CodeInvalidArgument, 400, "the body is empty"},
		{"too large", "", make([]byte, 33<<20), connect.CodeResourceExhausted, 413, toLarge},
		{"not gzip", "gzip", good, connect.CodeInvalidArgument, 400, "gzip"},
		{"not zstd", "zstd", good, connect.CodeInvalidArgument, 400, "magic number"},
		{"gzip, truncated", "gzip", compress(t, "gzip", good)[:40], connect.CodeInvalidArgument, 400, "unexpected EOF"},
		{"zstd, truncated", "zstd", compress(t, "zstd", good)[:40], connect.CodeInvalidArgument, 400, "unexpected EOF"},
		{"gzip bomb", "gzip", bomb(t, "gzip"), connect.CodeResourceExhausted, 413, unpacked},
		{"zstd bomb", "zstd", bomb(t, "zstd"), connect.CodeResourceExhausted, 413, unpacked},
		{"deflate bomb", "deflate", bomb(t, "deflate"), connect.CodeResourceExhausted, 413, unpacked},
		{"many small messages", "gzip", compress(t, "gzip", swollen), connect.CodeResourceExhausted, 413, swells},
		{"nested without end", "", deep, connect.CodeInvalidArgument, 400, "nested too deep"},
	}
	doors := []struct {
		name string
		send func(t *testing.T, body []byte, encoding string) (code connect.Code, status int, answer string)
	}{
		{"http", func(t *testing.T, body []byte, encoding string) (connect.Code, int, string) {
			headers := []string{"Content-Type", "application/x-protobuf"}
			if encoding != "" {
				headers = append(headers, "Content-Encoding", encoding)
			}
			status, answer := s.post(t, "/v1development/profiles", bytes.NewReader(body), headers...)
			return 0, status, answer
		}},
		{"grpc", func(t *testing.T, body []byte, encoding string) (connect.Code, int, string) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
				s.url+"/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export", bytes.NewReader(frame(body, encoding != "")))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/grpc")
			req.Header.Set("TE", "trailers")
			if encoding != "" {
				req.Header.Set("Grpc-Encoding", encoding)
			}
			resp, err := h2c().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			io.Copy(io.Discard, resp.Body)
			for _, h := range []http.Header{resp.Trailer, resp.Header} {
				if v := h.Get("Grpc-Status"); v != "" {
					var code connect.Code
					fmt.Sscan(v, (*uint32)(&code))
					return code, 0, h.Get("Grpc-Message")
				}
			}
			t.Fatalf("no status: %v %v", resp.Header, resp.Trailer)
			return 0, 0, ""
		}},
	}
	total := int64(0)
	for _, door := range doors {
		for _, b := range bodies {
			t.Run(door.name+"/"+b.name, func(t *testing.T) {
				peak := watchHeap(t)
				code, status, answer := door.send(t, b.body, b.encoding)
				if code != 0 && code != b.code || status != 0 && status != b.status {
					t.Errorf("code %s, status %d, want %s or %d", code, status, b.code, b.status)
				}
				if !strings.Contains(answer, b.want) {
					t.Errorf("the answer %q lacks %q", answer, b.want)
				}
				if grown := peak(); grown > 700<<20 {
					t.Errorf("the heap grew by %d MiB", grown>>20)
				}
				if _, err := otlp(t, s.Addr()).Export(t.Context(), request("web", 4)); err != nil {
					t.Fatalf("a good profile after it: %v", err)
				}
				total += 6
			})
		}
	}
	resp, err := s.query().FlameGraph(t.Context(), &queryv1.FlameGraphRequest{Selection: &queryv1.Selection{ProfileType: "samples"}})
	if err != nil {
		t.Fatal(err)
	}
	if resp.Total != total {
		t.Errorf("%d samples are stored, want the %d good ones", resp.Total, total)
	}
	_, metrics := s.get(t, "/metrics")
	for _, want := range []string{
		`perfuse_limits_refusals_total{limit="body_bytes"} 2`,
		`perfuse_limits_refusals_total{limit="decompressed_bytes"} 6`,
		`perfuse_limits_refusals_total{limit="decoded_bytes"} 2`,
		`perfuse_server_panics_total 0`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics lack %q", want)
		}
	}
}

// watchHeap returns a function that says by how much the heap grew at most.
func watchHeap(t *testing.T) (grown func() int64) {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	before := int64(m.HeapAlloc)
	var peak atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		var m runtime.MemStats
		for tick := time.NewTicker(5 * time.Millisecond); ctx.Err() == nil; <-tick.C {
			runtime.ReadMemStats(&m)
			peak.Store(max(peak.Load(), int64(m.HeapAlloc)))
		}
	}()
	return func() int64 {
		stop()
		<-done
		return peak.Load() - before
	}
}

// TestManyBombs: bodies that each stay within the limits do not add up.
func TestManyBombs(t *testing.T) {
	s := start(t, Options{Limits: limits.Limits{DecompressedBytes: 16 << 20, ConcurrentIngests: 2}})
	body := compress(t, "zstd", make([]byte, 15<<20))
	peak := watchHeap(t)
	var clients sync.WaitGroup
	for i := range 100 { // 1.5 GB, if they were all unpacked at once
		clients.Go(func() {
			path, contentType, header, b := "/v1development/profiles", "application/x-protobuf", "Content-Encoding", body
			if i%2 == 0 {
				path, contentType, header, b = "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export", "application/grpc-web+proto", "Grpc-Encoding", frame(body, true)
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+path, bytes.NewReader(b))
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("Content-Type", contentType)
			req.Header.Set(header, "zstd")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			answer, _ := io.ReadAll(resp.Body)
			if text := string(answer) + resp.Header.Get("Grpc-Message"); !strings.Contains(text, "not an ExportProfilesServiceRequest") && !strings.Contains(text, "busy") {
				t.Errorf("%s %q", resp.Status, text)
			}
		})
	}
	clients.Wait()
	if grown := peak(); grown > 500<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	} else {
		t.Logf("the heap grew by %d MiB", grown>>20)
	}
	if _, err := otlp(t, s.Addr()).Export(t.Context(), request("web", 4)); err != nil {
		t.Errorf("a good profile after them: %v", err)
	}
}

// TestBadRequests: what is wrong about a request that is no good profile's.
func TestBadRequests(t *testing.T) {
	s := start(t, Options{})
	f := func(wantStatus int, want, path, body string, headers ...string) {
		t.Helper()
		status, answer := s.post(t, path, strings.NewReader(body), headers...)
		if status != wantStatus || !strings.Contains(answer, want) {
			t.Errorf("%s %q: %d %q, want %d with %q", path, headers, status, answer, wantStatus, want)
		}
	}
	const otlp, types = "/v1development/profiles", "/perfuse.query.v1.QueryService/ProfileTypes"
	f(415, `content type "text/plain": want application/x-protobuf`, otlp, "x", "Content-Type", "text/plain")
	f(415, "want application/x-protobuf or application/json", otlp, "x")
	f(415, "unknown content encoding \"snappy\": want gzip, zstd, deflate", otlp, "x", "Content-Type", "application/x-protobuf", "Content-Encoding", "snappy")
	f(400, "in JSON", otlp, "{", "Content-Type", "application/json")
	f(400, "the body is empty", otlp, "", "Content-Type", "application/json", "Content-Encoding", "gzip")
	f(400, "invalid_argument", types, "{", "Content-Type", "application/json")
	f(400, "invalid_argument", types, "\xff\xff", "Content-Type", "application/proto")
	f(415, "", types, "x", "Content-Type", "text/plain")
	f(429, "limit query_bytes is 1048576", types, `{"x":"`+strings.Repeat("a", 2<<20)+`"}`, "Content-Type", "application/json")
	f(404, "", "/perfuse.query.v1.QueryService/Nothing", "{}", "Content-Type", "application/json")
	// What a limit cut off is not taken for the connection's next request.
	f(200, "{}", types, "{}", "Content-Type", "application/json")
	if status, answer := s.get(t, otlp); status != 405 {
		t.Errorf("GET: %d %s", status, answer)
	}
	if status, _ := s.get(t, "/readyz"); status != 200 {
		t.Error("not ready any more")
	}
}

// TestLimits: limits that are set hold.
func TestLimits(t *testing.T) {
	s := start(t, Options{Limits: limits.Limits{SamplesPerRequest: 1, BodyBytes: -1}})
	_, err := otlp(t, s.Addr()).Export(t.Context(), request("web", 4))
	if err == nil || !strings.Contains(err.Error(), "ResourceExhausted") || !strings.Contains(err.Error(), "limit samples_per_request is 1") {
		t.Errorf("got %v", err)
	}
}
