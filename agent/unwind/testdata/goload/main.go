// A program that keeps Go's runtime busy: goroutines that switch, allocate, grow stacks, take signals and
// ask for the time.
package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/signal"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"
)

//go:noinline
func leaf(n uint64) uint64 {
	for i := uint64(0); i < 5000; i++ {
		n = n*6364136223846793005 + i
	}
	return n
}

//go:noinline
func grow(n int) uint64 {
	var a [64]uint64
	a[n&63] = leaf(uint64(n))
	if n > 0 {
		a[0] += grow(n - 1)
	}
	return a[0] + a[n&63]
}

func main() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGUSR1)
	go func() {
		for range c {
		}
	}()
	var wg sync.WaitGroup
	pipe := make(chan []byte)
	for range 4 {
		wg.Add(2)
		go func() {
			defer wg.Done()
			for i := 0; ; i++ {
				b := []byte(fmt.Sprint(strings.Repeat("x", i%999), time.Now()))
				sort.Slice(b, func(i, j int) bool { return b[i] < b[j] })
				pipe <- b
				syscall.Kill(os.Getpid(), syscall.SIGUSR1)
			}
		}()
		go func() {
			defer wg.Done()
			for b := range pipe {
				sha256.Sum256(b)
				done := make(chan uint64)
				go func() { done <- grow(len(b) % 50) }()
				<-done
			}
		}()
	}
	wg.Wait()
}
