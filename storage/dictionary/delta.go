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
// Tables are in the order in which they refer to each other, so that one pass can check everything. A table with
// holes comes several times.
func (d *Dictionary) AppendDelta(b []byte, from, to Marks) []byte {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for i := range d.t {
		b = d.t[i].appendDelta(b, tableID(i), from[i], to[i])
	}
	return append(b, deltaEnd)
}

func (t *table) appendDelta(b []byte, id tableID, from, to uint32) []byte {
	for from < to {
		end := from
		for end < to && t.at(end) != nil {
			end++
		}
		b = append(b, byte(id))
		b = binary.AppendUvarint(b, uint64(from))
		b = binary.AppendUvarint(b, uint64(end-from))
		for ; from < end; from++ {
			e := t.get(from)
			b = binary.AppendUvarint(b, uint64(len(e)))
			b = append(b, e...)
		}
		if from = t.afterHoles(end, to); from == to && end < to { // the holes at the end are known, not lost
			b = append(b, byte(id))
			b = binary.AppendUvarint(b, uint64(to))
			b = binary.AppendUvarint(b, 0)
		}
	}
	return b
}

// afterHoles returns the first id from one on that is no hole, or to.
func (t *table) afterHoles(from, to uint32) uint32 {
	const ids = pageEntries * groupPages
	end := uint64(to)
	for at := uint64(from); at < end; {
		switch id := uint32(at); {
		case t.groups[id/ids] == nil:
			at = (at/ids + 1) * ids
		case t.page(id/pageEntries) == nil:
			at = (at/pageEntries + 1) * pageEntries
		case t.at(id) == nil:
			at++
		default:
			return id
		}
	}
	return to
}

// partBytes is about how large a part is.
const partBytes = 512 << 10

// Parts calls f with deltas that together, in order, are all there is up to a mark. They are valid until f returns.
func (d *Dictionary) Parts(to Marks, f func(delta []byte) error) error {
	var b []byte
	var at Marks
	for i := range at {
		for at[i] < to[i] {
			next := at
			next[i] = d.partEnd(i, at[i], to[i])
			b = d.AppendDelta(b[:0], at, next)
			if err := f(b); err != nil {
				return err
			}
			at = next
		}
	}
	return nil
}

func (d *Dictionary) partEnd(i int, from, to uint32) uint32 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	t := &d.t[i]
	for size := 0; from < to && size < partBytes; {
		if end := t.afterHoles(from, to); end > from {
			from = end
			continue
		}
		size += 1 + int(t.at(from).n)
		from++
	}
	return from
}

const deltaEnd = 0xff

// Apply reads a delta and returns what follows it. Entries that the dictionary has already must be equal, unless
// it has forgotten them, which they stay. Between what it has and where the delta begins, entries are made up that
// stand for what was lost; those that the delta leaves out were forgotten.
//
// An entry may be equal to another that has an id before it: the other had been forgotten when this one came, and
// a crash came before that was on disk. Nothing refers to the other any more.
func (d *Dictionary) Apply(b []byte) (rest []byte, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	last, next := -1, uint64(0)
	for {
		if len(b) == 0 {
			return nil, fmt.Errorf("%w: it has no end", ErrCorrupt)
		}
		id := b[0]
		b = b[1:]
		if id == deltaEnd {
			return b, nil
		}
		if id >= byte(tables) || int(id) < last {
			return nil, fmt.Errorf("%w: table %d after %d", ErrCorrupt, id, last)
		}
		begins := int(id) > last
		if begins {
			last, next = int(id), 0
		}
		if next, b, err = d.applyTable(tableID(id), b, begins, next); err != nil {
			return nil, err
		}
	}
}

// applyTable reads entries of one table, of which those before next were read, or none if it begins.
func (d *Dictionary) applyTable(id tableID, b []byte, begins bool, next uint64) (uint64, []byte, error) {
	t := &d.t[id]
	first, n1 := binary.Uvarint(b)
	if n1 <= 0 {
		return 0, nil, fmt.Errorf("%w: %s", ErrCorrupt, id)
	}
	count, n2 := binary.Uvarint(b[n1:])
	if n2 <= 0 || first < next || first > maxEntries || count > maxEntries-first {
		return 0, nil, fmt.Errorf("%w: %s", ErrCorrupt, id)
	}
	b = b[n1+n2:]
	if count > uint64(len(b)) {
		return 0, nil, fmt.Errorf("%w: %d %s in %d bytes", ErrCorrupt, count, id, len(b))
	}
	if gap := int64(first) - int64(t.len()); gap > 0 {
		if begins {
			t.lost += int(gap)
		}
		t.skip(uint32(first))
	}
	for i := first; i < first+count; i++ {
		n, w := binary.Uvarint(b)
		if w <= 0 || n > uint64(len(b)-w) || n > math.MaxUint32 {
			return 0, nil, fmt.Errorf("%w: %s %d", ErrCorrupt, id, i)
		}
		e := b[w : w+int(n)]
		b = b[w+int(n):]
		if i < uint64(t.len()) {
			if t.at(uint32(i)) != nil && !bytes.Equal(t.get(uint32(i)), e) {
				return 0, nil, fmt.Errorf("%w: %s %d is there with other content", ErrCorrupt, id, i)
			}
			continue
		}
		if err := d.checkEntry(id, e); err != nil {
			return 0, nil, fmt.Errorf("%w: %s %d: %w", ErrCorrupt, id, i, err)
		}
		t.restore(e)
	}
	return first + count, b, nil
}

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
		if t := &d.t[i]; t.len() < to[i] {
			t.lost += int(to[i] - t.len())
			t.skip(to[i])
		}
	}
}
