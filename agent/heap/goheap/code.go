package goheap

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/arch/x86/x86asm"
)

// machine reads what a few of the runtime's functions tell about its variables.
type machine struct{ arm64 bool }

// firstLoad returns the address of the first variable of size bytes that a function loads.
//
//	mov REG, [rip+d]
//	adrp xN, page; add xN, xN, low; ldar wM or xM, [xN]       (atomic; else adrp, ldr)
func (m machine) firstLoad(code []byte, at uint64, size int) (uint64, bool) {
	if !m.arm64 {
		var found uint64
		eachX86(code, func(off int, in x86asm.Inst) bool {
			mem, ok := in.Args[1].(x86asm.Mem)
			_, toReg := in.Args[0].(x86asm.Reg)
			if in.Op == x86asm.MOV && ok && toReg && mem.Base == x86asm.RIP && in.MemBytes == size {
				found = at + uint64(off+in.Len) + uint64(mem.Disp)
			}
			return found == 0
		})
		return found, found != 0
	}
	var page [32]uint64
	for ; len(code) >= 4; code, at = code[4:], at+4 {
		in := binary.LittleEndian.Uint32(code)
		to, base := in&31, in>>5&31
		switch {
		case isADRP(in):
			page[to] = adrp(in, at)
			continue
		case in>>22 == 0b1001000100 && page[base] != 0: // add, 64 bits, immediate
			page[to] = page[base] + uint64(in>>10&0xfff)
			continue
		case in&0xbffffc00 == 0x88dffc00 && page[base] != 0 && 4<<(in>>30&1) == size: // ldar
			return page[base], true
		case in&0xbfc00000 == 0xb9400000 && page[base] != 0 && 4<<(in>>30&1) == size: // ldr, unsigned offset
			return page[base] + uint64(in>>10&0xfff)*uint64(size), true
		}
	}
	return 0, false
}

// zeroedIf returns the variable that schedinit sets to 0 if the linker has set another (disableMemoryProfiling); there
// must be exactly one.
//
//	80 3d d32 00        cmp byte [rip+d], 0          adrp x27, page; ldrb wN, [x27, low]
//	74 0b               je over the next             tbz wN, 0, over the next two
//	48 c7 05 d32 0      mov qword [rip+d], 0         adrp x27, page; str xzr, [x27, low]
func (m machine) zeroedIf(code []byte, at uint64) (uint64, bool) {
	var found []uint64
	le := binary.LittleEndian
	if !m.arm64 {
		for i := 0; i+20 <= len(code); i++ {
			b := code[i:]
			if b[0] == 0x80 && b[1] == 0x3d && b[6] == 0 && b[7] == 0x74 && b[8] == 11 && bytes.Equal(b[9:12], []byte{0x48, 0xc7, 0x05}) &&
				le.Uint32(b[16:]) == 0 {
				found = append(found, at+uint64(i)+20+uint64(int64(int32(le.Uint32(b[12:])))))
			}
		}
	} else {
		for i := 0; i+20 <= len(code); i += 4 {
			var in [5]uint32
			for j := range in {
				in[j] = le.Uint32(code[i+4*j:])
			}
			flag, base := in[1]&31, in[3]&31
			if isADRP(in[0]) && in[1]>>22 == 0b0011100101 && in[1]>>5&31 == in[0]&31 && // ldrb
				in[2] == 0x36000060|flag && // tbz wN, 0, 12
				isADRP(in[3]) && in[4]>>22 == 0b1111100100 && in[4]&31 == 31 && in[4]>>5&31 == base { // str xzr
				found = append(found, adrp(in[3], at+uint64(i)+12)+uint64(in[4]>>10&0xfff)*8)
			}
		}
	}
	if len(found) != 1 {
		return 0, false
	}
	return found[0], true
}

// knownRecord says whether (*bucket).mp finds a bucket's counts where we do (type at 16, which must be 1, length of the
// stack at 40, stack at 48), and whether mProf_FlushLocked takes one of three parts of 32 bytes.
func (m machine) knownRecord(mp, flush []byte) bool {
	var typ, nstk, stack, parts, part bool
	if !m.arm64 {
		eachX86(mp, func(_ int, in x86asm.Inst) bool {
			a, _ := in.Args[0].(x86asm.Mem)
			b, _ := in.Args[1].(x86asm.Mem)
			typ = typ || in.Op == x86asm.CMP && a.Disp == 16 && in.Args[1] == x86asm.Imm(1)
			nstk = nstk || in.Op == x86asm.MOV && b.Disp == 40 && b.Base == x86asm.RAX
			stack = stack || in.Op == x86asm.LEA && b.Disp == 48 || in.Op == x86asm.ADD && in.Args[1] == x86asm.Imm(48)
			return in.Op != x86asm.RET
		})
		eachX86(flush, func(_ int, in x86asm.Inst) bool {
			parts = parts || in.Op == x86asm.CMP && in.Args[1] == x86asm.Imm(3)
			part = part || in.Op == x86asm.SHL && in.Args[1] == x86asm.Imm(5)
			return true
		})
		return typ && nstk && stack && parts && part
	}
	for ; len(mp) >= 4; mp = mp[4:] {
		in := binary.LittleEndian.Uint32(mp)
		if in == 0xd65f03c0 { // ret
			break
		}
		load, imm := in&0xffc003e0 == 0xf9400000, in>>10&0xfff // ldr xN, [x0, imm*8]
		typ = typ || load && imm == 2
		nstk = nstk || load && imm == 5
		stack = stack || in>>22 == 0b1001000100 && imm == 48 // add
	}
	for ; len(flush) >= 4; flush = flush[4:] {
		in := binary.LittleEndian.Uint32(flush)
		parts = parts || in&0x7ffffc1f == 0x71000c1f                // cmp xN, 3
		part = part || in>>21 == 0b10001011000 && in>>10&63 == 5 || // add xN, xM, xK, lsl 5
			in>>22 == 0b1101001101 && in>>16&63 == 59 // lsl xN, xM, 5, or ubfiz
	}
	return typ && nstk && stack && parts && part
}

// slice returns the address of the slice that a function appends to: of three words in a row that it stores or loads.
func (m machine) slice(code []byte, at uint64) (uint64, bool) {
	seen := map[uint64]bool{}
	if !m.arm64 {
		eachX86(code, func(off int, in x86asm.Inst) bool {
			for _, arg := range in.Args[:2] {
				if mem, ok := arg.(x86asm.Mem); ok && in.Op == x86asm.MOV && mem.Base == x86asm.RIP && in.MemBytes == 8 {
					seen[at+uint64(off+in.Len)+uint64(mem.Disp)] = true
				}
			}
			return true
		})
	} else {
		var page [32]uint64
		for ; len(code) >= 4; code, at = code[4:], at+4 {
			in := binary.LittleEndian.Uint32(code)
			switch base := in >> 5 & 31; {
			case isADRP(in):
				page[in&31] = adrp(in, at)
			case in>>22 == 0b1111100100 && page[base] != 0: // str, 64 bits
				seen[page[base]+uint64(in>>10&0xfff)*8] = true
			}
		}
	}
	var found []uint64
	for addr := range seen {
		if seen[addr+8] && seen[addr+16] {
			found = append(found, addr)
		}
	}
	if len(found) != 1 {
		return 0, false
	}
	return found[0], true
}

// firstField returns the offset of the first field of 4 bytes that a function loads of what its first argument points to.
func (m machine) firstField(code []byte) (int, bool) {
	if !m.arm64 {
		found := 0
		eachX86(code, func(_ int, in x86asm.Inst) bool {
			mem, ok := in.Args[1].(x86asm.Mem)
			if ok && in.Op == x86asm.MOV && mem.Base == x86asm.RAX && mem.Index == 0 && in.MemBytes == 4 {
				found = int(mem.Disp)
			}
			return found == 0 && in.Op != x86asm.CALL
		})
		return found, found > 0
	}
	for ; len(code) >= 8; code = code[4:] {
		in, next := binary.LittleEndian.Uint32(code), binary.LittleEndian.Uint32(code[4:])
		// add xN, x0, offset; ldar wM, [xN]
		if in>>22 == 0b1001000100 && in>>5&31 == 0 && next&0xfffffc00 == 0x88dffc00 && next>>5&31 == in&31 {
			return int(in >> 10 & 0xfff), true
		}
	}
	return 0, false
}

// savedFramePointer returns where mcall saves the frame pointer in the goroutine.
//
//	mov [r14+64], rbx; mov [r14+56], rbx; mov [r14+N], rbp or rbx        str x29, [x28, N]; str x30, [x28, 64]
func (m machine) savedFramePointer(code []byte) (int, bool) {
	stores := []int{}
	if !m.arm64 {
		eachX86(code, func(_ int, in x86asm.Inst) bool {
			if mem, ok := in.Args[0].(x86asm.Mem); ok && in.Op == x86asm.MOV && mem.Base == x86asm.R14 {
				stores = append(stores, int(mem.Disp))
			}
			return in.Op != x86asm.CMP
		})
		return append(stores, 0, 0, 0)[2], len(stores) == 3 && stores[0] == schedPC && stores[1] == schedSP
	}
	found, pc := 0, false
	for ; len(code) >= 4; code = code[4:] {
		in := binary.LittleEndian.Uint32(code)
		if in>>26 == 0b100101 { // bl
			break
		}
		if in>>22 == 0b1111100100 && in>>5&31 == 28 {
			switch offset := int(in>>10&0xfff) * 8; in & 31 {
			case 29:
				found = offset
			case 30:
				pc = offset == schedPC
			}
		}
	}
	return found, pc && found != 0
}

func isADRP(in uint32) bool { return in&0x9f000000 == 0x90000000 }

func adrp(in uint32, at uint64) uint64 {
	imm := int64(int32(in<<8)>>13<<2) | int64(in>>29&3)
	return at&^4095 + uint64(imm<<12)
}

func eachX86(code []byte, f func(off int, in x86asm.Inst) bool) {
	for off := 0; off < len(code); {
		in, err := x86asm.Decode(code[off:], 64)
		if err != nil || in.Len <= 0 || !f(off, in) {
			return
		}
		off += in.Len
	}
}
