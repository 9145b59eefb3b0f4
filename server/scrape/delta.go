package scrape

import (
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/perfuse/perfuse/profile"
)

// counters is what a target said at its last scrape of a profile whose values only grow: allocations, contentions.
// 24 bytes a value, sorted by key.
type counters struct {
	values []counter
	end    int64 // when they were taken, by the target's clock, in nanoseconds since the Unix epoch
}

type counter struct {
	key   xxh3.Uint128 // of type, labels, stack and link by content, since indices differ from scrape to scrape
	value int64
}

func compareKeys(a, b xxh3.Uint128) int {
	switch {
	case a.Hi < b.Hi || a.Hi == b.Hi && a.Lo < b.Lo:
		return -1
	case a == b:
		return 0
	}
	return 1
}

// find returns the value of a key, 0 if it is not there.
func (c *counters) find(key xxh3.Uint128) int64 {
	i, ok := slices.BinarySearchFunc(c.values, key, func(e counter, k xxh3.Uint128) int { return compareKeys(e.key, k) })
	if !ok {
		return 0
	}
	return c.values[i].value
}

// cumulative says whether values of a type count since the process's start, as Go's runtime has them.
func cumulative(t profile.Type) bool {
	return strings.HasPrefix(t.SampleType, "alloc_") || t.SampleType == "contentions" || t.SampleType == "delay"
}

// subtract turns the cumulative profiles of b into what happened since old was taken, and returns what to subtract
// next time. Without old they are left out: nobody knows since when they count. If the process was started anew
// since then, they stay as they are, and restarted is true.
func subtract(b *profile.Batch, old *counters) (next *counters, restarted bool) {
	h := newHasher(b.Dictionary)
	next = &counters{}
	for i := range b.Profiles {
		p := &b.Profiles[i]
		if !cumulative(p.Type) {
			continue
		}
		next.end = max(next.end, p.TimeNanos)
		series := h.series(p)
		for _, s := range p.Samples {
			next.values = append(next.values, counter{h.sample(series, s), s.Value})
		}
	}
	slices.SortFunc(next.values, func(a, b counter) int { return compareKeys(a.key, b.key) })
	restarted = old != nil && fell(old, next)
	out := b.Profiles[:0]
	for _, p := range b.Profiles {
		if cumulative(p.Type) {
			if old == nil {
				continue
			}
			if !restarted {
				series := h.series(&p)
				kept := p.Samples[:0]
				for _, s := range p.Samples {
					if s.Value -= old.find(h.sample(series, s)); s.Value > 0 {
						kept = append(kept, s)
					}
				}
				p.Samples = kept
			}
			if len(p.Samples) == 0 {
				continue
			}
			p.DurationNanos = max(p.TimeNanos-old.end, 0)
			p.TimeNanos -= p.DurationNanos
		}
		out = append(out, p)
	}
	b.Profiles = out
	if old != nil && !restarted {
		next.raise(old)
	}
	return next, restarted
}

// fell says whether a counter is less than it was, or gone. By less than a thousandth it is not: some runtimes
// scale what they counted by a ratio that they measure again, and taking that for a restart would count
// everything since the process's start a second time.
func fell(old, next *counters) bool {
	for _, o := range old.values {
		if o.value > 0 && next.find(o.key) < o.value-o.value/1000 {
			return true
		}
	}
	return false
}

// raise lifts counters that fell a little to where they were, so that the differences add up to the whole.
func (c *counters) raise(old *counters) {
	for i := range c.values {
		c.values[i].value = max(c.values[i].value, old.find(c.values[i].key))
	}
	c.end = max(c.end, old.end)
}

// hasher makes keys by content. Each function, frame and stack is hashed once.
type hasher struct {
	d      *profile.Dictionary
	frames []xxh3.Uint128
	stacks []xxh3.Uint128
	buf    []byte
}

func newHasher(d *profile.Dictionary) *hasher {
	return &hasher{d: d, frames: make([]xxh3.Uint128, len(d.Frames)), stacks: make([]xxh3.Uint128, len(d.Stacks))}
}

func (h *hasher) series(p *profile.Profile) xxh3.Uint128 {
	return xxh3.HashString128(p.Type.String() + p.Labels.String())
}

func (h *hasher) sample(series xxh3.Uint128, s profile.Sample) xxh3.Uint128 {
	stack := h.stack(s.Stack)
	h.buf = appendKey(appendKey(h.buf[:0], series), stack)
	if s.Link != 0 {
		l := &h.d.Links[s.Link]
		h.buf = append(append(append(h.buf, l.TraceID[:]...), l.SpanID[:]...), l.SpanName...)
	}
	return xxh3.Hash128(h.buf)
}

func (h *hasher) stack(i profile.StackIndex) xxh3.Uint128 {
	if i == 0 || h.stacks[i] != (xxh3.Uint128{}) {
		return h.stacks[i]
	}
	for _, f := range h.d.Stacks[i] {
		h.frame(f)
	}
	h.buf = h.buf[:0]
	for _, f := range h.d.Stacks[i] {
		h.buf = appendKey(h.buf, h.frames[f])
	}
	h.stacks[i] = xxh3.Hash128(h.buf)
	return h.stacks[i]
}

func (h *hasher) frame(i profile.FrameIndex) {
	if i == 0 || h.frames[i] != (xxh3.Uint128{}) {
		return
	}
	f := &h.d.Frames[i]
	m := &h.d.Mappings[f.Mapping]
	b := append(h.buf[:0], byte(f.Kind))
	b = binary.LittleEndian.AppendUint64(b, uint64(f.Addr))
	b = appendText(appendText(b, m.BuildID), m.File)
	for _, l := range f.Lines {
		fn := &h.d.Functions[l.Function]
		b = appendText(appendText(appendText(b, fn.Name), fn.SystemName), fn.File)
		b = binary.LittleEndian.AppendUint32(b, uint32(fn.StartLine))
		b = binary.LittleEndian.AppendUint32(b, uint32(l.Line))
		b = binary.LittleEndian.AppendUint32(b, uint32(l.Column))
	}
	h.buf = b
	h.frames[i] = xxh3.Hash128(b)
}

func appendKey(b []byte, k xxh3.Uint128) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(b, k.Hi), k.Lo)
}

func appendText(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(s))), s...)
}

// maxHold is how long a level is taken to last at most.
const maxHold = 5 * time.Minute

// edit makes of a fetched pprof what is stored. old is what the last scrape left.
func (f *fetch) edit(b *profile.Batch, interval time.Duration, old *counters) (next *counters, restarted bool) {
	b.Profiles = slices.DeleteFunc(b.Profiles, func(p profile.Profile) bool {
		// The difference of two levels, which is what a target that measures for a time answers, is no level.
		return !f.keeps(p.Type) || f.seconds > 0 && p.Type.Level()
	})
	for i := range b.Profiles {
		p := &b.Profiles[i]
		p.Samples = slices.DeleteFunc(p.Samples, func(s profile.Sample) bool { return s.Value <= 0 })
		switch {
		case p.Type.Level():
			// It holds until the next one, so that charts have no gaps between scrapes.
			p.DurationNanos = int64(min(interval, maxHold))
		case f.seconds > 0 && p.DurationNanos == 0:
			p.DurationNanos = int64(f.seconds) * int64(time.Second)
			p.TimeNanos -= p.DurationNanos
		}
	}
	b.Profiles = slices.DeleteFunc(b.Profiles, func(p profile.Profile) bool { return len(p.Samples) == 0 })
	if f.seconds > 0 {
		return nil, false
	}
	return subtract(b, old)
}

func (f *fetch) keeps(t profile.Type) bool {
	return len(f.keep) == 0 || slices.Contains(f.keep, SampleType{t.SampleType, t.SampleUnit})
}
