package bucket_test

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/thanos-io/objstore"

	"github.com/perfuse/perfuse/storage/bucket"
	"github.com/perfuse/perfuse/storage/frost"
	"github.com/perfuse/perfuse/storage/storagetest"
)

func open(t *testing.T, config string) objstore.Bucket {
	t.Helper()
	var c bucket.Config
	if err := c.UnmarshalText([]byte(config)); err != nil {
		t.Fatal(err)
	}
	b, err := c.Open(log.NewNopLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func TestStoreOnFilesystem(t *testing.T) {
	restore(t, open(t, fmt.Sprintf("{type: FILESYSTEM, config: {directory: '%s'}}", t.TempDir())))
}

// TestStoreOnServer runs against real object storage: PERFUSE_TEST_BUCKET holds its configuration. Each run has a
// prefix of its own.
func TestStoreOnServer(t *testing.T) {
	config := os.Getenv("PERFUSE_TEST_BUCKET")
	if config == "" {
		t.Skip("PERFUSE_TEST_BUCKET has no configuration of a bucket as in {type: S3, config: {bucket: b, endpoint: host:port, ...}}")
	}
	restore(t, objstore.NewPrefixedBucket(open(t, config), fmt.Sprintf("test-%d", time.Now().UnixNano())))
}

// restore writes blocks that become larger ones, loses the disk, and gets the same answers from the bucket.
func restore(t *testing.T, b objstore.Bucket) {
	o := frost.Options{Dir: t.TempDir(), Retention: -1, Bucket: b, HeadBytes: 5000}
	rnd, model := storagetest.NewRandom(7), &storagetest.Model{}
	s, err := frost.New(o)
	if err != nil {
		t.Fatal(err)
	}
	for range 60 {
		batch := rnd.Batch()
		if err := errors.Join(s.Write(t.Context(), batch), model.Write(t.Context(), batch)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(s.Flush(t.Context()), s.Compact(t.Context()), s.Replicate(t.Context())); err != nil {
		t.Fatal(err)
	}
	st := s.Stats()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	generation := uint32(0)
	for _, blk := range st.Blocks {
		generation = max(generation, blk.Generation)
	}
	if generation == 0 || st.UploadsPending != 0 {
		t.Errorf("before the disk is lost: %+v", st)
	}
	o.Dir = t.TempDir()
	if s, err = frost.New(o); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 40 {
		rnd.Query().Compare(t, s, model)
	}
	if n := len(s.Stats().Blocks); n != len(st.Blocks) {
		t.Errorf("%d blocks came back of %d", n, len(st.Blocks))
	}
}
