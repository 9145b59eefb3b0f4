package frost

import (
	"fmt"
	"testing"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage/storagetest"
)

func TestCardinality(t *testing.T) {
	s := open(t, Options{Dir: t.TempDir(), Retention: -1})
	for i := range 300 {
		labels := fmt.Sprintf("service_name=s%d pod=p%d env=prod", i%3, i)
		if err := s.Write(t.Context(), storagetest.Folded(profile.TypeCPU, labels, 0, "main 1")); err != nil {
			t.Fatal(err)
		}
	}
	f := func(n int, want string) {
		t.Helper()
		c, err := s.Cardinality(t.Context(), n)
		if got := fmt.Sprint(c); err != nil || got != want {
			t.Errorf("the first %d: %v\n got %s\nwant %s", n, err, got, want)
		}
	}
	f(2, "{300 [{process_cpu:cpu:nanoseconds:cpu:nanoseconds 300}] [{pod 300 300 [{p0 1} {p1 1}]} {service_name 3 300 [{s0 100} {s1 100}]}] 3 1}")
	f(0, "{300 [] [] 3 1}")
}

// TestHeaviest: samples are counted wherever they lie, once.
func TestHeaviest(t *testing.T) {
	s := open(t, Options{Dir: t.TempDir(), Retention: -1})
	write := func(labels string, lines ...string) {
		t.Helper()
		if err := s.Write(t.Context(), storagetest.Folded(profile.TypeCPU, labels, 0, lines...)); err != nil {
			t.Fatal(err)
		}
	}
	f := func(n int, want string) {
		t.Helper()
		got, err := s.Heaviest(t.Context(), n)
		if fmt.Sprint(got) != want || err != nil {
			t.Errorf("the first %d: %v\n got %v\nwant %s", n, err, got, want)
		}
	}
	const typ = "process_cpu:cpu:nanoseconds:cpu:nanoseconds"
	f(3, "[]")
	write("pod=a", "f 1", "g 2", "h 3")
	write("pod=b", "f 1")
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	write("pod=b", "f 1", "g 1", "h 1")
	write("pod=c", "f 1000")
	f(9, "[{"+typ+` {pod="b"} 2 4} {`+typ+` {pod="a"} 1 3} {`+typ+` {pod="c"} 1 1}]`)
	f(1, "[{"+typ+` {pod="b"} 2 4}]`)
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	f(2, "[{"+typ+` {pod="b"} 2 4} {`+typ+` {pod="a"} 1 3}]`)
}
