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
	f(2, "{300 [{process_cpu:cpu:nanoseconds:cpu:nanoseconds 300}] [{pod 300 300 [{p0 1} {p1 1}]} {service_name 3 300 [{s0 100} {s1 100}]}] 3}")
	f(0, "{300 [] [] 3}")
}
