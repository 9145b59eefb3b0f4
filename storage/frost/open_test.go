package frost

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/storagetest"
)

func refused(t *testing.T, o Options, wants ...string) {
	t.Helper()
	s, err := New(o)
	if err == nil {
		s.Close()
		t.Fatalf("%s was opened", o.Dir)
	}
	for _, want := range wants {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	refused(t, Options{}, "no directory")
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	refused(t, Options{Dir: file}, file, "is a file")
	refused(t, Options{Dir: filepath.Join(file, "below")}, file)
	s := open(t, Options{Dir: filepath.Join(dir, "a")})
	refused(t, Options{Dir: filepath.Join(dir, "a")}, "in use by process "+fmt.Sprint(os.Getpid()))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, Options{Dir: filepath.Join(dir, "a")})
}

// TestLockedByAnother: another process holds the directory, and ends without unlocking it.
func TestLockedByAnother(t *testing.T) {
	dir := t.TempDir()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), killDirEnv+"="+dir, killFirstEnv+"=0")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // it has written something: it has the lock
		t.Fatal(err)
	}
	refused(t, Options{Dir: dir}, fmt.Sprintf("in use by process %d", child.Process.Pid))
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // killed
	open(t, Options{Dir: dir})
}

// TestDamagedFiles: blocks and dictionary files of random bytes give errors that name them, or are survived.
func TestDamagedFiles(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir, Retention: -1})
	for i := range 50 {
		if err := s.Write(t.Context(), batchOf(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	one := func(pattern string) string {
		t.Helper()
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(names) != 1 {
			t.Fatalf("%s: %v, %v", pattern, names, err)
		}
		return names[0]
	}
	damage := func(name string, at int, run func()) {
		t.Helper()
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		bad := append([]byte(nil), data...)
		if at < 0 {
			at += len(bad)
		}
		for i := at; i < min(at+20, len(bad)); i++ {
			bad[i] ^= 0x55
		}
		if err := os.WriteFile(name, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		run()
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	damage(one("blocks/*.meta"), 30, func() { refused(t, Options{Dir: dir}, "index of block", "checksum") })
	typ := profile.TypeCPU
	block := one("blocks/*.parquet")
	size, err := os.Stat(block)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < int(size.Size()); at += 37 {
		damage(block, at, func() {
			s, err := New(Options{Dir: dir, Retention: -1})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if b, err := s.Merge(t.Context(), storage.Selection{Type: &typ}, nil); err == nil && len(b.Profiles) > 1 {
				t.Errorf("damage at %d: %d profiles", at, len(b.Profiles))
			}
			if err := s.Write(t.Context(), batchOf(1000)); err != nil {
				t.Errorf("damage at %d: writing: %v", at, err)
			}
		})
	}
	knowsIDs := func(n int) {
		t.Helper()
		s, err := New(Options{Dir: dir, Retention: -1})
		if err != nil {
			t.Fatal(err)
		}
		ids, err := s.Recent(t.Context())
		if err := errors.Join(err, s.Close()); err != nil || len(ids) < n || n == 0 && len(ids) > 20 {
			t.Errorf("%d recent IDs, want %d and those in the log: %v", len(ids), n, err)
		}
	}
	knowsIDs(50)
	damage(one("recent"), 100, func() { knowsIDs(0) })
	damage(one("dictionary/*.dict"), 2, func() { refused(t, Options{Dir: dir}, "dictionary file", "copy") })
	// Without the dictionary nothing of the block can be named. What comes later is not mixed up with it.
	damage(one("dictionary/*.dict"), 100, func() {
		for range 2 {
			s, err := New(Options{Dir: dir, Retention: -1})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Write(t.Context(), batchOf(2000)); err != nil {
				t.Fatal(err)
			}
			if err := s.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := found(t, s); got["own2000"] == 0 || got["own2"] != 0 || s.Stats().DictionaryHoles == 0 {
				t.Errorf("found %v, %d holes", got, s.Stats().DictionaryHoles)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// testClock begins at storagetest.Base.
type testClock struct{ passed atomic.Int64 }

func (c *testClock) now() time.Time      { return storagetest.Base.Add(time.Duration(c.passed.Load())) }
func (c *testClock) add(d time.Duration) { c.passed.Add(int64(d)) }

func TestRetention(t *testing.T) {
	var clock testClock
	o := Options{Dir: t.TempDir(), Retention: time.Hour, Now: clock.now}
	s := open(t, o)
	put := func(i int, after time.Duration) {
		t.Helper()
		b := batchOf(i)
		b.Profiles[0].TimeNanos = storagetest.Base.Add(after).UnixNano()
		if err := s.Write(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	put(0, 0)
	put(1, 50*time.Minute)
	put(2, 20*time.Minute)
	wants(t, "all", s, map[int]bool{0: true, 1: true, 2: true}, nil)
	clock.add(100 * time.Minute)
	put(3, 100*time.Minute) // the flush drops what is old
	wants(t, "young ones", s, map[int]bool{1: true, 3: true}, nil)
	values, err := s.LabelValues(t.Context(), "service_name", storage.Selection{})
	if err != nil || strings.Join(values, " ") != "s0 s1" { // 3%3 and 1%3; s2 went with its block
		t.Errorf("services %v, %v", values, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, o)
	wants(t, "opened again", s, map[int]bool{1: true, 3: true}, nil)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	o.RetentionBytes = 1
	s = open(t, o)
	put(4, 100*time.Minute)
	wants(t, "too large", s, map[int]bool{}, nil)
	if st := s.Stats(); len(st.Blocks) != 0 || st.LogSegments != 0 {
		t.Errorf("left: %+v", st)
	}
	names, err := os.ReadDir(filepath.Join(o.Dir, "blocks"))
	if err != nil || len(names) != 0 {
		t.Errorf("files left: %v, %v", names, err)
	}
	o.RetentionBytes = 0
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, o)
	put(5, 100*time.Minute)
	wants(t, "begun anew", s, map[int]bool{5: true}, nil)
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	o := Options{Dir: t.TempDir(), Registerer: reg, Retention: -1}
	for round := range 2 { // a closed store leaves nothing registered
		s := open(t, o)
		if err := s.Write(t.Context(), batchOf(1)); err != nil {
			t.Fatal(err)
		}
		if err := s.Write(t.Context(), nil); err == nil {
			t.Fatal("nil was written")
		}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				got[f.GetName()] += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
		for name, want := range map[string]float64{
			"perfuse_storage_samples_total": 2, "perfuse_storage_writes_total": 1, "perfuse_storage_writes_refused_total": 1,
			"perfuse_storage_read_only": 0, "perfuse_storage_log_segments": float64(round + 1), "perfuse_storage_series": 1,
		} {
			if got[name] != want {
				t.Errorf("%s is %v, want %v", name, got[name], want)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWithoutIDs opens a directory of before IDs and before totals, with a log and a block, and goes on with it.
func TestWithoutIDs(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/without-ids")); err != nil {
		t.Fatal(err)
	}
	acked := map[int]bool{}
	for i := range 40 {
		acked[i] = true
	}
	now := open(t, Options{Dir: t.TempDir(), Retention: -1})
	for i := range acked {
		if err := now.Write(t.Context(), batchOf(i)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := now.Series(t.Context(), storage.Selection{Type: &profile.TypeCPU}, []string{"service_name"}, 3*time.Second)
	if err != nil || len(want) != 3 {
		t.Fatalf("%d series, %v", len(want), err)
	}
	for round := range 3 {
		s := open(t, Options{Dir: dir, Retention: -1})
		if got, err := s.Series(t.Context(), storage.Selection{Type: &profile.TypeCPU, End: storagetest.Base.Add(40 * time.Second)}, []string{"service_name"}, 3*time.Second); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("opened %d times: the series are %v, %v; want %v", round+1, got, err, want)
		}
		wants(t, fmt.Sprintf("opened %d times", round+1), s, acked, nil)
		ids, err := s.Recent(t.Context())
		if err != nil || len(ids) != round {
			t.Errorf("opened %d times: %d IDs, %v", round+1, len(ids), err)
		}
		acked[100+round] = true
		if err := s.Write(t.Context(), batchOf(100+round)); err != nil {
			t.Fatal(err)
		}
		if round == 1 {
			err = s.Flush(t.Context())
		}
		if err := errors.Join(err, s.Close()); err != nil {
			t.Fatal(err)
		}
	}
}
