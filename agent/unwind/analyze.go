package unwind

import (
	"debug/elf"
	"slices"

	"github.com/perfuse/perfuse/profile"
)

const (
	// maxAnalyzed is how much code of a file is analyzed: about 0.1 s. musl has 0.4 MB, busybox 1.5.
	maxAnalyzed = 2 << 20
	// minAnalyzed is the smallest gap that may be more than padding.
	minAnalyzed = 32
	// manyAnalyzed is from how much code on it is worth to read symbols and relocations first.
	manyAnalyzed = 4 << 10
)

// analyze makes rows for code that has no unwind information, by following what its instructions do to
// the stack pointer. musl is built without, as is busybox, much assembly, and what C compilers' own
// start-up files hold (__do_global_dtors_aux, under which destructors run).
//
// A function begins at a symbol, at the target of a call, where a relocation or code points, or, if nothing else
// reaches the code, behind another function's end. All paths are followed from there. What was found
// counts only if it is consistent: every return finds the stack as it was at entry, every tail call too,
// and where paths meet they agree. All else stays a gap.
func analyze(im *image, t *Table) {
	if im.machine != elf.EM_X86_64 {
		return
	}
	worth := func(from, to uint64) bool {
		return to-from >= minAnalyzed && to-from <= maxAnalyzed &&
			(t.Go == nil || from < uint64(t.Go.Text.Start) || to > uint64(t.Go.Text.End))
	}
	var found []Row
	ids := map[Rule]uint16{}
	for i, r := range t.Rules {
		ids[r] = uint16(i)
	}
	id := func(r Rule) uint16 {
		n, ok := ids[r]
		if !ok {
			if len(t.Rules) > 0xffff {
				return 0
			}
			n = uint16(len(t.Rules))
			t.Rules = append(t.Rules, r)
			ids[r] = n
		}
		return n
	}
	budget := uint64(maxAnalyzed)
	var known starts
	for _, s := range im.codeSections() {
		var gaps [][2]uint64
		total := uint64(0)
		eachGap(t, s.addr, s.addr+s.len, func(from, to uint64) {
			if worth(from, to) {
				gaps = append(gaps, [2]uint64{from, to})
				total += to - from
			}
		})
		if known == nil {
			known = starts{im.entry}
			if total >= manyAnalyzed {
				known = newStarts(im)
			}
		}
		// Where much is missing, all code of the section tells how its parts call each other.
		if total*8 >= s.len && s.len <= budget {
			budget -= s.len
			a := newAnalysis(im, s.addr, s.addr+s.len, known)
			for _, g := range gaps {
				found = a.rows(found, g[0], g[1], id)
			}
			continue
		}
		for _, g := range gaps {
			if n := g[1] - g[0]; n <= budget {
				budget -= n
				found = newAnalysis(im, g[0], g[1], known).rows(found, g[0], g[1], id)
			}
		}
	}
	if len(found) == 0 {
		return
	}
	for i, r := range found[:len(found)-1] {
		if r.Rule != 0 {
			t.Stats.Analyzed += int(found[i+1].Addr - r.Addr)
		}
	}
	t.merge(found)
}

// codeSections returns the sections that hold ordinary code.
func (im *image) codeSections() (out []section) {
	for _, s := range im.sections {
		if s.flags&elf.SHF_EXECINSTR != 0 && s.typ == elf.SHT_PROGBITS && len(s.name) >= 5 && s.name[:5] == ".text" && im.executable(s.addr, s.addr+s.len) {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b section) int {
		if a.addr < b.addr {
			return -1
		}
		return 1
	})
	for i := 1; i < len(out); i++ {
		if out[i].addr < out[i-1].addr+out[i-1].len {
			return nil
		}
	}
	return out
}

// eachGap calls f with the ranges within [from, to) that have no information.
func eachGap(t *Table, from, to uint64, f func(from, to uint64)) {
	i, _ := slices.BinarySearchFunc(t.Rows, from, func(r Row, a uint64) int {
		if uint64(r.Addr) <= a {
			return -1
		}
		return 1
	})
	at, empty := from, i == 0 || t.Rows[i-1].Rule == 0
	for ; at < to; i++ {
		next := to
		if i < len(t.Rows) {
			next = min(to, uint64(t.Rows[i].Addr))
		}
		if empty {
			f(at, next)
		}
		if i >= len(t.Rows) {
			return
		}
		at, empty = uint64(t.Rows[i].Addr), t.Rows[i].Rule == 0
	}
}

// merge puts rows, sorted, that lie within gaps, into the table. Each stretch of them ends with NoInfo.
func (t *Table) merge(found []Row) {
	// The old rows move to the end of their own memory; reading them stays ahead of writing.
	n, k := len(t.Rows), len(found)
	all := slices.Grow(t.Rows, k)[:n+k]
	copy(all[k:], all[:n])
	rows, old := all[:0], all[k:]
	put := func(r Row) {
		if n := len(rows); n > 0 && rows[n-1].Addr == r.Addr {
			rows = rows[:n-1]
		}
		if n := len(rows); n > 0 && rows[n-1].Rule == r.Rule || n == 0 && r.Rule == 0 {
			return
		}
		rows = append(rows, r)
	}
	for len(old) > 0 || len(found) > 0 {
		switch {
		case len(found) == 0 || len(old) > 0 && old[0].Addr < found[0].Addr:
			put(old[0])
			old = old[1:]
		case len(old) > 0 && old[0].Addr == found[0].Addr:
			// A stretch begins where a gap does, or ends where one ends.
			if old[0].Rule == 0 {
				put(found[0])
			} else {
				put(old[0])
			}
			old, found = old[1:], found[1:]
		default:
			put(found[0])
			found = found[1:]
		}
	}
	t.Rows = rows
}

// rows appends the rows of the gap between two addresses.
func (a *analysis) rows(out []Row, from, to uint64, id func(Rule) uint16) []Row {
	last := uint16(0)
	put := func(addr uint64, r uint16) {
		addr = max(addr, from)
		if r == last || addr >= to && r != 0 {
			return
		}
		if n := len(out); n > 0 && uint64(out[n-1].Addr) == addr {
			out = out[:n-1] // what ends there goes on, or has no length
		}
		out = append(out, Row{profile.Addr(min(addr, to)), r})
		last = r
	}
	var was stack
	var wasID uint16
	known, signal := false, uint64(0)
	sigs := a.sigs
	for i := range a.ins {
		addr := a.base + uint64(a.off[i])
		if addr >= to {
			break
		}
		for len(sigs) > 0 && int(sigs[0]) < i {
			sigs = sigs[1:]
		}
		if addr+uint64(a.ins[i].len) <= from || addr < signal {
			continue
		}
		if len(sigs) > 0 && int(sigs[0]) == i {
			// The kernel returns to its first byte, so lookups of the caller fall one byte before it.
			put(addr-1, id(Rule{CFA: CFASignal}))
			signal = addr + 9
			continue
		}
		if !a.seen[i] {
			put(addr, 0)
			continue
		}
		if s := a.at[i]; !known || s != was {
			was, wasID, known = s, id(s.rule()), true
		}
		put(addr, wasID)
	}
	put(to, 0)
	return out
}
