package unwind

// Call frame instructions, DW_CFA_*.
const (
	cfaAdvanceLoc    = 0x40 // high two bits; the operand is in the low six
	cfaOffset        = 0x80
	cfaRestore       = 0xc0
	cfaNop           = 0x00
	cfaSetLoc        = 0x01
	cfaAdvanceLoc1   = 0x02
	cfaAdvanceLoc2   = 0x03
	cfaAdvanceLoc4   = 0x04
	cfaOffsetExt     = 0x05
	cfaRestoreExt    = 0x06
	cfaUndefined     = 0x07
	cfaSameValue     = 0x08
	cfaRegister      = 0x09
	cfaRemember      = 0x0a
	cfaRestoreState  = 0x0b
	cfaDefCFA        = 0x0c
	cfaDefCFAReg     = 0x0d
	cfaDefCFAOff     = 0x0e
	cfaDefCFAExpr    = 0x0f
	cfaExpression    = 0x10
	cfaOffsetExtSF   = 0x11
	cfaDefCFASF      = 0x12
	cfaDefCFAOffSF   = 0x13
	cfaValOffset     = 0x14
	cfaValOffsetSF   = 0x15
	cfaValExpression = 0x16
	cfaAdvanceLoc8   = 0x1d // MIPS
	cfaNegateRAPC    = 0x2c // arm64: negate_ra_state_with_pc
	cfaNegateRA      = 0x2d // arm64: negate_ra_state; SPARC's window_save elsewhere
	cfaArgsSize      = 0x2e // GNU
	cfaNegOffsetExt  = 0x2f // GNU, obsolete
)

// maxRemembered bounds the stack of remember_state; compilers use two or three levels.
const maxRemembered = 256

// place says where the caller's value of a register is.
type place struct {
	kind placeKind
	off  int64
}

type placeKind uint8

const (
	placeUnspecified placeKind = iota
	placeSame
	placeUndefined
	placeCFA      // in memory at CFA+off
	placeFP       // in memory at the frame pointer+off
	placeRegister // in register off
	placeBeyond   // somewhere that no rule expresses
)

// state is a row of the table that a program describes, reduced to what rules need.
type state struct {
	cfa     CFA
	reg     uint8
	off     int64
	extra   int64
	defined int64 // the offset that was defined last, which outlives expressions (as libgcc has it)
	fp      place
	ra      place
}

// program runs call frame instructions.
type program struct {
	b          *builder
	arm64      bool
	fpReg      uint64
	remembered []state
	seen       state // the state that rule was made from
	rule       Rule
	ok         bool
}

// initialState runs a CIE's instructions.
func (p *program) initialState(ci *cie, ins []byte) state {
	st := state{cfa: CFAUnsupported}
	p.remembered = p.remembered[:0]
	if !p.exec(nil, ci, &st, &cursor{b: ins}, 0, 0, 0, nil) {
		return state{cfa: CFAUnsupported}
	}
	return st
}

// fde runs an FDE's instructions, which stand at offset at of the section, and gives rows to the builder.
func (p *program) fde(f *frames, ci *cie, start, n uint64, ins []byte, at uint64) {
	st := ci.initial
	p.remembered = p.remembered[:0]
	p.exec(f, ci, &st, &cursor{b: ins}, start, n, at, &ci.initial)
}

// exec runs instructions. With f nil they are a CIE's: nothing may move. It says whether it understood
// all of them; what follows one that it did not is CFAUnsupported.
func (p *program) exec(f *frames, ci *cie, st *state, c *cursor, start, n, at uint64, initial *state) bool {
	loc := uint64(0) // relative to start
	good := true
	for c.pos < len(c.b) {
		op := c.b[c.pos]
		c.pos++
		var delta uint64
		switch op & 0xc0 {
		case cfaAdvanceLoc:
			delta = uint64(op&0x3f) * ci.codeAlign
			goto advance
		case cfaOffset:
			p.save(ci, st, uint64(op&0x3f), place{placeCFA, int64(c.uleb()) * ci.dataAlign})
			continue
		case cfaRestore:
			p.restore(ci, st, uint64(op&0x3f), initial)
			continue
		}
		switch op {
		case cfaNop:
			continue
		case cfaSetLoc:
			if f == nil {
				good = false
				break
			}
			to, ok := f.pointer(c, ci.enc, at, ci.addrSize)
			if !ok || to < start+loc {
				good = false
				break
			}
			delta = to - start - loc
			goto advance
		case cfaAdvanceLoc1:
			delta = uint64(c.u8()) * ci.codeAlign
			goto advance
		case cfaAdvanceLoc2:
			delta = uint64(c.u16()) * ci.codeAlign
			goto advance
		case cfaAdvanceLoc4:
			delta = uint64(c.u32()) * ci.codeAlign
			goto advance
		case cfaAdvanceLoc8:
			delta = c.u64()
			goto advance
		case cfaOffsetExt:
			r := c.uleb()
			p.save(ci, st, r, place{placeCFA, int64(c.uleb()) * ci.dataAlign})
		case cfaOffsetExtSF:
			r := c.uleb()
			p.save(ci, st, r, place{placeCFA, c.sleb() * ci.dataAlign})
		case cfaNegOffsetExt:
			r := c.uleb()
			p.save(ci, st, r, place{placeCFA, -int64(c.uleb()) * ci.dataAlign})
		case cfaRestoreExt:
			p.restore(ci, st, c.uleb(), initial)
		case cfaUndefined:
			p.save(ci, st, c.uleb(), place{kind: placeUndefined})
		case cfaSameValue:
			p.save(ci, st, c.uleb(), place{kind: placeSame})
		case cfaRegister:
			r, in := c.uleb(), c.uleb()
			switch {
			case in == r:
				p.save(ci, st, r, place{kind: placeSame})
			case in < 32:
				p.save(ci, st, r, place{placeRegister, int64(in)})
			default:
				p.save(ci, st, r, place{kind: placeBeyond})
			}
		case cfaRemember:
			if len(p.remembered) == maxRemembered {
				good = false
				break
			}
			p.remembered = append(p.remembered, *st)
		case cfaRestoreState:
			k := len(p.remembered)
			if k == 0 {
				good = false
				break
			}
			*st = p.remembered[k-1]
			p.remembered = p.remembered[:k-1]
		case cfaDefCFA:
			r := c.uleb()
			st.setCFA(r, int64(c.uleb()))
		case cfaDefCFASF:
			r := c.uleb()
			st.setCFA(r, c.sleb()*ci.dataAlign)
		case cfaDefCFAReg:
			r := c.uleb()
			st.setCFA(r, st.defined)
		case cfaDefCFAOff, cfaDefCFAOffSF:
			var off int64
			if op == cfaDefCFAOff {
				off = int64(c.uleb())
			} else {
				off = c.sleb() * ci.dataAlign
			}
			st.defined = off
			if st.cfa == CFARegister {
				st.off = off
			}
		case cfaDefCFAExpr:
			st.setCFAExpr(c.take(c.uleb()), p.arm64)
		case cfaExpression:
			r := c.uleb()
			p.save(ci, st, r, p.placeOf(c.take(c.uleb())))
		case cfaValOffset, cfaValOffsetSF:
			r := c.uleb()
			c.uleb() // as long as a signed one
			p.save(ci, st, r, place{kind: placeBeyond})
		case cfaValExpression:
			r := c.uleb()
			c.take(c.uleb())
			p.save(ci, st, r, place{kind: placeBeyond})
		case cfaNegateRA, cfaNegateRAPC:
			good = p.arm64 // how the return address is signed does not matter: it is stripped anyway
		case cfaArgsSize:
			c.uleb() // matters to exceptions only
		default:
			good = false
		}
		if good && !c.bad {
			continue
		}
		good = false
		break

	advance:
		if c.bad || f == nil {
			good = false
			break
		}
		if delta == 0 {
			continue
		}
		if delta >= n-loc {
			p.emit(ci, st, loc)
			return true // the rest is about addresses beyond the function
		}
		p.emit(ci, st, loc)
		loc += delta
	}
	if c.bad || !good {
		st.setUnsupported()
		good = false
	}
	if f != nil {
		p.emit(ci, st, loc)
	}
	return good
}

// save notes where register r is; others than the frame pointer and the return address are not needed.
func (p *program) save(ci *cie, st *state, r uint64, at place) {
	if r == p.fpReg {
		st.fp = at
	} else if r == ci.ra {
		st.ra = at
	}
}

func (p *program) restore(ci *cie, st *state, r uint64, initial *state) {
	if initial == nil {
		return
	}
	if r == p.fpReg {
		st.fp = initial.fp
	} else if r == ci.ra {
		st.ra = initial.ra
	}
}

func (st *state) setCFA(reg uint64, off int64) {
	st.defined = off
	if reg >= 32 {
		st.setUnsupported()
		return
	}
	st.cfa, st.reg, st.off, st.extra = CFARegister, uint8(reg), off, 0
}

func (st *state) setUnsupported() { st.cfa, st.reg, st.off, st.extra = CFAUnsupported, 0, 0, 0 }

func (st *state) setCFAExpr(b []byte, arm64 bool) {
	if n, ok := pltExtra(b); ok && !arm64 {
		st.cfa, st.reg, st.off, st.extra = CFAPLT, dwarfRSP, 8, int64(n)
		return
	}
	switch v, ok := evaluate(b); {
	case ok && v.kind == valueRegister:
		st.cfa, st.reg, st.off, st.extra = CFARegister, v.reg, v.off, 0
	case ok && v.kind == valueDeref:
		st.cfa, st.reg, st.off, st.extra = CFADeref, v.reg, v.off, v.extra
	default:
		st.setUnsupported()
	}
}

// placeOf reads the expression that computes the address at which a register is saved.
func (p *program) placeOf(b []byte) place {
	v, ok := evaluate(b)
	if ok && v.kind == valueRegister && uint64(v.reg) == p.fpReg {
		return place{placeFP, v.off}
	}
	return place{kind: placeBeyond}
}

// emit adds the row that holds from loc on.
func (p *program) emit(ci *cie, st *state, loc uint64) {
	if !p.ok || p.seen != *st {
		p.rule, p.seen, p.ok = p.ruleOf(st), *st, true
	}
	r := p.rule
	if ci.signal {
		r = Rule{CFA: CFASignal}
	}
	p.b.add(uint32(loc), r)
}

// ruleOf makes a rule of a state.
func (p *program) ruleOf(st *state) Rule {
	unsupported := Rule{CFA: CFAUnsupported}
	if st.ra.kind == placeUndefined {
		return Rule{CFA: CFAEnd}
	}
	if st.cfa == CFAUnsupported || !fits32(st.off) || !fits32(st.extra) {
		return unsupported
	}
	r := Rule{CFA: st.cfa, Reg: st.reg, Offset: int32(st.off), Extra: int32(st.extra)}
	switch st.ra.kind {
	case placeCFA:
		if !fits16(st.ra.off) {
			return unsupported
		}
		r.RA, r.RAOff = SaveOffset, int16(st.ra.off)
	case placeRegister:
		r.RA, r.RAOff = SaveRegister, int16(st.ra.off)
	case placeUnspecified, placeSame:
		if !p.arm64 {
			return unsupported // rip is in memory after every call
		}
	default:
		return unsupported
	}
	switch st.fp.kind {
	case placeUnspecified, placeSame:
	case placeCFA, placeFP:
		r.FP, r.FPOff = SaveOffset, int16(st.fp.off)
		if st.fp.kind == placeFP {
			r.FP = SaveAtFP
		}
		if !fits16(st.fp.off) {
			r.FP, r.FPOff = SaveUndefined, 0
		}
	default:
		r.FP = SaveUndefined
	}
	return r
}
