package dictionary

import (
	"fmt"

	"github.com/perfuse/perfuse/profile"
)

// Resolver writes stacks into the dictionary of a batch. It is for one goroutine.
type Resolver struct {
	d         *Dictionary
	to        *profile.Dictionary
	frames    indices[profile.FrameIndex]
	functions indices[profile.FunctionIndex]
	mappings  indices[profile.MappingIndex]
	stack     profile.Stack
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

// NewResolver returns a resolver that adds to a dictionary.
func (d *Dictionary) NewResolver(to *profile.Dictionary) *Resolver {
	return &Resolver{d: d, to: to}
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
	r.stack = r.stack[:0]
	e, frame := entryReader{b: t.get(uint32(id))}, int64(0)
	for !e.done() {
		frame += e.varint()
		r.stack = append(r.stack, r.frame(uint32(frame)))
	}
	return r.to.Stack(r.stack), nil
}

func (r *Resolver) frame(id uint32) profile.FrameIndex {
	known := r.frames.at(id)
	if *known != 0 {
		return *known - 1
	}
	e := entryReader{b: r.d.t[frames].get(id)}
	f := profile.Frame{Kind: profile.Kind(e.byte())}
	f.Mapping = r.mapping(uint32(e.uvarint()))
	f.Addr = profile.Addr(e.uvarint())
	for !e.done() {
		l := profile.Line{Function: r.function(uint32(e.uvarint()))}
		l.Line, l.Column = int32(e.varint()), int32(e.varint())
		f.Lines = append(f.Lines, l)
	}
	*known = r.to.Frame(f) + 1
	return *known - 1
}

func (r *Resolver) mapping(id uint32) profile.MappingIndex {
	if id == 0 {
		return 0
	}
	known := r.mappings.at(id)
	if *known == 0 {
		e := entryReader{b: r.d.t[mappings].get(id)}
		*known = r.to.Mapping(profile.Mapping{BuildID: r.text(&e), File: r.text(&e)}) + 1
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
		*known = r.to.Function(profile.Function{Name: r.text(&e), SystemName: r.text(&e), File: r.text(&e), StartLine: int32(e.varint())}) + 1
	}
	return *known - 1
}

func (r *Resolver) text(e *entryReader) string { return r.d.t[strings].text(uint32(e.uvarint())) }
