package hotspot

import (
	"context"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"

	"github.com/perfuse/perfuse/profile"
)

const histogram17 = ` num     #instances         #bytes  class name (module)
-------------------------------------------------------
   1:          5142         518456  [B (java.base@17.0.15)
   2:          4870         116880  java.lang.String (java.base@17.0.15)
   3:             3            144  Workload$$Lambda$14/0x0000000800c03000
   4:             2             48  Workload$$Lambda$15/0x0000000800c03218
   5:             1             24  a test with spaces$1
   6:             7            999  [[Ljava.util.HashMap$Node; (java.base@17.0.15)
Total         10025         636551
`

func TestHistogramText(t *testing.T) {
	classes, err := parseHistogram(histogram17)
	if err != nil {
		t.Fatal(err)
	}
	want := []Class{
		{"byte[]", 5142, 518456}, {"java.lang.String", 4870, 116880}, {"java.util.HashMap$Node[][]", 7, 999},
		{"Workload$$Lambda", 5, 192}, {"a test with spaces$1", 1, 24},
	}
	if len(classes) != len(want) {
		t.Fatalf("%+v", classes)
	}
	for i := range want {
		if classes[i] != want[i] {
			t.Errorf("%+v, want %+v", classes[i], want[i])
		}
	}
	if _, err := parseHistogram(histogram17[:200]); err == nil {
		t.Error("a histogram that is cut off")
	}
}

func TestClassName(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		if got := className(in); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
	f("[B", "byte[]")
	f("[[J", "long[][]")
	f("[Ljava/lang/String;", "java.lang.String[]")
	f("java/util/HashMap$Node", "java.util.HashMap$Node")
	f("A$$Lambda+0x00007f1c3c003000", "A$$Lambda")
	f("A$$Lambda$14/0x0000000800c03000", "A$$Lambda")
	f("java.lang.invoke.LambdaForm$MH/0x0000000800c03000", "java.lang.invoke.LambdaForm$MH")
	f("[", "")
	f("[X", "")
	f("[L;", "")
}

func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		answer, text string
		err          error
	}{
		{"0\nJDK 17.0.15\n", "JDK 17.0.15\n", nil},
		{"", "", ErrRefused},
		{"101\n", "", ErrRefused},
		{"HTTP/1.1 400\n", "", ErrRefused},
		{"-1\njava.lang.IllegalArgumentException: Unknown diagnostic command\n", "java.lang.IllegalArgumentException: Unknown diagnostic command\n", errUnknownCommand},
	} {
		text, err := parseAnswer(c.answer)
		if text != c.text || !errors.Is(err, c.err) {
			t.Errorf("%q: %q, %v", c.answer, text, err)
		}
	}
	if v, err := parseVersion("OpenJDK 64-Bit Server VM version 11.0.32.1+1\nJDK 11.0.32.1\n"); v != 11 || err != nil {
		t.Errorf("%d, %v", v, err)
	}
	if v, err := parseVersion("Eclipse OpenJ9 VM\n"); err == nil {
		t.Errorf("%d", v)
	}
}

func TestOptions(t *testing.T) {
	if err := (&Options{}).fill(); err == nil || !strings.Contains(err.Error(), "choose") {
		t.Errorf("a recording of nothing: %v", err)
	}
	o := Options{CPU: true}
	if err := o.fill(); err != nil || o.Allocations || o.Live {
		t.Errorf("%+v, %v", o, err)
	}
}

// TestDivide: who has what of a class's bytes.
func TestDivide(t *testing.T) {
	const a, b = profile.StackIndex(1), profile.StackIndex(2)
	type m = map[profile.StackIndex]float64
	type w = map[profile.StackIndex]weighed
	samples := func(ofA, ofB int) (s []liveSample) {
		for i := range ofA + ofB {
			stack := a
			if i >= ofA {
				stack = b
			}
			s = append(s, liveSample{stack: stack, nanos: 10, weight: 1})
		}
		return s
	}
	for _, c := range []struct {
		name    string
		had     m
		grown   w
		samples []liveSample
		wantA   float64
	}{
		{"nothing is known", nil, nil, nil, 0},
		{"by allocations", nil, w{a: {30, 3}, b: {10, 1}}, nil, 75},
		{"by live objects", nil, nil, samples(6, 4), 60},
		{"both agree", nil, w{a: {60, 600}, b: {40, 400}}, samples(60, 40), 60},
		{"what is allocated dies", nil, w{a: {1000, 900}, b: {10, 100}}, samples(0, 100), 0},
		{"it shrinks", m{a: 150, b: 50}, nil, nil, 75},
		{"it grows", m{a: 40, b: 0}, w{b: {10, 1}}, nil, 40},
	} {
		seen := m{}
		for stack, g := range c.grown {
			seen[stack] += g.samples
		}
		got := divide(100, c.had, survivors(c.grown, seen, c.samples), c.samples, 5)
		if math.Abs(got[a]-c.wantA) > 5 {
			t.Errorf("%s: %v", c.name, got)
		}
		if sum := total(got); len(got) > 0 && math.Abs(sum-100) > 1e-6 {
			t.Errorf("%s: the sum is %g", c.name, sum)
		}
	}
}

// TestBursts: two sites that share a class, one with four fifths of it, fill small TLABs in bursts. Where no new TLAB was worth it an object
// was allocated outside, and the next event comes a few microseconds later. Each site's part of the live objects' weights is its part of the bytes.
func TestBursts(t *testing.T) {
	const size, tlab, thread = 2016, 32 << 10, 7
	rng := rand.New(rand.NewPCG(1, 2))
	var a allocations
	a.begin()
	var l live
	var events []profile.JFREvent
	var of [3]float64
	now := int64(1e9)
	for range 2000 {
		now += 50e6
		for end, room, outside := now+200_000, 0, 0; now < end; {
			stack := profile.StackIndex(1)
			if rng.IntN(5) == 0 {
				stack = 2
			}
			of[stack] += size
			now += 150
			switch {
			case room >= size:
				room -= size
				continue
			case outside > 0:
				outside--
			default:
				room, outside = tlab-size, 20
				a.event(&profile.JFREvent{
					Name: "jdk.ObjectAllocationInNewTLAB", Class: "byte[]", Stack: stack, Thread: thread, StartNanos: now + 30 + rng.Int64N(400), Bytes: size, Weight: tlab,
				}, true)
			}
			events = append(events, profile.JFREvent{Class: "byte[]", Stack: stack, Thread: thread, AllocatedNanos: now, Bytes: size})
			now += 1000 + rng.Int64N(3000)
		}
	}
	d := newBuilder()
	for _, name := range []string{"a", "b"} {
		d.d.Stack(profile.Stack{d.class(name)})
	}
	l.begin(nil)
	space, _ := l.amounts(d, []Class{{"byte[]", int64(of[1]+of[2]) / size, int64(of[1] + of[2])}}, events, &a)
	var weights [3]float64
	for _, e := range events {
		weights[e.Stack] += l.weights[e.AllocatedNanos]
	}
	want := of[1] / (of[1] + of[2])
	if got := weights[1] / (weights[1] + weights[2]); len(events) < 10_000 || math.Abs(got-want) > 0.02 {
		t.Errorf("%d live objects give the larger site %.3f, want %.3f", len(events), got, want)
	}
	if got := space[d.site("byte[]", 1)] / (of[1] + of[2]); math.Abs(got-want) > 0.02 {
		t.Errorf("the larger site has %.3f, want %.3f", got, want)
	}
}

// TestFirstSample: what a thread allocated before the recording is in no sum.
func TestFirstSample(t *testing.T) {
	var a allocations
	a.begin()
	a.thread(&profile.JFREvent{Thread: 1, Allocated: 1000})
	a.thread(&profile.JFREvent{Thread: 1, Allocated: 5000}) // of a later chunk
	a.thread(&profile.JFREvent{Thread: 2, Allocated: 300 << 20})
	for _, c := range []struct {
		name         string
		thread       uint64
		weight, want int64
	}{
		{"the first", 1, 1500, 500},
		{"the second", 1, 700, 700},
		{"a new thread", 3, 900, 900},
		{"a virtual thread on an old carrier", 4, 301 << 20, 1 << 20},
		{"of another recording", 2, 10, 10},
	} {
		e := &profile.JFREvent{Name: "jdk.ObjectAllocationSample", Thread: c.thread, Weight: c.weight}
		if got := a.weight(e); got != float64(c.want) {
			t.Errorf("%s: %g, want %d", c.name, got, c.want)
		}
	}
}

func FuzzTexts(f *testing.F) {
	f.Add(histogram17)
	f.Add("0\nStarted recording 1.\n")
	f.Add("JDK 17.0.15\n")
	f.Add("Name:\tjava\nUid:\t0\t1\t2\t3\nGid:\t0\t1\t2\t3\nNSpid:\t10\t1\nSigCgt:\t0000000181005ccf\n")
	f.Add("10 (a) b) S 1 1 1 0 -1 4194560 1 1 1 1 5 6 0 0 20 0 1 0 12345 0 0 0")
	f.Fuzz(func(t *testing.T, text string) {
		classes, err := parseHistogram(text)
		for _, c := range classes {
			if err != nil || c.Name == "" || c.Bytes < 0 || c.Objects < 0 || c.Bytes > maxHeap {
				t.Errorf("%+v, %v", c, err)
			}
		}
		parseAnswer(text)
		parseVersion(text)
		if s, err := parseStatus([]byte(text)); err == nil && (s.namespacePID <= 0 || s.uid < 0) {
			t.Errorf("%+v", s)
		}
		parseStat([]byte(text))
	})
}

// FuzzBatch: whatever a JVM gives as recording and histogram, a batch is in order.
func FuzzBatch(f *testing.F) {
	for _, jdk := range []string{"17", "25"} {
		file, err := os.Open("../../../profile/testdata/jfr/workload-" + jdk + ".jfr.gz")
		if err != nil {
			f.Fatal(err)
		}
		zr, err := gzip.NewReader(file)
		if err != nil {
			f.Fatal(err)
		}
		data, err := io.ReadAll(zr)
		if err != nil {
			f.Fatal(err)
		}
		file.Close()
		f.Add(data, histogram17)
	}
	f.Add([]byte("FLR\x00"), strings.Repeat("9", 100))
	f.Fuzz(func(t *testing.T, data []byte, text string) {
		classes, _ := parseHistogram(text)
		for _, major := range []int{11, 17, 25} {
			r := &Recording{j: &JVM{PID: 1}, o: Options{Allocations: true, CPU: true, Live: true, MaxBytes: 8 << 20}, major: major}
			if err := r.o.fill(); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				b, err := r.batch(context.Background(), data, classes, cpuTimes{process: 5e9})
				if err != nil {
					break
				}
				if err := b.Check(); err != nil {
					t.Fatal(err)
				}
				for _, p := range b.Profiles {
					for _, s := range p.Samples {
						if s.Value <= 0 {
							t.Fatalf("%s: a value of %d", p.Type, s.Value)
						}
					}
				}
				r.read = nil
			}
		}
	})
}
