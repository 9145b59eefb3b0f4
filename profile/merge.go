package profile

import (
	"encoding/binary"
	"slices"
)

// Importer copies entries of one dictionary into another, each once, and only those that are asked for.
type Importer struct {
	dst, src  *Dictionary
	mappings  []MappingIndex
	functions []FunctionIndex
	frames    []FrameIndex
	stacks    []StackIndex
	links     []LinkIndex
	scratch   Stack
}

// NewImporter returns an importer from src, which must not change while it is in use, into dst. dst then
// shares src's strings.
func NewImporter(dst, src *Dictionary) *Importer {
	return &Importer{
		dst: dst, src: src,
		mappings:  make([]MappingIndex, len(src.Mappings)),
		functions: make([]FunctionIndex, len(src.Functions)),
		frames:    make([]FrameIndex, len(src.Frames)),
		stacks:    make([]StackIndex, len(src.Stacks)),
		links:     make([]LinkIndex, len(src.Links)),
	}
}

// Stack returns the index in the destination of stack i of the source.
func (m *Importer) Stack(i StackIndex) StackIndex {
	if i != 0 && m.stacks[i] == 0 {
		m.scratch = m.scratch[:0]
		for _, f := range m.src.Stacks[i] {
			m.scratch = append(m.scratch, m.Frame(f))
		}
		m.stacks[i] = m.dst.Stack(m.scratch)
	}
	return m.stacks[i]
}

// Frame returns the index in the destination of frame i of the source.
func (m *Importer) Frame(i FrameIndex) FrameIndex {
	if i != 0 && m.frames[i] == 0 {
		f := m.src.Frames[i]
		f.Mapping = m.Mapping(f.Mapping)
		f.Lines = slices.Clone(f.Lines)
		for j := range f.Lines {
			f.Lines[j].Function = m.Function(f.Lines[j].Function)
		}
		m.frames[i] = m.dst.Frame(f)
	}
	return m.frames[i]
}

// Mapping returns the index in the destination of mapping i of the source.
func (m *Importer) Mapping(i MappingIndex) MappingIndex {
	if i != 0 && m.mappings[i] == 0 {
		m.mappings[i] = m.dst.Mapping(m.src.Mappings[i])
	}
	return m.mappings[i]
}

// Function returns the index in the destination of function i of the source.
func (m *Importer) Function(i FunctionIndex) FunctionIndex {
	if i != 0 && m.functions[i] == 0 {
		m.functions[i] = m.dst.Function(m.src.Functions[i])
	}
	return m.functions[i]
}

// Link returns the index in the destination of link i of the source.
func (m *Importer) Link(i LinkIndex) LinkIndex {
	if i != 0 && m.links[i] == 0 {
		m.links[i] = m.dst.Link(m.src.Links[i])
	}
	return m.links[i]
}

// Merge returns one batch with what is in all of them. Profiles of equal type and labels become one, which
// spans from the first to the last of them and has their period if they agree on it, else 0; their samples
// of equal stack, link and time become one. Profiles are in order of their first occurrence. The batches stay
// as they are.
func Merge(batches ...*Batch) *Batch {
	out := &Batch{Dictionary: NewDictionary()}
	type sampleKey struct {
		stack StackIndex
		link  LinkIndex
		time  int64
	}
	profiles := map[string]int{} // by type and labels
	var samples []map[sampleKey]int
	var key []byte
	for _, b := range batches {
		im := NewImporter(out.Dictionary, b.Dictionary)
		for i := range b.Profiles {
			p := &b.Profiles[i]
			key = appendLabels(append(key[:0], p.Type.String()...), p.Labels)
			at, ok := profiles[string(key)]
			if !ok {
				at = len(out.Profiles)
				profiles[string(key)] = at
				q := *p
				q.Samples = nil
				out.Profiles = append(out.Profiles, q)
				samples = append(samples, make(map[sampleKey]int, len(p.Samples)))
			}
			q, index := &out.Profiles[at], samples[at]
			if q.Period != p.Period {
				q.Period = 0
			}
			end := max(q.TimeNanos+q.DurationNanos, p.TimeNanos+p.DurationNanos)
			q.TimeNanos = min(q.TimeNanos, p.TimeNanos)
			q.DurationNanos = end - q.TimeNanos
			for j := range p.Samples {
				s := p.Samples[j]
				s.Stack, s.Link = im.Stack(s.Stack), im.Link(s.Link)
				k := sampleKey{s.Stack, s.Link, s.TimeNanos}
				if n, ok := index[k]; ok {
					q.Samples[n].Value += s.Value
				} else {
					index[k] = len(q.Samples)
					q.Samples = append(q.Samples, s)
				}
			}
		}
	}
	return out
}

// appendLabels appends bytes that are equal for equal labels only.
func appendLabels(key []byte, ls Labels) []byte {
	for _, l := range ls {
		key = binary.AppendUvarint(key, uint64(len(l.Name)))
		key = append(key, l.Name...)
		key = binary.AppendUvarint(key, uint64(len(l.Value)))
		key = append(key, l.Value...)
	}
	return key
}
