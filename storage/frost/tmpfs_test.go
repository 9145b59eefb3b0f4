package frost

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/perfuse/perfuse/storage"
)

// readOnly returns the reasons for which the metric says that writes are refused.
func readOnly(t *testing.T, reg prometheus.Gatherer) (reasons []string) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := 0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() != "perfuse_storage_read_only" {
				continue
			}
			if series++; m.GetGauge().GetValue() == 1 {
				reasons = append(reasons, m.GetLabel()[0].GetValue())
			}
		}
	}
	if series != 3 {
		t.Fatalf("the metric has %d series", series)
	}
	return reasons
}

// TestFullFileSystem fills a real file system of 4 MiB, and makes space again: the store says so, answers, and goes
// on by itself.
func TestFullFileSystem(t *testing.T) {
	mount := t.TempDir()
	if err := unix.Mount("tmpfs", mount, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("mounting a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mount, 0); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	})
	filler := filepath.Join(mount, "filler")
	if err := os.WriteFile(filler, make([]byte, 3<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	o := Options{
		Dir: filepath.Join(mount, "data"), Retention: -1, SegmentBytes: 64 << 10, HeadBytes: 200 << 10, Registerer: reg,
		HeadAge: 100 * time.Millisecond, retry: time.Millisecond, // a broken log is looked after as often as a head's age
	}
	s := open(t, o)
	if reasons := readOnly(t, reg); len(reasons) != 0 {
		t.Errorf("a new store is read-only: %v", reasons)
	}
	acked := map[int]bool{}
	i := 0
	// fill writes until it is refused and the metric says so, fifty times: blocks that are written meanwhile give
	// room back at first.
	fill := func() {
		t.Helper()
		for refusals := 0; refusals < 50; i++ {
			if i > 1_000_000 {
				t.Fatal("4 MiB have no end")
			}
			switch err := s.Write(t.Context(), batchOf(i)); {
			case err == nil:
				acked[i] = true
			case errors.Is(err, storage.ErrReadOnly):
				if !strings.Contains(err.Error(), "no space left on device") || !strings.Contains(err.Error(), "make room") {
					t.Fatalf("the refusal does not say what to do: %v", err)
				}
				if slices.Equal(readOnly(t, reg), []string{"disk_full"}) {
					refusals++
				}
			default:
				t.Fatalf("writing: %v", err)
			}
		}
	}
	fill()
	t.Logf("%d batches until it was full", len(acked))
	wants(t, "full", s, acked, nil)
	if err := s.Close(); err != nil {
		t.Fatalf("closing: %v", err)
	}
	s = open(t, o)
	wants(t, "opened while full", s, acked, nil)
	fill()
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	for tries := 0; len(readOnly(t, reg)) > 0; tries++ { // nothing is written: it looks by itself
		if tries > 1000 {
			t.Fatalf("it does not recover: %+v", s.Stats())
		}
		next, _ := s.attempt()
		<-next
	}
	if err := s.Write(t.Context(), batchOf(i)); err != nil {
		t.Fatalf("writing when there is space again: %v", err)
	}
	acked[i] = true
	wants(t, "space again", s, acked, nil)
	if err := s.Flush(t.Context()); err != nil {
		t.Errorf("flushing: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wants(t, "opened again", open(t, o), acked, nil)
}
