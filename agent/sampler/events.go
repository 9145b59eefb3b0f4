package sampler

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/perfuse/perfuse/bpf/cpu"
)

// events are one perf event a CPU, all running the sampling program.
type events struct {
	program int // file descriptor
	period  uint64
	cycles  bool
	perCPU  map[int]int // CPU → file descriptor
}

// openEvents prefers hardware cycles, whose interrupt sees code that runs with interrupts off, and falls
// back to the software clock, which every machine has.
func openEvents(program, rate int) (*events, error) {
	e := &events{
		program: program,
		period:  uint64(1e9) / uint64(rate*cpu.Slots),
		perCPU:  map[int]int{},
	}
	cpus, err := onlineCPUs()
	if err != nil {
		return nil, err
	}
	if fd, err := perfEvent(cpus[0], e.attr(true)); err == nil {
		unix.Close(fd)
		e.cycles = true
	}
	if err := e.follow(); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

func (e *events) attr(cycles bool) *unix.PerfEventAttr {
	a := &unix.PerfEventAttr{
		Type:   unix.PERF_TYPE_SOFTWARE,
		Config: unix.PERF_COUNT_SW_CPU_CLOCK,
		Sample: e.period,
		Bits:   unix.PerfBitDisabled,
	}
	a.Size = uint32(unix.PERF_ATTR_SIZE_VER5)
	if cycles {
		a.Type = unix.PERF_TYPE_HARDWARE
		a.Config = unix.PERF_COUNT_HW_CPU_CYCLES
		a.Sample = 1e9 / e.period
		a.Bits |= unix.PerfBitFreq
	}
	return a
}

// follow opens events on CPUs that came online and closes those of CPUs that left.
func (e *events) follow() error {
	cpus, err := onlineCPUs()
	if err != nil {
		return err
	}
	online := map[int]bool{}
	for _, c := range cpus {
		online[c] = true
		if _, ok := e.perCPU[c]; ok {
			continue
		}
		fd, err := perfEvent(c, e.attr(e.cycles))
		if errors.Is(err, unix.ENODEV) {
			continue // it went offline again
		}
		if err != nil {
			return fmt.Errorf("opening a perf event on CPU %d: %w", c, err)
		}
		if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_SET_BPF, e.program); err != nil {
			unix.Close(fd)
			return fmt.Errorf("attaching the sampler to a perf event: %w", err)
		}
		if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_ENABLE, 0); err != nil {
			unix.Close(fd)
			return fmt.Errorf("enabling a perf event: %w", err)
		}
		e.perCPU[c] = fd
	}
	for c, fd := range e.perCPU {
		if !online[c] {
			unix.Close(fd)
			delete(e.perCPU, c)
		}
	}
	return nil
}

// jitter gives each CPU a new period, so that no program stays in step with the clock: the frequency is drawn
// evenly within a tenth of what was asked for, which keeps the mean rate.
func (e *events) jitter() {
	if e.cycles {
		return // the kernel adapts that period all the time
	}
	for _, fd := range e.perCPU {
		p := uint64(float64(e.period) / (0.9 + 0.2*rand.Float64()))
		// An error would mean that the CPU has just gone offline.
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.PERF_EVENT_IOC_PERIOD, uintptr(unsafe.Pointer(&p)))
	}
}

func (e *events) close() {
	for _, fd := range e.perCPU {
		unix.Close(fd)
	}
	clear(e.perCPU)
}

func perfEvent(cpu int, attr *unix.PerfEventAttr) (int, error) {
	return unix.PerfEventOpen(attr, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
}

func onlineCPUs() ([]int, error) {
	b, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		return nil, fmt.Errorf("listing CPUs: %w", err)
	}
	return parseCPUs(strings.TrimSpace(string(b)))
}

// parseCPUs reads the kernel's list form, as in 0-3,5.
func parseCPUs(list string) ([]int, error) {
	var out []int
	for _, r := range strings.Split(list, ",") {
		lo, hi, ok := strings.Cut(r, "-")
		if !ok {
			hi = lo
		}
		a, err1 := strconv.Atoi(lo)
		b, err2 := strconv.Atoi(hi)
		if err1 != nil || err2 != nil || a < 0 || b < a || b > 1<<16 {
			return nil, fmt.Errorf("parsing the CPU list %q", list)
		}
		for c := a; c <= b; c++ {
			out = append(out, c)
		}
	}
	return out, nil
}
