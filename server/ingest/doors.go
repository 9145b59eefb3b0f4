package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/storage"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/profiles/v1development"
	statusv1 "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// The two doors of OTLP.
const (
	ExportProcedure = "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export"
	ExportPath      = "/v1development/profiles"

	doorRPC  = "otlp_grpc"
	doorHTTP = "otlp_http"
)

// RPC returns the handler of ExportProcedure: gRPC, gRPC-web and Connect.
func (g *Ingester) RPC() http.Handler {
	// What is too large ends while Connect reads it, before our handler sees anything.
	refused := func(err error) { g.done(doorRPC, 0, err) }
	opts := append(limits.HandlerOptions(g.limits.DecompressedBytes, refused),
		connect.WithCodec(rawCodec{name: "proto"}), connect.WithCodec(rawCodec{name: "json"}),
		connect.WithCodec(rawCodec{name: "json; charset=utf-8"}))
	h := connect.NewUnaryHandlerSimple(ExportProcedure, func(ctx context.Context, raw *rawRequest) (*collectorv1.ExportProfilesServiceResponse, error) {
		err := g.exportRaw(ctx, doorRPC, raw.body, raw.json)
		if err != nil {
			return nil, connect.NewError(codeOf(err), err)
		}
		return &collectorv1.ExportProfilesServiceResponse{}, nil
	}, opts...)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = g.limitBody(r.Body, refused)
		h.ServeHTTP(w, r)
	})
}

func (g *Ingester) limitBody(body io.ReadCloser, refused func(error)) io.ReadCloser {
	return limits.Body(body, limits.BodyBytes, g.limits.BodyBytes, "the request body", refused)
}

func (g *Ingester) exportRaw(ctx context.Context, door string, body []byte, isJSON bool) error {
	err := g.decodeAndExport(ctx, body, isJSON)
	g.done(door, len(body), err)
	return err
}

func (g *Ingester) decodeAndExport(ctx context.Context, body []byte, isJSON bool) error {
	cost, err := estimate(body, isJSON, &g.limits)
	if err != nil {
		return err
	}
	release, err := g.room(ctx, cost)
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

// ErrBusy: as much is being taken in as memory allows.
var ErrBusy = errors.New("the server is busy; send the profiles again later")

// room waits until what is decoded at one time, all requests together, takes no more than one may.
func (g *Ingester) room(ctx context.Context, cost int64) (release func(), err error) {
	if g.memory == nil {
		return func() {}, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, roomTime, ErrBusy)
	defer cancel()
	if err := g.memory.Acquire(ctx, cost); err != nil {
		return nil, fmt.Errorf("waiting for other requests to end: %w", context.Cause(ctx))
	}
	return func() { g.memory.Release(cost) }, nil
}

// roomTime is how long a request waits for others.
const roomTime = 10 * time.Second

// rawRequest is a message that was not decoded yet, so that we do it within our limits and say in our words
// what is wrong with it.
type rawRequest struct {
	body []byte
	json bool
}

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
		body, err := g.readBody(r)
		if errors.Is(err, errEncoding) {
			answer.fail(http.StatusUnsupportedMediaType, connect.CodeInvalidArgument, err.Error())
			return
		}
		if err != nil {
			g.done(doorHTTP, len(body), err)
		} else {
			err = g.exportRaw(r.Context(), doorHTTP, body, isJSON)
		}
		if err != nil {
			answer.error(err)
			return
		}
		answer.message(http.StatusOK, &collectorv1.ExportProfilesServiceResponse{})
	})
}

var errEncoding = errors.New("unknown content encoding")

func (g *Ingester) readBody(r *http.Request) ([]byte, error) {
	var in io.Reader = g.limitBody(r.Body, nil)
	if enc := strings.ToLower(r.Header.Get("Content-Encoding")); enc != "" && enc != "identity" {
		d := limits.NewDecompressor(enc, limits.DecompressedBytes, g.limits.DecompressedBytes, nil)
		if d == nil {
			return nil, fmt.Errorf("%w %.40q: want %s", errEncoding, enc, strings.Join(limits.Encodings, ", "))
		}
		defer d.Close()
		if err := d.Reset(in); errors.Is(err, io.EOF) {
			return nil, nil // an empty body, whatever it is called
		} else if err != nil {
			return nil, readError(enc, err)
		}
		in = d
	}
	body, err := io.ReadAll(in)
	if err != nil {
		return nil, readError(r.Header.Get("Content-Encoding"), err)
	}
	return body, nil
}

// readError tells what the limits refused from what is broken.
func readError(encoding string, err error) error {
	var le *limits.Error
	switch {
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
	code := codeOf(err)
	status := http.StatusBadRequest
	var le *limits.Error
	switch {
	case errors.As(err, &le) && (le.Limit == limits.BodyBytes || le.Limit == limits.DecompressedBytes || le.Limit == limits.DecodedBytes):
		status = http.StatusRequestEntityTooLarge
	case code == connect.CodeUnavailable:
		status = http.StatusServiceUnavailable
		a.w.Header().Set("Retry-After", "5")
	case code == connect.CodeCanceled, code == connect.CodeDeadlineExceeded:
		status = http.StatusRequestTimeout
	}
	a.fail(status, code, err.Error())
}

func (a *httpAnswer) fail(status int, code connect.Code, text string) {
	a.message(status, &statusv1.Status{Code: int32(code), Message: text})
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
