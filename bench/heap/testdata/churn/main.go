// Command churn allocates from a thousand stacks, and does little else. For each line of its standard input, a number of
// milliseconds, it works that long and prints how often it has allocated, its processor time and the time in nanoseconds.
package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"
)

// depth gives 2^depth stacks, each of which allocates in one size.
const depth = 10

type node struct {
	left, right *node
	payload     []byte
}

// kept is what lives: some 4 MB.
var kept [1 << 13]*node

//go:noinline
func left(path uint64, n int) *node { return descend(path>>1, n-1) }

//go:noinline
func right(path uint64, n int) *node { return descend(path>>1, n-1) }

func descend(path uint64, n int) *node {
	if n == 0 {
		return &node{payload: make([]byte, 16+path%64*16)}
	}
	if path&1 == 0 {
		return left(path, n)
	}
	return right(path, n)
}

func work(until time.Time, seed *uint64) (allocations uint64) {
	for time.Now().Before(until) {
		for range 256 {
			x := *seed
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
			*seed = x
			n := descend(x, depth)
			for i := range n.payload {
				n.payload[i] = byte(x)
			}
			at := &kept[x>>40%uint64(len(kept))]
			n.left = *at
			if n.left != nil {
				n.left.left = nil
			}
			*at = n
		}
		allocations += 512 // the node and its payload
	}
	return allocations
}

func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func main() {
	// The linker removes memory profiling from programs that do not refer to it.
	runtime.MemProfile(nil, true)
	seed := uint64(88172645463325252)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var ms int64
		if _, err := fmt.Sscan(lines.Text(), &ms); err != nil {
			fmt.Fprintln(os.Stderr, "churn: want milliseconds:", err)
			os.Exit(2)
		}
		used, began := processorTime(), time.Now()
		n := work(began.Add(time.Duration(ms)*time.Millisecond), &seed)
		fmt.Println(n, int64(processorTime()-used), int64(time.Since(began)))
	}
}
