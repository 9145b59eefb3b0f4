package goheap

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkWalk reads real processes of 100 to 10 000 buckets: for the first time, again, and, for comparison, again
// with process_vm_readv in place of pread.
func BenchmarkWalk(b *testing.B) {
	path := build(b, "local", "heap", nil)
	for _, buckets := range []int{100, 1000, 10_000} {
		p := start(b, path, "", "1")
		p.order("wide %d", buckets)
		p.order("gc")
		n := 0
		read := func(r *Reader) {
			got, err := r.Read(patient)
			if err != nil || !got.Complete || len(got.Buckets) < buckets {
				b.Fatalf("%v, %+v", err, got)
			}
			n = len(got.Buckets)
		}
		run := func(name string, f func()) {
			b.Run(fmt.Sprintf("%s/%d", name, buckets), func(b *testing.B) {
				var before, after unix.Rusage
				b.ReportAllocs()
				unix.Getrusage(unix.RUSAGE_SELF, &before)
				for b.Loop() {
					f()
				}
				unix.Getrusage(unix.RUSAGE_SELF, &after)
				cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
				b.ReportMetric(float64(cpu)/float64(b.N)/1e3, "cpu-µs/op")
				b.ReportMetric(float64(n), "buckets")
			})
		}
		run("first", func() { read(p.reader()) })
		r := p.reader()
		run("again", func() { read(r) })
		v := NewReader(p.layout, vm(p.cmd.Process.Pid), p.bias)
		run("again by process_vm_readv", func() { read(v) })
		p.kill()
	}
}

// BenchmarkGoroutines reads 55 to 11 000 goroutines at ten places.
func BenchmarkGoroutines(b *testing.B) {
	path := build(b, "local", "goroutines", nil)
	for _, n := range []int{1, 20, 200} {
		p := start(b, path, "")
		p.order("start %d", n)
		r := p.reader()
		b.Run(fmt.Sprint(55*n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if got, err := r.Goroutines(patient); err != nil || !got.Complete {
					b.Fatalf("%v, %+v", err, got)
				}
			}
		})
		p.kill()
	}
}

// vm is a process's memory by the system call that needs no open file.
type vm int

func (pid vm) ReadAt(b []byte, addr int64) (int, error) {
	local := []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}
	return unix.ProcessVMReadv(int(pid), local, []unix.RemoteIovec{{Base: uintptr(addr), Len: len(b)}}, 0)
}

// BenchmarkFind looks into a stripped and a whole program, and into the one that PERFUSE_GO_PROGRAM names.
func BenchmarkFind(b *testing.B) {
	paths := map[string]string{
		"whole":    build(b, "local", "heap", nil),
		"stripped": build(b, "local", "heap", nil, "-ldflags=-s -w"),
	}
	if path := os.Getenv("PERFUSE_GO_PROGRAM"); path != "" {
		paths["given"] = path
	}
	for name, path := range paths {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := findIn(path); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
