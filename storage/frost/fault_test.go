package frost

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/disk/disktest"
	"github.com/perfuse/perfuse/storage/storagetest"
)

// onDisk are options for a store in memory that retries at once.
func onDisk(fsys *disktest.FS) Options {
	return Options{Dir: "/data", Retention: -1, fs: fsys, retry: time.Millisecond, SegmentBytes: 700, compactRun: 2}
}

// batchOf is a batch that can be told from every other: one function of its own, value 1.
func batchOf(i int) *profile.Batch {
	b := storagetest.Folded(profile.TypeCPU, fmt.Sprintf("service_name=s%d", i%3), time.Duration(i)*time.Second, fmt.Sprintf("main;work%d;own%d 1", i%4, i), "main;shared 2")
	b.Profiles[0].ID = idOf(i)
	return b
}

func idOf(i int) profile.ID {
	id := profile.ID{0: 1}
	binary.BigEndian.PutUint32(id[12:], uint32(i))
	return id
}

// knows checks that the recent IDs are those of the batches that are there.
func knows(t testing.TB, what string, s *Store) {
	t.Helper()
	there := found(t, s)
	ids, err := s.Recent(t.Context())
	if err != nil {
		t.Fatalf("%s: asking for the recent IDs: %v", what, err)
	}
	for _, id := range ids {
		if i := binary.BigEndian.Uint32(id[12:]); there[fmt.Sprintf("own%d", i)] != 1 {
			t.Fatalf("%s: the ID of batch %d is known, the batch is not there", what, i)
		}
	}
	if n := len(there) - 1; len(there) > 0 && len(ids) != n { // "shared" is no batch
		t.Fatalf("%s: %d IDs of %d batches", what, len(ids), n)
	}
}

// found returns how often each batch is in the store.
func found(t testing.TB, s *Store) map[string]int64 {
	t.Helper()
	typ := profile.TypeCPU
	b, err := s.Merge(t.Context(), storage.Selection{Type: &typ}, nil)
	if err != nil {
		t.Fatalf("merging: %v", err)
	}
	out := map[string]int64{}
	for i := range b.Profiles {
		for _, smp := range b.Profiles[i].Samples {
			leaf := b.Dictionary.Frames[b.Dictionary.Stacks[smp.Stack][0]]
			out[b.Dictionary.Functions[leaf.Lines[0].Function].Name] += smp.Value
		}
	}
	return out
}

// wants checks that the acknowledged batches are there once; may be is at most one more that is.
func wants(t testing.TB, what string, s *Store, acked map[int]bool, maybe map[int]bool) {
	t.Helper()
	got := found(t, s)
	n := len(acked)
	for i := range acked {
		if v := got[fmt.Sprintf("own%d", i)]; v != 1 {
			t.Fatalf("%s: acknowledged batch %d is there %d times\n%s", what, i, v, fmt.Sprint(got))
		}
	}
	for name, v := range got {
		if name == "shared" {
			continue
		}
		var i int
		if _, err := fmt.Sscanf(name, "own%d", &i); err != nil {
			t.Fatalf("%s: %q is there", what, name)
		}
		if !acked[i] {
			n++
			if !maybe[i] || v != 1 {
				t.Fatalf("%s: batch %d, which was refused for good, is there %d times", what, i, v)
			}
		}
	}
	if got["shared"] != int64(2*n) {
		t.Fatalf("%s: %d of the shared stack, want %d", what, got["shared"], 2*n)
	}
}

var errPower = errors.New("the power failed")

// course writes batches with flushes and compactions between them and calls after for each step. It goes on when
// the power does not.
func course(t *testing.T, s *Store, after func(i int, err error)) {
	for i := range 8 {
		after(i, s.Write(t.Context(), batchOf(i)))
		// The images are what is checked.
		if i == 1 || i == 3 || i == 6 {
			_ = s.Flush(t.Context())
		}
		if i == 3 || i == 7 {
			_ = s.Compact(t.Context())
		}
	}
}

// TestCrashAnywhere ends the process, or the power, at every operation on the disk of a course of writes, flushes
// and compactions, and opens what is left. Once with blocks only where the course flushes, once with a block after every
// other write, also while the log is replayed.
func TestCrashAnywhere(t *testing.T) {
	for _, headBytes := range []int64{0, 150} {
		t.Run(fmt.Sprint(headBytes), func(t *testing.T) { crashAnywhere(t, headBytes) })
	}
}

func crashAnywhere(t *testing.T, headBytes int64) {
	onDisk := func(fsys *disktest.FS) Options {
		o := onDisk(fsys)
		o.HeadBytes = headBytes
		if headBytes > 0 {
			o.SegmentBytes = 1 // each record has its own: replay ends heads, too
		}
		return o
	}
	total := 0
	for stop := 0; ; stop++ {
		fsys := disktest.New()
		s, err := New(onDisk(fsys))
		if err != nil {
			t.Fatal(err)
		}
		var ops, off atomic.Int64
		fsys.Fail(func(op disktest.Op, _ string) error {
			if off.Load() != 0 || op.Mutates() && ops.Add(1) > int64(stop) {
				off.Store(1)
				return errPower
			}
			return nil
		})
		acked, maybe := map[int]bool{}, map[int]bool{}
		course(t, s, func(i int, err error) {
			maybe[i] = true
			if err == nil {
				acked[i] = true
				clear(maybe)
			}
		})
		images := map[string]*disktest.FS{"kill": fsys.Kill(), "crash": fsys.Crash(nil)}
		for seed := range uint64(2) {
			images[fmt.Sprintf("torn crash %d", seed)] = fsys.Crash(rand.New(rand.NewPCG(seed, uint64(stop))))
		}
		_ = s.Close() // its disk is gone
		for name, image := range images {
			what := fmt.Sprintf("%s at operation %d", name, stop)
			s, err := New(onDisk(image))
			if err != nil {
				t.Fatalf("%s: %v\n%s", what, err, image)
			}
			wants(t, what, s, acked, maybe)
			knows(t, what, s)
			if err := s.Write(t.Context(), batchOf(99)); err != nil {
				t.Fatalf("%s: writing: %v", what, err)
			}
			if err := errors.Join(s.Flush(t.Context()), s.Compact(t.Context())); err != nil {
				t.Fatalf("%s: flushing: %v", what, err)
			}
			if err := s.Close(); err != nil {
				t.Fatalf("%s: closing: %v", what, err)
			}
			if s, err = New(onDisk(image.Crash(nil))); err != nil {
				t.Fatalf("%s: opening again: %v", what, err)
			}
			acked[99] = true
			wants(t, what+", opened again", s, acked, maybe)
			knows(t, what, s)
			delete(acked, 99)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if off.Load() == 0 {
			total = stop
			break
		}
	}
	if total < 50 {
		t.Errorf("only %d operations: the course does too little", total)
	}
	t.Logf("%d operations", total)
}

// TestFaultAnywhere makes each operation of the course fail once, with a refused batch sent again until it is
// taken: at the end everything is there once, at once and after opening again.
func TestFaultAnywhere(t *testing.T) {
	for _, cause := range []error{syscall.EIO, syscall.ENOSPC} {
		for fail := int64(1); ; fail++ {
			fsys := disktest.New()
			s, err := New(onDisk(fsys))
			if err != nil {
				t.Fatal(err)
			}
			var ops atomic.Int64
			var checking atomic.Bool
			var failed atomic.Value
			fsys.Fail(func(op disktest.Op, name string) error {
				if !checking.Load() && ops.Add(1) == fail {
					failed.Store(fmt.Sprintf("%s of %s", op, name))
					return cause
				}
				return nil
			})
			acked := map[int]bool{}
			course(t, s, func(i int, err error) {
				for tries := 0; err != nil; tries++ {
					if !errors.Is(err, storage.ErrReadOnly) || tries > 1000 {
						t.Fatalf("fault %d, batch %d: %v", fail, i, err)
					}
					err = s.Write(t.Context(), batchOf(i))
				}
				acked[i] = true
			})
			what := fmt.Sprintf("%v at %v", cause, failed.Load())
			for tries := 0; ; tries++ {
				err := errors.Join(s.Flush(t.Context()), s.Compact(t.Context()))
				if err == nil {
					break
				}
				if tries > 1000 {
					t.Fatalf("%s: flushing: %v", what, err)
				}
			}
			checking.Store(true)
			wants(t, what, s, acked, nil)
			knows(t, what, s)
			st := s.Stats()
			if st.ReadOnly != "" {
				t.Fatalf("%s: read-only: %s", what, st.ReadOnly)
			}
			// A block that could not be read is left alone for a while, else they became one.
			if op := fmt.Sprint(failed.Load()); len(st.Blocks) != 1 && !strings.HasPrefix(op, "open of") && !strings.HasPrefix(op, "read of") {
				t.Fatalf("%s: blocks were not compacted: %+v", what, st.Blocks)
			}
			s.mu.RLock()
			for _, b := range s.blocks {
				if b.held {
					t.Errorf("%s: block %s is kept from retention", what, b.name())
				}
			}
			s.mu.RUnlock()
			if err := s.Close(); err != nil {
				t.Fatalf("%s: closing: %v", what, err)
			}
			again, err := New(onDisk(fsys.Crash(nil)))
			if err != nil {
				t.Fatalf("%s: opening again: %v", what, err)
			}
			wants(t, what+", opened again", again, acked, nil)
			knows(t, what+", opened again", again)
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
			if failed.Load() == nil {
				t.Logf("%d operations", fail)
				break
			}
		}
	}
}

// TestFullDisk: a disk without space refuses writes and answers questions; with space again it goes on by
// itself.
func TestFullDisk(t *testing.T) {
	fsys := disktest.New()
	s := open(t, onDisk(fsys))
	acked := map[int]bool{}
	for i := range 5 {
		if err := s.Write(t.Context(), batchOf(i)); err != nil {
			t.Fatal(err)
		}
		acked[i] = true
	}
	fsys.Fail(func(op disktest.Op, _ string) error {
		if op == disktest.Write || op == disktest.Create {
			return syscall.ENOSPC
		}
		return nil
	})
	for i := range 5 {
		err := s.Write(t.Context(), batchOf(100+i))
		if !errors.Is(err, storage.ErrReadOnly) || !strings.Contains(err.Error(), "no space left on device") {
			t.Fatalf("writing to a full disk: %v", err)
		}
	}
	if st := s.Stats(); !strings.Contains(st.ReadOnly, "no space left") || st.ReadOnlyReason != ReasonDiskFull {
		t.Errorf("stats say %q", st.ReadOnly)
	}
	wants(t, "full", s, acked, nil)
	if err := s.Flush(t.Context()); err == nil {
		t.Error("a block was written to a full disk")
	}
	if err := s.Close(); err != nil {
		t.Fatalf("closing on a full disk: %v", err)
	}
	s = open(t, onDisk(fsys))
	wants(t, "opened on a full disk", s, acked, nil)
	if err := s.Write(t.Context(), batchOf(200)); !errors.Is(err, storage.ErrReadOnly) {
		t.Fatalf("writing to a full disk: %v", err)
	}
	fsys.Fail(nil)
	for tries := 0; ; tries++ {
		err := s.Write(t.Context(), batchOf(5))
		if err == nil {
			break
		}
		if tries > 10000 {
			t.Fatalf("it does not recover: %v", err)
		}
	}
	acked[5] = true
	if err := s.Flush(t.Context()); err != nil {
		t.Errorf("flushing: %v", err)
	}
	wants(t, "space again", s, acked, nil)
	if st := s.Stats(); st.ReadOnly != "" || len(st.Blocks) == 0 {
		t.Errorf("stats %+v", st)
	}
}

// TestBlockedFlusher: while blocks cannot be written, writes go on until memory says no, and nothing is lost.
func TestBlockedFlusher(t *testing.T) {
	fsys := disktest.New()
	o := onDisk(fsys)
	o.HeadBytes = 500
	s := open(t, o)
	fsys.Fail(func(op disktest.Op, name string) error {
		if op == disktest.Create && strings.Contains(name, "/blocks/") {
			return syscall.ENOSPC
		}
		return nil
	})
	acked := map[int]bool{}
	i := 0
	for ; ; i++ {
		if i > 1000 {
			t.Fatal("memory has no end")
		}
		if err := s.Write(t.Context(), batchOf(i)); err != nil {
			if !errors.Is(err, storage.ErrReadOnly) {
				t.Fatal(err)
			}
			break
		}
		acked[i] = true
	}
	if len(acked) < 10 {
		t.Errorf("only %d writes", len(acked))
	}
	wants(t, "blocked", s, acked, nil)
	// What waits is in the log, too.
	again := open(t, onDisk(fsys.Crash(nil)))
	wants(t, "opened beside", again, acked, nil)
	fsys.Fail(nil)
	for tries := 0; ; tries++ {
		if err := s.Write(t.Context(), batchOf(i)); err == nil {
			break
		}
		if tries > 1_000_000 {
			t.Fatal("it does not recover")
		}
	}
	acked[i] = true
	wants(t, "unblocked", s, acked, nil)
}
