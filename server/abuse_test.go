package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zlib"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/server/limits/limitstest"
	"google.golang.org/protobuf/encoding/protowire"
)

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
	return bytes.Repeat(limitstest.Pack(t, encoding, make([]byte, 16<<20)), 64)
}

// TestBadBodies throws what is broken, empty or far too large at every door for profiles, in every protocol. Each is refused
// with the same code and a word on what is wrong, at a bounded cost of memory; nothing of it is stored, and the door
// takes a good profile after all of them.
func TestBadBodies(t *testing.T) {
	s := start(t, Options{Limits: limits.Limits{BodyBytes: 2 << 20, DecompressedBytes: 4 << 20, DecodedBytes: 16 << 20, UploadBytes: 4 << 20, QueryBytes: 1 << 20}})
	wrap := func(field protowire.Number, b []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, field, protowire.BytesType), b)
	}
	// Two bytes a sample, 170 in memory.
	swollen := wrap(1, wrap(2, wrap(2, bytes.Repeat([]byte{0x12, 0x00}, 1<<20))))
	deep := []byte{}
	for range 10_000 { // an attribute in an attribute in an attribute
		deep = wrap(5, wrap(1, deep))
	}
	deep = wrap(1, wrap(1, wrap(1, wrap(2, deep))))
	whole := func(b []byte) func(*wire) []byte { return func(*wire) []byte { return b } }
	good := func(w *wire) []byte { return w.good }
	packed := func(encoding string, n int) func(*wire) []byte {
		return func(w *wire) []byte {
			b := limitstest.Pack(t, encoding, w.good)
			return b[:min(len(b), n)]
		}
	}
	formatted := func(w *wire) bool { return w.door != "/ingest lines" } // to which any text is good
	enveloped := func(w *wire) bool { return w.enveloped }
	unary := func(w *wire) bool { return w.enveloped && w.door != "Write" }
	binaryOTLP := func(w *wire) bool { return w.door == "OTLP" && !strings.Contains(w.contentType, "json") }

	const (
		invalid = connect.CodeInvalidArgument
		limit   = connect.CodeResourceExhausted
		whose   = "(to change it: limits."

		tooLarge = "the request body is too large: limit body_bytes is 2097152 " + whose + "body_bytes in the configuration file, or PERFUSE_LIMITS_BODY_BYTES)"
		unpacked = "the request body after decompression is too large: limit decompressed_bytes is 4194304 " + whose
	)
	faults := []struct {
		name, encoding string
		body           func(*wire) []byte // without the envelope
		code           connect.Code
		want           string
		only           func(*wire) bool
	}{
		{"garbage", "", whole([]byte("\xff\xff\xff\xffgarbage\x00\x01")), invalid, "", formatted},
		{"HTML", "", whole([]byte("<html><body>hello</body></html>")), invalid, "", formatted},
		{"truncated", "", func(w *wire) []byte { return w.good[:len(w.good)-3] }, invalid, "", formatted},
		{"empty", "", whole(nil), invalid, "empty", nil},
		{"empty, packed", "gzip", whole(limitstest.Pack(t, "gzip", nil)), invalid, "empty", nil},
		{"too large", "", whole(make([]byte, 3<<20)), limit, tooLarge, nil},
		{"not gzip", "gzip", good, invalid, "gzip", nil},
		{"not zstd", "zstd", good, invalid, "magic number", nil},
		{"not deflate", "deflate", good, invalid, "zlib: invalid header", nil},
		{"gzip, truncated", "gzip", packed("gzip", 25), invalid, "unexpected EOF", nil},
		{"zstd, truncated", "zstd", packed("zstd", 15), invalid, "unexpected EOF", nil},
		{"gzip bomb", "gzip", whole(bomb(t, "gzip")), limit, unpacked, nil},
		{"zstd bomb", "zstd", whole(bomb(t, "zstd")), limit, unpacked, nil},
		{"deflate bomb", "deflate", whole(bomb(t, "deflate")), limit, unpacked, nil},
		{"an encoding that nobody speaks", "snappy", good, connect.CodeUnimplemented, "snappy", nil},

		{"many small messages", "gzip", whole(limitstest.Pack(t, "gzip", swollen)), limit, "limit decoded_bytes is 16777216 " + whose, binaryOTLP},
		{"nested without end", "", whole(deep), invalid, "nested too deep", binaryOTLP},
		{"two messages", "", func(w *wire) []byte { return append(bytes.Clone(w.good), frame(w.good, false)...) }, connect.CodeUnimplemented, "multiple messages", unary},
		{"less than the envelope says", "", good, invalid, "promised", enveloped},
		{"packed without a name", "", good, invalid, "compress", enveloped},
	}
	doors := wires(t)
	refusals := map[limits.Name]int{}
	peak := watchHeap(t)
	for i := range doors {
		w := &doors[i]
		for _, f := range faults {
			if f.only != nil && !f.only(w) {
				continue
			}
			t.Run(w.String()+"/"+f.name, func(t *testing.T) {
				message := f.body(w)
				body := w.body(message, f.encoding != "" || f.name == "packed without a name")
				switch f.name {
				case "two messages":
					binary.BigEndian.PutUint32(body[1:], uint32(len(w.good)))
				case "less than the envelope says":
					binary.BigEndian.PutUint32(body[1:], uint32(len(w.good)+10))
				}
				var headers []string
				if f.encoding != "" {
					headers = []string{w.encodingHeader, f.encoding}
				}
				code, text := w.send(t, s, body, headers...)
				if code != f.code || !strings.Contains(text, f.want) || len(text) < 10 || strings.Contains(text, "panic") {
					t.Errorf("%s %q, want %s with %q", code, text, f.code, f.want)
				}
				if grown := peak(); grown > 200<<20 { // with garbage of the cases before; the bombs are larger
					t.Errorf("the heap grew by %d MiB", grown>>20)
				}
				if f.code == limit {
					name, _, _ := strings.Cut(f.want[strings.Index(f.want, "limit ")+len("limit "):], " ")
					refusals[limits.Name(name)]++
				}
			})
		}
		t.Run(w.String()+"/a content type of its own", func(t *testing.T) {
			if strings.HasPrefix(w.door, "/ingest") || w.door == "Write" {
				return // the one goes by the parameters of the URL, the other is not asked before HTTP/2 is spoken
			}
			if status, answer := s.post(t, w.path, bytes.NewReader(w.good), "Content-Type", "text/plain"); status != http.StatusUnsupportedMediaType {
				t.Errorf("%d %s", status, answer)
			}
		})
	}
	if types, err := s.query().ProfileTypes(t.Context(), &queryv1.ProfileTypesRequest{}); err != nil || len(types.Types) > 0 {
		t.Errorf("something is stored: %v, %v", types, err)
	}
	for i := range doors {
		w := &doors[i]
		if code, text := w.send(t, s, w.body(w.good, false)); code != noError {
			t.Errorf("%s: a good profile after all that: %s %s", w, code, text)
		}
		if code, text := w.send(t, s, w.body(limitstest.Pack(t, "gzip", w.good), true), w.encodingHeader, "gzip"); code != noError {
			t.Errorf("%s: a good profile, packed: %s %s", w, code, text)
		}
	}
	_, metrics := s.get(t, "/metrics")
	refusals["panics"] = 0
	for name, n := range refusals {
		want := fmt.Sprintf("perfuse_limits_refusals_total{limit=%q} %d\n", name, n)
		if name == "panics" {
			want = "perfuse_server_panics_total 0\n"
		}
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics lack %q", want)
		}
	}
}

// watchHeap returns a function that says by how much the heap grew at most since it was asked last. It neither collects
// garbage for each answer nor stops the program to measure: on a busy machine both wait for threads that do not run.
func watchHeap(t *testing.T) (grown func() int64) {
	size := func() int64 {
		s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		metrics.Read(s)
		return int64(s[0].Value.Uint64())
	}
	runtime.GC()
	before := size()
	var peak atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			peak.Store(max(peak.Load(), size()))
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
	return func() int64 { return max(peak.Swap(0), size()) - before }
}

// TestManyBombs: bodies that each stay within the limits do not add up.
func TestManyBombs(t *testing.T) {
	s := start(t, Options{Limits: limits.Limits{DecompressedBytes: 16 << 20, ConcurrentIngests: 2}})
	body := limitstest.Pack(t, "zstd", make([]byte, 15<<20))
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
	f(501, "Nothing of perfuse.query.v1.QueryService is not served; served are ProfileTypes, ", "/perfuse.query.v1.QueryService/Nothing", "{}", "Content-Type", "application/json")
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
