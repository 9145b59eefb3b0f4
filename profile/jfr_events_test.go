package profile

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
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
			span, err := ReadJFR(context.Background(), data, d, o, func(e *JFREvent) error {
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
			o.Skip = span.Chunks
			if span, err := ReadJFR(context.Background(), data, d, o, func(e *JFREvent) error {
				t.Error("an event of a chunk that was read before")
				return nil
			}); err != nil || len(span.Chunks) != 0 {
				t.Errorf("%+v, %v", span, err)
			}
			o = JFREventOptions{Events: o.Events, MaxBytes: 10_000}
			if _, err := ReadJFR(context.Background(), data, d, o, func(*JFREvent) error { return nil }); err == nil || !strings.HasPrefix(err.Error(), "reading JFR: ") {
				t.Errorf("10 kB of memory: %v", err)
			}
		})
	}
}

// TestReadJFRSkip: a chunk that was read is known by when it began, even if the clock was set back since.
func TestReadJFRSkip(t *testing.T) {
	chunk := func(nanos, ticks uint64) []byte {
		b := bytes.Clone(jfrRecording(jfrConstants(), jfrSized(jfrTestID("profiler.LiveObject"), jfrNumbers(0, 1))))
		binary.BigEndian.PutUint64(b[32:], nanos)
		binary.BigEndian.PutUint64(b[48:], ticks)
		return b
	}
	read := func(skip []JFRChunk, chunks ...[]byte) []JFRChunk {
		t.Helper()
		n := 0
		span, err := ReadJFR(context.Background(), bytes.Join(chunks, nil), NewDictionary(), JFREventOptions{Events: []string{"profiler.LiveObject"}, Skip: skip},
			func(*JFREvent) error { n++; return nil })
		if err != nil || n != len(span.Chunks) {
			t.Fatalf("%d events of %+v, %v", n, span, err)
		}
		return span.Chunks
	}
	known := read(nil, chunk(1000e9, 10), chunk(2000e9, 20))
	if len(known) != 2 {
		t.Fatalf("%+v", known)
	}
	f := func(name string, nanos, ticks uint64, want int) {
		t.Helper()
		if got := read(known, chunk(2000e9, 20), chunk(nanos, ticks)); len(got) != want {
			t.Errorf("%s: %+v", name, got)
		}
	}
	f("a later one", 3000e9, 30, 1)
	f("one of a clock that was set back", 500e9, 30, 1)
	f("one of a clock that waits until it has caught up", 2000e9, 30, 1)
	f("one that was read", 1000e9, 10, 0)
}

// TestReadJFRHostile: events of no fields, which take three bytes each, are bounded, and whoever waits can give up.
func TestReadJFRHostile(t *testing.T) {
	old := jfrTestClasses
	defer func() { jfrTestClasses = old }()
	jfrTestClasses = append(old[:len(old):len(old)], "jdk.OldObjectSample")
	const events = 1 << 20
	data := jfrRecording(jfrConstants(), bytes.Repeat(jfrSized(jfrTestID("jdk.OldObjectSample"), nil), events))
	n := 0
	o := JFREventOptions{Events: []string{"jdk.OldObjectSample"}, MaxBytes: 16 << 20}
	_, err := ReadJFR(context.Background(), data, NewDictionary(), o, func(*JFREvent) error { n++; return nil })
	if !errors.Is(err, ErrTooLarge) || n < 100_000 || n > 16<<20/jfrEventCost {
		t.Errorf("%d events in 16 MiB, %v", n, err)
	}
	o.MaxBytes = 0
	ctx, cancel := context.WithCancel(context.Background())
	n = 0
	_, err = ReadJFR(ctx, data, NewDictionary(), o, func(*JFREvent) error {
		if n++; n == 1000 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || n > 10_000 {
		t.Errorf("given up after %d events: %v", n, err)
	}
}

func FuzzReadJFR(f *testing.F) {
	f.Add(workload(f, "17"))
	f.Add([]byte(jfrMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		d := NewDictionary()
		ReadJFR(context.Background(), data, d, JFREventOptions{Events: []string{"jdk.OldObjectSample", "jdk.ObjectAllocationInNewTLAB", "jdk.ExecutionSample"}, MaxBytes: 8 << 20}, func(e *JFREvent) error {
			if int(e.Stack) >= len(d.Stacks) || e.Weight < 0 || e.Bytes < 0 || e.Elements < 0 {
				t.Errorf("%+v", e)
			}
			return nil
		})
	})
}
