package debuginfo

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/symbolize"
	"github.com/perfuse/perfuse/symbolize/elf"
)

func needs(t testing.TB, tool string) string {
	t.Helper()
	p, err := exec.LookPath(tool)
	if err != nil {
		t.Skip(err)
	}
	return p
}

func run(t testing.TB, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func newLocal(t testing.TB) *Local {
	t.Helper()
	l, err := NewLocal(LocalOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func buildID(t testing.TB, path string) string {
	t.Helper()
	h, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	id, err := elf.BuildID(h)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

const cProgram = `
#include <stdio.h>
#include <string.h>
static int helper(int x) { return x * 3; }
__attribute__((noinline)) static int twice(int x) { return helper(x) + helper(x + 1); }
__attribute__((noinline)) int shared(int x) { return twice(x) + 1; }
int main(int argc, char **argv) {
	char b[64];
	memset(b, argc, sizeof b);
	printf("%d %s\n", shared(argc), strncat(argv[0], b, 3));
	return puts(argv[0]);
}
`

func TestLocalSymbols(t *testing.T) {
	gcc := needs(t, "gcc")
	dir := t.TempDir()
	src, exe := filepath.Join(dir, "a.c"), filepath.Join(dir, "a")
	if err := os.WriteFile(src, []byte(cProgram), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, dir, gcc, "-O1", "-fcf-protection=none", "-o", exe, src)
	l := newLocal(t)
	id := buildID(t, exe)
	if err := l.Add(id, exe, ""); err != nil {
		t.Fatal(err)
	}
	// nm is the truth about the functions, objdump about the stubs.
	want := map[uint64]string{}
	for line := range strings.Lines(run(t, dir, needs(t, "nm"), exe)) {
		f := strings.Fields(line)
		if len(f) == 3 && strings.Contains("tT", f[1]) && !strings.HasPrefix(f[2], "_") {
			want[parseHex(t, f[0])] = f[2]
		}
	}
	stubs := 0
	for line := range strings.Lines(run(t, dir, needs(t, "objdump"), "-d", exe)) {
		if addr, rest, ok := strings.Cut(strings.TrimSpace(line), " <"); ok && strings.HasSuffix(rest, "@plt>:") && strings.Contains("printf puts strncat memset", strings.TrimSuffix(rest, "@plt>:")) {
			want[parseHex(t, addr)] = strings.TrimSuffix(rest, ">:")
			stubs++
		}
	}
	if stubs == 0 || len(want) < 5 {
		t.Fatalf("the truth has %d functions and %d stubs", len(want), stubs)
	}
	for addr, name := range want {
		got, err := l.Resolve(context.Background(), id, []profile.Addr{profile.Addr(addr), profile.Addr(addr + 1)})
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range got {
			if len(g) != 1 || g[0].Name != name {
				t.Errorf("%#x: got %v, want %s", addr, g, name)
			}
		}
	}
	// Nothing covers these.
	got, err := l.Resolve(context.Background(), id, []profile.Addr{0, 1 << 40, 0x200})
	if err != nil || len(got) != 3 || len(got[0])+len(got[1])+len(got[2]) != 0 {
		t.Errorf("got %v %v, want three empty lists", got, err)
	}
}

func TestLocalErrors(t *testing.T) {
	l := newLocal(t)
	ctx := context.Background()
	if _, err := l.Resolve(ctx, "0123456789", nil); !errors.Is(err, symbolize.ErrNoDebugInfo) {
		t.Errorf("an unknown build id: got %v", err)
	}
	if err := l.Add("../../etc/passwd", "/bin/ls", ""); err == nil {
		t.Error("a path was taken for a build id")
	}
	if err := l.Add("0123456789abcdef", "/", ""); err == nil {
		t.Error("a directory was added")
	}
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte(strings.Repeat("no ELF file ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	id := buildID(t, text)
	if err := l.Add(id, text, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Resolve(ctx, id, nil); !errors.Is(err, symbolize.ErrNoDebugInfo) {
		t.Errorf("a text file: got %v", err)
	}
	if err := l.Add("00112233", text, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Resolve(ctx, "00112233", nil); err == nil || !strings.Contains(err.Error(), id) {
		t.Errorf("another file than expected: got %v", err)
	}
}

// Linkage stubs of both architectures against what objdump calls them.
func TestStubs(t *testing.T) {
	const program = `extern int puts(const char *); extern int other(int);
int start(int n) { puts("x"); return other(n) + other(n + 1); }
`
	f := func(name, tool string, args ...string) {
		t.Run(name, func(t *testing.T) {
			needs(t, "ld.lld-19")
			objdump := needs(t, tool)
			exe := compiled(t, "clang-19", "a.c", program, append(args, "-O2", "-fPIC", "-shared", "-nostdlib", "-fuse-ld=lld-19")...)
			content, err := os.ReadFile(exe)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for line := range strings.Lines(run(t, "", objdump, "-d", exe)) {
				addr, rest, ok := strings.Cut(strings.TrimSpace(line), " <")
				if !ok || !strings.HasSuffix(rest, "@plt>:") {
					continue
				}
				n++
				at := profile.Addr(parseHex(t, addr))
				got := answers(t, content, []profile.Addr{at, at + 4, at + 12})
				for i, g := range got {
					if len(g) != 1 || g[0].Name != strings.TrimSuffix(rest, ">:") {
						t.Errorf("%#x, %d: got %v, want %s", uint64(at), i, g, rest)
					}
				}
			}
			if n != 2 {
				t.Errorf("%d stubs", n)
			}
		})
	}
	f("amd64", "objdump", "--target=x86_64-linux-gnu")
	f("amd64-ibt", "objdump", "--target=x86_64-linux-gnu", "-fcf-protection=full", "-Wl,-z,force-ibt")
	f("amd64-now", "objdump", "--target=x86_64-linux-gnu", "-Wl,-z,now")
	f("arm64", "llvm-objdump-19", "--target=aarch64-linux-gnu")
	f("arm64-bti", "llvm-objdump-19", "--target=aarch64-linux-gnu", "-mbranch-protection=bti", "-Wl,-z,force-bti")
}
