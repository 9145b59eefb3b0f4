package unwind

import "bytes"

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
