package ship

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// exportProcedure is OTLP's service and method.
const exportProcedure = "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export"

// message is an encoded protobuf message on its way to or from the wire: what was spooled is sent as it is.
type message struct{ bytes []byte }

type messageCodec struct{}

func (messageCodec) Name() string { return "proto" }

func (messageCodec) Marshal(v any) ([]byte, error) {
	if m, ok := v.(*message); ok {
		return m.bytes, nil
	}
	if m, ok := v.(proto.Message); ok {
		return proto.Marshal(m)
	}
	return nil, fmt.Errorf("marshalling %T: not a message", v)
}

func (messageCodec) Unmarshal(b []byte, v any) error {
	if m, ok := v.(*message); ok {
		m.bytes = append([]byte(nil), b...)
		return nil
	}
	if m, ok := v.(proto.Message); ok {
		return proto.Unmarshal(b, m)
	}
	return fmt.Errorf("unmarshalling %T: not a message", v)
}

// exporter sends messages to one OTLP server by gRPC, on one HTTP/2 connection. It starts with zstd and falls
// back to gzip, which every gRPC server has, when the server does not know it.
type exporter struct {
	headers    http.Header
	zstd, gzip *connect.Client[message, message]
	noZstd     bool // the server refused it
}

func newExporter(httpClient *http.Client, url string, headers http.Header) *exporter {
	common := []connect.ClientOption{
		connect.WithGRPC(), connect.WithCodec(messageCodec{}),
		connect.WithReadMaxBytes(1 << 20),
		connect.WithAcceptCompression("zstd", newZstdReader, newZstdWriter),
	}
	client := func(compression string) *connect.Client[message, message] {
		opts := append(append([]connect.ClientOption(nil), common...), connect.WithSendCompression(compression))
		return connect.NewClient[message, message](httpClient, url+exportProcedure, opts...)
	}
	return &exporter{headers: headers, zstd: client("zstd"), gzip: client("gzip")}
}

// newHTTPClient returns a client that speaks HTTP/2, with TLS or without.
func newHTTPClient(insecure bool, config *tls.Config) *http.Client {
	protocols := new(http.Protocols)
	if insecure {
		protocols.SetUnencryptedHTTP2(true)
	} else {
		protocols.SetHTTP2(true)
	}
	return &http.Client{Transport: &http.Transport{
		Protocols:       protocols,
		Proxy:           http.ProxyFromEnvironment,
		TLSClientConfig: config,
		DialContext:     (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		IdleConnTimeout: 2 * time.Minute,
		// A server that vanished without a word is noticed by a ping.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
	}}
}

// send delivers one encoded ExportProfilesServiceRequest. rejected is how many profiles the server says
// that it did not take although it took the message.
func (e *exporter) send(ctx context.Context, body []byte) (rejected int64, reason string, err error) {
	client := e.zstd
	if e.noZstd {
		client = e.gzip
	}
	res, err := e.call(ctx, client, body)
	if err != nil && client == e.zstd && connect.CodeOf(err) == connect.CodeUnimplemented {
		// The method is missing, or the compression is: ask again in the one that all have.
		if res, err = e.call(ctx, e.gzip, body); connect.CodeOf(err) != connect.CodeUnimplemented || err == nil {
			e.noZstd = true
		}
	}
	if err != nil {
		return 0, "", err
	}
	rejected, reason = partialSuccess(res)
	return rejected, reason, nil
}

func (e *exporter) call(ctx context.Context, client *connect.Client[message, message], body []byte) ([]byte, error) {
	req := connect.NewRequest(&message{body})
	for k, vs := range e.headers {
		req.Header()[k] = vs
	}
	res, err := client.CallUnary(ctx, req)
	if err != nil {
		return nil, err
	}
	return res.Msg.bytes, nil
}

// partialSuccess reads an ExportProfilesServiceResponse: partial_success (1) {rejected_profiles (1),
// error_message (2)}. An unreadable answer counts as a full success: it came with the status OK.
func partialSuccess(b []byte) (rejected int64, reason string) {
	fields(b, func(n protowire.Number, v uint64, b []byte) {
		if n == 1 {
			fields(b, func(n protowire.Number, v uint64, b []byte) {
				switch n {
				case 1:
					rejected = int64(v)
				case 2:
					reason = string(b)
				}
			})
		}
	})
	return rejected, reason
}

// fields calls f for the varint and length-delimited fields of a message, as far as it is well-formed.
func fields(b []byte, f func(n protowire.Number, v uint64, b []byte)) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return
		}
		b = b[n:]
		size := protowire.ConsumeFieldValue(num, typ, b)
		if size < 0 {
			return
		}
		switch typ {
		case protowire.VarintType:
			v, _ := protowire.ConsumeVarint(b)
			f(num, v, nil)
		case protowire.BytesType:
			v, _ := protowire.ConsumeBytes(b)
			f(num, 0, v)
		}
		b = b[size:]
	}
}

// verdict is what an error means for the message that was sent.
type verdict struct {
	// permanent: the server understood and refuses this message; it will do so again.
	permanent bool
	// after is how long the server wants to be left alone, 0 if it did not say.
	after time.Duration
}

// maxRetryAfter bounds how long a server can silence an agent.
const maxRetryAfter = 5 * time.Minute

// judge follows OTLP's list of retryable codes, with one difference: what an operator can mend without
// touching the data (a missing token, a server of another version) is tried again and kept meanwhile.
func judge(err error) verdict {
	code := connect.CodeOf(err)
	var v verdict
	var ce *connect.Error
	if errors.As(err, &ce) {
		for _, d := range ce.Details() {
			if d.Type() == "google.rpc.RetryInfo" {
				v.after = retryDelay(d.Bytes())
			}
		}
	}
	switch code {
	case connect.CodeInvalidArgument, connect.CodeOutOfRange, connect.CodeFailedPrecondition, connect.CodeAlreadyExists:
		v.permanent = true
	case connect.CodeResourceExhausted:
		v.permanent = v.after == 0
	}
	return v
}

// retryDelay reads google.rpc.RetryInfo: retry_delay (1) {seconds (1), nanos (2)}.
func retryDelay(b []byte) time.Duration {
	var d time.Duration
	fields(b, func(n protowire.Number, _ uint64, b []byte) {
		if n == 1 {
			fields(b, func(n protowire.Number, v uint64, _ []byte) {
				switch n {
				case 1:
					d += time.Duration(min(v, uint64(maxRetryAfter/time.Second))) * time.Second
				case 2:
					d += time.Duration(min(v, 999_999_999))
				}
			})
		}
	})
	return min(d, maxRetryAfter)
}

// backoff is the distance between two tries: it doubles, with a jitter of half, so that the agents of a fleet
// do not come back all at once.
type backoff struct{ next time.Duration }

const (
	firstBackoff = 500 * time.Millisecond
	lastBackoff  = 15 * time.Second
)

func (b *backoff) reset() { b.next = 0 }

func (b *backoff) wait(v verdict) time.Duration {
	b.next = min(max(2*b.next, firstBackoff), lastBackoff)
	d := b.next/2 + rand.N(b.next)
	return max(d, v.after)
}

type zstdReader struct{ *zstd.Decoder }

func (r zstdReader) Close() error { return r.Reset(nil) }

func newZstdReader() connect.Decompressor {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxRecordBytes))
	if err != nil {
		panic("BUG: zstd refuses our options: " + err.Error())
	}
	return zstdReader{d}
}

func newZstdWriter() connect.Compressor {
	w, err := zstd.NewWriter(io.Discard, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault),
		zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(1<<20))
	if err != nil {
		panic("BUG: zstd refuses our options: " + err.Error())
	}
	return w
}

// serverURL turns HOST:PORT or a URL into a base URL.
func serverURL(address string, insecure bool) (string, error) {
	switch {
	case address == "":
		return "", errors.New("no address of a server")
	case strings.HasPrefix(address, "http://"), strings.HasPrefix(address, "https://"):
		if strings.HasPrefix(address, "http://") != insecure {
			return "", fmt.Errorf("address %s: http:// goes with insecure, https:// without", address)
		}
		return strings.TrimRight(address, "/"), nil
	case strings.Contains(address, "/"):
		return "", fmt.Errorf("address %q: want HOST:PORT", address)
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return "", fmt.Errorf("address %q: want HOST:PORT: %w", address, err)
	}
	if insecure {
		return "http://" + address, nil
	}
	return "https://" + address, nil
}
