package ship

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// spool is a queue of messages on disk, first in, first out, bounded in bytes: when it is full the oldest
// segment goes. docs/formats/spool.md has the format.
//
//	DIR/0000000000000001.spool   header | record | record | ...     oldest, read from here
//	DIR/0000000000000002.spool   header | record | ...              newest, appended to
//	DIR/position                 segment and offset of the first record that was not delivered
//	DIR/lock                     held by the one agent that uses it
//
// A record that append has returned for survives the end of this process, however it ends. A power failure
// may cost the last syncEvery; a torn end is cut when the spool is opened. Delivery is at least once: the
// position may be older than what was delivered, never younger.
//
// It is not safe for concurrent use.
type spool struct {
	dir          string
	maxBytes     int64
	segmentBytes int64
	now          func() time.Time

	lock     *os.File
	segments []*segment // oldest first
	tail     *os.File   // the newest segment, nil before the first append
	unsynced bool
	synced   time.Time
	offset   int64 // in segments[0]: the first record that was not delivered
	head     *os.File

	dropped func(records int, bytes int64) // told of what went without being delivered
}

type segment struct {
	seq     uint64
	bytes   int64 // of intact content, header included
	records int
	read    int // delivered ones
}

const (
	spoolMagic   = "PFSPOOL1"
	headerBytes  = 16
	recordHeader = 8
	// maxRecordBytes bounds a record, written or found.
	maxRecordBytes = 64 << 20
	syncEvery      = time.Second
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// openSpool opens the spool in a directory, which it makes if necessary. cut says how many bytes of torn or
// damaged segments were given up.
func openSpool(dir string, maxBytes int64, dropped func(int, int64)) (s *spool, cut int64, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, 0, fmt.Errorf("opening spool: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("opening spool: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, 0, fmt.Errorf("opening spool %s: in use by another agent: %w", dir, err)
	}
	s = &spool{dir: dir, maxBytes: maxBytes, segmentBytes: max(min(8<<20, maxBytes/8), 4096), now: time.Now, lock: lock, dropped: dropped}
	if cut, err = s.load(); err != nil {
		s.close()
		return nil, cut, fmt.Errorf("opening spool %s: %w", dir, err)
	}
	return s, cut, nil
}

func (s *spool) path(seq uint64) string { return filepath.Join(s.dir, fmt.Sprintf("%016x.spool", seq)) }

// load reads all segments, cuts what is not intact, and finds the position.
func (s *spool) load() (cut int64, err error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return 0, fmt.Errorf("listing: %w", err)
	}
	for _, e := range entries {
		hex, ok := strings.CutSuffix(e.Name(), ".spool")
		seq, err := strconv.ParseUint(hex, 16, 64)
		if !ok || err != nil || len(hex) != 16 || !e.Type().IsRegular() {
			continue
		}
		seg := &segment{seq: seq}
		n, err := s.check(seg)
		cut += n
		if err != nil {
			return cut, err
		}
		if seg.records == 0 {
			if err := os.Remove(s.path(seq)); err != nil {
				return cut, err
			}
			continue
		}
		s.segments = append(s.segments, seg)
	}
	slices.SortFunc(s.segments, func(a, b *segment) int { return int(min(max(int64(a.seq-b.seq), -1), 1)) })
	return cut, s.seek()
}

// check counts the intact records of a segment and cuts the file after the last of them.
func (s *spool) check(seg *segment) (cut int64, err error) {
	f, err := os.OpenFile(s.path(seg.seq), os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if ok, err := readSegmentHeader(f, seg.seq); err != nil {
		return 0, err
	} else if ok {
		seg.bytes = headerBytes
		for {
			b, err := readRecord(f, seg.bytes, info.Size())
			if errors.Is(err, errTorn) || errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return 0, err
			}
			seg.bytes += recordHeader + int64(len(b))
			seg.records++
		}
	}
	if cut = info.Size() - seg.bytes; cut > 0 && seg.records > 0 {
		if err := f.Truncate(seg.bytes); err != nil {
			return cut, err
		}
	}
	return cut, nil
}

func readSegmentHeader(f io.ReaderAt, seq uint64) (bool, error) {
	var h [headerBytes]byte
	if _, err := f.ReadAt(h[:], 0); errors.Is(err, io.EOF) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	return string(h[:8]) == spoolMagic && binary.LittleEndian.Uint64(h[8:]) == seq, nil
}

var errTorn = errors.New("torn or damaged record")

// readRecord returns the payload of the record at an offset of a file of that size. io.EOF is its clean end.
func readRecord(f io.ReaderAt, at, size int64) ([]byte, error) {
	if at == size {
		return nil, io.EOF
	}
	var h [recordHeader]byte
	if size-at < recordHeader {
		return nil, errTorn
	}
	if _, err := f.ReadAt(h[:], at); err != nil {
		return nil, err
	}
	n := int64(binary.LittleEndian.Uint32(h[:]))
	if n == 0 || n > maxRecordBytes || n > size-at-recordHeader {
		return nil, errTorn
	}
	b := make([]byte, n)
	if _, err := f.ReadAt(b, at+recordHeader); err != nil {
		return nil, err
	}
	if crc32.Checksum(b, castagnoli) != binary.LittleEndian.Uint32(h[4:]) {
		return nil, errTorn
	}
	return b, nil
}

// seek finds where delivery had come to. Without a usable position it begins at the oldest record.
func (s *spool) seek() error {
	s.offset = headerBytes
	b, err := os.ReadFile(filepath.Join(s.dir, "position"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var seq uint64
	var offset int64
	if n, err := fmt.Sscanf(string(b), "%x %d\n", &seq, &offset); n != 2 || err != nil {
		return nil
	}
	for len(s.segments) > 0 && s.segments[0].seq < seq {
		if err := s.removeOldest(); err != nil { // delivered, but not removed yet
			return err
		}
	}
	if len(s.segments) == 0 || s.segments[0].seq != seq {
		return nil
	}
	// The offset must be where a record begins.
	seg := s.segments[0]
	f, err := os.Open(s.path(seq))
	if err != nil {
		return err
	}
	defer f.Close()
	at := int64(headerBytes)
	for n := 0; at <= seg.bytes; n++ {
		if at == offset {
			s.offset, seg.read = at, n
			break
		}
		b, err := readRecord(f, at, seg.bytes)
		if err != nil {
			break
		}
		at += recordHeader + int64(len(b))
	}
	if seg.read == seg.records {
		return s.removeOldest()
	}
	return nil
}

// empty says whether everything was delivered.
func (s *spool) empty() bool { return len(s.segments) == 0 }

// size returns what waits for delivery.
func (s *spool) size() (records int, bytes int64) {
	for _, seg := range s.segments {
		records += seg.records - seg.read
		bytes += seg.bytes
	}
	return records, bytes
}

// append adds a record at the end. If there is no room it drops the oldest segments; if the disk has none
// either, the record itself is not taken.
func (s *spool) append(b []byte) error {
	n := int64(len(b)) + recordHeader
	if len(b) == 0 || len(b) > maxRecordBytes || n+headerBytes > s.maxBytes {
		return fmt.Errorf("writing to the spool: a record of %d bytes", len(b))
	}
	for _, total := s.size(); len(s.segments) > 0 && total+n+headerBytes > s.maxBytes; _, total = s.size() {
		if err := s.dropOldest(); err != nil {
			return err
		}
	}
	err := s.write(b)
	if errors.Is(err, unix.ENOSPC) && len(s.segments) > 1 {
		if err := s.dropOldest(); err != nil {
			return err
		}
		err = s.write(b)
	}
	return err
}

func (s *spool) write(b []byte) error {
	if s.tail == nil || s.segments[len(s.segments)-1].bytes >= s.segmentBytes {
		if err := s.startSegment(); err != nil {
			return err
		}
	}
	seg := s.segments[len(s.segments)-1]
	rec := make([]byte, recordHeader, recordHeader+len(b))
	binary.LittleEndian.PutUint32(rec, uint32(len(b)))
	binary.LittleEndian.PutUint32(rec[4:], crc32.Checksum(b, castagnoli))
	rec = append(rec, b...)
	if _, err := s.tail.WriteAt(rec, seg.bytes); err != nil {
		err = fmt.Errorf("writing to the spool: %w", err)
		if seg.records == 0 { // nothing may be left of the segment
			return errors.Join(err, s.endTail(), s.removeNewest())
		}
		return errors.Join(err, s.tail.Truncate(seg.bytes))
	}
	seg.bytes += int64(len(rec))
	seg.records++
	s.unsynced = true
	return s.syncIfDue()
}

func (s *spool) startSegment() error {
	if err := s.endTail(); err != nil {
		return err
	}
	seq := uint64(1)
	if n := len(s.segments); n > 0 {
		seq = s.segments[n-1].seq + 1
	} else if last, err := s.lastSeq(); err == nil {
		seq = last + 1
	}
	f, err := os.OpenFile(s.path(seq), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("starting a spool segment: %w", err)
	}
	h := binary.LittleEndian.AppendUint64([]byte(spoolMagic), seq)
	if _, err := f.WriteAt(h, 0); err != nil {
		return errors.Join(fmt.Errorf("starting a spool segment: %w", err), f.Close(), os.Remove(s.path(seq)))
	}
	if len(s.segments) == 0 {
		s.offset = headerBytes
	}
	s.tail = f
	s.segments = append(s.segments, &segment{seq: seq, bytes: headerBytes})
	return nil
}

// lastSeq is the number in the position file: numbers are not used again, so that an old position never
// points into a new segment.
func (s *spool) lastSeq() (seq uint64, err error) {
	b, err := os.ReadFile(filepath.Join(s.dir, "position"))
	if err != nil {
		return 0, err
	}
	_, err = fmt.Sscanf(string(b), "%x", &seq)
	return seq, err
}

// endTail finishes the newest segment.
func (s *spool) endTail() error {
	if s.tail == nil {
		return nil
	}
	err := s.sync()
	err = errors.Join(err, s.tail.Close())
	s.tail = nil
	return err
}

func (s *spool) syncIfDue() error {
	if s.unsynced && s.now().Sub(s.synced) >= syncEvery {
		return s.sync()
	}
	return nil
}

func (s *spool) sync() error {
	if s.tail == nil || !s.unsynced {
		return nil
	}
	s.unsynced, s.synced = false, s.now()
	if err := s.tail.Sync(); err != nil {
		return fmt.Errorf("syncing the spool: %w", err)
	}
	return nil
}

// cursor is where a record lies.
type cursor struct {
	seq    uint64
	offset int64
}

// first returns the oldest record that was not delivered, io.EOF if there is none. A segment that can no
// longer be read is dropped.
func (s *spool) first() ([]byte, cursor, error) {
	for len(s.segments) > 0 {
		seg := s.segments[0]
		if s.head == nil {
			f, err := os.Open(s.path(seg.seq))
			if err != nil {
				if err := s.dropOldest(); err != nil {
					return nil, cursor{}, err
				}
				continue
			}
			s.head = f
		}
		b, err := readRecord(s.head, s.offset, seg.bytes)
		if err == nil {
			return b, cursor{seg.seq, s.offset}, nil
		}
		if err := s.dropOldest(); err != nil {
			return nil, cursor{}, err
		}
	}
	return nil, cursor{}, io.EOF
}

// delivered takes the record that first returned out of the queue, unless it was dropped meanwhile.
func (s *spool) delivered(b []byte, at cursor) error {
	if len(s.segments) == 0 || s.segments[0].seq != at.seq || s.offset != at.offset {
		return nil
	}
	seg := s.segments[0]
	s.offset += recordHeader + int64(len(b))
	seg.read++
	if err := s.writePosition(seg.seq, s.offset); err != nil {
		return err
	}
	if seg.read == seg.records {
		return s.removeOldest()
	}
	return nil
}

func (s *spool) writePosition(seq uint64, offset int64) error {
	tmp := filepath.Join(s.dir, "position.tmp")
	if err := os.WriteFile(tmp, fmt.Appendf(nil, "%016x %d\n", seq, offset), 0o600); err != nil {
		return fmt.Errorf("writing the spool's position: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(s.dir, "position")); err != nil {
		return fmt.Errorf("writing the spool's position: %w", err)
	}
	return nil
}

func (s *spool) dropOldest() error {
	seg := s.segments[0]
	s.dropped(seg.records-seg.read, seg.bytes)
	return s.removeOldest()
}

func (s *spool) removeOldest() error {
	if len(s.segments) == 1 && s.tail != nil {
		s.unsynced = false // not worth it any more
		if err := s.endTail(); err != nil {
			return err
		}
	}
	if s.head != nil {
		s.head.Close()
		s.head = nil
	}
	seg := s.segments[0]
	s.segments = s.segments[1:]
	s.offset = headerBytes
	if err := os.Remove(s.path(seg.seq)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing a spool segment: %w", err)
	}
	return nil
}

func (s *spool) removeNewest() error {
	n := len(s.segments) - 1
	seg := s.segments[n]
	s.segments = s.segments[:n]
	return os.Remove(s.path(seg.seq))
}

func (s *spool) close() error {
	err := s.endTail()
	if s.head != nil {
		s.head.Close()
		s.head = nil
	}
	return errors.Join(err, s.lock.Close())
}
