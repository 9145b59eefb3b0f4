package frost

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perfuse/perfuse/storage"
)

// TestFullFileSystem fills a real file system of 4 MiB, and makes space again.
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
	o := Options{Dir: filepath.Join(mount, "data"), Retention: -1, SegmentBytes: 64 << 10, HeadBytes: 200 << 10, retry: time.Millisecond}
	s := open(t, o)
	acked := map[int]bool{}
	i, refusals := 0, 0
	for ; refusals < 50; i++ {
		if i > 1_000_000 {
			t.Fatal("4 MiB have no end")
		}
		switch err := s.Write(t.Context(), batchOf(i)); {
		case err == nil:
			acked[i] = true
		case errors.Is(err, storage.ErrReadOnly):
			refusals++
		default:
			t.Fatalf("writing: %v", err)
		}
	}
	t.Logf("%d batches until it was full", len(acked))
	wants(t, "full", s, acked, nil)
	if err := s.Close(); err != nil {
		t.Fatalf("closing: %v", err)
	}
	s = open(t, o)
	wants(t, "opened while full", s, acked, nil)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	for tries := 0; ; tries++ {
		err := s.Write(t.Context(), batchOf(i))
		if err == nil {
			break
		}
		if tries > 1_000_000 {
			t.Fatalf("it does not recover: %v", err)
		}
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
