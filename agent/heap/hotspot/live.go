package hotspot

import (
	"cmp"
	"maps"
	"math"
	"slices"

	"github.com/perfuse/perfuse/profile"
)

// live tells which site allocated what is on the heap. The histogram knows exactly what each class has. The recorder keeps a sample
// of live objects with the stacks that allocated them, at most 256 unless the JVM was started with another old-object-queue-size, and
// in it large objects push small ones out: of most classes with small objects there is none. So:
//
//   - All of a class is as much as the histogram says, and so is the sum.
//   - What a class had when recording began is nobody's: its allocation was not seen. It counts as "allocated before the recording", less
//     whatever the class has shrunk below it since. A class that replaces its old objects without growing stays there.
//   - By allocation: a site keeps what it had, and what its class has grown by in an interval is divided as the class's allocations in the
//     interval were, each site's by the part of its samples that is alive; when the class shrinks, all of its sites do.
//   - By live objects: the class is divided among those in the sample. The recorder looks at the objects that begin a TLAB and at
//     those that are allocated outside of TLABs, so each stands for its TLAB, whose event has the same thread and time, or for itself. This
//     is right, and has few samples.
//   - Between both as in James and Stein's estimator, once for what has grown and once for all: where the live objects are distributed as
//     the model, within what chance does, the model counts; the more they differ, the more the live objects do.
//   - A class with neither is named, and no site.
//
// A site is exactly right if it is the only one that allocates the class. Of a class with several, the site that has the part s by n live
// objects is right to within about sqrt((1-s)/(s·n)), and better where allocations agree. A class without live objects in the sample
// is as wrong as its sites' objects differ in how long they live.
type live struct {
	before map[string]Class
	// sites is what each class's sites had at the last dump; their stacks are in d.
	sites map[string]map[profile.StackIndex]siteState
	d     *profile.Dictionary
	// weights are those of the live objects at the last dump, by when they were allocated.
	weights map[int64]float64
}

// siteState is what a site has, in bytes, and how many samples of its allocations there were since recording began.
type siteState struct{ bytes, samples float64 }

const (
	// maxUnsampled is how many of the classes without samples are named, the largest; smaller ones are one.
	maxUnsampled = 1000
	// keptPart is the part of the heap, minSamples the number of samples from which on a site is remembered for the next dump; no
	// more than maxSites are.
	keptPart   = 1e-5
	minSamples = 10
	maxSites   = 20_000
	// maxKeptFrames bounds how many frames the stacks of these have, one that is several sites' as often, and maxKeptBytes what their
	// functions take. Real ones have some 100 frames each, and 20 000 functions of 100 bytes.
	maxKeptFrames = 1 << 21
	maxKeptBytes  = 32 << 20
)

func (l *live) begin(classes []Class) {
	l.before = map[string]Class{}
	for _, c := range classes {
		l.before[c.Name] = c
	}
}

// shrink lowers what classes had before to what they have now, at most.
func (l *live) shrink(classes []Class) {
	now := make(map[string]Class, len(classes))
	for _, c := range classes {
		now[c.Name] = c
	}
	for name, c := range l.before {
		has := now[name]
		c.Bytes, c.Objects = min(c.Bytes, has.Bytes), min(c.Objects, has.Objects)
		if l.before[name] = c; c.Bytes == 0 {
			delete(l.before, name)
		}
	}
}

// amounts are the bytes and objects that are alive: classes is the histogram, events the live objects, allocated the interval's allocations.
func (l *live) amounts(b *builder, classes []Class, events []profile.JFREvent, allocated *allocations) (space, objects amounts) {
	l.shrink(classes)
	samples, weights := map[string][]liveSample{}, map[int64]float64{}
	allocated.sortRefills()
	// The last first: a TLAB's event is that of the object just before it.
	slices.SortFunc(events, func(a, b profile.JFREvent) int { return cmp.Compare(b.AllocatedNanos, a.AllocatedNanos) })
	for i := range events {
		if e := &events[i]; e.Stack != 0 {
			samples[e.Class] = append(samples[e.Class], liveSample{stack: e.Stack, bytes: objectBytes(e), nanos: e.AllocatedNanos, weight: l.weight(e, allocated)})
		}
	}
	for _, of := range samples {
		settle(of)
		for _, s := range of {
			weights[s.nanos] = s.weight
		}
	}
	l.weights = weights
	grown := allocated.byClass()
	last := l.recall(b.d)
	sites := map[string]map[profile.StackIndex]siteState{}

	space, objects = amounts{}, amounts{}
	add := func(stack profile.StackIndex, bytes, n float64) {
		if bytes > 0 || n > 0 {
			space[stack] += bytes
			objects[stack] += n
		}
	}
	before, unseen := b.reason("allocated before the recording"), b.reason("no allocation of the class was sampled")
	named := 0
	for _, c := range classes { // the largest first
		old := l.before[c.Name]
		bytes, n := float64(c.Bytes-old.Bytes), float64(c.Objects-old.Objects)
		had, seen := map[profile.StackIndex]float64{}, map[profile.StackIndex]float64{}
		for stack, s := range last[c.Name] {
			had[stack], seen[stack] = s.bytes, s.samples
		}
		for stack, g := range grown[c.Name] {
			seen[stack] += g.samples
		}
		split := divide(bytes, had, survivors(grown[c.Name], seen, samples[c.Name]), samples[c.Name], allocated.firstNanos)
		class := b.class
		if len(split) == 0 {
			if named++; named > maxUnsampled {
				class = func(string) profile.FrameIndex { return b.class("(smaller classes)") }
			}
			add(b.d.Stack(profile.Stack{class(c.Name), unseen}), bytes, n)
		}
		if old.Bytes > 0 {
			add(b.d.Stack(profile.Stack{class(c.Name), before}), float64(old.Bytes), float64(old.Objects))
		}
		counts := count(split, samples[c.Name], n)
		for stack, part := range split {
			add(b.site(c.Name, stack), part, counts[stack])
		}
		state := map[profile.StackIndex]siteState{}
		for stack, part := range split {
			state[stack] = siteState{part, seen[stack]}
		}
		for stack, n := range seen {
			state[stack] = siteState{split[stack], n}
		}
		sites[c.Name] = state
	}
	l.remember(b.d, sites, classes)
	return space, objects
}

// divide divides the bytes of a class among sites, by what they had at the last dump, what they have allocated since, and live objects.
func divide(bytes float64, had map[profile.StackIndex]float64, grown map[profile.StackIndex]weighed, samples []liveSample, since int64) map[profile.StackIndex]float64 {
	if bytes <= 0 {
		return nil
	}
	model := maps.Clone(had)
	if model == nil {
		model = map[profile.StackIndex]float64{}
	}
	sum := total(model)
	if more := bytes - sum; more > 0 {
		// By objects of the interval that are alive, and its allocations.
		recent := slices.DeleteFunc(slices.Clone(samples), func(s liveSample) bool { return s.nanos < since })
		for stack, v := range settleBetween(more, portions(grown, more), sampleCount(grown), share(recent, more)) {
			model[stack] += v
		}
		sum = total(model)
	}
	if sum > 0 {
		for stack := range model {
			model[stack] *= bytes / sum
		}
	}
	return settleBetween(bytes, model, math.Inf(1), share(samples, bytes))
}

func total(m map[profile.StackIndex]float64) (sum float64) {
	for _, v := range m {
		sum += v
	}
	return sum
}

// portions divides bytes as others are divided.
func portions(as map[profile.StackIndex]weighed, bytes float64) map[profile.StackIndex]float64 {
	var sum float64
	for _, w := range as {
		sum += w.bytes
	}
	out := map[profile.StackIndex]float64{}
	for stack, w := range as {
		out[stack] = bytes * w.bytes / sum
	}
	return out
}

// settleBetween returns what lies between a model of how bytes are divided, which so many samples made, and how live objects are: the
// nearer to the live objects, the less chance explains their distance from the model.
func settleBetween(bytes float64, model map[profile.StackIndex]float64, made float64, live map[profile.StackIndex]weighed) map[profile.StackIndex]float64 {
	n := sampleCount(live)
	switch {
	case n == 0:
		return model
	case len(model) == 0:
		return portions(live, bytes)
	}
	stacks := map[profile.StackIndex]bool{}
	for stack := range model {
		stacks[stack] = true
	}
	for stack := range live {
		stacks[stack] = true
	}
	// Pearson's distance. A site that the model does not have counts as half an object there.
	var distance float64
	for stack := range stacks {
		want := max(n*model[stack]/bytes, 0.5)
		off := n*live[stack].bytes/bytes - want
		distance += off * off / want
	}
	free := float64(len(stacks) - 1)
	trust := min(1, (free+2*math.Sqrt(2*free))/max(distance, 1e-9))
	if !math.IsInf(made, 1) {
		trust *= made / (made + n)
	}
	out := map[profile.StackIndex]float64{}
	for stack := range stacks {
		out[stack] = trust*model[stack] + (1-trust)*live[stack].bytes
	}
	return out
}

// weighed are bytes, and how many samples say so.
type weighed struct{ bytes, samples float64 }

// survivors are allocations, each site's less by how many of its samples since recording began are not alive.
func survivors(grown map[profile.StackIndex]weighed, seen map[profile.StackIndex]float64, samples []liveSample) map[profile.StackIndex]weighed {
	if len(samples) == 0 {
		return grown
	}
	alive := map[profile.StackIndex]float64{}
	for _, s := range samples {
		alive[s.stack]++
	}
	out := make(map[profile.StackIndex]weighed, len(grown))
	for stack, w := range grown {
		part := min((alive[stack]+0.5)/(seen[stack]+1), 1)
		out[stack] = weighed{w.bytes * part, w.samples}
	}
	return out
}

// recall returns what sites had at the last dump, by stacks in d.
func (l *live) recall(d *profile.Dictionary) map[string]map[profile.StackIndex]siteState {
	out := make(map[string]map[profile.StackIndex]siteState, len(l.sites))
	for class, sites := range l.sites {
		m := make(map[profile.StackIndex]siteState, len(sites))
		for stack, v := range sites {
			m[copyStack(d, l.d, stack)] = v
		}
		out[class] = m
	}
	return out
}

// remember keeps what sites have for the next dump, but for the smallest.
func (l *live) remember(d *profile.Dictionary, sites map[string]map[profile.StackIndex]siteState, classes []Class) {
	var heap float64
	for _, c := range classes {
		heap += float64(c.Bytes)
	}
	l.d, l.sites = profile.NewDictionary(), map[string]map[profile.StackIndex]siteState{}
	kept, frames, bytes := 0, 0, 0
	known := map[profile.FunctionIndex]bool{}
	for _, c := range classes {
		for stack, v := range sites[c.Name] {
			if v.bytes < heap*keptPart && v.samples < minSamples || kept == maxSites {
				continue
			}
			if frames += len(d.Stacks[stack]); frames > maxKeptFrames {
				return
			}
			for _, f := range d.Stacks[stack] {
				for _, line := range d.Frames[f].Lines {
					if fn := line.Function; !known[fn] {
						known[fn] = true
						bytes += 256 + len(d.Functions[fn].Name)
					}
				}
			}
			if bytes > maxKeptBytes {
				return
			}
			kept++
			if l.sites[c.Name] == nil {
				l.sites[c.Name] = map[profile.StackIndex]siteState{}
			}
			l.sites[c.Name][copyStack(l.d, d, stack)] = v
		}
	}
}

// copyStack returns the index in to of a stack of from.
func copyStack(to, from *profile.Dictionary, stack profile.StackIndex) profile.StackIndex {
	frames := make(profile.Stack, 0, len(from.Stacks[stack]))
	for _, i := range from.Stacks[stack] {
		f := from.Frames[i]
		f.Mapping = to.Mapping(from.Mappings[f.Mapping])
		lines := make([]profile.Line, len(f.Lines))
		for k, line := range f.Lines {
			line.Function = to.Function(from.Functions[line.Function])
			lines[k] = line
		}
		f.Lines = lines
		frames = append(frames, to.Frame(f))
	}
	return to.Stack(frames)
}

// liveSample is a live object, and the site that allocated it.
type liveSample struct {
	stack  profile.StackIndex
	bytes  float64 // 0: not known
	nanos  int64   // when it was allocated
	weight float64 // for how much it stands, beside the others; 0: not known
}

// weight is the size of the TLAB that an object began, now or, if it was a sample before, then; its own if it began none, and 0 if it
// was allocated before the interval and is a sample for the first time.
func (l *live) weight(e *profile.JFREvent, allocated *allocations) float64 {
	if w, ok := l.weights[e.AllocatedNanos]; ok {
		return w
	}
	w := allocated.tlab(refillSite{allocSite{e.Class, e.Stack}, e.Thread}, e.AllocatedNanos)
	if w == 0 && allocated.firstNanos > 0 && e.AllocatedNanos < allocated.firstNanos {
		return 0
	}
	return max(w, objectBytes(e), 1)
}

// settle gives the samples of a class whose weights are not known the mean of the others.
func settle(samples []liveSample) {
	var sum, n float64
	for _, s := range samples {
		if s.weight > 0 {
			sum, n = sum+s.weight, n+1
		}
	}
	for i := range samples {
		if s := &samples[i]; s.weight == 0 {
			s.weight = max(sum/max(n, 1), s.bytes, 1)
		}
	}
}

// share divides the bytes of a class among its live objects by their weights, and sums by site. Samples of unequal weights say as
// much as fewer of equal ones (Kish): as those they are counted.
func share(samples []liveSample, bytes float64) map[profile.StackIndex]weighed {
	var sum, squares float64
	for _, s := range samples {
		sum += s.weight
		squares += s.weight * s.weight
	}
	out := map[profile.StackIndex]weighed{}
	for _, s := range samples {
		w, part := out[s.stack], s.weight/sum
		out[s.stack] = weighed{w.bytes + bytes*part, w.samples + part*sum*sum/squares}
	}
	return out
}

// count divides the objects of a class among sites: by the sizes of live objects where they are known, else by bytes.
func count(split map[profile.StackIndex]float64, samples []liveSample, objects float64) map[profile.StackIndex]float64 {
	inverse := map[profile.StackIndex]mean{}
	for _, s := range samples {
		if m := inverse[s.stack]; s.bytes > 0 {
			inverse[s.stack] = mean{m.sum + 1/s.bytes, m.n + 1}
		}
	}
	out := map[profile.StackIndex]float64{}
	var known, bytes float64
	for stack, part := range split {
		if m := inverse[stack]; m.n > 0 {
			out[stack] = part * m.sum / m.n
			known += out[stack]
		} else {
			bytes += part
		}
	}
	if known > 0 && (known > objects || bytes == 0) {
		for stack := range out {
			out[stack] *= objects / known
		}
		known = objects
	}
	for stack, part := range split {
		if _, ok := out[stack]; !ok && bytes > 0 {
			out[stack] = (objects - known) * part / bytes
		}
	}
	return out
}

// objectBytes is the size of a sampled object. Before JDK 15 it is known of arrays of primitives only, by their length.
func objectBytes(e *profile.JFREvent) float64 {
	if e.Bytes > 0 {
		return float64(e.Bytes)
	}
	return float64(e.Elements) * elementBytes[e.Class]
}

var elementBytes = map[string]float64{
	"byte[]": 1, "boolean[]": 1, "char[]": 2, "short[]": 2, "int[]": 4, "float[]": 4, "long[]": 8, "double[]": 8,
}
