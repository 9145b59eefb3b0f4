package frost

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"time"

	"github.com/go-kit/log/level"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage/dictionary"
)

// Rule says how long the rows of some series are kept.
type Rule struct {
	Selector profile.Selector
	// Age is by the samples' own time; 0 or negative: for ever.
	Age time.Duration
}

// ageOf is how long rows of a series are kept: by the first rule that matches it, else by Options.Retention.
// Negative: for ever. The store's lock is held.
func (s *Store) ageOf(id dictionary.SeriesID) time.Duration {
	age := s.o.Retention
	if s.index.has(id) {
		if i := slices.IndexFunc(s.o.Rules, func(r Rule) bool { return r.Selector.Match(s.index.byID[id].labels) }); i >= 0 {
			age = s.o.Rules[i].Age
		}
	}
	if age <= 0 {
		return -1
	}
	return age
}

// never is a moment that does not come.
const never = math.MaxInt64

// after returns the first moment at which what was last at a time is older than an age.
func after(last int64, age time.Duration) int64 {
	if age < 0 || last > never-1-int64(age) {
		return never
	}
	return last + int64(age) + 1
}

// setExpiry finds out when a block has outlived its rules: dropAt is when that is true of all its series,
// rewriteAt when of all series of the first age, so that a block is rewritten once for each age at most. The
// store's lock is held.
func (s *Store) setExpiry(b *block) {
	if len(s.o.Rules) == 0 {
		b.dropAt, b.rewriteAt = after(b.span.last, max(s.o.Retention, -1)), never
		return
	}
	ends := map[time.Duration]int64{}
	for id, rs := range b.span.series {
		last := b.span.last
		if n := len(*rs); n > 0 {
			last = min(last, endOf((*rs)[n-1].to))
		}
		age := s.ageOf(id)
		ends[age] = max(ends[age], last)
	}
	b.dropAt, b.rewriteAt = 0, never
	for age, last := range ends {
		b.dropAt = max(b.dropAt, after(last, age))
		b.rewriteAt = min(b.rewriteAt, after(last, age))
	}
	if b.rewriteAt == b.dropAt {
		b.rewriteAt = never
	}
}

// retain drops blocks that are too old or too many. A block is only dropped once its log segments are freed,
// else they would be replayed.
func (s *Store) retain() error {
	s.shape.Lock()
	defer s.shape.Unlock()
	if err := s.sweep(); err != nil {
		return err
	}
	if err := s.log.Free(s.freeBefore()); err != nil {
		return err
	}
	for {
		b, why := s.expired()
		if b == nil {
			return nil
		}
		// The index goes first: without it the block does not exist, and what is left is removed with the next
		// opening.
		if err := s.o.fs.Remove(s.blockFile(b, ".meta")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("dropping block %s: %w", b.name(), err)
		}
		s.mu.Lock()
		s.blocks = slices.DeleteFunc(slices.Clone(s.blocks), func(x *block) bool { return x == b })
		s.dropped = true
		s.mu.Unlock()
		level.Info(s.o.Logger).Log("msg", "dropped a block", "block", b.name(), "why", why, "bytes", b.size)
		s.metrics.expired.WithLabelValues(why).Add(float64(b.totals.rows))
		err := errors.Join(b.close(), s.o.fs.SyncDir(s.blocksDir()))
		s.replica.changed(objectsOf(b)...)
		if !b.remote {
			err = errors.Join(err, s.o.fs.Remove(s.blockFile(b, ".parquet")))
		}
		if err != nil {
			return fmt.Errorf("dropping block %s: %w", b.name(), err)
		}
	}
}

func (s *Store) blockFile(b *block, ext string) string {
	return filepath.Join(s.blocksDir(), b.name()+ext)
}

// objectsOf names a block's objects in the order in which they are to be deleted.
func objectsOf(b *block) []string {
	return []string{"blocks/" + b.name() + ".meta", "blocks/" + b.name() + ".parquet"}
}

func (s *Store) freeBefore() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.sealed) > 0 {
		return s.sealed[0].segments[0]
	}
	return s.active.segments[0]
}

// expired returns a block that is to be dropped, and why. One that is being compacted has to wait.
func (s *Store) expired() (*block, string) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	now := s.o.Now().UnixNano()
	var oldest *block
	size := int64(0)
	for _, b := range s.blocks {
		if b.dropAt <= now && !b.held {
			return b, "age"
		}
		size += b.size
		if oldest == nil || b.span.last < oldest.span.last {
			oldest = b
		}
	}
	if oldest != nil && !oldest.held && s.o.RetentionBytes > 0 && size > s.o.RetentionBytes {
		return oldest, "size"
	}
	return nil, ""
}
