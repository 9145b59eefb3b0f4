package process

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// identifier finds out the id that the kernel's records would give a file: it maps the file's first page
// into the agent and reads the record of that. No other way is exact. /proc/PID/maps has no inode
// generation; the ioctl that tells it is missing on overlayfs and tmpfs; and from Linux 6.8 to 6.17 maps shows
// the overlay's own inode of a file where the records show that of the layer below.
//
// It belongs to one operating system thread; close frees that.
type identifier struct{ ring *ring }

// newIdentifier watches the calling thread, which the goroutine keeps until close.
func newIdentifier() (*identifier, error) {
	runtime.LockOSThread()
	attr := unix.PerfEventAttr{
		Type: unix.PERF_TYPE_SOFTWARE, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})), Config: unix.PERF_COUNT_SW_DUMMY,
		Sample_type: sampleType,
		Bits:        unix.PerfBitMmap | unix.PerfBitMmap2 | unix.PerfBitSampleIDAll | unix.PerfBitWatermark | unix.PerfBitExcludeKernel,
		Wakeup:      1 << 30,
	}
	fd, err := unix.PerfEventOpen(&attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("opening perf event on the own thread: %w", err)
	}
	mem, err := unix.Mmap(fd, 0, 3*os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		unix.Close(fd)
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("mapping perf ring of the own thread: %w", err)
	}
	r := newRing(mem)
	r.fd = fd
	return &identifier{r}, nil
}

func (i *identifier) close() {
	i.ring.close()
	runtime.UnlockOSThread()
}

// id returns the id of an opened file, the zero id if the kernel would not map it for execution or its
// record did not come.
func (i *identifier) id(fd int) FileID {
	size := os.Getpagesize()
	mem, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
	if err != nil {
		return FileID{}
	}
	defer unix.Munmap(mem)
	var id FileID
	i.ring.read(func(b []byte) {
		if r, err := parseRecord(b); err == nil && r.kind == recordMap && r.mapping.Start == uint64(uintptr(unsafe.Pointer(&mem[0]))) {
			id = r.mapping.File
		}
	})
	return id
}

// isProbe says whether a record is that of an identifier's look at a file.
func isProbe(r *record) bool {
	return r.pid == uint32(ownPID) && r.mapping.End-r.mapping.Start == uint64(os.Getpagesize()) && r.mapping.Offset == 0 && r.mapping.File != (FileID{})
}

var ownPID = os.Getpid()

// identify returns what the kernel's records call the file of a mapping that was read from /proc. Where that
// cannot be found out it returns what is known, with the generation if the file system tells it.
func (t *Table) identify(d procDir, m Mapping) FileID {
	if id, ok := t.files[m.File]; ok {
		return id
	}
	f := openRegular(d.fd, mapFileName("map_files", m.Start, m.End), 0)
	if f == nil {
		return m.File
	}
	defer f.Close()
	fd := int(f.Fd())
	if t.identifier == nil && !t.noIdentifier {
		var err error
		if t.identifier, err = newIdentifier(); err != nil {
			t.noIdentifier = true
		}
	}
	id := FileID{}
	if t.identifier != nil {
		id = t.identifier.id(fd)
	}
	if id == (FileID{}) {
		id = m.File
		id.Generation, _ = generationOf(fd)
	}
	t.files[m.File] = id
	return id
}

// endIdentifying frees the thread.
func (t *Table) endIdentifying() {
	if t.identifier != nil {
		t.identifier.close()
		t.identifier = nil
	}
}
