package table

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/zeebo/xxh3"

	"github.com/perfuse/perfuse/symbolize"
	"github.com/perfuse/perfuse/symbolize/demangle"
)

// StringID and FunctionID name what a builder has stored. The zero StringID is the empty string.
type (
	StringID   uint32
	FunctionID uint32
)

// Priority decides who is believed where two ranges overlap: the higher one.
type Priority uint8

// In ascending order.
const (
	FromUnwind  Priority = iota // functions that unwind information delimits, without names
	FromStubs                   // names made for procedure linkage stubs
	FromSymbols                 // symbol tables
	FromLines                   // a symbol, with lines of DWARF
	FromDwarf
	FromGo // pclntab
)

// Node is a function inlined into another.
type Node struct {
	Function FunctionID
	// Parent is the index of the node it is inlined into, below its own; -1 for the function itself.
	Parent   int32
	CallFile StringID
	CallLine int32
}

// Row says what the addresses from Addr to the next row's belong to.
type Row struct {
	Addr uint64
	Node int32 // -1 for the function itself
	File StringID
	Line int32
}

// Limits of what one table holds; more is an error. chromium has 1.2 million functions.
const (
	maxRanges    = 12 << 20
	maxFunctions = 12 << 20
	maxString    = 64 << 10
	blockRows    = 192
)

// Builder collects ranges and writes a table. Rows and strings go to temporary files as they come; what
// stays in memory is about 32 bytes a range and 40 bytes a distinct string and function.
type Builder struct {
	blocks, functions, strings *spill
	stringIDs                  map[xxh3.Uint128]StringID
	functionIDs                map[functionKey]FunctionID
	demangled                  map[StringID]StringID
	ranges                     []span
	buf                        []byte
	used                       []int32
}

type functionKey struct {
	system, file StringID
	line         int32
}

type span struct {
	start, end uint64
	ref        uint32
	priority   Priority
}

// spill is an unlinked temporary file that is appended to.
type spill struct {
	f *os.File
	w *bufio.Writer
	n int64
}

func newSpill(dir string) (*spill, error) {
	f, err := os.CreateTemp(dir, "spill-*.tmp")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return &spill{f: f, w: bufio.NewWriterSize(f, 64<<10)}, nil
}

func (s *spill) append(b []byte) error {
	n, err := s.w.Write(b)
	s.n += int64(n)
	return err
}

func (s *spill) copyTo(w io.Writer) error {
	if err := s.w.Flush(); err != nil {
		return err
	}
	_, err := io.Copy(w, io.NewSectionReader(s.f, 0, s.n))
	return err
}

// NewBuilder returns a builder that keeps its temporary files in dir ("" for the system's place).
func NewBuilder(dir string) (*Builder, error) {
	b := &Builder{
		stringIDs:   map[xxh3.Uint128]StringID{},
		functionIDs: map[functionKey]FunctionID{},
		demangled:   map[StringID]StringID{},
	}
	for _, s := range []**spill{&b.blocks, &b.functions, &b.strings} {
		var err error
		if *s, err = newSpill(dir); err != nil {
			b.Close()
			return nil, fmt.Errorf("creating a symbol table builder: %w", err)
		}
	}
	// Offset 0 means none, in both.
	err := errors.Join(b.blocks.append([]byte{0}), b.strings.append([]byte{0}))
	if err != nil {
		b.Close()
		return nil, fmt.Errorf("creating a symbol table builder: %w", err)
	}
	return b, nil
}

// Close frees what the builder holds; needed whether or not Write was called.
func (b *Builder) Close() {
	for _, s := range []*spill{b.blocks, b.functions, b.strings} {
		if s != nil {
			s.f.Close()
		}
	}
}

// String stores s, each one once. What is longer than 64 KiB is cut, what is no UTF-8 is replaced.
func (b *Builder) String(s string) (StringID, error) {
	if s == "" {
		return 0, nil
	}
	if len(s) > maxString {
		s = s[:maxString]
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	h := xxh3.HashString128(s)
	if id, ok := b.stringIDs[h]; ok {
		return id, nil
	}
	if b.strings.n+int64(len(s))+4 > math.MaxUint32 {
		return 0, errors.New("storing a string: more than 4 GiB of them")
	}
	id := StringID(b.strings.n)
	b.buf = binary.AppendUvarint(b.buf[:0], uint64(len(s)))
	b.buf = append(b.buf, s...)
	if err := b.strings.append(b.buf); err != nil {
		return 0, fmt.Errorf("storing a string: %w", err)
	}
	b.stringIDs[h] = id
	return id, nil
}

// Function stores a function under its symbol's name, which is demangled here.
func (b *Builder) Function(system string, file StringID, startLine int32) (FunctionID, error) {
	sys, err := b.String(system)
	if err != nil {
		return 0, err
	}
	key := functionKey{sys, file, startLine}
	if id, ok := b.functionIDs[key]; ok {
		return id, nil
	}
	if len(b.functionIDs) >= maxFunctions {
		return 0, fmt.Errorf("storing a function: more than %d of them", maxFunctions)
	}
	name, ok := b.demangled[sys]
	if !ok {
		if d := demangle.Name(system); d != system {
			if name, err = b.String(d); err != nil {
				return 0, err
			}
		}
		if name != 0 {
			b.demangled[sys] = name
		}
	}
	if name == 0 {
		name, sys = sys, 0
	}
	var rec [functionSize]byte
	le := binary.LittleEndian
	le.PutUint32(rec[0:], uint32(name))
	le.PutUint32(rec[4:], uint32(sys))
	le.PutUint32(rec[8:], uint32(file))
	le.PutUint32(rec[12:], uint32(startLine))
	if err := b.functions.append(rec[:]); err != nil {
		return 0, fmt.Errorf("storing a function: %w", err)
	}
	id := FunctionID(len(b.functionIDs))
	b.functionIDs[key] = id
	return id, nil
}

// Add stores the code from start to end as that of one function. Rows are sorted by address, without two of
// the same; what lies before the first row has no line. The slices stay the caller's.
func (b *Builder) Add(priority Priority, fn FunctionID, start, end uint64, nodes []Node, rows []Row) error {
	if start >= end {
		return nil
	}
	// Cut what lies outside; the row in force at start begins there.
	for len(rows) > 1 && rows[1].Addr <= start {
		rows = rows[1:]
	}
	for len(rows) > 0 && rows[len(rows)-1].Addr >= end {
		rows = rows[:len(rows)-1]
	}
	for {
		part, until := rows, end
		if len(rows) > blockRows {
			part, until = rows[:blockRows], rows[blockRows].Addr
		}
		if err := b.addBlock(priority, fn, start, until, nodes, part); err != nil {
			return err
		}
		if len(part) == len(rows) {
			return nil
		}
		start, rows = until, rows[blockRows:]
	}
}

// AddNameless stores the code from start to end as that of one function without a name: it is called by its
// start when it is looked up.
func (b *Builder) AddNameless(start, end uint64) error {
	fn, err := b.Function(symbolize.NamelessPrefix, 0, 0)
	if err != nil {
		return err
	}
	return b.addBlock(FromUnwind, fn, start, end, nil, nil)
}

func (b *Builder) addBlock(priority Priority, fn FunctionID, start, end uint64, nodes []Node, rows []Row) error {
	if start >= end {
		return nil
	}
	if len(b.ranges) >= maxRanges {
		return fmt.Errorf("adding a range: more than %d of them", maxRanges)
	}
	if b.blocks.n > math.MaxUint32 {
		return errors.New("adding a range: more than 4 GiB of rows")
	}
	ref := uint32(b.blocks.n)
	b.writeBlock(fn, start, nodes, rows)
	if err := b.blocks.append(b.buf); err != nil {
		return fmt.Errorf("adding a range: %w", err)
	}
	b.ranges = append(b.ranges, span{start, end, ref, priority})
	return nil
}

// writeBlock encodes into b.buf:
//
//	uvarint function · uvarint base address
//	uvarint number of nodes, then for each: uvarint function · uvarint parent (0 the function itself, else
//	  1 + the position of an earlier node) · uvarint file · uvarint line
//	uvarint number of rows, then for each: uvarint address delta · uvarint node (as parent) · varint delta of
//	  the file's string offset · varint delta of the line
func (b *Builder) writeBlock(fn FunctionID, base uint64, nodes []Node, rows []Row) {
	// Only the nodes that these rows need, with their ancestors, in the old order.
	b.used = append(b.used[:0], make([]int32, len(nodes))...)
	for i := range rows {
		for n := rows[i].Node; n >= 0 && int(n) < len(nodes) && b.used[n] == 0; n = nodes[n].Parent {
			b.used[n] = 1
		}
	}
	count := int32(0)
	for i := range b.used {
		if b.used[i] != 0 {
			count++
			b.used[i] = count
		}
	}
	number := func(n, limit int32) uint64 {
		if n < 0 || n >= limit {
			return 0
		}
		return uint64(b.used[n])
	}
	buf := binary.AppendUvarint(b.buf[:0], uint64(fn))
	buf = binary.AppendUvarint(buf, base)
	buf = binary.AppendUvarint(buf, uint64(count))
	for i := range nodes {
		if b.used[i] == 0 {
			continue
		}
		n := &nodes[i]
		buf = binary.AppendUvarint(buf, uint64(n.Function))
		buf = binary.AppendUvarint(buf, number(n.Parent, int32(i)))
		buf = binary.AppendUvarint(buf, uint64(n.CallFile))
		buf = binary.AppendUvarint(buf, uint64(max(n.CallLine, 0)))
	}
	buf = binary.AppendUvarint(buf, uint64(len(rows)))
	at, file, line := base, int64(0), int64(0)
	for i := range rows {
		r := &rows[i]
		to := max(r.Addr, at)
		buf = binary.AppendUvarint(buf, to-at)
		buf = binary.AppendUvarint(buf, number(r.Node, int32(len(nodes))))
		buf = binary.AppendVarint(buf, int64(r.File)-file)
		buf = binary.AppendVarint(buf, int64(r.Line)-line)
		at, file, line = to, int64(r.File), int64(r.Line)
	}
	b.buf = buf
}

// Empty says whether nothing was added.
func (b *Builder) Empty() bool { return len(b.ranges) == 0 }

// Write writes the table to path: into a temporary file beside it, synced, then renamed. It can be called
// once.
func (b *Builder) Write(path string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing symbol table %s: %w", path, err)
		}
	}()
	b.stringIDs, b.functionIDs, b.demangled = nil, nil, nil // make room for the sweep
	segments := flatten(b.ranges)
	b.ranges = nil

	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+"-*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	header := make([]byte, headerSize)
	if _, err := f.Write(header); err != nil {
		return err
	}
	sum := xxh3.New()
	w := &counter{w: bufio.NewWriterSize(io.MultiWriter(f, sum), 256<<10), n: headerSize}
	le := binary.LittleEndian
	part := func(i int, write func() error) error {
		if pad := -w.n & 7; pad > 0 {
			if _, err := w.Write(make([]byte, pad)); err != nil {
				return err
			}
		}
		at := w.n
		if err := write(); err != nil {
			return err
		}
		le.PutUint64(header[24+16*i:], uint64(at))
		le.PutUint64(header[32+16*i:], uint64(w.n-at))
		return nil
	}
	err = errors.Join(
		part(0, func() error { return b.blocks.copyTo(w) }),
		part(1, func() error { return b.functions.copyTo(w) }),
		part(2, func() error { return b.strings.copyTo(w) }),
		part(3, func() error {
			var e [8]byte
			for i := range segments {
				le.PutUint64(e[:], segments[i].start)
				if _, err := w.Write(e[:]); err != nil {
					return err
				}
			}
			return nil
		}),
		part(4, func() error {
			var e [4]byte
			for i := range segments {
				le.PutUint32(e[:], segments[i].ref)
				if _, err := w.Write(e[:]); err != nil {
					return err
				}
			}
			return nil
		}),
		w.w.Flush(),
	)
	if err != nil {
		return err
	}
	copy(header, magic)
	le.PutUint32(header[8:], Version)
	le.PutUint64(header[16:], uint64(w.n))
	le.PutUint64(header[112:], sum.Sum64())
	le.PutUint64(header[120:], xxh3.Hash(header[:120]))
	if _, err := f.WriteAt(header, 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

type counter struct {
	w *bufio.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

type segment struct {
	start uint64
	ref   uint32
}

// flatten makes ranges that do not overlap: at each address the one of the highest priority; among equals
// the one that begins last, then the shorter, then the one that was added first.
func flatten(in []span) []segment {
	slices.SortFunc(in, func(a, b span) int {
		switch {
		case a.start != b.start:
			return cmpUint(a.start, b.start)
		default:
			return cmpUint(uint64(a.ref), uint64(b.ref))
		}
	})
	out := make([]segment, 0, len(in)+len(in)/4)
	emit := func(at uint64, ref uint32) {
		if n := len(out); n > 0 {
			if out[n-1].ref == ref {
				return
			}
			if out[n-1].start == at {
				out[n-1].ref = ref
				if n > 1 && out[n-2].ref == ref {
					out = out[:n-1]
				}
				return
			}
		} else if ref == 0 {
			return
		}
		out = append(out, segment{at, ref})
	}
	var open active
	at := uint64(0)
	advance := func(to uint64) {
		for at < to {
			for len(open) > 0 && open[0].end <= at {
				open.pop()
			}
			if len(open) == 0 {
				emit(at, 0)
				at = to
				return
			}
			emit(at, open[0].ref)
			at = min(open[0].end, to)
		}
	}
	for i := range in {
		advance(in[i].start)
		at = in[i].start
		open.push(in[i])
	}
	advance(math.MaxUint64)
	return out
}

func cmpUint(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// active is a heap of the ranges that have begun, the one that is believed first.
type active []span

func (h active) before(i, j int) bool {
	a, b := &h[i], &h[j]
	switch {
	case a.priority != b.priority:
		return a.priority > b.priority
	case a.start != b.start:
		return a.start > b.start
	case a.end != b.end:
		return a.end < b.end
	}
	return a.ref < b.ref
}

func (h *active) push(s span) {
	*h = append(*h, s)
	o := *h
	for i := len(o) - 1; i > 0; {
		up := (i - 1) / 2
		if !o.before(i, up) {
			break
		}
		o[i], o[up] = o[up], o[i]
		i = up
	}
}

func (h *active) pop() {
	o := *h
	n := len(o) - 1
	o[0] = o[n]
	o = o[:n]
	for i := 0; ; {
		down := 2*i + 1
		if down >= n {
			break
		}
		if down+1 < n && o.before(down+1, down) {
			down++
		}
		if !o.before(down, i) {
			break
		}
		o[i], o[down] = o[down], o[i]
		i = down
	}
	*h = o
}
