package dictionary

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/perfuse/perfuse/profile"
)

// ErrCorrupt: bytes are no delta, or contradict what the dictionary has.
var ErrCorrupt = errors.New("corrupt dictionary delta")

// AppendDelta appends what was added from one mark to another:
//
//	delta = { table u8, first uvarint, count uvarint, { length uvarint, bytes }*count }*, 0xff
//
// Tables are in the order in which they refer to each other, so that one pass can check everything.
func (d *Dictionary) AppendDelta(b []byte, from, to Marks) []byte {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for i := range d.t {
		if from[i] >= to[i] {
			continue
		}
		b = append(b, byte(i))
		b = binary.AppendUvarint(b, uint64(from[i]))
		b = binary.AppendUvarint(b, uint64(to[i]-from[i]))
		for id := from[i]; id < to[i]; id++ {
			e := d.t[i].get(id)
			b = binary.AppendUvarint(b, uint64(len(e)))
			b = append(b, e...)
		}
	}
	return append(b, deltaEnd)
}

const deltaEnd = 0xff

// Apply reads a delta and returns what follows it. Entries that the dictionary has already must be equal.
// Between what it has and where the delta begins, entries are made up that stand for what was lost.
func (d *Dictionary) Apply(b []byte) (rest []byte, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for last := -1; ; {
		if len(b) == 0 {
			return nil, fmt.Errorf("%w: it has no end", ErrCorrupt)
		}
		id := b[0]
		b = b[1:]
		if id == deltaEnd {
			return b, nil
		}
		if id >= byte(tables) || int(id) <= last {
			return nil, fmt.Errorf("%w: table %d after %d", ErrCorrupt, id, last)
		}
		last = int(id)
		if b, err = d.applyTable(tableID(id), b); err != nil {
			return nil, err
		}
	}
}

func (d *Dictionary) applyTable(id tableID, b []byte) ([]byte, error) {
	t := &d.t[id]
	first, n1 := binary.Uvarint(b)
	if n1 <= 0 {
		return nil, fmt.Errorf("%w: %s", ErrCorrupt, id)
	}
	count, n2 := binary.Uvarint(b[n1:])
	if n2 <= 0 || first > maxEntries || count > maxEntries-first {
		return nil, fmt.Errorf("%w: %s", ErrCorrupt, id)
	}
	b = b[n1+n2:]
	if count > uint64(len(b)) {
		return nil, fmt.Errorf("%w: %d %s in %d bytes", ErrCorrupt, count, id, len(b))
	}
	// A made-up entry costs memory that no byte of the input paid for.
	if first > uint64(t.len())+maxHoles {
		return nil, fmt.Errorf("%w: %s from %d on after %d", ErrCorrupt, id, first, t.len())
	}
	for uint64(t.len()) < first {
		t.hole()
	}
	for i := first; i < first+count; i++ {
		n, w := binary.Uvarint(b)
		if w <= 0 || n > uint64(len(b)-w) || n > math.MaxUint32 {
			return nil, fmt.Errorf("%w: %s %d", ErrCorrupt, id, i)
		}
		e := b[w : w+int(n)]
		b = b[w+int(n):]
		if i < uint64(t.len()) {
			if old := t.get(uint32(i)); !bytes.Equal(old, e) && t.entries[i] != t.entries[0] {
				return nil, fmt.Errorf("%w: %s %d is there with other content", ErrCorrupt, id, i)
			}
			continue
		}
		if err := d.checkEntry(id, e); err != nil {
			return nil, fmt.Errorf("%w: %s %d: %w", ErrCorrupt, id, i, err)
		}
		if got := t.add(e); uint64(got) != i {
			return nil, fmt.Errorf("%w: %s %d is the same as %d", ErrCorrupt, id, i, got)
		}
	}
	return b, nil
}

const maxHoles = 1 << 20

// checkEntry says whether an entry can be read and refers to nothing that is not there.
func (d *Dictionary) checkEntry(id tableID, b []byte) error {
	r := entryReader{b: b}
	ref := func(to tableID) {
		if r.uvarint() >= uint64(d.t[to].len()) {
			r.bad = true
		}
	}
	i32 := func() {
		if v := r.varint(); v != int64(int32(v)) {
			r.bad = true
		}
	}
	switch id {
	case strings:
		return nil
	case mappings:
		ref(strings)
		ref(strings)
	case functions:
		ref(strings)
		ref(strings)
		ref(strings)
		i32()
	case frames:
		if r.byte() > byte(profile.KindUnwind) {
			r.bad = true
		}
		ref(mappings)
		r.uvarint()
		for !r.done() {
			ref(functions)
			i32()
			i32()
		}
	case stacks:
		for frame := int64(0); !r.done(); {
			if frame += r.varint(); frame < 0 || frame >= int64(d.t[frames].len()) {
				return errors.New("it refers to what is not there")
			}
		}
	case series:
		for range 5 {
			ref(strings)
		}
		if r.byte() > 1 {
			r.bad = true
		}
		for !r.done() {
			ref(strings)
			ref(strings)
		}
	}
	if r.bad || !r.done() {
		return errors.New("it cannot be read or refers to what is not there")
	}
	return nil
}

// entryReader reads the parts of an entry. After a part that is not there it is bad, and done.
type entryReader struct {
	b   []byte
	bad bool
}

func (r *entryReader) done() bool { return len(r.b) == 0 }

func (r *entryReader) fail() {
	r.b, r.bad = nil, true
}

func (r *entryReader) byte() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *entryReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *entryReader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// Skip adds entries that stand for what was lost, up to a mark.
func (d *Dictionary) Skip(to Marks) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.t {
		for d.t[i].len() < to[i] {
			d.t[i].hole()
		}
	}
}
