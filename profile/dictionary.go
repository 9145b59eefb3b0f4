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

	// The indices find entries by content. What was added without being looked up comes into them when they are
	// needed.
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
	return find(&d.Mappings, d.mappings, m)
}

// Function returns the index of f, adding it if it is new. The zero Function is index 0.
func (d *Dictionary) Function(f Function) FunctionIndex {
	return find(&d.Functions, d.functions, f)
}

// find returns the index of v in table, adding it if it is new. The zero value is index 0; index has the others.
func find[T comparable, I ~uint32](table *[]T, index map[T]I, v T) I {
	var zero T
	if v == zero {
		return 0
	}
	for i := len(index) + 1; i < len(*table); i++ {
		index[(*table)[i]] = I(i)
	}
	i, ok := index[v]
	if !ok {
		i = I(len(*table))
		*table = append(*table, v)
		index[v] = i
	}
	return i
}

// Link returns the index of l, adding it if it is new. The zero Link is index 0.
func (d *Dictionary) Link(l Link) LinkIndex {
	return find(&d.Links, d.links, l)
}

// Frame returns the index of f, adding it if it is new. The dictionary keeps f.Lines.
func (d *Dictionary) Frame(f Frame) FrameIndex {
	d.frames.catchUp(len(d.Frames), func(i uint32) uint64 { return d.hashFrame(&d.Frames[i]) })
	i, found := d.frames.find(d.hashFrame(&f), len(d.Frames), func(i uint32) bool {
		g := &d.Frames[i]
		return g.Addr == f.Addr && g.Mapping == f.Mapping && g.Kind == f.Kind && slices.Equal(g.Lines, f.Lines)
	})
	if !found {
		d.Frames = append(d.Frames, f)
	}
	return FrameIndex(i)
}

func (d *Dictionary) hashFrame(f *Frame) uint64 {
	b := append(d.key[:0], byte(f.Kind))
	b = binary.LittleEndian.AppendUint32(b, uint32(f.Mapping))
	b = binary.LittleEndian.AppendUint64(b, uint64(f.Addr))
	for _, l := range f.Lines {
		b = binary.LittleEndian.AppendUint32(b, uint32(l.Function))
		b = binary.LittleEndian.AppendUint32(b, uint32(l.Line))
		b = binary.LittleEndian.AppendUint32(b, uint32(l.Column))
	}
	d.key = b
	return hashBytes(b)
}

// Stack returns the index of s, adding a copy of it if it is new. The empty stack is index 0.
func (d *Dictionary) Stack(s Stack) StackIndex {
	if len(s) == 0 {
		return 0
	}
	d.stacks.catchUp(len(d.Stacks), func(i uint32) uint64 { return d.hashStack(d.Stacks[i]) })
	i, found := d.stacks.find(d.hashStack(s), len(d.Stacks), func(i uint32) bool { return slices.Equal(d.Stacks[i], s) })
	if !found {
		d.AddStack(s)
	}
	return StackIndex(i)
}

func (d *Dictionary) hashStack(s Stack) uint64 {
	b := d.key[:0]
	for _, f := range s {
		b = binary.LittleEndian.AppendUint32(b, uint32(f))
	}
	d.key = b
	return hashBytes(b)
}

// AddStack adds a copy of a stack that the caller knows to be new, and not empty.
func (d *Dictionary) AddStack(s Stack) StackIndex {
	if cap(d.arena)-len(d.arena) < len(s) {
		d.arena = make([]FrameIndex, 0, max(arenaFrames, len(s)))
	}
	at := len(d.arena)
	d.arena = append(d.arena, s...)
	d.Stacks = append(d.Stacks, d.arena[at:len(d.arena):len(d.arena)])
	return StackIndex(len(d.Stacks) - 1)
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

// catchUp makes findable what was added to the table without being looked up.
func (x *hashIndex) catchUp(entries int, hash func(i uint32) uint64) {
	for i := max(len(x.hashes), 1); i < entries; i++ {
		x.find(hash(uint32(i)), i, func(uint32) bool { return false })
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
