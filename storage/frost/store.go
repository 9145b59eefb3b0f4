package frost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"

	"github.com/go-kit/log/level"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/dictionary"
	"github.com/perfuse/perfuse/storage/wal"
)

// Store is a storage.Store on one machine. Use New.
type Store struct {
	o       Options
	lock    io.Closer
	dict    *dictionary.Dictionary
	log     *wal.Log
	group   *wal.Group[*commit]
	metrics *metrics
	// logged says how far the dictionary is in the log or in files. Only commits use it, and the packer.
	logged   dictionary.Marks
	packer   packer
	encoders sync.Pool

	// mu guards what is visible. Readers take it to note what they read, not while they read.
	mu       sync.RWMutex
	closed   bool
	calls    sync.WaitGroup
	index    *seriesIndex
	active   *head
	sealed   []*head // oldest first, waiting to become blocks
	blocks   []*block
	failed   error // the head could not take what the log has: only opening again helps
	filed    recent
	replayed wal.Replayed

	flusher
	compactor
	forgetter
	dictFiles dictionaryFiles
	replica   *replica // nil without a bucket
}

var _ storage.Store = (*Store)(nil)

// commit is what one caller brings to a group commit: rows, or the wish to seal the head.
type commit struct {
	rows []row
	size int64
	seal bool
	// sealed says that the head was sealed, sealErr why it could not be; the rows are fine then.
	sealed  bool
	sealErr error
}

const (
	// commitBytes bounds one log record of several writes.
	commitBytes = 16 << 20
	// maxSealed is how many full heads may wait to be written before writes are refused.
	maxSealed = 3
)

// New opens the store in o.Dir, or makes it. It returns when everything that was ever acknowledged can be
// asked for.
func New(o Options) (_ *Store, err error) {
	o.setDefaults()
	s := &Store{o: o, dict: dictionary.New(), index: newSeriesIndex()}
	s.during, s.dropped, s.rested = newPeriod(), true, o.Now()
	s.metrics = newMetrics(s)
	s.encoders.New = func() any { return &rowEncoder{} }
	defer func() {
		if err != nil {
			err = errors.Join(err, s.release())
		}
	}()
	if s.lock, err = s.takeLock(); err != nil {
		return nil, err
	}
	if err := s.openFlusher(); err != nil {
		return nil, err
	}
	if err := s.openLog(); err != nil {
		return nil, err
	}
	if err := s.metrics.register(o.Registerer); err != nil {
		return nil, err
	}
	s.group = wal.NewGroup(commitBytes, func(c *commit) int64 { return c.size }, s.commit)
	s.startReplica()
	s.startCompactor()
	s.startForgetter()
	s.startFlusher()
	return s, nil
}

// openLog replays what is in no block yet.
func (s *Store) openLog() (err error) {
	from := uint64(1)
	for _, b := range s.blocks {
		from = max(from, b.segments[1]+1)
	}
	if s.active, err = openHead(&s.o, from); err != nil {
		return err
	}
	r := replayer{s: s, segment: from}
	s.log, s.replayed, err = wal.Open(wal.Options{
		FS: s.o.fs, Dir: filepath.Join(s.o.Dir, "log"), From: from, SegmentBytes: s.o.SegmentBytes, RetryEvery: s.o.retry, Now: s.o.Now,
	}, r.record)
	if err == nil {
		err = r.insert()
	}
	if err != nil {
		return fmt.Errorf("opening storage: %w", err)
	}
	s.logged = s.dict.Marks()
	for _, l := range s.replayed.Losses {
		level.Warn(s.o.Logger).Log("msg", "the log was damaged; what follows in this segment is not used", "segment", l.Segment, "offset", l.Offset, "bytes", l.Bytes, "cut", l.Cut, "err", l.Err)
	}
	if r.bad > 0 {
		level.Error(s.o.Logger).Log("msg", "records of the log cannot be used", "records", r.bad, "err", r.err)
	}
	level.Info(s.o.Logger).Log("msg", "storage is open", "dir", s.o.Dir, "blocks", len(s.blocks), "series", s.index.count,
		"replayed_segments", s.replayed.Segments, "replayed_rows", r.rows, "stacks", s.dict.Stacks())
	return nil
}

// replayer fills heads from the log. It holds at most replayBytes of rows beside them.
type replayer struct {
	s       *Store
	segment uint64
	waiting []row
	size    int64
	decoded samplesOf
	packer  packer
	rows    int64
	bad     int64
	err     error
}

const replayBytes = 4 << 20

// record takes one log record. One that makes no sense is counted and left out: it passed its checksum, so
// either it refers to a part of the log that was lost or a bug wrote it, and the rest is still worth having.
func (r *replayer) record(segment uint64, payload []byte) error {
	if segment != r.segment {
		if err := r.next(segment); err != nil {
			return err
		}
	}
	rows, err := r.parse(payload)
	if err != nil {
		r.bad++
		r.err = fmt.Errorf("segment %d: %w", segment, err)
		return nil
	}
	for i := range rows {
		rows[i].payload = append([]byte(nil), rows[i].payload...)
		r.size += rows[i].bytes()
	}
	r.rows += int64(len(rows))
	r.waiting = append(r.waiting, rows...)
	if r.size >= replayBytes {
		return r.insert()
	}
	return nil
}

func (r *replayer) parse(payload []byte) (_ []row, err error) {
	if payload, err = r.packer.unpack(payload); err != nil {
		return nil, err
	}
	if len(payload) == 0 || payload[0] != kindRows && payload[0] != kindRowsAndID {
		return nil, fmt.Errorf("%w: a record of an unknown kind; a later version wrote it", errCorruptRow)
	}
	rest, err := r.s.dict.Apply(payload[1:])
	if err != nil {
		return nil, err
	}
	rows, err := parseRows(rest, payload[0])
	if err != nil {
		return nil, err
	}
	stacks := r.s.dict.StackCount()
	for i := range rows {
		if err := rows[i].check(&r.decoded, stacks); err != nil {
			return nil, err
		}
		if !r.s.index.add(rows[i].series, r.s.dict) {
			return nil, fmt.Errorf("%w: series %d is not known", errCorruptRow, rows[i].series)
		}
	}
	return rows, nil
}

func (r *replayer) insert() error {
	if len(r.waiting) > 0 {
		if err := r.s.insert(r.waiting); err != nil {
			return err
		}
	}
	clear(r.waiting)
	r.waiting, r.size = r.waiting[:0], 0
	return nil
}

// next begins another segment. A head that is full becomes a block now, so that a long log does not have to
// fit into memory; if it cannot, it stays in memory.
func (r *replayer) next(segment uint64) error {
	if err := r.insert(); err != nil {
		return err
	}
	s := r.s
	if s.active.totals.bytes >= s.o.HeadBytes {
		h := s.active
		h.segments[1] = r.segment
		next, err := openHead(&s.o, segment)
		if err != nil {
			return err
		}
		s.active, s.sealed = next, append(s.sealed, h)
		for len(s.sealed) > 0 {
			if err := s.flush(context.Background(), s.sealed[0]); err != nil {
				level.Error(s.o.Logger).Log("msg", "writing a block while replaying the log", "err", err)
				break
			}
		}
	}
	r.segment = segment
	return nil
}

// insert makes rows visible, and keeps them. It is called by one goroutine at a time.
func (s *Store) insert(rows []row) error {
	if err := s.show(rows); err != nil {
		return err
	}
	if err := s.active.spill(false); err != nil {
		// The rows stay where they are, durable and visible; only more must not come.
		s.mu.Lock()
		s.failed = fmt.Errorf("open the storage again: %w", err)
		s.mu.Unlock()
		level.Error(s.o.Logger).Log("msg", "FrostDB takes no more rows", "err", err)
	}
	return nil
}

func (s *Store) show(rows []row) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active.insert(rows)
	s.active.recent.add(rows)
	var decoded samplesOf
	for i := range rows {
		r := &rows[i]
		s.index.add(r.series, s.dict)
		decoded.times = decoded.times[:0]
		if bucketOf(r.first) != bucketOf(r.last) {
			if err := decoded.decode(r.payload, r.time); err != nil {
				return err
			}
		}
		s.active.span.add(r, &decoded)
		s.active.totals.add(r)
	}
	return nil
}

// enter begins a call; the caller calls the function it gets when it is over, and has no ids then.
func (s *Store) enter(ctx context.Context) (func(), error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, storage.ErrClosed
	}
	during := s.during
	during.calls.Add(1)
	s.calls.Add(1)
	return func() {
		during.leave()
		s.calls.Done()
	}, nil
}

// enterOnly is enter for a call that works on the store as a whole, and may wait for what waits for calls.
func (s *Store) enterOnly(ctx context.Context) (func(), error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, storage.ErrClosed
	}
	s.calls.Add(1)
	return s.calls.Done, nil
}

// Write implements storage.Store.
func (s *Store) Write(ctx context.Context, b *profile.Batch) (err error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	defer s.metrics.write(s.o.Now(), &err)
	if err := storage.Validate(b); err != nil {
		return err
	}
	in, err := s.dict.Intern(b, func(_ int, sample *profile.Sample) bool { return sample.Value != 0 })
	if err != nil {
		return err
	}
	c := &commit{}
	e := s.encoders.Get().(*rowEncoder)
	for i := range b.Profiles {
		c.rows = e.rows(c.rows, b, i, &in)
	}
	s.encoders.Put(e)
	if len(c.rows) == 0 {
		return nil
	}
	for i := range c.rows {
		c.size += c.rows[i].bytes()
	}
	return s.group.Submit(ctx, c)
}

// commit makes the rows of several writes durable and visible.
func (s *Store) commit(group []*commit) error {
	failed := s.waitForRoom()
	var rows []row
	sealNow := false
	for _, c := range group {
		rows = append(rows, c.rows...)
		sealNow = sealNow || c.seal
	}
	if len(rows) > 0 {
		if failed != nil {
			return advise(fmt.Errorf("%w: %w", storage.ErrReadOnly, failed))
		}
		// What the rows refer to was added to the dictionary before they were submitted, so it is before now.
		now := s.dict.Marks()
		kind := kindOf(rows)
		record := s.dict.AppendDelta([]byte{kind}, s.logged, now)
		record = s.packer.pack(appendRows(record, kind, rows))
		segment, err := s.log.Append(record)
		if err != nil {
			return advise(err)
		}
		s.logged = now
		if err := s.insert(rows); err != nil {
			s.mu.Lock()
			s.failed = fmt.Errorf("what segment %d has cannot be shown until the store is opened again: %w", segment, err)
			s.mu.Unlock()
			return s.failed
		}
		s.metrics.committed(rows, len(record))
	}
	if s.active.totals.bytes >= s.o.HeadBytes || sealNow && s.active.totals.rows > 0 {
		err := s.seal()
		if err != nil {
			level.Error(s.o.Logger).Log("msg", "ending the head", "err", err)
		}
		for _, c := range group {
			c.sealed, c.sealErr = err == nil, err
		}
	}
	return nil
}

// advise says what can be done about a write that was refused.
func advise(err error) error {
	if reasonOf(err) == ReasonDiskFull {
		return fmt.Errorf("%w (make room on the disk of the storage path, or keep less by storage.retention or storage.max_bytes; it goes on by itself)", err)
	}
	return err
}

// waitForRoom returns when there is memory for more rows, or why there will be none for now: writers wait for
// a flusher that is slower than they are, but not for one that fails.
func (s *Store) waitForRoom() error {
	for {
		next, err := s.attempt()
		s.mu.RLock()
		failed, waiting := s.failed, len(s.sealed)
		s.mu.RUnlock()
		if failed != nil || waiting < maxSealed {
			return failed
		}
		if err != nil {
			return fmt.Errorf("blocks cannot be written: %w", err)
		}
		<-next
	}
}

// seal begins a new head. The old one goes to the flusher. If it cannot be done now it is tried after the next
// commit.
func (s *Store) seal() error {
	last, err := s.log.Cut()
	if err != nil {
		return err
	}
	next, err := openHead(&s.o, last+1)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.active.segments[1] = last
	s.sealed = append(s.sealed, s.active)
	s.active = next
	s.mu.Unlock()
	s.wakeFlusher()
	return nil
}

// Close implements storage.Store. It does not write the head as a block: the log has it.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.calls.Wait()
	s.group.Close()
	s.stopFlusher()
	s.stopCompactor()
	s.stopForgetter()
	s.stopReplica()
	return s.release()
}

// release frees everything that is open.
func (s *Store) release() error {
	var errs []error
	if s.log != nil {
		errs = append(errs, s.log.Close())
	}
	for _, h := range append(s.sealed, s.active) {
		if h != nil {
			errs = append(errs, h.close())
		}
	}
	for _, b := range s.blocks {
		errs = append(errs, b.close())
	}
	if s.metrics != nil {
		s.metrics.unregister()
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}
