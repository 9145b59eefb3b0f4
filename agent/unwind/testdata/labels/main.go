// A program that gives labels to its goroutines.
package main

import (
	"context"
	"runtime/pprof"
)

func main() {
	pprof.Do(context.Background(), pprof.Labels("a", "b"), func(context.Context) { println("done") })
}
