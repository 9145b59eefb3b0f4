package unwind

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"testing"

	"github.com/perfuse/perfuse/profile"
)

// TestEntry fills the gap at a file's entry, and nothing else.
func TestEntry(t *testing.T) {
	f := func(entry uint64, fdes [][2]uint32, want string) {
		t.Helper()
		eh := ehCIE("zR", []byte{encUdata4}, 16, x64...)
		for _, f := range fdes {
			var ins []byte
			if f[0]>>31 != 0 {
				ins = []byte{cfaUndefined, 16}
			}
			eh = append(eh, ehFDE(len(eh), append(append(u32(f[0]&^(1<<31)), u32(f[1])...), 0), ins...)...)
		}
		file := makeELF(elf.EM_X86_64, part{name: ".eh_frame", addr: ehAddr, data: eh})
		binary.LittleEndian.PutUint64(file[24:], entry)
		table, err := Compile(bytes.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		checkTable(t, table)
		testPacked(t, table)
		if got := show(table); got != want {
			t.Errorf("entry %#x: is\n%swant\n%s", entry, got, want)
		}
	}
	const fn = " r7+8 fp=same ra=[cfa-8]\n"
	two := [][2]uint32{{0x2000, 0x10}, {0x2040, 0x10}}
	f(0x2000, two, "2000"+fn+"2010 none\n2040"+fn+"2050 none\n")
	f(0x2010, two, "2000"+fn+"2010 end\n2040"+fn+"2050 none\n")
	f(0x2020, two, "2000"+fn+"2010 none\n2020 end\n2040"+fn+"2050 none\n")
	f(0x2050, two, "2000"+fn+"2010 none\n2040"+fn+"2050 end\n2150 none\n")
	f(0x2060, two, "2000"+fn+"2010 none\n2040"+fn+"2050 none\n2060 end\n2160 none\n")
	f(0x1ff0, two, "1ff0 end\n2000"+fn+"2010 none\n2040"+fn+"2050 none\n")
	f(0x1f00, two, "1f00 end\n2000"+fn+"2010 none\n2040"+fn+"2050 none\n")
	f(0x1d00, two, "1d00 end\n1e00 none\n2000"+fn+"2010 none\n2040"+fn+"2050 none\n")
	ends := func(start, n uint32) [2]uint32 { return [2]uint32{start | 1<<31, n} }
	f(0x2010, [][2]uint32{ends(0x2000, 0x10), {0x2040, 0x10}}, "2000 end\n2040"+fn+"2050 none\n")
	f(0x2010, [][2]uint32{ends(0x2000, 0x10), ends(0x2040, 0x10)}, "2000 end\n2050 none\n")
	f(0, two, "2000"+fn+"2010 none\n2040"+fn+"2050 none\n")
	f(ehAddr, two, "2000"+fn+"2010 none\n2040"+fn+"2050 none\n") // not executable
}

// TestPLT gives rules to procedure linkage tables without information, if they look like such.
func TestPLT(t *testing.T) {
	stub := append([]byte{0xff, 0x25, 1, 2, 3, 4, 0x68, 0, 0, 0, 0, 0xe9}, 1, 2, 3, 4)
	endbr := append([]byte{0xf3, 0x0f, 0x1e, 0xfa, 0x68, 0, 0, 0, 0, 0xe9}, 1, 2, 3, 4, 0x66, 0x90)
	eh := ehCIE("zR", []byte{encUdata4}, 16, x64...)
	eh = append(eh, ehFDE(len(eh), append(append(u32(0x1000), u32(0x10)...), 0))...)
	f := func(name string, data []byte, want string) {
		t.Helper()
		table, err := Compile(bytes.NewReader(makeELF(elf.EM_X86_64, part{name: ".eh_frame", addr: ehAddr, data: eh}, part{name: name, addr: 0x3000, data: data})))
		if err != nil {
			t.Fatal(err)
		}
		checkTable(t, table)
		if got := show(table); got != "1000 r7+8 fp=same ra=[cfa-8]\n1010 none\n"+want {
			t.Errorf("%s: is\n%swant\n%s", name, got, want)
		}
	}
	head := append([]byte{0xff, 0x35, 1, 2, 3, 4, 0xff, 0x25}, make([]byte, 8)...)
	f(".plt", append(head, stub...), "3000 r7+16 fp=same ra=[cfa-8]\n3006 r7+24 fp=same ra=[cfa-8]\n3010 plt 11\n3020 none\n")
	f(".plt", append(head, append(endbr, endbr...)...), "3000 r7+16 fp=same ra=[cfa-8]\n3006 r7+24 fp=same ra=[cfa-8]\n3010 plt 9\n3030 none\n")
	f(".plt.sec", endbr, "3000 r7+8 fp=same ra=[cfa-8]\n3010 none\n")
	f(".plt.got", stub, "3000 r7+8 fp=same ra=[cfa-8]\n3010 none\n")
	f(".plt", bytes.Repeat([]byte{0x90}, 32), "")
	f(".plt", head, "")
}

// TestGlibcGaps asks for the rules of glibc's clone, and of the code at which the dynamic linker begins.
func TestGlibcGaps(t *testing.T) {
	f, err := elf.Open("/lib/x86_64-linux-gnu/libc.so.6")
	if err != nil {
		t.Skip("no glibc here")
	}
	defer f.Close()
	syms, err := f.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	table := compileFile(t, "/lib/x86_64-linux-gnu/libc.so.6")
	text := f.Section(".text")
	found := false
	for _, s := range syms {
		if s.Name != "clone" {
			continue
		}
		code := make([]byte, s.Size)
		if _, err := text.ReadAt(code, int64(s.Value-text.Addr)); err != nil {
			t.Fatal(err)
		}
		at := bytes.Index(code, []byte{0x0f, 0x05})
		if at < 0 {
			t.Fatal("no system call in clone")
		}
		found = true
		if r := table.Lookup(profile.Addr(s.Value + uint64(at) + 2)); r.CFA != CFARegister || r.Offset != 8 {
			t.Errorf("behind clone's system call: %s", showRule(r))
		}
	}
	if !found {
		t.Error("no symbol clone")
	}

	const linker = "/lib64/ld-linux-x86-64.so.2"
	if _, err := os.Stat(linker); err != nil {
		t.Skip("no dynamic linker here")
	}
	l, err := elf.Open(linker)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if r := compileFile(t, linker).Lookup(profile.Addr(l.Entry)); r.CFA != CFAEnd {
		t.Errorf("the dynamic linker's entry: %s", showRule(r))
	}
}
