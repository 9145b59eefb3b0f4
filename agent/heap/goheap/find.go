package goheap

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/perfuse/perfuse/symbolize/elf"
	"github.com/perfuse/perfuse/symbolize/gosym"
)

// Layout says where an executable keeps its memory profile. It depends on the file only, so it can be kept by build id
// and shared.
type Layout struct {
	// Version is the toolchain's, as in "go1.26.1"; empty if the file does not tell.
	Version string
	// Removed says that the linker has switched profiling off. The program itself may have set a rate nevertheless.
	Removed bool

	buckets, cycle, rate uint64 // addresses of runtime.mbuckets, mProfCycle and MemProfileRate
	scheduler            *scheduler
	table                table
	code                 []segment
}

// segment is executable code.
type segment struct{ addr, off, size uint64 }

// Machines, as ELF numbers them.
const (
	machineAMD64 = 62
	machineARM64 = 183
)

// maxCode bounds what is read of a function. schedinit has some 5 KiB.
const maxCode = 64 << 10

// maxLoaded bounds the sections of a file that may be read, all together: a sparse file claims as much as it likes, and reading makes memory
// of it. CockroachDB has some 300 MB of them.
const maxLoaded = 1 << 30

// findTimeout bounds how long a file is looked through, whatever it claims to have. Kubernetes' largest take some 0.2 s.
const findTimeout = 10 * time.Second

// Find learns the layout of an executable or a shared library (-buildmode=c-shared, c-archive in a C program) from its
// symbols and, if it has none, from its pclntab and the machine code of the runtime, which are in every Go program.
// The errors are [ErrNotGo] and [ErrLayout]. Whoever maps the file calls it under [elf.Guard].
//
// A file without section headers is not found to be Go.
func Find(f *elf.File) (*Layout, error) { return find(f, time.Now) }

func find(f *elf.File, now func() time.Time) (*Layout, error) {
	if !f.Is64 || f.Order != binary.LittleEndian || f.Machine != machineAMD64 && f.Machine != machineARM64 {
		return nil, fmt.Errorf("%w for 64-bit x86 or ARM", ErrNotGo)
	}
	if n := loaded(f); n > maxLoaded {
		if f.Section(".gopclntab") == nil && f.Section(".go.buildinfo") == nil {
			return nil, ErrNotGo
		}
		return nil, fmt.Errorf("%w: it has %d bytes of sections, more than %d", ErrLayout, n, maxLoaded)
	}
	pclntab, err := gosym.Find(f)
	if errors.Is(err, gosym.ErrNotGo) {
		return nil, ErrNotGo
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLayout, err)
	}
	l := &Layout{Version: toolchain(f)}
	for i := range f.Segments {
		if s := &f.Segments[i]; s.Type == elf.SegmentLoad && s.Flags&elf.FlagExec != 0 {
			l.code = append(l.code, segment{s.Vaddr, s.Offset, s.Filesz})
		}
	}
	file := newFileSpace(f, now)
	if l.table, err = newTable(file, pclntab); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLayout, err)
	}

	const (
		flush     = "runtime.mProf_Flush"
		locked    = "runtime.mProf_FlushLocked"
		record    = "runtime.(*bucket).mp"
		schedinit = "runtime.schedinit"
		allgadd   = "runtime.allgadd"
		mcall     = "runtime.mcall"
	)
	code := map[string][]byte{flush: nil, locked: nil, record: nil, schedinit: nil, allgadd: nil, mcall: nil}
	l.Removed = true
	addr := map[string]uint64{}
	err = l.table.each(file, func(name []byte, start, end uint64) {
		switch string(name) {
		case "runtime.MemProfile", "runtime.memProfileInternal":
			// Up to Go 1.22 and since: the linker asks whether it is reachable.
			l.Removed = false
		}
		// Assembly's way into a function is another of the same name, and shorter.
		if old, wanted := code[string(name)]; wanted && end-start <= maxCode && end-start > uint64(len(old)) {
			addr[string(name)] = start
			code[string(name)], _ = f.ReadAddr(start, end-start)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("%w: listing its functions: %w", ErrLayout, err)
	}
	m := machine{arm64: f.Machine == machineARM64}
	if !m.knownRecord(code[record], code[locked]) {
		return nil, fmt.Errorf("%w: %s of %s is unlike them", ErrLayout, record, orUnknown(l.Version))
	}
	l.scheduler = findScheduler(m, l.Version, code[allgadd], addr[allgadd], code[mcall])
	switch found, err := l.fromSymbols(file); {
	case err != nil:
		return nil, fmt.Errorf("%w: reading its symbols: %w", ErrLayout, err)
	case found:
		return l, nil
	}
	var ok [3]bool
	l.buckets, ok[0] = m.firstLoad(code[locked], addr[locked], 8)
	l.cycle, ok[1] = m.firstLoad(code[flush], addr[flush], 4)
	l.rate, ok[2] = m.zeroedIf(code[schedinit], addr[schedinit])
	for i, name := range []string{locked, flush, schedinit} {
		if !ok[i] {
			return nil, fmt.Errorf("%w: %s of %s is unlike them", ErrLayout, name, orUnknown(l.Version))
		}
	}
	return l, nil
}

// loaded is how many bytes of a file's sections looking for Go's tables and symbols may take.
func loaded(f *elf.File) (n uint64) {
	for i := range f.Sections {
		s := &f.Sections[i]
		table := s.Type == elf.SectionSymtab || s.Type == elf.SectionStrtab || s.Type == elf.SectionRela
		if table && s.Compressed() {
			return math.MaxUint64 // nobody compresses these, and unpacking them takes more than they say
		}
		if table || s.Flags&elf.SectionAlloc != 0 && s.Type != elf.SectionNobits && s.Type != elf.SectionNull {
			n += min(s.Size, 2*maxLoaded)
		}
	}
	return n
}

func orUnknown(version string) string {
	if version == "" {
		return "an unknown version"
	}
	return version
}

// fromSymbols looks for the variables in the symbol table.
func (l *Layout) fromSymbols(file *fileSpace) (found bool, err error) {
	var buckets, cycle, rate uint64
	for i := range file.f.Sections {
		if s := &file.f.Sections[i]; s.Type == elf.SectionSymtab {
			if err := file.inTime(); err != nil {
				return false, err
			}
			_ = file.f.Symbols(s, func(i int, sym elf.Symbol) bool {
				if i%1024 == 0 && file.inTime() != nil {
					return false
				}
				if sym.Section != 0 {
					switch sym.Name {
					case "runtime.mbuckets":
						buckets = sym.Addr
					case "runtime.mProfCycle":
						cycle = sym.Addr
					case "runtime.MemProfileRate":
						rate = sym.Addr
					}
				}
				return buckets == 0 || cycle == 0 || rate == 0
			})
		}
	}
	if buckets == 0 || cycle == 0 || rate == 0 {
		return false, file.inTime()
	}
	l.buckets, l.cycle, l.rate = buckets, cycle, rate
	return true, nil
}

// Bias returns what is added to the file's addresses in a process that has mapped the file from offset at start. It
// is false if that mapping has none of its code.
func (l *Layout) Bias(start, offset uint64) (uint64, bool) {
	for _, s := range l.code {
		const page = 4096
		if offset >= s.off&^(page-1) && offset < s.off+s.size {
			return start - (s.addr - s.off + offset), true
		}
	}
	return 0, false
}

// toolchain reads the toolchain's version:
//
//	0 "\xff Go buildinf:"   15 flags, 2: what follows is here   32 length as a varint, the version
func toolchain(f *elf.File) string {
	s := f.Section(".go.buildinfo")
	if s == nil {
		return ""
	}
	b, err := f.Raw(s)
	if err != nil || len(b) < 33 || !bytes.HasPrefix(b, []byte("\xff Go buildinf:")) || b[15]&2 == 0 {
		return ""
	}
	n, used := binary.Uvarint(b[32:])
	if b = b[32:]; used <= 0 || n > 256 || uint64(len(b)-used) < n {
		return ""
	}
	return string(b[used:][:n])
}

// fileSpace is a file's address space. What was asked for last is at hand with all that follows it in its section.
type fileSpace struct {
	f        *elf.File
	sections []*elf.Section // those that are loaded, by address
	addr     uint64
	b        []byte
	now      func() time.Time
	until    time.Time
	looks    int
}

func newFileSpace(f *elf.File, now func() time.Time) *fileSpace {
	s := &fileSpace{f: f, now: now, until: now().Add(findTimeout)}
	for i := range f.Sections {
		c := &f.Sections[i]
		if c.Flags&elf.SectionAlloc != 0 && c.Type != elf.SectionNobits && c.Type != elf.SectionNull && c.Size > 0 && !c.Compressed() {
			s.sections = append(s.sections, c)
		}
	}
	slices.SortStableFunc(s.sections, func(a, b *elf.Section) int { return cmp.Compare(a.Addr, b.Addr) })
	return s
}

// inTime says whether there is time left.
func (s *fileSpace) inTime() error {
	if s.now().After(s.until) {
		return fmt.Errorf("%w, %v", errTime, findTimeout)
	}
	return nil
}

func (s *fileSpace) at(addr uint64, n int) ([]byte, error) {
	if s.looks++; s.looks%1024 == 0 {
		if err := s.inTime(); err != nil {
			return nil, err
		}
	}
	if d := addr - s.addr; addr >= s.addr && d <= uint64(len(s.b)) && uint64(n) <= uint64(len(s.b))-d {
		return s.b[d:][:n], nil
	}
	if err := s.inTime(); err != nil { // this may take long
		return nil, err
	}
	i, _ := slices.BinarySearchFunc(s.sections, addr, func(c *elf.Section, addr uint64) int {
		if c.Addr <= addr {
			return -1
		}
		return 1
	})
	if i > 0 {
		if c := s.sections[i-1]; addr-c.Addr < c.Size {
			b, err := s.f.Raw(c)
			if err != nil {
				return nil, err
			}
			if d := addr - c.Addr; d <= uint64(len(b)) && uint64(n) <= uint64(len(b))-d {
				s.addr, s.b = c.Addr, b
				return b[d:][:n], nil
			}
		}
	}
	return s.f.ReadAddr(addr, uint64(n))
}
