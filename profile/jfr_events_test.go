package profile

import (
	"strings"
	"testing"
)

// TestReadJFR: the events are those that ParseJFR sums up.
func TestReadJFR(t *testing.T) {
	for _, jdk := range []string{"17", "25"} {
		t.Run("JDK "+jdk, func(t *testing.T) {
			data := workload(t, jdk)
			b, err := ParseJFR(data, JFROptions{})
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]int64{}
			for i := range b.Profiles {
				want[b.Profiles[i].Type.SampleType] = b.Profiles[i].Total()
			}
			o := JFREventOptions{Events: []string{"jdk.ObjectAllocationInNewTLAB", "jdk.ObjectAllocationOutsideTLAB"}}
			d := NewDictionary()
			got := map[string]int64{}
			classes := map[string]bool{}
			span, err := ReadJFR(data, d, o, func(e *JFREvent) error {
				if e.Name == o.Events[0] {
					got["alloc_in_new_tlab_objects"]++
					got["alloc_in_new_tlab_bytes"] += e.Weight
				} else {
					got["alloc_outside_tlab_objects"]++
					got["alloc_outside_tlab_bytes"] += e.Bytes
				}
				if int(e.Stack) >= len(d.Stacks) || e.StartNanos == 0 || e.Bytes <= 0 {
					t.Fatalf("%+v", e)
				}
				classes[e.Class] = true
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			for name, n := range got {
				if n != want[name] || n == 0 {
					t.Errorf("%s: %d, want %d", name, n, want[name])
				}
			}
			if !classes["[B"] {
				t.Errorf("classes: %v", classes)
			}
			if len(span.Chunks) != 1 || span.StartNanos != b.Profiles[0].TimeNanos || span.EndNanos-span.StartNanos != b.Profiles[0].DurationNanos {
				t.Errorf("%+v", span)
			}
			o.AfterNanos = span.Chunks[0]
			if span, err := ReadJFR(data, d, o, func(e *JFREvent) error {
				t.Error("an event of a chunk that was read before")
				return nil
			}); err != nil || len(span.Chunks) != 0 {
				t.Errorf("%+v, %v", span, err)
			}
			o = JFREventOptions{Events: o.Events, MaxBytes: 10_000}
			if _, err := ReadJFR(data, d, o, func(*JFREvent) error { return nil }); err == nil || !strings.HasPrefix(err.Error(), "reading JFR: ") {
				t.Errorf("10 kB of memory: %v", err)
			}
		})
	}
}

func FuzzReadJFR(f *testing.F) {
	f.Add(workload(f, "17"))
	f.Add([]byte(jfrMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		d := NewDictionary()
		ReadJFR(data, d, JFREventOptions{Events: []string{"jdk.OldObjectSample", "jdk.ObjectAllocationInNewTLAB", "jdk.ExecutionSample"}, MaxBytes: 8 << 20}, func(e *JFREvent) error {
			if int(e.Stack) >= len(d.Stacks) || e.Weight < 0 || e.Bytes < 0 || e.Elements < 0 {
				t.Errorf("%+v", e)
			}
			return nil
		})
	})
}
