package hotspot

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/perfuse/perfuse/profile"
)

var eventNames = []string{
	"jdk.ExecutionSample", "jdk.CPUTimeSample", "jdk.ObjectAllocationSample", "jdk.ObjectAllocationInNewTLAB",
	"jdk.ObjectAllocationOutsideTLAB", "jdk.OldObjectSample",
}

// builder makes the samples of a batch.
type builder struct {
	d       *profile.Dictionary
	classes map[string]profile.FrameIndex
}

// class returns a frame that stands for a class, the leaf of the stacks that allocate its objects.
func (b *builder) class(name string) profile.FrameIndex {
	f, ok := b.classes[name]
	if !ok {
		f = b.d.Frame(profile.Frame{Kind: profile.KindInterpreted, Lines: []profile.Line{{Function: b.d.Function(profile.Function{Name: name})}}})
		b.classes[name] = f
	}
	return f
}

// site returns the stack of an allocation site with the class that it allocates.
func (b *builder) site(class string, stack profile.StackIndex) profile.StackIndex {
	s := make(profile.Stack, 0, len(b.d.Stacks[stack])+1)
	return b.d.Stack(append(append(s, b.class(class)), b.d.Stacks[stack]...))
}

// reason returns a frame that stands for why there is no stack.
func (b *builder) reason(text string) profile.FrameIndex {
	return b.d.Frame(profile.Frame{Kind: profile.KindUnwind, Lines: []profile.Line{{Function: b.d.Function(profile.Function{Name: "[unwind: " + text + "]"})}}})
}

// amounts are values by stack.
type amounts map[profile.StackIndex]float64

// profile makes a profile of amounts: whole numbers whose sum is that of the amounts, rounded.
func (a amounts) profile(t profile.Type, span profile.JFRSpan, period int64) (p profile.Profile, ok bool) {
	p = profile.Profile{Type: t, TimeNanos: span.StartNanos, DurationNanos: span.EndNanos - span.StartNanos, Period: period}
	stacks := make([]profile.StackIndex, 0, len(a))
	for s := range a {
		stacks = append(stacks, s)
	}
	slices.Sort(stacks)
	var sum float64
	var given int64
	for _, s := range stacks {
		sum = min(sum+max(a[s], 0), math.MaxInt64/4)
		if v := int64(math.Round(sum)) - given; v > 0 {
			p.Samples = append(p.Samples, profile.Sample{Stack: s, Value: v})
			given += v
		}
	}
	return p, len(p.Samples) > 0
}

// batch makes profiles of a recording.
func (r *Recording) batch(data []byte, classes []Class, cpu cpuTimes) (*profile.Batch, error) {
	b := &builder{d: profile.NewDictionary(), classes: map[string]profile.FrameIndex{}}
	out := &profile.Batch{Dictionary: b.d}
	executed, timed := amounts{}, amounts{}
	moments := map[int64]bool{} // periods with samples
	var old []profile.JFREvent
	r.alloc.begin()
	if r.read == 0 {
		// First: a recording's events are not in the order of time.
		if _, err := profile.ReadJFR(data, b.d, profile.JFREventOptions{Events: []string{"jdk.ThreadAllocationStatistics"}}, func(e *profile.JFREvent) error {
			if e.Chunk == 0 {
				r.alloc.thread(e)
			}
			return nil
		}); err != nil {
			return nil, fmt.Errorf("the recording of process %d: %w", r.j.PID, err)
		}
	}
	names := map[string]string{}
	span, err := profile.ReadJFR(data, b.d, profile.JFREventOptions{Events: eventNames, AfterNanos: r.read, MaxBytes: 4 * r.o.MaxBytes}, func(e *profile.JFREvent) error {
		if e.Class != "" {
			name, ok := names[e.Class]
			if !ok {
				name = className(e.Class)
				names[e.Class] = name
			}
			e.Class = name
		}
		switch e.Name {
		case "jdk.ExecutionSample":
			executed[e.Stack]++
			moments[e.StartNanos/int64(r.o.Period)] = true
		case "jdk.CPUTimeSample":
			timed[e.Stack] += float64(e.PeriodNanos)
		case "jdk.OldObjectSample":
			old = append(old, *e)
		default:
			r.alloc.event(e, r.major >= 16)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("the recording of process %d: %w", r.j.PID, err)
	}
	if len(span.Chunks) == 0 {
		return out, nil
	}
	r.read = span.Chunks[len(span.Chunks)-1]
	add := func(p profile.Profile, ok bool) {
		if ok {
			out.Profiles = append(out.Profiles, p)
		}
	}
	if r.o.CPU {
		if r.major < 25 {
			timed = scaleCPU(b, executed, r.o.Period, len(moments), cpu.java())
		} else if v, ok := timed[0]; ok {
			delete(timed, 0)
			timed[b.d.Stack(profile.Stack{b.reason("the JVM could not walk the stack")})] += v
		}
		add(timed.profile(profile.TypeCPU, span, int64(r.o.Period)))
	}
	if r.o.Allocations {
		space, objects := r.alloc.amounts(b, classes)
		add(space.profile(profile.TypeAllocSpace, span, 0))
		add(objects.profile(profile.TypeAllocObjects, span, 0))
	}
	if r.o.Live {
		// Whoever dumps a recording has the live samples written again: the last ones are of this moment.
		last := len(span.Chunks) - 1
		old = slices.DeleteFunc(old, func(e profile.JFREvent) bool { return e.Chunk != last })
		space, objects := r.live.amounts(b, classes, old, &r.alloc)
		add(space.profile(profile.TypeInuseSpace, span, 0))
		add(objects.profile(profile.TypeInuseObjects, span, 0))
	}
	return out, nil
}

const (
	// sampledAtOnce is how many samples are in a period on average when there are more threads than the recorder of JDK 11 to 24 samples
	// at once, which is five: a round of them may lie in two periods.
	sampledAtOnce = 2.5
	// walked is which part of the samples the recorder gets at least; the others' stacks it cannot walk.
	walked = 0.8
)

// scaleCPU makes CPU time of counts of execution samples. The recorder samples threads that run Java code, or want to: at most five
// at once, and not those in native code. The kernel knows the user CPU time of all threads that are not the JVM's own, and
// that is what the samples stand for:
//
//	more samples than time      threads wait for a CPU: each sample counts less
//	fewer, five at once         there are more threads than are sampled: each counts more
//	fewer, not that many        up to a quarter more, for stacks that could not be walked; the rest, native code or what a recorder
//	                            that waits for a CPU itself misses, is a frame that says so
//
// Time in the kernel is not in it.
func scaleCPU(b *builder, counts amounts, period time.Duration, moments int, java time.Duration) amounts {
	var n float64
	for _, c := range counts {
		n += c
	}
	rest := float64(java)
	out := amounts{}
	if n > 0 {
		each := rest / n
		if n < sampledAtOnce*float64(moments) {
			each = min(each, float64(period)/walked)
		}
		for s, c := range counts {
			if s == 0 {
				s = b.d.Stack(profile.Stack{b.reason("the JVM could not walk the stack")})
			}
			out[s] += c * each
		}
		rest -= n * each
	}
	if rest >= 0.5*float64(tick) {
		out[b.d.Stack(profile.Stack{b.reason("in native code, or missed by the recorder")})] += rest
	}
	return out
}
