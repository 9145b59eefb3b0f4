package goheap

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"time"
)

// Limits bound one Read, or one look at the goroutines. What is 0 has its default.
type Limits struct {
	Buckets    int           // that are known at most: 100 000, some 20 MB. Real programs have hundreds to thousands
	Goroutines int           // 100 000
	Bytes      int64         // that are read and looked at: 256 MiB
	Duration   time.Duration // 1 s
}

func (l Limits) orDefaults() Limits {
	if l.Buckets <= 0 {
		l.Buckets = 100_000
	}
	if l.Goroutines <= 0 {
		l.Goroutines = 100_000
	}
	if l.Bytes <= 0 {
		l.Bytes = 256 << 20
	}
	if l.Duration <= 0 {
		l.Duration = time.Second
	}
	return l
}

// Reader reads the profile of one process again and again. It keeps what cannot change: where buckets are, and their
// stacks. It is for one goroutine at a time, and for one process: what follows an exec needs a new one.
type Reader struct {
	layout *Layout
	mem    io.ReaderAt
	bias   uint64
	now    func() time.Time

	sites []site // in order of addresses
	known map[uint64]struct{}
	// The list has been read from newest on, but for the part from next to before end, if open is set.
	newest    uint64
	open      bool
	next, end uint64
	// distrusted: the list made no sense. The next walk begins with nothing.
	distrusted bool
	anew       bool // no profile has been given since

	// abandoned is closed when a look ends that nobody waits for any more.
	abandoned chan struct{}

	words []uint64 // a piece of memory for stacks, being filled
	stack []uint64
}

// site is a bucket's constant part.
type site struct {
	addr   uint64
	record uint64 // address of its counts
	size   uint64
	stack  []uint64
}

// Where things are in a bucket.
const (
	headerSize = 48
	cycleSize  = 32 // memRecordCycle
	futures    = 3
	maxStack   = 1024 // the runtime's maxProfStackDepth
	memProfile = 1

	wordsAtOnce = 8192
)

// attempts is how often a Read begins again when a collection comes in between.
const attempts = 4

// NewReader returns a Reader of a process. Bias is the difference between its addresses and the file's
// ([Layout.Bias]). What mem's errors wrap in [ErrGone] ends a Read with that.
func NewReader(l *Layout, mem io.ReaderAt, bias uint64) *Reader {
	return &Reader{layout: l, mem: mem, bias: bias, now: time.Now, known: map[uint64]struct{}{}, anew: true}
}

// patience is how much longer than its limit a look may take, before what it reads is taken for memory that does not answer.
const patience = time.Second

// await does what f does, but does not wait for ever: reading a page of a file system in user space ends when that likes. (Pages that the
// process is to provide itself, by userfaultfd, are an error at once: the kernel does not wait for them on behalf of others.)
func await[T any](r *Reader, limit time.Duration, f func() (T, error)) (result T, err error) {
	if r.abandoned != nil {
		select {
		case <-r.abandoned:
			r.abandoned = nil
		default:
			return result, ErrStuck
		}
	}
	done := make(chan struct{})
	var found T
	var failed error
	go func() {
		defer close(done)
		found, failed = f()
	}()
	timer := time.NewTimer(limit + patience)
	defer timer.Stop()
	select {
	case <-done:
		return found, failed
	case <-timer.C:
		r.abandoned = done
		return result, ErrStuck
	}
}

// Read walks the list. What exceeds the limits is missing then, and said so in the profile; the next Read goes on where
// this one ended. The errors are [ErrOff], [ErrRemoved], [ErrLayout], [ErrGone] and [ErrStuck].
func (r *Reader) Read(limits Limits) (*Profile, error) {
	limits = limits.orDefaults()
	p, err := await(r, limits.Duration, func() (*Profile, error) { return r.consistent(limits) })
	if err != nil {
		return nil, err
	}
	p.Anew, r.anew = r.anew, false
	return p, nil
}

// consistent reads until no collection has come in between.
func (r *Reader) consistent(limits Limits) (*Profile, error) {
	b := &budget{bytes: limits.Bytes, until: r.now().Add(limits.Duration), now: r.now}
	w := newWindows(r.mem, b, bucketWindow, bucketWindows)
	defer w.close()
	var p *Profile
	for range attempts {
		w.forget()
		again, err := r.read(w, limits)
		if err != nil {
			return nil, err
		}
		if p != nil && !again.Complete && p.Complete {
			break // there was no time for another
		}
		if p = again; p.Consistent {
			break
		}
	}
	return p, nil
}

func (r *Reader) read(w *windows, limits Limits) (*Profile, error) {
	rate, err := r.variable(r.layout.rate, 8)
	if err != nil {
		return nil, err
	}
	if int64(rate) <= 0 {
		if r.layout.Removed {
			return nil, ErrRemoved
		}
		return nil, ErrOff
	}
	p := &Profile{Rate: int64(rate)}
	cycle, err := r.variable(r.layout.cycle, 4)
	if err != nil {
		return nil, err
	}
	head, err := r.variable(r.layout.buckets, 8)
	if err != nil {
		return nil, err
	}
	reason, err := r.walk(w, head, limits.Buckets)
	if err != nil {
		return nil, err
	}
	c := counter{mem: r.mem, budget: w.budget, index: int(cycle >> 1 % futures), buf: buffer(bucketWindow)}
	missed, err := c.count(r.sites, p) // what is known counts, even if it is not all
	buffers.Put((*[bucketWindow]byte)(c.buf))
	if err != nil {
		return nil, err
	}
	if reason == nil {
		reason = missed
	}
	p.Complete = reason == nil
	if reason != nil {
		p.Reason = reason.Error()
	}
	after, err := r.variable(r.layout.cycle, 4)
	if err != nil {
		return nil, err
	}
	p.Consistent = after == cycle && !c.flushing && !r.published(&c)
	return p, nil
}

// variable reads one of the runtime's variables, which are always there.
func (r *Reader) variable(addr uint64, n int) (uint64, error) {
	var b [8]byte
	at := addr + r.bias
	if at > 1<<62 {
		return 0, fmt.Errorf("%w: the address %#x of a variable", ErrLayout, at)
	}
	if _, err := r.mem.ReadAt(b[:n], int64(at)); err != nil {
		return 0, fmt.Errorf("reading the runtime's variable at %#x (is the bias that of this process?): %w", at, err)
	}
	return binary.LittleEndian.Uint64(b[:]), nil
}

// walk finds the buckets that are not known yet. What it returns first is why it could not find all.
func (r *Reader) walk(w *windows, head uint64, limit int) (reason, err error) {
	if r.distrusted {
		r.sites, r.known, r.words = nil, map[uint64]struct{}{}, nil
		r.newest, r.next, r.end, r.open = 0, 0, 0, false
		r.distrusted, r.anew = false, true
	}
	if !r.open { // else there is something left
		r.next, r.end, r.newest, r.open = head, r.newest, head, true
	}
	before := len(r.sites)
	defer func() {
		if len(r.sites) > before {
			slices.SortFunc(r.sites, func(a, b site) int { return cmp.Compare(a.addr, b.addr) })
		}
	}()
	f := &folder{t: &r.layout.table, s: newWindows(r.mem, w.budget, tableWindow, tableWindows), bias: r.bias, known: map[uint64][]uint64{}}
	for {
		for r.next != r.end {
			if len(r.sites) >= limit {
				return fmt.Errorf("more than %d buckets", limit), nil
			}
			if _, again := r.known[r.next]; again {
				r.distrusted = true
				return fmt.Errorf("the list of buckets comes to %#x twice", r.next), nil
			}
			s, next, err := r.bucket(w, f, r.next)
			switch {
			case errors.Is(err, errBytes) || errors.Is(err, errTime):
				return err, nil
			case errors.Is(err, ErrGone):
				return nil, err
			case err != nil && len(r.sites) == 0:
				r.distrusted = true
				return nil, fmt.Errorf("%w: %w", ErrLayout, err)
			case err != nil:
				r.distrusted = true
				return err, nil
			}
			r.known[s.addr] = struct{}{}
			r.sites = append(r.sites, s)
			r.next = next
		}
		if r.newest == head {
			break
		}
		r.next, r.end, r.newest = head, r.newest, head
	}
	r.open = false
	return nil, nil
}

// bucket reads what does not change in a bucket, and where the list goes on.
func (r *Reader) bucket(w *windows, f *folder, addr uint64) (s site, next uint64, err error) {
	if addr%8 != 0 || addr > 1<<62 {
		return s, 0, fmt.Errorf("a bucket at %#x", addr)
	}
	b, err := w.at(addr, headerSize)
	if err != nil {
		return s, 0, fmt.Errorf("reading the bucket at %#x: %w", addr, err)
	}
	le := binary.LittleEndian
	next = le.Uint64(b[8:])
	typ, size, nstk := le.Uint64(b[16:]), le.Uint64(b[32:]), le.Uint64(b[40:])
	if typ != memProfile || nstk > maxStack || size > math.MaxInt64 {
		return s, 0, fmt.Errorf("the bucket at %#x is of type %d, size %d, and has %d frames", addr, typ, size, nstk)
	}
	if b, err = w.at(addr+headerSize, int(nstk)*8); err != nil {
		return s, 0, fmt.Errorf("reading the stack at %#x: %w", addr+headerSize, err)
	}
	r.stack = r.stack[:0]
	for ; len(b) > 0; b = b[8:] {
		r.stack = append(r.stack, le.Uint64(b))
	}
	stack, err := f.fold(r.stack)
	if err != nil {
		return s, 0, fmt.Errorf("looking up a stack's functions: %w", err)
	}
	if cap(r.words)-len(r.words) < len(stack) {
		r.words = make([]uint64, 0, max(wordsAtOnce, len(stack)))
	}
	n := len(r.words)
	r.words = append(r.words, stack...)
	return site{addr: addr, record: addr + headerSize + nstk*8, size: size, stack: r.words[n:len(r.words):len(r.words)]}, next, nil
}

// counter reads what changes, of buckets that lie close together at once.
type counter struct {
	mem    io.ReaderAt
	budget *budget
	buf    []byte
	// index is the part of a bucket's future that belongs to the last collection.
	index int
	// flushing: that part was not yet in the published counts of some bucket.
	flushing bool
	// waiting is the address of a part, not empty, that is published next. It is 0 if there was none.
	waiting uint64
}

// counts is memRecordCycle.
type counts struct{ allocs, frees, allocBytes, freeBytes uint64 }

func (c *counts) add(b []byte) (empty bool) {
	le := binary.LittleEndian
	d := counts{le.Uint64(b), le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint64(b[24:])}
	c.allocs += d.allocs
	c.frees += d.frees
	c.allocBytes += d.allocBytes
	c.freeBytes += d.freeBytes
	return d == counts{}
}

// count fills the profile. What it returns first is why something is missing.
func (c *counter) count(sites []site, p *Profile) (reason, err error) {
	published := false
	p.Buckets = make([]Bucket, 0, len(sites))
	reason, err = c.each(sites, func(s *site, b []byte) error {
		future := func(i int) []byte { return b[(1+i%futures)*cycleSize:] }
		var n, next counts
		n.add(b)
		if !n.add(future(c.index)) {
			c.flushing = true
		}
		if !next.add(future(c.index+1)) && c.waiting == 0 {
			c.waiting = s.record + uint64(1+(c.index+1)%futures)*cycleSize
		}
		published = published || n.allocs != 0 || n.frees != 0
		return p.append(s, n)
	})
	if published || reason != nil || err != nil {
		return reason, err
	}
	// There has been no collection: everything counts.
	p.Early = true
	p.Buckets = p.Buckets[:0]
	return c.each(sites, func(s *site, b []byte) error {
		var n counts
		for ; len(b) > 0; b = b[cycleSize:] {
			n.add(b)
		}
		return p.append(s, n)
	})
}

// each calls f with the parts of every site. An error of f is a reason, and does not end it.
func (c *counter) each(sites []site, f func(*site, []byte) error) (reason, err error) {
	const each = (1 + futures) * cycleSize
	for len(sites) > 0 {
		begin, n := sites[0].record, 1
		for n < len(sites) && sites[n].record-sites[n-1].record <= pageSize && sites[n].record+each-begin <= uint64(len(c.buf)) {
			n++
		}
		b := c.buf[:sites[n-1].record+each-begin]
		if err := c.budget.take(len(b)); err != nil {
			return err, nil
		}
		got, err := c.mem.ReadAt(b, int64(begin))
		if errors.Is(err, ErrGone) {
			return nil, ErrGone
		}
		for i := range sites[:n] {
			s := &sites[i]
			d := int(s.record - begin)
			if d+each > got {
				reason = fmt.Errorf("%w: %#x", errMemory, s.record)
				break
			}
			if err := f(s, b[d:d+each]); err != nil {
				reason = err
			}
		}
		sites = sites[n:]
	}
	return reason, nil
}

func (p *Profile) append(s *site, n counts) error {
	if n.frees > n.allocs || n.freeBytes > n.allocBytes || max(n.allocs, n.allocBytes) > math.MaxInt64 {
		return fmt.Errorf("the bucket at %#x counts %d allocations and %d frees, of %d and %d bytes", s.addr, n.allocs, n.frees, n.allocBytes, n.freeBytes)
	}
	if n.allocs != 0 {
		p.Buckets = append(p.Buckets, Bucket{
			Addr: s.addr, Stack: s.stack, Size: int64(s.size),
			Allocs: int64(n.allocs), Frees: int64(n.frees), AllocBytes: int64(n.allocBytes), FreeBytes: int64(n.freeBytes),
		})
	}
	return nil
}

// published says whether the runtime has published a sweep's frees since: then some buckets were read before it and
// some after.
func (r *Reader) published(c *counter) bool {
	if c.waiting == 0 {
		return false
	}
	var b [cycleSize]byte
	if _, err := r.mem.ReadAt(b[:], int64(c.waiting)); err != nil {
		return true
	}
	var n counts
	return n.add(b[:])
}
