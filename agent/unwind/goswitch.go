package unwind

import "golang.org/x/arch/x86/x86asm"

// maxSPWriteBytes is how much of a function that sets its stack pointer is looked at. The runtime's are
// below 1 kB.
const maxSPWriteBytes = 16 << 10

// spWrites says what a function that sets its stack pointer does to its frame.
type spWrites struct {
	// gone is the offset from which on the caller cannot be reached, because the function has left its
	// stack without keeping a pointer to it: mcall and morestack clear rbp then, gogo has no frame. 0: never.
	gone uint64
	// bare says that gone is so because the function has no frame, not because it cleared rbp.
	bare bool
	// rbpLost says that rbp does not point to the frame throughout.
	rbpLost bool
	// calls says that it calls others.
	calls bool
}

// findSPWrites goes through a function's instructions, up to one that it does not know (AVX).
func findSPWrites(code []byte) (s spWrites) {
	frame, write := false, uint64(0)
	for pos := 0; pos < len(code); {
		in, err := x86asm.Decode(code[pos:], 64)
		if err != nil || in.Len <= 0 {
			break
		}
		next := uint64(pos + in.Len)
		to, _ := in.Args[0].(x86asm.Reg)
		from, _ := in.Args[1].(x86asm.Reg)
		s.calls = s.calls || in.Op == x86asm.CALL
		switch {
		case in.Op == x86asm.MOV && to == x86asm.RBP && from == x86asm.RSP:
			frame = true
		case to == x86asm.RSP && (in.Op == x86asm.MOV || in.Op == x86asm.LEA || in.Op == x86asm.AND) && write == 0:
			write = next
		case (to == x86asm.EBP || to == x86asm.RBP) && (in.Op == x86asm.XOR && from == to || isZeroMove(in)):
			if s.gone == 0 {
				s.gone = next
			}
		case to == x86asm.RBP || to == x86asm.EBP:
			switch in.Op {
			case x86asm.PUSH, x86asm.POP, x86asm.CMP, x86asm.TEST:
			default:
				s.rbpLost = true
			}
		}
		pos += in.Len
	}
	if !frame && write != 0 && (s.gone == 0 || write < s.gone) {
		s.gone, s.bare = write, true
	}
	if s.gone != 0 {
		s.rbpLost = false
	}
	return s
}

func isZeroMove(in x86asm.Inst) bool {
	imm, ok := in.Args[1].(x86asm.Imm)
	return in.Op == x86asm.MOV && ok && imm == 0
}
