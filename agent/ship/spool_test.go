package ship

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func open(t testing.TB, dir string, maxBytes int64) (s *spool, dropped *int, cut int64) {
	t.Helper()
	dropped = new(int)
	s, cut, err := openSpool(dir, maxBytes, func(n int, _ int64) { *dropped += n })
	if err != nil {
		t.Fatal(err)
	}
	return s, dropped, cut
}

// drain takes everything out.
func drainSpool(t testing.TB, s *spool) (all []string) {
	t.Helper()
	for {
		b, at, err := s.first()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(b))
		if err := s.delivered(b, at); err != nil {
			t.Fatal(err)
		}
	}
}

// The spool behaves like a list, whatever comes in which order, through restarts with and without Close.
func TestSpoolIsAQueue(t *testing.T) {
	t.Parallel()
	for seed := range uint64(5) {
		rng := rand.New(rand.NewPCG(seed, 1))
		dir := t.TempDir()
		maxBytes := int64(40_000 + rng.IntN(40_000))
		s, dropped, _ := open(t, dir, maxBytes)
		var model []string
		lost := 0
		next := 0
		for range 400 {
			switch rng.IntN(10) {
			default:
				b := fmt.Appendf(nil, "%d ", next)
				b = append(b, bytes.Repeat([]byte{'x'}, rng.IntN(2000))...)
				next++
				before := *dropped
				if err := s.append(b); err != nil {
					t.Fatal(err)
				}
				model = append(model, string(b))
				n := *dropped - before
				model, lost = model[n:], lost+n
			case 5, 6, 7, 8:
				b, at, err := s.first()
				if len(model) == 0 {
					if !errors.Is(err, io.EOF) {
						t.Fatalf("seed %d: the first of nothing: %v", seed, err)
					}
					continue
				}
				if err != nil || string(b) != model[0] {
					t.Fatalf("seed %d: the first is %.10q, %v; want %.10q", seed, b, err, model[0])
				}
				if rng.IntN(4) > 0 {
					if err := s.delivered(b, at); err != nil {
						t.Fatal(err)
					}
					model = model[1:]
				}
			case 9:
				if rng.IntN(2) == 0 {
					if err := s.close(); err != nil {
						t.Fatal(err)
					}
				} else {
					s.lock.Close() // as if the process had been killed
				}
				var cut int64
				if s, dropped, cut = open(t, dir, maxBytes); cut != 0 {
					t.Fatalf("seed %d: %d bytes were cut", seed, cut)
				}
			}
			if n, size := s.size(); n != len(model) || size > maxBytes {
				t.Fatalf("seed %d: %d records in %d bytes; want %d", seed, n, size, len(model))
			}
		}
		if got := drainSpool(t, s); len(got) != len(model) {
			t.Fatalf("seed %d: %d records at the end, want %d", seed, len(got), len(model))
		}
		files, _ := filepath.Glob(filepath.Join(dir, "*.spool"))
		if len(files) != 0 {
			t.Errorf("seed %d: an empty spool keeps %v", seed, files)
		}
		if lost == 0 {
			t.Logf("seed %d: never full", seed)
		}
		s.close()
	}
}

// A segment that ends anywhere gives the records that are whole; a flipped bit costs what follows it, and no
// record is ever wrong.
func TestSpoolTorn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, _, _ := open(t, dir, 1<<20)
	var want []string
	for i := range 6 {
		want = append(want, fmt.Sprintf("record %d %s", i, bytes.Repeat([]byte("y"), i*7)))
		if err := s.append([]byte(want[i])); err != nil {
			t.Fatal(err)
		}
	}
	s.close()
	image, err := os.ReadFile(filepath.Join(dir, "0000000000000001.spool"))
	if err != nil {
		t.Fatal(err)
	}
	check := func(b []byte, what string) {
		t.Helper()
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "0000000000000001.spool"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, _, cut := open(t, dir, 1<<20)
		defer s.close()
		n, size := s.size()
		if n > 0 && size+cut != int64(len(b)) {
			t.Errorf("%s: %d bytes kept, %d cut of %d", what, size, cut, len(b))
		}
		if err := s.append([]byte("after")); err != nil {
			t.Fatal(err)
		}
		got := drainSpool(t, s)
		if got[len(got)-1] != "after" {
			t.Errorf("%s: what came later is gone", what)
		}
		for i, r := range got[:len(got)-1] {
			if r != want[i] {
				t.Errorf("%s: record %d is %q", what, i, r)
			}
		}
	}
	for n := 0; n < len(image); n += 5 {
		check(image[:n], fmt.Sprintf("cut at %d", n))
	}
	for i := 0; i < len(image); i += 11 {
		b := bytes.Clone(image)
		b[i] ^= 0x10
		check(b, fmt.Sprintf("bit flipped at %d", i))
	}
}

// A position that makes no sense costs repetition, not data.
func TestSpoolPosition(t *testing.T) {
	for _, position := range []string{"", "rubbish", "0000000000000001 17\n", "0000000000000001 999999\n", "ffffffffffffffff -1\n", "0000000000000000 16\n"} {
		dir := t.TempDir()
		s, _, _ := open(t, dir, 1<<20)
		s.append([]byte("one"))
		s.append([]byte("two"))
		s.close()
		if err := os.WriteFile(filepath.Join(dir, "position"), []byte(position), 0o600); err != nil {
			t.Fatal(err)
		}
		s, _, _ = open(t, dir, 1<<20)
		got := drainSpool(t, s)
		s.close()
		if position == "ffffffffffffffff -1\n" {
			continue // says that all of it was delivered
		}
		if len(got) != 2 {
			t.Errorf("with the position %q: %q", position, got)
		}
	}
}

func TestSpoolSyncs(t *testing.T) {
	s, _, _ := open(t, t.TempDir(), 1<<20)
	defer s.close()
	now := time.Unix(1000, 0)
	s.now = func() time.Time { return now }
	f := func(after time.Duration, unsynced bool) {
		t.Helper()
		now = now.Add(after)
		if err := s.append([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if s.unsynced != unsynced {
			t.Errorf("after %v: unsynced %v", after, s.unsynced)
		}
	}
	f(0, false) // the first ever
	f(0, true)
	f(syncEvery/2, true)
	f(syncEvery/2, false)
	f(0, true)
	now = now.Add(syncEvery)
	if err := s.syncIfDue(); err != nil || s.unsynced {
		t.Errorf("an idle spool stays unsynced: %v", err)
	}
	for _, b := range [][]byte{nil, make([]byte, 2<<20)} {
		if err := s.append(b); err == nil {
			t.Errorf("a record of %d bytes was taken", len(b))
		}
	}
}

func FuzzSpool(f *testing.F) {
	header := binary.LittleEndian.AppendUint64([]byte(spoolMagic), 1)
	record := func(b string) []byte {
		r := binary.LittleEndian.AppendUint32(nil, uint32(len(b)))
		r = binary.LittleEndian.AppendUint32(r, crc32.Checksum([]byte(b), castagnoli))
		return append(r, b...)
	}
	f.Add(append(append(bytes.Clone(header), record("a")...), record("bc")...), []byte("0000000000000001 25\n"))
	f.Add(append(bytes.Clone(header), 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0), []byte("1 16"))
	f.Add(header, []byte{})
	f.Add([]byte("PFSPOOL1"), []byte("x"))
	f.Fuzz(func(t *testing.T, segment, position []byte) {
		dir := t.TempDir()
		os.WriteFile(filepath.Join(dir, "0000000000000001.spool"), segment, 0o600)
		os.WriteFile(filepath.Join(dir, "position"), position, 0o600)
		s, _, _ := open(t, dir, 1<<20)
		defer s.close()
		n, _ := s.size()
		if err := s.append([]byte("last")); err != nil {
			t.Fatal(err)
		}
		got := drainSpool(t, s)
		if len(got) != n+1 || got[n] != "last" {
			t.Errorf("%d records were there, then came %d", n, len(got))
		}
	})
}

func FuzzAnswers(f *testing.F) {
	f.Add([]byte{10, 4, 8, 3, 18, 0})
	f.Add([]byte{10, 4, 8, 200, 1, 16})
	f.Fuzz(func(t *testing.T, b []byte) {
		partialSuccess(b)
		if d := retryDelay(b); d < 0 || d > maxRetryAfter {
			t.Errorf("a delay of %v", d)
		}
	})
}
