package unwind

import (
	"bytes"
	"debug/elf"
	"slices"

	"github.com/perfuse/perfuse/profile"
)

// entryBytes is how far from a file's entry the code without information is taken for that which the
// kernel entered: longer than any start-up code that is written by hand (glibc's is 0x40).
const entryBytes = 256

// closeGaps gives rules to three kinds of code that compilers and libraries leave out, and in which many
// stacks of real programs would end:
//
//   - the code at which a file is entered. The dynamic linker's start-up code has no information in older
//     glibc, musl and others; constructors run below it.
//   - procedure linkage tables, for which lld and Go's linker write no information. They are recognised by
//     their first instruction.
//   - the system call in glibc's clone and clone3. Its unwind information leaves out the instructions that
//     parent and child both run, 10 bytes, because it cannot be right for both; the parent, which is who
//     spends time there, still has its frame.
func closeGaps(im *image, t *Table) {
	if im.entry != 0 && im.executable(im.entry, im.entry+1) {
		t.fill(profile.Addr(im.entry), entryBytes, Rule{CFA: CFAEnd})
	}
	if im.machine != elf.EM_X86_64 {
		if s, ok := im.section(".plt"); ok && s.len > 32 && im.executable(s.addr, s.addr+s.len) {
			t.fill(profile.Addr(s.addr+32), profile.Addr(s.len-32), Rule{CFA: CFARegister, Reg: 31})
		}
		return
	}
	leaf := Rule{CFA: CFARegister, Reg: dwarfRSP, Offset: 8, RA: SaveOffset, RAOff: -8}
	for _, name := range []string{".plt", ".plt.sec", ".plt.got", ".iplt"} {
		s, ok := im.section(name)
		if !ok || !im.executable(s.addr, s.addr+s.len) {
			continue
		}
		at, n := profile.Addr(s.addr), profile.Addr(s.len)
		if name != ".plt" {
			if pltStub(im, at) != 0 {
				t.fill(at, n, leaf)
			}
			continue
		}
		// The first entry pushes once more, and is entered with one push done: push 8(GOT); jmp *16(GOT).
		if pushed := pltStub(im, at+16); pushed != 0 && n > 16 {
			push := leaf
			push.Offset = 16
			t.fill(at, 6, push)
			push.Offset = 24
			t.fill(at+6, 10, push)
			t.fill(at+16, n-16, Rule{CFA: CFAPLT, Reg: dwarfRSP, Offset: 8, Extra: pushed, RA: SaveOffset, RAOff: -8})
		}
	}
	for i := 1; i+1 < len(t.Rows); i++ {
		start, end := t.Rows[i].Addr, t.Rows[i+1].Addr
		if t.Rows[i].Rule != 0 || end-start != 10 || t.Rules[t.Rows[i+1].Rule].CFA != CFAEnd || t.Rules[t.Rows[i-1].Rule] != leaf {
			continue
		}
		var code [5]byte
		im.readAt(code[:], uint64(start))
		if bytes.Equal(code[:], []byte{0x0f, 0x05, 0x48, 0x85, 0xc0}) { // syscall; test %rax,%rax
			t.Rows = slices.Delete(t.Rows, i, i+1)
		}
	}
}

// pltStub recognises an entry of a procedure linkage table. It returns the offset from which on an entry
// that pushes has done so, or 0.
func pltStub(im *image, at profile.Addr) int32 {
	var b [5]byte
	im.readAt(b[:], uint64(at))
	switch {
	case b[0] == 0xff && b[1] == 0x25: // jmp *N(%rip); push $N; jmp
		return 11
	case b[0] == 0xf3 && b[1] == 0x0f && b[2] == 0x1e && b[3] == 0xfa: // endbr64; push $N; jmp
		return 9
	}
	return 0
}

// fill gives a rule to at most n addresses from addr on, as long as they have none.
func (t *Table) fill(addr profile.Addr, n profile.Addr, r Rule) {
	i, found := slices.BinarySearchFunc(t.Rows, addr, func(r Row, a profile.Addr) int {
		if r.Addr < a {
			return -1
		} else if r.Addr > a {
			return 1
		}
		return 0
	})
	if !found {
		i-- // the row in force; -1: before the first
	}
	if i >= 0 && t.Rows[i].Rule != 0 || addr+n < addr {
		return
	}
	rule := slices.Index(t.Rules, r)
	if rule < 0 {
		if len(t.Rules) > 0xffff {
			return
		}
		rule = len(t.Rules)
		t.Rules = append(t.Rules, r)
	}
	end := addr + n
	var rows []Row
	if i >= 0 && t.Rows[i].Addr < addr {
		rows = append(rows, t.Rows[i])
	}
	if i <= 0 || len(rows) > 0 || t.Rows[i-1].Rule != uint16(rule) { // else it follows what has the same rule
		rows = append(rows, Row{addr, uint16(rule)})
	}
	if i+1 == len(t.Rows) || t.Rows[i+1].Addr > end {
		rows = append(rows, Row{end, 0})
	} else if t.Rows[i+1].Rule == uint16(rule) {
		t.Rows = slices.Delete(t.Rows, i+1, i+2) // it goes on where it began before
	}
	t.Rows = slices.Replace(t.Rows, max(i, 0), i+1, rows...)
}
