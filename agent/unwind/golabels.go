package unwind

import (
	"encoding/binary"
	"go/version"
	"strings"

	"golang.org/x/arch/x86/x86asm"
)

// GoLabels says where a Go program keeps the labels that it gives to a goroutine with runtime/pprof:
//
//	thread pointer ── TLS ──▶ g ── M ──▶ m ── Curg ──▶ g ── Labels ──▶ the label set
//
// The way over m leads from the goroutine that the runtime itself works on (g0) to the one that it works for. All of it
// is read from the machine code of two functions, so that neither debug information nor a list of versions is needed.
type GoLabels struct {
	TLS             int32 // amd64 only: arm64 has g in x28
	M, Curg, Labels uint16
	// Map says that the set is a map, as before Go 1.24. Since then it is a slice.
	Map bool
}

const setProfLabel = "runtime/pprof.runtime_setProfLabel"

// maxGoOffset is where fields of the runtime's structures may lie at most.
const maxGoOffset = 4096

// findGoLabels returns nil if the program cannot set labels (it lacks setProfLabel), or if its code is unlike what is
// known.
func findGoLabels(arm64 bool, toolchain string, systemstack, setLabel []byte) *GoLabels {
	if len(systemstack) == 0 || len(setLabel) == 0 || toolchain == "" {
		return nil
	}
	toolchain, _, _ = strings.Cut(strings.TrimPrefix(toolchain, "devel "), " ")
	l := &GoLabels{Map: version.IsValid(toolchain) && version.Compare(toolchain, "go1.24") < 0}
	find := l.amd64
	if arm64 {
		find = l.arm64
	}
	if !find(systemstack, setLabel) {
		return nil
	}
	return l
}

// amd64 looks for, in systemstack, up to its first call,
//
//	mov rax, fs:TLS            or  mov rcx, TLS; mov rax, fs:[rcx]
//	mov rbx, [rax+M]
//	cmp rax, [rbx+gsignal]
//	cmp rax, [rbx+Curg]        the last of its kind
//
// and in setProfLabel for the store of rax into g. The other stores go to the stack and the write barrier's buffer.
func (l *GoLabels) amd64(systemstack, setLabel []byte) bool {
	var known [256]int64 // constants in registers
	eachX86(systemstack, func(in x86asm.Inst) bool {
		to, _ := in.Args[0].(x86asm.Reg)
		from, isMem := in.Args[1].(x86asm.Mem)
		switch {
		case in.Op == x86asm.CALL:
			return false
		case in.Op == x86asm.MOV && !isMem:
			if imm, ok := in.Args[1].(x86asm.Imm); ok {
				known[to] = int64(imm)
			}
		case in.Op == x86asm.MOV && from.Segment == x86asm.FS && to == x86asm.RAX:
			l.TLS = int32(from.Disp + known[from.Base])
		case in.Op == x86asm.MOV && to == x86asm.RBX && from.Base == x86asm.RAX:
			l.M = goOffset(from.Disp)
		case in.Op == x86asm.CMP && to == x86asm.RAX && isMem && from.Base == x86asm.RBX:
			l.Curg = goOffset(from.Disp)
		}
		return true
	})
	eachX86(setLabel, func(in x86asm.Inst) bool {
		to, ok := in.Args[0].(x86asm.Mem)
		if in.Op == x86asm.MOV && ok && in.Args[1] == x86asm.RAX && to.Base != x86asm.RSP && to.Disp != 0 {
			l.Labels = goOffset(to.Disp)
		}
		return in.Op != x86asm.RET
	})
	return l.TLS < 0 && l.M != 0 && l.Curg != 0 && l.Labels != 0
}

func eachX86(code []byte, f func(x86asm.Inst) bool) {
	for len(code) > 0 {
		in, err := x86asm.Decode(code, 64)
		if err != nil || in.Len <= 0 || !f(in) {
			return
		}
		code = code[in.Len:]
	}
}

// arm64 looks for the same: ldr x4, [x28, M]; ldr REG, [x4, Curg], the last of its kind before a call; and a store of x0.
func (l *GoLabels) arm64(systemstack, setLabel []byte) bool {
	const g, sp = 28, 31
	for code := systemstack; len(code) >= 4; code = code[4:] {
		in := binary.LittleEndian.Uint32(code)
		if in>>26 == 0b100101 || in&0xfffffc1f == 0xd63f0000 { // bl, blr
			break
		}
		if in>>22 != 0b1111100101 { // ldr xN, [xM, offset]
			continue
		}
		switch offset, base, to := goOffset(int64(in>>10&0xfff)*8), in>>5&31, in&31; {
		case base == g && to == 4:
			l.M = offset
		case base == 4:
			l.Curg = offset
		}
	}
	for code := setLabel; len(code) >= 4; code = code[4:] {
		in := binary.LittleEndian.Uint32(code)
		if in == 0xd65f03c0 { // ret
			break
		}
		if in>>22 == 0b1111100100 && in&31 == 0 && in>>5&31 != sp { // str x0, [xM, offset]
			l.Labels = goOffset(int64(in>>10&0xfff) * 8)
		}
	}
	return l.M != 0 && l.Curg != 0 && l.Labels != 0
}

// goOffset returns 0 for what can be no field's offset.
func goOffset(n int64) uint16 {
	if n <= 0 || n >= maxGoOffset {
		return 0
	}
	return uint16(n)
}
