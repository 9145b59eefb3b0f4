package native

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

// TestSite finds the place of a probe in the first instructions of functions, as compilers make them.
func TestSite(t *testing.T) {
	at := func(offset uint64, args ...uint8) site {
		s := site{offset: offset, args: argsX86}
		copy(s.args[:], args)
		return s
	}
	f := func(name, code string, want site) {
		t.Helper()
		b, err := hex.DecodeString(strings.ReplaceAll(code, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if got := siteX86(b); got != want {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
	f("push r12; push rbp", "4154 55", at(0))
	f("endbr64; push rbp", "f30f1efa 55", at(4))
	f("test rdi, rdi; je +1; ret; ret", "4885ff 7401 c3 c3", at(3))
	f("cmp rdi, 0x1000; ja", "4881ff00100000 0f8793000000", at(7))
	f("cmpb $0, x(rip); push r12", "803d0102140000 4154", at(7))
	f("jmp", "e96b190000", at(0))
	f("nop", "90 c3", at(0))
	f("mov rax, rsi; mul rdx; mov rsi, rax; jo: the size is lost", "4889f0 48f7e2 4889c6 7005", at(9, regDI, regSP, regSP))
	f("mov rcx, rdi; mov edi, 1; push rbx: in rcx now", "4889f9 bf01000000 53", at(8, 1))
	f("mov rdx, rsi; mov rsi, rdi; mov rdi, rax; jmp", "4889f2 4889fe 4889c7 e9f74effff", at(9, regSI, regDX, regSP))
	f("xor edi, edi; push: not in a part of it", "31ff 55", at(2, regSP))
	f("mov al, dil; mov dil, 0; push: nor in what is left of it", "4088f8 40b700 55", at(6, regSP))

	f("sub rsp, 8: moves the stack pointer", "4883ec08 55", at(0))
	f("pop rax: moves it, too", "58 55", at(0))
	f("mov rsp, rbp: as well", "4889ec 55", at(0))
	f("ret", "c3 55", at(0))
	f("jmp rax: goes elsewhere", "ffe0 55", at(0))
	f("rep stosb: changes several", "f3aa 55", at(0))
	f("lock inc", "f0ff07 55", at(0))
	f("syscall", "0f05 55", at(0))
	f("xchg rdi, rsi", "4887f7 55", at(0))
	f("data16 nop: not one that is emulated", "6690 55", at(2))
	f("a loop over the place", "4885ff 7402 ebfc c3", at(0)) // jmp to the je
	f("a loop to the very beginning", "4885ff 7402 ebf9 c3", at(3))
	f("nothing", "", at(0))
	f("cut in an instruction", "4885", at(0))
	f("a call, cut", "e800", at(0))
}

func FuzzSite(f *testing.F) {
	for _, code := range []string{"415455", "4885ff7401c3c3", "f30f1efa55", "4889f24889fe4889c7e9f74effff", "c5f877c3", "66"} {
		b, _ := hex.DecodeString(code)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, code []byte) {
		if len(code) > maxFunction {
			return
		}
		s := siteX86(code)
		if s.offset > 0 && emulated(code[s.offset:]) == 0 {
			t.Errorf("%x: the place %d is none that is emulated", code, s.offset)
		}
		for _, r := range s.args {
			if r > 15 {
				t.Errorf("%x: register %d", code, r)
			}
		}
		reaches(code, 0x1000, func(uint64) bool { return false })
	})
}

// TestKnown finds what functions are by their names.
func TestKnown(t *testing.T) {
	f := func(name, want string) {
		t.Helper()
		fn, ok := known(name)
		got := "nothing"
		if ok {
			got = fmt.Sprintf("form %d of %d, %d, %d", fn.form, fn.pointer, fn.size, fn.count)
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	f("malloc", "form 0 of 0, 0, 0")
	f("_rjem_calloc", "form 1 of 0, 0, 1")
	f("tc_realloc", "form 2 of 0, 1, 0")
	f("mi_reallocarray", "form 3 of 0, 1, 2")
	f("__libc_memalign", "form 0 of 0, 1, 0")
	f("je_posix_memalign", "form 4 of 0, 2, 0")
	f("_rjem_sdallocx", "form 5 of 0, 0, 0")
	f("_ZnamSt11align_val_tRKSt9nothrow_t", "form 0 of 0, 0, 0")
	f("_ZdlPvm", "form 5 of 0, 0, 0")
	f("tc_new", "form 0 of 0, 0, 0")
	f("new", "nothing")
	f("delete", "nothing")
	f("malloc_usable_size", "nothing")
	f("xmalloc", "nothing")
	f("_ZN3foo6mallocEv", "nothing")
}
