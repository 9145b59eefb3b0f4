package debuginfo

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/symbolize/elf"
	"github.com/perfuse/perfuse/symbolize/index"
	"github.com/perfuse/perfuse/symbolize/table"
)

// benchFile is the executable that is measured: PERFUSE_BENCH_FILE, or this test.
func benchFile(b testing.TB) string {
	if p := os.Getenv("PERFUSE_BENCH_FILE"); p != "" {
		return p
	}
	p, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	return p
}

// peakHeap is what the process has ever asked the system for, in bytes.
func peakHeap() float64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.Sys)
}

func BenchmarkBuild(b *testing.B) {
	dir := b.TempDir()
	f, err := elf.Open(benchFile(b))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	b.SetBytes(f.Size())
	out := filepath.Join(dir, "x.symtab")
	for b.Loop() {
		if warning, err := index.Build(out, dir, index.Files{File: f}); err != nil {
			b.Fatal(err)
		} else if warning != nil {
			b.Log(warning)
		}
	}
	st, err := os.Stat(out)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(st.Size()), "table-bytes")
	b.ReportMetric(peakHeap(), "peak-heap-bytes")
}

func BenchmarkLookup(b *testing.B) {
	l := newLocal(b)
	path := benchFile(b)
	id := buildID(b, path)
	if err := l.Add(id, path, ""); err != nil {
		b.Fatal(err)
	}
	if _, err := l.Resolve(context.Background(), id, nil); err != nil {
		b.Fatal(err)
	}
	t, err := table.Open(filepath.Join(l.options.Dir, id+".symtab"))
	if err != nil {
		b.Fatal(err)
	}
	defer t.Close()
	lo, _ := t.Range(0)
	hi, _ := t.Range(t.Ranges() - 1)
	n := uint64(hi - lo)
	out := t.Lookup(0, nil)
	for i := uint64(0); b.Loop(); i++ {
		out = t.Lookup(lo+profile.Addr(i*0x9e3779b97f4a7c15%n), out[:0])
	}
}

// BenchmarkOpen is what the first look-up in a file costs on top: mapping it and verifying its checksum.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	f, err := elf.Open(benchFile(b))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	out := filepath.Join(dir, "x.symtab")
	if _, err := index.Build(out, dir, index.Files{File: f}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		t, err := table.Open(out)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(t.Size())
		t.Lookup(profile.Addr(f.Entry), nil)
		t.Close()
	}
}

// BenchmarkExtract is what the agent pays for an executable.
func BenchmarkExtract(b *testing.B) {
	h, err := os.Open(benchFile(b))
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	st, err := h.Stat()
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(st.Size())
	for b.Loop() {
		x, err := Extract(h, st.Size())
		if err != nil {
			b.Fatal(err)
		}
		n, err := x.WriteTo(io.Discard)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(n), "extracted-bytes")
		x.Close()
	}
	b.ReportMetric(peakHeap(), "peak-heap-bytes")
}
