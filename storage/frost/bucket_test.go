package frost

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/thanos-io/objstore"

	"github.com/perfuse/perfuse/storage/storagetest"
)

// failingBucket fails while away is set; an upload that fails leaves half an object.
type failingBucket struct {
	objstore.Bucket
	away atomic.Bool
}

var errAway = errors.New("object storage is away")

func (b *failingBucket) Upload(ctx context.Context, name string, r io.Reader) error {
	if !b.away.Load() {
		return b.Bucket.Upload(ctx, name, r)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return errors.Join(errAway, b.Bucket.Upload(ctx, name, strings.NewReader(string(data[:len(data)/2]))))
}

func (b *failingBucket) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	if b.away.Load() {
		return nil, errAway
	}
	return b.Bucket.Get(ctx, name)
}

func (b *failingBucket) Delete(ctx context.Context, name string) error {
	if b.away.Load() {
		return errAway
	}
	return b.Bucket.Delete(ctx, name)
}

// await waits for attempts to copy until the state is as it should be.
func await(t *testing.T, s *Store, done func(Stats) bool) {
	t.Helper()
	for range 10000 {
		next := s.replica.attempted()
		st := s.Stats()
		if done(st) {
			return
		}
		s.replica.changed()
		<-next
	}
	t.Fatalf("it stays so: %+v", s.Stats())
}

func uploaded(t *testing.T, s *Store) {
	t.Helper()
	await(t, s, func(st Stats) bool { return st.UploadsPending == 0 })
}

func TestBucket(t *testing.T) {
	bucket := &failingBucket{Bucket: objstore.NewInMemBucket()}
	o := Options{Dir: t.TempDir(), Retention: -1, Bucket: bucket, retry: time.Millisecond}
	s := open(t, o)
	rnd := storagetest.NewRandom(5)
	model := &storagetest.Model{}
	write := func(flush bool) {
		t.Helper()
		for range 10 {
			b := rnd.Batch()
			if err := errors.Join(s.Write(t.Context(), b), model.Write(t.Context(), b)); err != nil {
				t.Fatal(err)
			}
		}
		if flush {
			if err := s.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(true)
	uploaded(t, s)
	bucket.away.Store(true) // for a while
	write(true)
	write(true)
	await(t, s, func(st Stats) bool { return st.UploadError != "" })
	if st := s.Stats(); st.UploadsPending != 2 || st.ReadOnly != "" {
		t.Errorf("while object storage is away: %+v", st)
	}
	// Opened while it is away, and with an upload cut in the middle.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, o)
	write(true)
	bucket.away.Store(false)
	uploaded(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	queries := make([]storagetest.Query, 30)
	for i := range queries {
		queries[i] = rnd.Query()
	}
	check := func(s *Store) {
		t.Helper()
		for _, q := range queries {
			q.Compare(t, s, model)
		}
	}
	local := open(t, o)
	check(local)
	if err := local.Close(); err != nil {
		t.Fatal(err)
	}
	// An empty disk: the bucket has everything.
	empty := o
	empty.Dir = t.TempDir()
	s = open(t, empty)
	check(s)
	write(true)
	check(s)
	uploaded(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, empty)
	check(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	other := Options{Dir: t.TempDir(), Retention: -1}
	s = open(t, other)
	if err := s.Write(t.Context(), batchOf(1)); err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	other.Bucket = bucket
	refused(t, other, "another store's")
	other.Dir = t.TempDir()
	bucket.away.Store(true)
	refused(t, other, "whose it is", "away")
}

// TestBucketRetention: what is dropped is deleted there, too, even if it is away when it is dropped.
func TestBucketRetention(t *testing.T) {
	mem := objstore.NewInMemBucket()
	bucket := &failingBucket{Bucket: mem}
	var clock testClock
	s := open(t, Options{Dir: t.TempDir(), Retention: time.Hour, Bucket: bucket, retry: time.Millisecond, Now: clock.now})
	blocks := func() (n int) {
		for name := range mem.Objects() {
			if strings.HasPrefix(name, "blocks/") {
				n++
			}
		}
		return n
	}
	put := func(i int) {
		t.Helper()
		b := batchOf(i)
		b.Profiles[0].TimeNanos = clock.now().UnixNano()
		if err := s.Write(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		put(i)
	}
	uploaded(t, s)
	if n := blocks(); n != 6 {
		t.Errorf("%d objects of 3 blocks", n)
	}
	bucket.away.Store(true)
	clock.add(2 * time.Hour)
	put(3)
	if st := s.Stats(); len(st.Blocks) != 1 || st.UploadsPending == 0 {
		t.Errorf("after two hours: %+v", st)
	}
	bucket.away.Store(false)
	uploaded(t, s)
	if n, st := blocks(), s.Stats(); n != 2*len(st.Blocks) {
		t.Errorf("%d objects for %d blocks", n, len(st.Blocks))
	}
}
