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

	"github.com/perfuse/perfuse/agent/process"
	"github.com/perfuse/perfuse/bpf/cpu"
)

// events are one perf event a CPU, all running the same program.
type events struct {
	program int // file descriptor
	attr    unix.PerfEventAttr
	cycles  bool
	perCPU  map[int]int // CPU → file descriptor
}

// openClock prefers hardware cycles, whose interrupt sees code that runs with interrupts off, and falls
// back to the software clock, which every machine has.
func openClock(program, rate int) (*events, error) {
	cpus, err := process.OnlineCPUs()
	if err != nil {
		return nil, err
	}
	cycles := frequency(unix.PERF_TYPE_HARDWARE, unix.PERF_COUNT_HW_CPU_CYCLES, rate*cpu.Slots)
	fd, err := perfEvent(cpus[0], &cycles)
	if err == nil {
		unix.Close(fd)
		return openEvents(program, cycles, true)
	}
	clock := cycles
	clock.Type, clock.Config = unix.PERF_TYPE_SOFTWARE, unix.PERF_COUNT_SW_CPU_CLOCK
	clock.Bits &^= unix.PerfBitFreq
	clock.Sample = uint64(1e9) / uint64(rate*cpu.Slots)
	return openEvents(program, clock, false)
}

// openFaults opens the counter of page faults. The kernel adapts its period to take about rate samples per second and CPU.
func openFaults(program, rate int) (*events, error) {
	rate *= cpu.FaultSlots
	if limit, err := sampleRateLimit(); err == nil {
		rate = min(rate, limit)
	}
	e, err := openEvents(program, frequency(unix.PERF_TYPE_SOFTWARE, unix.PERF_COUNT_SW_PAGE_FAULTS, rate), false)
	if err != nil {
		return nil, fmt.Errorf("counting page faults: %w", err)
	}
	return e, nil
}

// sampleRateLimit is the largest frequency that the kernel takes. It lowers it by itself when sampling takes it long.
func sampleRateLimit() (int, error) {
	b, err := os.ReadFile("/proc/sys/kernel/perf_event_max_sample_rate")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

func frequency(typ uint32, config uint64, rate int) unix.PerfEventAttr {
	return unix.PerfEventAttr{
		Type:   typ,
		Config: config,
		Size:   uint32(unix.PERF_ATTR_SIZE_VER5),
		Sample: uint64(rate),
		Bits:   unix.PerfBitDisabled | unix.PerfBitFreq,
	}
}

func openEvents(program int, attr unix.PerfEventAttr, cycles bool) (*events, error) {
	e := &events{program: program, attr: attr, cycles: cycles, perCPU: map[int]int{}}
	if err := e.follow(); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

// follow opens events on CPUs that came online and closes those of CPUs that left.
func (e *events) follow() error {
	cpus, err := process.OnlineCPUs()
	if err != nil {
		return err
	}
	online := map[int]bool{}
	for _, c := range cpus {
		online[c] = true
		if _, ok := e.perCPU[c]; ok {
			continue
		}
		fd, err := perfEvent(c, &e.attr)
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
// evenly within a tenth of what was asked for, which keeps the mean rate; that of a counter, which programs drive
// themselves, within a third.
func (e *events) jitter() {
	if e.cycles {
		return // the kernel adapts that period all the time
	}
	for _, fd := range e.perCPU {
		value := uint64(float64(e.attr.Sample) / (0.9 + 0.2*rand.Float64()))
		if e.attr.Bits&unix.PerfBitFreq != 0 {
			// Above the kernel's limit the frequency stays as it is.
			value = max(uint64(float64(e.attr.Sample)*(2+2*rand.Float64())/3), 1)
		}
		// An error would mean that the CPU has just gone offline.
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.PERF_EVENT_IOC_PERIOD, uintptr(unsafe.Pointer(&value)))
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
