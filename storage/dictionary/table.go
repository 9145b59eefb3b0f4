package dictionary

import (
	"bytes"
	"fmt"
	"unsafe"

	"github.com/zeebo/xxh3"
)

const chunkBytes = 256 << 10

// table holds byte strings, each once, numbered from 0 in order of arrival. Bytes that were added never move
// or change, so what get returns stays valid. Entries are found by the hash of their content and compared with
// it: equal hashes of different content only cost time.
type table struct {
	entries []entry
	slots   []uint32 // open addressing by hash; 0 is free, else an id plus 1
	chunks  [][]byte
	bytes   int64
	// holes are entries whose content is not known (a log lost them). They are in no slot.
	holes int
}

type entry struct {
	hash  uint64
	chunk uint32
	off   uint32
	n     uint32
}

func (t *table) len() uint32 { return uint32(len(t.entries)) }

func (t *table) get(id uint32) []byte {
	e := t.entries[id]
	return t.chunks[e.chunk][e.off : e.off+e.n : e.off+e.n]
}

// text returns an entry as a string that shares its bytes.
func (t *table) text(id uint32) string {
	b := t.get(id)
	return unsafe.String(unsafe.SliceData(b), len(b))
}

// find returns the id of b, or the slot where it belongs.
func (t *table) find(b []byte, hash uint64) (id uint32, slot uint64, ok bool) {
	mask := uint64(len(t.slots) - 1)
	for slot = hash & mask; ; slot = (slot + 1) & mask {
		s := t.slots[slot]
		if s == 0 {
			return 0, slot, false
		}
		if t.entries[s-1].hash == hash && bytes.Equal(t.get(s-1), b) {
			return s - 1, slot, true
		}
	}
}

// add returns the id of b, a copy of which it adds if it is new.
func (t *table) add(b []byte) uint32 { return t.addHashed(b, xxh3.Hash(b)) }

func (t *table) addHashed(b []byte, hash uint64) uint32 {
	if len(t.entries)*4 >= len(t.slots)*3 {
		t.grow()
	}
	id, slot, ok := t.find(b, hash)
	if ok {
		return id
	}
	id = t.store(b, hash)
	t.slots[slot] = id + 1
	return id
}

func (t *table) store(b []byte, hash uint64) uint32 {
	last := len(t.chunks) - 1
	if last < 0 || cap(t.chunks[last])-len(t.chunks[last]) < len(b) {
		// An entry of its own size that does not fit does not end the chunk that others still fit into: large
		// ones are rare, so a little is lost at the end of a chunk.
		t.chunks = append(t.chunks, make([]byte, 0, max(chunkBytes, len(b))))
		last++
	}
	c := t.chunks[last]
	t.entries = append(t.entries, entry{hash: hash, chunk: uint32(last), off: uint32(len(c)), n: uint32(len(b))})
	t.chunks[last] = append(c, b...)
	t.bytes += int64(len(b))
	return t.len() - 1
}

// hole adds an entry with the content of entry 0 that is not found by content.
func (t *table) hole() {
	t.entries = append(t.entries, t.entries[0])
	t.holes++
}

func (t *table) grow() {
	t.slots = make([]uint32, max(64, 2*len(t.slots)))
	mask := uint64(len(t.slots) - 1)
	for id, e := range t.entries {
		if id > 0 && e == t.entries[0] {
			continue // a hole
		}
		slot := e.hash & mask
		for t.slots[slot] != 0 {
			slot = (slot + 1) & mask
		}
		t.slots[slot] = uint32(id) + 1
	}
}

func (t *table) String() string { return fmt.Sprintf("%d entries, %d bytes", t.len(), t.bytes) }

func (t *table) lookup(b []byte) (uint32, bool) {
	id, _, ok := t.find(b, xxh3.Hash(b))
	return id, ok
}
