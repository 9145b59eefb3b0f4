package goheap

import (
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"time"
)

// Why a walk ends early.
var (
	errBytes  = errors.New("more was to be read than the limit of bytes")
	errTime   = errors.New("it took longer than the limit of time")
	errMemory = errors.New("an address that is not mapped")
)

// fatal says whether the whole walk ends, rather than what is read by one pointer.
func fatal(err error) bool { return err != nil && !errors.Is(err, errMemory) }

// budget bounds what a walk reads, from the process and again from what it remembers: a hostile table may lead through
// the same bytes for ever.
type budget struct {
	bytes int64
	until time.Time
	now   func() time.Time
	looks int
}

func (b *budget) take(n int) error {
	if err := b.look(n); err != nil {
		return err
	}
	if b.now().After(b.until) {
		return errTime
	}
	return nil
}

// look is take for what is in memory already; it asks for the time now and then.
func (b *budget) look(n int) error {
	if b.bytes -= int64(n); b.bytes < 0 {
		return errBytes
	}
	if b.looks++; b.looks%64 == 0 && b.now().After(b.until) {
		return errTime
	}
	return nil
}

// windows reads memory in aligned pieces of size bytes and remembers the last few: buckets lie close together. Pieces of
// which only a part is mapped are read page by page.
type windows struct {
	mem    io.ReaderAt
	budget *budget
	size   int
	list   []*window
	next   int
	joined []byte
}

type window struct {
	base uint64
	buf  []byte
	// missing has a bit for each page that could not be read.
	missing uint64
}

const (
	pageSize = 4096
	// For buckets: 64 pages at most, for the mask.
	bucketWindow, bucketWindows = 64 << 10, 8
	// For pclntab, where little is read in many places.
	tableWindow, tableWindows = pageSize, 64
)

func newWindows(mem io.ReaderAt, b *budget, size, n int) *windows {
	return &windows{mem: mem, budget: b, size: size, list: make([]*window, 0, n)}
}

// buffers are used again: fresh memory costs as much as what is read into it.
var buffers = sync.Pool{New: func() any { return new([bucketWindow]byte) }}

func buffer(n int) []byte {
	if n < bucketWindow {
		return make([]byte, n)
	}
	return buffers.Get().(*[bucketWindow]byte)[:n]
}

// close gives the memory back.
func (w *windows) close() {
	for _, x := range w.list {
		if len(x.buf) == bucketWindow {
			buffers.Put((*[bucketWindow]byte)(x.buf))
		}
	}
	w.list = nil
}

// forget makes the next reads see what is in memory then.
func (w *windows) forget() {
	for _, x := range w.list {
		x.base = math.MaxUint64
	}
}

// at returns n bytes at an address. They stand until the next call.
func (w *windows) at(addr uint64, n int) ([]byte, error) {
	if addr > math.MaxInt64-uint64(w.size) || n > w.size {
		return nil, fmt.Errorf("%w: %#x", errMemory, addr)
	}
	if err := w.budget.look(n); err != nil {
		return nil, err
	}
	off := int(addr % uint64(w.size))
	x, err := w.load(addr - uint64(off))
	if err != nil {
		return nil, err
	}
	if off+n <= w.size {
		return x.part(off, n)
	}
	b, err := x.part(off, w.size-off)
	if err != nil {
		return nil, err
	}
	w.joined = append(w.joined[:0], b...)
	if x, err = w.load(addr - uint64(off) + uint64(w.size)); err != nil {
		return nil, err
	}
	if b, err = x.part(0, n-len(w.joined)); err != nil {
		return nil, err
	}
	w.joined = append(w.joined, b...)
	return w.joined, nil
}

func (x *window) part(off, n int) ([]byte, error) {
	for page := off / pageSize; x.missing != 0 && page*pageSize < off+n; page++ {
		if x.missing>>page&1 != 0 {
			return nil, fmt.Errorf("%w: %#x", errMemory, x.base+uint64(off))
		}
	}
	return x.buf[off : off+n], nil
}

func (w *windows) load(base uint64) (*window, error) {
	for _, x := range w.list {
		if x.base == base {
			return x, nil
		}
	}
	if err := w.budget.take(w.size); err != nil {
		return nil, err
	}
	var x *window
	if len(w.list) < cap(w.list) {
		x = &window{buf: buffer(w.size)}
		w.list = append(w.list, x)
	} else {
		x = w.list[w.next]
		w.next = (w.next + 1) % len(w.list)
	}
	x.base, x.missing = math.MaxUint64, 0
	n, err := w.mem.ReadAt(x.buf, int64(base))
	if errors.Is(err, ErrGone) {
		return nil, ErrGone
	}
	if n < w.size {
		for off := n &^ (pageSize - 1); off < w.size; off += pageSize {
			n, err := w.mem.ReadAt(x.buf[off:off+pageSize], int64(base)+int64(off))
			if errors.Is(err, ErrGone) {
				return nil, ErrGone
			}
			if n < pageSize {
				x.missing |= 1 << (off / pageSize)
			}
		}
	}
	x.base = base
	return x, nil
}
