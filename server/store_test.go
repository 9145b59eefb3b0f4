package server

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/frost"
	"github.com/perfuse/perfuse/storage/storagetest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// TestRestart: what was acknowledged is there after a restart, once.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	open := func(context.Context) (Backends, error) {
		store, err := frost.New(frost.Options{Dir: dir})
		return Backends{Store: store}, err
	}
	for run := int64(1); run <= 3; run++ {
		s := start(t, Options{Open: open})
		s.awaitReady(t)
		if _, err := otlp(t, s.Addr()).Export(t.Context(), request("web", 4)); err != nil {
			t.Fatal(err)
		}
		resp, err := s.query().FlameGraph(t.Context(), &queryv1.FlameGraphRequest{Selection: &queryv1.Selection{ProfileType: "samples"}})
		if err != nil {
			t.Fatal(err)
		}
		if resp.Total != 6*run || resp.NodeCount != 4 {
			t.Errorf("run %d: %d samples in %d nodes, want %d in 4", run, resp.Total, resp.NodeCount, 6*run)
		}
		if err := s.stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// fullStore is one whose disk is full.
type fullStore struct{ storagetest.Model }

func (*fullStore) Write(context.Context, *profile.Batch) error {
	return fmt.Errorf("appending to the log: no space left on device: %w", storage.ErrReadOnly)
}

// TestFullDisk: profiles are refused so that their sender keeps them and comes again; questions are answered.
func TestFullDisk(t *testing.T) {
	s := start(t, Options{Open: func(context.Context) (Backends, error) { return Backends{Store: &fullStore{}}, nil }})
	s.awaitReady(t)
	_, err := otlp(t, s.Addr()).Export(t.Context(), request("web", 4))
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "no space left on device: storage is read-only") {
		t.Errorf("gRPC: %v", err)
	}
	body, err := proto.Marshal(request("web", 4))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(s.url+"/v1development/profiles", "application/x-protobuf", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("HTTP: %s %v", resp.Status, resp.Header)
	}
	if _, err := s.query().FlameGraph(t.Context(), &queryv1.FlameGraphRequest{Selection: &queryv1.Selection{ProfileType: "cpu"}}); err != nil {
		t.Errorf("asking: %v", err)
	}
}

// TestOneAtATime: two servers cannot have the same store; the second says so and stops.
func TestOneAtATime(t *testing.T) {
	dir := t.TempDir()
	open := func(context.Context) (Backends, error) {
		store, err := frost.New(frost.Options{Dir: dir})
		if err != nil {
			return Backends{}, err
		}
		return Backends{Store: store}, nil
	}
	first := start(t, Options{Open: open})
	first.awaitReady(t)
	second, err := New(Options{HTTPAddress: "127.0.0.1:0", OTLPAddresses: []string{}, Open: open})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); err == nil {
		t.Error("two servers have the same store")
	} else {
		t.Log(err)
	}
}
