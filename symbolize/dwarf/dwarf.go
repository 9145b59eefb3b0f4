// Package dwarf reads out of DWARF 2 to 5 what names code: functions, functions inlined into them, and
// lines. It goes through the units one after the other and keeps no more than one unit's lines and one
// function's inlined calls in memory, whatever the file's size; sections are used where they lie mapped.
//
// The input is distrusted: every offset is checked, recursion and loops are bounded, and the work is bounded
// by budgets that grow with the sections' sizes, so that a small file cannot ask for much of it.
//
// Units whose content lies elsewhere (split DWARF's skeletons) give their lines only. References into a
// supplementary file, which DWZ makes of what several files share, are followed if it is given
// ([Data.Supplement]); otherwise what they would have named stays unnamed.
//
// Sources: the DWARF standards 2 to 5, and GNU's extensions as binutils and gdb write and read them.
package dwarf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/perfuse/perfuse/symbolize/elf"
)

// ErrNone: the file has no DWARF.
var ErrNone = errors.New("no DWARF")

func malformed(format string, args ...any) error {
	return fmt.Errorf("malformed DWARF: %s", fmt.Sprintf(format, args...))
}

// Limits of what is believed.
const (
	maxUnits     = 1 << 19
	maxDepth     = 4096    // of entries in entries
	maxLineRows  = 8 << 20 // of one unit
	maxInlined   = 1 << 20 // of one function
	maxOwn       = 1 << 20 // functions that are remembered of one unit
	maxChain     = 16      // of abstract origins and specifications
	maxName      = 64 << 10
	maxFileTable = 1 << 20
)

// Range is code from Low up to, not including, High.
type Range struct{ Low, High uint64 }

// Data is the DWARF of one file. It is not safe for concurrent use.
type Data struct {
	order   binary.ByteOrder
	exec    []Range // executable segments: code elsewhere was thrown away by the linker
	release []func()

	info, abbrev, line, str, lineStr, strOffsets, addr, ranges, rnglists []byte

	units   []Unit
	abbrevs map[abbrevKey]*abbrevTable

	// What may still be decoded before the file counts as malicious.
	rowBudget, rangeBudget, abbrevBudget, textBudget int

	// Functions by the offset of their entry: those of the unit that is being read, and of others.
	own, foreign map[uint64]*FuncInfo
	visited      []*Unit // others that were loaded
	scopes       map[uint64]string
	sup          *Data
	walker       walker
}

// SectionNames are the sections that Open looks at; an extracted file keeps them. Each may also be
// compressed, under its own name or as .zdebug_*.
var SectionNames = []string{
	".debug_info", ".debug_abbrev", ".debug_line", ".debug_str", ".debug_line_str", ".debug_str_offsets",
	".debug_addr", ".debug_ranges", ".debug_rnglists",
}

// SupplementPrefix stands before the names of the sections of a supplementary file that an extracted file has
// taken in.
const SupplementPrefix = ".perfuse.sup"

// Open reads the headers of all units. Close releases what it has unpacked.
func Open(f *elf.File) (*Data, error) { return open(f, "") }

// OpenSupplement opens the supplementary file that an extracted file has taken in.
func OpenSupplement(f *elf.File) (*Data, error) { return open(f, SupplementPrefix) }

func open(f *elf.File, prefix string) (*Data, error) {
	d := &Data{order: f.Order, abbrevs: map[abbrevKey]*abbrevTable{}, own: map[uint64]*FuncInfo{}, foreign: map[uint64]*FuncInfo{}}
	parts := []*[]byte{&d.info, &d.abbrev, &d.line, &d.str, &d.lineStr, &d.strOffsets, &d.addr, &d.ranges, &d.rnglists}
	for i, name := range SectionNames {
		s := f.Section(prefix + name)
		if s == nil && prefix == "" {
			s = f.Section(".z" + name[1:])
		}
		if s == nil {
			continue
		}
		c, err := f.Content(s)
		if err != nil {
			d.Close()
			return nil, err
		}
		*parts[i] = c.Bytes
		d.release = append(d.release, c.Release)
	}
	if len(d.info) == 0 || len(d.abbrev) == 0 {
		d.Close()
		return nil, ErrNone
	}
	for i := range f.Segments {
		if s := &f.Segments[i]; s.Type == elf.SegmentLoad && s.Flags&elf.FlagExec != 0 {
			d.exec = append(d.exec, Range{s.Vaddr, s.Vaddr + s.Memsz})
		}
	}
	d.setBudgets()
	if err := d.readUnits(); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// Supplement gives d the supplementary file that it refers to. sup must stay open as long as d.
func (d *Data) Supplement(sup *Data) { d.sup = sup }

// setBudgets allows for what honest files need: a table of abbreviations, a line program and a list of ranges
// are read about once each.
func (d *Data) setBudgets() {
	d.abbrevBudget = 16<<20 + 16*len(d.abbrev)
	d.textBudget = 256<<20 + 4*len(d.info) + 4*len(d.str)
	d.rowBudget = 1<<20 + 4*len(d.line)
	d.rangeBudget = 1<<20 + len(d.info) + len(d.ranges) + len(d.rnglists)
}

// Close releases the memory of unpacked sections.
func (d *Data) Close() {
	for _, r := range d.release {
		r()
	}
	d.release = nil
}

// Units are all units that may hold code, in the file's order.
func (d *Data) Units() []Unit { return d.units }

// live says whether a range can be code of this file.
func (d *Data) live(r Range) bool {
	if r.Low >= r.High {
		return false
	}
	if len(d.exec) == 0 {
		return r.Low != 0
	}
	for _, e := range d.exec {
		if r.Low >= e.Low && r.High <= e.High {
			return true
		}
	}
	return false
}

// Unit is a compilation unit's header, and what its first entry says once it is loaded.
type Unit struct {
	Offset   uint64 // of the header in .debug_info
	end      uint64
	entries  uint64 // offset of the first entry
	abbrev   uint64
	version  uint16
	addrSize uint8
	is64     bool // 64-bit DWARF: offsets have eight bytes
	partial  bool

	loaded   *unitInfo
	skeleton bool
}

// unitInfo is what a unit's first entry says.
type unitInfo struct {
	abbrevs     *abbrevTable
	compDir     string
	Language    uint64
	low         uint64
	hasLines    bool
	lines       uint64
	strBase     uint64
	addrBase    uint64
	rnglistBase uint64
	rangesBase  uint64
	files       *fileTable
	scoped      bool // functions may lack linkage names
}

// Unit types of DWARF 5.
const (
	unitCompile      = 1
	unitType         = 2
	unitPartial      = 3
	unitSkeleton     = 4
	unitSplitCompile = 5
	unitSplitType    = 6
)

func (d *Data) readUnits() error {
	for off := uint64(0); off < uint64(len(d.info)); {
		b := buffer{b: d.info[off:], order: d.order}
		length := uint64(b.u32())
		u := Unit{Offset: off}
		head := uint64(4)
		if length == 0xffffffff {
			length = b.u64()
			u.is64 = true
			head = 12
		}
		if b.bad || length > uint64(len(d.info))-off-head {
			if len(d.units) > 0 {
				return nil // a torn tail: what comes before is good
			}
			return malformed("unit at %#x is longer than its section", off)
		}
		if length == 0 {
			off += head // padding
			continue
		}
		u.end = off + head + length
		b.b = d.info[off+head : u.end]
		u.version = b.u16()
		kind := uint8(unitCompile)
		if u.version >= 5 {
			kind = b.u8()
			u.addrSize = b.u8()
			u.abbrev = b.offset(u.is64)
		} else {
			u.abbrev = b.offset(u.is64)
			u.addrSize = b.u8()
		}
		switch kind {
		case unitSkeleton, unitSplitCompile:
			b.u64()
		}
		off = u.end
		if b.bad || u.version < 2 || u.version > 5 || u.addrSize != 4 && u.addrSize != 8 || kind == unitType || kind == unitSplitType || kind == unitSplitCompile {
			continue // of no use here, or of an unknown kind
		}
		u.partial = kind == unitPartial
		u.skeleton = kind == unitSkeleton
		u.entries = u.end - uint64(len(b.b))
		if len(d.units) == maxUnits {
			return malformed("more than %d units", maxUnits)
		}
		d.units = append(d.units, u)
	}
	return nil
}

// unitAt finds the unit that an offset of .debug_info lies in.
func (d *Data) unitAt(off uint64) *Unit {
	i, found := slices.BinarySearchFunc(d.units, off, func(u Unit, off uint64) int {
		switch {
		case u.Offset > off:
			return 1
		case u.end <= off:
			return -1
		}
		return 0
	})
	if !found || off < d.units[i].entries {
		return nil
	}
	return &d.units[i]
}

// load reads the unit's first entry.
func (d *Data) load(u *Unit) (*unitInfo, error) {
	if u.loaded != nil {
		return u.loaded, nil
	}
	abbrevs, err := d.abbrevTable(abbrevKey{u.abbrev, u.addrSize, u.is64, u.version})
	if err != nil {
		return nil, err
	}
	info := &unitInfo{abbrevs: abbrevs}
	if u.version >= 5 {
		// The bases are behind the headers of the unit's own parts; without the attribute, of the first.
		head := uint64(8)
		if u.is64 {
			head = 16
		}
		info.strBase, info.addrBase, info.rnglistBase = head, head, head+4
	}
	b := buffer{b: d.info[u.entries:u.end], order: d.order}
	a := abbrevs.get(b.uvarint())
	if a == nil || b.bad {
		return nil, malformed("unit at %#x has no first entry", u.Offset)
	}
	var compDir, low, producer value
	for i := range a.attrs {
		s := &a.attrs[i]
		v := d.value(&b, u, s.form, s.implicit)
		switch s.attr {
		case attrCompDir:
			compDir = v
		case attrLowPC:
			low = v
		case attrProducer:
			producer = v
		case attrLanguage:
			info.Language = v.u
		case attrStmtList:
			info.hasLines, info.lines = true, v.u
		case attrStrOffsetsBase:
			info.strBase = v.u
		case attrAddrBase, attrGNUAddrBase:
			info.addrBase = v.u
		case attrRnglistsBase:
			info.rnglistBase = v.u
		case attrGNURangesBase:
			info.rangesBase = v.u
		case attrGNUDwoName, attrDwoName:
			u.skeleton = true
		}
	}
	if b.bad {
		return nil, malformed("the first entry of the unit at %#x is cut short", u.Offset)
	}
	u.loaded = info
	info.compDir = string(clip(d.bytes(u, compDir)))
	if text := d.string(u, producer); strings.HasPrefix(text, "GNU C++") || strings.HasPrefix(text, "GNU GIMPLE") {
		info.scoped = true
	}
	info.low, _ = d.address(u, low)
	return info, nil
}
