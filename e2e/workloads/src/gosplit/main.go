// Command gosplit is the Go workload: main → alpha → bravo → charlie → delta → echo → hot70, hot20, hot10. The hot
// functions are leaves without a frame, so that their caller is only in the return address above; bravo and
// delta are inlined. A second goroutine works through an interface and a closure, and some of the work runs
// on a large stack that had to grow.
package main

import (
	"os"
	"strconv"
	"syscall"
	"unsafe"
)

const unit = 4_000_000

//go:noinline
func hot70(x, n uint64) uint64 {
	for ; n > 0; n-- {
		x = (x * 0x9e3779b97f4a7c15) ^ (x >> 13)
	}
	return x
}

//go:noinline
func hot20(x, n uint64) uint64 {
	for ; n > 0; n-- {
		x = (x * 0xc2b2ae3d27d4eb4f) ^ (x >> 13)
	}
	return x
}

//go:noinline
func hot10(x, n uint64) uint64 {
	for ; n > 0; n-- {
		x = (x * 0x165667b19e3779f9) ^ (x >> 13)
	}
	return x
}

//go:noinline
func echo(x uint64) uint64 {
	x += hot70(x, 7*unit)
	x += hot20(x, 2*unit)
	x += hot10(x, 1*unit)
	return x
}

func delta(x uint64) uint64 { return echo(x+1) ^ x }

//go:noinline
func charlie(x uint64) uint64 { return delta(x+2) ^ x }

func bravo(x uint64) uint64 { return charlie(x+3) ^ x }

//go:noinline
func alpha(x uint64) uint64 { return bravo(x+4) ^ x }

// engine is what the second goroutine calls through.
type engine interface{ turn(x uint64) uint64 }

type grown struct{ each func(uint64) uint64 }

//go:noinline
func (g grown) turn(x uint64) uint64 {
	var large [64 << 10]byte
	large[x%uint64(len(large))] = 1
	return g.each(x) + uint64(large[0])
}

// burnt is the CPU time that this process has used, in seconds.
func burnt() float64 {
	var t syscall.Timespec
	const processCPUTime = 2
	if _, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, processCPUTime, uintptr(unsafe.Pointer(&t)), 0); errno != 0 {
		panic("BUG: reading the process's CPU time: " + errno.Error())
	}
	return float64(t.Sec) + float64(t.Nsec)/1e9
}

func main() {
	end := 1e18
	if len(os.Args) > 1 {
		if seconds, err := strconv.ParseFloat(os.Args[1], 64); err == nil && seconds > 0 {
			end = seconds
		}
	}
	done := make(chan uint64)
	go func() {
		var e engine = grown{each: alpha}
		x := uint64(1)
		for burnt() < end {
			x = e.turn(x)
		}
		done <- x
	}()
	x := uint64(0)
	for burnt() < end {
		x = alpha(x)
	}
	if x+<-done == 1 {
		os.Exit(1) // keeps the work alive
	}
}
