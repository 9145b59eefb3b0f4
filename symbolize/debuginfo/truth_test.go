package debuginfo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/symbolize"
	"github.com/perfuse/perfuse/symbolize/elf"
)

func parseHex(t testing.TB, s string) uint64 {
	t.Helper()
	v, err := strconv.ParseUint(strings.TrimPrefix(s, "0x"), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// llvmSymbolizer is the truth: for each address the chain of functions, innermost first, under their
// symbols' names.
func llvmSymbolizer(t testing.TB, exe string, addrs []profile.Addr) [][]symbolize.Source {
	t.Helper()
	tool := needs(t, "llvm-symbolizer-19")
	var in strings.Builder
	for _, a := range addrs {
		fmt.Fprintf(&in, "%#x\n", uint64(a))
	}
	cmd := exec.Command(tool, "--output-style=GNU", "--no-demangle", "-i", "-f", "-a", "-e", exe)
	cmd.Stdin = strings.NewReader(in.String())
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all [][]symbolize.Source
	s := bufio.NewScanner(bytes.NewReader(out))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if strings.HasPrefix(s.Text(), "0x") {
			all = append(all, nil)
			continue
		}
		name := s.Text()
		if !s.Scan() {
			break
		}
		pos, _, _ := strings.Cut(s.Text(), " (disc")
		i := strings.LastIndexByte(pos, ':')
		if i < 0 || len(all) == 0 {
			continue
		}
		line, _ := strconv.Atoi(pos[i+1:])
		all[len(all)-1] = append(all[len(all)-1], symbolize.Source{Name: name, File: pos[:i], Line: int32(line)})
	}
	if len(all) != len(addrs) {
		t.Fatalf("llvm-symbolizer answered %d of %d", len(all), len(addrs))
	}
	return all
}

// system gives the symbol's name of a source.
func system(s symbolize.Source) string {
	if s.SystemName != "" {
		return s.SystemName
	}
	return s.Name
}

// textAddrs are every step-th byte of the executable sections but for the linkage stubs.
func textAddrs(t testing.TB, path string, step uint64) []profile.Addr {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []profile.Addr
	for _, s := range f.Sections {
		if s.Flags&elf.SectionExec == 0 || strings.HasPrefix(s.Name, ".plt") || s.Name == ".init" || s.Name == ".fini" {
			continue
		}
		for a := s.Addr; a < s.Addr+s.Size; a += step {
			out = append(out, profile.Addr(a))
		}
	}
	return out
}

type comparison struct{ asked, named, inlined, differ int }

// compare looks for addresses where the two differ. What the truth does not name, without a symbol table,
// may have any one name.
func compare(t *testing.T, want, got [][]symbolize.Source, addrs []profile.Addr) (c comparison) {
	t.Helper()
	for i := range want {
		c.asked++
		w, g := want[i], got[i]
		if len(w) == 1 && w[0].Name == "??" && len(g) < 2 {
			// Lines without a function: assembly, which we name by its symbol, or padding.
			if len(g) == 1 && w[0].Line != 0 {
				c.named++
				if g[0].Line != w[0].Line || g[0].File != w[0].File {
					c.differ++
					t.Logf("%#x:\n got  %+v\n want %+v", uint64(addrs[i]), g, w)
				}
			}
			continue
		}
		c.named++
		if len(w) > 1 {
			c.inlined++
		}
		same := len(w) == len(g)
		for k := 0; same && k < len(w); k++ {
			file := g[k].File
			if g[k].Line == 0 && w[k].Line == 0 {
				file = w[k].File // "??", or where the function is declared
			}
			// A local function has no linkage name in DWARF, but in the symbol table.
			base, _, _ := strings.Cut(w[k].Name, "<")
			name := system(g[k]) == w[k].Name || strings.HasSuffix(g[k].Name, "::"+w[k].Name) || strings.HasPrefix(g[k].SystemName, "_Z") && !strings.HasPrefix(w[k].Name, "_Z") && strings.Contains(g[k].Name, base)
			same = w[k].Line == g[k].Line && w[k].File == file && name
		}
		if !same {
			if c.differ++; c.differ <= 6 {
				t.Logf("%#x:\n got  %+v\n want %+v", uint64(addrs[i]), g, w)
			}
		}
	}
	return c
}

const inlinedProgram = `
#include <stdio.h>
#include <stdlib.h>
volatile unsigned sink;
static inline unsigned mix(unsigned a, unsigned b) { a ^= b << 7; a *= 2654435761u; return a ^ a >> 11; }
static inline unsigned twice(unsigned a) {
	for (int i = 0; i < 3; i++) { a = mix(a, i + sink); sink = mix(sink, a); }
	return a;
}
__attribute__((noinline)) unsigned work(unsigned n) {
	unsigned s = 0;
	while (n--) s = twice(s) + twice(n);
	return s;
}
static __attribute__((noinline, cold)) void fail(const char* s) { puts(s); exit(1); }
int main(int argc, char** argv) {
	if (argc > 100) fail(argv[1]);
	unsigned s = work(argc * 100);
	for (int i = 0; i < argc; i++) s = mix(s, twice(*argv[i]));
	if (s == 42) fail("unlucky");
	printf("%u %u\n", s, sink);
	return 0;
}
`

const cppProgram = `
#include <algorithm>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

namespace {
struct Shape { virtual ~Shape() {} virtual double area() const = 0; };
struct Square : Shape { double s; Square(double s) : s(s) {} double area() const override { return s * s; } };
template <class T> T twice(T x) { return x + x; }
static int depth(int n) { return n <= 0 ? 0 : 1 + depth(n - 1); }
}
namespace work {
inline double add(double a, double b) { return a + b; }
__attribute__((noinline)) double total(const std::vector<Shape*>& in) {
	double sum = 0;
	for (auto* s : in) sum = add(sum, twice(s->area()));
	auto half = [&](double x) { return add(x, -x / 2); };
	return half(sum) + depth(in.size());
}
}
int main(int argc, char** argv) {
	std::vector<Shape*> v;
	for (int i = 0; i < argc + 5; i++) v.push_back(new Square(i));
	std::map<std::string, int> m;
	for (int i = 0; i < argc; i++) m[argv[i]]++;
	std::sort(v.begin(), v.end(), [](Shape* a, Shape* b) { return a->area() > b->area(); });
	try { printf("%f %zu\n", work::total(v), m.size()); } catch (...) { return 1; }
	for (auto* s : v) delete s;
}
`

const rustProgram = `
use std::collections::HashMap;
trait Shape { fn area(&self) -> f64; }
struct Square(f64);
impl Shape for Square { #[inline(always)] fn area(&self) -> f64 { mul(self.0, self.0) } }
#[inline(always)] fn mul(a: f64, b: f64) -> f64 { a * b }
#[inline(never)] fn total(v: &[Square]) -> f64 { v.iter().map(|s| s.area()).sum() }
fn main() {
    let mut m: HashMap<String, usize> = HashMap::new();
    for a in std::env::args() { *m.entry(a).or_insert(0) += 1; }
    let mut v: Vec<Square> = (0..m.len() + 10).map(|i| Square(i as f64)).collect();
    v.sort_by(|a, b| b.area().partial_cmp(&a.area()).unwrap());
    println!("{} {}", total(&v), m.len());
}
`

const asmProgram = `
	.text
	.globl assembled
	.type assembled, @function
assembled:
	mov %rdi, %rax
	add $1, %rax
	ret
	.size assembled, .-assembled
	.globl after
	.type after, @function
after:
	nop
	ret
	.size after, .-after
	.section .note.GNU-stack,"",@progbits
`

// compiled builds a program; the tool decides whether the test is skipped.
func compiled(t testing.TB, tool, source, text string, args ...string) string {
	t.Helper()
	bin := needs(t, tool)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, source), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if tool != "rustc" {
		args = append(args, "-ffile-prefix-map="+dir+"=/src")
	}
	run(t, dir, bin, append(args, "-o", "a.out", source)...)
	return filepath.Join(dir, "a.out")
}

// hideSymbols copies a 64-bit file and makes its symbol table a section of no meaning.
func hideSymbols(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	shoff := binary.LittleEndian.Uint64(b[40:])
	for i := range f.Sections {
		if f.Sections[i].Type == elf.SectionSymtab {
			binary.LittleEndian.PutUint32(b[shoff+64*uint64(i)+4:], elf.SectionProgbits)
		}
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAgainstSymbolizer(t *testing.T) {
	f := func(name, tool, source, text string, minInlined int, args ...string) {
		t.Run(name, func(t *testing.T) {
			exe := compiled(t, tool, source, text, args...)
			l := newLocal(t)
			id := buildID(t, exe)
			if err := l.Add(id, exe, ""); err != nil {
				t.Fatal(err)
			}
			addrs := textAddrs(t, exe, 3)
			if n := len(addrs) / 3000; n > 1 {
				addrs = textAddrs(t, exe, uint64(3*n)|1)
			}
			got, err := l.Resolve(context.Background(), id, addrs)
			if err != nil {
				t.Fatal(err)
			}
			if w := l.Warning(id); w != nil {
				t.Errorf("warning: %v", w)
			}
			// With a symbol table the symbolizer takes the outermost names from there, clones and aliases.
			truth := filepath.Join(t.TempDir(), "truth")
			from := exe
			if name == "c-gcc-zdebug" || name == "c-gcc-dwarf64" {
				// It reads neither; the code is the same.
				from = compiled(t, tool, source, text, "-g", "-O2")
			}
			hideSymbols(t, from, truth)
			c := compare(t, llvmSymbolizer(t, truth, addrs), got, addrs)
			t.Logf("%+v", c)
			if c.differ > 0 || c.inlined < minInlined || c.named < 8 {
				t.Errorf("%+v", c)
			}
		})
	}
	f("c-gcc", "gcc", "a.c", inlinedProgram, 30, "-g", "-O2")
	f("c-gcc-dwarf2", "gcc", "a.c", inlinedProgram, 30, "-gdwarf-2", "-gstrict-dwarf", "-O2")
	f("c-gcc-dwarf3", "gcc", "a.c", inlinedProgram, 30, "-gdwarf-3", "-O2")
	f("c-gcc-dwarf4", "gcc", "a.c", inlinedProgram, 30, "-gdwarf-4", "-O2")
	f("c-gcc-dwarf64", "gcc", "a.c", inlinedProgram, 30, "-g", "-gdwarf64", "-O2")
	f("c-gcc-zlib", "gcc", "a.c", inlinedProgram, 30, "-g", "-O2", "-gz=zlib")
	f("c-gcc-zdebug", "gcc", "a.c", inlinedProgram, 30, "-g", "-O2", "-gz=zlib-gnu")
	f("c-gcc-sections", "gcc", "a.c", inlinedProgram, 30, "-g", "-O2", "-ffunction-sections", "-Wl,--gc-sections", "-no-pie")
	f("c-clang", "clang-19", "a.c", inlinedProgram, 30, "-g", "-O2")
	f("c-clang-dwarf4", "clang-19", "a.c", inlinedProgram, 30, "-gdwarf-4", "-O2")
	f("c-clang-zstd", "clang-19", "a.c", inlinedProgram, 30, "-g", "-O2", "-gz=zstd", "-fuse-ld=lld-19")
	f("c-clang-arm64", "clang-19", "a.c", strings.ReplaceAll(inlinedProgram, "#include", "//"), 20, "-g", "-O2", "--target=aarch64-linux-gnu", "-fPIC", "-shared", "-nostdlib", "-fuse-ld=lld-19", "-Wno-everything")
	f("cpp-gcc", "g++", "a.cc", cppProgram, 200, "-g", "-O2")
	f("cpp-gcc-dwarf4", "g++", "a.cc", cppProgram, 200, "-gdwarf-4", "-fdebug-types-section", "-O2")
	f("cpp-gcc-lto", "g++", "a.cc", cppProgram, 200, "-g", "-O2", "-flto")
	f("cpp-gcc-O0", "g++", "a.cc", cppProgram, 0, "-g", "-O0")
	f("cpp-clang", "clang++-19", "a.cc", cppProgram, 200, "-g", "-O2")
	f("cpp-clang-types", "clang++-19", "a.cc", cppProgram, 200, "-g", "-O2", "-fdebug-types-section")
	f("rust", "rustc", "a.rs", rustProgram, 100, "-g", "-O")
	f("rust-debug", "rustc", "a.rs", rustProgram, 20, "-g")
	f("asm", "gcc", "a.s", asmProgram+"\n.text\n.globl main\n.type main,@function\nmain: call assembled\n call after\n xor %eax,%eax\n ret\n .size main,.-main\n", 0, "-g")
}
