package ingest

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	profilestorev1alpha1 "github.com/perfuse/perfuse/proto/parca/profilestore/v1alpha1"
	"github.com/perfuse/perfuse/proto/parca/profilestore/v1alpha1/profilestorev1alpha1connect"
	pushv1 "github.com/perfuse/perfuse/proto/push/v1"
	"github.com/perfuse/perfuse/proto/push/v1/pushv1connect"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/storage"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/profiles/v1development"
	statusv1 "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// The doors.
const (
	ExportProcedure = "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export"
	ExportPath      = "/v1development/profiles"

	PushProcedure     = pushv1connect.PusherServicePushProcedure
	WriteRawProcedure = profilestorev1alpha1connect.ProfileStoreServiceWriteRawProcedure
	// Parca's agents.
	WriteProcedure      = profilestorev1alpha1connect.ProfileStoreServiceWriteProcedure
	WriteArrowProcedure = profilestorev1alpha1connect.ProfileStoreServiceWriteArrowProcedure

	// Pyroscope's door for everything, under the two names that its clients call it by.
	IngestPath          = "/ingest"
	PyroscopeIngestPath = "/pyroscope/ingest"

	doorRPC      = "otlp_grpc"
	doorHTTP     = "otlp_http"
	doorPush     = "pyroscope_push"
	doorIngest   = "pyroscope_ingest"
	doorWriteRaw = "parca_write_raw"

	doorWrite      = "parca_write"
	doorWriteArrow = "parca_write_arrow"
)

// RPC returns the handler of ExportProcedure: gRPC, gRPC-web and Connect.
func (g *Ingester) RPC() http.Handler {
	return g.rpc(ExportProcedure, doorRPC, func(ctx context.Context, raw *rawRequest) (proto.Message, error) {
		return &collectorv1.ExportProfilesServiceResponse{}, g.decodeAndExport(ctx, raw.body, raw.json)
	})
}

// Push returns the handler of PushProcedure: Pyroscope's clients.
func (g *Ingester) Push() http.Handler {
	return g.rpc(PushProcedure, doorPush, func(ctx context.Context, raw *rawRequest) (proto.Message, error) {
		return &pushv1.PushResponse{}, g.push(ctx, raw)
	})
}

// WriteRaw returns the handler of WriteRawProcedure: Parca's scraper and clients.
func (g *Ingester) WriteRaw() http.Handler {
	return g.rpc(WriteRawProcedure, doorWriteRaw, func(ctx context.Context, raw *rawRequest) (proto.Message, error) {
		return &profilestorev1alpha1.WriteRawResponse{}, g.writeRaw(ctx, raw)
	})
}

// WriteArrow returns the handler of WriteArrowProcedure: Parca's agents, stacks with samples.
func (g *Ingester) WriteArrow() http.Handler {
	return g.rpc(WriteArrowProcedure, doorWriteArrow, func(ctx context.Context, raw *rawRequest) (proto.Message, error) {
		return &profilestorev1alpha1.WriteArrowResponse{}, g.writeArrow(ctx, raw)
	})
}

// rpc returns the handler of a procedure: gRPC, gRPC-web and Connect.
func (g *Ingester) rpc(procedure, door string, take func(context.Context, *rawRequest) (proto.Message, error)) http.Handler {
	// Of what is left to Connect, see unpacked, that is the end before our handler sees anything.
	refused := func(err error) { g.done(door, 0, err) }
	opts := append(limits.HandlerOptions(limits.DecompressedBytes, g.limits.DecompressedBytes, refused),
		connect.WithCodec(rawCodec{name: "proto"}), connect.WithCodec(rawCodec{name: "json"}),
		connect.WithCodec(rawCodec{name: "json; charset=utf-8"}))
	h := connect.NewUnaryHandlerSimple(procedure, func(ctx context.Context, raw *rawRequest) (*rawAnswer, error) {
		if unpacked, ok := ctx.Value(messageKey{}).(*rawRequest); ok {
			raw = unpacked
		}
		answer, err := take(ctx, raw)
		g.done(door, len(raw.body), err)
		if err != nil {
			return nil, connect.NewError(codeOf(err), err)
		}
		return &rawAnswer{answer}, nil
	}, opts...)
	errorWriter := connect.NewErrorWriter(opts...)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !errorWriter.IsSupported(r) {
			h.ServeHTTP(w, r) // which says what is
			return
		}
		body, leave, err := g.gate.enter(r.Context(), r.Body, r.ContentLength)
		if err == nil {
			defer leave()
			r, err = g.unpacked(r, body)
		}
		if err != nil {
			g.done(door, 0, err)
			errorWriter.Write(w, r, connect.NewError(codeOf(err), err))
			return
		}
		h.ServeHTTP(w, r)
	})
}

// unpacked returns a request whose message is taken out of its body and unpacked, and goes beside it to the handler:
// Connect would copy it several times. A body that is not what it should be stays for Connect to say so.
func (g *Ingester) unpacked(r *http.Request, body []byte) (_ *http.Request, err error) {
	message, encoding := body, r.Header.Get("Content-Encoding")
	contentType := r.Header.Get("Content-Type")
	if strings.HasPrefix(contentType, "application/grpc") {
		if message, encoding, err = openEnvelope(body, r.Header.Get("Grpc-Encoding")); err != nil {
			return r, err
		}
	}
	if message == nil || !knownEncoding(encoding) {
		return withBody(r, body), nil
	}
	raw := &rawRequest{json: strings.Contains(contentType, "json")}
	if raw.body, err = g.unpack(message, encoding); err != nil {
		return r, err
	}
	// What is left is an empty body, or gRPC's envelope of nothing.
	return withBody(r.WithContext(context.WithValue(r.Context(), messageKey{}, raw)), make([]byte, len(body)-len(message))), nil
}

// openEnvelope returns the message in gRPC's envelope, which is a flag that says whether it is packed, its size, and the
// message; nil if that is not all there is.
func openEnvelope(body []byte, encoding string) (message []byte, packing string, err error) {
	const head = 5
	if len(body) < head {
		return nil, "", nil
	}
	size, message := int64(binary.BigEndian.Uint32(body[1:])), body[head:]
	if size > int64(len(message)) {
		return nil, "", invalid("the body is cut off: its envelope promised %d bytes, %d came", size, len(message))
	}
	switch {
	case size < int64(len(message)):
	case body[0] == 0:
		return message, "", nil
	case body[0] == 1 && encoding == "":
		return nil, "", invalid("the message is compressed, but no grpc-encoding says how")
	case body[0] == 1 && slices.Contains(limits.Encodings, encoding):
		return message, encoding, nil
	}
	return nil, "", nil
}

func knownEncoding(encoding string) bool {
	return encoding == "" || encoding == "identity" || slices.Contains(limits.Encodings, encoding)
}

// messageKey is the context's key of the message that is no longer in the body.
type messageKey struct{}

// withBody returns a copy of r: net/http holds on to its own request's body, see server's guard.
func withBody(r *http.Request, body []byte) *http.Request {
	r = r.WithContext(r.Context())
	r.Body = io.NopCloser(bytes.NewReader(body))
	return r
}

func (g *Ingester) decodeAndExport(ctx context.Context, body []byte, isJSON bool) error {
	cost, err := estimate(body, isJSON, &g.limits)
	if err != nil {
		return err
	}
	release, err := g.gate.room.enter(ctx, cost)
	if err != nil {
		return err
	}
	defer release()
	req, err := decode(body, isJSON)
	if err != nil {
		return err
	}
	return g.Export(ctx, req)
}

// rawRequest is a message that was not decoded yet, so that we do it within our limits and say in our words
// what is wrong with it.
type rawRequest struct {
	body []byte
	json bool
}

// rawAnswer is the message that answers it.
type rawAnswer struct{ proto.Message }

type rawCodec struct{ name string }

func (c rawCodec) Name() string { return c.name }

func (c rawCodec) Unmarshal(b []byte, v any) error {
	raw, ok := v.(*rawRequest)
	if !ok {
		return fmt.Errorf("decoding into %T", v)
	}
	raw.body, raw.json = bytes.Clone(b), c.name != "proto"
	return nil
}

func (c rawCodec) Marshal(v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("encoding %T", v)
	}
	if a, ok := m.(*rawAnswer); ok {
		m = a.Message
	}
	if c.name == "proto" {
		return proto.Marshal(m)
	}
	return protojson.Marshal(m)
}

// codeOf says what a client should do about an error: mend the request (InvalidArgument), make it smaller
// (ResourceExhausted), or send it again later (Unavailable).
func codeOf(err error) connect.Code {
	var le *limits.Error
	switch {
	case errors.Is(err, ErrBusy):
		return connect.CodeUnavailable
	case errors.As(err, &le):
		return connect.CodeResourceExhausted
	case errors.Is(err, ErrInvalid), errors.Is(err, storage.ErrInvalid):
		return connect.CodeInvalidArgument
	case errors.Is(err, context.Canceled):
		return connect.CodeCanceled
	case errors.Is(err, context.DeadlineExceeded):
		return connect.CodeDeadlineExceeded
	}
	return connect.CodeUnavailable
}

// HTTP returns the handler of ExportPath: POST of protobuf or JSON, plain or compressed.
func (g *Ingester) HTTP() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		isJSON := mediaType == "application/json"
		answer := &httpAnswer{w: w, json: isJSON}
		switch {
		case r.Method != http.MethodPost:
			w.Header().Set("Allow", http.MethodPost)
			answer.fail(http.StatusMethodNotAllowed, connect.CodeUnimplemented, ExportPath+" takes POST")
			return
		case err != nil, !isJSON && mediaType != "application/x-protobuf" && mediaType != "application/protobuf":
			answer.fail(http.StatusUnsupportedMediaType, connect.CodeInvalidArgument,
				fmt.Sprintf("content type %q: want application/x-protobuf or application/json", r.Header.Get("Content-Type")))
			return
		}
		encoding := strings.ToLower(r.Header.Get("Content-Encoding"))
		if !knownEncoding(encoding) {
			answer.fail(http.StatusUnsupportedMediaType, connect.CodeInvalidArgument,
				fmt.Sprintf("unknown content encoding %.40q: want %s", encoding, strings.Join(limits.Encodings, ", ")))
			return
		}
		body, leave, err := g.gate.enter(r.Context(), r.Body, r.ContentLength)
		if err != nil {
			g.done(doorHTTP, 0, err)
			answer.error(err)
			return
		}
		defer leave()
		if body, err = g.unpack(body, encoding); err != nil {
			g.done(doorHTTP, 0, err)
		} else {
			err = g.decodeAndExport(r.Context(), body, isJSON)
			g.done(doorHTTP, len(body), err)
		}
		if err != nil {
			answer.error(err)
			return
		}
		answer.message(http.StatusOK, &collectorv1.ExportProfilesServiceResponse{})
	})
}

// unpack returns a body unpacked, or as it is if it is not packed or empty.
func (g *Ingester) unpack(body []byte, encoding string) ([]byte, error) {
	unpacked, err := g.unpacker.Unpack(encoding, body)
	if err != nil {
		return nil, readError(encoding, err)
	}
	return unpacked, nil
}

// readError tells what the limits refused from what is broken.
func readError(encoding string, err error) error {
	var le *limits.Error
	switch {
	case errors.Is(err, ErrBusy), errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &le):
		return le
	case encoding == "":
		return invalid("reading the body: %v", err)
	}
	return invalid("unpacking the body (%s): %v", encoding, err)
}

// httpAnswer answers in the language of the request, errors as google.rpc.Status, as OTLP asks.
type httpAnswer struct {
	w    http.ResponseWriter
	json bool
}

func (a *httpAnswer) error(err error) {
	status := statusOf(err)
	if status == http.StatusServiceUnavailable {
		a.w.Header().Set("Retry-After", retryAfter)
	}
	a.fail(status, codeOf(err), err.Error())
}

// retryAfter is how long those wait who were told to come again, in seconds.
const retryAfter = "5"

// statusOf is codeOf for those who speak plain HTTP.
func statusOf(err error) int {
	var le *limits.Error
	code := codeOf(err)
	switch {
	case code == connect.CodeUnavailable:
		return http.StatusServiceUnavailable
	case errors.As(err, &le) && (le.Limit == limits.BodyBytes || le.Limit == limits.DecompressedBytes || le.Limit == limits.DecodedBytes):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, errFormat):
		return http.StatusUnsupportedMediaType
	case code == connect.CodeCanceled, code == connect.CodeDeadlineExceeded:
		return http.StatusRequestTimeout
	}
	return http.StatusBadRequest
}

func (a *httpAnswer) fail(status int, code connect.Code, text string) {
	a.message(status, &statusv1.Status{Code: int32(code), Message: strings.ToValidUTF8(text, "\uFFFD")}) // it may quote the body
}

func (a *httpAnswer) message(status int, m proto.Message) {
	var b []byte
	var err error
	if a.json {
		a.w.Header().Set("Content-Type", "application/json")
		if b, err = protojson.Marshal(m); err == nil {
			var compact bytes.Buffer // protojson varies its spaces on purpose
			if json.Compact(&compact, b) == nil {
				b = compact.Bytes()
			}
		}
	} else {
		a.w.Header().Set("Content-Type", "application/x-protobuf")
		b, err = proto.Marshal(m)
	}
	if err != nil {
		panic("BUG: encoding our own answer: " + err.Error())
	}
	a.w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	a.w.WriteHeader(status)
	a.w.Write(b)
}
