// Command removed cannot read its own memory profile, so that the linker takes profiling out. With an argument it
// sets a rate nevertheless.
package main

import (
	"os"
	"runtime"
)

var kept [][]byte

func main() {
	if len(os.Args) > 1 {
		runtime.MemProfileRate = 1
		for i := 0; i < 100; i++ {
			kept = append(kept, make([]byte, 10000))
		}
		runtime.GC()
	}
	var b [1]byte
	os.Stdout.WriteString("ready\n")
	os.Stdin.Read(b[:])
}
