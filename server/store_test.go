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

// TestStacksCut: an answer of too many stacks says so, whatever was asked, and its sums are of all.
func TestStacksCut(t *testing.T) {
	for _, c := range []struct {
		frames int
		cut    bool
	}{{5, false}, {3, true}} {
		dir := t.TempDir()
		s := start(t, Options{Open: func(context.Context) (Backends, error) {
			store, err := frost.New(frost.Options{Dir: dir, MaxFrames: c.frames})
			return Backends{Store: store}, err
		}})
		s.awaitReady(t)
		resp, err := http.Post(s.url+"/ingest?name=web&format=folded&from=1700000000&until=1700000010", "", strings.NewReader("main;a 40\nmain;b 30\nidle 5\n"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status)
		}
		sel := &queryv1.Selection{ProfileType: "cpu"}
		check := func(what string, cut bool, total int64, err error) {
			t.Helper()
			if err != nil || cut != c.cut || total != 75*10_000_000 { // samples of 10 ms
				t.Errorf("%s of 5 frames, at most %d: cut is %t, the total %d, %v", what, c.frames, cut, total, err)
			}
		}
		flame, err := s.query().FlameGraph(t.Context(), &queryv1.FlameGraphRequest{Selection: sel})
		check("flame graph", flame.GetStacksCut(), flame.GetTotal(), err)
		top, err := s.query().Top(t.Context(), &queryv1.TopRequest{Selection: sel})
		check("top", top.GetStacksCut(), top.GetTotal(), err)
		diff, err := s.query().Diff(t.Context(), &queryv1.DiffRequest{Before: sel, After: sel})
		check("before", diff.GetBefore().GetStacksCut(), diff.GetBefore().GetTotal(), err)
		check("after", diff.GetAfter().GetStacksCut(), diff.GetAfter().GetTotal(), err)
		rows, err := s.query().DiffTop(t.Context(), &queryv1.DiffTopRequest{Before: sel, After: sel})
		check("top of a difference", rows.GetAfter().GetStacksCut(), rows.GetAfter().GetTotal(), err)
		both, err := s.query().Sandwich(t.Context(), &queryv1.SandwichRequest{Selection: sel, Function: "a"})
		check("sandwich", both.GetStacksCut(), both.GetUnfilteredTotal(), err)
		file, err := s.query().Export(t.Context(), &queryv1.ExportRequest{Selection: sel, Format: queryv1.ExportFormat_EXPORT_FORMAT_FOLDED})
		check("export", file.GetStacksCut(), file.GetTotal(), err)
		if strings.Contains(string(file.GetData()), profile.CutName) != c.cut {
			t.Errorf("at most %d frames are exported as\n%s", c.frames, file.GetData())
		}
		if err := s.stop(); err != nil {
			t.Fatal(err)
		}
	}
}
