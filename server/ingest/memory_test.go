package ingest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	profilestorev1alpha1 "github.com/perfuse/perfuse/proto/parca/profilestore/v1alpha1"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/server/limits/limitstest"
)

func envelope(flag byte, message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(message))), message...)
}

// TestBodyAllocates: at every door a body takes memory of its size, once from the wire or once when it is unpacked (a
// pprof's text again), and one that is too large takes none to speak of.
func TestBodyAllocates(t *testing.T) {
	const size = 4 << 20
	in := newIngester(t, &keeper{}, limits.Limits{BodyBytes: size, DecompressedBytes: size})
	nonsense := bytes.Repeat([]byte{0xff}, size)
	packed, bomb := limitstest.Pack(t, "gzip", nonsense), limitstest.Pack(t, "gzip", make([]byte, 2*size))
	for _, door := range []struct {
		name, url, contentType, encoding string
		handler                          http.Handler
		frame                            func(flag byte, b []byte) []byte
		copies                           int64
	}{
		{"http", ExportPath, "application/x-protobuf", "Content-Encoding", in.HTTP(), nil, 1},
		{"connect", ExportProcedure, "application/proto", "Content-Encoding", in.RPC(), nil, 1},
		{"grpc-web", ExportProcedure, "application/grpc-web+proto", "Grpc-Encoding", in.RPC(), envelope, 1},
		{"write raw", WriteRawProcedure, "application/grpc-web+proto", "Grpc-Encoding", in.WriteRaw(), envelope, 1},
		{"write", WriteProcedure, "application/grpc+proto", "Grpc-Encoding", in.Write(), envelope, 1},
		{"pprof", IngestPath + "?name=app&format=pprof", "", "Content-Encoding", in.Ingest(), nil, 2},
		{"pprof, packed itself", IngestPath + "?name=app&format=pprof", "", "", in.Ingest(), nil, 2},
		{"jfr", IngestPath + "?name=app&format=jfr", "", "", in.Ingest(), nil, 1},
	} {
		for _, body := range []struct {
			name  string
			bytes []byte
			flag  byte
			want  string
			most  int64
		}{
			{"plain", nonsense[:size-5], 0, "invalid", size},
			{"packed", packed, 1, "invalid", size},
			{"bomb", bomb, 1, "limit decompressed_bytes", 0},
		} {
			t.Run(door.name+"/"+body.name, func(t *testing.T) {
				b := body.bytes
				if door.frame != nil {
					b = door.frame(body.flag, b)
				}
				n := limitstest.Allocated(func() {
					r := httptest.NewRequest(http.MethodPost, door.url, bytes.NewReader(b))
					r.ProtoMajor, r.ContentLength = 2, -1
					r.Header.Set("Content-Type", door.contentType)
					if body.flag != 0 && door.encoding != "" {
						r.Header.Set(door.encoding, "gzip")
					}
					w := httptest.NewRecorder()
					door.handler.ServeHTTP(w, r)
					if said := w.Body.String() + w.Header().Get("Grpc-Message") + w.Header().Get(http.TrailerPrefix+"Grpc-Message"); !strings.Contains(said, body.want) {
						t.Fatalf("%d %.300q", w.Code, said)
					}
				})
				if n > door.copies*body.most+size/2 {
					t.Errorf("%d bytes are allocated for %d", n, size)
				}
			})
		}
	}
}

// TestEnvelope: what is no envelope of one message stays for Connect, which says what is wrong; what is cut off is refused.
func TestEnvelope(t *testing.T) {
	f := func(body []byte, encoding, want, packing string) {
		t.Helper()
		got, gotPacking, err := openEnvelope(body, encoding)
		text := string(got)
		if got == nil {
			text = "nil"
		}
		if err != nil {
			text = err.Error()
		}
		if text != want || gotPacking != packing || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %q %q, want %q %q", body, text, gotPacking, want, packing)
		}
	}
	f(envelope(0, []byte("x")), "", "x", "")
	f(envelope(0, []byte("x")), "gzip", "x", "")
	f(envelope(0, nil), "", "", "")
	f(envelope(1, []byte("x")), "gzip", "x", "gzip")
	f(envelope(1, []byte("x")), "", "invalid profiles: the message is compressed, but no grpc-encoding says how", "")
	f(envelope(1, []byte("x")), "rot13", "nil", "")
	f(envelope(2, []byte("x")), "", "nil", "")
	f(append(envelope(0, []byte("x")), envelope(0, []byte("y"))...), "", "nil", "")
	f([]byte{0, 0, 0, 0}, "", "nil", "")
	f(nil, "", "nil", "")
	f(envelope(0, []byte("xyz"))[:7], "", "invalid profiles: the body is cut off: its envelope promised 3 bytes, 2 came", "")
}

// TestSwollen: messages of two bytes take hundreds of them in memory. That is estimated before they are decoded, and too
// much of it is refused at no cost.
func TestSwollen(t *testing.T) {
	const n = 1 << 13
	wrap := func(field protowire.Number, b []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, field, protowire.BytesType), b)
	}
	repeat := func(field protowire.Number) []byte { return bytes.Repeat(wrap(field, nil), n) }
	list := func(before, after string) []byte { return []byte(before + "{}" + strings.Repeat(",{}", n) + after) }
	for _, c := range []struct {
		name  string
		body  []byte
		json  bool
		send  func(*Ingester, context.Context, *rawRequest) error
		shape *shape
	}{
		{"push, series", repeat(1), false, (*Ingester).push, pushShape},
		{"push, labels", wrap(1, repeat(1)), false, (*Ingester).push, pushShape},
		{"push, samples", wrap(1, repeat(2)), false, (*Ingester).push, pushShape},
		{"push, series as JSON", list(`{"series":[`, `]}`), true, (*Ingester).push, pushShape},
		{"push, samples as JSON", list(`{"series":[{"samples":[`, `]}]}`), true, (*Ingester).push, pushShape},
		{"WriteRaw, series", repeat(2), false, (*Ingester).writeRaw, writeRawShape},
		{"WriteRaw, labels", wrap(2, wrap(1, repeat(1))), false, (*Ingester).writeRaw, writeRawShape},
		{"WriteRaw, samples", wrap(2, repeat(2)), false, (*Ingester).writeRaw, writeRawShape},
		{"WriteRaw, samples as JSON", list(`{"series":[{"samples":[`, `]}]}`), true, (*Ingester).writeRaw, writeRawShape},
	} {
		raw := &rawRequest{c.body, c.json}
		cost, err := seriesCost(raw, c.shape)
		if err != nil {
			t.Fatal(err)
		}
		in := newIngester(t, &keeper{}, limits.Limits{})
		if took := limitstest.Allocated(func() { err = c.send(in, t.Context(), raw) }); took > cost || !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %d bytes a message were allocated, %d estimated, %v", c.name, took/n, cost/n, err)
		}
		in = newIngester(t, &keeper{}, limits.Limits{DecodedBytes: cost - 1})
		var le *limits.Error
		if took := limitstest.Allocated(func() { err = c.send(in, t.Context(), raw) }); took > 4<<10 || !errors.As(err, &le) || le.Limit != limits.DecodedBytes {
			t.Errorf("%s: refusing it allocated %d bytes, %v", c.name, took, err)
		}
	}
}

// TestWritePacked: what a stream sends is unpacked when it is its turn, and stays as it came until then.
func TestWritePacked(t *testing.T) {
	in := newIngester(t, &keeper{}, limits.Limits{DecompressedBytes: 1000})
	message, err := proto.Marshal(&profilestorev1alpha1.WriteRequest{Record: []byte("a record")})
	if err != nil {
		t.Fatal(err)
	}
	f := func(encoding string, message []byte, want string) {
		t.Helper()
		d := &stillPacked{encoding: encoding}
		if err := d.Reset(bytes.NewReader(message)); err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(d)
		if err != nil || !bytes.HasSuffix(body, message) || len(body) > len(message)+10 {
			t.Errorf("%s: %d bytes became %d, %v", encoding, len(message), len(body), err)
		}
		record, size, err := in.record(&rawRequest{body: body})
		got := fmt.Sprintf("%s, %d", record, size)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", encoding, got, want)
		}
	}
	for _, encoding := range limits.Encodings {
		f(encoding, limitstest.Pack(t, encoding, message), "a record, 10")
		f(encoding, limitstest.Pack(t, encoding, make([]byte, 1<<20)), "limit decompressed_bytes is 1000")
		f(encoding, message, "unpacking the body ("+encoding+")")
		f(encoding, limitstest.Pack(t, encoding, nil), "the body is empty")
	}
	if record, size, err := in.record(&rawRequest{body: message}); string(record) != "a record" || size != 10 || err != nil {
		t.Errorf("not packed: %q, %d, %v", record, size, err)
	}
}
