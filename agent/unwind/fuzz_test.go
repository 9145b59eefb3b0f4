package unwind

import (
	"bytes"
	"debug/elf"
	"testing"
)

// check compiles a file and holds what comes out to what the types promise.
func check(t *testing.T, file []byte) {
	table, err := Compile(bytes.NewReader(file))
	if err != nil {
		return
	}
	checkTable(t, table)
	p, err := Pack(table)
	if err != nil {
		return
	}
	if err := p.validate(); err != nil {
		t.Fatal(err)
	}
	for _, r := range table.Rows {
		if g, w := p.Lookup(r.Addr), table.Rules[r.Rule]; g != w {
			t.Fatalf("%#x: packed says %+v, table %+v", r.Addr, g, w)
		}
	}
}

// FuzzEhFrame compiles files that have these bytes as .eh_frame and as .debug_frame.
func FuzzEhFrame(f *testing.F) {
	cie := ehCIE("zPLR", append(append([]byte{encPcrel | encIndirect | encSdata4}, u32(77)...), encPcrel|encSdata4, encUdata4), 16, x64...)
	fde := ehFDE(len(cie), append(append(u32(0x1000), u32(0x40)...), 0), cfaRemember, cfaAdvanceLoc|1, cfaDefCFAExpr, 3, 0x76, 0x78, opDeref, cfaAdvanceLoc|2, cfaRestoreState)
	f.Add(append(cie, fde...), true)
	cie = ehCIE("zRS", []byte{encUleb}, 30, cfaDefCFA, 31, 0)
	f.Add(append(cie, ehFDE(len(cie), []byte{0x80, 0x20, 9, 0}, cfaNegateRA, cfaValOffset, 29, 1)...), false)
	f.Add(debugFrame(3, false), true)
	f.Add(debugFrame(4, true), true)
	f.Add(debugFrame(4, false), false)
	f.Fuzz(func(t *testing.T, data []byte, x86 bool) {
		m := elf.EM_X86_64
		if !x86 {
			m = elf.EM_AARCH64
		}
		check(t, makeELF(m, part{name: ".eh_frame", addr: ehAddr, data: data}, part{name: ".debug_frame", data: data}))
	})
}

// FuzzCompile compiles whole files, sections compressed or headers gone.
func FuzzCompile(f *testing.F) {
	cie := ehCIE("zR", []byte{encUdata4}, 16, x64...)
	eh := append(bytes.Clone(cie), ehFDE(len(cie), append(append(u32(0x1000), u32(0x40)...), 0))...)
	file := makeELF(elf.EM_X86_64, part{name: ".eh_frame", addr: ehAddr, data: eh},
		part{name: ".eh_frame_hdr", addr: 0x300000, data: append([]byte{1, encUdata4, encOmit, encOmit}, u32(ehAddr)...)})
	f.Add(file)
	f.Add(withoutSections(file))
	f.Add(makeELF(elf.EM_AARCH64, part{name: ".debug_frame", data: debugFrame(3, false), flags: elf.SHF_COMPRESSED}))
	f.Fuzz(func(t *testing.T, file []byte) { check(t, file) })
}
