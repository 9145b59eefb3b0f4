package frost

import (
	"errors"
	"io"
	"syscall"
	"time"

	"github.com/perfuse/perfuse/storage/dictionary"
	"github.com/perfuse/perfuse/storage/disk"
)

// Stats is the state of a store, for people.
type Stats struct {
	// ReadOnly is why writes are refused, empty if they are not, and ReadOnlyReason which kind of reason it is.
	ReadOnly       string         `json:"read_only,omitempty"`
	ReadOnlyReason ReadOnlyReason `json:"read_only_reason,omitempty"`
	// LastError is what maintenance failed with, empty if it did not.
	LastError string `json:"last_error,omitempty"`

	Series      int   `json:"series"`
	Stacks      int64 `json:"stacks"`
	Rows        int64 `json:"rows"`
	Samples     int64 `json:"samples"`
	BlockBytes  int64 `json:"block_bytes"`
	LogSegments int   `json:"log_segments"`
	LogBytes    int64 `json:"log_bytes"`
	// Head is what is in memory, HeadsWaiting how many of it are complete and become blocks.
	Head         HeadStats         `json:"head"`
	HeadsWaiting int               `json:"heads_waiting"`
	Blocks       []BlockStats      `json:"blocks"`
	Dictionary   []dictionary.Size `json:"dictionary"`
	// DictionaryHoles are entries that were lost with a part of the log, DictionaryFiles the files that there are.
	DictionaryHoles int         `json:"dictionary_holes"`
	DictionaryFiles int         `json:"dictionary_files"`
	Forgetting      ForgetStats `json:"forgetting"`
	// UploadsPending is how many blocks object storage does not have yet and how many objects it still has that
	// were dropped, UploadBytes the size of the blocks, UploadsSince since when there are any, UploadError why.
	UploadsPending int        `json:"uploads_pending"`
	UploadBytes    int64      `json:"upload_bytes"`
	UploadsSince   *time.Time `json:"uploads_since,omitempty"`
	UploadError    string     `json:"upload_error,omitempty"`
	// CompactionError is why the last attempt to compact blocks failed.
	CompactionError string `json:"compaction_error,omitempty"`
	// Losses are damaged places that opening the log found.
	Losses []string `json:"losses,omitempty"`
}

// HeadStats is what is in memory and in the log, not in a block.
type HeadStats struct {
	Rows    int64 `json:"rows"`
	Samples int64 `json:"samples"`
	Bytes   int64 `json:"bytes"`
	Series  int   `json:"series"`
}

// ReadOnlyReason is a kind of reasons for refusing writes.
type ReadOnlyReason string

// The reasons.
const (
	ReasonDiskFull ReadOnlyReason = "disk_full" // it goes on by itself when there is room
	ReasonIOError  ReadOnlyReason = "io_error"  // it goes on by itself when the disk works
	ReasonBroken   ReadOnlyReason = "broken"    // the store must be opened again
)

func reasonOf(err error) ReadOnlyReason {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return ReasonDiskFull
	}
	return ReasonIOError
}

// BlockStats is one block. Generation is 0 for one made of a head, else the block was made of others. Remote
// blocks lie in object storage only.
type BlockStats struct {
	Name       string `json:"name"`
	Generation uint32 `json:"generation"`
	Remote     bool   `json:"remote,omitempty"`

	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	Rows    int64     `json:"rows"`
	Samples int64     `json:"samples"`
	Bytes   int64     `json:"bytes"`
	Series  int       `json:"series"`
}

// Stats returns the state of the store.
func (s *Store) Stats() Stats {
	var st Stats
	st.Dictionary, st.DictionaryHoles = s.dict.Sizes(), s.dict.Holes()
	st.Stacks = int64(s.dict.Stacks())
	st.DictionaryFiles = int(s.dictFiles.count.Load())
	lastErr := s.lastError()
	if lastErr != nil {
		st.LastError = lastErr.Error()
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.log != nil {
		l := s.log.Stats()
		st.LogSegments, st.LogBytes = l.Segments, l.Bytes
		if l.Err != nil {
			st.ReadOnly, st.ReadOnlyReason = l.Err.Error(), reasonOf(l.Err)
		}
	}
	switch {
	case s.failed != nil:
		st.ReadOnly, st.ReadOnlyReason = s.failed.Error(), ReasonBroken
	case len(s.sealed) >= maxSealed && lastErr != nil:
		st.ReadOnly, st.ReadOnlyReason = "blocks cannot be written: "+st.LastError, reasonOf(lastErr)
	}
	if s.compactErr != nil {
		st.CompactionError = s.compactErr.Error()
	}
	st.Forgetting = s.forgot
	for _, t := range st.Dictionary {
		st.Forgetting.Entries += t.Forgotten
	}
	st.Series, st.HeadsWaiting = s.index.count, len(s.sealed)
	for _, h := range append(s.sealed[:len(s.sealed):len(s.sealed)], s.active) {
		if h == nil {
			continue
		}
		st.Head.Rows += h.totals.rows
		st.Head.Samples += h.totals.samples
		st.Head.Bytes += h.totals.bytes
		st.Head.Series = max(st.Head.Series, len(h.span.series))
	}
	st.Rows, st.Samples = st.Head.Rows, st.Head.Samples
	for _, b := range s.blocks {
		st.Rows += b.totals.rows
		st.Samples += b.totals.samples
		st.BlockBytes += b.size
		st.Blocks = append(st.Blocks, BlockStats{
			Name: b.name(), Generation: b.generation, Remote: b.remote, First: time.Unix(0, b.span.first).UTC(), Last: time.Unix(0, b.span.last).UTC(),
			Rows: b.totals.rows, Samples: b.totals.samples, Bytes: b.size, Series: len(b.span.series),
		})
	}
	l := s.backlogLocked()
	st.UploadsPending, st.UploadBytes = l.blocks+l.deletions, l.bytes
	if !l.since.IsZero() {
		st.UploadsSince = &l.since
	}
	if l.err != nil {
		st.UploadError = l.err.Error()
	}
	for _, l := range s.replayed.Losses {
		st.Losses = append(st.Losses, l.String())
	}
	return st
}

func (s *Store) takeLock() (io.Closer, error) {
	if s.o.fs != disk.OS {
		return io.NopCloser(nil), nil
	}
	return lockDir(s.o.Dir)
}
