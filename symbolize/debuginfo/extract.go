package debuginfo

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/perfuse/perfuse/symbolize/dwarf"
	"github.com/perfuse/perfuse/symbolize/elf"
	"github.com/perfuse/perfuse/symbolize/gosym"
	"github.com/perfuse/perfuse/symbolize/index"
)

const (
	// maxDwarfBytes is how much DWARF an extraction takes along; without it, symbol tables still name things.
	maxDwarfBytes = 1 << 30
	// maxSlotBytes bounds the relocations kept for stubs in .plt.got.
	maxSlotBytes = 4 << 20
	// strayCode is how much code besides Go's counts as padding: without more, DWARF and symbol tables say
	// nothing that the pclntab does not.
	strayCode = 64
)

// Extraction is what symbolization needs of an executable: an ELF file with the same section and program
// headers, in which only symbol tables, DWARF, pclntab, notes and procedure linkage stubs have content, and where
// functions begin and end. Code and data stay behind.
//
// It refers to the file that it was made from, which must stay open and unchanged until it is written.
type Extraction struct {
	file, split *elf.File
	supplement  *elf.File
	segments    []elf.Segment
	sections    []extracted
	names       []byte
	headersAt   int64
	size        int64
	needed      bool
	owned       []io.Closer
}

// extracted is a section of the new file.
type extracted struct {
	elf.Section
	name    uint32
	src     *elf.File // whose bytes at from are its content, nil if it has none or its own
	from    uint64
	content []byte
}

// Extract plans the extraction of the size bytes of r. Nothing but headers, unwind information and, for Go, parts of
// the pclntab is read before it is written. The error wraps elf.ErrFormat if r is no ELF file.
func Extract(r io.ReaderAt, size int64) (*Extraction, error) {
	var f *elf.File
	var err error
	if h, ok := r.(*os.File); ok {
		f, err = elf.OpenFile(h) // maps it: nothing is copied
	} else {
		f, err = elf.New(r, size)
	}
	if err != nil {
		return nil, fmt.Errorf("extracting debug information: %w", err)
	}
	x, err := newExtraction(index.Files{File: f})
	if err != nil {
		f.Close()
		return nil, err
	}
	x.owned = append(x.owned, f)
	return x, nil
}

// ExtractFile is Extract for the file at path below root ("" for our own). If its symbol table and DWARF are
// in a split debug file that this machine has, they are taken from there.
func ExtractFile(path, root string) (*Extraction, error) {
	h, err := openRegular(root + path)
	if err != nil {
		return nil, fmt.Errorf("extracting debug information: %w", err)
	}
	defer h.Close()
	f, err := elf.OpenFile(h)
	if err != nil {
		return nil, fmt.Errorf("extracting debug information: %w", err)
	}
	files := findFiles(f, path, root, []string{defaultDebugDir})
	x, err := newExtraction(files)
	if err != nil {
		files.Close()
		return nil, err
	}
	x.owned = append(x.owned, files)
	return x, nil
}

func newExtraction(in index.Files) (*Extraction, error) {
	x := &Extraction{file: in.File, split: in.Split, supplement: in.Supplement, segments: slices.Clone(in.File.Segments)}
	if err := elf.Guard(x.plan); err != nil {
		return nil, fmt.Errorf("extracting debug information: %w", err)
	}
	return x, nil
}

// Close releases the files that Extract and ExtractFile have opened.
func (x *Extraction) Close() error {
	var errs []error
	for _, c := range x.owned {
		errs = append(errs, c.Close())
	}
	x.owned = nil
	return errors.Join(errs...)
}

// Size is the number of bytes that WriteTo writes.
func (x *Extraction) Size() int64 { return x.size }

// Needed says whether there is anything in it that could name code.
func (x *Extraction) Needed() bool { return x.needed }

// plan decides about each section. The order of sections is kept: symbols refer to them by number.
func (x *Extraction) plan() error {
	base := x.file
	if x.split != nil && len(x.split.Sections) > 0 {
		base = x.split
	}
	goTable, goErr := gosym.Find(x.file)
	onlyGo := goErr == nil && x.codeBesides(goTable) < strayCode
	keep := x.wanted(base, onlyGo)
	for i := range base.Sections {
		s := &base.Sections[i]
		e := extracted{Section: *s}
		switch {
		case s.Type == elf.SectionNull:
		case keep[i] && s.Type != elf.SectionNobits:
			e.src, e.from = base, s.Offset
		case base != x.file && s.Flags&elf.SectionAlloc != 0:
			// The split file has the header, the file itself the content.
			for k := range x.file.Sections {
				if m := &x.file.Sections[k]; m.Name == s.Name && m.Addr == s.Addr && m.Size == s.Size && m.Type != elf.SectionNobits && x.wantedAlloc(x.file, m) {
					e.Type, e.src, e.from = m.Type, x.file, m.Offset
				}
			}
		}
		if e.src == nil && s.Type != elf.SectionNull {
			// Types that have a meaning without content would be lies.
			e.Type = elf.SectionNobits
			e.Flags &^= elf.SectionCompressed
			if s.Flags&elf.SectionAlloc == 0 {
				e.Size = 0
			}
		}
		if e.src != nil {
			if e.from > uint64(e.src.Size()) || e.Size > uint64(e.src.Size())-e.from {
				e.Type, e.src, e.Size = elf.SectionNobits, nil, 0
			}
		}
		if e.src != nil && (e.Type == elf.SectionSymtab || e.Type == elf.SectionDynsym || e.Name == ".gnu_debugdata" || strings.HasSuffix(e.Name, "debug_info")) {
			x.needed = true
		}
		x.sections = append(x.sections, e)
	}
	if len(x.sections) == 0 {
		x.sections = append(x.sections, extracted{}) // the first one is none
	}
	if base != x.file {
		for _, name := range []string{".gnu_debugdata", ".gopclntab"} {
			if s := x.file.Section(name); s != nil && s.Type != elf.SectionNobits && base.Section(name) == nil {
				x.sections = append(x.sections, extracted{Section: *s, src: x.file, from: s.Offset})
				x.needed = true
			}
		}
	}
	if x.supplement != nil {
		for i := range x.supplement.Sections {
			s := &x.supplement.Sections[i]
			if slices.Contains(dwarf.SectionNames, s.Name) && s.Type != elf.SectionNobits && s.Offset <= uint64(x.supplement.Size()) && s.Size <= uint64(x.supplement.Size())-s.Offset {
				e := extracted{Section: *s, src: x.supplement, from: s.Offset}
				e.Name = dwarf.SupplementPrefix + s.Name
				e.Link, e.Info = 0, 0
				x.sections = append(x.sections, e)
			}
		}
	}
	if goErr == nil {
		x.planGo(goTable)
	}
	if !onlyGo {
		x.planFunctions()
	}
	return x.layout()
}

// wanted marks the sections of base whose content is kept.
func (x *Extraction) wanted(base *elf.File, onlyGo bool) []bool {
	keep := make([]bool, len(base.Sections))
	var dwarfBytes uint64
	for i := range base.Sections {
		s := &base.Sections[i]
		isDwarf := slices.Contains(dwarf.SectionNames, s.Name) || strings.HasPrefix(s.Name, ".z") && slices.Contains(dwarf.SectionNames, "."+s.Name[2:])
		switch {
		case isDwarf:
			keep[i] = !onlyGo
			dwarfBytes += s.Size
		case s.Type == elf.SectionSymtab:
			keep[i] = !onlyGo
		case s.Name == ".gnu_debugdata", s.Name == ".gnu_debuglink":
			keep[i] = true
		default:
			keep[i] = x.wantedAlloc(base, s)
		}
		if keep[i] && (s.Type == elf.SectionSymtab || s.Type == elf.SectionDynsym) && uint64(s.Link) < uint64(len(keep)) {
			keep[s.Link] = true
		}
	}
	for i := range base.Sections {
		s := &base.Sections[i]
		// A second look: the string table may come before the symbol table.
		if keep[i] && (s.Type == elf.SectionSymtab || s.Type == elf.SectionDynsym) && uint64(s.Link) < uint64(len(keep)) {
			keep[s.Link] = true
		}
		if dwarfBytes > maxDwarfBytes && (slices.Contains(dwarf.SectionNames, s.Name) || strings.HasPrefix(s.Name, ".zdebug")) {
			keep[i] = false
		}
	}
	return keep
}

// wantedAlloc decides about sections that are loaded at run time.
func (x *Extraction) wantedAlloc(f *elf.File, s *elf.Section) bool {
	switch {
	case s.Type == elf.SectionNote, s.Type == elf.SectionDynsym:
		return true
	case s.Type == elf.SectionStrtab && s.Flags&elf.SectionAlloc != 0:
		return true // .dynstr
	case elf.IsStubSection(s.Name):
		return true
	case (s.Type == elf.SectionRela || s.Type == elf.SectionRel) && s.Flags&elf.SectionAlloc != 0:
		return strings.HasSuffix(s.Name, ".plt") || f.Section(".plt.got") != nil && s.Size <= maxSlotBytes
	case s.Name == ".gopclntab", s.Name == ".data.rel.ro.gopclntab":
		return true
	}
	return false
}

// codeBesides counts the bytes of code that Go's linker has not placed.
func (x *Extraction) codeBesides(t *gosym.Table) uint64 {
	start, end := t.Range()
	var n uint64
	for i := range x.file.Sections {
		s := &x.file.Sections[i]
		if s.Flags&elf.SectionExec == 0 || elf.IsStubSection(s.Name) || s.Type == elf.SectionNobits {
			continue
		}
		n += s.Size
		if lo, hi := max(s.Addr, start), min(s.Addr+s.Size, end); lo < hi {
			n -= hi - lo
		}
	}
	return n
}

// planGo adds what names Go code and lies in sections that are dropped: where text and funcdata begin, the
// inline trees, and the pclntab itself if a linker has merged it into other data.
func (x *Extraction) planGo(t *gosym.Table) {
	x.needed = true
	kept := false
	for i := range x.sections {
		s := &x.sections[i]
		kept = kept || s.src != nil && s.Flags&elf.SectionAlloc != 0 && t.Start >= s.Addr && t.Start-s.Addr < s.Size
	}
	if !kept {
		for i := range x.file.Sections {
			if s := &x.file.Sections[i]; s.Flags&elf.SectionAlloc != 0 && s.Type != elf.SectionNobits && t.Start >= s.Addr && t.Start-s.Addr < s.Size {
				n := t.Start - s.Addr
				e := extracted{Section: *s, src: x.file, from: s.Offset + n}
				e.Name, e.Addr, e.Size = ".gopclntab", t.Start, s.Size-n
				x.sections = append(x.sections, e)
				break
			}
		}
	}
	var low, high uint64 = ^uint64(0), 0
	if t.Funcdata != 0 {
		var fn gosym.Func
		for i := range t.Len() {
			if off, n := t.InlineTree(i, &fn); n > 0 {
				low, high = min(low, off), max(high, off+n)
			}
		}
	}
	head := make([]byte, 16)
	x.file.Order.PutUint64(head, t.Text)
	x.file.Order.PutUint64(head[8:], t.Funcdata)
	e := extracted{content: head}
	e.Name, e.Type, e.Align, e.Size = gosym.FuncdataSection, elf.SectionProgbits, 8, 16
	e.Addr = t.Funcdata
	if low < high {
		e.Addr += low
		inTable := false // Go 1.26 has the funcdata behind the pclntab, which is kept
		for i := range x.sections {
			s := &x.sections[i]
			inTable = inTable || s.src != nil && s.Flags&elf.SectionAlloc != 0 && e.Addr >= s.Addr && e.Addr+(high-low) <= s.Addr+s.Size
		}
		if b, err := x.file.ReadAddr(e.Addr, high-low); err == nil && !inTable {
			e.content = append(e.content, b...)
			e.Size += high - low
		}
	}
	x.sections = append(x.sections, e)
}

// planFunctions adds where functions begin and end, 4 or 5 bytes each. Whether the symbols say as much would cost
// more to find out than it weighs.
func (x *Extraction) planFunctions() {
	e := extracted{}
	last := uint64(0)
	// Damage costs what lies behind it.
	_ = x.file.FunctionRanges(func(start, end uint64) bool {
		e.content = elf.AppendFunctionRange(e.content, last, start, end)
		last = end
		return true
	})
	if len(e.content) == 0 {
		return
	}
	e.Name, e.Type, e.Align, e.Size = elf.FunctionsSection, elf.SectionProgbits, 1, uint64(len(e.content))
	x.sections = append(x.sections, e)
	x.needed = true
}

// layout gives each section its place: ELF header, program headers, contents, names, section headers.
func (x *Extraction) layout() error {
	headSize, phSize, shSize := int64(52), int64(32), int64(40)
	if x.file.Is64 {
		headSize, phSize, shSize = 64, 56, 64
	}
	at := headSize + phSize*int64(len(x.segments))
	place := func(n uint64) uint64 {
		at = (at + 7) &^ 7
		here := at
		at += int64(n)
		return uint64(here)
	}
	x.names = []byte{0}
	strings := extracted{}
	strings.Name, strings.Type, strings.Align = ".perfuse.shstrtab", elf.SectionStrtab, 1
	x.sections = append(x.sections, strings)
	if len(x.sections) >= 0xff00 {
		return fmt.Errorf("%d sections are too many", len(x.sections))
	}
	for i := range x.sections {
		s := &x.sections[i]
		if s.Name != "" {
			s.name = uint32(len(x.names))
			x.names = append(append(x.names, s.Name...), 0)
		}
	}
	last := &x.sections[len(x.sections)-1]
	last.content, last.Size = x.names, uint64(len(x.names))
	for i := range x.sections {
		s := &x.sections[i]
		switch {
		case s.Type == elf.SectionNull:
			s.Offset = 0
		case s.src == nil && s.content == nil:
			s.Offset = uint64(at)
		default:
			s.Offset = place(s.Size)
		}
	}
	x.headersAt = int64(place(uint64(shSize) * uint64(len(x.sections))))
	x.size = at
	return nil
}

// WriteTo writes the extracted file to w, in one pass and with a small buffer.
func (x *Extraction) WriteTo(w io.Writer) (n int64, err error) {
	out := &countingWriter{w: w}
	err = elf.Guard(func() error { return x.write(out) })
	if err != nil {
		return out.n, fmt.Errorf("extracting debug information: %w", err)
	}
	return out.n, nil
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

func (x *Extraction) write(w *countingWriter) error {
	f := x.file
	b := &headerWriter{order: f.Order, is64: f.Is64}
	class, order := byte(1), byte(1)
	if f.Is64 {
		class = 2
	}
	if f.Order == binary.ByteOrder(binary.BigEndian) {
		order = 2
	}
	b.b = append(b.b, 0x7f, 'E', 'L', 'F', class, order, 1, f.OSABI, 0, 0, 0, 0, 0, 0, 0, 0)
	b.u16(f.Type)
	b.u16(f.Machine)
	b.u32(1)
	b.word(f.Entry)
	head, ph, sh := uint16(52), uint16(32), uint16(40)
	if f.Is64 {
		head, ph, sh = 64, 56, 64
	}
	b.word(uint64(head))
	b.word(uint64(x.headersAt))
	b.u32(f.Flags)
	for _, v := range []uint16{head, ph, uint16(len(x.segments)), sh, uint16(len(x.sections)), uint16(len(x.sections) - 1)} {
		b.u16(v)
	}
	for i := range x.segments {
		s := &x.segments[i]
		b.u32(s.Type)
		if f.Is64 {
			b.u32(s.Flags)
		}
		for _, v := range []uint64{s.Offset, s.Vaddr, s.Vaddr, 0, s.Memsz} { // no content: file size 0
			b.word(v)
		}
		if !f.Is64 {
			b.u32(s.Flags)
		}
		b.word(s.Align)
	}
	if _, err := w.Write(b.b); err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for i := range x.sections {
		s := &x.sections[i]
		if s.src == nil && s.content == nil {
			continue
		}
		if err := pad(w, int64(s.Offset)); err != nil {
			return err
		}
		if s.content != nil {
			if _, err := w.Write(s.content); err != nil {
				return err
			}
			continue
		}
		r := io.NewSectionReader(s.src, int64(s.from), int64(s.Size))
		if n, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, buf); err != nil {
			return fmt.Errorf("copying section %s: %w", s.Name, err)
		} else if n != int64(s.Size) {
			return fmt.Errorf("copying section %s: %w", s.Name, io.ErrUnexpectedEOF)
		}
	}
	if err := pad(w, x.headersAt); err != nil {
		return err
	}
	b.b = b.b[:0]
	for i := range x.sections {
		s := &x.sections[i]
		b.u32(s.name)
		b.u32(s.Type)
		for _, v := range []uint64{s.Flags, s.Addr, s.Offset, s.Size} {
			b.word(v)
		}
		b.u32(s.Link)
		b.u32(s.Info)
		b.word(s.Align)
		b.word(s.Entsize)
	}
	_, err := w.Write(b.b)
	return err
}

func pad(w *countingWriter, to int64) error {
	if w.n > to {
		panic("BUG: an extracted section begins before the one before it ends")
	}
	_, err := w.Write(make([]byte, to-w.n))
	return err
}

type headerWriter struct {
	b     []byte
	order binary.ByteOrder
	is64  bool
}

func (h *headerWriter) u16(v uint16) {
	h.b = append(h.b, 0, 0)
	h.order.PutUint16(h.b[len(h.b)-2:], v)
}

func (h *headerWriter) u32(v uint32) {
	h.b = append(h.b, 0, 0, 0, 0)
	h.order.PutUint32(h.b[len(h.b)-4:], v)
}

func (h *headerWriter) word(v uint64) {
	if !h.is64 {
		h.u32(uint32(v))
		return
	}
	h.b = append(h.b, 0, 0, 0, 0, 0, 0, 0, 0)
	h.order.PutUint64(h.b[len(h.b)-8:], v)
}
