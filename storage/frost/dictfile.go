package frost

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/go-kit/log/level"

	"github.com/perfuse/perfuse/storage/dictionary"
	"github.com/perfuse/perfuse/storage/disk"
)

// dictionaryFiles are the files that have what blocks refer to. Each has what was added since the one before; a whole
// one has all there is and stands for those before it.
type dictionaryFiles struct {
	filing sync.Mutex // guards what follows, and the files
	next   uint64     // number of the next file. A number is used once, also by an attempt that fails
	first  uint64     // number of the first that is needed
	stale  bool       // there may be files that are not needed
	owed   bool       // a whole file is due: something was forgotten
	named  dictionary.Marks
	count  atomic.Int64 // of those that are needed; read without the lock
}

// maxDictionaryFiles is how many files there are before they become one.
const maxDictionaryFiles = 64

func dictionaryName(n uint64) string { return fmt.Sprintf("%016x.dict", n) }

// dictionaryNumber returns the number of a file, also of one that was not finished.
func dictionaryNumber(name string) (n uint64, finished, ok bool) {
	hex, finished := strings.CutSuffix(strings.TrimSuffix(name, ".tmp"), ".dict")
	n, err := strconv.ParseUint(hex, 16, 64)
	return n, !strings.HasSuffix(name, ".tmp"), finished && err == nil
}

// loadDictionary reads the files from the last whole one on.
func (s *Store) loadDictionary() error {
	names, err := s.o.fs.List(s.dictionaryDir())
	if err != nil {
		return fmt.Errorf("listing the dictionary: %w", err)
	}
	f := &s.dictFiles
	var numbers []uint64
	for _, name := range names {
		if n, finished, ok := dictionaryNumber(name); ok && finished {
			numbers = append(numbers, n)
			f.next = max(f.next, n+1)
		}
	}
	for i := len(numbers) - 1; i >= 0; i-- {
		whole, err := s.isWhole(numbers[i])
		if err != nil {
			return fmt.Errorf("reading dictionary file %s: %w", dictionaryName(numbers[i]), err)
		}
		if whole {
			f.first, f.stale, numbers = numbers[i], i > 0, numbers[i:]
			break
		}
	}
	f.count.Store(int64(len(numbers)))
	for _, n := range numbers {
		head, ok, err := s.readDictionary(n, func(delta []byte) error {
			_, err := s.dict.Apply(delta)
			return err
		})
		if !ok {
			return fmt.Errorf("reading dictionary file %s: %w; blocks cannot be read without it, put it back from a copy", dictionaryName(n), err)
		}
		if head.whole {
			s.dict.SetLost(head.lost)
		}
		if err != nil {
			// Its entries are missing: stacks that need them are empty, series cannot be selected. What they were
			// stays missing: their ids are not used again.
			level.Error(s.o.Logger).Log("msg", "a dictionary file is damaged; what it names is lost", "file", dictionaryName(n), "err", err)
			s.dict.Skip(head.to)
		}
	}
	f.named = s.dict.Marks()
	return nil
}

// isWhole says whether a file stands for those before it.
func (s *Store) isWhole(n uint64) (whole bool, err error) {
	r, err := s.o.fs.Open(filepath.Join(s.dictionaryDir(), dictionaryName(n)))
	if err != nil {
		return false, err
	}
	var magic [8]byte
	_, err = r.ReadAt(magic[:], 0)
	if err == io.EOF {
		err = nil
	}
	return magic == marksMagic2, errors.Join(err, r.Close())
}

// readDictionary calls apply with the deltas of a file; see decodeDictionary. An error of reading is none of the
// file: then it is not ok.
func (s *Store) readDictionary(n uint64, apply func(delta []byte) error) (head dictionaryHead, ok bool, err error) {
	f, err := s.o.fs.Open(filepath.Join(s.dictionaryDir(), dictionaryName(n)))
	if err != nil {
		return head, false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return head, false, err
	}
	head, ok, err = decodeDictionary(io.NewSectionReader(f, 0, size), size, apply)
	if err != nil && !errors.Is(err, errCorruptFile) && !errors.Is(err, dictionary.ErrCorrupt) {
		ok = false
	}
	return head, ok, err
}

// fileDictionary writes what the dictionary has beyond its files.
func (s *Store) fileDictionary() error {
	f := &s.dictFiles
	f.filing.Lock()
	defer f.filing.Unlock()
	now := s.dict.Marks()
	if now == f.named {
		return nil
	}
	name := dictionaryName(f.next)
	f.next++
	if err := s.writeFile(s.dictionaryDir(), name, encodeDictionary(now, s.dict.AppendDelta(nil, f.named, now))); err != nil {
		return err
	}
	f.count.Add(1)
	f.named = now
	return nil
}

// fileWhole writes all that the dictionary has to one file, which stands for the others, and removes those. It can
// fail, or the process end, after every step:
//
//  1. file written, fsynced, renamed    from here on it is what is read; the others say the same and what was forgotten
//  2. read back                         else it is removed and written again
//  3. others removed                    tried again, also when the store is opened; then from object storage
func (s *Store) fileWhole(ctx context.Context) error {
	f := &s.dictFiles
	f.filing.Lock()
	defer f.filing.Unlock()
	// Without room for writes beside it, it would be what makes the store read-only.
	size := s.o.HeadBytes
	for _, t := range s.dict.Sizes() {
		size += t.Bytes + 2*t.Entries
	}
	if free, ok := disk.Free(s.o.fs, s.o.Dir); ok && free < size {
		return fmt.Errorf("writing the dictionary as a whole needs %d bytes with those for writes, but %d are free: make room, or lower the retention", size, free)
	}
	number, head := f.next, dictionaryHead{to: s.dict.Marks(), lost: s.dict.Lost(), whole: true}
	f.next++
	f.stale = true // what an attempt that fails leaves, too
	err := disk.WriteFile(s.o.fs, s.dictionaryDir(), dictionaryName(number), func(w io.Writer) error {
		b := bufio.NewWriterSize(&counter{ctx: ctx, w: w}, 1<<20)
		return errors.Join(encodeWhole(b, head, s.dict), b.Flush())
	})
	if err != nil {
		return fmt.Errorf("writing the dictionary as a whole: %w", err)
	}
	got, _, err := s.readDictionary(number, func([]byte) error { return ctx.Err() })
	if err == nil && got != head {
		err = fmt.Errorf("%w: its head", errCorruptFile)
	}
	if err != nil {
		err = fmt.Errorf("reading back dictionary file %s: %w", dictionaryName(number), err)
		return errors.Join(err, s.o.fs.Remove(filepath.Join(s.dictionaryDir(), dictionaryName(number))), s.o.fs.SyncDir(s.dictionaryDir()))
	}
	f.first, f.owed, f.named = number, false, head.to
	f.count.Store(1)
	return s.sweepDictionary()
}

// sweepDictionary removes the files that another stands for, and has them deleted in object storage, after that
// one is there. s.filing is held.
func (s *Store) sweepDictionary() error {
	f := &s.dictFiles
	names, err := s.o.fs.List(s.dictionaryDir())
	if err != nil {
		return fmt.Errorf("listing the dictionary: %w", err)
	}
	for _, name := range names {
		n, finished, ok := dictionaryNumber(name)
		if !ok || n >= f.first {
			continue
		}
		if err := s.o.fs.Remove(filepath.Join(s.dictionaryDir(), name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing a dictionary file that is not needed: %w", err)
		}
		if finished {
			s.replica.changed("dictionary/" + name)
		}
	}
	if err := s.o.fs.SyncDir(s.dictionaryDir()); err != nil {
		return fmt.Errorf("removing dictionary files that are not needed: %w", err)
	}
	f.stale = false
	return nil
}

// dictionaryHead is how a dictionary file begins.
type dictionaryHead struct {
	to    dictionary.Marks // how far the dictionary goes with it: ids of a damaged file are not given away again
	lost  dictionary.Marks // of a whole file: see [dictionary.Dictionary.Lost]
	whole bool
}

func (h *dictionaryHead) encode() []byte {
	var b []byte
	put := func(m dictionary.Marks) {
		for _, n := range m {
			b = binary.LittleEndian.AppendUint32(b, n)
		}
	}
	put(h.to)
	if !h.whole {
		return seal(marksMagic, b)
	}
	put(h.lost)
	return seal(marksMagic2, b)
}

// marksBytes is the size of a dictionary.Marks in a head.
const marksBytes = 4 * len(dictionary.Marks{})

// encodeDictionary returns a file of what was added.
func encodeDictionary(to dictionary.Marks, delta []byte) []byte {
	h := dictionaryHead{to: to}
	return append(h.encode(), seal(dictMagic, delta)...)
}

// encodeWhole writes a file of all there is, in parts, so that it does not have to fit into memory.
func encodeWhole(w io.Writer, h dictionaryHead, d *dictionary.Dictionary) error {
	if _, err := w.Write(h.encode()); err != nil {
		return err
	}
	part := func(delta []byte) error {
		size := binary.LittleEndian.AppendUint32(nil, uint32(len(delta)))
		sum := crc32.Update(crc32.Checksum(size, castagnoli), castagnoli, delta)
		for _, b := range [][]byte{size, delta, binary.LittleEndian.AppendUint32(nil, sum)} {
			if _, err := w.Write(b); err != nil {
				return err
			}
		}
		return nil
	}
	if err := d.Parts(h.to, part); err != nil {
		return err
	}
	return part(nil)
}

// decodeDictionary reads a file of a size and calls apply with its deltas, in order. If it is not ok nothing of it
// can be trusted; with an error only the head and the deltas that were applied.
func decodeDictionary(r io.Reader, size int64, apply func(delta []byte) error) (h dictionaryHead, ok bool, err error) {
	in := bufio.NewReaderSize(io.LimitReader(r, size), 1<<20)
	take := func(n int64) ([]byte, error) {
		if n > size {
			return nil, fmt.Errorf("%w: it ends too early", errCorruptFile)
		}
		size -= n
		b := make([]byte, n)
		_, err := io.ReadFull(in, b)
		return b, err
	}
	magic, err := in.Peek(len(marksMagic2))
	if err != nil && err != io.EOF {
		return h, false, err
	}
	want := marksMagic
	if h.whole = len(magic) == len(marksMagic2) && [8]byte(magic) == marksMagic2; h.whole {
		want = marksMagic2
	}
	n := 8 + marksBytes + 4
	if h.whole {
		n += marksBytes
	}
	b, err := take(int64(n))
	if err != nil {
		return h, false, err
	}
	marks, err := unseal(want, b)
	if err != nil {
		return h, false, fmt.Errorf("%w: its head", errCorruptFile)
	}
	for i := range h.to {
		h.to[i] = binary.LittleEndian.Uint32(marks[4*i:])
		if h.whole {
			h.lost[i] = binary.LittleEndian.Uint32(marks[marksBytes+4*i:])
		}
	}
	if !h.whole {
		if b, err = take(size); err == nil {
			b, err = unseal(dictMagic, b)
		}
		if err == nil {
			err = apply(b)
		}
		return h, true, err
	}
	for {
		b, err := take(4)
		if err != nil {
			return h, true, err
		}
		n := int64(binary.LittleEndian.Uint32(b))
		rest, err := take(n + 4)
		if err != nil {
			return h, true, err
		}
		sum := crc32.Update(crc32.Checksum(b, castagnoli), castagnoli, rest[:n])
		if sum != binary.LittleEndian.Uint32(rest[n:]) {
			return h, true, fmt.Errorf("%w: checksum", errCorruptFile)
		}
		if n == 0 {
			if size != 0 {
				err = fmt.Errorf("%w: it ends too late", errCorruptFile)
			}
			return h, true, err
		}
		if err := apply(rest[:n]); err != nil {
			return h, true, err
		}
	}
}
