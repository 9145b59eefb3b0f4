package dictionary

import (
	"fmt"
	"slices"

	"github.com/perfuse/perfuse/profile"
)

// Resolver writes stacks into the dictionary of a batch, which it alone adds to. It is for one goroutine. What has
// different ids is different, so nothing is looked up by content.
type Resolver struct {
	d         *Dictionary
	to        *profile.Dictionary
	stacks    indices[profile.StackIndex]
	frames    indices[profile.FrameIndex]
	functions indices[profile.FunctionIndex]
	mappings  indices[profile.MappingIndex]
	stack     profile.Stack
	lines     []profile.Line // where the next frames' lines go
}

// indices maps ids to indices, in pages, so that it costs what was met and not what is known.
type indices[T ~uint32] struct {
	pages [][]T // index plus 1; 0 is not met
}

const pageIDs = 512

func (x *indices[T]) at(id uint32) *T {
	page := int(id / pageIDs)
	if page >= len(x.pages) {
		x.pages = append(x.pages, make([][]T, page+1-len(x.pages))...)
	}
	if x.pages[page] == nil {
		x.pages[page] = make([]T, pageIDs)
	}
	return &x.pages[page][id%pageIDs]
}

// NewResolver returns a resolver that adds to a dictionary, which must be empty.
func (d *Dictionary) NewResolver(to *profile.Dictionary) *Resolver {
	return &Resolver{d: d, to: to}
}

// Grow makes room for so many stacks more, and for some of their frames.
func (r *Resolver) Grow(stacks int) {
	r.to.Stacks = slices.Grow(r.to.Stacks, stacks)
	r.to.Frames = slices.Grow(r.to.Frames, min(stacks, 4096))
	r.to.Functions = slices.Grow(r.to.Functions, min(stacks, 2048))
}

// Stack returns the index that a stack has in the batch.
func (r *Resolver) Stack(id StackID) (profile.StackIndex, error) {
	if id == 0 {
		return 0, nil
	}
	r.d.mu.RLock()
	defer r.d.mu.RUnlock()
	t := &r.d.t[stacks]
	if uint32(id) >= t.len() {
		return 0, fmt.Errorf("stack %d is not in the dictionary", id)
	}
	known := r.stacks.at(uint32(id))
	if *known != 0 {
		return *known - 1, nil
	}
	r.stack = r.stack[:0]
	e, frame := entryReader{b: t.get(uint32(id))}, int64(0)
	for !e.done() {
		// Most differences are of one byte or two.
		switch b := e.b; {
		case b[0] < 0x80:
			frame += unzigzag(uint64(b[0]))
			e.b = b[1:]
		case len(b) > 1 && b[1] < 0x80:
			frame += unzigzag(uint64(b[0]&0x7f) | uint64(b[1])<<7)
			e.b = b[2:]
		default:
			frame += e.varint()
		}
		r.stack = append(r.stack, r.frame(uint32(frame)))
	}
	i := profile.StackIndex(0) // of a hole
	if len(r.stack) > 0 {
		i = r.to.AddStack(r.stack)
	}
	*known = i + 1
	return i, nil
}

// Depth is how many frames a stack has.
func (d *Dictionary) Depth(id StackID) (n int) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if uint32(id) >= d.t[stacks].len() {
		return 0
	}
	for _, b := range d.t[stacks].get(uint32(id)) {
		if b < 0x80 { // the last byte of a number
			n++
		}
	}
	return n
}

func unzigzag(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }

func (r *Resolver) frame(id uint32) profile.FrameIndex {
	known := r.frames.at(id)
	if *known != 0 {
		return *known - 1
	}
	e := entryReader{b: r.d.t[frames].get(id)}
	f := profile.Frame{Kind: profile.Kind(e.byte())}
	f.Mapping = r.mapping(uint32(e.uvarint()))
	f.Addr = profile.Addr(e.uvarint())
	begin := len(r.lines)
	for !e.done() {
		l := profile.Line{Function: r.function(uint32(e.uvarint()))}
		l.Line, l.Column = int32(e.varint()), int32(e.varint())
		if len(r.lines) == cap(r.lines) {
			r.lines, begin = append(make([]profile.Line, 0, max(arenaLines, 2*(len(r.lines)-begin))), r.lines[begin:]...), 0
		}
		r.lines = append(r.lines, l)
	}
	if len(r.lines) > begin {
		f.Lines = r.lines[begin:len(r.lines):len(r.lines)]
	}
	r.to.Frames = append(r.to.Frames, f)
	*known = profile.FrameIndex(len(r.to.Frames))
	return *known - 1
}

// arenaLines is how many lines are allocated at a time.
const arenaLines = 1024

func (r *Resolver) mapping(id uint32) profile.MappingIndex {
	if id == 0 {
		return 0
	}
	known := r.mappings.at(id)
	if *known == 0 {
		e := entryReader{b: r.d.t[mappings].get(id)}
		*known = add[profile.MappingIndex](&r.to.Mappings, profile.Mapping{BuildID: r.text(&e), File: r.text(&e)}) + 1
	}
	return *known - 1
}

func (r *Resolver) function(id uint32) profile.FunctionIndex {
	if id == 0 {
		return 0
	}
	known := r.functions.at(id)
	if *known == 0 {
		e := entryReader{b: r.d.t[functions].get(id)}
		f := profile.Function{Name: r.text(&e), SystemName: r.text(&e), File: r.text(&e), StartLine: int32(e.varint())}
		*known = add[profile.FunctionIndex](&r.to.Functions, f) + 1
	}
	return *known - 1
}

// add appends what came from an entry and returns its index. That of holes is 0.
func add[I ~uint32, T comparable](to *[]T, v T) I {
	var hole T
	if v == hole {
		return 0
	}
	*to = append(*to, v)
	return I(len(*to) - 1)
}

func (r *Resolver) text(e *entryReader) string { return r.d.t[strings].text(uint32(e.uvarint())) }
