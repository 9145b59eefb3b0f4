package debuginfo

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/symbolize"
	"github.com/perfuse/perfuse/symbolize/elf"
)

// functionSymbols are the functions in .text that the symbol table gives a size.
func functionSymbols(t testing.TB, path string) []elf.Symbol {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []elf.Symbol
	for i := range f.Sections {
		if f.Sections[i].Type != elf.SectionSymtab {
			continue
		}
		err := f.Symbols(&f.Sections[i], func(_ int, s elf.Symbol) bool {
			if s.Type == elf.SymbolFunc && s.Size > 0 && int(s.Section) < len(f.Sections) && f.Sections[s.Section].Name == ".text" {
				out = append(out, s)
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// withoutSections is a file of either word size whose header says that there are no section headers.
func withoutSections(content []byte) []byte {
	b := bytes.Clone(content)
	if b[4] == 2 {
		clear(b[40:48])
	} else {
		clear(b[32:36])
	}
	return b
}

// A stripped program has the functions of the unstripped one: all addresses of one are called by its start, out of the
// file, out of its extraction, and without sections. What the dynamic symbols name keeps its name.
func TestNamelessFunctions(t *testing.T) {
	f := func(name, tool, source, text string, least int, args ...string) {
		t.Run(name, func(t *testing.T) {
			exe := compiled(t, tool, source, text, args...)
			stripped := filepath.Join(t.TempDir(), "stripped")
			objcopy := "objcopy"
			if strings.HasSuffix(name, "arm64") {
				objcopy = "llvm-objcopy-19" // knows all machines, but not the relocations of a static program
			}
			run(t, "", needs(t, objcopy), "--strip-all", exe, stripped)

			var addrs []profile.Addr
			var starts []uint64
			for _, s := range functionSymbols(t, exe) {
				if s.Name == "_dl_tlsdesc_undefweak" {
					continue // glibc begins its unwind information before aligning it
				}
				for _, offset := range []uint64{0, 1, s.Size / 3, s.Size / 2, s.Size - 1} {
					addrs, starts = append(addrs, profile.Addr(s.Addr+min(offset, s.Size-1))), append(starts, s.Addr)
				}
			}
			read := func(path string) []byte {
				b, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				return b
			}
			original, content := read(exe), read(stripped)
			named := answers(t, original, addrs)
			check := func(what string, content []byte) {
				t.Helper()
				nameless, wrong := 0, 0
				for i, got := range answers(t, content, addrs) {
					want := fmt.Sprintf("%s%x", symbolize.NamelessPrefix, starts[i])
					switch {
					case len(got) == 1 && got[0].Name == want:
						nameless++
					case len(got) == 1 && got[0].Name == named[i][0].Name:
					default:
						if wrong++; wrong < 6 {
							t.Errorf("%s: %#x: got %v, want %s (%s)", what, uint64(addrs[i]), got, want, named[i][0].Name)
						}
					}
				}
				if nameless < least {
					t.Errorf("%s: %d of %d addresses are in nameless functions, want at least %d", what, nameless, len(addrs), least)
				}
				t.Logf("%s: %d addresses, %d nameless, %d wrong", what, len(addrs), nameless, wrong)
			}
			check("stripped", content)
			extracted := func(b []byte) []byte {
				x, err := Extract(bytes.NewReader(b), int64(len(b)))
				if err != nil {
					t.Fatal(err)
				}
				if !x.Needed() {
					t.Error("the extraction is said to be of no use")
				}
				return extract(t, x)
			}
			check("extracted", extracted(content))
			if name != "c-gcc-static" { // which has no .eh_frame_hdr, so that only the section leads to .eh_frame
				bare := withoutSections(content)
				check("without sections", bare)
				check("extracted without sections", extracted(bare))
			}

			// Linkage stubs lie in unwind information too, and keep their names.
			for _, s := range mustStubs(t, content) {
				if got := answers(t, content, []profile.Addr{profile.Addr(s.Addr)})[0]; len(got) != 1 || !strings.Contains(got[0].Name, "plt") {
					t.Errorf("%v: got %v", s, got)
				}
			}
		})
	}
	f("c-gcc", "gcc", "a.c", inlinedProgram, 15, "-O2")
	f("c-gcc-no-pie", "gcc", "a.c", inlinedProgram, 15, "-O2", "-no-pie")
	f("c-gcc-static", "gcc", "a.c", inlinedProgram, 1000, "-O2", "-static")
	f("c-gcc-static-pie", "gcc", "a.c", inlinedProgram, 1000, "-O2", "-static-pie")
	f("c-gcc-exported", "gcc", "a.c", inlinedProgram, 5, "-O2", "-rdynamic")
	f("c-clang-lld", "clang-19", "a.c", inlinedProgram, 15, "-O2", "-fuse-ld=lld-19")
	f("c-clang-arm64", "clang-19", "a.c", strings.ReplaceAll(inlinedProgram, "#include", "//"), 5, "-O2", "--target=aarch64-linux-gnu", "-fPIC", "-shared", "-nostdlib", "-fuse-ld=lld-19", "-Wno-everything")
	f("c-clang-386", "clang-19", "a.c", strings.ReplaceAll(inlinedProgram, "#include", "//"), 5, "-O2", "--target=i386-linux-gnu", "-fPIC", "-fasynchronous-unwind-tables", "-shared", "-nostdlib", "-fuse-ld=lld-19", "-Wno-everything")
	f("cpp-gcc", "g++", "a.cc", cppProgram, 60, "-O2")
	f("cpp-gcc-O0", "g++", "a.cc", cppProgram, 300, "-O0")
	f("cpp-clang", "clang++-19", "a.cc", cppProgram, 60, "-O2")
}

// Where unwind information says nothing, nothing is said: assembly without it is not thrown together with the function
// before, and a symbol without a size does not reach over the next function.
func TestNamelessGaps(t *testing.T) {
	objcopy := needs(t, "objcopy")
	exe := compiled(t, "gcc", "a.s", `
	.text
	.type described, @function
described:
	.cfi_startproc
	.zero 32, 0x90
	ret
	.cfi_endproc
	.size described, .-described
	.type bare, @function
bare:
	.zero 64, 0x90
	ret
	.size bare, .-bare
	.globl sizeless
	.type sizeless, @function
sizeless:
	.zero 16, 0x90
	ret
	.type behind, @function
behind:
	.cfi_startproc
	.zero 32, 0x90
	ret
	.cfi_endproc
	.size behind, .-behind
	.section .note.GNU-stack,"",@progbits
`, "-shared", "-nostdlib")
	want := map[string]string{"bare": "", "sizeless": "sizeless"}
	var addrs []profile.Addr
	var names []string
	for _, s := range functionSymbols(t, exe) {
		addrs, names = append(addrs, profile.Addr(s.Addr), profile.Addr(s.Addr+s.Size-1)), append(names, s.Name, s.Name)
		switch s.Name {
		case "described", "behind":
			want[s.Name] = fmt.Sprintf("+0x%x", s.Addr)
		}
		if s.Name == "behind" {
			addrs, names = append(addrs, profile.Addr(s.Addr-17), profile.Addr(s.Addr-1)), append(names, "sizeless", "sizeless")
		}
	}
	if len(want) != 4 || len(addrs) != 8 {
		t.Fatalf("the program has %v", names)
	}
	stripped := filepath.Join(t.TempDir(), "stripped")
	run(t, "", objcopy, "--strip-all", exe, stripped)
	content, err := os.ReadFile(stripped)
	if err != nil {
		t.Fatal(err)
	}
	for i, got := range answers(t, content, addrs) {
		name := ""
		if len(got) > 0 {
			name = got[0].Name
		}
		if name != want[names[i]] {
			t.Errorf("%s, %#x: got %q, want %q", names[i], uint64(addrs[i]), name, want[names[i]])
		}
	}
}
