// Command goheap is the same as heap.c, with slices.
package main

import (
	"fmt"
	"os"
	"runtime"
	"time"
)

const blocks = 10000

func sizeOf(i int) int { return 1000 + i*7919%16001 }

//go:noinline
func keep70(n int) []byte { return make([]byte, n) }

//go:noinline
func keep20(n int) []byte { return append([]byte(nil), make([]byte, n)...) }

//go:noinline
func keep10(n int) []byte { return append(make([]byte, 0, n), 1) }

//go:noinline
func fill() [][]byte {
	out := make([][]byte, blocks)
	for i := range out {
		switch {
		case i%10 < 7:
			out[i] = keep70(sizeOf(i))
		case i%10 < 9:
			out[i] = keep20(sizeOf(i))
		default:
			out[i] = keep10(sizeOf(i))
		}
	}
	return out
}

func main() {
	runtime.MemProfileRate = 16 << 10
	times := 1
	if len(os.Args) > 1 && os.Args[1] == "alloc" {
		times = 2
	}
	time.Sleep(2 * time.Second)
	kept := fill()
	runtime.KeepAlive(fill())
	runtime.GC() // what is in use is known as of a collection
	runtime.GC()
	time.Sleep(3 * time.Second)
	var sums [3]int
	for i, b := range kept {
		at := 2
		if i%10 < 7 {
			at = 0
		} else if i%10 < 9 {
			at = 1
		}
		sums[at] += cap(append([]byte(nil), b[:cap(b)]...)) // the runtime rounds up, and counts what it gave
	}
	fmt.Printf("main.keep70 %d\nmain.keep20 %d\nmain.keep10 %d\n", sums[0]*times, sums[1]*times, sums[2]*times)
}
