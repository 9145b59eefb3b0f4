package profile

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

const speedscopeHead = `{"$schema":"https://www.speedscope.app/file-format-schema.json","shared":{"frames":[{"name":"main"},{"name":"f","file":"a.js","line":3,"col":7},{"name":"g"}]},"profiles":`

func TestSpeedscope(t *testing.T) {
	f := func(name, profiles, want string) {
		t.Run(name, func(t *testing.T) {
			t.Helper()
			b, err := ParseSpeedscope([]byte(speedscopeHead+profiles+"}"), SpeedscopeOptions{Labels: NewLabels(Label{"service_name", "s"}), MaxFrames: 3})
			if err != nil {
				if !strings.Contains(err.Error(), want) || want == "" {
					t.Errorf("got %v, want %q", err, want)
				}
				return
			}
			if err := b.Check(); err != nil {
				t.Error(err)
			}
			var got strings.Builder
			for i := range b.Profiles {
				p := &b.Profiles[i]
				fmt.Fprintf(&got, "%s %s for %d ns\n", p.Type, p.Labels, p.DurationNanos)
				if err := WriteFolded(&got, b, p); err != nil {
					t.Fatal(err)
				}
			}
			if got.String() != want {
				t.Errorf("got\n%s\nwant\n%s", got.String(), want)
			}
		})
	}
	f("sampled", `[{"type":"sampled","name":"worker","unit":"milliseconds","startValue":10,"endValue":15,"samples":[[0,1],[0,1],[0]],"weights":[1,2.5,1]}]`,
		"process_cpu:cpu:nanoseconds:cpu:nanoseconds {profile_name=\"worker\", service_name=\"s\"} for 5000000 ns\nmain 1000000\nmain;f 3500000\n")
	f("evented", `[{"type":"evented","unit":"nanoseconds","startValue":0,"endValue":9,"events":[{"type":"O","frame":0,"at":0},{"type":"O","frame":2,"at":2},{"type":"C","frame":2,"at":6},{"type":"C","frame":0,"at":9}]}]`,
		"process_cpu:cpu:nanoseconds:cpu:nanoseconds {service_name=\"s\"} for 9 ns\nmain 5\nmain;g 4\n")
	f("bytes and counts", `[{"type":"sampled","unit":"bytes","samples":[[1]],"weights":[64]},{"type":"sampled","unit":"none","samples":[[2],[]],"weights":[3,1]}]`,
		"memory:alloc_space:bytes:space:bytes {service_name=\"s\"} for 0 ns\nf 64\nprocess_cpu:samples:count:cpu:nanoseconds {service_name=\"s\"} for 0 ns\n[no stack] 1\ng 3\n")
	f("no weight", `[{"type":"sampled","unit":"none","samples":[[1]],"weights":[0]}]`, "")

	f("lengths", `[{"type":"sampled","unit":"none","samples":[[1]],"weights":[]}]`, "profiles[0]: 1 samples and 0 weights")
	f("no such frame", `[{"type":"sampled","unit":"none","samples":[[3]],"weights":[1]}]`, "samples[0]: frame 3 of 3")
	f("negative frame", `[{"type":"evented","unit":"none","events":[{"type":"O","frame":-1,"at":0}]}]`, "events[0]: frame -1 of 3")
	f("negative weight", `[{"type":"sampled","unit":"none","samples":[[1]],"weights":[-1]}]`, "weights[0] is -1: want 0 or more")
	f("too much", `[{"type":"sampled","unit":"seconds","samples":[[1]],"weights":[1e300]}]`, "more than a number can hold")
	f("unit", `[{"type":"sampled","unit":"hours","samples":[],"weights":[]}]`, `the unit "hours": want none, nanoseconds`)
	f("type", `[{"type":"other","unit":"none"}]`, `the type "other": want sampled or evented`)
	f("too deep", `[{"type":"sampled","unit":"none","samples":[[0,1,2,0]],"weights":[1]}]`, "more than 3 frames")
	f("order", `[{"type":"evented","unit":"none","events":[{"type":"O","frame":0,"at":5},{"type":"C","frame":0,"at":2}]}]`, "events[1] is at 2, after one at 5")
	f("closing another", `[{"type":"evented","unit":"none","events":[{"type":"O","frame":0,"at":5},{"type":"C","frame":1,"at":6}]}]`, "events[1] closes frame 1")
	f("not closed", `[{"type":"evented","unit":"none","events":[{"type":"O","frame":0,"at":5}]}]`, "1 frames are never closed")
	f("event type", `[{"type":"evented","unit":"none","events":[{"type":"X","frame":0,"at":5}]}]`, `the type "X": want O or C`)
	f("none", `[]`, "it has no profiles")
	f("not JSON", `[`, "reading speedscope: ")

	if _, err := ParseSpeedscope([]byte(`{"nodes":[]}`), SpeedscopeOptions{}); err == nil || !strings.Contains(err.Error(), "want speedscope's file format") {
		t.Errorf("another tool's JSON: %v", err)
	}
	small := SpeedscopeOptions{MaxBytes: 600}
	if _, err := ParseSpeedscope([]byte(speedscopeHead+"[{}]}"), small); !errors.Is(err, ErrTooLarge) {
		t.Errorf("600 bytes of memory: %v", err)
	}
}

func TestFoldedOptions(t *testing.T) {
	b, err := ReadFolded(strings.NewReader("a;b c\na;b c\r\n\nmain 7\n"), TypeCPUSamples, FoldedOptions{Lines: true})
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	if err := WriteFolded(&got, b, &b.Profiles[0]); err != nil {
		t.Fatal(err)
	}
	if want := "a;b c 2\nmain 7 1\n"; got.String() != want {
		t.Errorf("got %q, want %q", got.String(), want)
	}
	if _, err := ReadFolded(strings.NewReader("a 1\nb 2\nc 3\n"), TypeCPU, FoldedOptions{MaxBytes: 1500}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("1500 bytes of memory: %v", err)
	}
	if _, err := ReadFolded(strings.NewReader("a 9223372036854775807\na 1\n"), TypeCPU, FoldedOptions{}); err == nil || !strings.Contains(err.Error(), "line 2: the sum") {
		t.Errorf("overflow: %v", err)
	}
}

func FuzzSpeedscope(f *testing.F) {
	f.Add([]byte(speedscopeHead + `[{"type":"sampled","unit":"none","samples":[[0,1]],"weights":[1]}]}`))
	f.Add([]byte(speedscopeHead + `[{"type":"evented","unit":"seconds","events":[{"type":"O","frame":0,"at":0},{"type":"C","frame":0,"at":2}]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := ParseSpeedscope(data, SpeedscopeOptions{MaxBytes: 1 << 20})
		if err != nil {
			return
		}
		if err := b.Check(); err != nil {
			t.Error(err)
		}
	})
}

func FuzzReadFolded(f *testing.F) {
	f.Add([]byte("main;f 3\n[unwind: x];g 1\n# c\n"), false)
	f.Add([]byte("main;f\nmain;f\n"), true)
	f.Fuzz(func(t *testing.T, data []byte, lines bool) {
		b, err := ReadFolded(strings.NewReader(string(data)), TypeCPU, FoldedOptions{Lines: lines, MaxBytes: 1 << 20})
		if err != nil {
			return
		}
		if err := b.Check(); err != nil {
			t.Error(err)
		}
	})
}
