package server

import (
	"context"
	"testing"

	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/storage/frost"
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
