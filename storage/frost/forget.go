package frost

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log/level"

	"github.com/perfuse/perfuse/storage/dictionary"
)

// forgetter gives back what of the dictionary no row refers to any more, and makes few files of many. It is one
// goroutine beside the others.
type forgetter struct {
	forgetting sync.Mutex // one at a time
	stopForget context.CancelFunc
	forgetDone chan struct{}
	wakeForget chan struct{}

	// Guarded by the store's lock:
	during  *period   // of the calls that begin now; see settle
	dropped bool      // rows were dropped since the last collection, or it is not known
	rested  time.Time // when the last collection ended, or the store was opened
	forgot  ForgetStats
}

// ForgetStats says how the dictionary was cleared of what no row refers to.
type ForgetStats struct {
	// Entries is how many are forgotten, as far as the files know.
	Entries int64 `json:"entries"`
	// Last is when a collection ended, Seconds how long it took, LastEntries how many entries it forgot, Error why it
	// failed.
	Last        *time.Time `json:"last,omitempty"`
	Seconds     float64    `json:"seconds"`
	LastEntries int        `json:"last_entries"`
	Error       string     `json:"error,omitempty"`
}

// forgetShare is how much longer the store waits for the next collection than the last one took: each reads all
// rows.
const forgetShare = 100

func (s *Store) startForgetter() {
	ctx, cancel := context.WithCancel(context.Background())
	s.stopForget, s.forgetDone, s.wakeForget = cancel, make(chan struct{}), make(chan struct{}, 1)
	go func() {
		defer close(s.forgetDone)
		for {
			s.forget(ctx, s.forgetDue) // it says why not in Stats
			select {
			case <-ctx.Done():
				return
			case <-s.wakeForget:
			}
		}
	}()
}

func (s *Store) stopForgetter() {
	if s.stopForget != nil {
		s.stopForget()
		<-s.forgetDone
	}
}

// wakeForgetter says that there may be something to forget, or files to make one of.
func (s *Store) wakeForgetter() {
	select {
	case s.wakeForget <- struct{}{}:
	default:
	}
}

func (s *Store) forgetDue() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	wait := max(s.o.ForgetEvery, time.Duration(s.forgot.Seconds*forgetShare*float64(time.Second)))
	return s.o.ForgetEvery >= 0 && s.dropped && s.o.Now().Sub(s.rested) >= wait
}

// Forget gives back now what of the dictionary no row refers to, and returns when that is done or why it could not
// be done. It is done without being asked for, too.
func (s *Store) Forget(ctx context.Context) error {
	leave, err := s.enterOnly(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return s.forget(ctx, func() bool { return true })
}

// forget collects if it is due, and writes and removes dictionary files as it is due.
func (s *Store) forget(ctx context.Context, due func() bool) error {
	s.forgetting.Lock()
	defer s.forgetting.Unlock()
	var err error
	tried := due()
	if tried {
		err = s.collect(ctx)
	}
	f := &s.dictFiles
	f.filing.Lock()
	whole, stale := f.owed || f.count.Load() > maxDictionaryFiles, f.stale
	f.filing.Unlock()
	tried = tried || whole || stale
	switch {
	case ctx.Err() != nil:
	case whole:
		err = errors.Join(err, s.fileWhole(ctx))
	case stale:
		f.filing.Lock()
		err = errors.Join(err, s.sweepDictionary())
		f.filing.Unlock()
	}
	if ctx.Err() != nil || !tried {
		return ctx.Err()
	}
	s.mu.Lock()
	old := s.forgot.Error
	s.forgot.Error = ""
	if err != nil {
		s.forgot.Error = err.Error()
	}
	s.mu.Unlock()
	if err != nil {
		s.metrics.forgetErrors.Inc()
		if old != err.Error() {
			level.Error(s.o.Logger).Log("msg", "clearing the dictionary; trying again", "err", err)
		}
	}
	return err
}

// collect forgets what no row refers to. Whoever may have an id that is forgotten is waited for:
//
//  1. from now on Intern keeps what it gives
//  2. writes from before are over             what they were given is in a head
//  3. heads and blocks are read               also those that come meanwhile; what is dropped meanwhile may be missed
//  4. questions from before are over          none reads what was dropped
//  5. what was dropped stays so               on disk, and in object storage: it must not come back without its names
//  6. holes in the dictionary, from here on
//
// A crash between this and the next file of the whole dictionary gives the entries back, and the log has others with
// equal content: see dictionary.Apply.
func (s *Store) collect(ctx context.Context) (err error) {
	began := s.o.Now()
	forgotten := 0
	s.mu.Lock()
	s.dropped = false
	s.mu.Unlock()
	defer func() {
		now := s.o.Now()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.dropped = s.dropped || err != nil
		s.rested = now
		s.forgot.Last, s.forgot.Seconds, s.forgot.LastEntries = &now, now.Sub(began).Seconds(), forgotten
	}()
	if err := s.deletedInBucket(ctx); err != nil {
		return err
	}
	c := s.dict.Collect()
	defer c.End()
	if err := s.settle(ctx); err != nil {
		return err
	}
	if err := s.refer(ctx, c); err != nil {
		return fmt.Errorf("looking for what rows refer to: %w", err)
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	if err := c.Trace(ctx); err != nil {
		return err
	}
	if err := s.droppedForGood(ctx); err != nil {
		return err
	}
	if forgotten, err = c.Sweep(ctx); forgotten > 0 {
		s.dictFiles.filing.Lock()
		s.dictFiles.owed = true
		s.dictFiles.filing.Unlock()
	}
	if err != nil {
		return err
	}
	s.forgetSeries()
	s.metrics.collections.Inc()
	level.Info(s.o.Logger).Log("msg", "cleared the dictionary", "entries_forgotten", forgotten, "stacks", s.dict.Stacks(), "took", s.o.Now().Sub(began))
	return nil
}

// period is a time in which calls began that may have ids.
type period struct {
	calls atomic.Int64  // that are not over, and 1 while others may come
	over  chan struct{} // closed when there are none
}

func newPeriod() *period {
	p := &period{over: make(chan struct{})}
	p.calls.Store(1)
	return p
}

func (p *period) leave() {
	if p.calls.Add(-1) == 0 {
		close(p.over)
	}
}

// settle returns when all calls that have begun before it are over.
func (s *Store) settle(ctx context.Context) error {
	s.mu.Lock()
	before := s.during
	s.during = newPeriod()
	s.mu.Unlock()
	before.leave()
	select {
	case <-before.over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// refer tells a collection what the rows of all heads and blocks refer to, one after another.
func (s *Store) refer(ctx context.Context, c *dictionary.Collection) error {
	var decoded samplesOf
	read := func(cols *recordColumns) error {
		for i := range cols.n {
			r := cols.row(i)
			if err := decoded.decode(r.payload, r.time); err != nil {
				return err
			}
			c.Series(r.series)
			c.Text(r.service)
			for _, id := range decoded.stacks {
				c.Stack(id)
			}
			for i := range decoded.table {
				c.Text(decoded.table[i].name)
			}
		}
		return nil
	}
	s.mu.RLock()
	heads := append(s.sealed[:len(s.sealed):len(s.sealed)], s.active)
	for _, h := range heads {
		h.readers.Add(1)
	}
	s.mu.RUnlock()
	var err error
	for _, h := range heads {
		if err == nil {
			err = h.scan(ctx, everything, readAll, read)
		}
		h.readers.Done()
	}
	seen := map[*block]bool{}
	for err == nil {
		b := s.unseen(seen)
		if b == nil {
			return nil
		}
		seen[b] = true
		// One of its own: what is known of an open file does not stay in memory.
		own := &block{meta: b.meta, open: b.open}
		err = errors.Join(scanBlocks(ctx, []*block{own}, everything, nil, read), own.close())
		b.readers.Done()
	}
	return err
}

// unseen returns a block that is not among those seen, or nil. The caller must let go of it as a reader.
func (s *Store) unseen(seen map[*block]bool) *block {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, b := range s.blocks {
		if !seen[b] {
			b.readers.Add(1)
			return b
		}
	}
	return nil
}

// droppedForGood returns when no block or log segment that is gone can be there again after a crash, or in object
// storage.
func (s *Store) droppedForGood(ctx context.Context) error {
	for {
		if err := s.deletedInBucket(ctx); err != nil {
			return err
		}
		if ok, err := s.dropsAreDurable(); ok || err != nil {
			return err
		}
	}
}

// deletedInBucket returns when object storage has deleted what it is to delete now.
func (s *Store) deletedInBucket(ctx context.Context) error {
	r := s.replica
	for r != nil {
		if r.unasked {
			return fmt.Errorf("bucket %s did not answer when the storage was opened, and may have blocks that are not known until it is opened again", r.bucket.Name())
		}
		next := r.attempted()
		r.mu.Lock()
		n, err := len(r.dropped), r.err
		r.mu.Unlock()
		if n == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("bucket %s still has blocks that were dropped: %w", r.bucket.Name(), err)
		}
		r.changed()
		select {
		case <-next:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// dropsAreDurable syncs the directories in which things were dropped. It says no if object storage has something
// to delete again.
func (s *Store) dropsAreDurable() (bool, error) {
	// With the two there is no block that is neither among the store's nor among those to be deleted.
	s.compacting.Lock()
	defer s.compacting.Unlock()
	s.shape.Lock()
	defer s.shape.Unlock()
	if r := s.replica; r != nil {
		r.mu.Lock()
		n := len(r.dropped)
		r.mu.Unlock()
		if n > 0 {
			return false, nil
		}
	}
	return true, errors.Join(s.o.fs.SyncDir(s.blocksDir()), s.o.fs.SyncDir(filepath.Join(s.o.Dir, "log")))
}

// forgetSeries makes an index of the series that the dictionary still has. It has no bytes in common with what was
// forgotten.
func (s *Store) forgetSeries() {
	var ids []dictionary.SeriesID
	s.mu.RLock()
	for id := range s.index.byID {
		if s.index.has(dictionary.SeriesID(id)) {
			ids = append(ids, dictionary.SeriesID(id))
		}
	}
	s.mu.RUnlock()
	fresh := newSeriesIndex()
	for _, id := range ids {
		fresh.add(id, s.dict)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.index.byID { // those that came meanwhile
		if s.index.has(dictionary.SeriesID(id)) {
			fresh.add(dictionary.SeriesID(id), s.dict)
		}
	}
	s.index = fresh
}
