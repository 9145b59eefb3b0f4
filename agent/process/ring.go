package process

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ring reads the records that one perf_event writes for one CPU. The kernel moves the head, the reader the
// tail; both count bytes since the beginning, and a record may wrap around the end of the data.
type ring struct {
	cpu  int
	fd   int
	mem  []byte
	data []byte
	head *uint64
	tail *uint64
	// scratch holds a record that wraps.
	scratch []byte
}

// openRing opens the event that attr describes for one CPU and every process, and maps its ring.
func openRing(attr unix.PerfEventAttr, cpu, dataBytes int) (*ring, error) {
	fd, err := unix.PerfEventOpen(&attr, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("opening perf event on CPU %d: %w", cpu, err)
	}
	mem, err := unix.Mmap(fd, 0, os.Getpagesize()+dataBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("mapping %d bytes of perf ring on CPU %d: %w", dataBytes, cpu, err)
	}
	r := newRing(mem)
	r.cpu, r.fd = cpu, fd
	return r, nil
}

// newRing lays a ring over its memory: one page of header, then a power of two of data.
func newRing(mem []byte) *ring {
	meta := (*unix.PerfEventMmapPage)(unsafe.Pointer(&mem[0]))
	return &ring{fd: -1, mem: mem, data: mem[os.Getpagesize():], head: &meta.Data_head, tail: &meta.Data_tail}
}

// read calls f with every record that is there, then frees their space. The bytes are f's only until it
// returns. It returns false if the ring made no sense; what was left in it is dropped then.
func (r *ring) read(f func(b []byte)) bool {
	head, tail := atomic.LoadUint64(r.head), atomic.LoadUint64(r.tail)
	size := uint64(len(r.data))
	if head-tail > size {
		atomic.StoreUint64(r.tail, head)
		return false
	}
	for tail != head {
		b := r.bytes(tail, headerSize, head)
		if b == nil {
			atomic.StoreUint64(r.tail, head)
			return false
		}
		n := uint64(binary.NativeEndian.Uint16(b[6:]))
		if n < headerSize {
			atomic.StoreUint64(r.tail, head)
			return false
		}
		if b = r.bytes(tail, n, head); b == nil {
			atomic.StoreUint64(r.tail, head)
			return false
		}
		f(b)
		tail += n
	}
	atomic.StoreUint64(r.tail, tail)
	return true
}

// bytes returns n bytes from position at, nil if they reach beyond head.
func (r *ring) bytes(at, n, head uint64) []byte {
	if n > head-at {
		return nil
	}
	size := uint64(len(r.data))
	from := at % size
	if from+n <= size {
		return r.data[from : from+n : from+n]
	}
	r.scratch = append(r.scratch[:0], r.data[from:]...)
	r.scratch = append(r.scratch, r.data[:from+n-size]...)
	return r.scratch
}

// skip throws away what is there.
func (r *ring) skip() { atomic.StoreUint64(r.tail, atomic.LoadUint64(r.head)) }

func (r *ring) close() {
	if r.fd >= 0 {
		unix.Munmap(r.mem)
		unix.Close(r.fd)
		r.fd = -1
	}
}
