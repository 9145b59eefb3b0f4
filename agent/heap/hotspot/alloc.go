package hotspot

import (
	"cmp"
	"slices"
	"time"

	"github.com/perfuse/perfuse/profile"
)

// allocations counts what allocation events stand for.
//
// From JDK 16 on, a sample's weight is what its thread allocated since its last sample, so the sum of weights is what was allocated, but for
// what threads allocate between their last samples and their ends. The
// first sample of a thread's life weighs all that the thread has allocated before, too: what it had when recording began is taken off.
// A weight is no number of objects. The events of new TLABs, recorded without stacks, happen at about every so many bytes, so the
// mean of 1/size over a class's is the class's objects per byte; where a class has none, the histogram's mean size serves if there is one, and
// else a sample counts as one object.
//
// Before JDK 16, each new TLAB and each object outside of TLABs is an event; a TLAB counts as full of what it was begun with.
type allocations struct {
	before map[uint64]int64 // what threads had allocated when recording began, until their first samples
	known  map[uint64]bool  // threads that had their first sample

	weights  map[allocSite]float64
	samples  map[allocSite]float64
	objects  map[allocSite]float64
	inverse  map[string]*mean      // of sizes, by class
	tlabs    map[allocSite]weighed // where they were begun, if that is recorded
	refills  map[refillSite][]refill
	refilled int
	// firstNanos is when the first of the interval's TLABs was begun.
	firstNanos int64
}

// refillSite is which thread began a TLAB where.
type refillSite struct {
	allocSite
	thread uint64
}

// refill is a new TLAB.
type refill struct {
	nanos int64
	bytes float64
}

// maxRefills bounds how many new TLABs of an interval are remembered.
const maxRefills = 1 << 19

type allocSite struct {
	class string
	stack profile.StackIndex
}

type mean struct{ sum, n float64 }

// maxKnownThreads bounds what is remembered of threads, virtual ones included.
const maxKnownThreads = 1 << 16

// begin begins a new interval.
func (a *allocations) begin() {
	if a.known == nil || len(a.known) > maxKnownThreads {
		a.known = map[uint64]bool{}
	}
	a.weights, a.samples, a.objects = map[allocSite]float64{}, map[allocSite]float64{}, map[allocSite]float64{}
	a.tlabs, a.refills, a.refilled = map[allocSite]weighed{}, map[refillSite][]refill{}, 0
	a.firstNanos = 0
	if a.inverse == nil || len(a.inverse) > maxKnownThreads {
		a.inverse = map[string]*mean{}
	}
}

func (a *allocations) event(e *profile.JFREvent, sampled bool) {
	site := allocSite{e.Class, e.Stack}
	if a.firstNanos == 0 || e.StartNanos < a.firstNanos {
		a.firstNanos = e.StartNanos
	}
	if e.Name == "jdk.ObjectAllocationInNewTLAB" && e.Stack != 0 && a.refilled < maxRefills {
		at := refillSite{site, e.Thread}
		a.refills[at] = append(a.refills[at], refill{e.StartNanos, float64(e.Weight)})
		a.refilled++
	}
	switch {
	case e.Name == "jdk.ObjectAllocationSample":
		a.weights[site] += a.weight(e)
		a.samples[site]++
	case e.Name == "jdk.ObjectAllocationInNewTLAB" && sampled:
		if e.Bytes > 0 {
			m := a.inverse[e.Class]
			if m == nil {
				m = &mean{}
				a.inverse[e.Class] = m
			}
			m.sum += 1 / float64(e.Bytes)
			m.n++
		}
		if e.Stack != 0 {
			t := a.tlabs[site]
			a.tlabs[site] = weighed{t.bytes + float64(e.Weight), t.samples + 1}
		}
	case e.Name == "jdk.ObjectAllocationInNewTLAB" && !sampled:
		size := max(e.Bytes, 8)
		a.weights[site] += float64(max(e.Weight, size))
		a.objects[site] += float64(max(e.Weight, size)) / float64(size)
		a.samples[site]++
	case e.Name == "jdk.ObjectAllocationOutsideTLAB" && !sampled:
		a.weights[site] += float64(max(e.Bytes, 8))
		a.objects[site]++
		a.samples[site]++
	}
}

// thread notes what a thread had allocated when recording began, by the first event of it.
func (a *allocations) thread(e *profile.JFREvent) {
	if a.before == nil {
		a.before = map[uint64]int64{}
	}
	if _, ok := a.before[e.Thread]; !ok && len(a.before) < maxKnownThreads {
		a.before[e.Thread] = e.Allocated
	}
}

// weight is what a sample stands for.
func (a *allocations) weight(e *profile.JFREvent) float64 {
	w := e.Weight
	if a.known[e.Thread] {
		return float64(w)
	}
	a.known[e.Thread] = true
	before, listed := a.before[e.Thread]
	owner := e.Thread
	if !listed && w > carrierWeight {
		// A virtual thread's sample weighs what its carrier has allocated, which of them is not said.
		for t, had := range a.before {
			if had <= w && had > before {
				owner, before = t, had
			}
		}
	}
	if before > w { // somebody recorded before us
		before = 0
	}
	delete(a.before, owner)
	return float64(w - before)
}

// carrierWeight is what a thread that began after the recording is not expected to allocate before its first sample.
const carrierWeight = 8 << 20

// amounts are the bytes and objects of the interval. classes are those of the histogram, if there is one.
func (a *allocations) amounts(b *builder, classes []Class) (space, objects amounts) {
	size := map[string]float64{}
	for _, c := range classes {
		if c.Objects > 0 {
			size[c.Name] = float64(c.Bytes) / float64(c.Objects)
		}
	}
	space, objects = amounts{}, amounts{}
	for site, w := range a.weights {
		s := b.site(site.class, site.stack)
		if site.stack == 0 {
			s = b.d.Stack(profile.Stack{b.class(site.class), b.reason("allocated without a Java stack")})
		}
		space[s] += w
		n, ok := a.objects[site]
		if m := a.inverse[site.class]; !ok && m != nil {
			n = w * m.sum / m.n
		} else if bytes := size[site.class]; !ok && bytes > 0 {
			n = w / bytes
		}
		objects[s] += max(n, a.samples[site])
	}
	return space, objects
}

// sortRefills is called before tlab.
func (a *allocations) sortRefills() {
	for _, r := range a.refills {
		slices.SortFunc(r, func(a, b refill) int { return cmp.Compare(a.nanos, b.nanos) })
	}
}

// tlab returns the size of the TLAB that a thread began by an object that was allocated then; 0: none.
func (a *allocations) tlab(site refillSite, nanos int64) float64 {
	const near = int64(100 * time.Microsecond)
	r := a.refills[site]
	i, _ := slices.BinarySearchFunc(r, nanos, func(r refill, nanos int64) int { return cmp.Compare(r.nanos, nanos) })
	best, bytes := near, 0.0
	for _, r := range r[max(i-1, 0):min(i+1, len(r))] {
		if d := max(r.nanos-nanos, nanos-r.nanos); d < best {
			best, bytes = d, r.bytes
		}
	}
	return bytes
}

// byClass are the interval's allocations of each class by site: by samples, or by new TLABs of which there are more in short bursts.
func (a *allocations) byClass() map[string]map[profile.StackIndex]weighed {
	sampled, tlabs := map[string]map[profile.StackIndex]weighed{}, map[string]map[profile.StackIndex]weighed{}
	add := func(to map[string]map[profile.StackIndex]weighed, site allocSite, w weighed) {
		if site.stack == 0 || w.bytes <= 0 {
			return
		}
		if to[site.class] == nil {
			to[site.class] = map[profile.StackIndex]weighed{}
		}
		to[site.class][site.stack] = w
	}
	for site, w := range a.weights {
		add(sampled, site, weighed{w, a.samples[site]})
	}
	for site, w := range a.tlabs {
		add(tlabs, site, w)
	}
	for class, sites := range tlabs {
		if sampleCount(sites) > sampleCount(sampled[class]) {
			sampled[class] = sites
		}
	}
	return sampled
}

func sampleCount(sites map[profile.StackIndex]weighed) (n float64) {
	for _, w := range sites {
		n += w.samples
	}
	return n
}
