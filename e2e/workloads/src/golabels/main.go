// Command golabels serves two routes with the same code, 75 % of its CPU time for one and 25 % for the other: only the
// labels of the goroutines tell them apart. A turn is long beside the time between two samples. Some of the work is the runtime's own, on the system's stack.
package main

import (
	"context"
	"os"
	"runtime"
	"runtime/pprof"
	"strconv"
	"syscall"
	"unsafe"
)

var (
	sink  uint64
	large []byte
)

//go:noinline
func work() {
	for range 10 {
		x := sink
		for range 1_000_000 {
			x = (x * 0x9e3779b97f4a7c15) ^ (x >> 13)
		}
		sink = x
		large = make([]byte, 1<<20)
	}
}

// serve works on a goroutine of its own, which inherits the labels.
func serve(route, user string) {
	pprof.Do(context.Background(), pprof.Labels("route", route, "user.id", user), func(context.Context) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			work()
		}()
		<-done
	})
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
	runtime.GOMAXPROCS(1)
	end := 1e18
	if len(os.Args) > 1 {
		if seconds, err := strconv.ParseFloat(os.Args[1], 64); err == nil && seconds > 0 {
			end = seconds
		}
	}
	var heavy, light float64
	for now := burnt(); now < end; {
		to := &heavy
		if heavy > 3*light {
			to = &light
			serve("/light", "8")
		} else {
			serve("/heavy", "7")
		}
		then := now
		now = burnt()
		*to += now - then
	}
	runtime.KeepAlive(large)
}
