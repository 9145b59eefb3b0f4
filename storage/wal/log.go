// Package wal is a write-ahead log in segments. What Append returned without an error is durable, and is
// replayed, in order, after a crash at any moment; what it returned with one is not replayed once a later
// Append succeeded.
//
//	DIR/0000000000000007.log   segment 7, complete; freed as a whole when it is not needed any more
//	DIR/0000000000000008.log   segment 8, being written
//
//	segment = header record*      record = length, CRC-32C, payload      (docs/formats/wal.md)
//
// A process never appends to a segment of an earlier one: it cuts what a crash tore and begins a new one. When
// a write or sync fails the log is read-only. Bytes of which it is not certain are cut off (truncated, synced)
// before it takes anything again, and it goes on in a new segment, because after a failed sync the old one
// cannot be trusted to become durable.
//
//	writing ──error──▶ broken ──truncate and sync the old segment──▶ repaired ──new segment──▶ writing
package wal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/disk"
)

// Options say where the log is.
type Options struct {
	// FS is where Dir lies; default disk.OS.
	FS disk.FS
	// Dir holds the segments. It is made if it is not there.
	Dir string
	// From is the first segment that is still needed; earlier ones are freed, not replayed.
	From uint64
	// SegmentBytes is the size from which on a new segment is begun; default 16 MiB.
	SegmentBytes int64
	// RetryEvery is how often at most a broken log tries to repair itself when something is appended;
	// default 1 s.
	RetryEvery time.Duration
	// Now is the clock; default time.Now.
	Now func() time.Time
}

// MaxRecordBytes is the size of the largest record.
const MaxRecordBytes = 1 << 30

// Loss is a place where the log had no good record although the file goes on.
type Loss struct {
	Segment uint64
	Offset  int64 // where the bytes begin that were not used
	Bytes   int64 // how many
	Cut     bool  // they were cut off: the torn end of the last segment
	Err     error
}

func (l Loss) String() string {
	return fmt.Sprintf("segment %d: %d bytes from offset %d: %v", l.Segment, l.Bytes, l.Offset, l.Err)
}

// Replayed says what opening a log found.
type Replayed struct {
	Segments, Records, Bytes int64
	// Losses are torn or corrupt parts. A torn end of the last segment is what a crash leaves and was never
	// acknowledged; anything else is damage.
	Losses []Loss
}

// Stats is the state of a log.
type Stats struct {
	Segments int
	Bytes    int64
	// Err is why the log is read-only, or nil.
	Err error
}

// Log is a write-ahead log. Append is for one goroutine at a time; the other methods are safe beside it.
type Log struct {
	o Options

	mu      sync.Mutex
	sizes   map[uint64]int64 // of every segment that is on disk
	segment uint64           // the last one, being written if file is not nil
	file    disk.File
	offset  int64 // everything before it is durable
	err     error // not nil: broken
	retryAt time.Time
	closed  bool
	buf     []byte
}

// Open replays what is there and makes the log ready for Append. The payload that replay gets is valid during
// the call; an error from it ends Open.
func Open(o Options, replay func(segment uint64, payload []byte) error) (*Log, Replayed, error) {
	if o.FS == nil {
		o.FS = disk.OS
	}
	if o.SegmentBytes <= 0 {
		o.SegmentBytes = 16 << 20
	}
	if o.RetryEvery == 0 {
		o.RetryEvery = time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	l := &Log{o: o, sizes: map[uint64]int64{}}
	var r Replayed
	if err := o.FS.MkdirAll(o.Dir); err != nil {
		return nil, r, fmt.Errorf("making the log's directory: %w", err)
	}
	if err := o.FS.SyncDir(filepath.Dir(o.Dir)); err != nil {
		return nil, r, fmt.Errorf("making the log's directory: %w", err)
	}
	numbers, err := l.list()
	if err != nil {
		return nil, r, err
	}
	for i, n := range numbers {
		l.segment = n
		if n < o.From {
			l.sizes[n] = 0
			continue
		}
		if err := l.replay(&r, n, i == len(numbers)-1, replay); err != nil {
			return nil, r, fmt.Errorf("replaying log segment %d: %w", n, err)
		}
	}
	if l.segment < o.From {
		l.segment = o.From // numbers are never used twice
	}
	if err := l.Free(o.From); err != nil {
		return nil, r, err
	}
	return l, r, nil
}

func (l *Log) path(n uint64) string { return filepath.Join(l.o.Dir, fmt.Sprintf("%016x.log", n)) }

func (l *Log) list() ([]uint64, error) {
	names, err := l.o.FS.List(l.o.Dir)
	if err != nil {
		return nil, fmt.Errorf("listing the log's directory: %w", err)
	}
	var out []uint64
	for _, name := range names {
		hex, ok := strings.CutSuffix(name, ".log")
		if n, err := strconv.ParseUint(hex, 16, 64); ok && err == nil && len(hex) == 16 {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, nil
}

func (l *Log) replay(r *Replayed, n uint64, last bool, f func(uint64, []byte) error) (err error) {
	file, err := l.o.FS.Open(l.path(n))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	size, err := file.Size()
	if err != nil {
		return err
	}
	r.Segments++
	rd, err := newReader(file, n, size)
	for err == nil {
		var payload []byte
		if payload, err = rd.next(); err == nil {
			r.Records++
			r.Bytes += int64(len(payload))
			if err := f(n, payload); err != nil {
				return err
			}
		}
	}
	l.sizes[n] = size
	switch {
	case errors.Is(err, errBroken):
		loss := Loss{Segment: n, Offset: rd.offset, Bytes: size - rd.offset, Err: err}
		if last {
			// A crash tore it. If it cannot be cut now it is found again next time.
			if err := file.Truncate(rd.offset); err == nil && file.Sync() == nil {
				loss.Cut, l.sizes[n] = true, rd.offset
			}
		}
		if loss.Bytes > 0 {
			r.Losses = append(r.Losses, loss)
		}
		return nil
	case err == io.EOF:
		return nil
	default:
		return err
	}
}

// Append makes the payloads durable, all or none, and returns the segment that they are in. If it fails the log
// is read-only until it could repair itself: the error wraps storage.ErrReadOnly.
func (l *Log) Append(payloads ...[]byte) (segment uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, storage.ErrClosed
	}
	total := int64(0)
	for _, p := range payloads {
		if len(p) == 0 || len(p) > MaxRecordBytes {
			return 0, fmt.Errorf("%w: a record of %d bytes (at most %d)", storage.ErrLimit, len(p), MaxRecordBytes)
		}
		total += int64(len(p)) + recordHeaderBytes
	}
	if l.err != nil && l.o.Now().Before(l.retryAt) {
		return 0, l.readOnly()
	}
	if err := l.ready(total); err != nil {
		return 0, l.broken(err)
	}
	b, off := l.buf[:0], l.offset
	for _, p := range payloads {
		b = appendRecord(b, l.segment, off+int64(len(b)), p)
	}
	l.buf = b
	if cap(b) > 4<<20 {
		l.buf = nil
	}
	if _, err = l.file.WriteAt(b, off); err != nil {
		err = fmt.Errorf("writing log segment %d: %w", l.segment, err)
	} else if err = l.file.Sync(); err != nil {
		err = fmt.Errorf("syncing log segment %d: %w", l.segment, err)
	}
	if err != nil {
		// Its writers are told that it is not there, so it goes at once if it can; repair makes sure of it.
		return 0, l.broken(errors.Join(err, l.file.Truncate(off)))
	}
	l.offset = off + int64(len(b))
	l.sizes[l.segment] = l.offset
	return l.segment, nil
}

func (l *Log) broken(err error) error {
	l.err, l.retryAt = err, l.o.Now().Add(l.o.RetryEvery)
	return l.readOnly()
}

func (l *Log) readOnly() error { return fmt.Errorf("%w: %w", storage.ErrReadOnly, l.err) }

// ready sees to it that there is a segment to append n bytes to.
func (l *Log) ready(n int64) error {
	if l.err != nil {
		if err := l.repair(); err != nil {
			return err
		}
	}
	if l.file != nil && l.offset > headerBytes && l.offset+n > l.o.SegmentBytes {
		if err := l.seal(); err != nil {
			return err
		}
	}
	if l.file != nil {
		return nil
	}
	return l.begin()
}

// repair cuts off what may or may not be on disk.
func (l *Log) repair() error {
	if l.file != nil {
		if err := l.file.Truncate(l.offset); err != nil {
			return fmt.Errorf("cutting log segment %d: %w", l.segment, err)
		}
		if err := l.file.Sync(); err != nil {
			return fmt.Errorf("syncing log segment %d: %w", l.segment, err)
		}
		if err := l.seal(); err != nil {
			return err
		}
	}
	// Making a segment is the proof that writing works again; only then is the log not broken.
	if err := l.begin(); err != nil {
		return err
	}
	l.err = nil
	return nil
}

func (l *Log) seal() error {
	f := l.file
	l.file = nil
	if err := f.Close(); err != nil {
		return fmt.Errorf("closing log segment %d: %w", l.segment, err)
	}
	return nil
}

// begin makes the next segment, durably.
func (l *Log) begin() error {
	n := l.segment + 1
	name := l.path(n)
	// An earlier attempt may have left it; nothing was ever acknowledged from it.
	if err := l.o.FS.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing a stale log segment: %w", err)
	}
	f, err := l.o.FS.Create(name)
	if err != nil {
		return fmt.Errorf("making log segment %d: %w", n, err)
	}
	if _, err = f.WriteAt(appendHeader(nil, n), 0); err == nil {
		if err = f.Sync(); err == nil {
			err = l.o.FS.SyncDir(l.o.Dir)
		}
	}
	if err != nil {
		return errors.Join(fmt.Errorf("making log segment %d: %w", n, err), f.Close())
	}
	l.segment, l.file, l.offset = n, f, headerBytes
	l.sizes[n] = headerBytes
	return nil
}

// Cut ends the segment being written: what is appended later is in a later one. It returns the number of the
// last segment so far, and must not be called beside Append.
func (l *Log) Cut() (last uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, storage.ErrClosed
	}
	if l.err != nil {
		return 0, l.readOnly()
	}
	if l.file != nil {
		if err := l.seal(); err != nil {
			return 0, l.broken(err)
		}
	}
	return l.segment, nil
}

// Free removes the segments before the given one. What could not be removed is tried again next time.
func (l *Log) Free(before uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for n := range l.sizes {
		if n >= before || l.file != nil && n == l.segment {
			continue
		}
		if err := l.o.FS.Remove(l.path(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("freeing log segment %d: %w", n, err))
			continue
		}
		delete(l.sizes, n)
	}
	return errors.Join(errs...)
}

// Probe lets a read-only log try to repair itself now, and returns why it still is, or nil.
func (l *Log) Probe() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil || l.closed {
		return nil
	}
	if err := l.repair(); err != nil {
		return l.broken(err)
	}
	return nil
}

// Stats returns the state of the log.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Stats{Segments: len(l.sizes), Err: l.err}
	for _, n := range l.sizes {
		s.Bytes += n
	}
	return s
}

// Close ends the log. Everything that was appended is durable already.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	if l.file == nil {
		return nil
	}
	var err error
	if l.err != nil {
		// What failed must not come back: the last chance to cut it. It was not acknowledged either way.
		if err = l.file.Truncate(l.offset); err == nil {
			err = l.file.Sync()
		}
	}
	return errors.Join(err, l.seal())
}
