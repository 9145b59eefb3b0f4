package unwind

import (
	"bytes"
	"compress/zlib"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

const ehAddr = 0x200000

// ehCIE is a CIE of .eh_frame: version 1, augmentation, data, code alignment 1, data alignment -8.
func ehCIE(aug string, data []byte, ra byte, ins ...byte) []byte {
	z := []byte{}
	if strings.HasPrefix(aug, "z") {
		z = append([]byte{byte(len(data))}, data...)
	}
	return record(false, u32(0), []byte{1}, []byte(aug), []byte{0, 1, 0x78, ra}, z, ins)
}

// ehFDE is an FDE that stands at offset at, with its CIE at offset 0. The addresses are already encoded.
func ehFDE(at int, addrs []byte, ins ...byte) []byte {
	return record(false, u32(uint32(at+4)), addrs, ins)
}

// show prints a table as lines "ADDRESS RULE".
func show(t *Table) string {
	var b strings.Builder
	for _, r := range t.Rows {
		fmt.Fprintf(&b, "%x %s\n", uint64(r.Addr), showRule(t.Rules[r.Rule]))
	}
	return b.String()
}

func showRule(r Rule) string {
	save := func(s Save, off int16) string {
		return [...]string{"same", fmt.Sprintf("[cfa%+d]", off), "lost", fmt.Sprintf("[fp%+d]", off), fmt.Sprintf("r%d", off)}[s]
	}
	var s string
	switch r.CFA {
	case CFARegister:
		s = fmt.Sprintf("r%d%+d", r.Reg, r.Offset)
	case CFADeref:
		s = fmt.Sprintf("[r%d%+d]%+d", r.Reg, r.Offset, r.Extra)
	case CFAPLT:
		return fmt.Sprintf("plt %d", r.Extra)
	default:
		return [...]string{"none", "", "", "", "signal", "end", "fp", "unsupported"}[r.CFA]
	}
	return s + " fp=" + save(r.FP, r.FPOff) + " ra=" + save(r.RA, r.RAOff)
}

// x64 are the instructions with which every CIE of x86-64 begins: CFA = rsp+8, rip at CFA-8.
var x64 = []byte{cfaDefCFA, 7, 8, cfaOffset | 16, 1}

// testFDE compiles one function at 0x1000 to 0x1040 with these instructions and compares what comes out.
func testFDE(t *testing.T, m elf.Machine, cieIns, ins []byte, want string) {
	t.Helper()
	ra := byte(16)
	if m == elf.EM_AARCH64 {
		ra = 30
	}
	cie := ehCIE("zR", []byte{encUdata4}, ra, cieIns...)
	fde := ehFDE(len(cie), append(append(u32(0x1000), u32(0x40)...), 0), ins...)
	table, err := Compile(bytes.NewReader(makeELF(m, part{name: ".eh_frame", addr: ehAddr, data: append(cie, fde...)})))
	if err != nil {
		t.Fatal(err)
	}
	checkTable(t, table)
	if got := show(table); got != want {
		t.Errorf("is\n%swant\n%s", got, want)
	}
}

// TestInstructions runs call frame instructions.
func TestInstructions(t *testing.T) {
	f := func(ins []byte, want string) { t.Helper(); testFDE(t, elf.EM_X86_64, x64, ins, want) }
	adv := func(n byte) byte { return cfaAdvanceLoc | n }
	const body = "1000 r7+8 fp=same ra=[cfa-8]\n"
	const end = "1040 none\n"

	f(nil, body+end)
	// push rbp; mov rbp,rsp; ...; pop rbp
	f([]byte{adv(1), cfaDefCFAOff, 16, cfaOffset | 6, 2, adv(3), cfaDefCFAReg, 6, adv(9), cfaDefCFA, 7, 8, cfaRestore | 6},
		body+"1001 r7+16 fp=[cfa-16] ra=[cfa-8]\n1004 r6+16 fp=[cfa-16] ra=[cfa-8]\n100d r7+8 fp=same ra=[cfa-8]\n"+end)
	// The same register file before and after: no row.
	f([]byte{adv(4), cfaOffset | 3, 2, adv(4), cfaRestore | 3}, body+end)
	f([]byte{cfaRemember, adv(2), cfaDefCFAOff, 32, adv(2), cfaRestoreState}, body+"1002 r7+32 fp=same ra=[cfa-8]\n1004 r7+8 fp=same ra=[cfa-8]\n"+end)
	f([]byte{adv(2), cfaRestoreState}, body+"1002 unsupported\n"+end)
	f([]byte{cfaAdvanceLoc1, 2, cfaDefCFAOffSF, 0x7c, cfaAdvanceLoc2, 2, 0, cfaDefCFASF, 7, 0x7e}, body+"1002 r7+32 fp=same ra=[cfa-8]\n1004 r7+16 fp=same ra=[cfa-8]\n"+end)
	f([]byte{cfaSetLoc, 0x10, 0x10, 0, 0, cfaDefCFAOff, 24}, body+"1010 r7+24 fp=same ra=[cfa-8]\n"+end)
	f([]byte{adv(1), cfaSetLoc, 0, 0x10, 0, 0, cfaDefCFAOff, 24}, body+"1001 unsupported\n"+end)
	f([]byte{cfaAdvanceLoc4, 0x40, 0, 0, 0, cfaDefCFAOff, 24}, body+end)
	f([]byte{cfaAdvanceLoc8, 1, 0, 0, 0, 0, 0, 0, 0, cfaDefCFAOff, 24}, body+"1001 r7+24 fp=same ra=[cfa-8]\n"+end)
	f([]byte{adv(1), cfaArgsSize, 0x80, 1, cfaDefCFAOff, 24}, body+"1001 r7+24 fp=same ra=[cfa-8]\n"+end)
	f([]byte{adv(1), cfaUndefined, 6}, body+"1001 r7+8 fp=lost ra=[cfa-8]\n"+end)
	f([]byte{adv(1), cfaUndefined, 16}, body+"1001 end\n"+end)
	f([]byte{adv(1), cfaSameValue, 6}, body+end)
	f([]byte{adv(1), cfaRegister, 6, 3, adv(1), cfaRestoreExt, 6}, body+"1001 r7+8 fp=lost ra=[cfa-8]\n1002 r7+8 fp=same ra=[cfa-8]\n"+end)
	f([]byte{adv(1), cfaRegister, 16, 3}, body+"1001 r7+8 fp=same ra=r3\n"+end)
	f([]byte{adv(1), cfaRegister, 16, 33}, body+"1001 unsupported\n"+end)
	f([]byte{adv(1), cfaValOffset, 6, 2, adv(1), cfaOffsetExt, 6, 3}, body+"1001 r7+8 fp=lost ra=[cfa-8]\n1002 r7+8 fp=[cfa-24] ra=[cfa-8]\n"+end)
	f([]byte{adv(1), cfaOffsetExtSF, 6, 2, cfaValExpression, 3, 1, opLit0, adv(1), cfaNegOffsetExt, 6, 2}, body+"1001 r7+8 fp=[cfa-16] ra=[cfa-8]\n1002 r7+8 fp=[cfa+16] ra=[cfa-8]\n"+end)
	// Beyond what a rule holds.
	f([]byte{adv(1), cfaOffset | 6, 0xff, 0xff, 1}, body+"1001 r7+8 fp=lost ra=[cfa-8]\n"+end)
	f([]byte{adv(1), cfaDefCFA, 33, 8}, body+"1001 unsupported\n"+end)
	f([]byte{adv(1), cfaDefCFAOff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, body+"1001 unsupported\n"+end)
	// Unknown, cut off, and arm64's in x86-64's code.
	f([]byte{adv(1), 0x3f}, body+"1001 unsupported\n"+end)
	f([]byte{adv(1), cfaNegateRA}, body+"1001 unsupported\n"+end)
	f([]byte{adv(1), cfaDefCFAExpr, 0x70}, body+"1001 unsupported\n"+end)
}

// TestExpressions gives CFAs and saved registers by expression.
func TestExpressions(t *testing.T) {
	f := func(expr []byte, want string) {
		t.Helper()
		ins := append([]byte{cfaDefCFAExpr, byte(len(expr))}, expr...)
		testFDE(t, elf.EM_X86_64, x64, ins, "1000 "+want+"\n1040 none\n")
	}
	const saved = " fp=same ra=[cfa-8]"
	f([]byte{0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22}, "plt 11")
	f([]byte{0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3a, 0x2a, 0x33, 0x24, 0x22}, "plt 10")
	f([]byte{0x77, 16, 0x80, 0, 0x3f, 0x1a, 0x3a, 0x2a, 0x33, 0x24, 0x22}, "unsupported")
	f([]byte{0x76, 0x78, opDeref}, "[r6-8]+0"+saved)
	f([]byte{0x77, 0x98, 4, opDeref, opPlusUconst, 0x38}, "[r7+536]+56"+saved)
	f([]byte{0x77, 8, opDeref, 0x38, opPlus}, "[r7+8]+8"+saved)
	f([]byte{0x77, 8, opDeref, opConst1s, 0xf8, opPlus, opNop}, "[r7+8]-8"+saved)
	f([]byte{opBregx, 10, 0x10}, "r10+16"+saved)
	f([]byte{0x7a, 0, opPlusUconst, 8}, "r10+8"+saved)
	f([]byte{0x7a, 0, 0x38, opMinus}, "r10-8"+saved)
	f([]byte{0x38, 0x7a, 0, opPlus}, "r10+8"+saved)
	f([]byte{0x7a, 0, 0x7b, 0, opPlus}, "unsupported")
	f([]byte{0x7a, 0, opDeref, opDeref}, "unsupported")
	f([]byte{opPlus}, "unsupported")
	f([]byte{opDeref}, "unsupported")
	f([]byte{0x30, 0x30, 0x30, 0x30, 0x30}, "unsupported")
	f([]byte{0x77}, "unsupported") // it may not end within an operand
	f(nil, "unsupported")
}

// TestRealign follows a function that realigns its stack, as GCC writes them.
func TestRealign(t *testing.T) {
	adv := func(n byte) byte { return cfaAdvanceLoc | n }
	testFDE(t, elf.EM_X86_64, x64, []byte{
		adv(5), cfaDefCFA, 10, 0, // lea 8(%rsp),%r10
		adv(12), cfaExpression, 6, 2, 0x76, 0, // push %rbp; mov %rsp,%rbp
		adv(2), cfaDefCFAExpr, 3, 0x76, 0x78, opDeref, // push %r10
		adv(8), cfaDefCFA, 10, 0,
		adv(5), cfaDefCFA, 7, 8,
	}, `1000 r7+8 fp=same ra=[cfa-8]
1005 r10+0 fp=same ra=[cfa-8]
1011 r10+0 fp=[fp+0] ra=[cfa-8]
1013 [r6-8]+0 fp=[fp+0] ra=[cfa-8]
101b r10+0 fp=[fp+0] ra=[cfa-8]
1020 r7+8 fp=[fp+0] ra=[cfa-8]
1040 none
`)
}

// TestARM64 follows a function that signs its return address.
func TestARM64(t *testing.T) {
	adv := func(n byte) byte { return cfaAdvanceLoc | n }
	testFDE(t, elf.EM_AARCH64, []byte{cfaDefCFA, 31, 0}, []byte{
		adv(4), cfaNegateRA,
		adv(4), cfaDefCFAOff, 32, cfaOffset | 29, 4, cfaOffset | 30, 3,
		adv(4), cfaDefCFAReg, 29,
		adv(8), cfaDefCFA, 31, 0, cfaRestore | 29, cfaRestore | 30,
		adv(4), cfaNegateRAPC,
	}, `1000 r31+0 fp=same ra=same
1008 r31+32 fp=[cfa-32] ra=[cfa-24]
100c r29+32 fp=[cfa-32] ra=[cfa-24]
1014 r31+0 fp=same ra=same
1040 none
`)
}

// TestEncodings writes one function's addresses in every encoding.
func TestEncodings(t *testing.T) {
	const start, n = 0x1230, 0x20
	want := "1230 r7+8 fp=same ra=[cfa-8]\n1250 none\n"
	f := func(enc byte, addrs func(at uint64) []byte) {
		t.Helper()
		cie := ehCIE("zPLR", append(append([]byte{encPcrel | encIndirect | encSdata4}, u32(77)...), encPcrel|encSdata4, enc), 16, x64...)
		at := uint64(ehAddr + len(cie) + 8)
		fde := ehFDE(len(cie), append(addrs(at), 4, 9, 9, 9, 9), cfaNop)
		file := makeELF(elf.EM_X86_64,
			part{name: ".eh_frame", addr: ehAddr, data: append(cie, fde...)},
			part{name: ".text", addr: 0x1000, data: []byte{0xcc}},
			part{name: ".got", addr: 0x1200, data: []byte{0}},
		)
		table, err := Compile(bytes.NewReader(file))
		if err != nil {
			t.Errorf("encoding %#x: %v", enc, err)
			return
		}
		if got := show(table); got != want {
			t.Errorf("encoding %#x: is\n%swant\n%s", enc, got, want)
		}
	}
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	f(encAbsptr, func(uint64) []byte { return cat(u64(start), u64(n)) })
	f(encUdata2, func(uint64) []byte { return cat(u16(start), u16(n)) })
	f(encUdata4, func(uint64) []byte { return cat(u32(start), u32(n)) })
	f(encUdata8, func(uint64) []byte { return cat(u64(start), u64(n)) })
	f(encSdata2, func(uint64) []byte { return cat(u16(start), u16(n)) })
	f(encSdata4, func(uint64) []byte { return cat(u32(start), u32(n)) })
	f(encSdata8, func(uint64) []byte { return cat(u64(start), u64(n)) })
	f(encUleb, func(uint64) []byte { return cat(binary.AppendUvarint(nil, start), binary.AppendUvarint(nil, n)) })
	f(encSleb, func(uint64) []byte { return []byte{0xb0, 0x24, n} })
	f(encPcrel|encSdata4, func(at uint64) []byte { return cat(u32(uint32(start-at)), u32(n)) })
	f(encPcrel|encSdata8, func(at uint64) []byte { return cat(u64(start-at), u64(n)) })
	f(encTextrel|encUdata4, func(uint64) []byte { return cat(u32(start-0x1000), u32(n)) })
	f(encDatarel|encUdata4, func(uint64) []byte { return cat(u32(start-0x1200), u32(n)) })
	f(encAligned, func(at uint64) []byte { return cat(make([]byte, -at&7), u64(start), u64(n)) })
}

// TestSignal marks every row of a signal trampoline.
func TestSignal(t *testing.T) {
	cie := ehCIE("zRS", []byte{encUdata4}, 16, x64...)
	fde := ehFDE(len(cie), append(append(u32(0x1000), u32(9)...), 0), cfaDefCFAExpr, 3, 0x77, 0x10, opDeref, cfaAdvanceLoc|3, cfaDefCFAOff, 99)
	table, err := Compile(bytes.NewReader(makeELF(elf.EM_X86_64, part{name: ".eh_frame", addr: ehAddr, data: append(cie, fde...)})))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := show(table), "1000 signal\n1009 none\n"; got != want {
		t.Errorf("is\n%swant\n%s", got, want)
	}
}

// debugFrame is a .debug_frame section with one CIE of a version and one function, 0x1000 to 0x1040.
func debugFrame(version byte, wide bool) []byte {
	id, ref := u32(0xffffffff), u32(0)
	if wide {
		id, ref = u64(1<<64-1), u64(0)
	}
	sizes := []byte{}
	if version == 4 {
		sizes = []byte{8, 0}
	}
	return append(
		record(wide, id, []byte{version, 0}, sizes, []byte{1, 0x78, 16}, x64),
		record(wide, ref, u64(0x1000), u64(0x40), []byte{cfaAdvanceLoc | 1, cfaDefCFAOff, 16})...)
}

// TestDebugFrame reads .debug_frame in its versions, sizes and compressions.
func TestDebugFrame(t *testing.T) {
	want := "1000 r7+8 fp=same ra=[cfa-8]\n1001 r7+16 fp=same ra=[cfa-8]\n1040 none\n"
	f := func(data []byte, flags elf.SectionFlag) {
		t.Helper()
		table, err := Compile(bytes.NewReader(makeELF(elf.EM_X86_64, part{name: ".debug_frame", data: data, flags: flags})))
		if err != nil {
			t.Error(err)
		} else if got := show(table); got != want {
			t.Errorf("is\n%swant\n%s", got, want)
		}
	}
	f(debugFrame(1, false), 0)
	f(debugFrame(3, false), 0)
	f(debugFrame(4, false), 0)
	f(debugFrame(4, true), 0)
	plain := debugFrame(3, false)
	header := func(kind elf.CompressionType) []byte {
		return bytes.Join([][]byte{u32(uint32(kind)), u32(0), u64(uint64(len(plain))), u64(1)}, nil)
	}
	var z bytes.Buffer
	w := zlib.NewWriter(&z)
	w.Write(plain)
	w.Close()
	f(append(header(elf.COMPRESS_ZLIB), z.Bytes()...), elf.SHF_COMPRESSED)
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	f(enc.EncodeAll(plain, header(elf.COMPRESS_ZSTD)), elf.SHF_COMPRESSED)
}

// TestOverlap gives an address to the function that stands first, and .eh_frame's before .debug_frame's.
func TestOverlap(t *testing.T) {
	cie := ehCIE("zR", []byte{encUdata4}, 16, x64...)
	eh := bytes.Clone(cie)
	fn := func(start, n uint32, off byte) {
		eh = append(eh, ehFDE(len(eh), append(append(u32(start), u32(n)...), 0), cfaDefCFAOff, off)...)
	}
	fn(0x1010, 0x10, 16)
	eh = append(eh, 0, 0, 0, 0) // a terminator in the middle, as some linkers leave it
	fn(0x1008, 0x20, 24)
	fn(0x1010, 0x10, 32) // the same again
	fn(0x1030, 0, 40)
	file := makeELF(elf.EM_X86_64, part{name: ".eh_frame", addr: ehAddr, data: eh}, part{name: ".debug_frame", data: debugFrame(3, false)})
	table, err := Compile(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	want := `1000 r7+8 fp=same ra=[cfa-8]
1001 r7+16 fp=same ra=[cfa-8]
1008 r7+24 fp=same ra=[cfa-8]
1010 r7+16 fp=same ra=[cfa-8]
1020 r7+24 fp=same ra=[cfa-8]
1028 r7+16 fp=same ra=[cfa-8]
1040 none
`
	if got := show(table); got != want {
		t.Errorf("is\n%swant\n%s", got, want)
	}
	if table.Stats != (Stats{Functions: 4, Shadowed: 1}) {
		t.Errorf("stats %+v", table.Stats)
	}
}

// TestWithoutSections finds .eh_frame through its header's segment.
func TestWithoutSections(t *testing.T) {
	cie := ehCIE("zR", []byte{encUdata4}, 16, x64...)
	eh := append(bytes.Clone(cie), ehFDE(len(cie), append(append(u32(0x1000), u32(0x40)...), 0))...)
	eh = append(eh, 0, 0, 0, 0, 1, 2, 3)
	for _, hdr := range [][]byte{
		append([]byte{1, encPcrel | encSdata4, encOmit, encOmit}, u32((ehAddr-0x300004)&0xffffffff)...),
		append([]byte{1, encUdata4, encOmit, encOmit}, u32(ehAddr)...),
		append([]byte{1, encUdata8, encOmit, encOmit}, u64(ehAddr)...),
	} {
		file := withoutSections(makeELF(elf.EM_X86_64, part{name: ".eh_frame", addr: ehAddr, data: eh}, part{name: ".eh_frame_hdr", addr: 0x300000, data: hdr}))
		table, err := Compile(bytes.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := show(table), "1000 r7+8 fp=same ra=[cfa-8]\n1040 none\n"; got != want {
			t.Errorf("is\n%swant\n%s", got, want)
		}
	}
}

// TestErrors says what is wrong with files that have no table.
func TestErrors(t *testing.T) {
	f := func(file []byte, want error) {
		t.Helper()
		if _, err := Compile(bytes.NewReader(file)); !errors.Is(err, want) {
			t.Errorf("error is %v, want %v", err, want)
		}
	}
	f(nil, errNotELF)
	f([]byte("#!/bin/sh\n"), errNotELF)
	f([]byte(strings.Repeat("\x7fELF", 100)), errNotELF)
	f(makeELF(elf.EM_RISCV), errNotELF)
	f(makeELF(elf.EM_X86_64), ErrNone)
	f(makeELF(elf.EM_X86_64, part{name: ".eh_frame", addr: ehAddr, data: []byte{1}}), ErrNone)

	// What stands before bad bytes counts.
	good := debugFrame(3, false)
	table, err := Compile(bytes.NewReader(makeELF(elf.EM_X86_64, part{name: ".debug_frame", data: append(good, 9, 9, 9, 9, 9)})))
	if err != nil || len(table.Rows) != 3 || table.Stats.Bad != 1 {
		t.Errorf("table %+v, error %v", table, err)
	}
	// A bad medium.
	file := makeELF(elf.EM_X86_64, part{name: ".debug_frame", data: good})
	if _, err := Compile(failing{bytes.NewReader(file), 32}); err == nil {
		t.Error("no error from a medium that cannot be read")
	}
}
