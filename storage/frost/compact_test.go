package frost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/thanos-io/objstore"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/disk/disktest"
	"github.com/perfuse/perfuse/storage/storagetest"
)

// TestPlan: blocks are written as DAY:SIZE, those that are to become one come out.
func TestPlan(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		s := &Store{o: Options{CompactSpan: 24 * time.Hour, CompactBytes: 1000, compactRun: 4, Now: time.Now}}
		for _, field := range strings.Fields(in) {
			b := &block{meta: &meta{}, rewriteAt: never}
			if rest, ok := strings.CutPrefix(field, "!"); ok {
				field, b.asideUntil = rest, time.Now().Add(time.Hour)
			}
			if rest, ok := strings.CutPrefix(field, "*"); ok {
				field, b.rewriteAt = rest, 0
			}
			var day int64
			if _, err := fmt.Sscanf(field, "%d:%d", &day, &b.size); err != nil {
				t.Fatal(err)
			}
			b.span.last = day*int64(24*time.Hour) + 5
			s.blocks = append(s.blocks, b)
		}
		var got []string
		for _, b := range s.plan() {
			got = append(got, fmt.Sprintf("%d:%d", b.span.last/int64(24*time.Hour), b.size))
		}
		if g := strings.Join(got, " "); g != want {
			t.Errorf("%s:\n got %q\nwant %q", in, g, want)
		}
	}
	f("", "")
	f("1:10 1:10 1:10", "")                         // too few
	f("1:10 1:11 1:12 1:10", "1:10 1:11 1:12 1:10") // four of a size
	f("1:100 1:10 1:10 1:10", "")                   // too unequal: the large one is not written again for so little
	f("1:100 1:10 1:10 1:10 1:9", "1:10 1:10 1:10 1:9")
	f("1:40 1:10 1:10 1:10", "1:40 1:10 1:10 1:10")
	f("1:100 1:10 2:5", "1:100 1:10") // the first day is over
	f("1:100 2:5 2:6 2:7", "")        // one block is enough for a day
	f("1:100 2:5 2:6 2:7 2:8", "2:5 2:6 2:7 2:8")
	f("1:600 1:300 1:200 1:10", "1:600 1:300")  // what fits
	f("1:2000 1:300 1:200", "")                 // too large already
	f("1:10 1:10 !1:10 1:10 1:10", "1:10 1:10") // the one in the middle cannot be read
	f("!1:10 1:10 1:10", "")
	f("1:10 *1:11 2:12", "1:10 1:11") // both at once
	f("1:100 *2:11 2:12", "2:11")
	f("1:100 !*2:11 2:12", "")
}

// TestQueriesBesideCompaction: while blocks become one, every answer has every row once.
func TestQueriesBesideCompaction(t *testing.T) {
	s := open(t, Options{Dir: t.TempDir(), Retention: -1, CompactBytes: 1 << 20, compactRun: 1 << 20}) // not by itself
	all := map[int]bool{}
	for i := range 90 {
		if err := s.Write(t.Context(), batchOf(i)); err != nil {
			t.Fatal(err)
		}
		all[i] = true
		if i%3 == 2 {
			if err := s.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	before := len(s.Stats().Blocks)
	ctx, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for n := 0; n < 10 || ctx.Err() == nil; n++ {
				got := found(t, s)
				for i := range all {
					if got[fmt.Sprintf("own%d", i)] != 1 {
						t.Errorf("batch %d is there %d times", i, got[fmt.Sprintf("own%d", i)])
						return
					}
				}
			}
		})
	}
	s.compacting.Lock()
	s.o.compactRun = 3
	s.compacting.Unlock()
	err := s.Compact(t.Context())
	stop()
	readers.Wait()
	st := s.Stats()
	if err != nil || before < 30 || len(st.Blocks) != 1 || st.Blocks[0].Generation == 0 {
		t.Errorf("%d blocks became %+v: %v", before, st.Blocks, err)
	}
	wants(t, "afterwards", s, all, nil)
}

// TestRules: series are kept as long as the first rule that matches them says.
func TestRules(t *testing.T) {
	var clock testClock
	rule := func(selector string, age time.Duration) Rule {
		sel, err := profile.ParseSelector(selector)
		if err != nil {
			t.Fatal(err)
		}
		return Rule{sel, age}
	}
	fsys := disktest.New()
	o := Options{Dir: "/data", fs: fsys, Now: clock.now, Retention: 10 * time.Hour, Rules: []Rule{
		rule(`{env="dev", service_name!="api"}`, time.Hour),
		rule(`{env="audit"}`, 0),
		rule(`{env=~"dev|audit"}`, 2*time.Hour),
	}}
	s := open(t, o)
	put := func(name, env string) {
		t.Helper()
		b := storagetest.Folded(profile.TypeCPU, "env="+env+" service_name="+name, clock.now().Sub(storagetest.Base), "main;"+name+"-"+env+" 1")
		if err := s.Write(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	flush := func() {
		t.Helper()
		if err := errors.Join(s.Flush(t.Context()), s.Compact(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	there := func(want string) {
		t.Helper()
		var got []string
		names := found(t, s)
		for _, name := range []string{"web-dev", "api-dev", "web-audit", "web-prod"} {
			if n := names[name]; n > 0 {
				got = append(got, fmt.Sprintf("%s*%d", name, n))
			}
		}
		if g := strings.Join(got, " "); g != want {
			t.Errorf("after %s: got %s, want %s; %+v", clock.now().Sub(storagetest.Base), g, want, s.Stats().Blocks)
		}
	}
	for range 2 { // two blocks of four series
		put("web", "dev")
		put("api", "dev")
		put("web", "audit")
		put("web", "prod")
		flush()
	}
	there("web-dev*2 api-dev*2 web-audit*2 web-prod*2")
	clock.add(50 * time.Minute)
	flush()
	there("web-dev*2 api-dev*2 web-audit*2 web-prod*2")
	clock.add(20 * time.Minute)
	flush()
	there("api-dev*2 web-audit*2 web-prod*2")
	for range 2 { // nothing is due twice
		flush()
	}
	for _, b := range s.Stats().Blocks {
		if b.Series != 3 || b.Generation != 1 {
			t.Errorf("block %+v", b)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	o.fs = fsys.Crash(nil)
	s = open(t, o)
	there("api-dev*2 web-audit*2 web-prod*2")
	clock.add(time.Hour)
	flush()
	there("web-audit*2 web-prod*2")
	clock.add(10 * time.Hour)
	put("web", "prod")
	flush()
	there("web-audit*2 web-prod*1")
	values, err := s.LabelValues(t.Context(), "env", storage.Selection{End: storagetest.Base.Add(time.Hour)})
	if err != nil || strings.Join(values, " ") != "audit" {
		t.Errorf("environments of the first hour: %v, %v", values, err)
	}
}

// TestDamagedBlock: a block that cannot be read is left alone, its neighbours are compacted, nothing is dropped.
func TestDamagedBlock(t *testing.T) {
	fsys := disktest.New()
	o := onDisk(fsys)
	o.CompactBytes = -1 // not yet
	s := open(t, o)
	var names []string
	for i := range 9 {
		if err := errors.Join(s.Write(t.Context(), batchOf(i)), s.Flush(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range s.Stats().Blocks {
		names = append(names, b.Name)
	}
	bad := "/data/blocks/" + names[4] + ".parquet"
	data := fsys.Bytes(bad)
	fsys.Set(bad, append(bytes.Repeat([]byte{0x55}, len(data)/2), data[len(data)/2:]...))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, onDisk(fsys))
	for tries := 0; s.Compact(t.Context()) != nil; tries++ {
		if tries > 10 {
			t.Fatalf("compacting: %v", s.Compact(t.Context()))
		}
	}
	st := s.Stats()
	if len(st.Blocks) != 3 || st.Blocks[1].Name != names[4] || st.Rows != 9 {
		t.Errorf("%d rows in %+v", st.Rows, st.Blocks)
	}
	if got := fsys.Bytes(bad); got == nil {
		t.Error("the damaged block was removed")
	}
}

// watchedBucket calls changed after each change of what is in it.
type watchedBucket struct {
	*objstore.InMemBucket
	changed func(what string)
}

func (b *watchedBucket) Upload(ctx context.Context, name string, r io.Reader) error {
	err := b.InMemBucket.Upload(ctx, name, r)
	b.changed("upload of " + name)
	return err
}

func (b *watchedBucket) Delete(ctx context.Context, name string) error {
	err := b.InMemBucket.Delete(ctx, name)
	b.changed("deletion of " + name)
	return err
}

// TestBucketCompaction: whatever has been copied and deleted so far, the bucket alone has every row once that it
// ever had.
func TestBucketCompaction(t *testing.T) {
	bucket := &watchedBucket{InMemBucket: objstore.NewInMemBucket()}
	var images []func()
	most := 0
	bucket.changed = func(what string) {
		objects := objstore.NewInMemBucket()
		for name, data := range bucket.Objects() {
			if err := objects.Upload(t.Context(), name, bytes.NewReader(data)); err != nil {
				t.Error(err)
			}
		}
		images = append(images, func() {
			o := onDisk(disktest.New())
			o.Bucket, o.CompactBytes = objects, -1
			s, err := New(o)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			got := found(t, s)
			n := max(len(got)-1, 0)
			if n < most {
				t.Errorf("after the %s %d batches are there, there were %d", what, n, most)
			}
			most = n
			for name, v := range got {
				if name != "shared" && v != 1 || name == "shared" && v != int64(2*n) {
					t.Errorf("after the %s %s has %d", what, name, v)
				}
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	o := onDisk(disktest.New())
	o.Bucket = bucket
	s := open(t, o)
	for i := range 12 {
		if err := errors.Join(s.Write(t.Context(), batchOf(i)), s.Flush(t.Context())); err != nil {
			t.Fatal(err)
		}
		if i%2 == 1 {
			uploaded(t, s)
		}
		if err := s.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	uploaded(t, s)
	blocks := s.Stats().Blocks
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, check := range images {
		check()
	}
	if most != 12 || len(images) < 20 {
		t.Errorf("%d batches in the end, %d changes", most, len(images))
	}
	objects := 0
	for name := range bucket.Objects() {
		if strings.HasPrefix(name, "blocks/") {
			objects++
		}
	}
	if objects != 2*len(blocks) {
		t.Errorf("%d objects of %+v", objects, blocks)
	}
	// Blocks of which only the bucket has the rows are compacted, too.
	o.fs, o.Bucket, o.compactRun = disktest.New(), bucket.InMemBucket, 4
	s = open(t, o)
	all := map[int]bool{}
	for i := range 18 {
		all[i] = true
		if i >= 12 {
			if err := errors.Join(s.Write(t.Context(), batchOf(i)), s.Flush(t.Context()), s.Compact(t.Context())); err != nil {
				t.Fatal(err)
			}
		}
	}
	wants(t, "from the bucket", s, all, nil)
	uploaded(t, s)
}

// TestBucketAwayForAnHour: by the clock of the test object storage is away for an hour of writes. Nothing is lost
// or refused, the backlog shows, and afterwards the bucket has everything.
func TestBucketAwayForAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bucket := &failingBucket{Bucket: objstore.NewInMemBucket()}
		fsys := disktest.New()
		o := Options{Dir: "/data", fs: fsys, Retention: -1, Bucket: bucket, HeadAge: 5 * time.Minute}
		s, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		all := map[int]bool{}
		minute := func() {
			t.Helper()
			i := len(all)
			if err := s.Write(t.Context(), batchOf(i)); err != nil {
				t.Fatal(err)
			}
			all[i] = true
			time.Sleep(time.Minute)
			synctest.Wait() // heads come of age at whole minutes, too
		}
		for range 20 {
			minute()
		}
		if st := s.Stats(); st.UploadsPending != 0 || st.UploadsSince != nil || len(st.Blocks) == 0 {
			t.Errorf("while it is there: %+v", st)
		}
		bucket.away.Store(true)
		for range 60 {
			minute()
		}
		st := s.Stats()
		if st.UploadsPending == 0 || st.UploadBytes == 0 || st.UploadError == "" || st.ReadOnly != "" {
			t.Errorf("after an hour: %+v", st)
		}
		if st.UploadsSince == nil || time.Since(*st.UploadsSince) < 50*time.Minute || time.Since(*st.UploadsSince) > time.Hour {
			t.Errorf("behind since %v", st.UploadsSince)
		}
		wants(t, "away", s, all, nil)
		bucket.away.Store(false)
		time.Sleep(2 * time.Minute) // the longest pause between attempts is one
		synctest.Wait()
		if st := s.Stats(); st.UploadsPending != 0 || st.UploadBytes != 0 || st.UploadsSince != nil || st.UploadError != "" {
			t.Errorf("two minutes after it is back: %+v", st)
		}
		if err := s.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		o.fs = disktest.New()
		if s, err = New(o); err != nil {
			t.Fatal(err)
		}
		wants(t, "from the bucket alone", s, all, nil)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
