package elf

import "github.com/perfuse/perfuse/profile"

// Addr translates an offset in the file to an address, by the loadable segment that holds the offset; of
// several (segments share their border pages), an executable one is preferred. It reports false if no
// segment holds it.
func (f *File) Addr(offset uint64) (profile.Addr, bool) {
	var addr profile.Addr
	found := false
	for i := range f.Segments {
		s := &f.Segments[i]
		if s.Type != SegmentLoad || offset < s.Offset || offset-s.Offset >= s.Filesz {
			continue
		}
		if exec := s.Flags&FlagExec != 0; exec || !found {
			addr, found = profile.Addr(s.Vaddr+(offset-s.Offset)), true
			if exec {
				break
			}
		}
	}
	return addr, found
}

// MappedAddr translates an address of a process: pc lies in a mapping that begins at start and shows the
// file from offset on. The kernel maps whole pages, so code may lie in the page before or after what the
// segment claims; pages are taken as 4 KiB unless the segment says more.
func (f *File) MappedAddr(pc, start, offset uint64) (profile.Addr, bool) {
	off := pc - start + offset
	if a, ok := f.Addr(off); ok {
		return a, true
	}
	for i := range f.Segments {
		s := &f.Segments[i]
		if s.Type != SegmentLoad || s.Flags&FlagExec == 0 {
			continue
		}
		const page = 4096
		lo, hi := s.Offset&^(page-1), (s.Offset+s.Filesz+page-1)&^(page-1)
		if off >= lo && off < hi {
			return profile.Addr(s.Vaddr + (off - s.Offset)), true
		}
	}
	return 0, false
}

// Executable says whether an address lies in an executable segment.
func (f *File) Executable(addr uint64) bool {
	for i := range f.Segments {
		s := &f.Segments[i]
		if s.Type == SegmentLoad && s.Flags&FlagExec != 0 && addr >= s.Vaddr && addr-s.Vaddr < s.Memsz {
			return true
		}
	}
	return false
}

// ReadAddr returns n bytes that the file loads at addr, or an error if it loads nothing there. Allocated
// sections come first: an extracted file has no segments' content, but keeps some sections'.
func (f *File) ReadAddr(addr, n uint64) ([]byte, error) {
	for i := range f.Sections {
		s := &f.Sections[i]
		if s.Flags&SectionAlloc != 0 && s.Type != SectionNobits && s.Type != SectionNull &&
			s.Flags&SectionCompressed == 0 && addr >= s.Addr && addr-s.Addr < s.Size && n <= s.Size-(addr-s.Addr) {
			return f.bytesAt(s.Offset+(addr-s.Addr), n)
		}
	}
	for i := range f.Segments {
		s := &f.Segments[i]
		if s.Type == SegmentLoad && addr >= s.Vaddr && addr-s.Vaddr < s.Filesz && n <= s.Filesz-(addr-s.Vaddr) {
			return f.bytesAt(s.Offset+(addr-s.Vaddr), n)
		}
	}
	return nil, malformed("it loads no %d bytes at address %#x", n, addr)
}
