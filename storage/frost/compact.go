package frost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/go-kit/log/level"

	"github.com/perfuse/perfuse/storage/dictionary"
	"github.com/perfuse/perfuse/storage/disk"
)

// compactor makes few large blocks of many small ones, and rewrites blocks of which some series have outlived
// their rule. It is one goroutine beside the flusher.
type compactor struct {
	compacting  sync.Mutex // one at a time; guards block.asideUntil
	stopCompact context.CancelFunc
	compactDone chan struct{}
	wakeCompact chan struct{}
	compactErr  error // of the last attempt; guarded by the store's lock

	// shape is held by who takes blocks away: the compactor for the moment in which one block takes the place
	// of several, and retention.
	shape sync.Mutex
	// stale are files of blocks that another stands for. No block is dropped while there are any, else they
	// would come back with the next opening.
	stale []string
}

const (
	// compactInputs is how many blocks become one at most: each needs a row group in memory.
	compactInputs = 16
	// setAside is how long a block that cannot be read is left alone.
	setAside = time.Hour
)

func (s *Store) startCompactor() {
	if s.o.CompactBytes < 0 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stopCompact, s.compactDone, s.wakeCompact = cancel, make(chan struct{}), make(chan struct{}, 1)
	go s.runCompactor(ctx)
}

func (s *Store) stopCompactor() {
	if s.stopCompact != nil {
		s.stopCompact()
		<-s.compactDone
	}
}

// reshape says that there may be blocks to compact.
func (s *Store) reshape() {
	select {
	case s.wakeCompact <- struct{}{}:
	default:
	}
}

func (s *Store) runCompactor(ctx context.Context) {
	defer close(s.compactDone)
	pause := s.o.retry
	for {
		var again <-chan time.Time
		if err := s.compact(ctx); err != nil && ctx.Err() == nil {
			again = time.After(pause)
			pause = min(2*pause, time.Minute)
		} else {
			pause = s.o.retry
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wakeCompact:
		case <-again:
		}
	}
}

// Compact makes of the blocks what is due now, and returns when that is done or why it could not be done. It is
// done without being asked for, too.
func (s *Store) Compact(ctx context.Context) error {
	leave, err := s.enterOnly(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return s.compact(ctx)
}

func (s *Store) compact(ctx context.Context) error {
	s.compacting.Lock()
	defer s.compacting.Unlock()
	var err error
	for err == nil && ctx.Err() == nil {
		inputs := s.plan()
		if len(inputs) == 0 {
			break
		}
		err = s.rewrite(ctx, inputs)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.mu.Lock()
	old := s.compactErr
	s.compactErr = err
	s.mu.Unlock()
	if err != nil {
		s.metrics.compactErrors.Inc()
		if old == nil || old.Error() != err.Error() {
			level.Error(s.o.Logger).Log("msg", "compacting blocks; trying again", "err", err)
		}
	}
	return err
}

// plan returns neighbours that are to become one block, or one block that is to be rewritten, or nothing. It holds
// them: they are not dropped until rewrite lets them go.
//
// Neighbours whose last samples lie in the same Options.CompactSpan, counted from the Unix epoch, are a group as
// far as they fit into CompactBytes. When a later block is outside of it, nothing more comes to it and it
// becomes one block. Before that its latest blocks become one when they are compactRun or more and the largest
// is at most five eighths of them: so a row is rewritten a logarithm of times, not with each block.
func (s *Store) plan() []*block {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.o.Now()
	usable := func(b *block) bool { return !now.Before(b.asideUntil) }
	window := func(b *block) int64 { return b.span.last / int64(s.o.CompactSpan) }
	blocks := s.blocks
	for i := 0; i < len(blocks); {
		j, size := i, int64(0)
		for j < len(blocks) && usable(blocks[j]) && window(blocks[j]) == window(blocks[i]) && size+blocks[j].size <= s.o.CompactBytes {
			size += blocks[j].size
			j++
		}
		if run := s.run(blocks[i:j], j < len(blocks)); run != nil {
			return hold(run)
		}
		i = max(j, i+1)
	}
	for i, b := range blocks {
		if b.rewriteAt <= now.UnixNano() && usable(b) {
			return hold(blocks[i : i+1])
		}
	}
	return nil
}

// hold keeps blocks from being dropped while they are compacted.
func hold(blocks []*block) []*block {
	for _, b := range blocks {
		b.held = true
	}
	return slices.Clone(blocks)
}

func (s *Store) letGo(blocks []*block) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range blocks {
		b.held = false
	}
}

// run returns what of a group is to become one block.
func (s *Store) run(group []*block, closed bool) []*block {
	if closed && len(group) > 1 {
		return group[:min(len(group), compactInputs)]
	}
	for ; len(group) >= s.o.compactRun; group = group[1:] {
		largest, size := int64(0), int64(0)
		for _, b := range group {
			largest, size = max(largest, b.size), size+b.size
		}
		if largest <= size/8*5+1 {
			return group[:min(len(group), compactInputs)]
		}
	}
	return nil
}

// errNothingLeft: every row has outlived its rule.
var errNothingLeft = errors.New("no row is left")

// rewrite makes one block of some. It can fail, or the process end, after every step:
//
//  1. Parquet file         without an index it is removed when the store is opened
//  2. verified             each input gave all its rows, and the file has all but those that are too old
//  3. index file           from here on the block stands for the inputs: see standing
//  4. block for inputs     in one step for readers
//  5. inputs removed       indices first; tried again before any block is dropped, or when the store is opened
func (s *Store) rewrite(ctx context.Context, inputs []*block) error {
	defer s.letGo(inputs)
	// What an earlier attempt left may have the name of what comes now.
	if err := s.sweepNow(); err != nil {
		return err
	}
	began := s.o.Now()
	first, last := inputs[0], inputs[len(inputs)-1]
	m := &meta{segments: [2]uint64{first.segments[0], last.segments[1]}, span: newSpan()}
	size := int64(0)
	for _, b := range inputs {
		m.generation = max(m.generation, b.generation+1)
		size += b.size
	}
	if free, ok := disk.Free(s.o.fs, s.o.Dir); ok && free < size+s.o.HeadBytes {
		return fmt.Errorf("compacting %d blocks needs %d bytes beside them, and %d for writes, but %d are free: make room, or lower the retention", len(inputs), size, s.o.HeadBytes, free)
	}
	count := &counter{ctx: ctx}
	var dropped totals
	err := disk.WriteFile(s.o.fs, s.blocksDir(), m.name()+".parquet", func(w io.Writer) (err error) {
		count.w = w
		dropped, err = s.rewriteRows(ctx, count, inputs, m)
		return err
	})
	if errors.Is(err, errNothingLeft) {
		for _, b := range inputs { // soon they are dropped
			b.asideUntil = began.Add(setAside)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("compacting blocks %s to %s: %w", first.name(), last.name(), err)
	}
	m.size = count.n
	b := s.newBlock(m)
	if err := b.verify(ctx); err != nil {
		return errors.Join(err, b.close(), s.o.fs.Remove(s.blockFile(b, ".parquet")))
	}
	if err := s.replace(inputs, b); err != nil {
		return errors.Join(err, b.close())
	}
	level.Info(s.o.Logger).Log("msg", "compacted blocks", "block", m.name(), "of", len(inputs), "rows", m.totals.rows, "rows_expired", dropped.rows,
		"bytes", m.size, "before", size, "took", s.o.Now().Sub(began))
	s.metrics.compacted(m, size, dropped)
	err = s.remove(inputs)
	if dropped.rows > 0 {
		s.mu.Lock()
		s.dropped = true
		s.mu.Unlock()
	}
	return err
}

// replace makes b stand for the inputs, on disk and for readers.
func (s *Store) replace(inputs []*block, b *block) error {
	s.shape.Lock()
	defer s.shape.Unlock()
	if err := s.writeFile(s.blocksDir(), b.name()+".meta", b.encode()); err != nil {
		// The new index may be there or not. The inputs are still what is asked, so it goes before any of them.
		s.stale = append(s.stale, s.blockFile(b, ".meta"), s.blockFile(b, ".parquet"))
		return err
	}
	s.mu.Lock()
	s.setExpiry(b)
	at := slices.Index(s.blocks, inputs[0]) // they are held, so they still lie together
	s.blocks = slices.Concat(s.blocks[:at], []*block{b}, s.blocks[at+len(inputs):])
	s.mu.Unlock()
	for _, in := range inputs {
		s.stale = append(s.stale, s.blockFile(in, ".meta"))
	}
	return nil
}

// remove takes away the files and objects of blocks that nobody asks any more, once those who still read them
// are done.
func (s *Store) remove(blocks []*block) error {
	err := s.sweepNow()
	var files, objects []string
	for _, b := range blocks {
		err = errors.Join(err, b.close())
		objects = append(objects, objectsOf(b)...)
		if !b.remote {
			files = append(files, s.blockFile(b, ".parquet"))
		}
	}
	s.replica.changed(objects...)
	s.shape.Lock()
	defer s.shape.Unlock()
	s.stale = append(s.stale, files...)
	return errors.Join(err, s.sweep())
}

func (s *Store) sweepNow() error {
	s.shape.Lock()
	defer s.shape.Unlock()
	return s.sweep()
}

// sweep removes stale files, and only when no index is left any rows. What could not be removed is tried again
// next time. s.shape is held.
func (s *Store) sweep() error {
	for _, ext := range []string{".meta", ".parquet"} {
		swept := 0
		for _, name := range s.stale {
			if filepath.Ext(name) != ext {
				continue
			}
			if err := s.o.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("removing what was compacted: %w", err)
			}
			swept++
		}
		if swept == 0 {
			continue
		}
		if err := s.o.fs.SyncDir(s.blocksDir()); err != nil {
			return fmt.Errorf("removing what was compacted: %w", err)
		}
	}
	s.stale = nil
	return nil
}

// standing returns the blocks that count, and those that others stand for: a crash, or object storage, has
// kept them. A block stands for those of an earlier generation whose log segments it has.
func standing(blocks []*block) (stay, gone []*block) {
	for _, b := range blocks {
		if slices.ContainsFunc(blocks, func(o *block) bool {
			return o.generation > b.generation && o.segments[0] <= b.segments[0] && o.segments[1] >= b.segments[1]
		}) {
			gone = append(gone, b)
		} else {
			stay = append(stay, b)
		}
	}
	return stay, gone
}

// rewriteRows writes the rows of all inputs, in order, but for those that have outlived their rule, and notes
// them in m. It returns what it left out.
func (s *Store) rewriteRows(ctx context.Context, w io.Writer, inputs []*block, m *meta) (dropped totals, err error) {
	cursors := make([]*cursor, 0, len(inputs))
	for _, b := range inputs {
		c := &cursor{block: b}
		if c.groups, err = b.rowGroups(); err == nil {
			err = c.fill()
		}
		if err != nil {
			b.asideUntil = s.o.Now().Add(setAside)
			return dropped, err
		}
		cursors = append(cursors, c)
	}
	now := s.o.Now().UnixNano()
	ages := map[dictionary.SeriesID]time.Duration{}
	out := newBlockWriter(w)
	var decoded samplesOf
	for n := 0; ; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return dropped, ctx.Err()
		}
		var next *cursor
		for _, c := range cursors {
			if c.at < len(c.rows) && (next == nil || compareRows(&c.rows[c.at], &next.rows[next.at]) < 0) {
				next = c
			}
		}
		if next == nil {
			break
		}
		r := &next.rows[next.at]
		age, ok := ages[r.series]
		if !ok {
			s.mu.RLock()
			age = s.ageOf(r.series)
			s.mu.RUnlock()
			ages[r.series] = age
		}
		if after(r.last, age) <= now {
			dropped.add(r)
		} else {
			decoded.times = decoded.times[:0]
			if bucketOf(r.first) != bucketOf(r.last) {
				err = decoded.decode(r.payload, r.time)
			}
			if err == nil {
				m.span.add(r, &decoded)
				m.totals.add(r)
				err = out.write(r)
			}
		}
		if next.at++; err == nil && next.at == len(next.rows) {
			err = next.fill()
		}
		if errors.Is(err, errCorruptFile) || errors.Is(err, errCorruptRow) {
			next.block.asideUntil = s.o.Now().Add(setAside)
		}
		if err != nil {
			return dropped, err
		}
	}
	if m.totals.rows == 0 {
		return dropped, errNothingLeft
	}
	return dropped, out.close()
}
