package unwind

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
