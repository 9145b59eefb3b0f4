// Package table is the compact symbol table of one executable file: sorted address ranges, each with its
// function, the functions inlined into it, and source lines. It is built once ([Builder]), written once,
// then mapped and searched ([Table]).
//
// docs/formats/symbol-table.md draws the format byte by byte. In short:
//
//	header  128 bytes: magic, version, where the parts are, checksums
//	blocks  one after the other, each the code of (a part of) one function
//	functions  16 bytes each: name, symbol's name, file, first line
//	strings  uvarint length, bytes
//	starts  8 bytes each, sorted: where a range begins; it ends where the next one begins
//	refs  4 bytes each: the range's block as an offset, 0 for a range without any
//
// A lookup is a binary search in starts and the decoding of one block of at most some hundred rows.
package table

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"

	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/symbolize"
)

// Version is the version of the format that this code writes and reads.
const Version = 2

const (
	magic        = "PFSYMTAB"
	headerSize   = 128
	functionSize = 16
)

// ErrFormat is in the chain of every error that is due to a table's content.
var ErrFormat = errors.New("malformed symbol table")

// ErrVersion: the table has another version of the format; it is to be built again.
var ErrVersion = errors.New("symbol table has another version")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

// Table is a mapped symbol table. It may be used by several goroutines at once.
type Table struct {
	size      int64
	blocks    []byte
	functions []byte
	strings   []byte
	starts    []byte
	refs      []byte

	mu     sync.RWMutex // Close waits for lookups
	mapped []byte
}

// Open maps the table at path and verifies its checksums.
func Open(path string) (*Table, error) {
	t, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("opening symbol table %s: %w", path, err)
	}
	return t, nil
}

func open(path string) (*Table, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() < headerSize || st.Size() != int64(int(st.Size())) {
		return nil, malformed("%d bytes", st.Size())
	}
	m, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping: %w", err)
	}
	t, err := newTable(m)
	if err != nil {
		_ = unix.Munmap(m)
		return nil, err
	}
	t.mapped = m
	return t, nil
}

func newTable(b []byte) (*Table, error) {
	if len(b) < headerSize || string(b[:8]) != magic {
		return nil, malformed("no header")
	}
	le := binary.LittleEndian
	if v := le.Uint32(b[8:]); v != Version {
		return nil, fmt.Errorf("%w: %d where this program has %d", ErrVersion, v, Version)
	}
	if le.Uint64(b[120:]) != xxh3.Hash(b[:120]) {
		return nil, malformed("the header's checksum is wrong")
	}
	if size := le.Uint64(b[16:]); size != uint64(len(b)) {
		return nil, malformed("%d bytes where the header says %d", len(b), size)
	}
	if le.Uint64(b[112:]) != xxh3.Hash(b[headerSize:]) {
		return nil, malformed("the content's checksum is wrong")
	}
	t := &Table{size: int64(len(b))}
	at := uint64(headerSize)
	for i, part := range []*[]byte{&t.blocks, &t.functions, &t.strings, &t.starts, &t.refs} {
		off, n := le.Uint64(b[24+16*i:]), le.Uint64(b[32+16*i:])
		if off < at || off > uint64(len(b)) || n > uint64(len(b))-off {
			return nil, malformed("part %d lies outside", i)
		}
		*part = b[off : off+n : off+n]
		at = off + n
	}
	if len(t.starts)%8 != 0 || len(t.refs)%4 != 0 || len(t.starts)/8 != len(t.refs)/4 || len(t.functions)%functionSize != 0 {
		return nil, malformed("the parts do not fit each other")
	}
	return t, nil
}

// Close unmaps the table after the lookups that run. Lookups after it find nothing.
func (t *Table) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.mapped
	t.blocks, t.functions, t.strings, t.starts, t.refs, t.mapped = nil, nil, nil, nil, nil, nil
	if m == nil {
		return nil
	}
	return unix.Munmap(m)
}

// Size is the table's size in bytes.
func (t *Table) Size() int64 { return t.size }

// Ranges is the number of address ranges.
func (t *Table) Ranges() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.starts) / 8
}

// Range returns the i-th range: its first address and whether something is known about it.
func (t *Table) Range(i int) (start profile.Addr, known bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if i < 0 || i >= len(t.starts)/8 {
		return 0, false
	}
	return profile.Addr(binary.LittleEndian.Uint64(t.starts[i*8:])), binary.LittleEndian.Uint32(t.refs[i*4:]) != 0
}

// Lookup appends to out the functions at addr, the innermost inlined one first. It appends nothing where
// nothing covers addr, and only what makes sense of a damaged block.
func (t *Table) Lookup(addr profile.Addr, out []symbolize.Source) []symbolize.Source {
	t.mu.RLock()
	defer t.mu.RUnlock()
	lo, hi := 0, len(t.starts)/8
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if binary.LittleEndian.Uint64(t.starts[mid*8:]) <= uint64(addr) {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == 0 {
		return out
	}
	ref := binary.LittleEndian.Uint32(t.refs[(lo-1)*4:])
	if ref == 0 || uint64(ref) >= uint64(len(t.blocks)) {
		return out
	}
	return t.decode(t.blocks[ref:], uint64(addr), out)
}

// decode reads one block; see writeBlock for the layout.
func (t *Table) decode(b []byte, addr uint64, out []symbolize.Source) []symbolize.Source {
	r := reader{b: b}
	fn := uint32(r.uvarint())
	base := r.uvarint()
	nodeCount := r.uvarint()
	nodesAt := r
	// Nodes are at least four bytes each.
	if r.bad || nodeCount > uint64(len(r.b))/4 {
		return out
	}
	for range nodeCount * 4 {
		r.uvarint()
	}
	rowCount := r.uvarint()
	var node uint64
	var file, line int64
	at := base
	for range rowCount {
		at2 := at + r.uvarint()
		node2 := r.uvarint()
		file2, line2 := file+r.varint(), line+r.varint()
		if r.bad || at2 > addr {
			break
		}
		at, node, file, line = at2, node2, file2, line2
	}
	pos := position{uint32(file), int32(line)}
	if node > 0 {
		nodes := nodesAt.nodes(int(min(node, nodeCount)))
		// Parents come before their children, so this ends.
		for node > 0 && node <= uint64(len(nodes)) {
			n := nodes[node-1]
			out = append(out, t.source(n.fn, pos))
			pos = n.call
			if uint64(n.parent) >= node {
				break
			}
			node = uint64(n.parent)
		}
	}
	s := t.source(fn, pos)
	if s.Name == symbolize.NamelessPrefix {
		s.Name += strconv.FormatUint(base, 16)
	}
	return append(out, s)
}

type position struct {
	file uint32
	line int32
}

type node struct {
	fn     uint32
	parent uint32 // 0 is the function itself, else the position of a node before this one, from 1
	call   position
}

func (t *Table) source(fn uint32, pos position) symbolize.Source {
	s := symbolize.Source{File: t.text(pos.file), Line: pos.line}
	if uint64(fn) < uint64(len(t.functions))/functionSize {
		f := t.functions[int(fn)*functionSize:]
		le := binary.LittleEndian
		s.Name = t.text(le.Uint32(f))
		s.SystemName = t.text(le.Uint32(f[4:]))
		s.StartLine = int32(le.Uint32(f[12:]))
		if s.File == "" {
			s.File = t.text(le.Uint32(f[8:]))
		}
	}
	return s
}

// text returns a copy of the string at off: it outlives the mapping.
func (t *Table) text(off uint32) string {
	if off == 0 || uint64(off) >= uint64(len(t.strings)) {
		return ""
	}
	b := t.strings[off:]
	n, k := binary.Uvarint(b)
	if k <= 0 || n > uint64(len(b)-k) {
		return ""
	}
	return string(b[k : k+int(n)])
}

// reader decodes varints; after a fault it gives zeros and is bad.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	if len(r.b) > 0 && r.b[0] < 0x80 {
		v := r.b[0]
		r.b = r.b[1:]
		return uint64(v)
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v := r.uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

func (r *reader) nodes(n int) []node {
	out := make([]node, 0, n)
	for range n {
		out = append(out, node{uint32(r.uvarint()), uint32(r.uvarint()), position{uint32(r.uvarint()), int32(r.uvarint())}})
	}
	if r.bad {
		return nil
	}
	return slices.Clip(out)
}
