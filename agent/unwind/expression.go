package unwind

import "math"

// Operations of DWARF expressions that unwind information is known to use.
const (
	opDeref      = 0x06
	opConst1u    = 0x08
	opConst1s    = 0x09
	opConst2u    = 0x0a
	opConst2s    = 0x0b
	opConst4u    = 0x0c
	opConst4s    = 0x0d
	opConst8u    = 0x0e
	opConst8s    = 0x0f
	opConstu     = 0x10
	opConsts     = 0x11
	opAnd        = 0x1a
	opMinus      = 0x1c
	opPlus       = 0x22
	opPlusUconst = 0x23
	opShl        = 0x24
	opGe         = 0x2a
	opLit0       = 0x30
	opLit3       = 0x33
	opLit15      = 0x3f
	opLit31      = 0x4f
	opBreg0      = 0x70
	opBreg31     = 0x8f
	opBregx      = 0x92
	opNop        = 0x96
)

const (
	dwarfRBP = 6
	dwarfRSP = 7
	dwarfR12 = 12
	dwarfRIP = 16
	dwarfX29 = 29
	dwarfX30 = 30
)

// value is what an expression computes, as far as it can be said without a running process: a constant,
// a register plus a constant, or the word at such an address plus a constant.
type value struct {
	kind  valueKind
	reg   uint8
	off   int64 // added to the register
	extra int64 // the constant; added to the word
}

type valueKind uint8

const (
	valueConst valueKind = iota
	valueRegister
	valueDeref
)

func (v value) plus(n int64) value {
	if v.kind == valueRegister {
		v.off += n
	} else {
		v.extra += n
	}
	return v
}

// evaluate runs an expression symbolically. It knows the shapes that one register, one memory access and
// sums make; ok is false for all others.
func evaluate(b []byte) (v value, ok bool) {
	var stack [4]value
	n := 0
	c := cursor{b: b}
	for c.pos < len(c.b) {
		var push value
		switch op := c.u8(); {
		case op >= opLit0 && op <= opLit31:
			push.extra = int64(op - opLit0)
		case op >= opBreg0 && op <= opBreg31:
			push = value{kind: valueRegister, reg: op - opBreg0, off: c.sleb()}
		case op == opBregx:
			r := c.uleb()
			if r >= 32 {
				return value{}, false
			}
			push = value{kind: valueRegister, reg: uint8(r), off: c.sleb()}
		case op == opConst1u:
			push.extra = int64(c.u8())
		case op == opConst1s:
			push.extra = int64(int8(c.u8()))
		case op == opConst2u:
			push.extra = int64(c.u16())
		case op == opConst2s:
			push.extra = int64(int16(c.u16()))
		case op == opConst4u:
			push.extra = int64(c.u32())
		case op == opConst4s:
			push.extra = int64(int32(c.u32()))
		case op == opConst8u, op == opConst8s:
			push.extra = int64(c.u64())
		case op == opConstu:
			push.extra = int64(c.uleb())
		case op == opConsts:
			push.extra = c.sleb()
		case op == opNop:
			continue
		case op == opPlusUconst:
			if n < 1 {
				return value{}, false
			}
			stack[n-1] = stack[n-1].plus(int64(c.uleb()))
			continue
		case op == opDeref:
			if n < 1 || stack[n-1].kind != valueRegister {
				return value{}, false
			}
			stack[n-1].kind = valueDeref
			continue
		case op == opPlus:
			if n < 2 {
				return value{}, false
			}
			x, y := stack[n-2], stack[n-1]
			if y.kind != valueConst {
				x, y = y, x
			}
			if y.kind != valueConst {
				return value{}, false
			}
			n--
			stack[n-1] = x.plus(y.extra)
			continue
		case op == opMinus:
			if n < 2 || stack[n-1].kind != valueConst {
				return value{}, false
			}
			n--
			stack[n-1] = stack[n-1].plus(-stack[n].extra)
			continue
		default:
			return value{}, false
		}
		if n == len(stack) {
			return value{}, false
		}
		stack[n] = push
		n++
	}
	if c.bad || n < 1 {
		return value{}, false
	}
	return stack[n-1], true
}

// pltExtra recognises the CFA of x86-64's procedure linkage tables,
//
//	rsp + 8 + ((rip & 15) >= N) << 3
//
// with N 11 (an entry is jmp, push, jmp: the push ends there) or 10 (with endbr64 or a bnd prefix).
func pltExtra(b []byte) (int32, bool) {
	if len(b) != 11 || b[0] != opBreg0+dwarfRSP || b[1] != 8 || b[2] != opBreg0+dwarfRIP || b[3] != 0 ||
		b[4] != opLit15 || b[5] != opAnd || b[6] < opLit0 || b[6] > opLit15 ||
		b[7] != opGe || b[8] != opLit3 || b[9] != opShl || b[10] != opPlus {
		return 0, false
	}
	return int32(b[6] - opLit0), true
}

func fits32(v int64) bool { return v >= math.MinInt32 && v <= math.MaxInt32 }
func fits16(v int64) bool { return v >= math.MinInt16 && v <= math.MaxInt16 }
