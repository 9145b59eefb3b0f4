package frost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-kit/log/level"

	"github.com/perfuse/perfuse/storage/disk"
)

// flusher turns sealed heads into blocks, frees the log, drops old blocks. It is one goroutine, so blocks are
// made in order and the freed part of the log is always a prefix.
type flusher struct {
	stop context.CancelFunc
	done chan struct{}
	wake chan struct{}

	errMu    sync.Mutex
	err      error         // of the last attempt
	progress chan struct{} // closed, and replaced, after each attempt
}

func (s *Store) blocksDir() string     { return filepath.Join(s.o.Dir, "blocks") }
func (s *Store) dictionaryDir() string { return filepath.Join(s.o.Dir, "dictionary") }

func (s *Store) lastError() error {
	s.errMu.Lock()
	defer s.errMu.Unlock()
	return s.err
}

// attempted notes how an attempt ended and wakes who waits for it.
func (s *Store) attempted(err error) {
	s.errMu.Lock()
	defer s.errMu.Unlock()
	s.err = err
	close(s.progress)
	s.progress = make(chan struct{})
}

// attempt returns how the last attempt ended, and a channel that is closed after the next.
func (s *Store) attempt() (next <-chan struct{}, err error) {
	s.errMu.Lock()
	defer s.errMu.Unlock()
	return s.progress, s.err
}

// openFlusher loads the dictionary files and the blocks' indices, and removes what a crash left behind.
func (s *Store) openFlusher() error {
	for _, dir := range []string{s.blocksDir(), s.dictionaryDir()} {
		if err := s.o.fs.MkdirAll(dir); err != nil {
			return fmt.Errorf("opening storage: making %s: %w", dir, err)
		}
	}
	if err := s.o.fs.SyncDir(s.o.Dir); err != nil {
		return fmt.Errorf("opening storage: %w", err)
	}
	if err := s.openReplica(context.Background()); err != nil {
		return fmt.Errorf("opening storage: %w", err)
	}
	if err := s.loadDictionary(); err != nil {
		return fmt.Errorf("opening storage: %w", err)
	}
	if err := s.loadBlocks(); err != nil {
		return fmt.Errorf("opening storage: %w", err)
	}
	if err := s.loadRecent(); err != nil {
		return fmt.Errorf("opening storage: %w", err)
	}
	return nil
}

func (s *Store) readFile(name string) (b []byte, err error) {
	f, err := s.o.fs.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b = make([]byte, size)
	_, err = io.ReadFull(io.NewSectionReader(f, 0, size), b)
	return b, err
}

func (s *Store) loadBlocks() error {
	names, err := s.o.fs.List(s.blocksDir())
	if err != nil {
		return fmt.Errorf("listing blocks: %w", err)
	}
	for _, name := range names {
		path := filepath.Join(s.blocksDir(), name)
		switch base, ext := strings.TrimSuffix(name, filepath.Ext(name)), filepath.Ext(name); {
		case ext == ".tmp" || ext == ".parquet" && !slices.Contains(names, base+".meta"):
			// A crash came before the index was written: the log still has these rows.
			if err := s.o.fs.Remove(path); err != nil {
				return fmt.Errorf("removing an unfinished block: %w", err)
			}
		case ext == ".meta":
			b, err := s.readFile(path)
			if err != nil {
				return fmt.Errorf("reading the index of block %s: %w", base, err)
			}
			m, err := decodeMeta(b)
			if err == nil && m.name() != base {
				err = fmt.Errorf("%w: it is that of block %s", errCorruptFile, m.name())
			}
			if err != nil {
				return fmt.Errorf("reading the index of block %s: %w; move its files away to go on without it", base, err)
			}
			blk := s.newBlock(m)
			if !slices.Contains(names, base+".parquet") {
				if s.replica == nil {
					return fmt.Errorf("block %s has an index but no rows; put its .parquet back, or move its .meta away to go on without it", base)
				}
				object := remoteBlock{s.replica.bucket, "blocks/" + base + ".parquet"}
				blk.remote, blk.open = true, func() (io.ReaderAt, io.Closer, error) { return object, object, nil }
			}
			for id := range m.span.series {
				s.index.add(id, s.dict)
			}
			s.blocks = append(s.blocks, blk)
		}
	}
	var gone []*block
	s.blocks, gone = standing(s.blocks)
	for _, b := range gone {
		s.stale = append(s.stale, s.blockFile(b, ".meta"))
		if !b.remote {
			s.stale = append(s.stale, s.blockFile(b, ".parquet"))
		}
		s.replica.changed(objectsOf(b)...)
	}
	for _, b := range s.blocks {
		s.setExpiry(b)
	}
	return nil
}

func (s *Store) newBlock(m *meta) *block {
	path := filepath.Join(s.blocksDir(), m.name()+".parquet")
	return &block{meta: m, open: func() (io.ReaderAt, io.Closer, error) {
		f, err := s.o.fs.Open(path)
		if err != nil {
			return nil, nil, err
		}
		return f, f, nil
	}}
}

func (s *Store) startFlusher() {
	ctx, cancel := context.WithCancel(context.Background())
	s.stop, s.done, s.wake, s.progress = cancel, make(chan struct{}), make(chan struct{}, 1), make(chan struct{})
	go s.runFlusher(ctx)
}

func (s *Store) stopFlusher() {
	s.stop()
	<-s.done
}

func (s *Store) wakeFlusher() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Store) runFlusher(ctx context.Context) {
	defer close(s.done)
	tick := time.NewTicker(min(s.o.HeadAge/4+1, time.Minute))
	defer tick.Stop()
	for {
		var again <-chan time.Time
		if err := s.maintain(ctx); err != nil && ctx.Err() == nil {
			if old := s.lastError(); old == nil || old.Error() != err.Error() {
				level.Error(s.o.Logger).Log("msg", "maintaining storage", "err", err)
			}
			s.attempted(err)
			s.metrics.flushErrors.Inc()
			again = time.After(s.o.retry)
		} else {
			s.attempted(nil)
			s.reshape()
			s.wakeForgetter()
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-again:
		case <-tick.C:
			s.sealOld(ctx)
		}
	}
}

// sealOld ends a head that is older than Options.HeadAge, and lets a broken log look whether it is well again.
func (s *Store) sealOld(ctx context.Context) {
	_ = s.log.Probe() // it says why not in Stats
	s.mu.RLock()
	old := s.active.totals.rows > 0 && s.o.Now().Sub(s.active.opened) >= s.o.HeadAge
	s.mu.RUnlock()
	if old {
		_ = s.group.Submit(ctx, &commit{seal: true}) // logged where it failed, tried again with the next tick
	}
}

// Flush makes blocks of all that is in memory, and returns when that is done or why it could not be done yet.
func (s *Store) Flush(ctx context.Context) error {
	leave, err := s.enterOnly(ctx)
	if err != nil {
		return err
	}
	defer leave()
	next, _ := s.attempt()
	c := &commit{seal: true}
	if err := s.group.Submit(ctx, c); err != nil {
		return err
	}
	if c.sealErr != nil {
		return c.sealErr
	}
	waiting := 0
	if c.sealed {
		waiting = 1
	}
	for {
		s.mu.RLock()
		waiting = max(waiting, len(s.sealed))
		s.mu.RUnlock()
		if waiting == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-next:
		}
		if next, err = s.attempt(); err != nil {
			return err
		}
		waiting = 0
	}
}

// maintain does what there is to do now.
func (s *Store) maintain(ctx context.Context) error {
	for {
		s.mu.RLock()
		var h *head
		if len(s.sealed) > 0 {
			h = s.sealed[0]
		}
		s.mu.RUnlock()
		if h == nil {
			break
		}
		if err := errors.Join(s.flush(ctx, h), s.retain()); err != nil {
			return err
		}
		s.attempted(nil)
	}
	return s.retain()
}

// flush makes a block of the oldest sealed head. It can fail, or the process end, after every step:
//
//  1. dictionary file        more than blocks need so far: harmless
//  2. Parquet file           without an index it is removed when the store is opened; the log has its rows
//  3. verified               else it is written again
//  4. file of recent IDs     those of the log's rows are then twice there, which says the same
//  5. index file             from here on the block stands for its log segments, which are not replayed
//  6. block for head         in one step for readers
//  7. log segments freed     tried again with the next block, or when the store is opened
func (s *Store) flush(ctx context.Context, h *head) error {
	began := s.o.Now()
	if err := s.fileDictionary(); err != nil {
		return err
	}
	m := &meta{segments: h.segments, totals: h.totals, span: h.span}
	b := s.newBlock(m)
	count := &counter{ctx: ctx}
	err := disk.WriteFile(s.o.fs, s.blocksDir(), m.name()+".parquet", func(w io.Writer) error {
		count.w = w
		return h.write(count)
	})
	if err != nil {
		return fmt.Errorf("writing block %s: %w", m.name(), err)
	}
	m.size = count.n
	if err := b.verify(ctx); err != nil {
		return errors.Join(err, b.close())
	}
	filed, err := s.fileRecent(h)
	if err != nil {
		return errors.Join(err, b.close())
	}
	err = disk.WriteFile(s.o.fs, s.blocksDir(), m.name()+".meta", func(w io.Writer) error {
		_, err := w.Write(m.encode())
		return err
	})
	if err != nil {
		return errors.Join(err, b.close())
	}
	s.mu.Lock()
	s.sealed = s.sealed[1:]
	s.setExpiry(b)
	s.blocks = append(s.blocks, b)
	s.filed = filed
	s.mu.Unlock()
	level.Info(s.o.Logger).Log("msg", "wrote a block", "block", m.name(), "rows", m.totals.rows, "samples", m.totals.samples,
		"bytes", m.size, "series", len(m.span.series), "took", s.o.Now().Sub(began))
	s.metrics.flushed(m)
	if s.log != nil { // not while it is replayed
		s.replica.changed()
	}
	var freed error
	if s.log != nil { // not while it is replayed
		freed = s.log.Free(m.segments[1] + 1)
	}
	return errors.Join(freed, h.close())
}

// counter counts bytes, and fails once its context is done.
type counter struct {
	ctx context.Context
	w   io.Writer
	n   int64
}

func (c *counter) Write(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
