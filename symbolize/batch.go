package symbolize

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/perfuse/perfuse/profile"
)

// Unnamed are a batch's native frames of one executable file that have an address and no function with a name yet.
type Unnamed struct {
	BuildID string
	// Addrs are sorted and distinct.
	Addrs  []profile.Addr
	frames []profile.FrameIndex
}

// FindUnnamed groups the frames of d that want a name, in the order of build ids.
func FindUnnamed(d *profile.Dictionary) []*Unnamed {
	byBuildID := map[string]*Unnamed{}
	var groups []*Unnamed
	for i := range d.Frames {
		f := &d.Frames[i]
		id := d.Mappings[f.Mapping].BuildID
		if f.Kind != profile.KindNative || id == "" || len(f.Lines) > 0 && !nameless(d, f) {
			continue
		}
		u := byBuildID[id]
		if u == nil {
			u = &Unnamed{BuildID: id}
			byBuildID[id] = u
			groups = append(groups, u)
		}
		u.Addrs = append(u.Addrs, f.Addr)
		u.frames = append(u.frames, profile.FrameIndex(i))
	}
	for _, u := range groups {
		slices.Sort(u.Addrs)
		u.Addrs = slices.Compact(u.Addrs)
	}
	slices.SortFunc(groups, func(a, b *Unnamed) int { return strings.Compare(a.BuildID, b.BuildID) })
	return groups
}

// nameless says whether f shows a function without a name, as a recording does that was symbolized before it was sent:
// who has more symbols may find its name.
func nameless(d *profile.Dictionary, f *profile.Frame) bool {
	if len(f.Lines) != 1 {
		return false
	}
	name, ok := strings.CutPrefix(d.Functions[f.Lines[0].Function].Name, baseName(d, f))
	return ok && strings.HasPrefix(name, NamelessPrefix)
}

// baseName is the name of f's file.
func baseName(d *profile.Dictionary, f *profile.Frame) string {
	file := d.Mappings[f.Mapping].File
	return file[strings.LastIndexByte(file, '/')+1:]
}

// Name gives u's frames in d the functions of sources, one entry for each of u.Addrs. A nameless function is
// called by the file that its frame's mapping shows and where it begins: dash+0x61a0. Where an entry is empty the
// frame stays as it is, so that it is shown by file and address and never thrown together with others.
func (u *Unnamed) Name(d *profile.Dictionary, sources [][]Source) {
	lines := make([][]profile.Line, len(u.Addrs))
	starts := make([]string, len(u.Addrs)) // of nameless functions
	for i, at := range sources {
		if len(at) == 1 && strings.HasPrefix(at[0].Name, NamelessPrefix) {
			starts[i] = at[0].Name
			continue
		}
		for _, s := range at {
			f := d.Function(profile.Function{Name: s.Name, SystemName: s.SystemName, File: s.File, StartLine: s.StartLine})
			lines[i] = append(lines[i], profile.Line{Function: f, Line: s.Line})
		}
	}
	for _, fi := range u.frames {
		f := &d.Frames[fi]
		i, _ := slices.BinarySearch(u.Addrs, f.Addr)
		switch {
		case starts[i] != "":
			// Without a file's name it is spelled as an address alone, as other frames then are.
			name := strings.TrimPrefix(baseName(d, f)+starts[i], "+")
			f.Lines = []profile.Line{{Function: d.Function(profile.Function{Name: name})}}
		case len(lines[i]) > 0:
			f.Lines = lines[i]
		}
	}
}

// Batch names the native frames of b in place. Files that r does not know stay unnamed; files that it cannot
// read do too, and their errors are returned joined.
func Batch(ctx context.Context, r Resolver, b *profile.Batch) error {
	var errs []error
	for _, u := range FindUnnamed(b.Dictionary) {
		sources, err := r.Resolve(ctx, u.BuildID, u.Addrs)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			if !errors.Is(err, ErrNoDebugInfo) {
				errs = append(errs, err)
			}
			continue
		}
		u.Name(b.Dictionary, sources)
	}
	return errors.Join(errs...)
}
