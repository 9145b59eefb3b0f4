//go:build cgo

// Command gocgo crosses between Go and C twice: main → alpha (Go) → bravo → charlie (C, no frame pointers) → delta →
// echo (Go again) → hot70, hot20, hot10. Each crossing changes the stack.
package main

/*
#cgo CFLAGS: -O2 -fomit-frame-pointer
#include <stdint.h>
extern uint64_t delta(uint64_t);
static __attribute__((noinline)) uint64_t charlie(uint64_t x) { return delta(x + 2) ^ x; }
static __attribute__((noinline)) uint64_t bravo(uint64_t x) { return charlie(x + 3) ^ x; }
*/
import "C"

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

//export delta
func delta(x C.uint64_t) C.uint64_t { return C.uint64_t(echo(uint64(x) + 1)) }

//go:noinline
func alpha(x uint64) uint64 { return uint64(C.bravo(C.uint64_t(x+4))) ^ x }

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
	seconds := 1e9
	if len(os.Args) > 1 {
		var err error
		if seconds, err = strconv.ParseFloat(os.Args[1], 64); err != nil {
			panic(err)
		}
	}
	x := uint64(1)
	for burnt() < seconds {
		x = alpha(x)
	}
	if x == 0 {
		os.Exit(1)
	}
}
