package profile

import "encoding/binary"

// Dictionary holds what samples refer to, each thing once. The zero Dictionary is not ready; use
// [NewDictionary]. It is not safe for concurrent use while something is interned.
type Dictionary struct {
	Mappings  []Mapping
	Functions []Function
	Frames    []Frame
	Stacks    []Stack
	Links     []Link

	mappings  map[Mapping]MappingIndex
	functions map[Function]FunctionIndex
	links     map[Link]LinkIndex
	frames    map[string]FrameIndex
	stacks    map[string]StackIndex
	key       []byte
}

// NewDictionary returns a dictionary that holds only the zero entries.
func NewDictionary() *Dictionary {
	return &Dictionary{
		Mappings:  make([]Mapping, 1),
		Functions: make([]Function, 1),
		Frames:    make([]Frame, 1),
		Stacks:    make([]Stack, 1),
		Links:     make([]Link, 1),
		mappings:  map[Mapping]MappingIndex{},
		functions: map[Function]FunctionIndex{},
		links:     map[Link]LinkIndex{},
		frames:    map[string]FrameIndex{},
		stacks:    map[string]StackIndex{},
	}
}

// Mapping returns the index of m, adding it if it is new. The zero Mapping is index 0.
func (d *Dictionary) Mapping(m Mapping) MappingIndex {
	if m == (Mapping{}) {
		return 0
	}
	i, ok := d.mappings[m]
	if !ok {
		i = MappingIndex(len(d.Mappings))
		d.Mappings = append(d.Mappings, m)
		d.mappings[m] = i
	}
	return i
}

// Function returns the index of f, adding it if it is new. The zero Function is index 0.
func (d *Dictionary) Function(f Function) FunctionIndex {
	if f == (Function{}) {
		return 0
	}
	i, ok := d.functions[f]
	if !ok {
		i = FunctionIndex(len(d.Functions))
		d.Functions = append(d.Functions, f)
		d.functions[f] = i
	}
	return i
}

// Link returns the index of l, adding it if it is new. The zero Link is index 0.
func (d *Dictionary) Link(l Link) LinkIndex {
	if l == (Link{}) {
		return 0
	}
	i, ok := d.links[l]
	if !ok {
		i = LinkIndex(len(d.Links))
		d.Links = append(d.Links, l)
		d.links[l] = i
	}
	return i
}

// Frame returns the index of f, adding it if it is new. The dictionary keeps f.Lines.
func (d *Dictionary) Frame(f Frame) FrameIndex {
	b := append(d.key[:0], byte(f.Kind))
	b = binary.AppendUvarint(b, uint64(f.Mapping))
	b = binary.AppendUvarint(b, uint64(f.Addr))
	for _, l := range f.Lines {
		b = binary.AppendUvarint(b, uint64(l.Function))
		b = binary.AppendVarint(b, int64(l.Line))
		b = binary.AppendVarint(b, int64(l.Column))
	}
	d.key = b
	i, ok := d.frames[string(b)]
	if !ok {
		i = FrameIndex(len(d.Frames))
		d.Frames = append(d.Frames, f)
		d.frames[string(b)] = i
	}
	return i
}

// Stack returns the index of s, adding a copy of it if it is new. The empty stack is index 0.
func (d *Dictionary) Stack(s Stack) StackIndex {
	if len(s) == 0 {
		return 0
	}
	b := d.key[:0]
	for _, f := range s {
		b = binary.LittleEndian.AppendUint32(b, uint32(f))
	}
	d.key = b
	i, ok := d.stacks[string(b)]
	if !ok {
		i = StackIndex(len(d.Stacks))
		d.Stacks = append(d.Stacks, append(Stack(nil), s...))
		d.stacks[string(b)] = i
	}
	return i
}
