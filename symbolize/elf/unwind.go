package elf

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
)

// FunctionsSection is the name of the section in which an extracted file keeps its function ranges. For each, in
// ascending order: uvarint distance of its start from the end of the one before (from 0 at first), uvarint size.
const FunctionsSection = ".perfuse.functions"

// maxFunctionRanges bounds the function ranges of one file; chromium has about a million.
const maxFunctionRanges = 4 << 20

const segmentFrameHeader = 0x6474e550 // PT_GNU_EH_FRAME

// FunctionRanges calls yield for each function that unwind information delimits, in ascending order and without
// overlap, until it returns false: all that is known about the code of a stripped file. Starts are those of the
// sorted table in .eh_frame_hdr, in the only encodings that linkers write; ends are those of the entries (FDEs)
// that it points to, or, where an entry cannot be read, the next start. Code between two functions belongs to
// none of them: of libdav1d's that is two thirds, hand-written assembly. Linkage stubs are left out. Without the
// table, as in what gcc links with -static, the entries themselves are sorted.
//
// A file without unwind information yields nothing. After an error, what was yielded holds.
func (f *File) FunctionRanges(yield func(start, end uint64) bool) error {
	if s := f.Section(FunctionsSection); s != nil {
		return f.keptRanges(s, yield)
	}
	head, err := f.frameHeader()
	if err != nil {
		return err
	}
	regions := f.functionRegions()
	// place yields the function at start, for ascending starts.
	place := func(start, next, size uint64) (more bool) {
		for len(regions) > 0 && regions[0].end <= start {
			regions = regions[1:]
		}
		if len(regions) == 0 {
			return false
		}
		if start < regions[0].start || start == next {
			return true
		}
		end := min(next, regions[0].end)
		if size > 0 && size < end-start {
			end = start + size
		}
		return yield(start, end)
	}
	if head.count == 0 {
		all, err := f.frameRanges()
		for i, r := range all {
			next := uint64(math.MaxUint64)
			if i+1 < len(all) {
				next = all[i+1].start
			}
			if !place(r.start, next, r.end-r.start) {
				break
			}
		}
		return err
	}
	entries := newFrameEntries(f, head.frames)
	for i := range head.count {
		start, entry := head.at(i)
		next := uint64(math.MaxUint64)
		if i+1 < head.count {
			next, _ = head.at(i + 1)
		}
		if next < start {
			return malformed(".eh_frame_hdr: %#x comes before %#x", start, next)
		}
		if !place(start, next, entries.size(entry)) {
			break
		}
	}
	return nil
}

// AppendFunctionRange appends a range to the content of FunctionsSection; last is the end of the one before.
func AppendFunctionRange(b []byte, last, start, end uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, start-last), end-start)
}

func (f *File) keptRanges(s *Section, yield func(start, end uint64) bool) error {
	b, err := f.Raw(s)
	if err != nil {
		return err
	}
	at := uint64(0)
	for n := 0; len(b) > 0; n++ {
		gap, k := binary.Uvarint(b)
		size, l := binary.Uvarint(b[max(k, 0):])
		start := at + gap
		end := start + size
		if k <= 0 || l <= 0 || start < at || end <= start || n == maxFunctionRanges {
			return malformed("section %s: no range behind %#x", s.Name, at)
		}
		if !yield(start, end) {
			return nil
		}
		at, b = end, b[k+l:]
	}
	return nil
}

// frameHeader is .eh_frame_hdr: where .eh_frame is, and a table of starts and entries.
type frameHeader struct {
	order  binary.ByteOrder
	base   uint64 // what all in the table counts from
	frames uint64
	count  int
	table  []byte
}

func (h *frameHeader) at(i int) (start, entry uint64) {
	b := h.table[8*i:]
	return h.base + signed(h.order.Uint32(b)), h.base + signed(h.order.Uint32(b[4:]))
}

func signed(v uint32) uint64 { return uint64(int64(int32(v))) }

// frameHeader reads the header if there is one with a table. Programs are stripped of their sections at times, never
// of this segment, since exceptions need it.
func (f *File) frameHeader() (h frameHeader, err error) {
	var b []byte
	if s := f.Section(".eh_frame_hdr"); s != nil {
		h.base = s.Addr
		if b, err = f.Raw(s); err != nil {
			return h, err
		}
	}
	for i := range f.Segments {
		if s := &f.Segments[i]; s.Type == segmentFrameHeader && s.Filesz > 0 && b == nil {
			h.base = s.Vaddr
			if b, err = f.bytesAt(s.Offset, s.Filesz); err != nil {
				return h, fmt.Errorf("reading .eh_frame_hdr: %w", err)
			}
		}
	}
	const omitted = 0xff
	if len(b) == 0 || len(b) >= 4 && (b[2] == omitted || b[3] == omitted) {
		return h, nil
	}
	// The address of .eh_frame and the count in 4 bytes each, the table as signed distances from its beginning.
	want := []byte{1, 0x1b, 0x03, 0x3b}
	if len(b) < 12 || !bytes.Equal(b[:4], want) {
		return h, malformed(".eh_frame_hdr begins with % x instead of % x", b[:min(len(b), 4)], want)
	}
	count := f.Order.Uint32(b[8:])
	h.order, h.frames, h.table = f.Order, h.base+4+signed(f.Order.Uint32(b[4:])), b[12:]
	if uint64(count) > uint64(len(h.table)/8) || count > maxFunctionRanges {
		return h, malformed(".eh_frame_hdr: %d functions in %d bytes", count, len(h.table))
	}
	h.count = int(count)
	return h, nil
}

// frameRanges reads all entries of the section .eh_frame, sorted by their starts.
func (f *File) frameRanges() ([]region, error) {
	s := f.Section(".eh_frame")
	if s == nil || s.Type == SectionNobits {
		return nil, nil
	}
	var out []region
	r := newFrameEntries(f, s.Addr)
	b := r.b[:min(uint64(len(r.b)), s.Size)]
	for at := uint64(0); at+4 <= uint64(len(b)); {
		if start, size := r.function(at); size > 0 {
			out = append(out, region{start, start + size})
		}
		// Zero ends what one object file brought.
		at += 4 + uint64(f.Order.Uint32(b[at:]))
		if len(out) > maxFunctionRanges {
			return nil, malformed(".eh_frame: more than %d functions", maxFunctionRanges)
		}
	}
	slices.SortStableFunc(out, func(a, b region) int { return cmp.Compare(a.start, b.start) })
	return out, nil
}

type region struct{ start, end uint64 }

// functionRegions are where functions may lie: the executable sections but those of stubs, or, without any
// sections, the executable segments. They are sorted by their starts.
func (f *File) functionRegions() []region {
	var out []region
	add := func(start, size uint64) {
		if start+size > start {
			out = append(out, region{start, start + size})
		}
	}
	for i := range f.Sections {
		if s := &f.Sections[i]; s.Flags&SectionExec != 0 && !IsStubSection(s.Name) {
			add(s.Addr, s.Size)
		}
	}
	for i := range f.Segments {
		if s := &f.Segments[i]; len(f.Sections) == 0 && s.Type == SegmentLoad && s.Flags&FlagExec != 0 {
			add(s.Vaddr, s.Memsz)
		}
	}
	slices.SortFunc(out, func(a, b region) int { return cmp.Compare(a.start, b.start) })
	return out
}

// frameEntries reads .eh_frame (Linux Standard Base, "Exception Frames").
type frameEntries struct {
	f    *File
	addr uint64
	b    []byte

	common   uint64 // where the last CIE lies, from 1
	encoding byte   // of the addresses in its FDEs
}

// Encodings of addresses (DW_EH_PE_…).
const (
	encodedPointer  = 0x00
	encodedSigned   = 0x08
	encodedRelative = 0x10 // to the place of the value
	encodedAligned  = 0x50
	encodedBase     = 0x70 // the bits that tell these apart
	encodedUnknown  = 0xff
)

// newFrameEntries takes what the file loads from addr on, to the end of the section or segment.
func newFrameEntries(f *File, addr uint64) *frameEntries {
	r := &frameEntries{f: f, addr: addr}
	take := func(at, size, offset uint64) bool {
		if addr < at || addr-at >= size {
			return false
		}
		b, err := f.bytesAt(offset+(addr-at), size-(addr-at))
		r.b = b
		return err == nil
	}
	for i := range f.Sections {
		if s := &f.Sections[i]; s.Flags&SectionAlloc != 0 && s.Type != SectionNobits && s.Type != SectionNull && take(s.Addr, s.Size, s.Offset) {
			return r
		}
	}
	for i := range f.Segments {
		if s := &f.Segments[i]; s.Type == SegmentLoad && take(s.Vaddr, s.Filesz, s.Offset) {
			return r
		}
	}
	return r
}

// entry returns what follows the length and the first word of the entry at an offset. The word is 0 for a CIE; in an
// FDE it says how far before itself its CIE lies.
func (r *frameEntries) entry(at uint64) (word uint32, b []byte) {
	if at >= uint64(len(r.b)) || uint64(len(r.b))-at < 8 {
		return 0, nil
	}
	b = r.b[at:]
	n := uint64(r.f.Order.Uint32(b))
	if b = b[4:]; n < 4 || n > uint64(len(b)) { // 0xffffffff, the long form, is not seen here
		return 0, nil
	}
	return r.f.Order.Uint32(b), b[4:n]
}

// size returns the size of the function whose FDE is at addr, or 0.
func (r *frameEntries) size(addr uint64) uint64 {
	_, size := r.function(addr - r.addr)
	return size
}

// function returns what the FDE at an offset covers. The size is 0 if there is none or it cannot be read.
func (r *frameEntries) function(at uint64) (start, size uint64) {
	back, b := r.entry(at)
	if back == 0 || uint64(back) > at+4 {
		return 0, 0
	}
	if common := at + 4 - uint64(back); r.common != common+1 {
		r.common, r.encoding = common+1, r.addressEncoding(common)
	}
	width := r.width(r.encoding)
	if width == 0 || uint64(len(b)) < 2*width {
		return 0, 0
	}
	value := func(b []byte) uint64 {
		switch width {
		case 2:
			return uint64(r.f.Order.Uint16(b))
		case 4:
			return uint64(r.f.Order.Uint32(b))
		}
		return r.f.Order.Uint64(b)
	}
	start, size = value(b), value(b[width:])
	if unused := 64 - 8*width; r.encoding&encodedSigned != 0 {
		start = uint64(int64(start<<unused) >> unused)
	}
	if r.encoding&encodedBase == encodedRelative {
		start += r.addr + at + 8
	}
	if !r.f.Is64 {
		start = uint64(uint32(start))
	}
	return start, size
}

// addressEncoding returns how the FDEs of the CIE at an offset write addresses.
func (r *frameEntries) addressEncoding(at uint64) byte {
	id, b := r.entry(at)
	b = b[:min(len(b), 64)] // a real one has 20 bytes before its instructions
	end := bytes.IndexByte(b, 0)
	if id != 0 || end < 1 {
		return encodedUnknown
	}
	version, augmentation := b[0], b[1:end]
	b = b[end+1:]
	skip := func() {
		_, n := binary.Uvarint(b)
		b = b[max(n, 0):]
	}
	skip() // code alignment
	skip() // data alignment
	if version > 1 {
		skip() // return address
	} else {
		b = b[min(1, len(b)):]
	}
	if len(augmentation) == 0 {
		return encodedPointer
	}
	if augmentation[0] != 'z' {
		return encodedUnknown
	}
	skip() // length of what follows
	for _, c := range augmentation[1:] {
		if c == 'S' || c == 'B' || c == 'G' { // a signal frame, and arm64's signed and tagged ones
			continue
		}
		if len(b) == 0 {
			return encodedUnknown
		}
		encoding := b[0]
		b = b[1:]
		switch c {
		case 'R':
			return encoding
		case 'L':
		case 'P':
			n := r.width(encoding)
			if n == 0 || uint64(len(b)) < n {
				return encodedUnknown
			}
			b = b[n:]
		default:
			return encodedUnknown
		}
	}
	return encodedPointer
}

// width returns the bytes of a value in an encoding, or 0 if they vary.
func (r *frameEntries) width(encoding byte) uint64 {
	if encoding&encodedBase == encodedAligned || encoding == encodedUnknown {
		return 0
	}
	switch encoding & 0x7 {
	case 0:
		if r.f.Is64 {
			return 8
		}
		return 4
	case 2:
		return 2
	case 3:
		return 4
	case 4:
		return 8
	}
	return 0
}
