// Package gosym reads what every Go binary carries, stripped or not: the pclntab, with the functions, files
// and lines of all code that Go's linker placed, and the inline tree. Go 1.18 to 1.26.
//
// # Where things are
//
//	.gopclntab        header, function names, compilation units, files, pc-value tables, functions; since
//	                  Go 1.26 also the funcdata ("go:func.*") that inline trees are part of. In position
//	                  independent binaries before 1.26 the section is .data.rel.ro.gopclntab, and external
//	                  linkers merge it into .data.rel.ro, where the header is searched for.
//	moduledata        pointers to all of it, among them the start of the text and of the funcdata. A section
//	                  of its own (.go.module) since Go 1.26; before, the words of the data sections are
//	                  searched for the address of the pclntab.
//	.perfuse.gofunc   in files made by debuginfo.Extract: the part of the funcdata that has inline trees.
//
// The layout of a pc-value table: pairs of varints (value delta in zigzag, pc delta in units of the
// instruction quantum), the value beginning at -1; a value delta of 0 that is not the first ends it.
//
// Sources: Go's runtime/symtab.go, runtime/symtabinl.go, cmd/link/internal/ld/pcln.go of each release.
package gosym

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sort"

	"github.com/perfuse/perfuse/symbolize/elf"
)

// ErrNotGo: the file has no pclntab of a known version.
var ErrNotGo = errors.New("no Go pclntab")

// FuncdataSection is the name of the section in which an extracted file keeps funcdata.
const FuncdataSection = ".perfuse.gofunc"

func malformed(format string, args ...any) error {
	return fmt.Errorf("malformed Go pclntab: %s", fmt.Sprintf(format, args...))
}

// Limits of what is believed. The Go toolchain's largest programs have 200 000 functions.
const (
	maxFunctions = 8 << 20
	maxRows      = 1 << 20 // of one function
	maxInline    = 1 << 16 // inlined calls of one function
	maxName      = 16 << 10
)

const (
	magic118 = 0xfffffff0
	magic120 = 0xfffffff1

	pcdataInlTreeIndex = 2
	funcdataInlTree    = 3
	inlinedCallSize    = 16 // since Go 1.20
	inlinedCallSize118 = 20
)

// Table is an opened pclntab. It refers to the memory of the elf.File it was found in.
type Table struct {
	// Start is the address of the pclntab, Text that of the code's beginning.
	Start, Text uint64
	// Funcdata is the address that funcdata offsets are relative to, 0 if it was not found: inlined
	// functions are not known then.
	Funcdata uint64

	file      *elf.File
	order     binary.ByteOrder
	v120      bool
	ptrSize   int
	quantum   uint64
	functions int
	names     []byte
	units     []byte
	files     []byte
	pcTables  []byte
	data      []byte // function table, then the functions' records
}

// Find looks for the pclntab of a file. The error is ErrNotGo if it is none of Go's.
func Find(f *elf.File) (*Table, error) {
	addr, data, err := findPclntab(f)
	if err != nil {
		return nil, err
	}
	t := &Table{Start: addr, file: f, order: f.Order}
	if err := t.readHeader(data); err != nil {
		return nil, err
	}
	t.findModule()
	if t.Text == 0 {
		return nil, malformed("the start of the text is not to be found")
	}
	return t, nil
}

func findPclntab(f *elf.File) (addr uint64, data []byte, err error) {
	for _, name := range []string{".gopclntab", ".data.rel.ro.gopclntab"} {
		if s := f.Section(name); s != nil && s.Type != elf.SectionNobits {
			b, err := f.Raw(s)
			if err != nil {
				return 0, nil, err
			}
			if i := searchHeader(b, f.Order); i >= 0 {
				return s.Addr + uint64(i), b[i:], nil
			}
		}
	}
	if f.Section(".go.buildinfo") == nil && f.GoBuildID() == "" {
		return 0, nil, ErrNotGo
	}
	for _, name := range []string{".data.rel.ro", ".rodata"} {
		if s := f.Section(name); s != nil && s.Type != elf.SectionNobits {
			b, err := f.Raw(s)
			if err != nil {
				return 0, nil, err
			}
			if i := searchHeader(b, f.Order); i >= 0 {
				return s.Addr + uint64(i), b[i:], nil
			}
		}
	}
	return 0, nil, ErrNotGo
}

// searchHeader finds the magic number with what must follow it.
func searchHeader(b []byte, order binary.ByteOrder) int {
	for _, magic := range []uint32{magic120, magic118} {
		var want [6]byte
		order.PutUint32(want[:], magic)
		for at := 0; ; {
			i := bytes.Index(b[at:], want[:])
			if i < 0 {
				break
			}
			at += i
			if at%4 == 0 && at+72 <= len(b) && (b[at+6] == 1 || b[at+6] == 2 || b[at+6] == 4) && (b[at+7] == 4 || b[at+7] == 8) {
				return at
			}
			at++
		}
	}
	return -1
}

func (t *Table) word(b []byte) uint64 {
	if t.ptrSize == 4 {
		return uint64(t.order.Uint32(b))
	}
	return t.order.Uint64(b)
}

func (t *Table) readHeader(b []byte) error {
	t.v120 = t.order.Uint32(b) == magic120
	t.quantum, t.ptrSize = uint64(b[6]), int(b[7])
	field := func(i int) uint64 { return t.word(b[8+i*t.ptrSize:]) }
	count := field(0)
	if count == 0 || count > maxFunctions {
		return malformed("%d functions", count)
	}
	t.functions = int(count)
	t.Text = field(2) // always 0 since Go 1.26, unrelocated in position independent binaries
	for i, part := range []*[]byte{&t.names, &t.units, &t.files, &t.pcTables, &t.data} {
		off := field(3 + i)
		if off > uint64(len(b)) {
			return malformed("part %d at %#x of %#x", i, off, len(b))
		}
		*part = b[off:]
	}
	if uint64(len(t.data)) < count*8+4 {
		return malformed("%d functions in %d bytes", count, len(t.data))
	}
	return nil
}

// Indices of words in moduledata.
const (
	moduleFuncNames = 1
	moduleText      = 22
	moduleGofunc118 = 38
	moduleGofunc120 = 40
)

// findModule reads from moduledata where text and funcdata begin.
func (t *Table) findModule() {
	f := t.file
	gofunc := moduleGofunc120
	if !t.v120 {
		gofunc = moduleGofunc118
	}
	if s := f.Section(FuncdataSection); s != nil && s.Addr != 0 {
		// An extracted file: the two words in front are what moduledata said.
		if b, err := f.Raw(s); err == nil && len(b) >= 16 {
			t.Text, t.Funcdata = t.order.Uint64(b), t.order.Uint64(b[8:])
			return
		}
	}
	size := uint64((gofunc + 1) * t.ptrSize)
	try := func(addr uint64) bool {
		b, err := f.ReadAddr(addr, size)
		if err != nil {
			return false
		}
		relocated := t.relocations(addr, size)
		word := func(i int) uint64 {
			if v, ok := relocated[addr+uint64(i*t.ptrSize)]; ok {
				return v
			}
			return t.word(b[i*t.ptrSize:])
		}
		nameOffset := word(moduleFuncNames) - t.Start
		if word(0) != t.Start || nameOffset > 4096 {
			return false
		}
		text, data := word(moduleText), word(gofunc)
		if !f.Executable(text) && text != 0 || text == 0 {
			return false
		}
		t.Text, t.Funcdata = text, data
		return true
	}
	if s := f.Section(".go.module"); s != nil && try(s.Addr) {
		return
	}
	for _, name := range []string{"runtime.firstmoduledata", "local.moduledata"} {
		if a, ok := t.symbol(name); ok && try(a) {
			return
		}
	}
	var want [8]byte
	if t.ptrSize == 8 {
		t.order.PutUint64(want[:], t.Start)
	} else {
		t.order.PutUint32(want[:], uint32(t.Start))
	}
	for i := range f.Sections {
		s := &f.Sections[i]
		if s.Flags&elf.SectionAlloc == 0 || s.Flags&elf.SectionExec != 0 || s.Type != elf.SectionProgbits ||
			s.Name == ".gopclntab" || s.Name == ".rodata" {
			continue
		}
		b, err := f.Raw(s)
		if err != nil {
			continue
		}
		for at := 0; ; {
			i := bytes.Index(b[at:], want[:t.ptrSize])
			if i < 0 {
				break
			}
			at += i
			if (s.Addr+uint64(at))%uint64(t.ptrSize) == 0 && try(s.Addr+uint64(at)) {
				return
			}
			at++
		}
	}
	// Pointers may stand in the relocations alone.
	for addr, v := range t.relocations(0, ^uint64(0)) {
		if v == t.Start && try(addr) {
			return
		}
	}
	if a, ok := t.symbol("runtime.text"); ok {
		t.Text = a
	}
	if a, ok := t.symbol("go:func.*"); ok {
		t.Funcdata = a
	} else if a, ok := t.symbol("go.func.*"); ok {
		t.Funcdata = a
	}
}

// relocations returns the words between addr and addr+size that the loader will write: their addends. For
// the whole file only those that point to the pclntab.
func (t *Table) relocations(addr, size uint64) map[uint64]uint64 {
	out := map[uint64]uint64{}
	f := t.file
	if !f.Is64 {
		return out
	}
	for i := range f.Sections {
		s := &f.Sections[i]
		if s.Type != elf.SectionRela || s.Flags&elf.SectionAlloc == 0 {
			continue
		}
		b, err := f.Raw(s)
		if err != nil {
			continue
		}
		for ; len(b) >= 24 && len(out) < 1<<16; b = b[24:] {
			at, addend := t.order.Uint64(b), t.order.Uint64(b[16:])
			if typ := t.order.Uint32(b[8:]); at-addr >= size || typ != 8 && typ != 1027 { // R_X86_64_RELATIVE, R_AARCH64_RELATIVE
				continue
			}
			if size == ^uint64(0) && addend != t.Start {
				continue
			}
			out[at] = addend
		}
	}
	return out
}

func (t *Table) symbol(name string) (addr uint64, ok bool) {
	for i := range t.file.Sections {
		if s := &t.file.Sections[i]; s.Type == elf.SectionSymtab {
			_ = t.file.Symbols(s, func(_ int, sym elf.Symbol) bool {
				if sym.Name == name && sym.Section != 0 {
					addr, ok = sym.Addr, true
				}
				return !ok
			})
		}
	}
	return addr, ok
}

// Len is the number of functions.
func (t *Table) Len() int { return t.functions }

// Range is what the table covers.
func (t *Table) Range() (start, end uint64) {
	return t.entry(0), t.entry(t.functions)
}

func (t *Table) entry(i int) uint64 { return t.Text + uint64(t.order.Uint32(t.data[i*8:])) }

// Name returns the function name at an offset of the name table.
func (t *Table) Name(off uint32) string { return cstring(t.names, off) }

// File returns the file name at an offset of the file table.
func (t *Table) File(off uint32) string {
	if off == NoFile {
		return ""
	}
	return cstring(t.files, off)
}

func cstring(b []byte, off uint32) string {
	if uint64(off) >= uint64(len(b)) {
		return ""
	}
	b = b[off:]
	if len(b) > maxName {
		b = b[:maxName]
	}
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// NoFile is the offset of a file that is not known.
const NoFile = ^uint32(0)

// Position is a place in the source; File is an offset for Table.File.
type Position struct {
	File uint32
	Line int32
}

// Row says what the addresses from Addr on belong to: an inlined call (index into Func.Inlined) or, if Call
// is -1, the function itself.
type Row struct {
	Addr uint64
	Call int32
	Position
}

// Call is a function that was inlined. Name is an offset for Table.Name.
type Call struct {
	Name      uint32
	StartLine int32
	// Parent is the call it was inlined into, -1 for the function itself. It is below the call's own index.
	Parent int32
	// Site is where it was called.
	Site Position
}

// Func is one function. Its slices are reused by the next call of Table.Func.
type Func struct {
	Name       uint32
	Start, End uint64
	StartLine  int32
	Rows       []Row
	Inlined    []Call

	calls, order []int32
}

// Func decodes the i-th function into fn. An error concerns this function only.
func (t *Table) Func(i int, fn *Func) error {
	*fn = Func{Rows: fn.Rows[:0], Inlined: fn.Inlined[:0], calls: fn.calls, order: fn.order}
	fn.Start, fn.End = t.entry(i), t.entry(i+1)
	off := t.order.Uint32(t.data[i*8+4:])
	if fn.End <= fn.Start {
		return malformed("function %d from %#x to %#x", i, fn.Start, fn.End)
	}
	fixed := 44
	if !t.v120 {
		fixed = 40 // without startLine
	}
	if uint64(off)+uint64(fixed) > uint64(len(t.data)) {
		return malformed("function %d has no record", i)
	}
	r := t.data[off:]
	u32 := func(at int) uint32 { return t.order.Uint32(r[at:]) }
	fn.Name = u32(4)
	pcfile, pcln, npcdata, unit := u32(20), u32(24), u32(28), u32(32)
	nfuncdata := int(r[fixed-1])
	if t.v120 {
		fn.StartLine = int32(u32(36))
	}
	if uint64(npcdata) > 64 || fixed+int(npcdata)*4+nfuncdata*4 > len(r) {
		return malformed("function %d has no tables", i)
	}
	var pcinline uint32
	if npcdata > pcdataInlTreeIndex {
		pcinline = u32(fixed + pcdataInlTreeIndex*4)
	}
	tree := NoFile
	if nfuncdata > funcdataInlTree {
		tree = u32(fixed + int(npcdata)*4 + funcdataInlTree*4)
	}

	files, lines, inlined := t.values(pcfile), t.values(pcln), t.values(pcinline)
	if pcinline == 0 || tree == NoFile || t.Funcdata == 0 {
		inlined = values{value: -1, end: ^uint64(0)}
	}
	highest := int32(-1)
	length := fn.End - fn.Start
	for pc := uint64(0); pc < length; {
		files.advance(pc)
		lines.advance(pc)
		inlined.advance(pc)
		row := Row{Addr: fn.Start + pc, Call: inlined.value, Position: Position{t.fileOf(unit, files.value), max(lines.value, 0)}}
		if row.Call < -1 || row.Call >= maxInline {
			row.Call = -1
		}
		highest = max(highest, row.Call)
		if n := len(fn.Rows); n == 0 || fn.Rows[n-1].Call != row.Call || fn.Rows[n-1].Position != row.Position {
			if n == maxRows {
				return malformed("function %d has more than %d rows", i, maxRows)
			}
			fn.Rows = append(fn.Rows, row)
		}
		next := min(files.end, lines.end, inlined.end)
		if next <= pc {
			break
		}
		pc = next
	}
	if highest >= 0 {
		t.readInlined(fn, uint64(tree), highest)
	}
	return nil
}

func (t *Table) fileOf(unit uint32, index int32) uint32 {
	if index < 0 {
		return NoFile
	}
	at := (uint64(unit) + uint64(index)) * 4
	if at+4 > uint64(len(t.units)) {
		return NoFile
	}
	return t.order.Uint32(t.units[at:])
}

// InlineTree returns where the inline tree of the i-th function lies, relative to Funcdata: n bytes at off,
// as far as the function's code refers to it. n is 0 if it has none.
func (t *Table) InlineTree(i int, fn *Func) (off, n uint64) {
	saved := t.Funcdata
	t.Funcdata = 0 // decode without reading the tree
	err := t.Func(i, fn)
	t.Funcdata = saved
	if err != nil {
		return 0, 0
	}
	r := t.data[t.order.Uint32(t.data[i*8+4:]):]
	fixed := 44
	if !t.v120 {
		fixed = 40
	}
	npcdata, nfuncdata := int(t.order.Uint32(r[28:])), int(r[fixed-1])
	if npcdata <= pcdataInlTreeIndex || nfuncdata <= funcdataInlTree {
		return 0, 0
	}
	pcinline := t.order.Uint32(r[fixed+pcdataInlTreeIndex*4:])
	tree := t.order.Uint32(r[fixed+npcdata*4+funcdataInlTree*4:])
	if pcinline == 0 || tree == NoFile {
		return 0, 0
	}
	highest := int32(-1)
	for v, pc := t.values(pcinline), uint64(0); pc < fn.End-fn.Start; {
		v.advance(pc)
		if v.value < maxInline {
			highest = max(highest, v.value)
		}
		if v.end <= pc {
			break
		}
		pc = v.end
	}
	return uint64(tree), uint64(highest+1) * t.callSize()
}

func (t *Table) callSize() uint64 {
	if t.v120 {
		return inlinedCallSize
	}
	return inlinedCallSize118
}

// readInlined reads the calls that the rows refer to and, through their parents, all others that matter.
// What cannot be read becomes part of the function itself.
func (t *Table) readInlined(fn *Func, tree uint64, highest int32) {
	size := t.callSize()
	b, err := t.funcdata(tree, uint64(highest+1)*size)
	if err != nil {
		for i := range fn.Rows {
			fn.Rows[i].Call = -1
		}
		return
	}
	// The name is followed by the parent's pc and the start line since 1.20; before, file, line, name, pc.
	nameAt, pcAt := uint64(4), uint64(8)
	if !t.v120 {
		nameAt, pcAt = 12, 16
	}
	// order lists the calls so that parents come first; calls[i] is i's place in it, plus one.
	fn.calls = append(fn.calls[:0], make([]int32, highest+1)...)
	var place func(i int32, depth int) int32
	place = func(i int32, depth int) int32 {
		if i < 0 || i > highest || depth > 512 {
			return -1
		}
		if p := fn.calls[i]; p != 0 {
			return p - 1 // -2 while its own parents are looked for: a cycle, cut by the caller
		}
		fn.calls[i] = -1
		rec := b[uint64(i)*size:]
		site := fn.rowAt(fn.Start + uint64(t.order.Uint32(rec[pcAt:])))
		parent := int32(-1)
		c := Call{Name: t.order.Uint32(rec[nameAt:])}
		if site != nil {
			c.Site = site.Position
			parent = max(place(site.Call, depth+1), -1)
		} else {
			c.Site.File = NoFile
		}
		if t.v120 {
			c.StartLine = int32(t.order.Uint32(rec[12:]))
		}
		c.Parent = parent
		fn.Inlined = append(fn.Inlined, c)
		fn.calls[i] = int32(len(fn.Inlined))
		return fn.calls[i] - 1
	}
	for i := range fn.Rows {
		place(fn.Rows[i].Call, 0)
	}
	for i := range fn.Rows {
		if c := fn.Rows[i].Call; c >= 0 {
			fn.Rows[i].Call = max(fn.calls[c]-1, -1)
		}
	}
}

func (fn *Func) rowAt(addr uint64) *Row {
	i := sort.Search(len(fn.Rows), func(i int) bool { return fn.Rows[i].Addr > addr })
	if i == 0 || addr >= fn.End {
		return nil
	}
	return &fn.Rows[i-1]
}

// funcdata returns n bytes at an offset of the funcdata.
func (t *Table) funcdata(off, n uint64) ([]byte, error) {
	addr := t.Funcdata + off
	if s := t.file.Section(FuncdataSection); s != nil {
		// Addresses in this section are those of the original, behind the two words.
		b, err := t.file.Raw(s)
		if err != nil {
			return nil, err
		}
		if at := addr - s.Addr; addr >= s.Addr && len(b) > 16 && at <= uint64(len(b)-16) && n <= uint64(len(b)-16)-at {
			return b[16+at:][:n], nil
		}
	}
	return t.file.ReadAddr(addr, n)
}

// values walks over a pc-value table: value holds up to (not including) end, relative to the function.
type values struct {
	b       []byte
	quantum uint64
	value   int32
	end     uint64
	begun   bool
}

func (t *Table) values(off uint32) values {
	v := values{value: -1, quantum: t.quantum}
	if off == 0 || uint64(off) >= uint64(len(t.pcTables)) {
		v.end = ^uint64(0)
		return v
	}
	v.b = t.pcTables[off:]
	return v
}

func (v *values) advance(pc uint64) {
	for v.end <= pc {
		delta, n := binary.Uvarint(v.b)
		if n <= 0 || delta == 0 && v.begun {
			v.value, v.end = -1, ^uint64(0)
			return
		}
		v.b = v.b[n:]
		step, n := binary.Uvarint(v.b)
		if n <= 0 {
			v.value, v.end = -1, ^uint64(0)
			return
		}
		v.b = v.b[n:]
		v.begun = true
		d := int32(uint32(delta) >> 1)
		if delta&1 != 0 {
			d = ^d
		}
		v.value += d
		v.end += (step & 0xffffffff) * v.quantum
		if step == 0 {
			continue
		}
	}
}
