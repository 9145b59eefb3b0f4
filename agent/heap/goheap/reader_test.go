package goheap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// Where a made process has its variables. The list's buckets follow from bucketBase on.
const (
	memoryBase  = 0x10000
	rateAddr    = memoryBase
	cycleAddr   = memoryBase + 8
	bucketsAddr = memoryBase + 16
	bucketBase  = memoryBase + pageSize
)

// memory is that of a process which a test makes. hook is called before each read.
type memory struct {
	b    []byte
	hook func(addr, n int)
}

func (m *memory) ReadAt(b []byte, addr int64) (int, error) {
	if m.hook != nil {
		m.hook(int(addr), len(b))
	}
	at := addr - memoryBase
	if addr < memoryBase || at >= int64(len(m.b)) {
		return 0, syscall.EIO
	}
	n := copy(b, m.b[at:])
	clear(b[n:])
	if end := (int64(len(m.b))+pageSize-1)&^(pageSize-1) - at; end < int64(len(b)) { // memory is mapped page by page
		return int(end), syscall.EIO
	}
	return len(b), nil
}

func (m *memory) word(addr int, v uint64) {
	binary.LittleEndian.PutUint64(m.b[addr-memoryBase:], v)
}

// push adds a bucket whose parts are active and the three of the future: allocations, frees.
func (m *memory) push(size uint64, stack []uint64, parts ...[2]uint64) (addr int) {
	addr = memoryBase + len(m.b)
	head := binary.LittleEndian.Uint64(m.b[bucketsAddr-memoryBase:])
	for _, w := range append([]uint64{0, head, memProfile, 0, size, uint64(len(stack))}, stack...) {
		m.b = binary.LittleEndian.AppendUint64(m.b, w)
	}
	for i := range 1 + futures {
		var n [2]uint64
		if i < len(parts) {
			n = parts[i]
		}
		for _, w := range []uint64{n[0], n[1], n[0] * size, n[1] * size} {
			m.b = binary.LittleEndian.AppendUint64(m.b, w)
		}
	}
	m.word(bucketsAddr, uint64(addr))
	return addr
}

// part is the address of the i-th part of a bucket with a stack of n.
func part(bucket, n, i int) int { return bucket + headerSize + 8*n + i*cycleSize }

func newMemory(rate, cycle uint64) *memory {
	m := &memory{b: make([]byte, bucketBase-memoryBase)}
	m.word(rateAddr, rate)
	m.word(cycleAddr, cycle<<1)
	return m
}

func (m *memory) reader() *Reader {
	return NewReader(&Layout{rate: rateAddr, cycle: cycleAddr, buckets: bucketsAddr, table: table{start: memoryBase, functions: 1, quantum: 1}}, m, 0)
}

func show(p *Profile, err error) string {
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for _, x := range p.Buckets {
		fmt.Fprintf(&b, "%d@%d %d-%d ", x.Stack, x.Size, x.Allocs, x.Frees)
	}
	if !p.Complete {
		fmt.Fprintf(&b, "incomplete: %s ", p.Reason)
	}
	if !p.Consistent {
		b.WriteString("inconsistent")
	}
	return strings.TrimSpace(b.String())
}

// TestRead goes through what a process may hold.
func TestRead(t *testing.T) {
	one := []uint64{1}
	two := []uint64{1, 2}
	for _, c := range []struct {
		name   string
		make   func() *memory
		limits Limits
		want   string
	}{
		{"nothing yet", func() *memory { return newMemory(512<<10, 0) }, Limits{}, ""},
		{"published", func() *memory {
			m := newMemory(1, 4)
			m.push(16, one, [2]uint64{5, 3})
			m.push(32, two, [2]uint64{7, 0})
			return m
		}, Limits{}, "[1]@16 5-3 [1 2]@32 7-0"},
		{"what is to come does not count", func() *memory {
			m := newMemory(1, 4) // collection 4: its own part is the one at 1, frees are counted at 2, allocations at 0
			m.push(16, one, [2]uint64{5, 3}, [2]uint64{100, 0}, [2]uint64{}, [2]uint64{0, 2})
			return m
		}, Limits{}, "[1]@16 5-3"},
		{"not yet published by the last collection", func() *memory {
			m := newMemory(1, 4)
			m.push(16, one, [2]uint64{5, 3}, [2]uint64{100, 0}, [2]uint64{2, 1}, [2]uint64{})
			return m
		}, Limits{}, "[1]@16 7-4 inconsistent"},
		{"before the first collection", func() *memory {
			m := newMemory(1, 0)
			m.push(16, one, [2]uint64{}, [2]uint64{}, [2]uint64{0, 1}, [2]uint64{5, 0})
			m.push(32, two, [2]uint64{}, [2]uint64{}, [2]uint64{}, [2]uint64{1, 0})
			m.push(64, two)
			return m
		}, Limits{}, "[1]@16 5-1 [1 2]@32 1-0"},
		{"a stack of no frames", func() *memory {
			m := newMemory(1, 4)
			m.push(16, nil, [2]uint64{5, 3})
			return m
		}, Limits{}, "[]@16 5-3"},
		{"off", func() *memory { return newMemory(0, 0) }, Limits{}, ErrOff.Error()},
		{"a negative rate", func() *memory { return newMemory(math.MaxUint64, 0) }, Limits{}, ErrOff.Error()},

		{"a loop", func() *memory {
			m := newMemory(1, 4)
			first := m.push(16, one, [2]uint64{5, 3})
			last := m.push(16, two, [2]uint64{5, 3})
			m.word(first+8, uint64(last))
			return m
		}, Limits{}, "[1]@16 5-3 [1 2]@16 5-3 incomplete: the list of buckets comes to 0x11"},
		{"a bucket of another type", func() *memory {
			m := newMemory(1, 4)
			m.word(m.push(16, one, [2]uint64{5, 3})+16, 2)
			m.push(16, two, [2]uint64{5, 3})
			return m
		}, Limits{}, "[1 2]@16 5-3 incomplete: the bucket at 0x11000 is of type 2"},
		{"no bucket at all", func() *memory {
			m := newMemory(1, 4)
			m.word(bucketsAddr, bucketBase-64)
			return m
		}, Limits{}, ErrLayout.Error()},
		{"a stack without end", func() *memory {
			m := newMemory(1, 4)
			m.word(m.push(16, one, [2]uint64{5, 3})+40, 1<<40)
			m.push(16, two, [2]uint64{5, 3})
			return m
		}, Limits{}, "[1 2]@16 5-3 incomplete: the bucket at 0x11000 is of type 1, size 16, and has 1099511627776 frames"},
		{"a crooked pointer", func() *memory {
			m := newMemory(1, 4)
			m.word(m.push(16, one, [2]uint64{5, 3})+8, bucketBase+1)
			return m
		}, Limits{}, "[1]@16 5-3 incomplete: a bucket at 0x11001"},
		{"a pointer to nowhere", func() *memory {
			m := newMemory(1, 4)
			m.word(m.push(16, one, [2]uint64{5, 3})+8, 0x7f0000000000)
			return m
		}, Limits{}, "[1]@16 5-3 incomplete: reading the bucket at 0x7f0000000000: an address that is not mapped"},
		{"a pointer beyond all", func() *memory {
			m := newMemory(1, 4)
			m.word(m.push(16, one, [2]uint64{5, 3})+8, math.MaxUint64-7)
			return m
		}, Limits{}, "[1]@16 5-3 incomplete: a bucket at 0xfffffffffffffff8"},
		{"more frees than allocations", func() *memory {
			m := newMemory(1, 4)
			m.push(16, one, [2]uint64{5, 6})
			m.push(16, two, [2]uint64{5, 3})
			return m
		}, Limits{}, "[1 2]@16 5-3 incomplete: the bucket at 0x11000 counts 5 allocations and 6 frees"},
		{"counts that overflow", func() *memory {
			m := newMemory(1, 4)
			m.push(1, one, [2]uint64{1 << 63, 0})
			m.push(16, two, [2]uint64{5, 3})
			return m
		}, Limits{}, "[1 2]@16 5-3 incomplete: the bucket at 0x11000 counts 9223372036854775808"},
		{"cut off in a bucket", func() *memory {
			m := newMemory(1, 4)
			m.b = append(m.b, make([]byte, pageSize-headerSize-cycleSize)...)
			m.push(16, one, [2]uint64{5, 3})
			m.b = m.b[:2*pageSize]
			return m
		}, Limits{}, "incomplete: an address that is not mapped: 0x11fe8"},

		{"too many", func() *memory {
			m := newMemory(1, 4)
			for range 10 {
				m.push(16, one, [2]uint64{5, 3})
			}
			return m
		}, Limits{Buckets: 2}, "[1]@16 5-3 [1]@16 5-3 incomplete: more than 2 buckets"},
		{"too many bytes", func() *memory {
			m := newMemory(1, 4)
			m.push(16, one, [2]uint64{5, 3})
			return m
		}, Limits{Bytes: 1}, "incomplete: reading the bucket at 0x11000: more was to be read than the limit of bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := c.make()
			r := m.reader()
			for range 2 { // the second finds what the first has left
				got, err := r.Read(c.limits)
				if s := show(got, err); !strings.HasPrefix(s, c.want) || c.want == "" && s != "" {
					t.Errorf("got %q, want %q", s, c.want)
				}
			}
		})
	}
}

// TestReadWhileCollecting lets the runtime publish while the buckets are read.
func TestReadWhileCollecting(t *testing.T) {
	build := func() (m *memory, first, last int) {
		m = newMemory(1, 4)
		first = m.push(16, []uint64{1}, [2]uint64{5, 0}, [2]uint64{}, [2]uint64{}, [2]uint64{3, 4})
		m.b = append(m.b, make([]byte, 2*bucketWindow)...) // so that their counts are read one after the other
		last = m.push(16, []uint64{2}, [2]uint64{5, 0}, [2]uint64{}, [2]uint64{}, [2]uint64{3, 4})
		return m, first, last
	}
	publish := func(m *memory, bucket int) {
		for i, v := range []uint64{8, 4, 8 * 16, 4 * 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} {
			m.word(part(bucket, 1, 0)+8*i, v)
		}
	}
	t.Run("publishing frees", func(t *testing.T) {
		m, first, last := build()
		r := m.reader()
		if got := show(r.Read(Limits{})); got != "[1]@16 5-0 [2]@16 5-0" {
			t.Errorf("undisturbed: %q", got)
		}
		// When the second bucket is read both have been published: the first is old.
		done := false
		m.hook = func(addr, _ int) {
			if !done && addr == part(last, 1, 0) {
				publish(m, first)
				publish(m, last)
				done = true
			}
		}
		if got := show(r.Read(Limits{})); got != "[1]@16 8-4 [2]@16 8-4" || !done {
			t.Errorf("published in between: %q", got)
		}
	})
	t.Run("a new collection each time", func(t *testing.T) {
		m, _, last := build()
		r := m.reader()
		cycle := uint64(4)
		m.hook = func(addr, _ int) {
			if addr == part(last, 1, 0) {
				cycle += futures
				m.word(cycleAddr, cycle<<1)
			}
		}
		if got := show(r.Read(Limits{})); got != "[1]@16 5-0 [2]@16 5-0 inconsistent" {
			t.Errorf("got %q", got)
		}
		if cycle != 4+attempts*futures {
			t.Errorf("%d collections, want one each attempt", (cycle-4)/futures)
		}
	})
}

// TestReadAgain reads new buckets only, and what is left over by a limit next time.
func TestReadAgain(t *testing.T) {
	m := newMemory(1, 4)
	for i := range 1000 {
		m.push(16, slices.Repeat([]uint64{uint64(i)}, 20), [2]uint64{5, 3})
	}
	r := m.reader()
	want := 1000
	read := func(l Limits) *Profile {
		t.Helper()
		p, err := r.Read(l)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p := read(Limits{}); len(p.Buckets) != want || !p.Complete {
		t.Fatalf("%d buckets, %s", len(p.Buckets), p.Reason)
	}
	for range 5 {
		m.push(16, []uint64{7}, [2]uint64{1, 0})
		want++
		if p := read(Limits{}); len(p.Buckets) != want || !p.Complete {
			t.Fatalf("%d buckets, want %d, %s", len(p.Buckets), want, p.Reason)
		}
	}
	if p := read(Limits{}); &p.Buckets[0].Stack[0] != &read(Limits{}).Buckets[0].Stack[0] {
		t.Error("a stack has been read twice")
	}

	// Ten at a time, while others come.
	r = m.reader()
	for n := 10; n < want; n += 10 {
		if p := read(Limits{Buckets: n}); len(p.Buckets) != n || p.Complete {
			t.Fatalf("%d buckets with a limit of %d, complete %v", len(p.Buckets), n, p.Complete)
		}
		if n%200 == 0 {
			m.push(16, []uint64{7}, [2]uint64{1, 0})
			want++
		}
	}
	p := read(Limits{})
	seen := map[string]int{}
	for _, b := range p.Buckets {
		seen[fmt.Sprint(b.Stack)]++
	}
	if len(p.Buckets) != want || !p.Complete || len(seen) != 1001 {
		t.Errorf("%d buckets, want %d; %d stacks; %s", len(p.Buckets), want, len(seen), p.Reason)
	}

	// After a list that made no sense the reader begins anew, and finds every bucket in its place.
	addrs := func(p *Profile) (all []uint64) {
		for _, b := range p.Buckets {
			all = append(all, b.Addr)
		}
		return all
	}
	before := addrs(p)
	head := binary.LittleEndian.Uint64(m.b[bucketsAddr-memoryBase:])
	bad := m.push(16, []uint64{7}, [2]uint64{1, 0})
	m.word(bad+16, 77)
	if p := read(Limits{}); p.Complete || len(p.Buckets) != want || p.Anew {
		t.Errorf("%d buckets, complete %v, anew %v", len(p.Buckets), p.Complete, p.Anew)
	}
	m.word(bucketsAddr, head)
	if p := read(Limits{}); !p.Complete || !p.Anew || !slices.Equal(addrs(p), before) {
		t.Errorf("%d buckets, complete %v %s, anew %v", len(p.Buckets), p.Complete, p.Reason, p.Anew)
	}
	if p := read(Limits{}); p.Anew {
		t.Error("the next is anew, too")
	}
}

// TestAnew: nobody misses that the reader has begun anew, whatever else goes wrong then.
func TestAnew(t *testing.T) {
	m := newMemory(1, 4)
	m.push(16, []uint64{1}, [2]uint64{5, 3})
	good := binary.LittleEndian.Uint64(m.b[bucketsAddr-memoryBase:])
	bad := uint64(m.push(16, []uint64{2}, [2]uint64{5, 3}))
	m.word(int(bad)+16, 77)
	m.word(bucketsAddr, good)
	r := m.reader()
	for i, c := range []struct {
		head uint64
		want string
	}{
		{good, "anew"}, {good, ""}, {bad, ""}, {bad, "fails"}, {bad, "fails"}, {good, "anew"}, {good, ""},
	} {
		m.word(bucketsAddr, c.head)
		p, err := r.Read(Limits{})
		got := ""
		switch {
		case err != nil:
			got = "fails"
		case p.Anew:
			got = "anew"
		}
		if got != c.want {
			t.Errorf("read %d: %q, %v, want %q", i, got, err, c.want)
		}
	}
}

// TestStuck: a page of a file system in user space may never come. The caller goes on, and reads again when it has come.
func TestStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(1, 4)
		m.push(16, []uint64{1}, [2]uint64{5, 3})
		r := m.reader()
		r.layout.scheduler = &scheduler{all: memoryBase + 64, status: 144, bp: 96}
		answer := make(chan struct{})
		m.hook = func(int, int) { <-answer }
		begin := time.Now()
		if p, err := r.Read(Limits{}); !errors.Is(err, ErrStuck) || time.Since(begin) != time.Second+patience {
			t.Errorf("%v, %v after %v", p, err, time.Since(begin))
		}
		begin = time.Now()
		if p, err := r.Read(Limits{}); !errors.Is(err, ErrStuck) || time.Since(begin) != 0 {
			t.Errorf("again: %v, %v after %v", p, err, time.Since(begin))
		}
		if gs, err := r.Goroutines(Limits{}); !errors.Is(err, ErrStuck) || time.Since(begin) != 0 {
			t.Errorf("goroutines: %v, %v after %v", gs, err, time.Since(begin))
		}
		close(answer)
		synctest.Wait()
		if p, err := r.Read(Limits{}); err != nil || !p.Complete || len(p.Buckets) != 1 || !p.Anew {
			t.Errorf("afterwards: %+v, %v", p, err)
		}
	})
}

// endless is a process with as many buckets as one likes, each of 256 bytes, none of which is anywhere.
type endless struct{ buckets int }

func (e endless) ReadAt(b []byte, addr int64) (int, error) {
	const first, each = 1 << 32, 256
	le := binary.LittleEndian
	if addr < first {
		v := map[int64]uint64{rateAddr: 512 << 10, cycleAddr: 8, bucketsAddr: uint64(first + each*(e.buckets-1))}[addr]
		return copy(b, le.AppendUint64(nil, v)), nil
	}
	for at := addr &^ (each - 1); at < addr+int64(len(b)); at += each {
		next := at - each
		if at == first {
			next = 0
		}
		var v [each]byte
		for i, w := range []uint64{0, uint64(next), memProfile, 0, 128, 4, uint64(at), 2, 3, 4, 10, 9, 1280, 1152} {
			le.PutUint64(v[8*i:], w)
		}
		if at >= addr {
			copy(b[at-addr:], v[:])
		} else {
			copy(b, v[addr-at:])
		}
	}
	return len(b), nil
}

// TestMany bounds what a process with a million buckets costs: the worst that a heap of any size can have.
func TestMany(t *testing.T) {
	layout := &Layout{rate: rateAddr, cycle: cycleAddr, buckets: bucketsAddr, table: table{start: 1, functions: 1}}
	r := NewReader(layout, endless{1_000_000}, 0)
	r.now = func() time.Time { return time.Unix(0, 0) }
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	p, err := r.Read(patient)
	if err != nil || p.Complete || len(p.Buckets) != 100_000 || p.Reason != "more than 100000 buckets" {
		t.Fatalf("%v, %d buckets, complete %v: %s", err, len(p.Buckets), p.Complete, p.Reason)
	}
	p = nil
	if used := heap() - before; used > 24<<20 {
		t.Errorf("100 000 buckets take %d bytes", used)
	}
	if p, err = r.Read(Limits{Buckets: 2_000_000, Bytes: 4 << 30, Duration: time.Minute}); err != nil || !p.Complete || len(p.Buckets) != 1_000_000 {
		t.Fatalf("%v, %d buckets, complete %v: %s", err, len(p.Buckets), p.Complete, p.Reason)
	}

	// Time that passes with every look at the clock is bounded, too.
	r = NewReader(layout, endless{1_000_000}, 0)
	clock := time.Unix(0, 0)
	r.now = func() time.Time { clock = clock.Add(time.Millisecond); return clock }
	for range 3 {
		begin := clock
		p, err = r.Read(Limits{Duration: 100 * time.Millisecond})
		if err != nil || p.Complete || !strings.Contains(p.Reason, "limit of time") || clock.Sub(begin) > 120*time.Millisecond {
			t.Fatalf("%v, complete %v: %s, after %v", err, p.Complete, p.Reason, clock.Sub(begin))
		}
	}
}

// TestGone ends the process at each of its reads.
func TestGone(t *testing.T) {
	m := newMemory(1, 4)
	for range 500 {
		m.push(16, []uint64{1, 2, 3}, [2]uint64{5, 3})
	}
	reads := 0
	count := func(r *Reader) (*Profile, error) { reads = 0; return r.Read(Limits{}) }
	m.hook = func(int, int) { reads++ }
	if _, err := count(m.reader()); err != nil || reads < 5 {
		t.Fatalf("%v after %d reads", err, reads)
	}
	for at := range reads - 1 {
		p, err := count(NewReader(m.reader().layout, gone{m, &reads, at}, 0))
		if !errors.Is(err, ErrGone) || p != nil {
			t.Errorf("at read %d: %v", at, err)
		}
	}
}

type gone struct {
	m     *memory
	reads *int
	at    int
}

func (g gone) ReadAt(b []byte, addr int64) (int, error) {
	if *g.reads >= g.at {
		return 0, ErrGone
	}
	return g.m.ReadAt(b, addr)
}

func TestScale(t *testing.T) {
	f := func(objects, bytes, rate, wantObjects, wantBytes int64) {
		t.Helper()
		if o, b := scale(objects, bytes, rate); o != wantObjects || b != wantBytes {
			t.Errorf("scale(%d, %d, %d) = %d, %d, want %d, %d", objects, bytes, rate, o, b, wantObjects, wantBytes)
		}
	}
	f(0, 0, 512<<10, 0, 0)
	f(10, 160, 1, 10, 160)
	f(10, 160, 0, 10, 160)
	f(math.MaxInt64, math.MaxInt64, 1, maxHeap, maxHeap)
	f(1, 512<<10, 512<<10, 1, 829_411)                       // 1/(1-1/e)
	f(10, 160, 512<<10, 327_685, 5_242_960)                  // each stands for 32768.5
	f(1, 1<<40, 512<<10, 1, 1<<40)                           // always sampled
	f(math.MaxInt64, math.MaxInt64, 1<<62, maxHeap, maxHeap) // no overflow
}
