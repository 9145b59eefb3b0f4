// Package dictionary holds what samples refer to, each thing once for the whole store: strings, mappings,
// functions, frames, stacks and series. A thing is identified by its content and gets a dense 32-bit id that
// never changes; entry 0 of every table is the zero value.
//
//	series ──▶ strings            stack ──▶ frames ─┬─▶ mappings ──▶ strings
//	                                                └─▶ functions ─▶ strings
//
// What was added between two [Marks] is a delta, in bytes that [Dictionary.Apply] takes: deltas go into the
// write-ahead log beside the samples that need them, and later into files of their own. docs/formats/blocks.md
// draws them. A [Collection] forgets what nothing refers to any more.
package dictionary

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
)

type tableID uint8

const (
	strings tableID = iota
	mappings
	functions
	frames
	stacks
	series
	tables
)

func (t tableID) String() string {
	return [...]string{"strings", "mappings", "functions", "frames", "stacks", "series"}[t]
}

// Ids. Zero is the zero value: the empty string, the empty stack, no series.
type (
	StringID uint32
	StackID  uint32
	SeriesID uint32
)

// Dictionary is safe for concurrent use. Use New.
type Dictionary struct {
	mu  sync.RWMutex
	t   [tables]table
	key []byte
}

// New returns a dictionary of zero entries.
func New() *Dictionary {
	d := &Dictionary{}
	d.t[strings].add(nil)
	d.t[mappings].add([]byte{0, 0})
	d.t[functions].add([]byte{0, 0, 0, 0})
	d.t[frames].add([]byte{0, 0, 0})
	d.t[stacks].add(nil)
	d.t[series].add(nil)
	return d
}

// Marks says how far a dictionary has grown.
type Marks [tables]uint32

// Marks returns how far the dictionary has grown.
func (d *Dictionary) Marks() Marks {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.marks()
}

func (d *Dictionary) marks() (m Marks) {
	for i := range d.t {
		m[i] = d.t[i].len()
	}
	return m
}

// Size is what one table holds.
type Size struct {
	Table   string
	Entries int64
	Bytes   int64
	// Memory is how much the entries take with what finds them.
	Memory int64
	// Forgotten is how many entries there were besides.
	Forgotten int64
}

// Sizes returns what each table holds.
func (d *Dictionary) Sizes() []Size {
	d.mu.RLock()
	defer d.mu.RUnlock()
	out := make([]Size, tables)
	for i := range d.t {
		t := &d.t[i]
		out[i] = Size{
			Table: tableID(i).String(), Entries: int64(t.live) - 1, Bytes: t.bytes, Memory: t.memory + 8*int64(len(t.groups)) + 8*int64(len(t.slots)),
			Forgotten: int64(t.n) - int64(t.live) - int64(t.lost),
		}
	}
	return out
}

// Stacks is the number of stacks, those that were forgotten not counted.
func (d *Dictionary) Stacks() int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.t[stacks].live - 1
}

// Lost is, by table, the number of entries whose content was lost with a part of the log or with a file.
func (d *Dictionary) Lost() (n Marks) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for i := range d.t {
		n[i] = uint32(d.t[i].lost)
	}
	return n
}

// SetLost says that of the entries that are not there so many are lost, the others forgotten.
func (d *Dictionary) SetLost(n Marks) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.t {
		t := &d.t[i]
		t.lost = min(int(n[i]), int(t.n)-t.live)
	}
}

// Holes is the sum of Lost.
func (d *Dictionary) Holes() int {
	sum := 0
	for _, n := range d.Lost() {
		sum += int(n)
	}
	return sum
}

// Interned translates a batch's indices to ids. Entries that no sample uses are not there (0).
type Interned struct {
	Stacks    []StackID  // by profile.StackIndex
	SpanNames []StringID // by profile.LinkIndex
	Series    []SeriesID // by profile
	Services  []StringID // by profile: the value of its service_name
}

// maxEntries bounds each table; ids are 32 bits.
const maxEntries = math.MaxUint32 - 1

// Intern adds what the profiles of a valid batch refer to. used says which profiles and samples are to be
// kept; what only others use is not added.
func (d *Dictionary) Intern(b *profile.Batch, used func(p int, s *profile.Sample) bool) (Interned, error) {
	bd := b.Dictionary
	out := Interned{Series: make([]SeriesID, len(b.Profiles)), Services: make([]StringID, len(b.Profiles))}
	if bd == nil {
		return out, nil
	}
	out.Stacks = make([]StackID, len(bd.Stacks))
	out.SpanNames = make([]StringID, len(bd.Links))
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.t {
		if uint64(d.t[i].len())+uint64(len(bd.Stacks)+len(bd.Frames)+3*len(bd.Functions)+2*len(bd.Mappings)) > maxEntries {
			return out, fmt.Errorf("%w: the dictionary's %s are full", storage.ErrLimit, tableID(i))
		}
	}
	in := interner{
		d: d, from: bd,
		mappings: make([]uint32, len(bd.Mappings)), functions: make([]uint32, len(bd.Functions)), frames: make([]uint32, len(bd.Frames)),
	}
	for i := range b.Profiles {
		p := &b.Profiles[i]
		kept := false
		for j := range p.Samples {
			s := &p.Samples[j]
			if !used(i, s) {
				continue
			}
			kept = true
			if s.Stack != 0 && out.Stacks[s.Stack] == 0 {
				out.Stacks[s.Stack] = StackID(in.stack(bd.Stacks[s.Stack]))
			}
			if s.Link != 0 && out.SpanNames[s.Link] == 0 {
				out.SpanNames[s.Link] = StringID(in.text(bd.Links[s.Link].SpanName))
			}
		}
		if kept {
			out.Series[i] = SeriesID(in.series(p.Type, p.Labels))
			out.Services[i] = StringID(in.text(p.Labels.Get(profile.LabelServiceName)))
		}
	}
	return out, nil
}

// interner adds the things of one batch. The slices are ids by index, 0 for what was not met yet.
type interner struct {
	d                           *Dictionary
	from                        *profile.Dictionary
	mappings, functions, frames []uint32
	stackKey                    []byte
}

func (in *interner) text(s string) uint32 {
	if s == "" {
		return 0
	}
	in.d.key = append(in.d.key[:0], s...)
	return in.d.t[strings].add(in.d.key)
}

func (in *interner) mapping(i profile.MappingIndex) uint32 {
	if i == 0 || in.mappings[i] != 0 {
		return in.mappings[i]
	}
	m := in.from.Mappings[i]
	a, b := in.text(m.BuildID), in.text(m.File)
	k := binary.AppendUvarint(in.d.key[:0], uint64(a))
	k = binary.AppendUvarint(k, uint64(b))
	in.d.key = k
	in.mappings[i] = in.d.t[mappings].add(k)
	return in.mappings[i]
}

func (in *interner) function(i profile.FunctionIndex) uint32 {
	if i == 0 || in.functions[i] != 0 {
		return in.functions[i]
	}
	f := &in.from.Functions[i]
	a, b, c := in.text(f.Name), in.text(f.SystemName), in.text(f.File)
	k := binary.AppendUvarint(in.d.key[:0], uint64(a))
	k = binary.AppendUvarint(k, uint64(b))
	k = binary.AppendUvarint(k, uint64(c))
	k = binary.AppendVarint(k, int64(f.StartLine))
	in.d.key = k
	in.functions[i] = in.d.t[functions].add(k)
	return in.functions[i]
}

func (in *interner) frame(i profile.FrameIndex) uint32 {
	if i == 0 || in.frames[i] != 0 {
		return in.frames[i]
	}
	f := &in.from.Frames[i]
	m := in.mapping(f.Mapping)
	for _, l := range f.Lines {
		in.function(l.Function)
	}
	k := append(in.d.key[:0], byte(f.Kind))
	k = binary.AppendUvarint(k, uint64(m))
	k = binary.AppendUvarint(k, uint64(f.Addr))
	for _, l := range f.Lines {
		k = binary.AppendUvarint(k, uint64(in.functions[l.Function]))
		k = binary.AppendVarint(k, int64(l.Line))
		k = binary.AppendVarint(k, int64(l.Column))
	}
	in.d.key = k
	in.frames[i] = in.d.t[frames].add(k)
	return in.frames[i]
}

// stack keys are the frames' ids, each as the difference from the one before.
func (in *interner) stack(s profile.Stack) uint32 {
	k, last := in.stackKey[:0], int64(0)
	for _, f := range s {
		id := int64(in.frame(f))
		k = binary.AppendVarint(k, id-last)
		last = id
	}
	in.stackKey = k
	return in.d.t[stacks].add(k)
}

func (in *interner) series(t profile.Type, ls profile.Labels) uint32 {
	k := in.stackKey[:0]
	for _, s := range [...]string{t.Name, t.SampleType, t.SampleUnit, t.PeriodType, t.PeriodUnit} {
		k = binary.AppendUvarint(k, uint64(in.text(s)))
	}
	delta := byte(0)
	if t.Delta {
		delta = 1
	}
	k = append(k, delta)
	for _, l := range ls {
		k = binary.AppendUvarint(k, uint64(in.text(l.Name)))
		k = binary.AppendUvarint(k, uint64(in.text(l.Value)))
	}
	in.stackKey = k
	return in.d.t[series].add(k)
}

// Series returns the type and labels of a series. The labels are the caller's.
func (d *Dictionary) Series(id SeriesID) (profile.Type, profile.Labels, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if id == 0 || uint32(id) >= d.t[series].len() {
		return profile.Type{}, nil, false
	}
	r := entryReader{b: d.t[series].get(uint32(id))}
	if len(r.b) == 0 {
		return profile.Type{}, nil, false // a hole
	}
	str := func() string { return d.t[strings].text(uint32(r.uvarint())) }
	t := profile.Type{Name: str(), SampleType: str(), SampleUnit: str(), PeriodType: str(), PeriodUnit: str()}
	t.Delta = r.byte() == 1
	var ls profile.Labels
	for !r.done() {
		ls = append(ls, profile.Label{Name: str(), Value: str()})
	}
	return t, ls, true
}

// Text returns a string.
func (d *Dictionary) Text(id StringID) string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if uint32(id) >= d.t[strings].len() {
		return ""
	}
	return d.t[strings].text(uint32(id))
}

// FindText returns the id of a string if the dictionary has it.
func (d *Dictionary) FindText(s string) (StringID, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	id, ok := d.t[strings].lookup([]byte(s))
	return StringID(id), ok
}

// StackCount is one more than the largest stack id.
func (d *Dictionary) StackCount() uint32 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.t[stacks].len()
}
