package frost

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/disk/disktest"
)

// forgetCourse writes batches that age, are dropped and forgotten, and come again with much that was forgotten. It
// goes on when the power does not.
func forgetCourse(t *testing.T, s *Store, clock *testClock, after func(i int, err error)) {
	write := func(i int) {
		b := batchOf(i)
		b.Profiles[0].TimeNanos = clock.now().UnixNano()
		after(i, s.Write(t.Context(), b))
	}
	// The images are what is checked.
	write(0)
	write(1)
	_ = s.Flush(t.Context())
	clock.add(2 * time.Hour)
	_ = maintained(s) // nothing is left
	_ = s.Forget(t.Context())
	write(2)
	write(3)
	_ = s.Flush(t.Context())
	write(4)
	clock.add(40 * time.Minute)
	write(5)
	_ = s.Flush(t.Context())
	_ = s.Forget(t.Context()) // nothing to forget
	clock.add(40 * time.Minute)
	write(6)
	_ = s.Flush(t.Context()) // the first block is dropped
	_ = s.Forget(t.Context())
	write(7)
	write(8)
	_ = s.Flush(t.Context())
}

// forgetOptions are those of the course: what is older than an hour goes.
func forgetOptions(fsys *disktest.FS, clock *testClock) Options {
	o := onDisk(fsys)
	o.Retention, o.Now, o.CompactBytes, o.ForgetEvery = time.Hour, clock.now, -1, -1
	return o
}

// tells checks that the young batches are there once, and old ones once or not; may be is also there or not.
func tells(t *testing.T, what string, s *Store, young, old, maybe map[int]bool) {
	t.Helper()
	got, n := found(t, s), int64(0)
	for name, v := range got {
		if name == "shared" {
			continue
		}
		var i int
		if _, err := fmt.Sscanf(name, "own%d", &i); err != nil || v != 1 || !young[i] && !old[i] && !maybe[i] {
			t.Fatalf("%s: %q is there %d times\n%v", what, name, v, got)
		}
		n++
	}
	for i := range young {
		if got[fmt.Sprintf("own%d", i)] != 1 {
			t.Fatalf("%s: batch %d is lost\n%v", what, i, got)
		}
	}
	if got["shared"] != 2*n {
		t.Fatalf("%s: %d of the shared stack, want %d", what, got["shared"], 2*n)
	}
}

// ages keeps which batches were acknowledged, and when.
type ages struct {
	clock *testClock
	acked map[int]time.Time
	maybe map[int]bool
}

func (a *ages) after(i int, err error) {
	a.maybe[i] = true
	if err == nil {
		a.acked[i] = a.clock.now()
		clear(a.maybe)
	}
}

func (a *ages) tells(t *testing.T, what string, s *Store) {
	t.Helper()
	young, old := map[int]bool{}, map[int]bool{}
	for i, at := range a.acked {
		if a.clock.now().Sub(at) > time.Hour {
			old[i] = true
		} else {
			young[i] = true
		}
	}
	tells(t, what, s, young, old, a.maybe)
}

// TestForgetCrashAnywhere ends the process, or the power, at every operation on the disk of a course in which
// the dictionary forgets, and opens what is left.
func TestForgetCrashAnywhere(t *testing.T) {
	total := 0
	for stop := 0; ; stop++ {
		var clock testClock
		fsys := disktest.New()
		s, err := New(forgetOptions(fsys, &clock))
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
		a := &ages{&clock, map[int]time.Time{}, map[int]bool{}}
		forgetCourse(t, s, &clock, a.after)
		images := map[string]*disktest.FS{"kill": fsys.Kill(), "crash": fsys.Crash(nil)}
		for seed := range uint64(2) {
			images[fmt.Sprintf("torn crash %d", seed)] = fsys.Crash(rand.New(rand.NewPCG(seed, uint64(stop))))
		}
		_ = s.Close() // its disk is gone
		for name, image := range images {
			what := fmt.Sprintf("%s at operation %d", name, stop)
			s, err := New(forgetOptions(image, &clock))
			if err != nil {
				t.Fatalf("%s: %v\n%s", what, err, image)
			}
			a.tells(t, what, s)
			if st := s.Stats(); st.DictionaryHoles > 0 {
				t.Fatalf("%s: %d holes", what, st.DictionaryHoles)
			}
			b := batchOf(99)
			b.Profiles[0].TimeNanos = clock.now().UnixNano()
			if err := errors.Join(s.Write(t.Context(), b), s.Flush(t.Context()), maintained(s), s.Forget(t.Context())); err != nil {
				t.Fatalf("%s: going on: %v", what, err)
			}
			a.acked[99] = clock.now()
			a.tells(t, what+", gone on", s)
			if n, most := entries(s), needed(t, thereOf(t, s)...); n > most {
				t.Fatalf("%s: %d entries, %d are needed", what, n, most)
			}
			if names := dictionaryFileNames(t, image); len(names) != s.Stats().DictionaryFiles {
				t.Fatalf("%s: dictionary files %v, %d are needed", what, names, s.Stats().DictionaryFiles)
			}
			if err := s.Close(); err != nil {
				t.Fatalf("%s: closing: %v", what, err)
			}
			if s, err = New(forgetOptions(image.Crash(nil), &clock)); err != nil {
				t.Fatalf("%s: opening again: %v", what, err)
			}
			a.tells(t, what+", opened again", s)
			delete(a.acked, 99)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if off.Load() == 0 {
			total = stop
			break
		}
	}
	if total < 80 {
		t.Errorf("only %d operations: the course does too little", total)
	}
	t.Logf("%d operations", total)
}

// thereOf returns the batches that are there.
func thereOf(t *testing.T, s *Store) (out []*profile.Batch) {
	t.Helper()
	for name := range found(t, s) {
		var i int
		if _, err := fmt.Sscanf(name, "own%d", &i); err == nil {
			out = append(out, batchOf(i))
		}
	}
	return out
}

// TestForgetFaultAnywhere makes each operation of the course fail once: at the end everything is there, and nothing
// of what was dropped.
func TestForgetFaultAnywhere(t *testing.T) {
	for fail := int64(1); ; fail++ {
		cause := []error{syscall.EIO, syscall.ENOSPC}[fail%2]
		var clock testClock
		fsys := disktest.New()
		s, err := New(forgetOptions(fsys, &clock))
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
		a := &ages{&clock, map[int]time.Time{}, map[int]bool{}}
		forgetCourse(t, s, &clock, func(i int, err error) {
			for tries := 0; err != nil; tries++ {
				if !errors.Is(err, storage.ErrReadOnly) || tries > 1000 {
					t.Fatalf("fault %d, batch %d: %v", fail, i, err)
				}
				clock.add(2 * time.Millisecond) // the log tries again
				b := batchOf(i)
				b.Profiles[0].TimeNanos = clock.now().UnixNano()
				err = s.Write(t.Context(), b)
			}
			a.after(i, nil)
		})
		what := fmt.Sprintf("%v at %v", cause, failed.Load())
		for tries := 0; ; tries++ {
			err := errors.Join(s.Flush(t.Context()), maintained(s), s.Forget(t.Context()))
			if err == nil {
				break
			}
			if tries > 1000 {
				t.Fatalf("%s: %v", what, err)
			}
		}
		checking.Store(true)
		a.tells(t, what, s)
		if n, most := entries(s), needed(t, thereOf(t, s)...); n > most || s.Stats().Forgetting.Error != "" {
			t.Fatalf("%s: %d entries, %d are needed: %+v", what, n, most, s.Stats().Forgetting)
		}
		if names := dictionaryFileNames(t, fsys); len(names) > 3 { // one of all, what came since, and of an attempt that failed
			t.Fatalf("%s: dictionary files %v", what, names)
		}
		if err := s.Close(); err != nil {
			t.Fatalf("%s: closing: %v", what, err)
		}
		again, err := New(forgetOptions(fsys.Crash(nil), &clock))
		if err != nil {
			t.Fatalf("%s: opening again: %v", what, err)
		}
		a.tells(t, what+", opened again", again)
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
		if failed.Load() == nil {
			t.Logf("%d operations", fail)
			break
		}
	}
}

// TestForgetWhatComesBack: what was dropped, but not durably, comes back when the power fails. It is not forgotten
// before it cannot.
func TestForgetWhatComesBack(t *testing.T) {
	var clock testClock
	fsys := disktest.New()
	o := forgetOptions(fsys, &clock)
	s := open(t, o)
	b := batchOf(0)
	b.Profiles[0].TimeNanos = clock.now().UnixNano()
	if err := errors.Join(s.Write(t.Context(), b), s.Flush(t.Context())); err != nil {
		t.Fatal(err)
	}
	clock.add(2 * time.Hour)
	fsys.Fail(func(op disktest.Op, name string) error {
		if op == disktest.SyncDir && name == "/data/blocks" {
			return syscall.EIO
		}
		return nil
	})
	_ = maintained(s) // it fails once, and then there is nothing left to drop
	if st := s.Stats(); len(st.Blocks) != 0 {
		t.Fatalf("not dropped: %+v", st.Blocks)
	}
	if err := s.Forget(t.Context()); !errors.Is(err, syscall.EIO) || entries(s) == 0 {
		t.Errorf("forgetting: %v, %d entries", err, entries(s))
	}
	o.Retention = -1
	back := o
	back.fs = fsys.Crash(nil)
	wants(t, "what came back", open(t, back), map[int]bool{0: true}, nil)
	fsys.Fail(nil)
	if err := s.Forget(t.Context()); err != nil || entries(s) != 0 {
		t.Errorf("forgetting: %v, %d entries", err, entries(s))
	}
	image := fsys.Crash(nil)
	for _, dir := range []string{"/data/blocks", "/data/log"} {
		names, err := image.List(dir)
		if err != nil || len(names) > 0 {
			t.Errorf("%s has %v: %v", dir, names, err)
		}
	}
	o.fs = image
	wants(t, "what is left", open(t, o), nil, nil)
}
