// Package elf reads ELF files that nobody vouches for: every offset, size and count is checked against the
// file before it is used, memory follows what the file really holds and not what it says it holds, and bad
// bytes give an error, never a panic. Both byte orders and both word sizes are read.
//
// # Identity
//
// [BuildID] is the identity of an executable file for the whole product; agent and server use this one
// function. In this order:
//
//  1. the GNU build id (note "GNU", type 3), in lower-case hex, if it has 4 to 64 bytes;
//  2. for Go binaries without a GNU note, the first 20 bytes of the SHA-256 of the Go
//     build id (note "Go", type 4), in hex. The id itself is base64 with slashes, thus unfit as a file name;
//  3. for everything else, the first 20 bytes of the SHA-256 of: the first 4 KiB, the last 4 KiB, and the
//     size as eight bytes big endian. A file below 8 KiB is hashed whole, then its size.
//
// # Addresses
//
// An address here is a p_vaddr: [File.Addr] gives it for an offset in the file, with the bias of the segment
// that the offset lies in.
package elf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// ErrFormat is in the chain of every error that is due to the file's content.
var ErrFormat = errors.New("malformed ELF file")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

// Limits of what is believed. Real files stay far below: chromium has 40 sections, -ffunction-sections
// objects have some 100 000, but those are no executables.
const (
	maxSegments = 4096
	maxSections = 1 << 18
	maxStrings  = 64 << 20 // section names
)

// ELF constants that more than one file here needs; from the System V ABI and the GNU extensions.
const (
	TypeExec = 2
	TypeDyn  = 3

	Machine386     = 3
	MachineX86_64  = 62
	MachineAArch64 = 183

	SegmentLoad    = 1
	SegmentDynamic = 2
	SegmentNote    = 4

	FlagExec = 1 // of a segment

	SectionNull     = 0
	SectionProgbits = 1
	SectionSymtab   = 2
	SectionStrtab   = 3
	SectionRela     = 4
	SectionNote     = 7
	SectionNobits   = 8
	SectionRel      = 9
	SectionDynsym   = 11

	SectionAlloc      = 0x2
	SectionExec       = 0x4
	SectionCompressed = 0x800
)

// Segment is a program header.
type Segment struct {
	Type, Flags                         uint32
	Offset, Vaddr, Filesz, Memsz, Align uint64
}

// Section is a section header.
type Section struct {
	Name                                      string
	Type                                      uint32
	Flags, Addr, Offset, Size, Align, Entsize uint64
	Link, Info                                uint32

	nameOffset uint32
}

// File is an open ELF file. Its methods may be used by several goroutines at once.
type File struct {
	Is64     bool
	Order    binary.ByteOrder
	OSABI    byte
	Type     uint16
	Machine  uint16
	Entry    uint64
	Flags    uint32
	Segments []Segment
	Sections []Section

	r      io.ReaderAt
	size   int64
	mapped []byte // the whole file if it is mapped, else nil
	close  func() error
}

// Open maps the file at path. Close unmaps it; what Data returned is then gone.
//
// Somebody may truncate the file while it is mapped, which faults: use [Guard] around work on files of
// others.
func Open(path string) (*File, error) {
	h, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	return OpenFile(h)
}

// OpenFile is Open for a file that is open already; it stays the caller's.
func OpenFile(h *os.File) (*File, error) {
	st, err := h.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("opening %s: not a regular file", h.Name())
	}
	if st.Size() < 52 {
		return nil, malformed("%d bytes are too few", st.Size())
	}
	if st.Size() != int64(int(st.Size())) {
		return nil, malformed("%d bytes are too many for this machine", st.Size())
	}
	m, err := unix.Mmap(int(h.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("mapping %s: %w", h.Name(), err)
	}
	var f *File
	err = Guard(func() (err error) { f, err = NewBytes(m); return err })
	if err != nil {
		_ = unix.Munmap(m)
		return nil, err
	}
	f.close = func() error { return unix.Munmap(m) }
	return f, nil
}

// NewBytes reads an ELF file from memory; b must not change while the File is used.
func NewBytes(b []byte) (*File, error) {
	f := &File{r: bytes.NewReader(b), size: int64(len(b)), mapped: b}
	return f, f.readHeaders()
}

// New reads an ELF file of size bytes through r.
func New(r io.ReaderAt, size int64) (*File, error) {
	f := &File{r: r, size: size}
	return f, f.readHeaders()
}

// Close releases the mapping of a file opened by Open.
func (f *File) Close() error {
	if f.close == nil {
		return nil
	}
	c := f.close
	f.close, f.mapped = nil, nil
	return c()
}

// Size is the file's size in bytes.
func (f *File) Size() int64 { return f.size }

// ReadAt reads the file itself.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if f.mapped == nil {
		return f.r.ReadAt(p, off)
	}
	if off < 0 || off >= int64(len(f.mapped)) {
		return 0, io.EOF
	}
	n := copy(p, f.mapped[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// bytesAt returns n bytes at off: a part of the mapping, or a fresh slice. It does not allocate more than
// the file holds.
func (f *File) bytesAt(off, n uint64) ([]byte, error) {
	if off > uint64(f.size) || n > uint64(f.size)-off {
		return nil, malformed("%d bytes at offset %#x lie beyond its end at %#x", n, off, f.size)
	}
	if f.mapped != nil {
		return f.mapped[off : off+n : off+n], nil
	}
	b := make([]byte, n)
	if got, err := f.r.ReadAt(b, int64(off)); uint64(got) < n {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("reading %d bytes at offset %#x: %w", n, off, err)
	}
	return b, nil
}

func (f *File) readHeaders() error {
	head, err := f.bytesAt(0, min(64, uint64(max(f.size, 0))))
	if err != nil {
		return err
	}
	if len(head) < 52 || string(head[:4]) != "\x7fELF" {
		return malformed("no ELF header")
	}
	switch head[4] {
	case 1:
	case 2:
		f.Is64 = true
		if len(head) < 64 {
			return malformed("no ELF header")
		}
	default:
		return malformed("class %d", head[4])
	}
	switch head[5] {
	case 1:
		f.Order = binary.LittleEndian
	case 2:
		f.Order = binary.BigEndian
	default:
		return malformed("byte order %d", head[5])
	}
	f.OSABI = head[7]
	d := fields{b: head[16:], order: f.Order, is64: f.Is64}
	f.Type = d.u16()
	f.Machine = d.u16()
	d.u32()
	f.Entry = d.word()
	phoff, shoff := d.word(), d.word()
	f.Flags = d.u32()
	d.u16()
	phentsize, phnum := uint64(d.u16()), uint64(d.u16())
	shentsize, shnum := uint64(d.u16()), uint64(d.u16())
	shstrndx := uint32(d.u16())

	wantPh, wantSh := uint64(32), uint64(40)
	if f.Is64 {
		wantPh, wantSh = 56, 64
	}
	if shoff != 0 && shentsize == wantSh {
		// More than 0xff00 sections, or as many segments: the numbers are in section 0.
		if b, err := f.bytesAt(shoff, wantSh); err == nil {
			s := f.section(b)
			if shnum == 0 {
				shnum = s.Size
			}
			if shstrndx == 0xffff {
				shstrndx = s.Link
			}
			if phnum == 0xffff {
				phnum = uint64(s.Info)
			}
		}
	}
	if phoff == 0 {
		phnum = 0
	}
	if phnum > 0 {
		if phentsize != wantPh {
			return malformed("program headers of %d bytes", phentsize)
		}
		if phnum > maxSegments {
			return malformed("%d program headers", phnum)
		}
		b, err := f.bytesAt(phoff, phnum*wantPh)
		if err != nil {
			return err
		}
		f.Segments = make([]Segment, phnum)
		for i := range f.Segments {
			f.Segments[i] = f.segment(b[uint64(i)*wantPh:][:wantPh])
		}
	}
	if shoff == 0 || shnum == 0 {
		return nil
	}
	if shentsize != wantSh {
		return malformed("section headers of %d bytes", shentsize)
	}
	if shnum > maxSections {
		return malformed("%d sections", shnum)
	}
	b, err := f.bytesAt(shoff, shnum*wantSh)
	if err != nil {
		// What strip and packers leave behind: the segments alone still serve.
		if len(f.Segments) > 0 {
			return nil
		}
		return err
	}
	f.Sections = make([]Section, shnum)
	for i := range f.Sections {
		f.Sections[i] = f.section(b[uint64(i)*wantSh:][:wantSh])
	}
	if uint64(shstrndx) < shnum {
		s := &f.Sections[shstrndx]
		if s.Size <= maxStrings && s.Type != SectionNobits {
			if names, err := f.bytesAt(s.Offset, s.Size); err == nil {
				for i := range f.Sections {
					f.Sections[i].Name = string(cstring(names, uint64(f.Sections[i].nameOffset), 256))
				}
			}
		}
	}
	return nil
}

func (f *File) segment(b []byte) Segment {
	d := fields{b: b, order: f.Order, is64: f.Is64}
	var s Segment
	s.Type = d.u32()
	if f.Is64 {
		s.Flags = d.u32()
	}
	s.Offset = d.word()
	s.Vaddr = d.word()
	d.word()
	s.Filesz = d.word()
	s.Memsz = d.word()
	if !f.Is64 {
		s.Flags = d.u32()
	}
	s.Align = d.word()
	return s
}

func (f *File) section(b []byte) Section {
	d := fields{b: b, order: f.Order, is64: f.Is64}
	return Section{
		nameOffset: d.u32(),
		Type:       d.u32(),
		Flags:      d.word(),
		Addr:       d.word(),
		Offset:     d.word(),
		Size:       d.word(),
		Link:       d.u32(),
		Info:       d.u32(),
		Align:      d.word(),
		Entsize:    d.word(),
	}
}

// fields reads a header one field after the other; the caller has checked the length.
type fields struct {
	b     []byte
	order binary.ByteOrder
	is64  bool
}

func (d *fields) u16() uint16 {
	v := d.order.Uint16(d.b)
	d.b = d.b[2:]
	return v
}

func (d *fields) u32() uint32 {
	v := d.order.Uint32(d.b)
	d.b = d.b[4:]
	return v
}

func (d *fields) word() uint64 {
	if !d.is64 {
		return uint64(d.u32())
	}
	v := d.order.Uint64(d.b)
	d.b = d.b[8:]
	return v
}

// cstring returns the bytes from off to the next zero, at most limit of them; empty if there are none.
func cstring(b []byte, off uint64, limit int) []byte {
	if off >= uint64(len(b)) {
		return nil
	}
	b = b[off:]
	if len(b) > limit {
		b = b[:limit]
	}
	if i := bytes.IndexByte(b, 0); i >= 0 {
		return b[:i]
	}
	return b
}

// Section returns the first section of that name, or nil.
func (f *File) Section(name string) *Section {
	for i := range f.Sections {
		if f.Sections[i].Name == name {
			return &f.Sections[i]
		}
	}
	return nil
}
