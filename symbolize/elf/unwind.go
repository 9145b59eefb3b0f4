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
// none of them: of libdav1d's that is two thirds, hand-written assembly. Linkage stubs are left out.
//
// A file without such a table yields nothing. After an error, what was yielded holds.
func (f *File) FunctionRanges(yield func(start, end uint64) bool) error {
	if s := f.Section(FunctionsSection); s != nil {
		return f.keptRanges(s, yield)
	}
	base, head, err := f.frameHeader()
	if err != nil || len(head) == 0 {
		return err
	}
	if len(head) < 4 {
		return malformed(".eh_frame_hdr of %d bytes", len(head))
	}
	const omitted = 0xff
	if head[2] == omitted || head[3] == omitted {
		return nil
	}
	// The address of .eh_frame and the count as 4 bytes each, the table as signed distances from here.
	if want := []byte{1, 0x1b, 0x03, 0x3b}; len(head) < 12 || !bytes.Equal(head[:4], want) {
		return malformed(".eh_frame_hdr begins with % x instead of % x", head[:4], want)
	}
	signed := func(b []byte) uint64 { return uint64(int64(int32(f.Order.Uint32(b)))) }
	table := head[12:]
	count := f.Order.Uint32(head[8:])
	if uint64(count) > uint64(len(table)/8) || count > maxFunctionRanges {
		return malformed(".eh_frame_hdr: %d functions in %d bytes", count, len(table))
	}
	entries := newFrameEntries(f, base+4+signed(head[4:]))
	regions := f.functionRegions()
	for ; count > 0; table, count = table[8:], count-1 {
		start, next := base+signed(table), uint64(math.MaxUint64)
		if count > 1 {
			next = base + signed(table[8:])
		}
		if next < start {
			return malformed(".eh_frame_hdr: %#x comes before %#x", start, next)
		}
		for len(regions) > 0 && regions[0].end <= start {
			regions = regions[1:]
		}
		if len(regions) == 0 {
			return nil
		}
		if start < regions[0].start || start == next {
			continue
		}
		end := min(next, regions[0].end)
		if n := entries.size(base + signed(table[4:])); n > 0 && n < end-start {
			end = start + n
		}
		if !yield(start, end) {
			return nil
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

// frameHeader returns .eh_frame_hdr and its address, or nil. Programs are stripped of their sections at times,
// never of this segment, since exceptions need it.
func (f *File) frameHeader() (addr uint64, b []byte, err error) {
	for i := range f.Segments {
		if s := &f.Segments[i]; s.Type == segmentFrameHeader && s.Filesz > 0 {
			b, err := f.bytesAt(s.Offset, s.Filesz)
			if err != nil {
				return 0, nil, fmt.Errorf("reading .eh_frame_hdr: %w", err)
			}
			return s.Vaddr, b, nil
		}
	}
	if s := f.Section(".eh_frame_hdr"); s != nil {
		b, err := f.Raw(s)
		return s.Addr, b, err
	}
	return 0, nil, nil
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

// frameEntries reads the sizes of functions out of .eh_frame (Linux Standard Base, "Exception Frames").
type frameEntries struct {
	f    *File
	addr uint64
	b    []byte

	common uint64 // where the last CIE lies, from 1
	width  uint64 // of the addresses in its FDEs
}

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

// entry returns what follows the length and the place of the entry at an offset; word is its first field, which
// is 0 for a CIE and leads from an FDE to its CIE.
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
	at := addr - r.addr
	back, b := r.entry(at)
	if back == 0 || uint64(back) > at+4 {
		return 0
	}
	if common := at + 4 - uint64(back); r.common != common+1 {
		r.common, r.width = common+1, r.addressWidth(common)
	}
	if uint64(len(b)) < 2*r.width {
		return 0
	}
	switch b = b[r.width:]; r.width {
	case 2:
		return uint64(r.f.Order.Uint16(b))
	case 4:
		return uint64(r.f.Order.Uint32(b))
	case 8:
		return r.f.Order.Uint64(b)
	}
	return 0
}

// addressWidth returns how many bytes an address takes in the FDEs of the CIE at an offset, or 0.
func (r *frameEntries) addressWidth(at uint64) uint64 {
	id, b := r.entry(at)
	if id != 0 || len(b) < 1 {
		return 0
	}
	version := b[0]
	i := bytes.IndexByte(b, 0)
	if i < 0 {
		return 0
	}
	augmentation := b[1:max(i, 1)]
	b = b[i+1:]
	skip := func() {
		_, n := binary.Uvarint(b)
		b = b[max(n, 0):]
	}
	skip() // code alignment
	skip() // data alignment
	if version > 1 {
		skip() // return address
	} else if len(b) > 0 {
		b = b[1:]
	}
	const pointer = 0 // a whole address
	if len(augmentation) == 0 {
		return r.encodedWidth(pointer)
	}
	if augmentation[0] != 'z' {
		return 0
	}
	skip() // length of what follows
	for _, c := range augmentation[1:] {
		switch c {
		case 'S', 'B', 'G': // a signal frame, and arm64's signed and tagged ones
			continue
		}
		if len(b) == 0 {
			return 0
		}
		encoding := b[0]
		b = b[1:]
		switch c {
		case 'R':
			return r.encodedWidth(encoding)
		case 'L':
		case 'P':
			n := r.encodedWidth(encoding)
			if n == 0 || uint64(len(b)) < n {
				return 0
			}
			b = b[n:]
		default:
			return 0
		}
	}
	return r.encodedWidth(pointer)
}

// encodedWidth returns the bytes of a value in an encoding (DW_EH_PE_…), or 0 if they vary.
func (r *frameEntries) encodedWidth(encoding byte) uint64 {
	switch encoding & 0x7 {
	case 0:
		if encoding&0x70 == 0x50 { // aligned
			return 0
		}
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
