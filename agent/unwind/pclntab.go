package unwind

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Magic numbers of pclntab, the table that Go's linker writes for its own tracebacks.
const (
	magic116 = 0xfffffffa
	magic118 = 0xfffffff0
	magic120 = 0xfffffff1
)

const (
	maxGoFuncs = 8 << 20
	maxPctab   = 256 << 20
)

var errNoPclntab = errors.New("no pclntab")

// pclntab is Go's table of functions:
//
//	magic u32, 0 u16, quantum u8, pointer size u8
//	number of functions, of files, [since 1.18: address of the text], and where parts begin, in words:
//	names, compilation units, files, pctab, functions
//
// The functions begin with pairs (address, where its record is) in order of addresses, closed by the end
// of the last function. Since 1.18 addresses are relative to the text, and 32 bits wide. The text's
// address is 0 in newer files, which keep it in the module data.
type pclntab struct {
	im      *image
	addr    uint64 // of the header
	size    uint64 // upper bound
	version int    // 116, 118, 120
	quantum uint64
	nfunc   uint64
	text    uint64
	names   uint64 // offsets from the header
	pctab   uint64
	funcs   uint64

	tab     []byte // pctab
	records window // functions
	strings window // names
	code    window // machine code
}

// goFunc is a function of pclntab.
type goFunc struct {
	start, end uint64
	nameOff    uint64
	pcsp       uint32
	flag       uint8
}

const (
	goFlagTop     = 1 // stacks end here
	goFlagSPWrite = 2 // sets the stack pointer
	goFlagAsm     = 4 // written in assembly
)

// window reads the file's address space in pieces: what is near the last is there already.
type window struct {
	im   *image
	addr uint64
	buf  []byte
	mem  []byte
}

// at returns n bytes at addr, or fewer at the end of a segment.
func (w *window) at(addr uint64, n int) []byte {
	if d := addr - w.addr; d <= uint64(len(w.buf)) && uint64(n) <= uint64(len(w.buf))-d {
		return w.buf[d : d+uint64(n)]
	}
	if w.mem == nil {
		w.mem = make([]byte, 64<<10)
	}
	w.addr = addr
	w.buf = w.mem[:w.im.readAt(w.mem, addr)]
	return w.buf[:min(n, len(w.buf))]
}

// openPclntab finds the table. Files without Go give errNoPclntab.
func openPclntab(im *image) (*pclntab, error) {
	for _, name := range []string{".gopclntab", ".data.rel.ro.gopclntab"} {
		if s, ok := im.section(name); ok && s.flags&elf.SHF_COMPRESSED == 0 {
			if p, err := newPclntab(im, s.addr, s.len); err == nil {
				return p, nil
			}
		}
	}
	if len(im.sections) > 0 && !im.hasGo() {
		return nil, errNoPclntab
	}
	// Linked by others than Go's linker, or without section headers: look for the magic where it may be.
	for _, name := range []string{".data.rel.ro", ".rodata"} {
		if s, ok := im.section(name); ok {
			if p := searchPclntab(im, s.addr, s.len); p != nil {
				return p, nil
			}
		}
	}
	if len(im.sections) == 0 && im.noteGo() {
		for _, s := range im.segments {
			if p := searchPclntab(im, s.addr, s.size); p != nil {
				return p, nil
			}
		}
	}
	return nil, errNoPclntab
}

// hasGo says whether the sections are those of a Go program.
func (im *image) hasGo() bool {
	for _, name := range []string{".go.buildinfo", ".note.go.buildid", ".go.module"} {
		if _, ok := im.section(name); ok {
			return true
		}
	}
	return false
}

// noteGo looks for Go's build id in the first page, where its linker puts it.
func (im *image) noteGo() bool {
	b := make([]byte, 8192)
	n, _ := im.r.ReadAt(b, 0)
	return bytes.Contains(b[:n], []byte("\x04\x00\x00\x00Go\x00\x00"))
}

// searchPclntab looks for a header in a range of addresses.
func searchPclntab(im *image, addr, n uint64) *pclntab {
	w := window{im: im}
	const step = 32 << 10
	for at := addr &^ 7; at < addr+n && at-addr < maxSectionBytes; at += step {
		b := w.at(at, step)
		for i := 0; i+8 <= len(b); i += 8 {
			// ff ff ff and six fixed bytes
			if b[i+1] != 0xff || b[i+2] != 0xff || b[i+3] != 0xff || b[i+4] != 0 || b[i+5] != 0 || b[i+7] != 8 {
				continue
			}
			if p, err := newPclntab(im, at+uint64(i), addr+n-at-uint64(i)); err == nil {
				return p
			}
		}
		if len(b) < step {
			break
		}
	}
	return nil
}

// newPclntab reads and checks the header at addr.
func newPclntab(im *image, addr, size uint64) (*pclntab, error) {
	var h [72]byte
	if size < uint64(len(h)) || im.readAt(h[:], addr) < len(h) {
		return nil, errNoPclntab
	}
	le := binary.LittleEndian
	p := &pclntab{im: im, addr: addr, size: size, quantum: uint64(h[6]), nfunc: le.Uint64(h[8:])}
	words := h[24:] // behind the numbers of functions and files
	switch le.Uint32(h[:]) {
	case magic116:
		p.version = 116
	case magic118:
		p.version = 118
	case magic120:
		p.version = 120
	default:
		return nil, errNoPclntab
	}
	if p.version >= 118 {
		p.text = le.Uint64(words)
		words = words[8:]
	}
	if h[4] != 0 || h[5] != 0 || h[7] != 8 || p.quantum != 1 && p.quantum != 4 || p.nfunc == 0 || p.nfunc > maxGoFuncs {
		return nil, errNoPclntab
	}
	p.names, p.pctab, p.funcs = le.Uint64(words), le.Uint64(words[24:]), le.Uint64(words[32:])
	if p.names >= size || p.pctab >= size || p.funcs >= size || p.pctab > p.funcs || (p.nfunc*2+1)*p.word() > size-p.funcs {
		return nil, fmt.Errorf("pclntab at %#x: its parts lie outside of it", addr)
	}
	p.records, p.strings, p.code = window{im: im}, window{im: im}, window{im: im}
	if p.version >= 118 && !p.isText(p.text) {
		text, ok := p.findText()
		if !ok {
			return nil, fmt.Errorf("pclntab at %#x: where its text begins is not known", addr)
		}
		p.text = text
	}
	return p, nil
}

// word is the size of an address in the list of functions.
func (p *pclntab) word() uint64 {
	if p.version == 116 {
		return 8
	}
	return 4
}

func (p *pclntab) uword(b []byte) uint64 {
	if p.version == 116 {
		return binary.LittleEndian.Uint64(b)
	}
	return uint64(binary.LittleEndian.Uint32(b))
}

// bounds returns the offsets at which the first function begins and the last one ends.
func (p *pclntab) bounds() (first, end uint64, ok bool) {
	w := p.word()
	b := p.records.at(p.addr+p.funcs, int(w))
	if len(b) < int(w) {
		return 0, 0, false
	}
	first = p.uword(b)
	if b = p.records.at(p.addr+p.funcs+p.nfunc*2*w, int(w)); len(b) < int(w) {
		return 0, 0, false
	}
	end = p.uword(b)
	return first, end, first < end
}

// isText says whether the functions would lie in executable memory if the text began there.
func (p *pclntab) isText(text uint64) bool {
	first, end, ok := p.bounds()
	return ok && text != 0 && text+end > text && p.im.executable(text+first, text+end)
}

// Offsets in the module data (runtime.moduledata), the same since Go 1.16: a pointer to the header, six
// slices, findfunctab, the address of the first function, the end of the last one, the text.
const (
	moduleMinPC = 8 + 6*24 + 8
	moduleText  = moduleMinPC + 16
)

// findText finds where the text begins: in the module data, which points to the header, else by where the
// program is entered.
func (p *pclntab) findText() (uint64, bool) {
	first, _, ok := p.bounds()
	if !ok {
		return 0, false
	}
	// In position-independent files pointers may stand in relocations only.
	if text, ok := p.textFromRelocations(); ok && p.isText(text) {
		return text, true
	}
	var w window
	w.im = p.im
	search := func(addr, n uint64) (uint64, bool) {
		const step = 32 << 10
		for at := (addr + 7) &^ 7; at < addr+n && at-addr < maxSectionBytes; at += step {
			b := w.at(at, step)
			for i := 0; i+8 <= len(b); i += 8 {
				if binary.LittleEndian.Uint64(b[i:]) != p.addr {
					continue
				}
				var m [moduleText + 8]byte
				if p.im.readAt(m[:], at+uint64(i)) < len(m) {
					continue
				}
				text := binary.LittleEndian.Uint64(m[moduleText:])
				if binary.LittleEndian.Uint64(m[moduleMinPC:]) == text+first && p.isText(text) {
					return text, true
				}
			}
			if len(b) < step {
				break
			}
		}
		return 0, false
	}
	for _, name := range []string{".go.module", ".noptrdata", ".data.rel.ro", ".data"} {
		if s, ok := p.im.section(name); ok {
			if text, ok := search(s.addr, s.len); ok {
				return text, true
			}
		}
	}
	if len(p.im.sections) == 0 {
		for _, s := range p.im.segments {
			if text, ok := search(s.addr, s.size); ok && !s.exec {
				return text, true
			}
		}
	}
	return p.textFromEntry()
}

// textFromRelocations finds the module data by the relocations of its pointers:
//
//	where u64, type u32 (8: base plus addend on x86-64, 1027 on arm64), symbol u32, addend i64
func (p *pclntab) textFromRelocations() (uint64, bool) {
	s, ok := p.im.section(".rela.dyn")
	if !ok || s.flags&elf.SHF_COMPRESSED != 0 || s.len > maxPctab {
		return 0, false
	}
	relative := uint32(elf.R_X86_64_RELATIVE)
	if p.im.machine == elf.EM_AARCH64 {
		relative = uint32(elf.R_AARCH64_RELATIVE)
	}
	le := binary.LittleEndian
	each := func(f func(where, addend uint64) bool) {
		w := window{im: p.im}
		for off := uint64(0); off+24 <= s.len; off += 24 {
			b := w.at(s.addr+off, 24)
			if len(b) < 24 || le.Uint32(b[8:]) == relative && !f(le.Uint64(b), le.Uint64(b[16:])) {
				return
			}
		}
	}
	var modules [8]uint64 // candidates
	n := 0
	each(func(where, addend uint64) bool {
		if addend == p.addr {
			modules[n] = where
			n++
		}
		return n < len(modules)
	})
	var text uint64
	if n > 0 {
		each(func(where, addend uint64) bool {
			for _, m := range modules[:n] {
				if where == m+moduleText && p.isText(addend) {
					text = addend
					return false
				}
			}
			return true
		})
	}
	return text, text != 0
}

// textFromEntry uses that Go's linker enters a program at _rt0_ARCH_linux.
func (p *pclntab) textFromEntry() (text uint64, ok bool) {
	p.each(func(f goFunc) bool {
		name := string(p.name(f.nameOff))
		if strings.HasPrefix(name, "_rt0_") && strings.HasSuffix(name, "_linux") {
			text = p.im.entry - f.start // the text is still 0
			ok = p.isText(text)
			return false
		}
		return true
	})
	return text, ok
}

// name returns a function's name, cut off at 63 bytes. It stands until the next call.
func (p *pclntab) name(off uint64) []byte {
	if off >= p.size-p.names {
		return nil
	}
	b := p.strings.at(p.addr+p.names+off, 63)
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return b
}

// each calls f for every function in order of addresses, until it returns false.
func (p *pclntab) each(f func(goFunc) bool) {
	le := binary.LittleEndian
	w := p.word()
	list := window{im: p.im}
	var last uint64
	for i := range p.nfunc {
		b := list.at(p.addr+p.funcs+i*2*w, int(3*w))
		if len(b) < int(3*w) {
			return
		}
		fn := goFunc{start: p.uword(b), end: p.uword(b[2*w:])}
		at := p.uword(b[w:])
		if fn.start < last || fn.end < fn.start || at >= p.size-p.funcs {
			return // not a table then
		}
		last = fn.start
		fn.start += p.text
		fn.end += p.text
		b = p.records.at(p.addr+p.funcs+at, 44)
		if len(b) < 44 {
			return
		}
		b = b[w:] // its address
		fn.nameOff = uint64(le.Uint32(b))
		fn.pcsp = le.Uint32(b[12:])
		switch p.version {
		case 116, 118:
			fn.flag = b[33]
		default:
			fn.flag = b[37]
		}
		if !f(fn) {
			return
		}
	}
}

// deltas calls f with each range of a function in which the stack pointer is val below its value at entry.
// It returns how many steps it took. A table that is no table ends it early.
func (p *pclntab) deltas(fn *goFunc, f func(from, to uint64, val int32) bool) int {
	if fn.pcsp == 0 || uint64(fn.pcsp) >= uint64(len(p.tab)) {
		return 0
	}
	c := cursor{b: p.tab, pos: int(fn.pcsp)}
	pc, val, steps := fn.start, int32(-1), 0
	for pc < fn.end {
		v := uint32(c.uleb())
		if v == 0 && steps > 0 {
			break
		}
		steps++
		val += int32(-(v & 1) ^ v>>1)
		n := c.uleb() * p.quantum
		if c.bad || n == 0 || n > 1<<32 {
			break
		}
		to := min(pc+n, fn.end)
		if !f(pc, to, val) {
			break
		}
		pc = to
	}
	return steps
}
