package profile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"
)

func workload(t testing.TB, jdk string) []byte {
	t.Helper()
	f, err := os.Open("testdata/jfr/workload-" + jdk + ".jfr.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zr, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(zr)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestJFR holds recordings of testdata/jfr/Workload.java to what that program is known to do.
func TestJFR(t *testing.T) {
	for _, jdk := range []string{"17", "25"} {
		t.Run("JDK "+jdk, func(t *testing.T) {
			data := workload(t, jdk)
			b, err := ParseJFR(data, JFROptions{Labels: NewLabels(Label{"service_name", "w"})})
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Check(); err != nil {
				t.Error(err)
			}
			byType := map[string]*Profile{}
			for i := range b.Profiles {
				byType[b.Profiles[i].Type.String()] = &b.Profiles[i]
			}
			for _, c := range []struct {
				typ, first string
				share      float64 // of the whole, that the first has itself
			}{
				{"process_cpu:cpu:nanoseconds:cpu:nanoseconds", "Workload.burn", 0.9},
				{"memory:alloc_in_new_tlab_bytes:bytes:space:bytes", "Workload.site", 0.6},
				{"memory:alloc_outside_tlab_objects:count:space:bytes", "Workload.site", 0.9},
				{"memory:alloc_outside_tlab_bytes:bytes:space:bytes", "Workload.site", 0.9},
				{"mutex:contentions:count:mutex:count", "Workload.hold", 1},
				{"mutex:delay:nanoseconds:mutex:count", "Workload.hold", 1},
				{"block:delay:nanoseconds:block:count", "jdk.internal.misc.Unsafe.park", 1},
			} {
				p := byType[c.typ]
				if p == nil {
					t.Errorf("no %s", c.typ)
					continue
				}
				top := Top(b, p)[0]
				if share := float64(top.Self) / float64(p.Total()); top.Name != c.first || share < c.share {
					t.Errorf("%s: %s has %.2f of %d, want %s with at least %.2f", c.typ, top.Name, share, p.Total(), c.first, c.share)
				}
				if p.DurationNanos < 1.4e9 || p.DurationNanos > 3e9 || p.TimeNanos < 1_795_000_000e9 {
					t.Errorf("%s: from %d for %d ns", c.typ, p.TimeNanos, p.DurationNanos)
				}
			}
			// The settings of the recording say 10 ms a sample; the bytes of the 64 KiB arrays are known.
			cpu := byType["process_cpu:cpu:nanoseconds:cpu:nanoseconds"]
			if cpu.Period != 10e6 || cpu.Total()%10e6 != 0 {
				t.Errorf("period %d, total %d", cpu.Period, cpu.Total())
			}
			objects, size := byType["memory:alloc_outside_tlab_objects:count:space:bytes"].Total(), byType["memory:alloc_outside_tlab_bytes:bytes:space:bytes"].Total()
			if per := size / objects; per < 65_000 || per > 66_000 {
				t.Errorf("%d bytes in %d arrays", size, objects)
			}
			twice, err := ParseJFR(append(bytes.Clone(data), data...), JFROptions{SamplesPerSecond: 50})
			if err != nil {
				t.Fatal(err)
			}
			for i := range twice.Profiles {
				if p := &twice.Profiles[i]; p.Type == TypeCPU && (p.Total() != 4*cpu.Total() || p.Period != 20e6) {
					t.Errorf("two chunks at 50 Hz: %d, want four times %d", p.Total(), cpu.Total())
				}
			}
		})
	}
}

func TestJFRErrors(t *testing.T) {
	data := workload(t, "17")
	if _, err := ParseJFR(data, JFROptions{MaxBytes: 10_000}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("10 kB of memory: %v", err)
	}
	for _, n := range []int{0, 4, 67, 68, 1000, len(data) - 1} {
		if _, err := ParseJFR(data[:n], JFROptions{}); err == nil || !strings.HasPrefix(err.Error(), "reading JFR: ") {
			t.Errorf("cut off at %d: %v", n, err)
		}
	}
	plain := bytes.Clone(data)
	plain[67] = 0
	if _, err := ParseJFR(plain, JFROptions{}); err == nil || !strings.Contains(err.Error(), "not compressed") {
		t.Errorf("plain integers: %v", err)
	}
}

// What follows writes recordings as async-profiler does.

func jfrNumbers(vs ...uint64) (b []byte) {
	for _, v := range vs {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func jfrText(s string) []byte {
	return append(append([]byte{jfrUTF8}, jfrNumbers(uint64(len(s)))...), s...)
}

// jfrElement writes an element: its name, attributes as key=value, its children.
func jfrElement(texts *[]string, name string, attributes []string, children ...[]byte) []byte {
	index := func(s string) uint64 {
		*texts = append(*texts, s)
		return uint64(len(*texts) - 1)
	}
	b := jfrNumbers(index(name), uint64(len(attributes)))
	for _, a := range attributes {
		k, v, _ := strings.Cut(a, "=")
		b = append(b, jfrNumbers(index(k), index(v))...)
	}
	b = append(b, jfrNumbers(uint64(len(children)))...)
	return append(b, bytes.Join(children, nil)...)
}

func jfrSized(typ uint64, body []byte) []byte {
	body = append(jfrNumbers(typ), body...)
	return append(jfrNumbers(uint64(len(body)+1)), body...) // all events here are below 128 bytes, or padded by sized4
}

func jfrSized4(typ uint64, body []byte) []byte {
	body = append(jfrNumbers(typ), body...)
	n := uint32(len(body) + 4)
	return append([]byte{byte(n) | 0x80, byte(n>>7) | 0x80, byte(n>>14) | 0x80, byte(n >> 21 & 0x7f)}, body...)
}

// classes in the recordings of the test: name, then fields as name:class, with ! for a constant and [] for an array.
var jfrTestClasses = []string{
	"long", "int", "boolean", "java.lang.String",
	"jdk.types.Symbol string:java.lang.String", "java.lang.Class name:jdk.types.Symbol!",
	"jdk.types.Method type:java.lang.Class! name:jdk.types.Symbol!", "jdk.types.FrameType description:java.lang.String",
	"jdk.types.StackFrame method:jdk.types.Method! lineNumber:int type:jdk.types.FrameType!",
	"jdk.types.StackTrace truncated:boolean frames:jdk.types.StackFrame[]", "jdk.types.ThreadState name:java.lang.String",
	"jdk.ExecutionSample startTime:long stackTrace:jdk.types.StackTrace! state:jdk.types.ThreadState! contextId:long spanId:long spanName:long",
	"profiler.WallClockSample startTime:long stackTrace:jdk.types.StackTrace! samples:int",
	"jdk.ActiveSetting startTime:long id:long name:java.lang.String value:java.lang.String",
	"profiler.LiveObject startTime:long stackTrace:jdk.types.StackTrace!",
}

func jfrTestID(name string) uint64 {
	for i, c := range jfrTestClasses {
		if c == name || strings.HasPrefix(c, name+" ") {
			return uint64(i + 100)
		}
	}
	panic("no class " + name)
}

func jfrRecording(constants, events []byte) []byte {
	var texts []string
	var classes [][]byte
	for _, c := range jfrTestClasses {
		words := strings.Fields(c)
		var fields [][]byte
		for _, f := range words[1:] {
			name, class, _ := strings.Cut(f, ":")
			attributes := []string{"name=" + name}
			if strings.HasSuffix(class, "!") {
				attributes = append(attributes, "constantPool=true")
			}
			if strings.HasSuffix(class, "[]") {
				attributes = append(attributes, "dimension=1")
			}
			attributes = append(attributes, fmt.Sprintf("class=%d", jfrTestID(strings.TrimRight(class, "![]"))))
			fields = append(fields, jfrElement(&texts, "field", attributes))
		}
		classes = append(classes, jfrElement(&texts, "class", []string{"name=" + words[0], fmt.Sprintf("id=%d", jfrTestID(words[0]))}, fields...))
	}
	tree := jfrElement(&texts, "root", nil, jfrElement(&texts, "metadata", nil, classes...))
	body := jfrNumbers(0, 0, 0, uint64(len(texts)))
	for _, s := range texts {
		body = append(body, jfrText(s)...)
	}
	metadata := jfrSized4(jfrMetadata, append(body, tree...))
	checkpoint := jfrSized4(jfrCheckpoint, append(jfrNumbers(0, 0, 0, 1), constants...))
	head := make([]byte, jfrHeaderSize)
	copy(head, jfrMagic)
	binary.BigEndian.PutUint16(head[4:], 2)
	binary.BigEndian.PutUint64(head[8:], uint64(jfrHeaderSize+len(metadata)+len(events)+len(checkpoint)))
	binary.BigEndian.PutUint64(head[24:], jfrHeaderSize)
	binary.BigEndian.PutUint64(head[32:], 1_700_000_000e9)
	binary.BigEndian.PutUint64(head[40:], 10e9)
	binary.BigEndian.PutUint64(head[56:], 1e9)
	head[67] = jfrCompressed
	return bytes.Join([][]byte{head, metadata, events, checkpoint}, nil)
}

func jfrConstants(pools ...[]byte) []byte {
	return append(jfrNumbers(uint64(len(pools))), bytes.Join(pools, nil)...)
}

// jfrPoolOf writes constants with the ids 1, 2, ...
func jfrPoolOf(class string, values ...[]byte) []byte {
	b := jfrNumbers(jfrTestID(class), uint64(len(values)))
	for i, v := range values {
		b = append(append(b, jfrNumbers(uint64(i+1))...), v...)
	}
	return b
}

// TestJFRAsync reads what async-profiler writes beyond the JDK: wall-clock samples, native and kernel frames, contexts.
func TestJFRAsync(t *testing.T) {
	constants := jfrConstants(
		jfrPoolOf("jdk.types.Symbol", jfrText("shop/Cart$$Lambda$14"), jfrText("add"), jfrText("vfs_read_[k]"), jfrText("")),
		jfrPoolOf("java.lang.Class", jfrNumbers(1), jfrNumbers(4)),
		jfrPoolOf("jdk.types.Method", jfrNumbers(1, 2), jfrNumbers(2, 3)),
		jfrPoolOf("jdk.types.FrameType", jfrText("JIT compiled"), jfrText("Kernel")),
		jfrPoolOf("jdk.types.StackTrace", append([]byte{0}, jfrNumbers(2, 2, 0, 2, 1, 33, 1)...), append([]byte{1}, jfrNumbers(1, 1, 0, 1)...)),
		jfrPoolOf("jdk.types.ThreadState", jfrText("STATE_RUNNABLE"), jfrText("STATE_SLEEPING")),
	)
	setting := func(name, value string) []byte {
		return jfrSized(jfrTestID("jdk.ActiveSetting"), bytes.Join([][]byte{jfrNumbers(0, 0), jfrText(name), jfrText(value)}, nil))
	}
	sample := func(stack, state, context, span, name uint64) []byte {
		return jfrSized(jfrTestID("jdk.ExecutionSample"), jfrNumbers(0, stack, state, context, span, name))
	}
	contexts, err := ParseJFRContexts([]byte("\x0a\x0a\x08\x07\x12\x06\x0a\x04\x08\x01\x10\x02" +
		"\x12\x08\x08\x01\x12\x04user" + "\x12\x07\x08\x02\x12\x03ann" + "\x12\x08\x08\x03\x12\x04/buy"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		events [][]byte
		want   string
	}{
		{"labels and spans", [][]byte{sample(1, 1, 7, 0xabc, 3), sample(1, 1, 7, 0xabc, 3), sample(2, 1, 0, 0, 0), setting("interval", "1000000")},
			`process_cpu:cpu:nanoseconds:cpu:nanoseconds {service_name="s", user="ann"}
[shop.Cart$$Lambda.add;vfs_read_[k] 2000000] span 0000000000000abc /buy
process_cpu:cpu:nanoseconds:cpu:nanoseconds {service_name="s"}
[[unwind: deeper than the recorder's stackdepth];shop.Cart$$Lambda.add 1000000]
`},
		{"wall clock", [][]byte{setting("event", "wall"), setting("interval", "20000000"), sample(1, 1, 0, 0, 0), sample(1, 2, 0, 0, 0)},
			`wall:wall:nanoseconds:wall:nanoseconds {service_name="s"}
[shop.Cart$$Lambda.add;vfs_read_[k] 40000000]
process_cpu:cpu:nanoseconds:cpu:nanoseconds {service_name="s"}
[shop.Cart$$Lambda.add;vfs_read_[k] 20000000]
`},
		{"samples that stand for many, live objects, an unknown stack", [][]byte{
			jfrSized(jfrTestID("profiler.WallClockSample"), jfrNumbers(0, 1, 3)), jfrSized(jfrTestID("profiler.LiveObject"), jfrNumbers(0, 9)),
		}, `wall:wall:nanoseconds:wall:nanoseconds {service_name="s"}
[shop.Cart$$Lambda.add;vfs_read_[k] 30000000]
memory:live:count:objects:count {service_name="s"}
[[no stack] 1]
`},
		{"nothing", nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := ParseJFR(jfrRecording(constants, bytes.Join(c.events, nil)), JFROptions{Labels: NewLabels(Label{"service_name", "s"}), Contexts: contexts})
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for i := range b.Profiles {
				p := &b.Profiles[i]
				var text strings.Builder
				if err := WriteFolded(&text, b, p); err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&got, "%s %s\n[%s]", p.Type, p.Labels, strings.TrimSpace(text.String()))
				if l := b.Dictionary.Links[p.Samples[0].Link]; l != (Link{}) {
					fmt.Fprintf(&got, " span %x %s", l.SpanID, l.SpanName)
				}
				got.WriteByte('\n')
			}
			if got.String() != c.want {
				t.Errorf("got\n%s\nwant\n%s", got.String(), c.want)
			}
		})
	}
	if _, err := ParseJFRContexts([]byte("\x0a\xff")); err == nil {
		t.Error("broken contexts are taken")
	}
}

// TestJFRHostile: classes that contain themselves, and arrays of nothing.
func TestJFRHostile(t *testing.T) {
	old := jfrTestClasses
	defer func() { jfrTestClasses = old }()
	events := jfrSized(100+uint64(len(old)), jfrNumbers(1<<40, 1<<40))
	for _, class := range []string{"jdk.ThreadPark self:jdk.ThreadPark", "jdk.ThreadPark many:empty[]"} {
		jfrTestClasses = append(old[:len(old):len(old)], class, "empty")
		if _, err := ParseJFR(jfrRecording(jfrConstants(), events), JFROptions{}); err == nil {
			t.Errorf("%s: no error", class)
		}
	}
}

func FuzzJFR(f *testing.F) {
	f.Add(jfrRecording(jfrConstants(
		jfrPoolOf("jdk.types.Symbol", jfrText("A"), jfrText("f")), jfrPoolOf("java.lang.Class", jfrNumbers(1)), jfrPoolOf("jdk.types.Method", jfrNumbers(1, 2)),
		jfrPoolOf("jdk.types.FrameType", jfrText("Inlined")), jfrPoolOf("jdk.types.StackTrace", append([]byte{1}, jfrNumbers(1, 1, 5, 1)...)),
	), jfrSized(jfrTestID("jdk.ExecutionSample"), jfrNumbers(0, 1, 1, 0, 0, 0))))
	f.Add([]byte(jfrMagic))
	f.Add(workload(f, "17"))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := ParseJFR(data, JFROptions{MaxBytes: 8 << 20})
		if err != nil {
			return
		}
		if err := b.Check(); err != nil {
			t.Error(err)
		}
	})
}

// FuzzJFRContexts: whatever a snapshot of labels holds, a recording is read with it.
func FuzzJFRContexts(f *testing.F) {
	f.Add([]byte("\x0a\x0a\x08\x07\x12\x06\x0a\x04\x08\x01\x10\x02" + "\x12\x08\x08\x01\x12\x04user" + "\x12\x07\x08\x02\x12\x03ann"))
	f.Add([]byte("\x0a\x0a\x08\x07\x12\x06\x0a\x04\x08\x01\x10\x02" + "\x12\x08\x08\x01\x12\x04\xff\x00er" + "\x12\x08\x08\x01\x12\x04user"))
	recording := jfrRecording(jfrConstants(
		jfrPoolOf("jdk.types.Symbol", jfrText("A"), jfrText("f")), jfrPoolOf("java.lang.Class", jfrNumbers(1)), jfrPoolOf("jdk.types.Method", jfrNumbers(1, 2)),
		jfrPoolOf("jdk.types.FrameType", jfrText("Inlined")), jfrPoolOf("jdk.types.StackTrace", append([]byte{1}, jfrNumbers(1, 1, 5, 1)...)),
	), jfrSized(jfrTestID("jdk.ExecutionSample"), jfrNumbers(0, 1, 1, 7, 0xabc, 2)))
	f.Fuzz(func(t *testing.T, data []byte) {
		contexts, err := ParseJFRContexts(data)
		if err != nil {
			return
		}
		b, err := ParseJFR(recording, JFROptions{Contexts: contexts})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Check(); err != nil {
			t.Error(err)
		}
		for _, p := range b.Profiles {
			for _, l := range p.Labels {
				if !utf8.ValidString(l.Name + l.Value) {
					t.Errorf("the label %q", l)
				}
			}
		}
	})
}
