package frost

import (
	"testing"

	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/storagetest"
)

func open(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := New(o)
	if err != nil {
		t.Fatalf("opening: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return s
}

func TestStore(t *testing.T) {
	storagetest.Test(t, func(t testing.TB, dir string) storage.Store {
		return open(t, Options{Dir: dir, Retention: -1})
	})
}

// TestStoreRotating runs the suite with a block after nearly every commit.
func TestStoreRotating(t *testing.T) {
	storagetest.Test(t, func(t testing.TB, dir string) storage.Store {
		return open(t, Options{Dir: dir, Retention: -1, HeadBytes: 2000, SegmentBytes: 4096})
	})
}
