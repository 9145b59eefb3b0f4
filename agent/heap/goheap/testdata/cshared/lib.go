// Command cshared is a Go library for the C program beside it.
package main

import "C"

import "runtime"

var kept [][]byte

//export Keep
func Keep(n C.int) C.long {
	keep(int(n))
	runtime.GC()
	runtime.GC()
	return C.long(runtime.MemProfileRate)
}

//go:noinline
func keep(n int) {
	for i := 0; i < n; i++ {
		kept = append(kept, make([]byte, 64<<10))
	}
}

// CountMemory makes the linker keep memory profiling.
//
//export CountMemory
func CountMemory() C.int {
	n, _ := runtime.MemProfile(nil, true)
	return C.int(n)
}

func main() {}
