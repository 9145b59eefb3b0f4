// A program whose unwind information tests read: it has leaves, large frames, assembly (crypto, the
// runtime's) and closures.
package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"sort"
)

//go:noinline
func large(n int) (sum int) {
	var a [20000]byte
	for i := range a {
		a[i] = byte(i * n)
	}
	for _, v := range a {
		sum += int(v)
	}
	return sum
}

func main() {
	words := os.Args
	sort.Slice(words, func(i, j int) bool { return words[i] < words[j] })
	fmt.Printf("%x %d\n", sha256.Sum256([]byte(fmt.Sprint(words))), large(len(words)))
}
