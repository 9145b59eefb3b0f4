package dictionary

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"math/bits"
	"slices"
	"unsafe"
)

const (
	chunkBytes = 256 << 10
	// pageEntries is how many entries lie together, and groupPages how many pages. Where all of them are holes a
	// pointer is left.
	pageEntries = 256
	groupPages  = 256
)

// table holds byte strings, each once, numbered from 0 in order of arrival. Bytes that were added never change,
// and chunks are not written to a second time, so what get returns stays valid, also when the entry is forgotten.
// Entries are found by the hash of their content and compared with it: equal hashes of different content only
// cost time. A hole is an id whose content was forgotten or lost: it is empty, and not found.
type table struct {
	n      uint32
	groups []*group // nil: holes
	slots  []slot   // open addressing by hash
	filled int      // slots that are not free
	chunks [][]byte // 0 is that of holes
	open   uint32   // the chunk that is written to, 0 if there is none
	free   []uint32 // places in chunks without one

	live   int     // entries with content
	lost   int     // holes whose content is missing: something may refer to them
	bytes  int64   // of what has content
	memory int64   // of groups, pages and chunks
	handed *bitmap // the entries that were found; nil if nothing is being collected
}

// slot is a part of the hash that does not say where the slot is, which spares looking at most entries that are not
// meant, and below it an id plus 1, which may have become a hole. 0 is free.
type slot uint64

func slotOf(hash uint64, id uint32) slot { return slot(hash>>32<<32 | uint64(id) + 1) }

func (s slot) id() uint32 { return uint32(s) - 1 }

// hashSeed makes it impossible to send us entries that fall into one slot.
var hashSeed = maphash.MakeSeed()

func hashOf(b []byte) uint64 { return maphash.Bytes(hashSeed, b) }

type group struct {
	pages [groupPages]*page // nil: holes
	used  int               // those that are not nil
}

type page [pageEntries]entry

// entry of chunk 0 is a hole.
type entry struct {
	hash  uint64
	chunk uint32
	off   uint32
	n     uint32
}

const (
	groupBytes = int64(unsafe.Sizeof(group{}))
	pageBytes  = int64(unsafe.Sizeof(page{}))
)

func (t *table) len() uint32 { return t.n }

// at returns an entry, nil if it is a hole.
func (t *table) at(id uint32) *entry {
	p := t.page(id / pageEntries)
	if p == nil || p[id%pageEntries].chunk == 0 {
		return nil
	}
	return &p[id%pageEntries]
}

// page returns a page by number, nil if it is holes.
func (t *table) page(n uint32) *page {
	g := t.groups[n/groupPages]
	if g == nil {
		return nil
	}
	return g.pages[n%groupPages]
}

func (t *table) get(id uint32) []byte {
	e := t.at(id)
	if e == nil {
		return nil
	}
	return t.chunks[e.chunk][e.off : e.off+e.n : e.off+e.n]
}

// text returns an entry as a string that shares its bytes.
func (t *table) text(id uint32) string {
	b := t.get(id)
	return unsafe.String(unsafe.SliceData(b), len(b))
}

// find returns the id of b, or the slot where it belongs. Of equal entries it is the last.
func (t *table) find(b []byte, hash uint64) (id uint32, at uint64, ok bool) {
	mask := uint64(len(t.slots) - 1)
	for at = hash & mask; ; at = (at + 1) & mask {
		s := t.slots[at]
		if s == 0 {
			return 0, at, false
		}
		if uint64(s)>>32 != hash>>32 {
			continue
		}
		if e := t.at(s.id()); e != nil && bytes.Equal(t.chunks[e.chunk][e.off:e.off+e.n], b) {
			return s.id(), at, true
		}
	}
}

// add returns the id of b, a copy of which it adds if it is new.
func (t *table) add(b []byte) uint32 { return t.addHashed(b, hashOf(b)) }

func (t *table) addHashed(b []byte, hash uint64) uint32 {
	t.makeRoom()
	id, at, ok := t.find(b, hash)
	if ok {
		if t.handed != nil {
			t.handed.set(id)
		}
		return id
	}
	t.filled++
	t.slots[at] = slotOf(hash, t.n)
	return t.store(b, hash)
}

// restore adds b also if there is an equal entry, which is not found any more then: see [Dictionary.Apply].
func (t *table) restore(b []byte) {
	t.makeRoom()
	hash := hashOf(b)
	_, at, ok := t.find(b, hash)
	if !ok {
		t.filled++
	}
	t.slots[at] = slotOf(hash, t.n)
	t.store(b, hash)
}

func (t *table) store(b []byte, hash uint64) uint32 {
	id := t.n
	t.skip(id + 1)
	g := &t.groups[id/pageEntries/groupPages]
	if *g == nil {
		*g = &group{}
		t.memory += groupBytes
	}
	p := &(*g).pages[id/pageEntries%groupPages]
	if *p == nil {
		*p = new(page)
		(*g).used++
		t.memory += pageBytes
	}
	(*p)[id%pageEntries] = t.write(b, hash)
	t.live++
	t.bytes += int64(len(b))
	return id
}

// write puts bytes into a chunk.
func (t *table) write(b []byte, hash uint64) entry {
	if c := t.open; c == 0 || cap(t.chunks[c])-len(t.chunks[c]) < len(b) {
		// An entry of its own size that does not fit does not end the chunk that others still fit into: large
		// ones are rare, so a little is lost at the end of a chunk.
		if len(t.chunks) == 0 {
			t.chunks = append(t.chunks, nil)
		}
		if n := len(t.free); n > 0 {
			t.open, t.free = t.free[n-1], t.free[:n-1]
		} else {
			t.open = uint32(len(t.chunks))
			t.chunks = append(t.chunks, nil)
		}
		t.chunks[t.open] = make([]byte, 0, max(chunkBytes, len(b)))
		t.memory += int64(cap(t.chunks[t.open]))
	}
	c := &t.chunks[t.open]
	e := entry{hash: hash, chunk: t.open, off: uint32(len(*c)), n: uint32(len(b))}
	*c = append(*c, b...)
	return e
}

// release gives back a chunk that no entry needs. Who was handed bytes of it keeps it alive.
func (t *table) release(chunk uint32) {
	t.memory -= int64(cap(t.chunks[chunk]))
	t.chunks[chunk] = nil
	t.free = append(t.free, chunk)
}

// pages returns the numbers of the pages that are not holes.
func (t *table) pages() (out []uint32) {
	for i, g := range t.groups {
		for j := range groupPages {
			if g != nil && g.pages[j] != nil {
				out = append(out, uint32(i*groupPages+j))
			}
		}
	}
	return out
}

// drop makes holes of a page.
func (t *table) drop(n uint32) {
	g := t.groups[n/groupPages]
	g.pages[n%groupPages] = nil
	t.memory -= pageBytes
	if g.used--; g.used == 0 {
		t.groups[n/groupPages] = nil
		t.memory -= groupBytes
	}
}

// skip makes holes of the ids up to another.
func (t *table) skip(to uint32) {
	const ids = pageEntries * groupPages
	t.n = max(t.n, to)
	if n := int((uint64(t.n) + ids - 1) / ids); n > len(t.groups) {
		t.groups = append(t.groups, make([]*group, n-len(t.groups))...)
	}
}

func (t *table) makeRoom() {
	if t.filled*4 >= len(t.slots)*3 {
		t.rehash()
	}
}

// rehash makes the slots as many as there are entries for, and those of holes free.
func (t *table) rehash() {
	n := 64
	for n < 2*t.live {
		n *= 2
	}
	t.slots, t.filled = make([]slot, n), t.live
	mask := uint64(n - 1)
	for _, i := range slices.Backward(t.pages()) {
		p := t.page(i)
		for j := pageEntries - 1; j >= 0; j-- { // backwards: of equal entries the last is found
			if p[j].chunk == 0 {
				continue
			}
			at := p[j].hash & mask
			for t.slots[at] != 0 {
				at = (at + 1) & mask
			}
			t.slots[at] = slotOf(p[j].hash, i*pageEntries+uint32(j))
		}
	}
}

func (t *table) String() string { return fmt.Sprintf("%d entries, %d bytes", t.live, t.bytes) }

func (t *table) lookup(b []byte) (uint32, bool) {
	id, _, ok := t.find(b, hashOf(b))
	return id, ok
}

// bitmap is a set of ids, in pages, so that it costs what is in it and not what there is.
type bitmap struct{ pages []*[bitmapWords]uint64 }

const bitmapWords = 64

func (m *bitmap) set(id uint32) {
	i := int(id / (64 * bitmapWords))
	if i >= len(m.pages) {
		m.pages = append(m.pages, make([]*[bitmapWords]uint64, i+1-len(m.pages))...)
	}
	if m.pages[i] == nil {
		m.pages[i] = new([bitmapWords]uint64)
	}
	m.pages[i][id/64%bitmapWords] |= 1 << (id % 64)
}

// count is how many ids are in the set.
func (m *bitmap) count() (n int) {
	for _, p := range m.pages {
		for i := 0; p != nil && i < len(p); i++ {
			n += bits.OnesCount64(p[i])
		}
	}
	return n
}

func (m *bitmap) has(id uint32) bool {
	i := int(id / (64 * bitmapWords))
	return i < len(m.pages) && m.pages[i] != nil && m.pages[i][id/64%bitmapWords]&(1<<(id%64)) != 0
}
