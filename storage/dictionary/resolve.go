package dictionary

import (
	"fmt"

	"github.com/perfuse/perfuse/profile"
)

// Resolver writes stacks into the dictionary of a batch. It is for one goroutine.
type Resolver struct {
	d         *Dictionary
	to        *profile.Dictionary
	frames    map[uint32]profile.FrameIndex
	functions map[uint32]profile.FunctionIndex
	mappings  map[uint32]profile.MappingIndex
	stack     profile.Stack
}

// NewResolver returns a resolver that adds to a dictionary.
func (d *Dictionary) NewResolver(to *profile.Dictionary) *Resolver {
	return &Resolver{
		d: d, to: to,
		frames: map[uint32]profile.FrameIndex{}, functions: map[uint32]profile.FunctionIndex{}, mappings: map[uint32]profile.MappingIndex{},
	}
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
	if i, ok := r.frames[id]; ok {
		return i
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
	i := r.to.Frame(f)
	r.frames[id] = i
	return i
}

func (r *Resolver) mapping(id uint32) profile.MappingIndex {
	if id == 0 {
		return 0
	}
	i, ok := r.mappings[id]
	if !ok {
		e := entryReader{b: r.d.t[mappings].get(id)}
		i = r.to.Mapping(profile.Mapping{BuildID: r.text(&e), File: r.text(&e)})
		r.mappings[id] = i
	}
	return i
}

func (r *Resolver) function(id uint32) profile.FunctionIndex {
	if id == 0 {
		return 0
	}
	i, ok := r.functions[id]
	if !ok {
		e := entryReader{b: r.d.t[functions].get(id)}
		i = r.to.Function(profile.Function{Name: r.text(&e), SystemName: r.text(&e), File: r.text(&e), StartLine: int32(e.varint())})
		r.functions[id] = i
	}
	return i
}

func (r *Resolver) text(e *entryReader) string { return r.d.t[strings].text(uint32(e.uvarint())) }
