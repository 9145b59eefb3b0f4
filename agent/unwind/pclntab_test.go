package unwind

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"testing"
)

// goFn is a function of a pclntab that a test makes: its name, size, flag and changes of the stack
// pointer, as pairs of bytes of code and delta.
type goFn struct {
	name   string
	size   uint64
	flag   byte
	deltas []int
}

// makePclntab returns pclntab as a version of Go writes it, for a text at an address. With bare the header
// lacks the text's address.
func makePclntab(version int, text uint64, bare bool, fns []goFn) []byte {
	le := binary.LittleEndian
	var names, pctab, list, recs bytes.Buffer
	pctab.WriteByte(0)
	word := func(b *bytes.Buffer, v uint64) {
		if version == 116 {
			b.Write(u64(v + text))
		} else {
			b.Write(u32(uint32(v)))
		}
	}
	at := func(b *bytes.Buffer, v uint64) {
		if version == 116 {
			b.Write(u64(v))
		} else {
			b.Write(u32(uint32(v)))
		}
	}
	w := 4
	if version == 116 {
		w = 8
	}
	pc, base := uint64(0), uint64((len(fns)*2+1)*w)
	for _, fn := range fns {
		word(&list, pc)
		at(&list, base+uint64(recs.Len()))
		word(&recs, pc)
		recs.Write(u32(uint32(names.Len())))
		names.WriteString(fn.name + "\x00")
		recs.Write(make([]byte, 8)) // arguments, deferreturn
		recs.Write(u32(uint32(pctab.Len())))
		recs.Write(make([]byte, 16)) // other tables
		if version == 120 {
			recs.Write(u32(7)) // line
		}
		recs.Write([]byte{0, fn.flag, 0, 0, 0, 0, 0, 0}) // id, flag, padding
		val := -1
		for i := 0; i+1 < len(fn.deltas); i += 2 {
			d := fn.deltas[i+1] - val
			val = fn.deltas[i+1]
			pctab.Write(binary.AppendUvarint(nil, uint64(uint32(d<<1^d>>31))))
			pctab.Write(binary.AppendUvarint(nil, uint64(fn.deltas[i])))
		}
		pctab.WriteByte(0)
		pc += fn.size
	}
	word(&list, pc)
	magic := map[int]uint32{116: magic116, 118: magic118, 120: magic120}[version]
	out := le.AppendUint32(nil, magic)
	out = append(out, 0, 0, 1, 8)
	out = le.AppendUint64(out, uint64(len(fns)))
	out = le.AppendUint64(out, 1)
	if version != 116 {
		if bare {
			out = le.AppendUint64(out, 0)
		} else {
			out = le.AppendUint64(out, text)
		}
	}
	header := uint64(len(out) + 5*8)
	parts := []int{names.Len(), 0, 0, pctab.Len()}
	off := header
	for _, n := range parts {
		out = le.AppendUint64(out, off)
		off += uint64(n)
	}
	out = le.AppendUint64(out, off)
	for _, b := range []*bytes.Buffer{&names, &pctab, &list, &recs} {
		out = append(out, b.Bytes()...)
	}
	return append(out, make([]byte, 16)...)
}

// goText is machine code at 0x400000: a function since Go 1.21, one before it, assembly, and the runtime's.
var (
	goFns = []goFn{
		{"main.new", 32, 0, []int{4, 0, 5, 8, 17, 40, 1, 8, 1, 0}},
		{"main.old", 32, 0, []int{4, 0, 27, 24, 1, 0}},
		{"main.leaf", 16, goFlagAsm, []int{9, 0}},
		{"main.push", 16, goFlagAsm, []int{2, 0, 5, 8, 2, 0}},
		{"runtime.goexit", 16, goFlagTop, []int{3, 0}},
		{"runtime.sigreturn", 16, goFlagAsm, []int{9, 0}},
		{"runtime.systemstack", 32, goFlagAsm | goFlagSPWrite, []int{1, 0, 14, 8, 1, 0}},
		{"runtime.mcall", 32, goFlagAsm | goFlagSPWrite, []int{1, 0, 14, 8, 1, 0}},
		{"runtime.gogo", 16, goFlagAsm | goFlagSPWrite, []int{9, 0}},
	}
	goText = bytes.Join([][]byte{
		{0x90, 0x90, 0x90, 0x55, 0x48, 0x89, 0xe5, 0x83, 0xec, 0x20}, bytes.Repeat([]byte{0x90}, 22),
		{0x48, 0x83, 0xec, 0x18, 0x48, 0x89, 0x6c, 0x24, 0x10, 0x48, 0x8d, 0x6c, 0x24, 0x10}, bytes.Repeat([]byte{0x90}, 18),
		bytes.Repeat([]byte{0x90}, 16),
		{0x41, 0x54}, bytes.Repeat([]byte{0x90}, 14),
		bytes.Repeat([]byte{0x90}, 16),
		{0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05}, bytes.Repeat([]byte{0xcc}, 7),
		{0x55, 0x48, 0x89, 0xe5, 0x48, 0x8b, 0x62, 0x38, 0xff, 0xd7, 0x48, 0x8b, 0x60, 0x38, 0x5d, 0xc3}, bytes.Repeat([]byte{0xcc}, 16),
		{0x55, 0x48, 0x89, 0xe5, 0x48, 0x8b, 0x62, 0x38, 0x31, 0xed, 0xff, 0xd7, 0x90, 0x90, 0x90, 0xc3}, bytes.Repeat([]byte{0xcc}, 16),
		{0x48, 0x8b, 0x62, 0x38, 0x48, 0x8b, 0x6a, 0x40, 0xff, 0xe3}, bytes.Repeat([]byte{0xcc}, 6),
	}, nil)
)

const (
	goTextAddr = 0x40000
	goTabAddr  = 0x500000
	goWant     = `40000 r7+8 fp=same ra=[cfa-8]
40004 r7+16 fp=[cfa-16] ra=[cfa-8]
40009 r7+48 fp=[cfa-16] ra=[cfa-8]
4001a r7+16 fp=[cfa-16] ra=[cfa-8]
4001b r7+8 fp=same ra=[cfa-8]
4001c none
40020 r7+8 fp=same ra=[cfa-8]
40024 r7+32 fp=same ra=[cfa-8]
40029 r7+32 fp=[cfa-16] ra=[cfa-8]
4003f r7+8 fp=same ra=[cfa-8]
40049 none
40050 r7+8 fp=same ra=[cfa-8]
40052 r7+16 fp=same ra=[cfa-8]
40057 r7+8 fp=same ra=[cfa-8]
40059 none
40060 end
4006f signal
40080 r7+8 fp=same ra=[cfa-8]
40081 r7+16 fp=[cfa-16] ra=[cfa-8]
40084 r6+16 fp=[cfa-16] ra=[cfa-8]
4008f r7+8 fp=same ra=[cfa-8]
40090 none
400a0 r7+8 fp=same ra=[cfa-8]
400a1 r7+16 fp=[cfa-16] ra=[cfa-8]
400a4 r6+16 fp=[cfa-16] ra=[cfa-8]
400aa end
400b0 none
400c0 r7+8 fp=same ra=[cfa-8]
400c4 end
400c9 none
`
)

// TestPclntab reads the tables of all versions, and finds where the text begins if they do not say it.
func TestPclntab(t *testing.T) {
	text := part{name: ".text", addr: goTextAddr, data: goText}
	f := func(file []byte) {
		t.Helper()
		table, err := Compile(bytes.NewReader(file))
		if err != nil {
			t.Error(err)
			return
		}
		checkTable(t, table)
		if got := show(table); got != goWant {
			t.Errorf("is\n%swant\n%s", got, goWant)
		}
	}
	for _, v := range []int{116, 118, 120} {
		tab := makePclntab(v, goTextAddr, false, goFns)
		f(makeELF(elf.EM_X86_64, text, part{name: ".gopclntab", addr: goTabAddr, data: tab}))
		f(makeELF(elf.EM_X86_64, text, part{name: ".data.rel.ro.gopclntab", addr: goTabAddr, data: tab}))
		// Somewhere in read-only data, in a file that has Go's build id.
		f(makeELF(elf.EM_X86_64, text, part{name: ".note.go.buildid", addr: 0x700000, data: []byte{0}},
			part{name: ".data.rel.ro", addr: goTabAddr - 64, data: append(bytes.Repeat([]byte{0xff}, 64), tab...)}))
	}
	bare := part{name: ".gopclntab", addr: goTabAddr, data: makePclntab(120, goTextAddr, true, goFns)}
	module := make([]byte, moduleText+16)
	put := func(off int, v uint64) { binary.LittleEndian.PutUint64(module[off:], v) }
	put(0, goTabAddr)
	put(moduleMinPC, goTextAddr)
	put(moduleText, goTextAddr)
	f(makeELF(elf.EM_X86_64, text, bare, part{name: ".noptrdata", addr: 0x700000, data: append(make([]byte, 24), module...)}))
	rela := func(where, addend uint64) []byte {
		return bytes.Join([][]byte{u64(where), u64(uint64(elf.R_X86_64_RELATIVE)), u64(addend)}, nil)
	}
	f(makeELF(elf.EM_X86_64, text, bare, part{name: ".rela.dyn", addr: 0x700000, data: append(rela(0x710000+moduleText, goTextAddr), rela(0x710000, goTabAddr)...)}))
	// Entered at its first function.
	fns := append([]goFn{{"_rt0_amd64_linux", 16, 0, []int{9, 0}}}, goFns...)
	file := makeELF(elf.EM_X86_64, part{name: ".text", addr: goTextAddr - 16, data: append(make([]byte, 16), goText...)},
		part{name: ".gopclntab", addr: goTabAddr, data: makePclntab(120, goTextAddr-16, true, fns)})
	binary.LittleEndian.PutUint64(file[24:], goTextAddr-16)
	table, err := Compile(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := show(table), "3fff0 end\n"+goWant; got != want {
		t.Errorf("is\n%swant\n%s", got, want)
	}
	// Without a way to find the text there is no table.
	if _, err := Compile(bytes.NewReader(makeELF(elf.EM_X86_64, text, bare))); err == nil {
		t.Error("a table of functions that are nowhere")
	}
}

// FuzzPclntab compiles files that have these bytes as .gopclntab, and others as their code.
func FuzzPclntab(f *testing.F) {
	for _, v := range []int{116, 118, 120} {
		f.Add(makePclntab(v, goTextAddr, false, goFns), goText, true)
		f.Add(makePclntab(v, goTextAddr, v != 116, goFns), goText, false)
	}
	f.Fuzz(func(t *testing.T, tab, code []byte, x86 bool) {
		m := elf.EM_X86_64
		if !x86 {
			m = elf.EM_AARCH64
		}
		module := make([]byte, moduleText+16)
		binary.LittleEndian.PutUint64(module, goTabAddr)
		binary.LittleEndian.PutUint64(module[moduleMinPC:], goTextAddr)
		binary.LittleEndian.PutUint64(module[moduleText:], goTextAddr)
		check(t, makeELF(m, part{name: ".text", addr: goTextAddr, data: code}, part{name: ".gopclntab", addr: goTabAddr, data: tab},
			part{name: ".go.module", addr: 0x700000, data: module}))
	})
}
