package main

import (
	"bytes"
	"strconv"
)

// benchmarkOperations is how many operations the one Go benchmark of which lines are in text had, all lines together:
//
//	BenchmarkEncode/large-8    500    2345678 ns/op    12 B/op    1 allocs/op
//
// 0 if there is none. Of several benchmarks operations are not the same: a run is then one operation.
func benchmarkOperations(text []byte) float64 {
	name, operations := "", 0.0
	for line := range bytes.Lines(text) {
		fields := bytes.Fields(line)
		if len(fields) < 4 || !isBenchmark(fields[0]) || !bytes.HasSuffix(fields[3], []byte("/op")) {
			continue
		}
		n, err := strconv.ParseUint(string(fields[1]), 10, 63)
		if _, e := strconv.ParseFloat(string(fields[2]), 64); err != nil || e != nil || n == 0 {
			continue
		}
		if name != "" && name != string(fields[0]) {
			return 0
		}
		name, operations = string(fields[0]), operations+float64(n)
	}
	return operations
}

// isBenchmark says whether a word is a benchmark's name: after Benchmark comes no small letter, as in the testing package.
func isBenchmark(word []byte) bool {
	rest, ok := bytes.CutPrefix(word, []byte("Benchmark"))
	return ok && (len(rest) == 0 || rest[0] < 'a' || rest[0] > 'z')
}
