package hotspot

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What follows writes recordings that no JVM would. A class is its name, and fields as name:class, with ! for a constant and [] for an array.

func numbers(vs ...uint64) (b []byte) {
	for _, v := range vs {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func text(s string) []byte { return append(numbers(3, uint64(len(s))), s...) }

func sized(kind uint64, body []byte) []byte {
	body = append(numbers(kind), body...)
	n := uint32(len(body) + 4)
	return append([]byte{byte(n) | 0x80, byte(n>>7) | 0x80, byte(n>>14) | 0x80, byte(n >> 21 & 0x7f)}, body...)
}

// written is a recording: its classes have the numbers from 100 on, pools are constants by class.
type written struct {
	classes []string
	pools   [][]byte
	events  bytes.Buffer
}

func (w *written) id(name string) uint64 {
	for i, c := range w.classes {
		if c == name || strings.HasPrefix(c, name+" ") {
			return uint64(100 + i)
		}
	}
	panic("no class " + name)
}

// pool adds constants with the ids 1, 2, ...
func (w *written) pool(class string, n int, value func(i uint64) []byte) {
	b := numbers(w.id(class), uint64(n))
	for i := range uint64(n) {
		b = append(append(b, numbers(i+1)...), value(i+1)...)
	}
	w.pools = append(w.pools, b)
}

func (w *written) event(name string, fields ...uint64) {
	body := append(numbers(w.id(name)), numbers(fields...)...)
	w.events.Write(append(numbers(uint64(len(body)+1)), body...))
}

func (w *written) bytes() []byte {
	var texts []string
	element := func(name string, attributes []string, children [][]byte) []byte {
		index := func(s string) uint64 {
			texts = append(texts, s)
			return uint64(len(texts) - 1)
		}
		b := numbers(index(name), uint64(len(attributes)))
		for _, a := range attributes {
			k, v, _ := strings.Cut(a, "=")
			b = append(b, numbers(index(k), index(v))...)
		}
		return append(append(b, numbers(uint64(len(children)))...), bytes.Join(children, nil)...)
	}
	var classes [][]byte
	for _, c := range w.classes {
		words := strings.Fields(c)
		var fields [][]byte
		for _, f := range words[1:] {
			name, class, _ := strings.Cut(f, ":")
			attributes := []string{"name=" + name, fmt.Sprintf("class=%d", w.id(strings.TrimRight(class, "![]")))}
			if strings.HasSuffix(class, "!") {
				attributes = append(attributes, "constantPool=true")
			}
			if strings.HasSuffix(class, "[]") {
				attributes = append(attributes, "dimension=1")
			}
			fields = append(fields, element("field", attributes, nil))
		}
		classes = append(classes, element("class", []string{"name=" + words[0], fmt.Sprintf("id=%d", w.id(words[0]))}, fields))
	}
	tree := element("root", nil, [][]byte{element("metadata", nil, classes)})
	body := numbers(0, 0, 0, uint64(len(texts)))
	for _, s := range texts {
		body = append(body, text(s)...)
	}
	metadata := sized(0, append(body, tree...))
	checkpoint := sized(1, append(numbers(0, 0, 0, 1, uint64(len(w.pools))), bytes.Join(w.pools, nil)...))
	head := make([]byte, 68)
	copy(head, "FLR\x00")
	binary.BigEndian.PutUint16(head[4:], 2)
	binary.BigEndian.PutUint64(head[8:], uint64(len(head)+len(metadata)+len(checkpoint)+w.events.Len()))
	binary.BigEndian.PutUint64(head[24:], 68)
	binary.BigEndian.PutUint64(head[32:], 1_700_000_000e9)
	binary.BigEndian.PutUint64(head[40:], 60e9)
	binary.BigEndian.PutUint64(head[56:], 1e9)
	head[67] = 1
	return bytes.Join([][]byte{head, metadata, checkpoint, w.events.Bytes()}, nil)
}

// newWritten has what the JDK's recordings have, with so many classes of objects and stacks, each of so many frames.
func newWritten(classes, stacks, frames int) *written {
	w := &written{classes: []string{
		"long", "int", "java.lang.String", "jdk.types.Symbol string:java.lang.String", "java.lang.Class name:jdk.types.Symbol!",
		"jdk.types.Method type:java.lang.Class! name:jdk.types.Symbol!", "jdk.types.StackFrame method:jdk.types.Method!",
		"jdk.types.StackTrace frames:jdk.types.StackFrame[]",
		"jdk.ThreadAllocationStatistics thread:long allocated:long",
		"jdk.ObjectAllocationSample startTime:long thread:long objectClass:java.lang.Class! stackTrace:jdk.types.StackTrace! weight:long",
		"jdk.ObjectAllocationInNewTLAB startTime:long thread:long objectClass:java.lang.Class! stackTrace:jdk.types.StackTrace! allocationSize:long tlabSize:long",
		"jdk.ExecutionSample startTime:long stackTrace:jdk.types.StackTrace!",
		"jdk.OldObjectSample",
	}}
	w.pool("jdk.types.Symbol", max(classes, stacks), func(i uint64) []byte { return text(fmt.Sprint("C", i)) })
	w.pool("java.lang.Class", classes, func(i uint64) []byte { return numbers(i) })
	w.pool("jdk.types.Method", stacks, func(i uint64) []byte { return numbers(1, i) })
	w.pool("jdk.types.StackTrace", stacks, func(i uint64) []byte {
		return append(numbers(uint64(frames)), bytes.Repeat(numbers(i), frames)...)
	})
	return w
}

// TestHostileRecordings: what small recordings cost that were made to cost much.
func TestHostileRecordings(t *testing.T) {
	for _, c := range []struct {
		name      string
		make      func() *written
		megabytes float64       // all that is allocated
		cpu       time.Duration // of user time
		fails     bool
	}{
		{"live objects of no fields", func() *written {
			w := newWritten(1, 1, 1)
			for range 1_400_000 {
				w.event("jdk.OldObjectSample")
			}
			return w
		}, 64, 3 * time.Second, false},
		{"each class at each stack", func() *written {
			w := newWritten(1000, 1000, 1)
			for i := range uint64(1_000_000) {
				w.event("jdk.ObjectAllocationSample", i, 1, 1+i/1000, 1+i%1000, 1)
				w.event("jdk.ObjectAllocationInNewTLAB", i, 1, 1+i/1000, 1+i%1000, 1, 1)
			}
			return w
		}, 200, 5 * time.Second, false},
		{"each class at a deep stack", func() *written {
			w := newWritten(5000, 1, 100_000)
			for i := range uint64(5000) {
				w.event("jdk.ObjectAllocationSample", i, 1, 1+i, 1, 1<<20)
			}
			return w
		}, 400, 5 * time.Second, false},
		{"each sample in a thread and a period of its own", func() *written {
			w := newWritten(1, 1, 1)
			for i := range uint64(1_000_000) {
				w.event("jdk.ObjectAllocationSample", i, i, 1, 1, 1)
				w.event("jdk.ExecutionSample", i*100e6, 1)
			}
			return w
		}, 100, 5 * time.Second, false},
		{"threads that may be carried by many", func() *written {
			w := newWritten(1, 1, 1)
			for i := range uint64(maxKnownThreads) {
				w.event("jdk.ThreadAllocationStatistics", i, 9<<20+i)
			}
			for i := range uint64(maxKnownThreads) {
				w.event("jdk.ObjectAllocationSample", i, 1<<40+i, 1, 1, 9<<20+i%1000)
			}
			return w
		}, 100, 2 * time.Second, false},
		{"more events than a recording of its maximum has", func() *written {
			w := newWritten(1, 1, 1)
			for range 10_000_000 {
				w.event("jdk.OldObjectSample")
			}
			return w
		}, 64, 5 * time.Second, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := c.make().bytes()
			r := &Recording{j: &JVM{PID: 1}, o: Options{Allocations: true, CPU: true, Live: true}, major: 17}
			if err := r.o.fill(); err != nil {
				t.Fatal(err)
			}
			classes := []Class{{Name: "C1", Objects: 1 << 20, Bytes: 1 << 30}}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			cpu := userTime(t)
			b, err := r.decode(context.Background(), data, classes, cpuTimes{process: 5e9})
			cpu = userTime(t) - cpu
			runtime.ReadMemStats(&after)
			megabytes := float64(after.TotalAlloc-before.TotalAlloc) / 1e6
			t.Logf("%.1f MB of recording: %.0f MB, %v", float64(len(data))/1e6, megabytes, cpu)
			if megabytes > c.megabytes || cpu > c.cpu {
				t.Errorf("%.1f MB of recording took %.0f MB and %v, more than %.0f MB or %v", float64(len(data))/1e6, megabytes, cpu, c.megabytes, c.cpu)
			}
			if c.fails != (err != nil) {
				t.Fatal(err)
			}
			if err == nil {
				if err := b.Check(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func userTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano())
}

// TestHostileMemory: what is kept from one dump to the next.
func TestHostileMemory(t *testing.T) {
	for _, c := range []struct {
		name                 string
		stacks, frames, long int
	}{{"long names", 1000, 1, 60_000}, {"deep stacks", 40, 100_000, 0}} {
		t.Run(c.name, func(t *testing.T) {
			w := newWritten(1, c.stacks, c.frames)
			w.pool("jdk.types.Symbol", c.stacks, func(i uint64) []byte {
				return text(fmt.Sprint("C", i, strings.Repeat("x", c.long*int(min(i-1, 1)))))
			})
			for i := range uint64(c.stacks) {
				for range minSamples {
					w.event("jdk.ObjectAllocationSample", i, 1, 1, 1+i, 1000)
				}
			}
			r := &Recording{j: &JVM{PID: 1}, o: Options{Live: true}, major: 17}
			if err := r.o.fill(); err != nil {
				t.Fatal(err)
			}
			if _, err := r.decode(context.Background(), w.bytes(), []Class{{Name: "C1", Objects: 1000, Bytes: 1e6}}, cpuTimes{}); err != nil {
				t.Fatal(err)
			}
			frames, names := 0, 0
			for _, s := range r.live.d.Stacks {
				frames += len(s)
			}
			for _, f := range r.live.d.Functions {
				names += len(f.Name)
			}
			t.Logf("%d frames, %d bytes of names", frames, names)
			if frames < 100 || frames > maxKeptFrames || names < 100 || names > maxKeptBytes {
				t.Errorf("%d frames, %d bytes of names", frames, names)
			}
		})
	}
}

// TestDecodeGivesUp: whoever waits for a batch can stop waiting, also for his turn.
func TestDecodeGivesUp(t *testing.T) {
	w := newWritten(1, 1, 1)
	for range 100_000 {
		w.event("jdk.OldObjectSample")
	}
	data := w.bytes()
	r := &Recording{j: &JVM{PID: 1}, o: Options{Live: true}, major: 17}
	if err := r.o.fill(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for range 10 { // of two ways that are open select takes either
		if _, err := r.decode(ctx, data, nil, cpuTimes{}); !errors.Is(err, context.Canceled) {
			t.Errorf("given up: %v", err)
		}
	}
	decoding <- struct{}{}
	if _, err := r.decode(ctx, data, nil, cpuTimes{}); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "others") {
		t.Errorf("while another is decoded: %v", err)
	}
	<-decoding
	if _, err := r.decode(context.Background(), data, nil, cpuTimes{}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestCarriers compares with a look at all.
func TestCarriers(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		before := map[uint64]int64{}
		for i := range uint64(rng.IntN(50)) {
			before[i] = rng.Int64N(20)
		}
		var c carriers
		for range 60 {
			w := rng.Int64N(25)
			if rng.IntN(20) == 0 {
				w = math.MaxInt64
			}
			want := int64(0)
			for _, had := range before {
				if had <= w {
					want = max(want, had)
				}
			}
			thread, had := c.last(before, w)
			if got, ok := before[thread]; had != want || want > 0 && (!ok || got != had) {
				t.Fatalf("thread %d with %d of %v, at most %d: want %d", thread, had, before, w, want)
			}
			delete(before, thread)
		}
	}
}

// TestManySites: what does not fit is one site, and the sum is whole.
func TestManySites(t *testing.T) {
	w := newWritten(300, 300, 1)
	for i := range uint64(90_000) {
		w.event("jdk.ObjectAllocationSample", i, 1, 1+i/300, 1+i%300, 100)
	}
	r := &Recording{j: &JVM{PID: 1}, o: Options{Allocations: true}, major: 17}
	if err := r.o.fill(); err != nil {
		t.Fatal(err)
	}
	b, err := r.decode(context.Background(), w.bytes(), nil, cpuTimes{})
	if err != nil {
		t.Fatal(err)
	}
	p := &b.Profiles[0]
	if p.Total() != 9_000_000 || len(p.Samples) != maxAllocSites+1 {
		t.Errorf("%d in %d sites", p.Total(), len(p.Samples))
	}
	if got := byCaller(b, p)[otherSites+" [unwind: of more sites than are told apart]"]; got != (90_000-maxAllocSites)*100 {
		t.Errorf("%d in no site of its own", got)
	}
}
