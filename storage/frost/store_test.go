package frost

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/perfuse/perfuse/profile"
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

// TestStoreSpilling runs the suite with nearly every commit in FrostDB, and compacted by it often.
func TestStoreSpilling(t *testing.T) {
	storagetest.Test(t, func(t testing.TB, dir string) storage.Store {
		return open(t, Options{Dir: dir, Retention: -1, spillBytes: 1, compactBytes: 5000})
	})
}

// TestReadYourWrites: what was acknowledged is in the next answer while FrostDB compacts and blocks are written.
func TestReadYourWrites(t *testing.T) {
	s := open(t, Options{Dir: t.TempDir(), Retention: -1, spillBytes: 1, compactBytes: 3000, HeadBytes: 60_000})
	typ := profile.TypeCPU
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			name := fmt.Sprintf("w%d", w)
			sel, err := profile.ParseSelector(fmt.Sprintf("{service_name=%q}", name))
			if err != nil {
				t.Error(err)
				return
			}
			for i := range 300 {
				if err := s.Write(t.Context(), storagetest.Folded(typ, "service_name="+name, time.Duration(i)*time.Second, "main;f 1")); err != nil {
					t.Error(err)
					return
				}
				b, err := s.Merge(t.Context(), storage.Selection{Type: &typ, Selector: sel}, nil)
				if err != nil || len(b.Profiles) != 1 || b.Profiles[0].Total() != int64(i+1) {
					t.Errorf("%s after write %d: %v %s", name, i, err, storagetest.Dump(b))
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestStoreCompacting runs the suite with a block after nearly every commit, of which several become one all the
// time.
func TestStoreCompacting(t *testing.T) {
	storagetest.Test(t, func(t testing.TB, dir string) storage.Store {
		return open(t, Options{Dir: dir, Retention: -1, HeadBytes: 2000, SegmentBytes: 4096, compactRun: 2})
	})
}

// TestStoreRotating runs the suite with a block after nearly every commit.
func TestStoreRotating(t *testing.T) {
	storagetest.Test(t, func(t testing.TB, dir string) storage.Store {
		return open(t, Options{Dir: dir, Retention: -1, HeadBytes: 2000, SegmentBytes: 4096})
	})
}
