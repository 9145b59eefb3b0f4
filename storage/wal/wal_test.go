package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/disk/disktest"
)

const dir = "/wal"

// open returns a log on fsys and what it replayed, one string a record.
func open(t testing.TB, fsys *disktest.FS, o Options) (*Log, []string, Replayed) {
	t.Helper()
	o.FS, o.Dir = fsys, dir
	if o.RetryEvery == 0 {
		o.RetryEvery = -1 // at once
	}
	var got []string
	l, r, err := Open(o, func(_ uint64, p []byte) error { got = append(got, string(p)); return nil })
	if err != nil {
		t.Fatalf("opening: %v", err)
	}
	return l, got, r
}

func appendAll(t testing.TB, l *Log, records ...string) {
	t.Helper()
	for _, r := range records {
		if _, err := l.Append([]byte(r)); err != nil {
			t.Fatalf("appending %q: %v", r, err)
		}
	}
}

func same(t testing.TB, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("replayed %q, want %q", got, want)
	}
}

func TestReplay(t *testing.T) {
	fsys := disktest.New()
	l, got, _ := open(t, fsys, Options{SegmentBytes: 100})
	same(t, got)
	var want []string
	for i := range 20 {
		r := fmt.Sprintf("record %d %s", i, strings.Repeat("x", i*7))
		appendAll(t, l, r)
		want = append(want, r)
	}
	if n := l.Stats().Segments; n < 5 {
		t.Errorf("%d segments: it does not rotate", n)
	}
	for _, image := range []*disktest.FS{fsys.Crash(nil), fsys.Kill()} {
		l, got, r := open(t, image, Options{})
		same(t, got, want...)
		if len(r.Losses) != 0 || r.Records != 20 {
			t.Errorf("replayed %+v", r)
		}
		appendAll(t, l, "more")
		_, got, _ = open(t, image.Crash(nil), Options{})
		same(t, got, append(want[:20:20], "more")...)
	}
}

func TestAppendLimits(t *testing.T) {
	l, _, _ := open(t, disktest.New(), Options{})
	if _, err := l.Append(nil); !errors.Is(err, storage.ErrLimit) {
		t.Errorf("an empty record: %v", err)
	}
	appendAll(t, l, strings.Repeat("x", 3<<20))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append([]byte("x")); !errors.Is(err, storage.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestCutAndFree(t *testing.T) {
	fsys := disktest.New()
	l, _, _ := open(t, fsys, Options{})
	appendAll(t, l, "a", "b")
	cut, err := l.Cut()
	if err != nil {
		t.Fatal(err)
	}
	appendAll(t, l, "c")
	if err := l.Free(cut + 1); err != nil {
		t.Fatal(err)
	}
	_, got, _ := open(t, fsys.Kill(), Options{})
	same(t, got, "c")
	// A crash before the removal is durable: From says what is still needed.
	crash := fsys.Crash(nil)
	_, got, _ = open(t, crash, Options{})
	same(t, got, "a", "b", "c")
	l, got, _ = open(t, fsys.Crash(nil), Options{From: cut + 1})
	same(t, got, "c")
	if n := l.Stats().Segments; n != 1 {
		t.Errorf("%d segments after freeing", n)
	}
	// With everything freed numbers still go on.
	l, _, _ = open(t, disktest.New(), Options{From: 9})
	segment, err := l.Append([]byte("x"))
	if err != nil || segment <= 9 {
		t.Errorf("segment %d, %v", segment, err)
	}
}

// TestTorn cuts and damages the last segment at every byte. What comes before is replayed, what was lost is
// reported, and the log goes on.
func TestTorn(t *testing.T) {
	fsys := disktest.New()
	l, _, _ := open(t, fsys, Options{})
	records := []string{"first", "second record", "third"}
	ends := []int{headerBytes}
	for _, r := range records {
		appendAll(t, l, r)
		ends = append(ends, ends[len(ends)-1]+recordHeaderBytes+len(r))
	}
	name := l.path(1)
	whole := fsys.Bytes(name)
	check := func(what string, data []byte, firstBad int) {
		t.Helper()
		image := disktest.New()
		image.Set(name, data)
		n := 0
		for n < len(records) && ends[n+1] <= firstBad {
			n++
		}
		if firstBad < headerBytes {
			n = 0
		}
		l, got, r := open(t, image, Options{})
		same(t, got, records[:n]...)
		good := ends[n]
		if firstBad < headerBytes {
			good = 0
		}
		if lost := len(data) - good; lost > 0 && (len(r.Losses) != 1 || r.Losses[0].Bytes != int64(lost) || !r.Losses[0].Cut) {
			t.Errorf("%s: losses %v, want %d bytes", what, r.Losses, lost)
		}
		appendAll(t, l, "later")
		_, got, r = open(t, image.Crash(nil), Options{})
		same(t, got, append(records[:n:n], "later")...)
		if len(r.Losses) != 0 {
			t.Errorf("%s: the cut end is reported again: %v", what, r.Losses)
		}
	}
	for i := range whole {
		check(fmt.Sprintf("cut at %d", i), whole[:i], i)
		damaged := bytes.Clone(whole)
		damaged[i] ^= 0x40
		check(fmt.Sprintf("damaged at %d", i), damaged, i)
		zeros := append(bytes.Clone(whole[:i]), make([]byte, len(whole)-i)...)
		if !bytes.Equal(zeros, whole) {
			first := i
			for zeros[first] == whole[first] {
				first++
			}
			check(fmt.Sprintf("zeros from %d", i), zeros, first)
		}
	}
	check("zeros after the end", append(bytes.Clone(whole), make([]byte, 50)...), len(whole))
}

// TestDamage: a bad record in a segment that is not the last is damage; the rest of that segment is reported
// and stays, the other segments are replayed.
func TestDamage(t *testing.T) {
	fsys := disktest.New()
	l, _, _ := open(t, fsys, Options{SegmentBytes: 64})
	appendAll(t, l, "a", "b", strings.Repeat("c", 60), "d")
	data := fsys.Bytes(l.path(1))
	data[headerBytes+recordHeaderBytes+1+recordHeaderBytes] ^= 1 // "b"
	fsys.Set(l.path(1), data)
	for range 2 {
		_, got, r := open(t, fsys, Options{})
		same(t, got, "a", strings.Repeat("c", 60), "d")
		if len(r.Losses) != 1 || r.Losses[0].Segment != 1 || r.Losses[0].Bytes != 9 || r.Losses[0].Cut {
			t.Errorf("losses %v", r.Losses)
		}
	}
	// A segment under another's number is none.
	fsys.Set(l.path(9), fsys.Bytes(l.path(1)))
	_, got, r := open(t, fsys, Options{})
	same(t, got, "a", strings.Repeat("c", 60), "d")
	if len(r.Losses) != 2 {
		t.Errorf("losses %v", r.Losses)
	}
}

// TestReadOnly: a disk that is full, or fails, at any operation of an append. The log refuses, says so, and
// goes on by itself later; what it refused never comes back, what it acknowledged always.
func TestReadOnly(t *testing.T) {
	for _, op := range []disktest.Op{disktest.Create, disktest.Write, disktest.Sync, disktest.SyncDir, disktest.Truncate} {
		for _, cause := range []error{syscall.ENOSPC, syscall.EIO} {
			t.Run(fmt.Sprintf("%s %v", op, cause), func(t *testing.T) {
				fsys := disktest.New()
				l, _, _ := open(t, fsys, Options{SegmentBytes: 60})
				var want []string
				full := false
				fsys.Fail(func(o disktest.Op, _ string) error {
					if full && (o == op || op == disktest.Truncate && o == disktest.Sync) {
						return cause
					}
					return nil
				})
				for i := range 30 {
					full = i%5 == 3 || i%7 == 1
					r := fmt.Sprintf("record %d", i)
					_, err := l.Append([]byte(r))
					switch {
					case err == nil:
						want = append(want, r)
					case !errors.Is(err, storage.ErrReadOnly) || !errors.Is(err, cause):
						t.Fatalf("append: %v", err)
					case l.Stats().Err == nil:
						t.Fatal("the log does not say that it is read-only")
					}
					if full && op != disktest.Create && op != disktest.SyncDir && err == nil {
						t.Fatalf("%s fails but record %d was taken", op, i)
					}
				}
				full = false
				if _, err := l.Append([]byte("end")); err != nil {
					t.Fatalf("it does not recover: %v", err)
				}
				want = append(want, "end")
				for _, image := range []*disktest.FS{fsys.Crash(nil), fsys.Kill()} {
					_, got, r := open(t, image, Options{})
					same(t, got, want...)
					if len(r.Losses) != 0 {
						t.Errorf("losses %v", r.Losses)
					}
				}
			})
		}
	}
}

// TestRetry: a broken log does not try again at each append.
func TestRetry(t *testing.T) {
	fsys := disktest.New()
	now := time.Unix(0, 0)
	l, _, _ := open(t, fsys, Options{RetryEvery: time.Minute, Now: func() time.Time { return now }})
	ops := 0
	fsys.Fail(func(disktest.Op, string) error { ops++; return syscall.ENOSPC })
	for range 5 {
		if _, err := l.Append([]byte("x")); !errors.Is(err, storage.ErrReadOnly) {
			t.Fatal(err)
		}
	}
	if ops == 0 || ops > 3 {
		t.Errorf("%d operations", ops)
	}
	fsys.Fail(nil)
	if _, err := l.Append([]byte("x")); !errors.Is(err, storage.ErrReadOnly) {
		t.Errorf("too early: %v", err)
	}
	now = now.Add(time.Minute)
	appendAll(t, l, "x")
	fsys.Fail(func(disktest.Op, string) error { return syscall.ENOSPC })
	if _, err := l.Append([]byte("y")); !errors.Is(err, storage.ErrReadOnly) {
		t.Fatal(err)
	}
	fsys.Fail(nil)
	if err := l.Probe(); err != nil || l.Stats().Err != nil {
		t.Errorf("probing: %v", err)
	}
	appendAll(t, l, "z")
}

// TestCrashAnywhere takes the disk at every operation of a random course, with and without what was not synced,
// fails operations at random, and reopens: acknowledged records are all there, in order, once. Beside them may
// be, at the end, one that was refused after the last acknowledged one.
func TestCrashAnywhere(t *testing.T) {
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		fsys := disktest.New()
		l, _, _ := open(t, fsys, Options{SegmentBytes: 80})
		failing := 0.0
		fsys.Fail(func(op disktest.Op, _ string) error {
			if op.Mutates() && rnd.Float64() < failing {
				return syscall.EIO
			}
			return nil
		})
		var acked []string
		refused := map[string]bool{} // since the last acknowledgement
		for i := range 60 {
			failing = 0
			if i%20 > 12 {
				failing = 0.4
			}
			r := fmt.Sprintf("%d-%s", i, strings.Repeat("y", rnd.IntN(40)))
			_, err := l.Append([]byte(r))
			refused[r] = true
			if err == nil {
				acked = append(acked, r)
				clear(refused)
			}
			image := fsys.Crash(rnd)
			if rnd.IntN(3) == 0 {
				image = fsys.Kill()
			}
			_, got, _ := open(t, image, Options{})
			if len(got) == len(acked)+1 && refused[got[len(got)-1]] {
				got = got[:len(got)-1]
			}
			if strings.Join(got, "|") != strings.Join(acked, "|") {
				t.Fatalf("seed %d, record %d:\n got %q\nwant %q", seed, i, got, acked)
			}
		}
	}
}

// TestReplayMemory: what replay holds does not grow with the log.
func TestReplayMemory(t *testing.T) {
	fsys := disktest.New()
	l, _, _ := open(t, fsys, Options{SegmentBytes: 64 << 20})
	payload := bytes.Repeat([]byte("x"), 64<<10)
	for range 256 { // 16 MiB
		if _, err := l.Append(payload); err != nil {
			t.Fatal(err)
		}
	}
	bytesPerRun := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			if _, _, err := Open(Options{FS: fsys, Dir: dir}, func(uint64, []byte) error { return nil }); err != nil {
				b.Fatal(err)
			}
		}
	}).AllocedBytesPerOp()
	if bytesPerRun > 2<<20 {
		t.Errorf("replaying 16 MiB allocated %d bytes", bytesPerRun)
	}
}

func TestGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		var commits [][]int
		g := NewGroup(10, func(i int) int64 { return int64(i) }, func(items []int) error {
			commits = append(commits, append([]int(nil), items...))
			<-gate
			if items[0] == 9 {
				return errors.New("nine")
			}
			return nil
		})
		var wg sync.WaitGroup
		submit := func(i int, want error) {
			wg.Go(func() {
				if err := g.Submit(context.Background(), i); fmt.Sprint(err) != fmt.Sprint(want) {
					t.Errorf("submitting %d: %v", i, err)
				}
			})
			synctest.Wait()
		}
		submit(1, nil) // commits alone; the others wait
		submit(2, nil)
		submit(3, nil)
		submit(4, nil)
		submit(9, errors.New("nine"))
		submit(99, nil)
		ctx, cancel := context.WithCancel(context.Background())
		wg.Go(func() {
			if err := g.Submit(ctx, 5); err != context.Canceled {
				t.Errorf("cancelled: %v", err)
			}
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(gate)
		wg.Wait()
		g.Close()
		if got := fmt.Sprint(commits); got != "[[1] [2 3 4] [9] [99]]" {
			t.Errorf("commits %s", got)
		}
		if err := g.Submit(context.Background(), 1); !errors.Is(err, storage.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// FuzzReplay: no bytes make replay panic, allocate what is not there, or return a record that is not one.
func FuzzReplay(f *testing.F) {
	fsys := disktest.New()
	l, _, _ := open(f, fsys, Options{})
	appendAll(f, l, "first", "second")
	whole := fsys.Bytes(l.path(1))
	f.Add(whole)
	f.Add(whole[:len(whole)-3])
	f.Add(append(bytes.Clone(whole), 0xff, 0xff, 0xff, 0x7f, 1, 2, 3, 4))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		image := disktest.New()
		image.Set(l.path(1), data)
		_, first, _ := open(t, image, Options{})
		_, second, r := open(t, image, Options{})
		if strings.Join(first, "|") != strings.Join(second, "|") || len(r.Losses) != 0 {
			t.Errorf("replayed %q, then %q with losses %v", first, second, r.Losses)
		}
		rd, err := newReader(bytes.NewReader(data), 1, int64(len(data)))
		for err == nil {
			_, err = rd.next()
		}
		if err != io.EOF && !errors.Is(err, errBroken) {
			t.Errorf("reading: %v", err)
		}
	})
}
