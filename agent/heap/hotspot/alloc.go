package hotspot

import (
	"cmp"
	"slices"
	"sort"

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

	weights map[allocSite]float64
	samples map[allocSite]float64
	objects map[allocSite]float64
	inverse map[string]*mean      // of sizes, by class
	tlabs   map[allocSite]weighed // where they were begun, if that is recorded
	refills []refill
	// carriers are the threads of before by what they had, as far as they are looked for.
	carriers carriers
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
	refillSite
	nanos int64
	bytes float64
	used  bool // an object that began it was found
}

type allocSite struct {
	class string
	stack profile.StackIndex
}

type mean struct{ sum, n float64 }

// What is remembered at most. Recordings of real programs stay far below: what they hold is a minute's samples, at most 1000 a second
// and one for each new TLAB.
const (
	maxRefills      = 1 << 19 // of an interval
	maxAllocSites   = 1 << 16 // of an interval; the rest is one
	maxKnownThreads = 1 << 16 // virtual ones included
	maxClassSizes   = 1 << 14
)

// otherSites is in the place of a class if there are too many.
const otherSites = "(other sites)"

// begin begins a new interval.
func (a *allocations) begin() {
	if a.known == nil || len(a.known) >= maxKnownThreads {
		a.known = map[uint64]bool{}
	}
	a.weights, a.samples, a.objects = map[allocSite]float64{}, map[allocSite]float64{}, map[allocSite]float64{}
	a.tlabs, a.refills = map[allocSite]weighed{}, nil
	a.firstNanos = 0
	if a.inverse == nil || len(a.inverse) >= maxClassSizes {
		a.inverse = map[string]*mean{}
	}
}

// end lets go of what only the interval needs.
func (a *allocations) end() {
	a.weights, a.samples, a.objects, a.tlabs, a.refills = nil, nil, nil, nil, nil
}

// site is where an event happened, as far as sites are told apart.
func (a *allocations) site(e *profile.JFREvent) allocSite {
	site := allocSite{e.Class, e.Stack}
	if len(a.weights)+len(a.tlabs) < maxAllocSites {
		return site
	}
	_, weighed := a.weights[site]
	if _, begun := a.tlabs[site]; weighed || begun {
		return site
	}
	return allocSite{class: otherSites}
}

func (a *allocations) event(e *profile.JFREvent, sampled bool) {
	site := a.site(e)
	if a.firstNanos == 0 || e.StartNanos < a.firstNanos {
		a.firstNanos = e.StartNanos
	}
	if e.Name == "jdk.ObjectAllocationInNewTLAB" && site.stack != 0 && len(a.refills) < maxRefills {
		a.refills = append(a.refills, refill{refillSite{site, e.Thread}, e.StartNanos, float64(e.Weight), false})
	}
	switch {
	case e.Name == "jdk.ObjectAllocationSample":
		a.weights[site] += a.weight(e)
		a.samples[site]++
	case e.Name == "jdk.ObjectAllocationInNewTLAB" && sampled:
		if e.Bytes > 0 {
			m := a.inverse[e.Class]
			if m == nil && len(a.inverse) < maxClassSizes {
				m = &mean{}
				a.inverse[e.Class] = m
			}
			if m != nil {
				m.sum += 1 / float64(e.Bytes)
				m.n++
			}
		}
		if site.stack != 0 {
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
		a.carriers = carriers{}
	}
}

// weight is what a sample stands for.
func (a *allocations) weight(e *profile.JFREvent) float64 {
	w := e.Weight
	if a.known[e.Thread] {
		return float64(w)
	}
	if len(a.known) < maxKnownThreads {
		a.known[e.Thread] = true
	}
	before, listed := a.before[e.Thread]
	owner := e.Thread
	if !listed && w > carrierWeight {
		// A virtual thread's sample weighs what its carrier has allocated, which of them is not said.
		owner, before = a.carriers.last(a.before, w)
	}
	if before > w { // somebody recorded before us
		before = 0
	}
	delete(a.before, owner)
	return float64(w - before)
}

// carriers finds threads by what they had allocated.
type carriers struct {
	threads []uint64
	had     []int64 // in ascending order
	// skip leads, for a thread that is taken, to one before it that may not be.
	skip []int
}

// last returns of the threads in before the one with the most, at most w; 0, 0 if there is none.
func (c *carriers) last(before map[uint64]int64, w int64) (thread uint64, had int64) {
	if c.threads == nil {
		c.threads = make([]uint64, 0, len(before))
		for t, had := range before {
			if had > 0 {
				c.threads = append(c.threads, t)
			}
		}
		slices.SortFunc(c.threads, func(a, b uint64) int { return cmp.Or(cmp.Compare(before[a], before[b]), cmp.Compare(a, b)) })
		for i, t := range c.threads {
			c.had, c.skip = append(c.had, before[t]), append(c.skip, i-1)
		}
	}
	i := sort.Search(len(c.had), func(i int) bool { return c.had[i] > w })
	taken := func(i int) bool {
		_, ok := before[c.threads[i]]
		return !ok
	}
	i--
	found := i
	for found >= 0 && taken(found) {
		found = c.skip[found]
	}
	for i > found { // the next one takes the way at once
		i, c.skip[i] = c.skip[i], found
	}
	if found < 0 {
		return 0, 0
	}
	return c.threads[found], c.had[found]
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
		if site.class == otherSites {
			s = b.rest(site.class)
		} else if site.stack == 0 {
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
func (a *allocations) sortRefills() { slices.SortFunc(a.refills, compareRefills) }

func compareRefills(a, b refill) int {
	return cmp.Or(cmp.Compare(a.thread, b.thread), cmp.Compare(a.nanos, b.nanos))
}

const (
	// nearNanos is how long after an object's time its TLAB's event may be. Measured on JDK 11 to 25: 30 to 500 ns; from 1 µs on it is that
	// of the thread's next object. At 100 µs such matches gave a site weight by the square of its share.
	nearNanos = 1000
	// maxNear bounds how many TLABs of a thread are looked at; a real thread begins one in that time.
	maxNear = 64
)

// tlab returns the size of the TLAB that a thread began by an object that was allocated then, if no other object began it; 0: none.
func (a *allocations) tlab(site refillSite, nanos int64) float64 {
	i, _ := slices.BinarySearchFunc(a.refills, refill{refillSite: site, nanos: nanos}, compareRefills)
	for k := range a.refills[i:min(i+maxNear, len(a.refills))] {
		r := &a.refills[i+k]
		if r.thread != site.thread || r.nanos > nanos+nearNanos {
			break
		}
		if r.refillSite == site && !r.used {
			r.used = true
			return r.bytes
		}
	}
	return 0
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
