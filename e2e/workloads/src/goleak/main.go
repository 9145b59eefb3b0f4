// Command goleak fills a map with 1 MB/s, beside memory that is given back.
package main

import (
	"runtime"
	"time"
)

var (
	cache   = map[int][]byte{}
	scratch []byte
)

//go:noinline
func remember(i int) { cache[i] = make([]byte, 10<<10) }

//go:noinline
func forget() {
	runtime.KeepAlive(scratch)
	scratch = make([]byte, 64<<10)
}

func main() {
	// Nothing else refers to the memory profile, and the linker would leave it out.
	runtime.MemProfile(nil, true)
	for i := 0; ; i++ {
		remember(i)
		forget()
		if i%50 == 0 {
			runtime.GC() // what is in use is known as of a collection
		}
		time.Sleep(10 * time.Millisecond)
	}
}
