package frost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/thanos-io/objstore"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/dictionary"
	"github.com/perfuse/perfuse/storage/disk/disktest"
	"github.com/perfuse/perfuse/storage/storagetest"
)

// maintained has the flusher do what there is to do. The first attempt may have begun before.
func maintained(s *Store) (err error) {
	for range 2 {
		next, _ := s.attempt()
		s.wakeFlusher()
		<-next
		_, why := s.attempt()
		err = errors.Join(err, why)
	}
	return err
}

// entries is how many things the dictionary has.
func entries(s *Store) (n int64) {
	for _, t := range s.dict.Sizes() {
		n += t.Entries
	}
	return n
}

// needed is how many things a dictionary of some batches has.
func needed(t testing.TB, list ...*profile.Batch) (n int64) {
	t.Helper()
	d := dictionary.New()
	for _, b := range list {
		if _, err := d.Intern(b, func(_ int, s *profile.Sample) bool { return s.Value != 0 }); err != nil {
			t.Fatal(err)
		}
	}
	for _, t := range d.Sizes() {
		n += t.Entries
	}
	return n
}

// dictionaryFileNames are those on a disk in memory that are complete.
func dictionaryFileNames(t testing.TB, fsys *disktest.FS) []string {
	t.Helper()
	names, err := fsys.List("/data/dictionary")
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(names, func(name string) bool { return !strings.HasSuffix(name, ".dict") })
}

// buildBatch is a random batch of a build of which much has the build in its name, taken at once.
func buildBatch(rnd *storagetest.Random, n, build int, at time.Time) *profile.Batch {
	b := rnd.Batch()
	for i := range b.Dictionary.Functions[1:] {
		b.Dictionary.Functions[i+1].Name += fmt.Sprintf(" of build %d", build)
	}
	for i := range b.Dictionary.Links[1:] {
		if b.Dictionary.Links[i+1].SpanName != "" && rnd.IntN(3) == 0 {
			b.Dictionary.Links[i+1].SpanName += fmt.Sprintf(" of build %d", build)
		}
	}
	for i := range b.Profiles {
		p := &b.Profiles[i]
		p.TimeNanos, p.DurationNanos, p.ID = at.UnixNano(), int64(10*time.Second), profile.ID{}
		for j := range p.Samples {
			p.Samples[j].TimeNanos = 0
		}
		p.Labels = profile.NewLabels(append(slices.Clone(p.Labels), profile.Label{Name: "batch", Value: strconv.Itoa(n)})...)
	}
	return b
}

// TestForgetAgainstModel writes, flushes, compacts, drops, forgets and opens again in a random order, and compares
// every answer with that of a naive model of the batches that are still there, among which are all that are young
// enough. After forgetting the dictionary has nothing else.
func TestForgetAgainstModel(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { forgetAgainstModel(t, seed) })
	}
}

func forgetAgainstModel(t *testing.T, seed uint64) {
	const retention = 2 * time.Hour
	var clock testClock
	rnd, fsys := storagetest.NewRandom(seed), disktest.New()
	o := Options{Dir: "/data", fs: fsys, Now: clock.now, Retention: retention, SegmentBytes: 4000, compactRun: 2, retry: time.Millisecond, ForgetEvery: -1}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.Close() }()
	type written struct {
		*profile.Batch
		at time.Time
	}
	var all []written
	check := func(what string) (there []*profile.Batch) {
		t.Helper()
		if err := errors.Join(maintained(s), s.Compact(t.Context())); err != nil { // nothing is dropped beside what follows
			t.Fatalf("%s: %v", what, err)
		}
		values, err := s.LabelValues(t.Context(), "batch", storage.Selection{})
		if err != nil {
			t.Fatal(err)
		}
		model := &storagetest.Model{}
		young := &storagetest.Model{}
		for i, w := range all {
			if slices.Contains(values, strconv.Itoa(i)) {
				there = append(there, w.Batch)
				err = errors.Join(err, model.Write(t.Context(), w.Batch))
			}
			if !w.at.Before(clock.now().Add(-retention)) {
				err = errors.Join(err, young.Write(t.Context(), w.Batch))
			}
		}
		wanted, err2 := young.LabelValues(t.Context(), "batch", storage.Selection{})
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		for _, v := range wanted {
			if !slices.Contains(values, v) {
				t.Fatalf("%s: batch %s is lost", what, v)
			}
		}
		for range 8 {
			q := rnd.Query()
			shift := clock.now().Sub(storagetest.Base) - retention/2
			if !q.Sel.Start.IsZero() {
				q.Sel.Start = q.Sel.Start.Add(shift)
			}
			if !q.Sel.End.IsZero() {
				q.Sel.End = q.Sel.End.Add(shift)
			}
			q.Compare(t, s, model)
		}
		typ := profile.TypeCPU
		storagetest.Query{Kind: "merge", Sel: storage.Selection{Type: &typ}, By: []string{"batch"}}.Compare(t, s, model)
		if t.Failed() {
			t.Fatalf("%s", what)
		}
		return there
	}
	forgotten, reopened := 0, 0
	for round := range 150 {
		what := fmt.Sprintf("round %d", round)
		var err error
		switch rnd.IntN(12) {
		case 0, 1, 2, 3, 4:
			for range 1 + rnd.IntN(3) {
				w := written{buildBatch(rnd, len(all), len(all)/10, clock.now()), clock.now()}
				all = append(all, w)
				err = errors.Join(err, s.Write(t.Context(), w.Batch))
			}
		case 5:
			err = s.Flush(t.Context())
		case 6:
			err = s.Compact(t.Context())
		case 7, 8:
			clock.add(time.Duration(rnd.IntN(80)) * time.Minute)
		case 9, 10:
			err = errors.Join(maintained(s), s.Compact(t.Context()))
			before := entries(s)
			err = errors.Join(err, s.Forget(t.Context()))
			there := check(what + ", forgotten")
			if n, most := entries(s), needed(t, there...); n > most {
				t.Fatalf("%s: %d entries are left, %d are needed", what, n, most)
			} else if n < before {
				forgotten++
				if names := dictionaryFileNames(t, fsys); len(names) != 1 {
					t.Fatalf("%s: dictionary files %v", what, names)
				}
			}
			if st := s.Stats(); st.Series != int(st.Dictionary[len(st.Dictionary)-1].Entries) {
				t.Fatalf("%s: %d series in the index, %+v", what, st.Series, st.Dictionary)
			}
		case 11:
			err = s.Close()
			switch rnd.IntN(3) {
			case 0:
				fsys = fsys.Kill()
			case 1:
				fsys = fsys.Crash(nil)
			}
			o.fs = fsys
			if err == nil {
				s, err = New(o)
			}
			reopened++
		}
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if st := s.Stats(); st.DictionaryHoles != 0 || len(st.Losses) > 0 {
			t.Fatalf("%s: %d holes, losses %v", what, st.DictionaryHoles, st.Losses)
		}
		check(what)
	}
	if forgotten < 3 || reopened < 3 {
		t.Errorf("forgot %d times, opened again %d times: the course does too little", forgotten, reopened)
	}
	clock.add(10 * time.Hour)
	if err := errors.Join(s.Flush(t.Context()), maintained(s), s.Forget(t.Context())); err != nil {
		t.Fatal(err)
	}
	if n := entries(s); n != 0 {
		t.Errorf("%d entries of nothing: %+v", n, s.dict.Sizes())
	}
}

// TestForgetBesideWrites: while the dictionary forgets again and again, what is written, most of it as it was before,
// is in the next answer, and nothing is lost at the end.
func TestForgetBesideWrites(t *testing.T) {
	var clock testClock
	fsys := disktest.New()
	o := Options{Dir: "/data", fs: fsys, Now: clock.now, Retention: time.Hour, HeadBytes: 6000, SegmentBytes: 2000, compactRun: 3, spillBytes: 500, ForgetEvery: -1}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var others sync.WaitGroup
	others.Go(func() {
		for ctx.Err() == nil {
			if err := s.Forget(ctx); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	typ := profile.TypeCPU
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			name := fmt.Sprintf("w%d", w)
			sel, err := profile.ParseSelector(fmt.Sprintf("{service_name=%q}", name))
			if err != nil {
				t.Error(err)
				return
			}
			for i := range 250 {
				if w == 0 && i%10 == 9 {
					clock.add(61 * time.Minute) // what was there is too old now
				}
				at := clock.now().Sub(storagetest.Base)
				own := fmt.Sprintf("main;of %d;own%d-%d 1", i/7%3, w, i)
				b := storagetest.Folded(typ, "service_name="+name+fmt.Sprintf(" build=%d", i/5%4), at, own, fmt.Sprintf("main;again%d 1", i%6))
				if err := s.Write(ctx, b); err != nil {
					t.Error(err)
					return
				}
				got, err := s.Merge(ctx, storage.Selection{Type: &typ, Selector: sel, Start: storagetest.Base.Add(at), End: storagetest.Base.Add(at + 1)}, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if text := storagetest.Dump(got); !strings.Contains(text, fmt.Sprintf("own%d-%d", w, i)) && clock.now().Sub(storagetest.Base)-at < time.Hour {
					t.Errorf("batch %d of %s is not in the answer:\n%s", i, name, text)
					return
				}
				for _, smp := range got.Profiles {
					for _, x := range smp.Samples {
						st := got.Dictionary.Stacks[x.Stack]
						if len(st) < 2 || got.Dictionary.Functions[got.Dictionary.Frames[st[len(st)-1]].Lines[0].Function].Name != "main" {
							t.Errorf("a stack without its names: %v", st)
							return
						}
					}
				}
			}
		})
	}
	writers.Wait()
	stop()
	others.Wait()
	if err := errors.Join(s.Flush(t.Context()), maintained(s), s.Forget(t.Context())); err != nil {
		t.Fatal(err)
	}
	answer := func(s *Store) string {
		b, err := s.Merge(t.Context(), storage.Selection{Type: &typ}, []string{"service_name", "build"})
		if err != nil {
			t.Fatal(err)
		}
		return storagetest.Dump(b)
	}
	want := answer(s)
	st := s.Stats()
	if st.Forgetting.Entries < 1000 || strings.Count(want, "own") < 10 {
		t.Errorf("forgotten %+v, left %s", st.Forgetting, want)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	o.fs = fsys.Crash(nil)
	if got := answer(open(t, o)); got != want {
		t.Errorf("opened again: got %s\nwant %s", got, want)
	}
}

// TestForgetWaits: what a write or a question has in hand is waited for.
func TestForgetWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Options{Dir: "/data", fs: disktest.New(), Retention: -1})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // it has looked whether there is anything to do
		leave, err := s.enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b := batchOf(1)
		in, err := s.dict.Intern(b, func(int, *profile.Sample) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		waits := func() {
			t.Helper()
			synctest.Wait()
			select {
			case err := <-done:
				t.Fatalf("it did not wait: %v", err)
			default:
			}
		}
		go func() { done <- s.Forget(t.Context()) }()
		waits()
		// A call that begins later has what it is given, too.
		late, err := s.enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		again, err := s.dict.Intern(batchOf(2), func(int, *profile.Sample) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		c := &commit{rows: new(rowEncoder).rows(nil, b, 0, &in)}
		if err := s.group.Submit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		leave()
		waits() // it has read the heads, and late may be a question that reads what is gone
		c = &commit{rows: new(rowEncoder).rows(nil, batchOf(2), 0, &again)}
		if err := s.group.Submit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		late()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		wants(t, "after forgetting", s, map[int]bool{1: true, 2: true}, nil)
		// One that ends early ends at once.
		ctx, cancel := context.WithCancel(t.Context())
		leave, err = s.enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		go func() { done <- s.Forget(ctx) }()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		leave()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestForgetBySelf: by the clock of the test, what is dropped is forgotten without being asked for, and not more often
// than it is to be.
func TestForgetBySelf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Options{Dir: "/data", fs: disktest.New(), Retention: time.Hour, HeadAge: time.Minute, ForgetEvery: 30 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		last, runs, most := time.Time{}, 0, int64(0)
		for i := range 300 {
			b := batchOf(i)
			b.Profiles[0].TimeNanos = time.Now().UnixNano()
			if err := s.Write(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			st := s.Stats().Forgetting
			if st.Error != "" {
				t.Fatal(st.Error)
			}
			if st.Last != nil && !st.Last.Equal(last) {
				if runs > 0 && st.Last.Sub(last) < 30*time.Minute {
					t.Errorf("again after %s", st.Last.Sub(last))
				}
				last, runs = *st.Last, runs+1
			}
			if i > 150 {
				most = max(most, entries(s))
			}
		}
		// Two strings for what a batch has alone, and the rest; kept are an hour, the span of a block, half an hour.
		if one := needed(t, batchOf(0)); runs < 4 || most > 110*4+one {
			t.Errorf("%d collections, %d entries at most", runs, most)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestManyDictionaryFiles: they become one by themselves, and nothing is lost by it.
func TestManyDictionaryFiles(t *testing.T) {
	fsys := disktest.New()
	o := onDisk(fsys)
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	all := map[int]bool{}
	most := 0
	for i := range 2*maxDictionaryFiles + 10 {
		if err := errors.Join(s.Write(t.Context(), batchOf(i)), s.Flush(t.Context())); err != nil {
			t.Fatal(err)
		}
		all[i] = true
		if err := s.forget(t.Context(), func() bool { return false }); err != nil {
			t.Fatal(err)
		}
		most = max(most, len(dictionaryFileNames(t, fsys)))
	}
	if n := len(dictionaryFileNames(t, fsys)); n > maxDictionaryFiles || most > maxDictionaryFiles || n != s.Stats().DictionaryFiles {
		t.Errorf("%d files, %d at most, stats %d", n, most, s.Stats().DictionaryFiles)
	}
	wants(t, "merged", s, all, nil)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	image := fsys.Crash(nil)
	// A file that another stands for is not read, and goes.
	old := dictionaryName(0)
	image.Set("/data/dictionary/"+old, []byte("what was here once"))
	o.fs = image
	s = open(t, o)
	wants(t, "opened again", s, all, nil)
	if err := s.forget(t.Context(), func() bool { return false }); err != nil {
		t.Fatal(err)
	}
	if names := dictionaryFileNames(t, image); slices.Contains(names, old) {
		t.Errorf("files %v", names)
	}
}

// TestForgetDamagedBlock: while a block cannot be read nothing is forgotten, and people are told.
func TestForgetDamagedBlock(t *testing.T) {
	var clock testClock
	fsys := disktest.New()
	s := open(t, forgetOptions(fsys, &clock))
	b := batchOf(1)
	b.Profiles[0].TimeNanos = clock.now().UnixNano()
	if err := errors.Join(s.Write(t.Context(), b), s.Flush(t.Context())); err != nil {
		t.Fatal(err)
	}
	name := "/data/blocks/" + s.Stats().Blocks[0].Name + ".parquet"
	data := fsys.Bytes(name)
	fsys.Set(name, append(bytes.Repeat([]byte{0x55}, len(data)/2), data[len(data)/2:]...))
	before := entries(s)
	if err := s.Forget(t.Context()); err == nil || !strings.Contains(err.Error(), s.Stats().Blocks[0].Name) || s.Stats().Forgetting.Error == "" {
		t.Errorf("forgetting beside a damaged block: %v", err)
	}
	fsys.Set(name, data)
	if err := s.Forget(t.Context()); err != nil || entries(s) != before || s.Stats().Forgetting.Error != "" {
		t.Errorf("%d entries of %d: %v", entries(s), before, err)
	}
	wants(t, "readable again", s, map[int]bool{1: true}, nil)
}

// TestForgetInBucket: whatever has been copied and deleted so far, the bucket alone has every young batch once that
// it ever had, with its names. At the end it has the dictionary that is on disk.
func TestForgetInBucket(t *testing.T) {
	for _, compactBytes := range []int64{-1, 0} {
		t.Run(fmt.Sprint(compactBytes), func(t *testing.T) { forgetInBucket(t, compactBytes) })
	}
}

func forgetInBucket(t *testing.T, compactBytes int64) {
	var clock testClock
	bucket := &watchedBucket{InMemBucket: objstore.NewInMemBucket()}
	copyOf := func() *objstore.InMemBucket {
		objects := objstore.NewInMemBucket()
		for name, data := range bucket.Objects() {
			if err := objects.Upload(t.Context(), name, bytes.NewReader(data)); err != nil {
				t.Error(err)
			}
		}
		return objects
	}
	var images []func()
	written, seen := map[int]time.Time{}, map[int]bool{}
	bucket.changed = func(what string) {
		objects, passed := copyOf(), clock.passed.Load()
		images = append(images, func() {
			var then testClock
			then.passed.Store(passed)
			o := forgetOptions(disktest.New(), &then)
			o.Bucket = objects
			s, err := New(o)
			if err != nil {
				t.Fatalf("after the %s: %v", what, err)
			}
			young, old := map[int]bool{}, map[int]bool{}
			for i, at := range written {
				old[i] = true
				if seen[i] && then.now().Sub(at) <= time.Hour {
					young[i] = true
				}
			}
			tells(t, "after the "+what, s, young, old, nil)
			for name := range found(t, s) {
				var i int
				if _, err := fmt.Sscanf(name, "own%d", &i); err == nil {
					seen[i] = true
				}
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	fsys := disktest.New()
	o := forgetOptions(fsys, &clock)
	o.Bucket, o.CompactBytes = bucket, compactBytes
	s := open(t, o)
	for i := range 12 {
		b := batchOf(i)
		written[i] = clock.now()
		b.Profiles[0].TimeNanos = clock.now().UnixNano()
		if err := errors.Join(s.Write(t.Context(), b), s.Flush(t.Context())); err != nil {
			t.Fatal(err)
		}
		if i%2 == 1 { // before it is dropped
			if err := s.Replicate(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		clock.add(15 * time.Minute)
		if i%3 == 2 {
			if err := s.Forget(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	uploaded(t, s)
	before := entries(s)
	if err := errors.Join(s.Forget(t.Context()), s.Replicate(t.Context())); err != nil {
		t.Fatal(err)
	}
	var objects []string
	for name := range bucket.Objects() {
		if strings.HasPrefix(name, "dictionary/") {
			objects = append(objects, strings.TrimPrefix(name, "dictionary/"))
		}
	}
	if names := dictionaryFileNames(t, fsys); len(names) != 1 || !slices.Equal(names, objects) || entries(s) > before || s.Stats().Forgetting.Entries == 0 {
		t.Errorf("dictionary files %v, objects %v, %d entries of %d", names, objects, entries(s), before)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, check := range images {
		check()
	}
	if len(seen) != 12 || len(images) < 30 {
		t.Errorf("%d batches, %d changes", len(seen), len(images))
	}
	// While it is not known what the bucket has, nothing is forgotten.
	away := &failingBucket{Bucket: bucket.InMemBucket}
	away.away.Store(true)
	o.Bucket = away
	s = open(t, o)
	if err := s.Forget(t.Context()); err == nil || !strings.Contains(err.Error(), "opened again") {
		t.Errorf("forgetting while it is away: %v", err)
	}
}
