package unwind

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
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
	if len(found) > 0 {
		t.merge(found)
	}
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

// analysis is that of a range of code.
type analysis struct {
	base  uint64
	code  []byte
	entry uint64
	ins   []instruction
	off   []uint32 // of ins
	index []int32  // by offset: the instruction there + 1
	start []bool   // by instruction: a function begins
	seen  []bool
	at    []stack // by instruction: before it
	trail []int32 // what this attempt has seen
	todo  []int32
	weak  []int32 // calls that may not return
	via   []int32 // by instruction: the last call before it that has to return for it to be reached so, or -1
	never []bool  // by instruction: a call that does not return
	steps int
	retry int32   // a call that does not return, as the last attempt has shown, or -1
	clash bool    // the last attempt failed because it met a known depth,
	hint  stack   // which it would have met had it begun with this
	sigs  []int32 // signal trampolines
}

// stack is what is known at an instruction.
type stack struct {
	depth   int32 // CFA - rsp
	rbp     int32 // CFA - rbp, if rbpOK
	saved   int32 // CFA - where the caller's rbp is, if fp is SaveOffset
	fp      Save
	lost    bool // depth is not known
	rbpOK   bool
	outmost bool // nothing called this
}

func newAnalysis(im *image, from, to uint64, known starts) *analysis {
	a := &analysis{base: from, code: make([]byte, to-from), entry: im.entry}
	a.code = a.code[:im.readAt(a.code, from)]
	a.decode()
	a.begin(known)
	a.run()
	return a
}

func (a *analysis) decode() {
	a.index = make([]int32, len(a.code)+1)
	for pos := 0; pos < len(a.code); {
		in := decodeX86(a.code[pos:])
		a.ins = append(a.ins, in)
		a.off = append(a.off, uint32(pos))
		a.index[pos] = int32(len(a.ins))
		pos += int(in.len)
	}
	a.start = make([]bool, len(a.ins))
	a.seen = make([]bool, len(a.ins))
	a.at = make([]stack, len(a.ins))
	a.via = make([]int32, len(a.ins))
	a.never = make([]bool, len(a.ins))
}

// target returns the instruction that i goes to, or -1 if that is elsewhere.
func (a *analysis) target(i int32) int32 {
	to := int64(a.off[i]) + int64(a.ins[i].len) + int64(a.ins[i].imm)
	if to < 0 || to >= int64(len(a.code)) {
		return -1
	}
	return a.index[to] - 1
}

// begin marks where functions begin for certain.
func (a *analysis) begin(known starts) {
	if len(a.ins) == 0 {
		return
	}
	for _, addr := range known.within(a.base, a.base+uint64(len(a.code))) {
		if i := a.index[addr-a.base] - 1; i >= 0 {
			a.start[i] = true
		}
	}
	for i := range a.ins {
		if d := a.ins[i].does; d == effectCall && a.ins[i].imm != 0 || d == effectAddress {
			if to := a.target(int32(i)); to >= 0 {
				a.start[to] = true
			}
		}
	}
	restorer := []byte{0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05} // mov $15,%rax; syscall: rt_sigreturn
	for i := range a.ins {
		if bytes.HasPrefix(a.code[a.off[i]:], restorer) {
			a.sigs = append(a.sigs, int32(i))
		}
	}
}

// run follows all code of the gap.
func (a *analysis) run() {
	limit := 20*len(a.ins) + 1000
	for i := int32(0); i < int32(len(a.ins)) && a.steps < limit; i++ {
		if a.start[i] && !a.seen[i] {
			a.try(i, a.fresh(i), true)
		}
	}
	var cases stack // at the last jump that may be a switch's
	var hasCases bool
	for i := int32(0); i < int32(len(a.ins)) && a.steps < limit; i++ {
		if a.start[i] {
			hasCases = false
		}
		if a.seen[i] && a.ins[i].does == effectJumpAway {
			cases, hasCases = a.at[i], true
		}
		if a.seen[i] || a.ins[i].does == effectPadding || a.start[i] {
			continue
		}
		// Nothing leads here: a function that nobody calls directly, or a case of a switch, which has the
		// stack of the jump before it, or what an unknown call returns to.
		before := i - 1
		for before >= 0 && a.ins[before].does == effectPadding {
			before--
		}
		ok := hasCases && a.try(i, cases, false) || a.try(i, a.fresh(i), false)
		if !ok && a.clash && a.hint.depth >= 8 && a.hint.depth&7 == 0 {
			// What it runs into tells what it began with.
			if hasCases && cases.depth == a.hint.depth {
				a.hint = cases
			}
			ok = a.try(i, a.hint, false)
		}
		if !ok && before >= 0 && a.seen[before] {
			ok = a.try(i, a.at[before], false)
		}
		if aligned := (a.base+uint64(a.off[i]))&15 == 0; !ok && aligned && (before < i-1 || i == 0) {
			ok = a.try(i, a.fresh(i), true)
		}
		if !ok { // on to where this ends
			for i+1 < int32(len(a.ins)) && !a.start[i+1] && !a.seen[i+1] && !endsPath(a.ins[i].does) && a.ins[i+1].does != effectPadding {
				i++
			}
		}
	}
}

func endsPath(e effect) bool {
	return e == effectRet || e == effectJump || e == effectJumpAway || e == effectStop || e == effectBad
}

// fresh is the stack at a function's entry.
func (a *analysis) fresh(i int32) stack {
	return stack{depth: 8, outmost: a.base+uint64(a.off[i]) == a.entry}
}

// try follows all paths from an instruction on and keeps what it learned if that is consistent. Unless a
// function begins there for certain, something has to show that the guess about the stack is right: a
// return, a tail call, or code that is known already.
//
// Which calls do not return is not known. Their paths are followed last, and given up where they contradict
// others.
func (a *analysis) try(i int32, s stack, certain bool) bool {
	for range 32 {
		if a.follow(i, s, certain) {
			return true
		}
		for _, k := range a.trail {
			a.seen[k] = false
		}
		if a.retry < 0 {
			return false
		}
		a.never[a.retry] = true
	}
	return false
}

func (a *analysis) follow(i int32, s stack, certain bool) bool {
	a.trail, a.todo, a.weak, a.clash, a.retry = a.trail[:0], a.todo[:0], a.weak[:0], false, -1
	begun := s
	ends, evidence := 0, certain
	reach := func(to int32, s stack, jump bool, via int32) bool {
		if a.start[to] && to != i {
			// Another function: a tail call, which must leave the stack as it was. Running into it is what
			// code behind a call that does not return does.
			ends++
			evidence = evidence || jump
			return !jump || s.lost || s.outmost || s.depth == 8
		}
		if a.seen[to] {
			o := &a.at[to]
			if o.lost || s.lost || o.outmost || s.outmost {
				ends++
				return true
			}
			if o.depth != s.depth {
				// A call with arguments on the stack that does not return leaves them there: the deeper path
				// is the one that does not exist.
				if a.retry = via; o.depth > s.depth {
					a.retry = a.via[to]
				}
				a.clash, a.hint = true, *o
				a.hint.depth += begun.depth - s.depth
				return false
			}
			evidence = true
			ends++
			if o.rbpOK != s.rbpOK || o.rbp != s.rbp {
				o.rbpOK = false
			}
			if o.fp != s.fp || o.saved != s.saved {
				o.fp = SaveUndefined
			}
			return true
		}
		a.seen[to], a.at[to], a.via[to] = true, s, via
		a.trail = append(a.trail, to)
		a.todo = append(a.todo, to)
		return true
	}
	ok := reach(i, s, false, -1)
	for ok && len(a.todo)+len(a.weak) > 0 {
		var k int32
		called := len(a.todo) == 0
		if called {
			k = a.weak[len(a.weak)-1]
			a.weak = a.weak[:len(a.weak)-1]
		} else {
			k = a.todo[len(a.todo)-1]
			a.todo = a.todo[:len(a.todo)-1]
		}
		a.steps++
		s, in := a.at[k], a.ins[k]
		if in.does == effectCall && !called {
			if a.never[k] {
				ends++
			} else {
				a.weak = append(a.weak, k)
			}
			continue
		}
		next := true
		switch in.does {
		case effectBad:
			ok = false
			continue
		case effectRet:
			ends++
			evidence = true
			if ok = s.lost || s.outmost || s.depth == 8; !ok {
				a.clash, a.hint = true, stack{depth: begun.depth + 8 - s.depth, fp: SaveUndefined}
			}
			next = false
		case effectJumpAway, effectStop:
			ends++
			next = false
		case effectJump, effectBranch:
			next = in.does == effectBranch
			if to := a.target(k); to >= 0 {
				ok = reach(to, s, true, a.via[k])
			} else {
				ends++
				// Out of the gap: a tail call, or a part of the function that lies elsewhere. Into the middle of
				// an instruction: no code.
				d := int64(a.off[k]) + int64(in.len) + int64(in.imm)
				ok = d < 0 || d >= int64(len(a.code))
			}
		default:
			s.step(in)
		}
		if in.does == effectCall && a.padded(k+1) {
			// Perhaps it does not return, and another function follows. If it does, what follows is tried on
			// its own.
			ends++
			next = false
		}
		if ok && next {
			if k+1 < int32(len(a.ins)) {
				via := a.via[k]
				if in.does == effectCall {
					via = k
				}
				ok = reach(k+1, s, false, via)
			} else {
				ends++
			}
		}
	}
	return ok && ends > 0 && evidence
}

// padded says whether padding up to a multiple of 16 stands at instruction i.
func (a *analysis) padded(i int32) bool {
	j := i
	for j < int32(len(a.ins)) && a.ins[j].does == effectPadding {
		j++
	}
	return j > i && (j == int32(len(a.ins)) || (a.base+uint64(a.off[j]))&15 == 0)
}

// step applies an instruction that does not branch.
func (s *stack) step(in instruction) {
	const far = 1 << 30
	switch in.does {
	case effectPush:
		s.depth += 8
	case effectPop:
		s.depth -= 8
	case effectPushRBP:
		s.depth += 8
		if s.fp == SaveSame && !s.rbpOK {
			s.fp, s.saved = SaveOffset, s.depth
		}
	case effectPopRBP:
		s.restoreRBP(s.depth)
		s.depth -= 8
	case effectAdd:
		s.depth -= in.imm
	case effectSetRBP:
		if s.fp == SaveSame {
			s.fp = SaveUndefined
		}
		s.rbp, s.rbpOK = s.depth-in.imm, !s.lost
	case effectSetRSP:
		s.depth, s.lost = s.rbp-in.imm, !s.rbpOK
	case effectLeave:
		s.depth, s.lost = s.rbp, !s.rbpOK
		s.restoreRBP(s.depth)
		s.depth -= 8
	case effectStoreRBP:
		if s.fp == SaveSame && !s.rbpOK && !s.lost {
			s.fp, s.saved = SaveOffset, s.depth-in.imm
		}
	case effectLoadRBP:
		s.restoreRBP(s.depth - in.imm)
	case effectLoseRSP:
		s.lost = true
	case effectLoseRBP:
		s.rbpOK = false
		if s.fp == SaveSame {
			s.fp = SaveUndefined
		}
	}
	if s.depth > far || s.depth < -far || s.rbp > far || s.rbp < -far {
		s.lost, s.rbpOK = true, false
		s.depth, s.rbp = 0, 0
	}
}

// restoreRBP loads rbp from CFA-at.
func (s *stack) restoreRBP(at int32) {
	s.rbpOK = false
	if s.fp == SaveOffset && !s.lost && at == s.saved {
		s.fp, s.saved = SaveSame, 0
	} else if s.fp == SaveSame {
		s.fp = SaveUndefined
	}
}

// rule is what the stack means for unwinding.
func (s *stack) rule() Rule {
	r := Rule{CFA: CFARegister, RA: SaveOffset, RAOff: -8}
	switch {
	case s.outmost, !s.lost && s.depth < 8:
		// Above its own return address: the start of a thread.
		return Rule{CFA: CFAEnd}
	case s.rbpOK && s.rbp == 16 && s.fp == SaveOffset && s.saved == 16:
		// A frame pointer holds even where the stack pointer was misjudged.
		r.Reg, r.Offset = dwarfRBP, 16
	case !s.lost:
		r.Reg, r.Offset = dwarfRSP, s.depth
	case s.rbpOK:
		r.Reg, r.Offset = dwarfRBP, s.rbp
	default:
		return Rule{CFA: CFAUnsupported}
	}
	r.FP = s.fp
	if r.FP == SaveOffset {
		if !fits16(-int64(s.saved)) {
			r.FP = SaveUndefined
		} else {
			r.FPOff = int16(-s.saved)
		}
	}
	return r
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

// starts are addresses at which functions begin, sorted.
type starts []uint64

func (s starts) within(from, to uint64) []uint64 {
	i, _ := slices.BinarySearch(s, from)
	j, _ := slices.BinarySearch(s, to)
	return s[i:max(i, j)]
}

// newStarts collects them from symbol tables and relocations.
func newStarts(im *image) starts {
	var out starts
	le := binary.LittleEndian
	w := window{im: im}
	if im.entry != 0 {
		out = append(out, im.entry)
	}
	const most = 1 << 20
	if s, ok := im.section(".dynsym"); ok {
		for off := uint64(0); off+24 <= s.len && len(out) < most; off += 24 {
			b := w.at(s.addr+off, 24)
			if len(b) < 24 {
				break
			}
			if elf.ST_TYPE(b[4]) == elf.STT_FUNC && le.Uint64(b[8:]) != 0 {
				out = append(out, le.Uint64(b[8:]))
			}
		}
	}
	if s, ok := im.section(".symtab"); ok && s.flags&elf.SHF_COMPRESSED == 0 {
		if r, n, err := im.open(s); err == nil {
			buf := make([]byte, 24*1024)
			for n >= 24 && len(out) < most {
				k, _ := r.Read(buf[:min(uint64(len(buf)), n-n%24)])
				k -= k % 24
				if k == 0 {
					break
				}
				n -= uint64(k)
				for b := buf[:k]; len(b) > 0; b = b[24:] {
					if elf.ST_TYPE(b[4]) == elf.STT_FUNC && le.Uint64(b[8:]) != 0 {
						out = append(out, le.Uint64(b[8:]))
					}
				}
			}
		}
	}
	if s, ok := im.section(".rela.dyn"); ok {
		for off := uint64(0); off+24 <= s.len && len(out) < most; off += 24 {
			b := w.at(s.addr+off, 24)
			if len(b) < 24 {
				break
			}
			if a := le.Uint64(b[16:]); le.Uint32(b[8:]) == uint32(elf.R_X86_64_RELATIVE) && im.executable(a, a+1) {
				out = append(out, a)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
