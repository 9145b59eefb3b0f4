package elf

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// maxNotes bounds what is read to find a note; real ones have some hundred bytes.
const maxNotes = 1 << 20

// BuildID returns the identity of the file, as the package comment defines it. It reads a few pages.
// Anything readable has one, ELF or not; the error is that of reading.
func BuildID(r io.ReaderAt) (string, error) {
	size, err := sizeOf(r)
	if err != nil {
		return "", fmt.Errorf("reading build id: %w", err)
	}
	f, err := New(r, size)
	if err == nil {
		if id := f.BuildID(); id != "" {
			return id, nil
		}
	} else if !errors.Is(err, ErrFormat) {
		return "", fmt.Errorf("reading build id: %w", err)
	}
	id, err := hashFile(r, size)
	if err != nil {
		return "", fmt.Errorf("reading build id: %w", err)
	}
	return id, nil
}

// BuildID returns the identity that the file states about itself: the GNU build id or the hashed Go build
// id, else "".
func (f *File) BuildID() string {
	if d := f.note("GNU", 3); len(d) >= 4 && len(d) <= 64 {
		return hex.EncodeToString(d)
	}
	if d := f.note("Go", 4); len(d) > 0 {
		h := sha256.Sum256(d)
		return hex.EncodeToString(h[:20])
	}
	return ""
}

// GoBuildID returns the content of a Go binary's own note, or "".
func (f *File) GoBuildID() string { return string(f.note("Go", 4)) }

// note finds a note by owner and type, in the note segments first (they are what is loaded, the vDSO has
// nothing else), then in the note sections.
func (f *File) note(owner string, kind uint32) []byte {
	for i := range f.Segments {
		s := &f.Segments[i]
		if s.Type != SegmentNote || s.Filesz == 0 || s.Filesz > maxNotes {
			continue
		}
		if b, err := f.bytesAt(s.Offset, s.Filesz); err == nil {
			if d := findNote(b, f.Order, s.Align, owner, kind); d != nil {
				return d
			}
		}
	}
	for i := range f.Sections {
		s := &f.Sections[i]
		if s.Type != SectionNote || s.Size > maxNotes {
			continue
		}
		if b, err := f.bytesAt(s.Offset, s.Size); err == nil {
			if d := findNote(b, f.Order, s.Align, owner, kind); d != nil {
				return d
			}
		}
	}
	return nil
}

func findNote(b []byte, order binary.ByteOrder, align uint64, owner string, kind uint32) []byte {
	// Notes are padded to four bytes; only .note.gnu.property of 64-bit files uses eight and says so.
	if align != 8 {
		align = 4
	}
	for len(b) >= 12 {
		nameSize, descSize, typ := uint64(order.Uint32(b)), uint64(order.Uint32(b[4:])), order.Uint32(b[8:])
		descAt := (12 + nameSize + align - 1) &^ (align - 1)
		end := descAt + descSize
		if end > uint64(len(b)) {
			return nil
		}
		name := bytes.TrimRight(b[12:12+nameSize], "\x00")
		if typ == kind && string(name) == owner && descSize > 0 {
			return b[descAt:end:end]
		}
		next := (end + align - 1) &^ (align - 1)
		if next > uint64(len(b)) {
			return nil
		}
		b = b[next:]
	}
	return nil
}

func hashFile(r io.ReaderAt, size int64) (string, error) {
	const edge = 4096
	h := sha256.New()
	if size <= 2*edge {
		if _, err := io.Copy(h, io.NewSectionReader(r, 0, size)); err != nil {
			return "", err
		}
	} else {
		for _, at := range []int64{0, size - edge} {
			if _, err := io.Copy(h, io.NewSectionReader(r, at, edge)); err != nil {
				return "", err
			}
		}
	}
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(size)))
	return hex.EncodeToString(h.Sum(nil)[:20]), nil
}

// sizeOf asks the reader for its size, or finds it by reading single bytes: doubling, then halving.
func sizeOf(r io.ReaderAt) (int64, error) {
	switch s := r.(type) {
	case interface{ Size() int64 }:
		return s.Size(), nil
	case interface{ Stat() (fs.FileInfo, error) }:
		st, err := s.Stat()
		if err != nil {
			return 0, err
		}
		if st.Mode().IsRegular() {
			return st.Size(), nil
		}
	}
	var b [1]byte
	has := func(at int64) (bool, error) {
		n, err := r.ReadAt(b[:], at)
		if n == 1 {
			return true, nil
		}
		if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return false, nil
		}
		return false, err
	}
	lo, hi := int64(0), int64(4096) // bytes below lo exist; hi grows until it does not
	for hi < 1<<50 {
		ok, err := has(hi)
		if err != nil {
			return 0, err
		}
		if !ok {
			break
		}
		lo, hi = hi+1, hi*2
	}
	for lo < hi {
		mid := lo + (hi-lo)/2
		ok, err := has(mid)
		if err != nil {
			return 0, err
		}
		if ok {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, nil
}
