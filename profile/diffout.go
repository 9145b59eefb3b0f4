package profile

import (
	"io"
	"math"
	pathpkg "path"
	"strings"
)

// Align returns before with those frames that after lacks called as in after, of which before and after have one each of
// that name and kind that the other lacks: another version or build of a program lies under another path, and is not another
// program. Where there are several of a name, those in source files of one name belong together.
func Align(before, after *Tree) *Tree {
	gone, come := before.missing(after), after.missing(before)
	ids := map[string]uint32{}
	frames, strs := before.Frames[:len(before.Frames):len(before.Frames)], before.Strings[:len(before.Strings):len(before.Strings)]
	id := func(s string) uint32 {
		if _, ok := ids[s]; !ok {
			ids[s] = uint32(len(strs))
			strs = append(strs, s)
		}
		return ids[s]
	}
	rename := make([]uint32, len(frames))
	for i := range rename {
		rename[i] = uint32(i)
	}
	for step := range steps {
		pairs := come.byPlace(step)
		for p, b := range gone.byPlace(step) {
			a := pairs[p]
			if b == several || a == 0 || a == several {
				continue
			}
			f, g := frames[b], after.Frames[a]
			f.File, f.Mapping = id(after.Strings[g.File]), id(after.Strings[g.Mapping])
			rename[b] = uint32(len(frames))
			frames = append(frames, f)
			delete(gone.places, b)
			delete(come.places, a)
		}
	}
	if len(frames) == len(before.Frames) {
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
}

func (t *Tree) place(i uint32) place {
	f := t.Frames[i]
	return place{t.Strings[f.Name], t.Strings[f.File], t.Strings[f.Mapping], f.Kind, f.Inlined}
}

// strays are frames of one tree that another lacks, by number.
type strays struct{ places map[uint32]place }

func (t *Tree) missing(o *Tree) strays {
	there := make(map[place]bool, len(o.Frames))
	for i := 1; i < len(o.Frames); i++ {
		there[o.place(uint32(i))] = true
	}
	s := strays{map[uint32]place{}}
	for i := uint32(1); i < uint32(len(t.Frames)); i++ {
		if p := t.place(i); !there[p] {
			s.places[i] = p
		}
	}
	return s
}

// Two frames are taken for one by less and less: first the source file's last name counts, then no file.
const steps = 2

const several = ^uint32(0)

// byPlace returns the frame by what counts of its place, or several.
func (s strays) byPlace(step int) map[place]uint32 {
	out := make(map[place]uint32, len(s.places))
	for i, p := range s.places {
		p.mapping = ""
		if p.file = pathpkg.Base(strings.ReplaceAll(p.file, `\`, "/")); step > 0 {
			p.file = ""
		}
		if _, ok := out[p]; ok {
			i = several
		}
		out[p] = i
	}
	return out
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
