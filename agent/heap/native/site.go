package native

import (
	"golang.org/x/arch/x86/x86asm"
)

// site is where in a function the probe goes, and in which registers the arguments are there.
type site struct {
	offset uint64   // behind the function's first byte
	args   [3]uint8 // by number of the argument
}

// Numbers of registers as instructions have them.
const (
	regDX = 2
	regSP = 4
	regSI = 6
	regDI = 7
)

var (
	argsX86   = [3]uint8{regDI, regSI, regDX}
	argsARM64 = [3]uint8{0, 1, 2}
)

// siteX86 finds the cheapest place for a probe in a function of x86-64.
//
// The kernel replaces the probed instruction and must execute it elsewhere. Pushes, jumps, calls and nop it emulates;
// for all others it steps the processor by one instruction, whose exception costs ten times as much as all the rest on a
// virtual machine (measured: 0.6 µs against 11). So the probe goes to the first instruction that is emulated, as long as
// every call comes by there exactly once, with the stack pointer as it was and the arguments in registers that
// are known. Where there is none, the function's first instruction serves, at that price.
func siteX86(code []byte) site {
	first := site{args: argsX86}
	holds := [16]int8{} // which argument a register holds, plus one
	for i, r := range argsX86 {
		holds[r] = int8(i + 1)
	}
	for at := 0; at < len(code); {
		if n := emulated(code[at:]); n > 0 {
			s := site{offset: uint64(at)}
			if comesBack(code, at) {
				return first
			}
			s.whereHeld(holds)
			return s
		}
		n := follow(code[at:], &holds)
		if n == 0 {
			break
		}
		at += n
	}
	return first
}

// whereHeld sets where the arguments are: regSP stands for nowhere. A register that still has its own is preferred.
func (s *site) whereHeld(holds [16]int8) {
	for i, own := range argsX86 {
		s.args[i] = regSP
		for r, arg := range holds {
			if arg == int8(i+1) && (s.args[i] == regSP || uint8(r) == own) {
				s.args[i] = uint8(r)
			}
		}
	}
}

// emulated returns the length of the instruction if the kernel emulates it on x86-64, else 0 (arch/x86/kernel/uprobes.c:
// branch_setup_xol_ops, push_setup_xol_ops).
func emulated(code []byte) int {
	at := func(i int) byte {
		if i < len(code) {
			return code[i]
		}
		return 0
	}
	switch b := at(0); {
	case b >= 0x50 && b <= 0x57: // push
		return 1
	case b == 0x41 && at(1) >= 0x50 && at(1) <= 0x57: // push r8 to r15
		return 2
	case b == 0x90: // nop
		return 1
	case b == 0xe8 || b == 0xe9: // call, jmp
		if len(code) >= 5 {
			return 5
		}
	case b == 0xeb || b >= 0x70 && b <= 0x7f: // jmp, jcc
		if len(code) >= 2 {
			return 2
		}
	case b == 0x0f && at(1) >= 0x80 && at(1) <= 0x8f: // jcc
		if len(code) >= 6 {
			return 6
		}
	}
	return 0
}

// follow returns the length of the instruction if it leaves the stack pointer alone and goes on to the next one, and
// notes what it does to the registers. 0: it does not, or is not known.
func follow(code []byte, holds *[16]int8) int {
	if len(code) >= 4 && code[0] == 0xf3 && code[1] == 0x0f && code[2] == 0x1e && code[3] == 0xfa {
		return 4 // endbr64
	}
	in, err := x86asm.Decode(code, 64)
	if err != nil {
		return 0
	}
	for _, p := range in.Prefix {
		switch p &^ (x86asm.PrefixImplicit | x86asm.PrefixIgnored) {
		case x86asm.PrefixREP, x86asm.PrefixREPN, x86asm.PrefixLOCK:
			return 0
		}
	}
	to, isRegister := in.Args[0].(x86asm.Reg)
	switch in.Op {
	case x86asm.NOP, x86asm.CMP, x86asm.TEST, x86asm.BT:
		return in.Len
	case x86asm.MOV, x86asm.LEA, x86asm.MOVZX, x86asm.MOVSX, x86asm.MOVSXD, x86asm.ADD, x86asm.SUB, x86asm.AND,
		x86asm.OR, x86asm.XOR, x86asm.NOT, x86asm.NEG, x86asm.SHL, x86asm.SHR, x86asm.SAR, x86asm.INC, x86asm.DEC,
		x86asm.SETE, x86asm.SETNE, x86asm.SETO, x86asm.SETA, x86asm.SETAE, x86asm.SETB, x86asm.SETBE:
		if !isRegister {
			return in.Len // to memory
		}
	case x86asm.IMUL:
		if in.Args[1] == nil {
			return 0
		}
	case x86asm.MUL:
		holds[0], holds[regDX] = 0, 0
		return in.Len
	default:
		return 0
	}
	n, ok := number(to)
	if !ok || n == regSP {
		return 0
	}
	holds[n] = 0
	if from, ok := in.Args[1].(x86asm.Reg); ok && in.Op == x86asm.MOV && from >= x86asm.RAX && from <= x86asm.R15 &&
		to >= x86asm.RAX && to <= x86asm.R15 {
		m, _ := number(from)
		holds[n] = holds[m]
	}
	return in.Len
}

// number returns which general register r is a part of.
func number(r x86asm.Reg) (int, bool) {
	switch {
	case r >= x86asm.AL && r <= x86asm.BL:
		return int(r - x86asm.AL), true
	case r >= x86asm.AH && r <= x86asm.BH:
		return int(r - x86asm.AH), true
	case r >= x86asm.SPB && r <= x86asm.R15B:
		return int(r-x86asm.SPB) + regSP, true
	case r >= x86asm.AX && r <= x86asm.R15W:
		return int(r - x86asm.AX), true
	case r >= x86asm.EAX && r <= x86asm.R15L:
		return int(r - x86asm.EAX), true
	case r >= x86asm.RAX && r <= x86asm.R15:
		return int(r - x86asm.RAX), true
	}
	return 0, false
}

// comesBack says whether the function jumps to a place behind its first byte and not behind at: a loop would come by
// the probe more than once, or without having come through what is before it.
func comesBack(code []byte, at int) bool {
	for i := 0; i < len(code); {
		n := 1 // where nothing is known, as of vector instructions, the next byte may begin one
		if in, err := x86asm.Decode(code[i:], 64); err == nil && in.Len > 0 {
			n = in.Len
			if rel, ok := in.Args[0].(x86asm.Rel); ok && in.Op != x86asm.CALL {
				if to := i + n + int(rel); to > 0 && to <= at {
					return true
				}
			}
		}
		i += n
	}
	return false
}
