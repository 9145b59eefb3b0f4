package unwind

import (
	"encoding/binary"

	"golang.org/x/arch/x86/x86asm"
)

// effect is what an instruction does to the stack, as far as following it needs.
type effect uint8

const (
	effectNone     effect = iota
	effectPadding         // does nothing: stands between functions, too
	effectPush            // rsp -= 8
	effectPop             // rsp += 8
	effectPushRBP         // rsp -= 8; [rsp] = rbp
	effectPopRBP          // rbp = [rsp]; rsp += 8
	effectAdd             // rsp += imm
	effectSetRBP          // rbp = rsp + imm
	effectSetRSP          // rsp = rbp + imm
	effectLeave           // rsp = rbp; pop rbp
	effectStoreRBP        // [rsp+imm] = rbp
	effectLoadRBP         // rbp = [rsp+imm]
	effectLoseRSP         // rsp = something else
	effectLoseRBP         // rbp = something else
	effectAddress         // takes the address of target
	effectCall            // to target, if that is not 0
	effectBranch          // to target, or on
	effectJump            // to target
	effectJumpAway        // to where a register or memory says
	effectRet
	effectStop // does not go on
	effectBad  // not understood
)

// instruction is one instruction's effect. imm is a number for effectAdd and the like, and the distance
// from the instruction's end to its target for calls, branches and jumps.
type instruction struct {
	imm  int32
	len  uint8
	does effect
}

// decodeX86 decodes the first instruction of code.
func decodeX86(code []byte) instruction {
	bad := instruction{len: 1, does: effectBad}
	if len(code) == 0 {
		return bad
	}
	// What needs no decoder: the most frequent ones that touch the stack, and those that the decoder lacks.
	switch b := code[0]; {
	case b == 0x55:
		return instruction{len: 1, does: effectPushRBP}
	case b == 0x5d:
		return instruction{len: 1, does: effectPopRBP}
	case b >= 0x50 && b < 0x58:
		return instruction{len: 1, does: effectPush}
	case b >= 0x58 && b < 0x60 && b != 0x5c:
		return instruction{len: 1, does: effectPop}
	case b == 0xc3:
		return instruction{len: 1, does: effectRet}
	case b == 0xc9:
		return instruction{len: 1, does: effectLeave}
	case b == 0xcc:
		return instruction{len: 1, does: effectPadding}
	case b == 0xe8 && len(code) >= 5:
		return instruction{imm: int32(binary.LittleEndian.Uint32(code[1:])), len: 5, does: effectCall}
	case b == 0xf3 && len(code) >= 4 && code[1] == 0x0f && code[2] == 0x1e && code[3] == 0xfa: // endbr64
		return instruction{len: 4}
	case b == 0xc4 || b == 0xc5 || b == 0x62:
		return decodeVector(code)
	}
	in, err := x86asm.Decode(code, 64)
	if err != nil || in.Len <= 0 {
		return bad
	}
	out := instruction{len: uint8(in.Len)}
	to, _ := in.Args[0].(x86asm.Reg)
	from, _ := in.Args[1].(x86asm.Reg)
	// Numbers of 32 bits are not sign-extended by the decoder: int32 of them is what they mean.
	toRSP, toRBP := isRSP(to), isRBP(to)
	switch in.Op {
	case x86asm.NOP:
		out.does = effectPadding
	case x86asm.PUSH, x86asm.PUSHF, x86asm.PUSHFQ:
		out.does = effectPush
		if in.DataSize == 16 {
			out.does = effectBad
		}
	case x86asm.POP, x86asm.POPF, x86asm.POPFQ:
		out.does = effectPop
		if in.DataSize == 16 || toRSP {
			out.does = effectBad
		}
	case x86asm.RET:
		out.does = effectRet
	case x86asm.UD1, x86asm.UD2, x86asm.HLT:
		out.does = effectStop
	case x86asm.CALL:
		out.does = effectCall
		if rel, ok := in.Args[0].(x86asm.Rel); ok {
			out.imm = int32(rel)
		}
	case x86asm.JMP:
		out.does = effectJumpAway
		if rel, ok := in.Args[0].(x86asm.Rel); ok {
			out.does, out.imm = effectJump, int32(rel)
		}
	case x86asm.LJMP, x86asm.LCALL, x86asm.LRET, x86asm.IRET, x86asm.IRETD, x86asm.IRETQ, x86asm.ENTER, x86asm.SYSRET, x86asm.SYSEXIT:
		out.does = effectBad
	case x86asm.CMP, x86asm.TEST, x86asm.BT:
		// read only
	case x86asm.ADD, x86asm.SUB:
		imm, ok := in.Args[1].(x86asm.Imm)
		switch {
		case toRSP && ok:
			out.does, out.imm = effectAdd, int32(imm)
			if in.Op == x86asm.SUB {
				out.imm = -out.imm
			}
		case toRSP:
			out.does = effectLoseRSP
		case toRBP:
			out.does = effectLoseRBP
		}
	case x86asm.LEA, x86asm.MOV:
		mem, isMem := in.Args[1].(x86asm.Mem)
		plain := isMem && mem.Index == 0
		switch {
		case in.Op == x86asm.LEA && toRSP && plain && mem.Base == x86asm.RSP:
			out.does, out.imm = effectAdd, int32(mem.Disp)
		case in.Op == x86asm.LEA && toRSP && plain && mem.Base == x86asm.RBP:
			out.does, out.imm = effectSetRSP, int32(mem.Disp)
		case in.Op == x86asm.LEA && to == x86asm.RBP && plain && mem.Base == x86asm.RSP:
			out.does, out.imm = effectSetRBP, int32(mem.Disp)
		case in.Op == x86asm.MOV && to == x86asm.RSP && from == x86asm.RBP:
			out.does = effectSetRSP
		case in.Op == x86asm.MOV && to == x86asm.RBP && from == x86asm.RSP:
			out.does = effectSetRBP
		case in.Op == x86asm.MOV && to == x86asm.RBP && plain && mem.Base == x86asm.RSP:
			out.does, out.imm = effectLoadRBP, int32(mem.Disp)
		case toRSP:
			out.does = effectLoseRSP
		case toRBP:
			out.does = effectLoseRBP
		case in.Op == x86asm.LEA && isMem && mem.Base == x86asm.RIP:
			out.does, out.imm = effectAddress, int32(mem.Disp)
		case in.Op == x86asm.MOV && from == x86asm.RBP:
			if mem, ok := in.Args[0].(x86asm.Mem); ok && mem.Base == x86asm.RSP && mem.Index == 0 {
				out.does, out.imm = effectStoreRBP, int32(mem.Disp)
			}
		}
	case x86asm.XCHG, x86asm.XADD, x86asm.CMPXCHG:
		if toRSP || isRSP(from) {
			out.does = effectLoseRSP
		} else if toRBP || isRBP(from) {
			out.does = effectLoseRBP
		}
	default:
		if rel, ok := in.Args[0].(x86asm.Rel); ok {
			out.does, out.imm = effectBranch, int32(rel)
			if in.Op == x86asm.XBEGIN {
				out.does = effectBad
			}
		} else if toRSP {
			out.does = effectLoseRSP
		} else if toRBP {
			out.does = effectLoseRBP
		}
	}
	return out
}

func isRSP(r x86asm.Reg) bool {
	return r == x86asm.RSP || r == x86asm.ESP || r == x86asm.SP || r == x86asm.SPB
}

func isRBP(r x86asm.Reg) bool {
	return r == x86asm.RBP || r == x86asm.EBP || r == x86asm.BP || r == x86asm.BPB
}

// decodeVector finds the length of an AVX instruction, which x86asm does not know:
//
//	c5, 1 byte | c4, 2 bytes | 62, 3 bytes; opcode; ModRM, SIB, displacement; immediate
//
// Of them all only the BMI ones write general registers; none writes rsp in what compilers make.
func decodeVector(code []byte) instruction {
	bad := instruction{len: 1, does: effectBad}
	prefix, opmap := 2, byte(1)
	switch code[0] {
	case 0xc4:
		prefix = 3
	case 0x62:
		prefix = 4
	}
	if len(code) < prefix+2 {
		return bad
	}
	extends := code[1]&0x80 == 0 // ModRM's reg names one of the upper registers
	if prefix > 2 {
		opmap = code[1] & 0x1f
		if prefix == 4 {
			opmap &= 7
		}
	}
	op, n := code[prefix], prefix+1
	out := instruction{}
	if !(opmap == 1 && op == 0x77) { // vzeroupper
		modrm := code[n]
		n++
		mod, rm := modrm>>6, modrm&7
		if mod != 3 && rm == 4 {
			if n >= len(code) {
				return bad
			}
			if mod == 0 && code[n]&7 == 5 {
				n += 4
			}
			n++
		}
		switch {
		case mod == 1:
			n++
		case mod == 2, mod == 0 && rm == 5:
			n += 4
		}
		switch {
		case opmap == 3:
			n++
		case opmap == 1 && (op >= 0x70 && op <= 0x73 || op == 0xc2 || op >= 0xc4 && op <= 0xc6):
			n++
		case opmap == 0 || opmap > 3 && prefix < 4 || opmap == 4 || opmap == 7:
			return bad
		}
		if prefix == 3 && (opmap == 2 && op >= 0xf2 && op <= 0xf7 || opmap == 3 && op == 0xf0) && modrm>>3&7 == 5 && !extends {
			out.does = effectLoseRBP
		}
	}
	if n > len(code) || n > 15 {
		return bad
	}
	out.len = uint8(n)
	return out
}
