package unwind

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

func benchmarkFile(b *testing.B, path string) {
	f, err := os.Open(path)
	if err != nil {
		b.Skipf("no %s here", path)
	}
	defer f.Close()
	b.ReportAllocs()
	for b.Loop() {
		t, err := Compile(f)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(t.Rows)), "rows")
		b.ReportMetric(float64(len(t.Rules)), "rules")
		p, err := Pack(t)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(p.Bytes())/float64(len(t.Rows)), "B/row")
	}
}

// BenchmarkLibLLVM compiles the largest library that a developer's machine has.
func BenchmarkLibLLVM(b *testing.B) {
	paths, _ := filepath.Glob("/usr/lib/llvm-*/lib/libLLVM.so.*.*")
	if len(paths) == 0 {
		b.Skip("no libLLVM here")
	}
	benchmarkFile(b, paths[len(paths)-1])
}

// BenchmarkGo compiles the go command.
func BenchmarkGo(b *testing.B) {
	benchmarkFile(b, filepath.Join(runtime.GOROOT(), "bin", "go"))
}
