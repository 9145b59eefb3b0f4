package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/go-kit/log"
	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/server/limits/limitstest"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/storagetest"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/profiles/v1development"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// TestDoors sends the same profile through every door and asks for it in every protocol.
func TestDoors(t *testing.T) {
	s := start(t, Options{OTLPAddresses: []string{"127.0.0.1:0"}})
	wire, err := proto.Marshal(request("web", 4))
	if err != nil {
		t.Fatal(err)
	}
	text, err := protojson.Marshal(request("web", 4))
	if err != nil {
		t.Fatal(err)
	}
	grpcTo := func(address string, opts ...grpc.CallOption) func() error {
		return func() error {
			_, err := otlp(t, address).Export(t.Context(), request("web", 4), opts...)
			return err
		}
	}
	httpTo := func(url string, body []byte, headers ...string) func() error {
		return func() error {
			r := &running{url: url}
			if status, answer := r.post(t, "/v1development/profiles", bytes.NewReader(body), headers...); status != http.StatusOK {
				return fmt.Errorf("%d %s", status, answer)
			}
			return nil
		}
	}
	const procedure = "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export"
	doors := []struct {
		name string
		send func() error
	}{
		{"gRPC", grpcTo(s.Addr())},
		{"gRPC, gzip", grpcTo(s.Addr(), grpc.UseCompressor("gzip"))},
		{"gRPC on OTLP's port", grpcTo(s.OTLPAddrs()[0])},
		{"HTTP, protobuf", httpTo(s.url, wire, "Content-Type", "application/x-protobuf")},
		{"HTTP, JSON", httpTo(s.url, text, "Content-Type", "application/json")},
		{"HTTP, gzip", httpTo(s.url, limitstest.Pack(t, "gzip", wire), "Content-Type", "application/x-protobuf", "Content-Encoding", "gzip")},
		{"HTTP, zstd", httpTo(s.url, limitstest.Pack(t, "zstd", wire), "Content-Type", "application/x-protobuf", "Content-Encoding", "zstd")},
		{"HTTP on OTLP's port", httpTo("http://"+s.OTLPAddrs()[0], text, "Content-Type", "application/json; charset=utf-8")},
		{"Connect, JSON", func() error {
			if status, answer := s.post(t, procedure, bytes.NewReader(text), "Content-Type", "application/json"); status != http.StatusOK {
				return fmt.Errorf("%d %s", status, answer)
			}
			return nil
		}},
		{"gRPC-web", func() error {
			status, answer := s.post(t, procedure, bytes.NewReader(frame(wire, false)), "Content-Type", "application/grpc-web+proto")
			if status != http.StatusOK || !strings.Contains(answer, "grpc-status: 0") {
				return fmt.Errorf("%d %q", status, answer)
			}
			return nil
		}},
	}
	for i, d := range doors {
		t.Run(d.name, func(t *testing.T) {
			if err := d.send(); err != nil {
				t.Fatal(err)
			}
			// What was acknowledged is in the next answer, in each of the protocols.
			sel := &queryv1.Selection{ProfileType: "cpu", Selector: `{service_name="web"}`}
			want := int64(i+1) * 6 * 10_000_000
			for name, opts := range map[string][]connect.ClientOption{
				"Connect": nil, "Connect JSON": {connect.WithProtoJSON()}, "gRPC": {connect.WithGRPC()}, "gRPC-web": {connect.WithGRPCWeb()},
			} {
				resp, err := s.query(opts...).FlameGraph(t.Context(), &queryv1.FlameGraphRequest{Selection: sel})
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if resp.Total != want || resp.Unit != "nanoseconds" {
					t.Errorf("%s: total %d %s, want %d nanoseconds", name, resp.Total, resp.Unit, want)
				}
			}
		})
	}
}

// TestJSON: the API is plain JSON over POST for those who have only curl.
func TestJSON(t *testing.T) {
	s := start(t, Options{})
	if _, err := otlp(t, s.Addr()).Export(t.Context(), request("web", 4)); err != nil {
		t.Fatal(err)
	}
	status, body := s.post(t, "/perfuse.query.v1.QueryService/Top", strings.NewReader(`{"selection":{"profileType":"samples"},"limit":1}`),
		"Content-Type", "application/json")
	var got map[string]any
	if err := json.Unmarshal([]byte(body), &got); err != nil || status != http.StatusOK {
		t.Fatalf("%d %s: %v", status, body, err)
	}
	if got["total"] != "6" || got["unit"] != "count" || got["truncated"] != true || got["functionCount"] != "3" {
		t.Errorf("got %s", body)
	}
}

// TestPorts: what cannot be had is an error that names the port and what to do; OTLP's own ports may be taken.
func TestPorts(t *testing.T) {
	open := func(context.Context) (Backends, error) { return Backends{Store: &storagetest.Model{}}, nil }
	taken := takenPort(t)
	_, port, _ := net.SplitHostPort(taken)
	f := func(name string, opts Options, want ...string) {
		t.Helper()
		opts.Open = open
		s, err := New(opts)
		if err == nil {
			s.Close()
			t.Errorf("%s: no error", name)
			return
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q lacks %q", name, err, w)
			}
		}
	}
	f("the port", Options{HTTPAddress: taken}, taken, "address already in use", "ss -ltnp 'sport = :"+port+"'", "--http-address")
	f("an OTLP port that was asked for", Options{HTTPAddress: "127.0.0.1:0", OTLPAddresses: []string{taken}}, taken, "otlp_addresses")
	f("not an address", Options{HTTPAddress: "7070"}, "7070", "missing port")
	f("not this machine's", Options{HTTPAddress: "203.0.113.1:0"}, "203.0.113.1:0", "this machine has no such address")

	// A default port that is taken is one log line.
	defer func(old []string) { defaultOTLPAddresses = old }(defaultOTLPAddresses)
	defaultOTLPAddresses = []string{taken, "127.0.0.1:0"}
	var lines bytes.Buffer
	s, err := New(Options{HTTPAddress: "127.0.0.1:0", Open: open, Logger: log.NewLogfmtLogger(&lines)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if n := len(s.OTLPAddrs()); n != 1 {
		t.Errorf("%d OTLP addresses, want 1", n)
	}
	if n := strings.Count(lines.String(), "\n"); n != 1 || !strings.Contains(lines.String(), taken) {
		t.Errorf("want one line about %s, got %q", taken, lines.String())
	}
}

// TestStarting: while the store opens, the server is alive and says so; clients are told to come again.
func TestStarting(t *testing.T) {
	release := make(chan error)
	s := start(t, Options{Open: func(ctx context.Context) (Backends, error) {
		return Backends{Store: &storagetest.Model{}}, <-release
	}})
	f := func(path string, want int) {
		t.Helper()
		if status, body := s.get(t, path); status != want {
			t.Errorf("%s: %d %q, want %d", path, status, body, want)
		}
	}
	f("/healthz", 200)
	f("/readyz", 503)
	f("/metrics", 200)
	f("/debug/", 200)
	f("/", 503)
	if _, err := otlp(t, s.Addr()).Export(t.Context(), request("web", 1)); !strings.Contains(err.Error(), "Unavailable") {
		t.Errorf("OTLP while starting: %v, want Unavailable", err)
	}
	if _, err := s.query().ProfileTypes(t.Context(), &queryv1.ProfileTypesRequest{}); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("query while starting: %v, want unavailable", err)
	}
	release <- nil
	s.awaitReady(t)
	f("/", 200)
	if _, err := otlp(t, s.Addr()).Export(t.Context(), request("web", 1)); err != nil {
		t.Error(err)
	}
}

// TestOpenFails: a store that does not open ends Run with its error.
func TestOpenFails(t *testing.T) {
	broken := errors.New("opening the store in /data: read-only file system")
	s, err := New(Options{HTTPAddress: "127.0.0.1:0", OTLPAddresses: []string{}, Open: func(context.Context) (Backends, error) { return Backends{}, broken }})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); !errors.Is(err, broken) {
		t.Errorf("Run returned %v, want %v", err, broken)
	}
}

// slowStore answers a merge only when the question is withdrawn.
type slowStore struct {
	storagetest.Model
	asked    chan struct{}
	answered chan error
	closed   chan struct{}
}

func (s *slowStore) Merge(ctx context.Context, sel storage.Selection, by []string) (*profile.Batch, error) {
	s.asked <- struct{}{}
	<-ctx.Done()
	s.answered <- context.Cause(ctx)
	return nil, ctx.Err()
}

func (s *slowStore) Close() error {
	close(s.closed)
	return nil
}

func newSlowStore() *slowStore {
	return &slowStore{asked: make(chan struct{}, 8), answered: make(chan error, 8), closed: make(chan struct{})}
}

// TestClientLeaves: a query ends when nobody waits for its answer.
func TestClientLeaves(t *testing.T) {
	store := newSlowStore()
	s := start(t, Options{Open: func(context.Context) (Backends, error) { return Backends{Store: store}, nil }})
	s.awaitReady(t)
	for _, opts := range [][]connect.ClientOption{nil, {connect.WithGRPC()}} {
		ctx, leave := context.WithCancel(t.Context())
		errs := make(chan error, 1)
		go func() {
			_, err := s.query(opts...).FlameGraph(ctx, &queryv1.FlameGraphRequest{Selection: &queryv1.Selection{ProfileType: profile.TypeCPU.String()}})
			errs <- err
		}()
		<-store.asked
		leave()
		if err := <-store.answered; !errors.Is(err, context.Canceled) {
			t.Errorf("the store saw %v", err)
		}
		if err := <-errs; connect.CodeOf(err) != connect.CodeCanceled {
			t.Errorf("the client saw %v", err)
		}
	}
}

// TestStop: with a query running, a connection open and a body that never ends, the server stops within two
// seconds and closes the store after the last request.
func TestStop(t *testing.T) {
	store := newSlowStore()
	s := start(t, Options{Open: func(context.Context) (Backends, error) { return Backends{Store: store}, nil }})
	s.awaitReady(t)
	failed := make(chan error, 1)
	go func() {
		_, err := s.query(connect.WithGRPC()).FlameGraph(context.Background(), &queryv1.FlameGraphRequest{Selection: &queryv1.Selection{ProfileType: profile.TypeCPU.String()}})
		failed <- err
	}()
	<-store.asked
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v1development/profiles HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-protobuf\r\nContent-Length: 1000\r\n\r\nabc")

	begin := time.Now()
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("stopping took %s", took)
	}
	select {
	case <-store.answered:
	default:
		t.Error("the query still runs")
	}
	select {
	case <-store.closed:
	default:
		t.Error("the store is not closed")
	}
	if err := <-failed; err == nil {
		t.Error("the query had an answer")
	}
	if _, err := net.DialTimeout("tcp", s.Addr(), time.Second); err == nil {
		t.Error("the port is still open")
	}
}

// TestHosts: a page of another site cannot read a server on loopback by giving its own name our address, nor
// make a browser post to it.
func TestHosts(t *testing.T) {
	s := start(t, Options{AllowedHosts: []string{"perfuse.example.com"}})
	f := func(want int, headers ...string) {
		t.Helper()
		status, body := s.post(t, "/perfuse.query.v1.QueryService/ProfileTypes", strings.NewReader("{}"), append(headers, "Content-Type", "application/json")...)
		if status != want {
			t.Errorf("%q: %d %s, want %d", headers, status, body, want)
		}
	}
	_, port, _ := net.SplitHostPort(s.Addr())
	f(200)
	f(200, "Host", "localhost:"+port)
	f(200, "Host", "LOCALHOST.")
	f(200, "Host", "[::1]:"+port)
	f(200, "Host", "perfuse.example.com")
	if name, err := os.Hostname(); err == nil {
		f(200, "Host", name+":"+port)
	}
	f(403, "Host", "evil.example.com:"+port)
	f(403, "Host", "127.0.0.1.evil.example.com")
	f(200, "Origin", s.url)
	f(403, "Origin", "https://evil.example.com")
	f(403, "Sec-Fetch-Site", "cross-site")
	f(200, "Sec-Fetch-Site", "same-origin")

	// An agent may know the server by any name.
	conn, err := grpc.NewClient("passthrough:///"+s.Addr(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("perfuse.internal"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := collectorv1.NewProfilesServiceClient(conn).Export(t.Context(), request("web", 1)); err != nil {
		t.Errorf("gRPC by another name: %v", err)
	}
}

// TestDebug: the pages for those who run the server.
func TestDebug(t *testing.T) {
	s := start(t, Options{Status: map[string]func() any{"agent": func() any { return map[string]int{"queue": 3} }}})
	bad := request("web", 1)
	bad.ResourceProfiles[0].ScopeProfiles[0].Profiles[0].Samples[0].StackIndex = -5
	if _, err := otlp(t, s.Addr()).Export(t.Context(), bad); err == nil {
		t.Fatal("no error")
	}
	f := func(path string, want ...string) {
		t.Helper()
		status, body := s.get(t, path)
		if status != 200 {
			t.Errorf("%s: %d %s", path, status, body)
		}
		for _, w := range want {
			if !strings.Contains(body, w) {
				t.Errorf("%s lacks %q:\n%s", path, w, body)
			}
		}
	}
	f("/debug/", "pprof", "samples[0].stack_index is -5", "&#34;queue&#34;: 3")
	f("/debug", "Last errors")
	f("/debug/config", "body_bytes: 33554432", "future: 10m0s")
	f("/debug/build", "github.com/perfuse/perfuse")
	f("/debug/status", `"queue": 3`, `"ready": true`)
	f("/debug/errors", "stack_index is -5")
	f("/debug/pprof/", "goroutine")
	f("/debug/pprof/goroutine?debug=1", "goroutine profile")
	f("/metrics", `perfuse_ingest_requests_total{door="otlp_grpc",outcome="invalid"} 1`, `perfuse_limits_refusals_total{limit="body_bytes"} 0`, "go_goroutines")
	if status, _ := s.get(t, "/debug/nothing"); status != 404 {
		t.Errorf("/debug/nothing: %d", status)
	}
	resp, err := http.Get(s.url + "/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	for _, h := range []string{"Content-Security-Policy", "X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy"} {
		if resp.Header.Get(h) == "" {
			t.Errorf("no header %s", h)
		}
	}
}
