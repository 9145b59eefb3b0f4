package process

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// events is the kernel's stream of exec, mmap, fork and exit records: one software "dummy" event per CPU,
// which counts nothing and only carries the records of every process.
//
// Each CPU has its own ring. A record's time is taken just before it is written, so all records that are
// older than the start of a drain are in the rings when the drain reads them: they are merged in order of
// time and handed out, younger ones wait for the next drain.
//
// A ring wakes the reader by itself only when it is half full. Beside it each CPU has a bell: a second
// event, of the same records, that wakes at each of them and whose content nobody looks at. In a burst the
// reader mutes the bells: a wake-up costs the process that caused the record an interrupt, one to three
// microseconds of a fork or exec, even if nobody waits.
type events struct {
	ringBytes int
	rings     []*ring
	bells     []*ring // parallel to rings
	muted     bool
	queues    [][]record // parallel to rings; records of a ring that wait for the next drain
	heap      []int      // indices into queues, the earliest record first
	at        []int      // how far each queue was handed out
	names     interner
	drained   uint64 // all records that are older than this have been handed out
	epoll     int
	online    string // the file that lists the CPUs

	wakeMu sync.Mutex // ringBell may be late for close
	wake   int        // eventfd, -1 when closed

	garbled uint64 // rings or records that made no sense
}

// openEvents opens the rings of all CPUs that are online.
func openEvents(ringBytes int, online string) (*events, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("creating epoll instance: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(epoll)
		return nil, fmt.Errorf("creating eventfd: %w", err)
	}
	e := &events{ringBytes: ringBytes, online: online, epoll: epoll, wake: wake, names: interner{max: 1 << 14}}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(wake)}); err != nil {
		e.close()
		return nil, fmt.Errorf("watching eventfd: %w", err)
	}
	if _, err := e.followCPUs(); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

func eventAttr(wakeupBytes int) unix.PerfEventAttr {
	return unix.PerfEventAttr{
		Type:        unix.PERF_TYPE_SOFTWARE,
		Size:        uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
		Config:      unix.PERF_COUNT_SW_DUMMY,
		Sample_type: sampleType,
		Bits: unix.PerfBitMmap | unix.PerfBitMmap2 | unix.PerfBitComm | unix.PerfBitCommExec | unix.PerfBitTask |
			unix.PerfBitSampleIDAll | unix.PerfBitWatermark | unix.PerfBitUseClockID,
		Wakeup:  uint32(wakeupBytes),
		Clockid: unix.CLOCK_MONOTONIC,
	}
}

// followCPUs opens rings for CPUs that came online and closes those of CPUs that went. It says whether
// anything changed: records may have been missed then.
func (e *events) followCPUs() (changed bool, err error) {
	cpus, err := listCPUs(e.online)
	if err != nil {
		return false, err
	}
	for i := 0; i < len(e.rings); {
		if r := e.rings[i]; !slices.Contains(cpus, r.cpu) {
			r.close() // closing takes it out of the epoll set
			e.bells[i].close()
			e.rings = slices.Delete(e.rings, i, i+1)
			e.bells = slices.Delete(e.bells, i, i+1)
			e.queues = slices.Delete(e.queues, i, i+1)
			changed = true
			continue
		}
		i++
	}
	for _, cpu := range cpus {
		if slices.ContainsFunc(e.rings, func(r *ring) bool { return r.cpu == cpu }) {
			continue
		}
		r, err := e.open(cpu, e.ringBytes, e.ringBytes/2)
		if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
			continue // went offline again
		}
		if err != nil {
			return changed, err
		}
		bell, err := e.open(cpu, os.Getpagesize(), 1)
		if err != nil {
			r.close()
			return changed, err
		}
		e.rings, e.bells, e.queues, changed = append(e.rings, r), append(e.bells, bell), append(e.queues, nil), true
	}
	if changed && e.muted {
		e.muted = false
		e.mute(true)
	}
	if len(e.rings) == 0 {
		return changed, errors.New("opening perf events: no CPU is online")
	}
	e.at = make([]int, len(e.rings))
	return changed, nil
}

// open opens an event on a CPU and has epoll watch it.
func (e *events) open(cpu, dataBytes, wakeupBytes int) (*ring, error) {
	r, err := openRing(eventAttr(wakeupBytes), cpu, dataBytes)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("%w (needs CAP_PERFMON, or CAP_SYS_ADMIN before Linux 5.8)", err)
	}
	if err != nil {
		return nil, err
	}
	if err := unix.EpollCtl(e.epoll, unix.EPOLL_CTL_ADD, r.fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(r.fd)}); err != nil {
		r.close()
		return nil, fmt.Errorf("watching perf event: %w", err)
	}
	return r, nil
}

// mute silences the bells or lets them ring again. After the latter the rings must be drained once before
// waiting: what came in between has rung no bell.
func (e *events) mute(on bool) {
	if e.muted == on {
		return
	}
	e.muted = on
	arg := 0
	if on {
		arg = 1
	}
	for _, b := range e.bells {
		unix.IoctlSetInt(b.fd, unix.PERF_EVENT_IOC_PAUSE_OUTPUT, arg) // cannot fail on a mapped event
	}
}

// OnlineCPUs lists the CPUs that run now.
func OnlineCPUs() ([]int, error) {
	cpus, err := listCPUs(onlineCPUs)
	if err == nil && len(cpus) == 0 {
		err = fmt.Errorf("listing CPUs: %s names none", onlineCPUs)
	}
	return cpus, err
}

func listCPUs(file string) ([]int, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("listing CPUs: %w", err)
	}
	cpus, err := parseCPUList(string(text))
	if err != nil {
		return nil, fmt.Errorf("listing CPUs: %w", err)
	}
	return cpus, nil
}

// parseCPUList reads the kernel's notation 0-3,7.
func parseCPUList(s string) ([]int, error) {
	var cpus []int
	for part := range strings.SplitSeq(strings.TrimSpace(s), ",") {
		if part == "" {
			continue
		}
		lo, hi, isRange := strings.Cut(part, "-")
		first, err := strconv.ParseUint(lo, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("parsing CPU list %q: %w", s, err)
		}
		last := first
		if isRange {
			if last, err = strconv.ParseUint(hi, 10, 16); err != nil {
				return nil, fmt.Errorf("parsing CPU list %q: %w", s, err)
			}
		}
		for c := first; c <= last; c++ {
			cpus = append(cpus, int(c))
		}
	}
	return cpus, nil
}

// wait returns when there are records or ringBell is called or after the timeout.
func (e *events) wait(timeout time.Duration) error {
	var ready [8]unix.EpollEvent
	n, err := unix.EpollWait(e.epoll, ready[:], int((max(timeout, 0)+time.Millisecond-1)/time.Millisecond))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("waiting for perf events: %w", err)
	}
	for i := range max(n, 0) {
		if int(ready[i].Fd) == e.wake {
			var buf [8]byte
			unix.Read(e.wake, buf[:])
		}
	}
	return nil
}

// ringBell ends a wait from another goroutine.
func (e *events) ringBell() {
	e.wakeMu.Lock()
	defer e.wakeMu.Unlock()
	if e.wake >= 0 {
		unix.Write(e.wake, binary.NativeEndian.AppendUint64(nil, 1))
	}
}

// drain hands out all records that are older than its beginning, in order of time. It returns how many
// it handed out and whether younger ones are left.
func (e *events) drain(f func(*record)) (n int, held bool) {
	cutoff := monotonic()
	e.drained = cutoff
	e.heap = e.heap[:0]
	for _, b := range e.bells {
		b.skip()
	}
	for i, r := range e.rings {
		if !r.read(func(b []byte) { e.queue(i, b) }) {
			e.garbled++
			e.queues[i] = append(e.queues[i], record{kind: recordLost, time: cutoff})
		}
		e.at[i] = 0
		if len(e.queues[i]) > 0 {
			e.heap = append(e.heap, i)
		}
	}
	for i := len(e.heap)/2 - 1; i >= 0; i-- {
		e.siftDown(i)
	}
	for len(e.heap) > 0 {
		i := e.heap[0]
		r := &e.queues[i][e.at[i]]
		if r.time > cutoff {
			held = true
			break
		}
		f(r)
		n++
		e.at[i]++
		if e.at[i] == len(e.queues[i]) {
			last := len(e.heap) - 1
			e.heap[0] = e.heap[last]
			e.heap = e.heap[:last]
		}
		e.siftDown(0)
	}
	for i, q := range e.queues {
		if e.at[i] > 0 {
			e.queues[i] = slices.Delete(q, 0, e.at[i])
		}
	}
	return n, held
}

func (e *events) queue(i int, b []byte) {
	r, err := parseRecord(b)
	switch {
	case err != nil:
		e.garbled++
	case r.kind == recordOther:
	default:
		r.text, r.name = e.names.intern(r.name), nil
		e.queues[i] = append(e.queues[i], r)
	}
}

func (e *events) first(heapIndex int) uint64 {
	i := e.heap[heapIndex]
	return e.queues[i][e.at[i]].time
}

func (e *events) siftDown(i int) {
	for {
		child := 2*i + 1
		if child >= len(e.heap) {
			return
		}
		if child+1 < len(e.heap) && e.first(child+1) < e.first(child) {
			child++
		}
		if e.first(i) <= e.first(child) {
			return
		}
		e.heap[i], e.heap[child] = e.heap[child], e.heap[i]
		i = child
	}
}

func (e *events) close() {
	for i, r := range e.rings {
		r.close()
		e.bells[i].close()
	}
	e.rings, e.bells, e.queues = nil, nil, nil
	unix.Close(e.epoll)
	e.wakeMu.Lock()
	defer e.wakeMu.Unlock()
	unix.Close(e.wake)
	e.wake = -1
}

// onlineCPUs is where the kernel lists them.
const onlineCPUs = "/sys/devices/system/cpu/online"

// interner makes one string of equal byte slices. When it is full it starts anew.
type interner struct {
	max int
	m   map[string]string
}

func (in *interner) intern(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if s, ok := in.m[string(b)]; ok {
		return s
	}
	if in.m == nil || len(in.m) >= in.max {
		in.m = make(map[string]string, 256)
	}
	s := string(b)
	in.m[s] = s
	return s
}

// monotonic is the clock of the kernel's records (and of bpf_ktime_get_ns), in nanoseconds, at most a
// moment behind. It is Go's own monotonic clock, which needs no system call, from a common beginning.
func monotonic() uint64 { return monotonicBase + uint64(time.Since(monotonicStart)) }

var monotonicBase, monotonicStart = clock(unix.CLOCK_MONOTONIC), time.Now() // in this order: never ahead

func clock(id int32) uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		panic("BUG: reading the clock: " + err.Error())
	}
	return uint64(ts.Nano())
}
