package unwind

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/perfuse/perfuse/profile"
)

// TestAnalyze follows machine code without unwind information.
func TestAnalyze(t *testing.T) {
	f := func(code []byte, want string) {
		t.Helper()
		for len(code) < minAnalyzed {
			code = append(code, 0xcc)
		}
		table, err := Compile(bytes.NewReader(makeCode(code)))
		if err != nil {
			t.Error(err)
			return
		}
		checkTable(t, table)
		if got := show(table); got != want {
			t.Errorf("is\n%swant\n%s", got, want)
		}
	}
	const entry = "10000 r7+8 fp=same ra=[cfa-8]\n"
	// push rbx; sub rsp,16; nop; add rsp,16; pop rbx; ret
	f([]byte{0x53, 0x48, 0x83, 0xec, 0x10, 0x90, 0x48, 0x83, 0xc4, 0x10, 0x5b, 0xc3},
		entry+"10001 r7+16 fp=same ra=[cfa-8]\n10005 r7+32 fp=same ra=[cfa-8]\n1000a r7+16 fp=same ra=[cfa-8]\n1000b r7+8 fp=same ra=[cfa-8]\n1000c none\n")
	// push rbp; mov rbp,rsp; and rsp,-32; sub rsp,64; leave; ret
	f([]byte{0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xe4, 0xe0, 0x48, 0x83, 0xec, 0x40, 0xc9, 0xc3},
		entry+"10001 r7+16 fp=[cfa-16] ra=[cfa-8]\n10004 r6+16 fp=[cfa-16] ra=[cfa-8]\n1000d r7+8 fp=same ra=[cfa-8]\n1000e none\n")
	// Two ways to one end: test edi,edi; je; push rax; pop rax; ret
	f([]byte{0x85, 0xff, 0x74, 0x02, 0x50, 0x58, 0xc3}, entry+"10005 r7+16 fp=same ra=[cfa-8]\n10006 r7+8 fp=same ra=[cfa-8]\n10007 none\n")
	// A return with something left on the stack: no function. Behind it is one.
	f(append([]byte{0x50, 0xc3, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc}, 0x53, 0x5b, 0xc3),
		"10010 r7+8 fp=same ra=[cfa-8]\n10011 r7+16 fp=same ra=[cfa-8]\n10012 r7+8 fp=same ra=[cfa-8]\n10013 none\n")
	// A call that does not return, with an argument on the stack; what follows is reached otherwise.
	// test edi,edi; je +6; push rax; call f; ret; (f:) hlt
	f([]byte{0x85, 0xff, 0x74, 0x06, 0x50, 0xe8, 0x01, 0, 0, 0, 0xc3, 0xf4}, entry+"10005 r7+16 fp=same ra=[cfa-8]\n1000a r7+8 fp=same ra=[cfa-8]\n1000c none\n")
	// A signal trampoline behind a function: mov rax,15; syscall
	f([]byte{0x31, 0xc0, 0xc3, 0xcc, 0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05}, entry+"10003 signal\n1000d none\n")
	// The start of a thread takes its own stack apart: pop rdi; call rax; hlt
	f([]byte{0x5f, 0xff, 0xd0, 0xf4}, entry+"10001 end\n10004 none\n")
	// vmovdqu ymm0,[rdi]; vzeroupper; ret
	f([]byte{0xc5, 0xfe, 0x6f, 0x07, 0xc5, 0xf8, 0x77, 0xc3}, entry+"10008 none\n")
}

// makeCode returns a file of nothing but code at 0x10000.
func makeCode(code []byte) []byte {
	file := makeELF(elf.EM_X86_64, part{name: ".text", addr: 0x10000, data: code, flags: elf.SHF_ALLOC | elf.SHF_EXECINSTR})
	return file
}

// TestAnalyzeTruth analyzes libraries that do have unwind information as if they had not, and compares.
func TestAnalyzeTruth(t *testing.T) {
	any := false
	for _, path := range []string{"/bin/bash", "/lib/x86_64-linux-gnu/libc.so.6", "/usr/lib/x86_64-linux-gnu/libcrypto.so.3"} {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		defer f.Close()
		any = true
		im, err := openImage(f)
		if err != nil {
			t.Fatal(err)
		}
		truth := compileFile(t, path)
		same, wrong, unknown := 0, 0, 0
		known := newStarts(im)
		for _, s := range im.codeSections() {
			a := newAnalysis(im, s.addr, s.addr+s.len, known)
			for i := range a.ins {
				want := truth.Lookup(profile.Addr(s.addr + uint64(a.off[i])))
				if want == NoInfo || a.ins[i].does == effectPadding {
					continue
				}
				got := a.at[i].rule()
				switch {
				case !a.seen[i] || got.CFA == CFAUnsupported:
					unknown++
				case got.CFA != CFARegister || want.CFA != CFARegister || got.Reg != want.Reg:
					// Both may be right.
				case got.Offset == want.Offset:
					same++
				default:
					wrong++
				}
			}
		}
		t.Logf("%s: %d instructions agree, %d disagree, %d are not known", path, same, wrong, unknown)
		if wrong*100 > same {
			t.Errorf("%s: %d of %d are wrong", path, wrong, same)
		}
		if unknown*4 > same {
			t.Errorf("%s: %d are not known", path, unknown)
		}
	}
	if !any {
		t.Skip("none of the files is here")
	}
}

// buildBare builds a C program that has no unwind information.
func buildBare(t *testing.T, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("gcc is not installed")
	}
	out := filepath.Join(t.TempDir(), "bare")
	cmd := exec.Command("gcc", append(args, "-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fcf-protection=none", "-o", out, "testdata/bare.c")...)
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, msg)
	}
	if msg, err := exec.Command("strip", out).CombinedOutput(); err != nil {
		t.Fatalf("strip: %v\n%s", err, msg)
	}
	return out
}

// TestLiveBare walks stacks of programs that have no unwind information.
func TestLiveBare(t *testing.T) {
	for _, args := range [][]string{{"-O2"}, {"-Os"}, {"-O3", "-march=haswell"}, {"-O2", "-fno-omit-frame-pointer"}, {"-O0"}, {"-O2", "-static"}} {
		t.Run(args[len(args)-1], func(t *testing.T) { testLive(t, 300, buildBare(t, args...)) })
	}
}

// FuzzAnalyze follows whatever bytes.
func FuzzAnalyze(f *testing.F) {
	f.Add([]byte{0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xe4, 0xe0, 0x48, 0x83, 0xec, 0x40, 0xc9, 0xc3})
	f.Add([]byte{0x85, 0xff, 0x74, 0x06, 0x50, 0xe8, 0x01, 0, 0, 0, 0xc3, 0xf4})
	f.Add([]byte{0x31, 0xc0, 0xc3, 0xcc, 0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05})
	f.Add(goText)
	f.Fuzz(func(t *testing.T, code []byte) {
		for len(code) < minAnalyzed {
			code = append(code, 0xcc)
		}
		check(t, makeCode(code))
	})
}
