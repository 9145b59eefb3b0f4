package dwarf

import (
	"slices"
	"strings"
)

// NoFile is the number of a file that is not known.
const NoFile = ^uint32(0)

// lineRow says what the addresses from addr on come from. A row with end set begins a gap.
type lineRow struct {
	addr uint64
	file uint32
	line int32
	end  bool
}

// fileTable is the list of files of a line program, numbered as the unit's other entries do. Paths are put
// together when they are asked for: most never are.
type fileTable struct {
	compDir string
	dirs    [][]byte
	entries []fileEntry
}

type fileEntry struct {
	name []byte
	dir  uint32
}

func (t *fileTable) name(i uint32) string {
	if t == nil || uint64(i) >= uint64(len(t.entries)) {
		return ""
	}
	e := &t.entries[i]
	if len(e.name) == 0 {
		return ""
	}
	dir := ""
	if uint64(e.dir) < uint64(len(t.dirs)) {
		dir = string(t.dirs[e.dir])
	}
	return joinPath(joinPath(t.compDir, dir), string(e.name))
}

// lineHeader is the beginning of a line program.
type lineHeader struct {
	version       uint16
	minInst       uint8
	maxOps        uint8
	lineBase      int8
	lineRange     uint8
	opcodeBase    uint8
	opcodeLengths []byte
	program       []byte
}

// Standard and extended opcodes of line programs.
const (
	opCopy             = 1
	opAdvancePC        = 2
	opAdvanceLine      = 3
	opSetFile          = 4
	opSetColumn        = 5
	opNegateStmt       = 6
	opSetBasicBlock    = 7
	opConstAddPC       = 8
	opFixedAdvancePC   = 9
	opSetPrologueEnd   = 10
	opSetEpilogueBegin = 11
	opSetISA           = 12

	opEndSequence = 1
	opSetAddress  = 2
	opDefineFile  = 3
)

// Content types of the file lists of version 5.
const (
	contentPath      = 1
	contentDirectory = 2
)

// lineHead reads the header and the file table of the unit's line program.
func (d *Data) lineHead(u *Unit) (h lineHeader, files *fileTable, err error) {
	info := u.loaded
	if !info.hasLines || info.lines >= uint64(len(d.line)) {
		return h, nil, malformed("the unit at %#x has no line program", u.Offset)
	}
	b := buffer{b: d.line[info.lines:], order: d.order}
	length, is64 := uint64(b.u32()), false
	if length == 0xffffffff {
		length, is64 = b.u64(), true
	}
	if b.bad || length > uint64(len(b.b)) {
		return h, nil, malformed("the line program at %#x is longer than its section", info.lines)
	}
	b.b = b.b[:length]
	h.version = b.u16()
	if h.version < 2 || h.version > 5 {
		return h, nil, malformed("line program version %d", h.version)
	}
	if h.version >= 5 {
		b.u8() // address size
		b.u8() // segment selector size
	}
	headLength := b.offset(is64)
	if headLength > uint64(len(b.b)) {
		return h, nil, malformed("the header of the line program at %#x is longer than itself", info.lines)
	}
	h.program = b.b[headLength:]
	b.b = b.b[:headLength]
	h.minInst = b.u8()
	h.maxOps = 1
	if h.version >= 4 {
		h.maxOps = max(b.u8(), 1)
	}
	b.u8() // default is_stmt
	h.lineBase = int8(b.u8())
	h.lineRange = b.u8()
	h.opcodeBase = b.u8()
	if b.bad || h.opcodeBase == 0 || h.lineRange == 0 {
		return h, nil, malformed("the header of the line program at %#x", info.lines)
	}
	h.opcodeLengths = b.take(uint64(h.opcodeBase) - 1)
	if info.files != nil {
		return h, info.files, nil
	}
	if h.version >= 5 {
		files = d.fileList5(u, &b, info.compDir, is64)
	} else {
		files = d.fileList(&b, info.compDir)
	}
	info.files = files
	return h, files, nil
}

func joinPath(dir, name string) string {
	switch {
	case dir == "" || strings.HasPrefix(name, "/"):
		return name
	case name == "":
		return dir
	case strings.HasSuffix(dir, "/"):
		return dir + name
	}
	return dir + "/" + name
}

// maxPath bounds each part of a path.
const maxPath = 4096

func clip(b []byte) []byte { return b[:min(len(b), maxPath)] }

// fileList reads the lists of versions 2 to 4. Directory 0 is the compilation's, file 0 does not exist.
func (d *Data) fileList(b *buffer, compDir string) *fileTable {
	t := &fileTable{compDir: compDir, dirs: [][]byte{nil}, entries: []fileEntry{{}}}
	for !b.bad && len(t.dirs) < maxFileTable {
		s := b.cstring()
		if len(s) == 0 {
			break
		}
		t.dirs = append(t.dirs, clip(s))
	}
	for !b.bad && len(t.entries) < maxFileTable {
		s := b.cstring()
		if len(s) == 0 {
			break
		}
		t.add(b, s)
	}
	return t
}

// add reads what follows a file's name.
func (t *fileTable) add(b *buffer, name []byte) {
	dir := b.uvarint()
	b.uvarint() // time
	b.uvarint() // length
	t.entries = append(t.entries, fileEntry{clip(name), uint32(min(dir, uint64(NoFile)))})
}

// fileList5 reads the lists of version 5, whose entries say by themselves what they consist of. Directory 0 is
// the compilation's, written out.
func (d *Data) fileList5(u *Unit, b *buffer, compDir string, is64 bool) *fileTable {
	as := *u // the program's own offset size counts here
	as.is64 = is64
	type format struct{ content, form uint64 }
	list := func(entry func(name []byte, dir uint64)) {
		var formats []format
		for range b.u8() {
			formats = append(formats, format{b.uvarint(), b.uvarint()})
		}
		count := b.uvarint()
		if len(formats) == 0 || count > maxFileTable {
			return
		}
		for range count {
			var name []byte
			var dir uint64
			for _, f := range formats {
				v := d.value(b, &as, uint16(min(f.form, 0xffff)), 0)
				switch f.content {
				case contentPath:
					name = d.bytes(u, v)
				case contentDirectory:
					dir = v.u
				}
			}
			if b.bad {
				return
			}
			entry(clip(name), dir)
		}
	}
	t := &fileTable{compDir: compDir}
	list(func(name []byte, _ uint64) { t.dirs = append(t.dirs, name) })
	list(func(name []byte, dir uint64) {
		t.entries = append(t.entries, fileEntry{name, uint32(min(dir, uint64(NoFile)))})
	})
	return t
}

// lines runs the unit's line program. The rows come sorted, each sequence ended by a row with end set; at one
// address the last row counts. What cannot be code is left out. rows is reused.
func (d *Data) lines(u *Unit, rows []lineRow) ([]lineRow, *fileTable, error) {
	rows = rows[:0]
	h, files, err := d.lineHead(u)
	if err != nil {
		return rows, nil, err
	}
	type sequence struct{ from, to int }
	var sequences []sequence
	b := buffer{b: h.program, order: d.order}
	var addr, op uint64
	file, line := uint32(1), int64(1)
	from := 0
	reset := func() {
		addr, op, file, line = 0, 0, 1, 1
		from = len(rows)
	}
	advance := func(n uint64) {
		if h.maxOps == 1 {
			addr += n * uint64(h.minInst)
			return
		}
		addr += uint64(h.minInst) * ((op + n) / uint64(h.maxOps))
		op = (op + n) % uint64(h.maxOps)
	}
	emit := func(end bool) {
		l := int32(0)
		if line > 0 && line < 1<<31 {
			l = int32(line)
		}
		r := lineRow{addr, file, l, end}
		if n := len(rows); n > from && rows[n-1].addr == addr {
			rows[n-1] = r
			return
		}
		d.rowBudget--
		rows = append(rows, r)
	}
	for len(b.b) > 0 && !b.bad {
		if len(rows) > maxLineRows || d.rowBudget < 0 {
			return rows[:0], nil, malformed("the line program at %#x has too many rows", u.loaded.lines)
		}
		code := b.u8()
		if code >= h.opcodeBase {
			k := code - h.opcodeBase
			advance(uint64(k / h.lineRange))
			line += int64(h.lineBase) + int64(k%h.lineRange)
			emit(false)
			continue
		}
		switch code {
		case 0:
			n := b.uvarint()
			x := buffer{b: b.take(n), order: d.order}
			if b.bad || n == 0 {
				break
			}
			switch x.u8() {
			case opEndSequence:
				emit(true)
				seq := rows[from:]
				if !slices.IsSortedFunc(seq, func(a, b lineRow) int { return compareAddr(a.addr, b.addr) }) {
					// The last row stays the last: it ends the sequence.
					slices.SortStableFunc(seq[:len(seq)-1], func(a, b lineRow) int { return compareAddr(a.addr, b.addr) })
				}
				if len(seq) > 1 && d.live(Range{seq[0].addr, seq[len(seq)-1].addr}) {
					sequences = append(sequences, sequence{from, len(rows)})
				} else {
					rows = rows[:from]
				}
				reset()
			case opSetAddress:
				if len(x.b) == 4 {
					addr = uint64(x.u32())
				} else {
					addr = x.u64()
				}
				op = 0
			case opDefineFile:
				name := x.cstring()
				if len(name) > 0 && len(files.entries) < maxFileTable {
					files.add(&x, name)
				}
			}
		case opCopy:
			emit(false)
		case opAdvancePC:
			advance(b.uvarint())
		case opAdvanceLine:
			line += b.varint()
		case opSetFile:
			file = uint32(min(b.uvarint(), uint64(NoFile)))
		case opSetColumn, opSetISA:
			b.uvarint()
		case opNegateStmt, opSetBasicBlock, opSetPrologueEnd, opSetEpilogueBegin:
		case opConstAddPC:
			advance(uint64((255 - h.opcodeBase) / h.lineRange))
		case opFixedAdvancePC:
			addr += uint64(b.u16())
			op = 0
		default:
			if int(code) <= len(h.opcodeLengths) {
				for range h.opcodeLengths[code-1] {
					b.uvarint()
				}
			}
		}
	}
	rows = rows[:from] // a sequence without an end

	inOrder := true
	for i := 1; i < len(sequences); i++ {
		if rows[sequences[i].from].addr < rows[sequences[i-1].to-1].addr {
			inOrder = false
		}
	}
	if inOrder {
		return rows, files, nil
	}
	slices.SortStableFunc(sequences, func(a, b sequence) int { return compareAddr(rows[a.from].addr, rows[b.from].addr) })
	sorted := make([]lineRow, 0, len(rows))
	for _, s := range sequences {
		if n := len(sorted); n > 0 && rows[s.from].addr < sorted[n-1].addr {
			continue // two sequences claim the same code: the first one counts
		}
		sorted = append(sorted, rows[s.from:s.to]...)
	}
	return sorted, files, nil
}

func compareAddr(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// rowAt returns the index of the last row at or before addr, -1 if there is none.
func rowAt(rows []lineRow, addr uint64) int {
	lo, hi := 0, len(rows)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if rows[mid].addr <= addr {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo - 1
}
