package hotspot

import (
	"context"
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

// What a batch may take beside what its recording does. A real one has some 100 live objects and 10 000 sites.
const (
	maxOld       = 1 << 15 // live objects: old-object-queue-size
	maxMoments   = 1 << 18
	maxChunks    = 256 // that are known to have been read
	maxClasses   = 1 << 16
	maxSiteBytes = 128 << 20 // stacks of sites, each with its class
)

// decoding is held by who decodes: recordings are decoded one after the other, so that those of many JVMs take no more memory than one.
var decoding = make(chan struct{}, 1)

// decodeTimeout bounds how long one JVM keeps the others waiting. 64 MiB take some 2 s of CPU time.
const decodeTimeout = 20 * time.Second

// builder makes the samples of a batch.
type builder struct {
	d       *profile.Dictionary
	classes map[string]profile.FrameIndex
	room    int // of maxSiteBytes
}

func newBuilder() *builder {
	return &builder{d: profile.NewDictionary(), classes: map[string]profile.FrameIndex{}, room: maxSiteBytes}
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
	if b.room -= 256 + 4*len(b.d.Stacks[stack]); b.room < 0 {
		return b.rest(class)
	}
	s := make(profile.Stack, 0, len(b.d.Stacks[stack])+1)
	return b.d.Stack(append(append(s, b.class(class)), b.d.Stacks[stack]...))
}

// rest returns the stack of all of a class's sites that are too many.
func (b *builder) rest(class string) profile.StackIndex {
	return b.d.Stack(profile.Stack{b.class(class), b.reason("of more sites than are told apart")})
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

// decode makes profiles of a recording, when it is its turn, until ctx is over.
func (r *Recording) decode(ctx context.Context, data []byte, classes []Class, cpu cpuTimes) (*profile.Batch, error) {
	select {
	case decoding <- struct{}{}:
		defer func() { <-decoding }()
	case <-ctx.Done():
		return nil, fmt.Errorf("the recording of process %d: others are decoded: %w", r.j.PID, ctx.Err())
	}
	ctx, cancel := context.WithTimeoutCause(ctx, decodeTimeout, errSlow)
	defer cancel()
	b, err := r.batch(ctx, data, classes, cpu)
	if err != nil && context.Cause(ctx) != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("the recording of process %d: %w", r.j.PID, err)
	}
	return b, nil
}

var errSlow = fmt.Errorf("decoding it takes longer than %v: lower the recording's maximum or the interval", decodeTimeout)

// batch makes profiles of a recording.
func (r *Recording) batch(ctx context.Context, data []byte, classes []Class, cpu cpuTimes) (*profile.Batch, error) {
	b := newBuilder()
	out := &profile.Batch{Dictionary: b.d}
	executed, timed := amounts{}, amounts{}
	moments := map[int64]bool{} // periods with samples
	var old []profile.JFREvent
	r.alloc.begin()
	defer r.alloc.end()
	o := profile.JFREventOptions{MaxBytes: 4 * r.o.MaxBytes, Skip: r.read}
	if len(r.read) == 0 {
		// First: a recording's events are not in the order of time.
		o.Events = []string{"jdk.ThreadAllocationStatistics"}
		if _, err := profile.ReadJFR(ctx, data, b.d, o, func(e *profile.JFREvent) error {
			if e.Chunk == 0 {
				r.alloc.thread(e)
			}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	names := map[string]string{}
	o.Events = eventNames
	span, err := profile.ReadJFR(ctx, data, b.d, o, func(e *profile.JFREvent) error {
		if e.Class != "" {
			name, ok := names[e.Class]
			if !ok {
				name = otherSites
				if len(names) < maxClasses {
					name = className(e.Class)
					names[e.Class] = name
				}
			}
			e.Class = name
		}
		switch e.Name {
		case "jdk.ExecutionSample":
			executed[e.Stack]++
			if len(moments) < maxMoments {
				moments[e.StartNanos/int64(r.o.Period)] = true
			}
		case "jdk.CPUTimeSample":
			timed[e.Stack] += float64(e.PeriodNanos)
		case "jdk.OldObjectSample":
			// Whoever dumps a recording has the live samples written again: the last ones are of this moment.
			if len(old) > 0 && old[0].Chunk != e.Chunk {
				old = old[:0]
			}
			if len(old) < maxOld {
				old = append(old, *e)
			}
		default:
			r.alloc.event(e, r.major >= 16)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(span.Chunks) == 0 {
		return out, nil
	}
	r.read = append(r.read, span.Chunks...)
	r.read = slices.Clone(r.read[max(len(r.read)-maxChunks, 0):])
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
		if last := len(span.Chunks) - 1; len(old) > 0 && old[0].Chunk != last {
			old = nil
		}
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
