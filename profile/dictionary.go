package profile

import (
	"encoding/binary"
	"hash/maphash"
	"slices"
)

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
	frames    hashIndex
	stacks    hashIndex
	key       []byte
	arena     []FrameIndex // where the next stacks go
}

// arenaFrames is how many frames of stacks are allocated at a time.
const arenaFrames = 4096

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
	b = binary.LittleEndian.AppendUint32(b, uint32(f.Mapping))
	b = binary.LittleEndian.AppendUint64(b, uint64(f.Addr))
	for _, l := range f.Lines {
		b = binary.LittleEndian.AppendUint32(b, uint32(l.Function))
		b = binary.LittleEndian.AppendUint32(b, uint32(l.Line))
		b = binary.LittleEndian.AppendUint32(b, uint32(l.Column))
	}
	d.key = b
	i, found := d.frames.find(hashBytes(b), len(d.Frames), func(i uint32) bool {
		g := &d.Frames[i]
		return g.Addr == f.Addr && g.Mapping == f.Mapping && g.Kind == f.Kind && slices.Equal(g.Lines, f.Lines)
	})
	if !found {
		d.Frames = append(d.Frames, f)
	}
	return FrameIndex(i)
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
	i, found := d.stacks.find(hashBytes(b), len(d.Stacks), func(i uint32) bool { return slices.Equal(d.Stacks[i], s) })
	if !found {
		if cap(d.arena)-len(d.arena) < len(s) {
			d.arena = make([]FrameIndex, 0, max(arenaFrames, len(s)))
		}
		at := len(d.arena)
		d.arena = append(d.arena, s...)
		d.Stacks = append(d.Stacks, d.arena[at:len(d.arena):len(d.arena)])
	}
	return StackIndex(i)
}

// hashSeed makes it impossible to send us entries that fall into one slot.
var hashSeed = maphash.MakeSeed()

func hashBytes(b []byte) uint64 { return maphash.Bytes(hashSeed, b) }

// hashIndex finds entries of a table by their hash: open addressing over entry numbers, of which 0 is never
// looked for. It keeps no copy of the entries.
type hashIndex struct {
	slots  []uint32 // entry numbers, 0 is free
	hashes []uint64 // by entry number
}

// find returns the entry that equals says to be the one with that hash; if there is none, it notes next, the
// number of the entry that the caller is going to add.
func (x *hashIndex) find(hash uint64, next int, equals func(uint32) bool) (entry uint32, found bool) {
	if next*2 >= len(x.slots) {
		x.grow()
	}
	mask := uint64(len(x.slots) - 1)
	for s := hash & mask; ; s = (s + 1) & mask {
		e := x.slots[s]
		if e == 0 {
			x.slots[s] = uint32(next)
			for len(x.hashes) <= next {
				x.hashes = append(x.hashes, 0)
			}
			x.hashes[next] = hash
			return uint32(next), false
		}
		if x.hashes[e] == hash && equals(e) {
			return e, true
		}
	}
}

func (x *hashIndex) grow() {
	x.slots = make([]uint32, max(64, 2*len(x.slots)))
	mask := uint64(len(x.slots) - 1)
	for e := 1; e < len(x.hashes); e++ {
		s := x.hashes[e] & mask
		for x.slots[s] != 0 {
			s = (s + 1) & mask
		}
		x.slots[s] = uint32(e)
	}
}
