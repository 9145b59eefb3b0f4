package profile

import (
	"strings"
	"testing"
)

func TestResolveType(t *testing.T) {
	parse := func(s string) Type {
		typ, err := ParseType(s)
		if err != nil {
			t.Fatal(err)
		}
		return typ
	}
	known := []Type{
		TypeCPU, TypeCPUSamples,
		parse("memory:alloc_objects:count:space:bytes"), parse("memory:alloc_space:bytes:space:bytes"),
		parse("memory:inuse_space:bytes:space:bytes"), parse("off_cpu:off_cpu:nanoseconds:off_cpu:nanoseconds"),
		parse("cpu_time:seconds:seconds::"), parse("cpu_time:seconds:seconds:::delta"),
	}
	f := func(query, want string) {
		t.Helper()
		got, err := ResolveType(query, known)
		if err != nil {
			if !strings.Contains(err.Error(), want) || !strings.HasPrefix(want, "is ") {
				t.Errorf("%q: got %v, want %s", query, err, want)
			}
			return
		}
		if got.String() != want {
			t.Errorf("%q: got %s, want %s", query, got, want)
		}
	}
	cpu := TypeCPU.String()
	f("cpu", cpu)
	f("process_cpu:cpu:nanoseconds:cpu:nanoseconds", cpu)
	f("process_cpu:c", cpu)
	f("samples", TypeCPUSamples.String())
	f("sam", TypeCPUSamples.String())
	f("inuse", "memory:inuse_space:bytes:space:bytes")
	f("off", "off_cpu:off_cpu:nanoseconds:off_cpu:nanoseconds")
	f("cpu_time:seconds:seconds::", "cpu_time:seconds:seconds::")
	f("process_cpu", "is ambiguous, it could be one of\n  process_cpu:cpu:nanoseconds:cpu:nanoseconds\n  process_cpu:samples:count:cpu:nanoseconds")
	f("alloc", "is ambiguous, it could be one of\n  memory:alloc_objects:count:space:bytes\n  memory:alloc_space")
	f("seconds", "is ambiguous")
	f("goroutine", "is unknown, there are\n  process_cpu:cpu")
	f("", "is ambiguous")
	if _, err := ResolveType("cpu", nil); err == nil || !strings.Contains(err.Error(), "there are no profiles at all") {
		t.Errorf("nothing known: %v", err)
	}
}

func TestFormatValue(t *testing.T) {
	f := func(v int64, unit, want string) {
		t.Helper()
		if got := FormatValue(v, unit); got != want {
			t.Errorf("%d %s: got %s, want %s", v, unit, got, want)
		}
	}
	f(0, "nanoseconds", "0s")
	f(7, "nanoseconds", "7ns")
	f(999, "nanoseconds", "999ns")
	f(1234, "nanoseconds", "1.23µs")
	f(999_999, "nanoseconds", "1.00ms")
	f(12_345_678, "nanoseconds", "12.3ms")
	f(1_234_567_890, "nanoseconds", "1.23s")
	f(10_000_000_000, "nanoseconds", "10s")
	f(-90_000_000_000, "nanoseconds", "-90s")
	f(150_000_000_000, "nanoseconds", "2.50min")
	f(3*3600, "seconds", "3h")
	f(1<<62, "seconds", "53375995583650d")
	f(1500, "milliseconds", "1.50s")
	f(5, "microseconds", "5µs")
	f(0, "bytes", "0B")
	f(1023, "bytes", "1023B")
	f(1024, "bytes", "1KiB")
	f(5452595, "bytes", "5.20MiB")
	f(-(1 << 63), "bytes", "-8EiB")
	f(9999, "count", "9999")
	f(12345, "count", "12.3k")
	f(1_234_567, "", "1.23M")
	f(5, "goroutines", "5 goroutines")
}

func TestFormatShare(t *testing.T) {
	f := func(part, whole int64, want string) {
		t.Helper()
		if got := FormatShare(part, whole); got != want {
			t.Errorf("%d of %d: got %s, want %s", part, whole, got, want)
		}
	}
	f(0, 0, "0%")
	f(5, 0, "0%")
	f(0, 5, "0%")
	f(1, 1, "100%")
	f(9996, 10000, "100%")
	f(1, 3, "33.3%")
	f(1, 1000, "0.10%")
	f(1, 1_000_000, "<0.01%")
	f(-1, 4, "-25.0%")
}

func TestCheck(t *testing.T) {
	f := func(want string, spoil func(b *Batch)) {
		t.Helper()
		b := recording()
		spoil(b)
		if err := b.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if err := recording().Check(); err != nil {
		t.Fatal(err)
	}
	f("no dictionary", func(b *Batch) { b.Dictionary = nil })
	f("mapping 0", func(b *Batch) { b.Dictionary.Mappings[0].File = "x" })
	f("function 0", func(b *Batch) { b.Dictionary.Functions = nil })
	f("frame 0", func(b *Batch) { b.Dictionary.Frames[0].Addr = 1 })
	f("stack 0", func(b *Batch) { b.Dictionary.Stacks[0] = Stack{1} })
	f("link 0", func(b *Batch) { b.Dictionary.Links[0].SpanName = "x" })
	f("unknown kind 5", func(b *Batch) { b.Dictionary.Frames[1].Kind = KindCut })
	f("mapping 99 of", func(b *Batch) { b.Dictionary.Frames[1].Mapping = 99 })
	f("function 99 of", func(b *Batch) { b.Dictionary.Frames[1].Lines[0].Function = 99 })
	f("frame 99 of", func(b *Batch) { b.Dictionary.Stacks[1][0] = 99 })
	f("stack 99 of", func(b *Batch) { b.Profiles[0].Samples[0].Stack = 99 })
	f("link 99 of", func(b *Batch) { b.Profiles[0].Samples[0].Link = 99 })
	f("lacks a name", func(b *Batch) { b.Profiles[0].Type = Type{} })
	f("not in order", func(b *Batch) { b.Profiles[0].Labels = Labels{{"b", "1"}, {"a", "1"}} })
	f("no name or no value", func(b *Batch) { b.Profiles[0].Labels = Labels{{"b", ""}} })
}

func TestTypeLevel(t *testing.T) {
	f := func(typ string, want bool) {
		t.Helper()
		parsed, err := ParseType(typ)
		if err != nil {
			t.Fatal(err)
		}
		if got := parsed.Level(); got != want {
			t.Errorf("%s: level is %v, want %v", typ, got, want)
		}
	}
	f("process_cpu:cpu:nanoseconds:cpu:nanoseconds", false)
	f("process_cpu:samples:count:cpu:nanoseconds:delta", false)
	f("off_cpu:off_cpu:nanoseconds:off_cpu:nanoseconds", false)
	f("wall:wall:nanoseconds:wall:nanoseconds", false)
	f("memory:inuse_space:bytes:space:bytes", true)
	f("memory:inuse_objects:count:space:bytes", true)
	f("memory:inuse_space:bytes:space:bytes:delta", false) // how much it grew
	f("memory:alloc_space:bytes:space:bytes", false)
	f("memory:alloc_objects:count:space:bytes:delta", false)
	f("memory:page_faults:count:page_faults:count", false)
	f("memory:live:count:objects:count", true)
	f("memory:live_objects:count:objects:count", true)
	f("memory:lively:count:objects:count", false)
	f("goroutine:goroutine:count:goroutine:count", true)
	f("goroutines:goroutine:count:goroutine:count", true)
	f("threadcreate:threadcreate:count:threadcreate:count", true)
	f("mutex:contentions:count:contentions:count", false)
	f("block:delay:nanoseconds:contentions:count:delta", false)
}

func TestFormatFloat(t *testing.T) {
	f := func(v float64, unit, want string) {
		t.Helper()
		if got := FormatFloat(v, unit); got != want {
			t.Errorf("%g %s: got %s, want %s", v, unit, got, want)
		}
	}
	f(0, "count", "0")
	f(0.25, "count", "0.25")
	f(-0.0031, "", "-0.0031")
	f(1.5, "count", "1.50")
	f(123.4, "count", "123")
	f(12345.6, "count", "12.3k")
	f(1.5, "nanoseconds", "1.50ns")
	f(1.5*1024, "bytes", "1.50KiB")
}
