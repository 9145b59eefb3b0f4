package profile

import (
	"io"
	"math"
	pathpkg "path"
	"strings"
)

// Align returns before with the frames that after does not have called as in after, where after has exactly one of
// that name and kind: another version or build of a program lies under another path, and is not another program. Where
// several have the name, the one in a source file of the same name is meant.
func Align(before, after *Tree) *Tree {
	// A place that several frames have is no frame, 0.
	places := make(map[place]uint32, 2*len(after.Frames))
	same := make(map[place]bool, len(after.Frames))
	for i := 1; i < len(after.Frames); i++ {
		exact := after.place(uint32(i))
		same[exact] = true
		for _, p := range exact.looser() {
			if _, ok := places[p]; ok {
				places[p] = 0
			} else {
				places[p] = uint32(i)
			}
		}
	}
	frames, strs := before.Frames[:len(before.Frames):len(before.Frames)], before.Strings[:len(before.Strings):len(before.Strings)]
	ids := map[string]uint32{}
	id := func(s string) uint32 {
		if _, ok := ids[s]; !ok {
			ids[s] = uint32(len(strs))
			strs = append(strs, s)
		}
		return ids[s]
	}
	known := make(map[place]uint32, len(frames)) // by what a frame becomes: the first that does
	rename, renamed := make([]uint32, len(frames)), false
	for i := 1; i < len(before.Frames); i++ {
		p := before.place(uint32(i))
		if !same[p] {
			for _, looser := range p.looser() {
				if at := places[looser]; at != 0 {
					p = after.place(at)
					f := frames[i]
					f.File, f.Mapping = id(p.file), id(p.mapping)
					rename[i] = uint32(len(frames))
					frames = append(frames, f)
					renamed = true
					break
				}
			}
		}
		if rename[i] == 0 {
			rename[i] = uint32(i)
		}
		if at, ok := known[p]; ok {
			rename[i] = at
		} else {
			known[p] = rename[i]
		}
	}
	if !renamed {
		return before
	}
	tb := newTreeBuilder(before.Len())
	tb.self[0] = before.Self[0]
	for c := range before.Children(0) {
		tb.graft(0, before, c, rename)
	}
	out := tb.tree(frames, strs)
	out.Unit = before.Unit
	return out
}

// place is what tells a frame from others, by text.
type place struct {
	name, file, mapping string
	kind                Kind
	inlined             bool
	loose               uint8 // which of these are left out on purpose
}

func (t *Tree) place(i uint32) place {
	f := t.Frames[i]
	return place{t.Strings[f.Name], t.Strings[f.File], t.Strings[f.Mapping], f.Kind, f.Inlined, 0}
}

// looser are places with the file's last name only, and without any file.
func (p place) looser() [2]place {
	named, any := p, p
	named.file, named.mapping, named.loose = pathpkg.Base(strings.ReplaceAll(p.file, `\`, "/")), "", 1
	any.file, any.mapping, any.loose = "", "", 2
	return [2]place{named, any}
}

// WriteFoldedDiff writes one line per stack with two values, those of before and after, each multiplied by its side's
// scale and rounded: "a;b;c BEFORE AFTER", as programs that draw differential flame graphs read it. The rest is as in
// [Tree.WriteFolded].
func WriteFoldedDiff(w io.Writer, before, after *Tree, beforeScale, afterScale float64) error {
	d := Diff(before.byText(), after.byText())
	for i := range d.Self {
		d.BeforeSelf[i], d.Self[i] = Scaled(d.BeforeSelf[i], beforeScale), Scaled(d.Self[i], afterScale)
	}
	return d.writeFolded(w, d.BeforeSelf)
}

// Scaled is v multiplied by scale, rounded, and within what a number can hold.
func Scaled(v int64, scale float64) int64 {
	if scale == 1 {
		return v
	}
	f := math.Round(float64(v) * scale)
	switch {
	case f >= math.MaxInt64:
		return math.MaxInt64
	case f <= math.MinInt64:
		return math.MinInt64
	case math.IsNaN(f):
		return 0
	}
	return int64(f)
}

// DiffBaseLabel marks the samples that pprof takes for what a difference is taken from: it shows shares of them.
const DiffBaseLabel = "pprof::base"

// Difference returns a batch whose values add up to what is after, less what was before: all profiles of after, and those
// of before with values below zero and [DiffBaseLabel], as pprof -diff_base makes it. Each side's values are multiplied by
// its scale and rounded. All become of the type of after's first profile.
func Difference(before, after *Batch, beforeScale, afterScale float64) *Batch {
	out := &Batch{Dictionary: NewDictionary()}
	for _, side := range []struct {
		b     *Batch
		scale float64
		label Labels
	}{{before, -beforeScale, NewLabels(Label{DiffBaseLabel, "true"})}, {after, afterScale, nil}} {
		im := NewImporter(out.Dictionary, side.b.Dictionary)
		for i := range side.b.Profiles {
			p := side.b.Profiles[i]
			p.Labels = NewLabels(append(p.Labels[:len(p.Labels):len(p.Labels)], side.label...)...)
			samples := make([]Sample, 0, len(p.Samples))
			for _, s := range p.Samples {
				s.Stack, s.Link, s.Value = im.Stack(s.Stack), im.Link(s.Link), Scaled(s.Value, side.scale)
				samples = append(samples, s)
			}
			p.Samples = samples
			out.Profiles = append(out.Profiles, p)
		}
	}
	if len(after.Profiles) > 0 {
		for i := range out.Profiles {
			p, first := &out.Profiles[i], &after.Profiles[0]
			p.Type, p.TimeNanos, p.DurationNanos, p.Period = first.Type, first.TimeNanos, first.DurationNanos, first.Period
		}
	}
	return out
}
