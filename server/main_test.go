package server

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/perfuse/perfuse/proto/perfuse/debuginfo/v1/debuginfov1connect"
	"github.com/perfuse/perfuse/proto/perfuse/query/v1/queryv1connect"
	"github.com/perfuse/perfuse/storage/storagetest"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/profiles/v1development"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	profilesv1 "go.opentelemetry.io/proto/otlp/profiles/v1development"
	resourcev1 "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// running is a server on a free port of loopback.
type running struct {
	*Server
	url  string
	stop func() error // ends Run and returns what it returned
}

// start runs a server until the test ends. Options that are not set get a store in memory and no OTLP ports.
func start(t testing.TB, opts Options) *running {
	t.Helper()
	opts.HTTPAddress = "127.0.0.1:0"
	if opts.OTLPAddresses == nil {
		opts.OTLPAddresses = []string{}
	}
	waitReady := opts.Open == nil
	if opts.Open == nil {
		opts.Open = func(context.Context) (Backends, error) { return Backends{Store: &storagetest.Model{}}, nil }
	}
	s, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	r := &running{Server: s, url: "http://" + s.Addr()}
	stopped := false
	r.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(20 * time.Second):
			panic("the server does not stop")
		}
	}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("stopping: %v", err)
		}
	})
	if waitReady {
		r.awaitReady(t)
	}
	return r
}

// awaitReady asks /readyz until it says yes.
func (r *running) awaitReady(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		if status, _ := r.get(t, "/readyz"); status == http.StatusOK {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the server does not get ready")
		}
		time.Sleep(time.Millisecond)
	}
}

func (r *running) get(t testing.TB, path string) (status int, body string) {
	t.Helper()
	resp, err := http.Get(r.url + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// post sends a body with headers, given as name, value, name, value...
func (r *running) post(t testing.TB, path string, body io.Reader, headers ...string) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		}
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// h2c is a client that speaks HTTP/2 without TLS, as gRPC does.
func h2c() *http.Client {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: p}}
}

// query returns a client of the query API, by default over the Connect protocol.
func (r *running) query(opts ...connect.ClientOption) queryv1connect.QueryServiceClient {
	return queryv1connect.NewQueryServiceClient(h2c(), r.url, opts...)
}

func (r *running) debuginfo(opts ...connect.ClientOption) debuginfov1connect.DebuginfoServiceClient {
	return debuginfov1connect.NewDebuginfoServiceClient(h2c(), r.url, opts...)
}

// otlp returns a client as OpenTelemetry's own exporters have it.
func otlp(t testing.TB, address string, opts ...grpc.DialOption) collectorv1.ProfilesServiceClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+address, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return collectorv1.NewProfilesServiceClient(conn)
}

// testTime is when all test profiles were taken: a moment that the server takes, whatever the machine's clock.
var testTime = time.Now().Add(-time.Hour)

// request is a profile of a service with the stacks main;work COUNT and main;wait COUNT/2, at 10 ms a sample.
func request(service string, count int64) *collectorv1.ExportProfilesServiceRequest {
	return &collectorv1.ExportProfilesServiceRequest{
		ResourceProfiles: []*profilesv1.ResourceProfiles{{
			Resource: &resourcev1.Resource{Attributes: []*commonv1.KeyValue{
				{Key: "service.name", Value: &commonv1.AnyValue{Value: &commonv1.AnyValue_StringValue{StringValue: service}}},
			}},
			ScopeProfiles: []*profilesv1.ScopeProfiles{{Profiles: []*profilesv1.Profile{{
				SampleType:   &profilesv1.ValueType{TypeStrindex: 1, UnitStrindex: 2},
				PeriodType:   &profilesv1.ValueType{TypeStrindex: 3, UnitStrindex: 4},
				Period:       10_000_000,
				TimeUnixNano: uint64(testTime.UnixNano()),
				DurationNano: uint64(time.Second),
				Samples: []*profilesv1.Sample{
					{StackIndex: 1, Values: []int64{count}},
					{StackIndex: 2, Values: []int64{count / 2}},
				},
			}}}},
		}},
		Dictionary: &profilesv1.ProfilesDictionary{
			StringTable:   []string{"", "samples", "count", "cpu", "nanoseconds", "main", "work", "wait"},
			FunctionTable: []*profilesv1.Function{{}, {NameStrindex: 5}, {NameStrindex: 6}, {NameStrindex: 7}},
			LocationTable: []*profilesv1.Location{{},
				{Lines: []*profilesv1.Line{{FunctionIndex: 1}}}, {Lines: []*profilesv1.Line{{FunctionIndex: 2}}}, {Lines: []*profilesv1.Line{{FunctionIndex: 3}}}},
			StackTable: []*profilesv1.Stack{{}, {LocationIndices: []int32{2, 1}}, {LocationIndices: []int32{3, 1}}},
		},
	}
}

// frame puts a message into gRPC's envelope.
func frame(message []byte, compressed bool) []byte {
	n := len(message)
	b := []byte{0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
	if compressed {
		b[0] = 1
	}
	return append(b, message...)
}

// takenPort returns an address that something listens on until the test ends.
func takenPort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}
