package query

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/fnv"
	"io"
	"math"
	"slices"
	"time"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
)

// average makes the mean of what the store has summed over all times at which somebody looked.
func (m *Merged) average(mean float64) {
	if m.Unfiltered == 0 {
		return
	}
	scale := mean / float64(m.Unfiltered)
	m.Unfiltered = 0
	for i := range m.Batch.Profiles {
		p := &m.Batch.Profiles[i]
		scaleSamples(m.Batch.Dictionary, p, scale)
		m.Unfiltered += p.Total()
	}
}

// scaleSamples multiplies a profile's samples by less than one, so that they add up to their sum times that: thousands of small stacks
// would else be none. Those whose rest is the largest are rounded up; of equal ones it is their content that decides, since the order of
// samples says nothing.
func scaleSamples(d *profile.Dictionary, p *profile.Profile, scale float64) {
	type rest struct {
		sample int
		part   float64
	}
	rests := make([]rest, len(p.Samples))
	more := int64(math.Round(float64(p.Total()) * scale))
	for i := range p.Samples {
		exact := float64(p.Samples[i].Value) * scale
		whole := math.Floor(exact)
		rests[i] = rest{i, exact - whole}
		p.Samples[i].Value = int64(whole)
		more -= int64(whole)
	}
	if more = min(max(more, 0), int64(len(rests))); more > 0 {
		slices.SortFunc(rests, func(a, b rest) int { return cmp.Compare(b.part, a.part) })
		last := rests[more-1].part
		from := slices.IndexFunc(rests, func(r rest) bool { return r.part == last })
		to := from
		for to < len(rests) && rests[to].part == last {
			to++
		}
		if int64(to) > more {
			hashes := make(map[int]uint64, to-from)
			h := stackHash{d: d, h: fnv.New64a()}
			for _, r := range rests[from:to] {
				hashes[r.sample] = h.sum(p.Samples[r.sample].Stack)
			}
			slices.SortFunc(rests[from:to], func(a, b rest) int { return cmp.Compare(hashes[a.sample], hashes[b.sample]) })
		}
		for _, r := range rests[:more] {
			p.Samples[r.sample].Value++
		}
	}
	p.Samples = slices.DeleteFunc(p.Samples, func(s profile.Sample) bool { return s.Value == 0 })
}

// stackHash hashes what stacks are, whatever their indices.
type stackHash struct {
	d      *profile.Dictionary
	h      hash.Hash64
	number [8]byte
}

func (s *stackHash) sum(i profile.StackIndex) uint64 {
	s.h.Reset()
	for _, f := range s.d.Stacks[i] {
		f := s.d.Frames[f]
		m := s.d.Mappings[f.Mapping]
		s.add(uint64(f.Kind), m.BuildID, m.File)
		s.add(uint64(f.Addr))
		for _, l := range f.Lines {
			fn := s.d.Functions[l.Function]
			s.add(uint64(uint32(l.Line))<<32|uint64(uint32(l.Column)), fn.Name, fn.File)
		}
	}
	return s.h.Sum64()
}

func (s *stackHash) add(n uint64, texts ...string) {
	binary.LittleEndian.PutUint64(s.number[:], n)
	_, _ = s.h.Write(s.number[:])
	for _, t := range texts {
		_, _ = io.WriteString(s.h, t)
		_, _ = s.h.Write([]byte{0})
	}
}

// mean is what a selection of levels holds, on average over the time in which it holds anything: a merge has the sum
// over all times at which somebody looked, which means nothing by itself. The time is cut into steps that are longer
// than the time between two looks, so that what follows one another (a program and its next version) does not
// count as being there together. Steps that lie in the range in part do not count if others do: a series whose look was
// just before or after is missing there.
func (e *Engine) mean(ctx context.Context, sel storage.Selection) (float64, error) {
	const forever = 1 << 62 // one step, which ends in 2116
	step := time.Duration(forever)
	if !sel.Start.IsZero() && !sel.End.IsZero() {
		if step = max(sel.End.Sub(sel.Start)/meanSteps, meanStep); sel.End.Sub(sel.Start) < 2*step {
			step = forever
		}
	}
	series, err := e.opts.Store.Series(ctx, sel, nil, step)
	if err != nil {
		return 0, fmt.Errorf("averaging: %w", err)
	}
	var all, whole stepMean
	for _, t := range series {
		for _, p := range t.Points {
			all.add(p.Value)
			if step < forever && p.TimeNanos >= sel.Start.UnixNano() && p.TimeNanos+step.Nanoseconds() <= sel.End.UnixNano() {
				whole.add(p.Value)
			}
		}
	}
	if whole.n > 0 {
		return whole.mean(), nil
	}
	return all.mean(), nil
}

type stepMean struct {
	sum float64
	n   int
}

func (m *stepMean) add(v int64) {
	m.sum += float64(v)
	m.n++
}

func (m *stepMean) mean() float64 { return m.sum / float64(max(m.n, 1)) }

// A mean is taken over so many steps, each of so long at least.
const (
	meanSteps = 64
	meanStep  = 2 * time.Minute
)
