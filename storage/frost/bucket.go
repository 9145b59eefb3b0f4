package frost

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-kit/log/level"
	"github.com/thanos-io/objstore"

	"github.com/perfuse/perfuse/storage/disk"
)

// replica keeps a bucket up to date with the local blocks and dictionary. What is local is durable without it,
// so it may be away for any time; it is one goroutine that tries again until it is done.
//
//	store                  the identity of the store: no other may write here
//	dictionary/N.dict      before the blocks that need it; one that stands for others before those are deleted
//	blocks/A-B.parquet     before its index
//	blocks/A-B.meta
type replica struct {
	bucket objstore.Bucket
	now    func() time.Time
	stop   context.CancelFunc
	done   chan struct{}
	wake   chan struct{}

	copying sync.Mutex // one at a time

	mu       sync.Mutex
	there    map[string]bool // objects that are known to be complete
	dropped  []string        // objects to delete, in order
	behind   time.Time       // since when there is something to copy or to delete; zero: there is nothing
	err      error           // of the last attempt
	progress chan struct{}   // closed, and replaced, after each attempt
	// unasked says that the bucket did not answer when the store was opened: it may have blocks that are not known.
	unasked bool
}

const identityObject = "store"

// openReplica makes sure that the bucket is this store's, and fetches what the local directory does not have:
// the dictionary, and the indices of blocks, whose rows are then read from the bucket.
func (s *Store) openReplica(ctx context.Context) error {
	if s.o.Bucket == nil {
		return nil
	}
	r := &replica{bucket: s.o.Bucket, now: s.o.Now, there: map[string]bool{}, progress: make(chan struct{})}
	s.replica = r
	local, err := s.readFile(filepath.Join(s.o.Dir, identityObject))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading the store's identity: %w", err)
	}
	remote, err := r.get(ctx, identityObject)
	switch {
	case err != nil && !r.bucket.IsObjNotFoundErr(err):
		if len(local) == 0 {
			return fmt.Errorf("asking bucket %s whose it is: %w", r.bucket.Name(), err)
		}
		level.Warn(s.o.Logger).Log("msg", "object storage does not answer; going on with what is local", "bucket", r.bucket.Name(), "err", err)
		r.unasked = true
		return nil
	case len(remote) == 0:
		if len(local) == 0 {
			local = []byte(rand.Text() + "\n")
		}
		if err := r.bucket.Upload(ctx, identityObject, bytes.NewReader(local)); err != nil {
			return fmt.Errorf("writing to bucket %s: %w", r.bucket.Name(), err)
		}
		return s.writeFile(s.o.Dir, identityObject, local)
	case len(local) == 0:
		if names, err := s.o.fs.List(s.dictionaryDir()); err != nil || len(names) > 0 {
			return errors.Join(err, fmt.Errorf("bucket %s is another store's; give this one a bucket or prefix of its own", r.bucket.Name()))
		}
		if err := s.writeFile(s.o.Dir, identityObject, remote); err != nil {
			return err
		}
	case !bytes.Equal(local, remote):
		return fmt.Errorf("bucket %s is another store's; give this one a bucket or prefix of its own", r.bucket.Name())
	}
	for _, f := range []struct{ dir, ext string }{{"dictionary", ".dict"}, {"blocks", ".meta"}} {
		if err := s.fetch(ctx, f.dir, f.ext); err != nil {
			return fmt.Errorf("fetching from bucket %s: %w", r.bucket.Name(), err)
		}
	}
	return nil
}

func (r *replica) get(ctx context.Context, name string) ([]byte, error) {
	rd, err := r.bucket.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(rd)
	return b, errors.Join(err, rd.Close())
}

func (s *Store) writeFile(dir, name string, data []byte) error {
	return disk.WriteFile(s.o.fs, dir, name, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// fetch copies the files of one kind that are not local. Those that are damaged are left out: an upload may
// have been cut short, and is done again by who has the original.
func (s *Store) fetch(ctx context.Context, dir, ext string) error {
	localDir := filepath.Join(s.o.Dir, dir)
	names, err := s.o.fs.List(localDir)
	if err != nil {
		return err
	}
	have := setOf(names)
	return s.replica.bucket.Iter(ctx, dir, func(object string) error {
		name := path.Base(object)
		if !strings.HasSuffix(name, ext) || have[name] {
			return nil
		}
		b, err := s.replica.get(ctx, object)
		if err != nil {
			return err
		}
		if ext == ".meta" {
			_, err = decodeMeta(b)
		} else {
			_, _, err = decodeDictionary(bytes.NewReader(b), int64(len(b)), func([]byte) error { return nil })
		}
		if err != nil {
			level.Warn(s.o.Logger).Log("msg", "an object is damaged and not used", "object", object, "err", err)
			return nil
		}
		return s.writeFile(localDir, name, b)
	})
}

// remoteBlock reads a block from the bucket.
type remoteBlock struct {
	bucket objstore.Bucket
	name   string
}

// ReadAt implements io.ReaderAt.
func (b remoteBlock) ReadAt(p []byte, off int64) (n int, err error) {
	rd, err := b.bucket.GetRange(context.Background(), b.name, off, int64(len(p)))
	if err != nil {
		return 0, fmt.Errorf("reading %s from bucket %s: %w", b.name, b.bucket.Name(), err)
	}
	n, err = io.ReadFull(rd, p)
	if err == io.ErrUnexpectedEOF {
		err = io.EOF
	}
	return n, errors.Join(err, rd.Close())
}

// Close implements io.Closer.
func (b remoteBlock) Close() error { return nil }

func (s *Store) startReplica() {
	r := s.replica
	if r == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop, r.done, r.wake = cancel, make(chan struct{}), make(chan struct{}, 1)
	go func() {
		defer close(r.done)
		pause := s.o.retry
		for {
			err := s.replicate(ctx)
			r.mu.Lock()
			if err != nil && ctx.Err() == nil && r.err == nil {
				level.Error(s.o.Logger).Log("msg", "copying to object storage; trying again", "bucket", r.bucket.Name(), "err", err)
			}
			r.err = err
			r.mu.Unlock()
			s.noteBacklog()
			r.mu.Lock()
			close(r.progress)
			r.progress = make(chan struct{})
			r.mu.Unlock()
			var again <-chan time.Time
			if err != nil {
				s.metrics.uploadErrors.Inc()
				again = time.After(pause)
				pause = min(2*pause, time.Minute)
			} else {
				pause = s.o.retry
			}
			select {
			case <-ctx.Done():
				return
			case <-r.wake:
			case <-again:
			}
		}
	}()
}

func (s *Store) stopReplica() {
	if s.replica != nil && s.replica.stop != nil {
		s.replica.stop()
		<-s.replica.done
	}
}

// changed says that there is something to copy or to delete. What stands for what is deleted must be among the
// store's blocks by now: it is copied before.
func (r *replica) changed(dropped ...string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	r.dropped = append(r.dropped, dropped...)
	if r.behind.IsZero() {
		r.behind = r.now()
	}
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Replicate copies to object storage and deletes there what is due now, and returns when that is done or why it
// could not be done. It is done without being asked for, too.
func (s *Store) Replicate(ctx context.Context) error {
	leave, err := s.enterOnly(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if s.replica == nil {
		return nil
	}
	err = s.replicate(ctx)
	s.noteBacklog()
	return err
}

// replicate copies and deletes all there is now.
func (s *Store) replicate(ctx context.Context) error {
	s.replica.copying.Lock()
	defer s.replica.copying.Unlock()
	s.replica.mu.Lock()
	drop := len(s.replica.dropped) // what comes later may wait for copies that are not made here
	s.replica.mu.Unlock()
	// A block may be compacted while it is copied. What stands for it now is copied then, before anything is deleted:
	// what it stood for itself may be among that.
	for again := true; again; {
		var err error
		if again, err = s.copy(ctx); err != nil {
			return err
		}
	}
	return s.replica.drop(ctx, drop)
}

// copy copies the blocks of this moment, and before them the dictionary, which has all that they refer to. It says
// whether something has gone meanwhile.
func (s *Store) copy(ctx context.Context) (gone bool, err error) {
	blocks := s.localBlocks()
	names, err := s.o.fs.List(s.dictionaryDir())
	if err != nil {
		return false, err
	}
	for _, name := range names {
		if !strings.HasSuffix(name, ".dict") {
			continue
		}
		err := s.upload(ctx, "dictionary/"+name)
		if errors.Is(err, fs.ErrNotExist) {
			return true, nil // another file stands for it now, which the blocks need
		}
		if err != nil {
			return false, err
		}
	}
	for _, b := range blocks {
		err := s.upload(ctx, "blocks/"+b.name()+".parquet")
		if err == nil {
			err = s.upload(ctx, "blocks/"+b.name()+".meta")
		}
		if errors.Is(err, fs.ErrNotExist) && !slices.Contains(s.localBlocks(), b) {
			gone = true
			continue
		}
		if err != nil {
			return false, err
		}
	}
	return gone, nil
}

func (s *Store) localBlocks() (out []*block) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, b := range s.blocks {
		if !b.remote {
			out = append(out, b)
		}
	}
	return out
}

func (s *Store) upload(ctx context.Context, name string) (err error) {
	r := s.replica
	r.mu.Lock()
	there := r.there[name]
	r.mu.Unlock()
	if there {
		return nil
	}
	f, err := s.o.fs.Open(filepath.Join(s.o.Dir, filepath.FromSlash(name)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return err
	}
	attrs, err := r.bucket.Attributes(ctx, name)
	if err != nil && !r.bucket.IsObjNotFoundErr(err) {
		return fmt.Errorf("looking for %s: %w", name, err)
	}
	if err != nil || attrs.Size != size {
		if err := r.bucket.Upload(ctx, name, io.NewSectionReader(f, 0, size)); err != nil {
			return fmt.Errorf("uploading %s: %w", name, err)
		}
		s.metrics.uploadBytes.Add(float64(size))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.there[name] = true
	return nil
}

// drop deletes the first n objects that are to be deleted.
func (r *replica) drop(ctx context.Context, n int) error {
	for range n {
		r.mu.Lock()
		name := r.dropped[0]
		r.mu.Unlock()
		if err := r.bucket.Delete(ctx, name); err != nil {
			if there, eerr := r.bucket.Exists(ctx, name); eerr != nil || there {
				return fmt.Errorf("deleting %s: %w", name, err)
			}
		}
		r.mu.Lock()
		r.dropped = r.dropped[1:]
		delete(r.there, name)
		r.mu.Unlock()
	}
	return nil
}

// attempted is closed after the next attempt.
func (r *replica) attempted() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.progress
}

// backlog is what object storage does not have yet.
type backlog struct {
	blocks, deletions int
	bytes             int64 // of the blocks
	since             time.Time
	err               error // of the last attempt
}

// backlogLocked is called with the store's lock held.
func (s *Store) backlogLocked() (l backlog) {
	r := s.replica
	if r == nil {
		return l
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range s.blocks {
		if !b.remote && !r.there["blocks/"+b.name()+".meta"] {
			l.blocks++
			l.bytes += b.size
		}
	}
	l.deletions, l.since, l.err = len(r.dropped), r.behind, r.err
	return l
}

// noteBacklog keeps since when there is a backlog.
func (s *Store) noteBacklog() {
	s.mu.RLock()
	defer s.mu.RUnlock()
	l := s.backlogLocked()
	r := s.replica
	r.mu.Lock()
	defer r.mu.Unlock()
	switch none := l.blocks+l.deletions == 0; {
	case none:
		r.behind = time.Time{}
	case r.behind.IsZero():
		r.behind = r.now()
	}
}
