package debuginfo

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/symbolize"
	"github.com/perfuse/perfuse/symbolize/elf"
	"github.com/perfuse/perfuse/symbolize/index"
	"github.com/perfuse/perfuse/symbolize/table"
)

func extract(t testing.TB, x *Extraction) []byte {
	t.Helper()
	defer x.Close()
	var b bytes.Buffer
	n, err := x.WriteTo(&b)
	if err != nil {
		t.Fatal(err)
	}
	if n != x.Size() || n != int64(b.Len()) {
		t.Fatalf("%d bytes written, %d counted, %d announced", b.Len(), n, x.Size())
	}
	return b.Bytes()
}

// answers resolves addresses in a file that is given by its bytes.
func answers(t testing.TB, content []byte, addrs []profile.Addr) [][]symbolize.Source {
	t.Helper()
	l := newLocal(t)
	if err := l.AddBytes("00000000", "content", content); err != nil {
		t.Fatal(err)
	}
	got, err := l.Resolve(context.Background(), "00000000", addrs)
	if err != nil {
		t.Fatal(err)
	}
	if w := l.Warning("00000000"); w != nil {
		t.Errorf("warning: %v", w)
	}
	return got
}

func sameAnswers(t *testing.T, want, got [][]symbolize.Source, addrs []profile.Addr) {
	t.Helper()
	named, differ := 0, 0
	for i := range want {
		if len(want[i]) > 0 {
			named++
		}
		if !slices.Equal(want[i], got[i]) {
			if differ++; differ < 5 {
				t.Errorf("%#x:\n got  %+v\n want %+v", uint64(addrs[i]), got[i], want[i])
			}
		}
	}
	if named*10 < len(want)*4 {
		t.Errorf("only %d of %d addresses are named", named, len(want))
	}
	t.Logf("%d addresses, %d named, %d differ", len(want), named, differ)
}

const goProgram = `package main

import (
	"fmt"
	"net/http"
	"os"
)

type shape interface{ area() float64 }
type square struct{ side float64 }

func (s square) area() float64 { return mul(s.side, s.side) }
func mul(a, b float64) float64 { return a * b }

func main() {
	var all []shape
	for range os.Args {
		all = append(all, square{2})
	}
	fmt.Println(all[0].area(), http.StatusText(len(all)))
}
`

func goBuild(t testing.TB, cgo string, flags ...string) string {
	t.Helper()
	bin := needs(t, "go")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(goProgram), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CGO_ENABLED", cgo)
	t.Setenv("GOFLAGS", "")
	run(t, dir, bin, append(append([]string{"build"}, flags...), "-o", "a.out", "main.go")...)
	return filepath.Join(dir, "a.out")
}

// The extracted file gives the same answers as the original, and is what the agent can afford to send.
func TestExtractSameAnswers(t *testing.T) {
	f := func(name string, maxShare int, build func(t testing.TB) string) {
		t.Run(name, func(t *testing.T) {
			exe := build(t)
			original, err := os.ReadFile(exe)
			if err != nil {
				t.Fatal(err)
			}
			h, err := os.Open(exe)
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			x, err := Extract(h, int64(len(original)))
			if err != nil {
				t.Fatal(err)
			}
			if !x.Needed() {
				t.Error("it is said to be of no use")
			}
			small := extract(t, x)
			// The same through a reader that cannot be mapped.
			y, err := Extract(bytes.NewReader(original), int64(len(original)))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(extract(t, y), small) {
				t.Error("a mapped file and a reader give different extractions")
			}
			e, err := elf.NewBytes(small)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := e.BuildID(), buildID(t, exe); got != want && got != "" {
				t.Errorf("build id %s, want %s", got, want)
			}
			if share := len(small) * 100 / len(original); share > maxShare {
				t.Errorf("%d of %d bytes, %d %%", len(small), len(original), share)
			} else {
				t.Logf("%d of %d bytes, %d %%", len(small), len(original), share)
			}
			addrs := textAddrs(t, exe, 3)
			if n := len(addrs) / 20000; n > 1 {
				addrs = textAddrs(t, exe, uint64(3*n)|1)
			}
			for _, s := range mustStubs(t, original) {
				addrs = append(addrs, profile.Addr(s.Addr), profile.Addr(s.Addr+s.Size-1))
			}
			sameAnswers(t, answers(t, original, addrs), answers(t, small, addrs), addrs)
		})
	}
	c := func(args ...string) func(testing.TB) string {
		return func(t testing.TB) string { return compiled(t, "gcc", "a.c", cProgram, args...) }
	}
	f("c", 60, c("-O2", "-g"))
	f("c-symbols", 55, c("-O2"))
	f("c-stripped", 35, c("-O2", "-s", "-rdynamic"))
	f("c-zlib", 60, c("-O2", "-g", "-gz=zlib"))
	f("cpp", 90, func(t testing.TB) string { return compiled(t, "g++", "a.cc", cppProgram, "-O2", "-g") })
	f("rust", 90, func(t testing.TB) string { return compiled(t, "rustc", "a.rs", rustProgram, "-O", "-g") })
	f("go", 45, func(t testing.TB) string { return goBuild(t, "0") })
	f("go-stripped", 45, func(t testing.TB) string { return goBuild(t, "0", "-ldflags=-s -w") })
	f("go-pie-stripped", 45, func(t testing.TB) string { return goBuild(t, "0", "-buildmode=pie", "-ldflags=-s -w") })
	f("go-cgo", 80, func(t testing.TB) string { needs(t, "gcc"); return goBuild(t, "1", "-ldflags=-linkmode=external") })
}

func mustStubs(t testing.TB, content []byte) []elf.Stub {
	t.Helper()
	f, err := elf.NewBytes(content)
	if err != nil {
		t.Fatal(err)
	}
	return f.Stubs(nil)
}

// Split debug files, found in each place that they may lie in, give the answers of the whole file; so does an
// extraction that takes them in.
func TestSplitDebugFile(t *testing.T) {
	objcopy := needs(t, "objcopy")
	exe := compiled(t, "g++", "a.cc", cppProgram, "-O2", "-g", "-Wl,--build-id")
	addrs := textAddrs(t, exe, 3)
	original, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	want := answers(t, original, addrs)
	id := buildID(t, exe)

	f := func(name string, debugAt func(root string) string, args ...string) {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			split := filepath.Join(root, debugAt(root))
			if err := os.MkdirAll(filepath.Dir(split), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Join(root, "bin"), 0o700); err != nil {
				t.Fatal(err)
			}
			stripped := filepath.Join(root, "bin", "prog")
			run(t, "", objcopy, append(args, "--only-keep-debug", exe, split)...)
			run(t, "", objcopy, append(args, "--strip-all", "--add-gnu-debuglink="+split, exe, stripped)...)
			id := buildID(t, stripped)
			l := newLocal(t)
			if err := l.Add(id, "/bin/prog", root); err != nil {
				t.Fatal(err)
			}
			got, err := l.Resolve(context.Background(), id, addrs)
			if err != nil {
				t.Fatal(err)
			}
			sameAnswers(t, want, got, addrs)

			x, err := ExtractFile("/bin/prog", root)
			if err != nil {
				t.Fatal(err)
			}
			sameAnswers(t, want, answers(t, extract(t, x), addrs), addrs)
		})
	}
	noID := []string{"--remove-section=.note.gnu.build-id"}
	f("build-id", func(string) string { return "/usr/lib/debug/.build-id/" + id[:2] + "/" + id[2:] + ".debug" })
	f("beside", func(string) string { return "/bin/prog.debug" }, noID...)
	f("dot-debug", func(string) string { return "/bin/.debug/prog.debug" }, noID...)
	f("usr-lib-debug", func(string) string { return "/usr/lib/debug/bin/prog.debug" }, noID...)

	t.Run("wrong-crc", func(t *testing.T) {
		root := t.TempDir()
		stripped, split := filepath.Join(root, "prog"), filepath.Join(root, "prog.debug")
		run(t, "", objcopy, append(noID, "--only-keep-debug", exe, split)...)
		run(t, "", objcopy, append(noID, "--strip-all", "--add-gnu-debuglink="+split, exe, stripped)...)
		h, err := os.OpenFile(split, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(h, "x")
		h.Close()
		e, err := elf.Open(stripped)
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		if s := findSplit(e, "/prog", root, nil); s != nil {
			t.Error("a debug file with another CRC was taken")
		}
	})
}

// Mini debug info, made as Fedora does.
func TestMiniDebugInfo(t *testing.T) {
	objcopy, xz := needs(t, "objcopy"), needs(t, "xz")
	exe := compiled(t, "gcc", "a.c", cProgram, "-O1")
	dir := t.TempDir()
	mini, stripped := filepath.Join(dir, "mini"), filepath.Join(dir, "prog")
	run(t, "", objcopy, "--only-keep-debug", exe, mini)
	run(t, dir, xz, "--block-size=4096", "-k", mini)
	run(t, "", objcopy, "--strip-all", "--add-section=.gnu_debugdata="+mini+".xz", exe, stripped)
	addrs := textAddrs(t, exe, 3)
	original, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	want := answers(t, original, addrs)
	for _, p := range []string{stripped} {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		got := answers(t, b, addrs)
		sameAnswers(t, want, got, addrs)
		x, err := Extract(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		sameAnswers(t, want, answers(t, extract(t, x), addrs), addrs)
	}
	if !strings.Contains(fmt.Sprint(want), "{twice") {
		t.Error("the local function twice is nowhere")
	}
}

// damaged runs everything that reads an upload over broken bytes.
func damaged(t testing.TB, dir string, b []byte) {
	f, err := elf.NewBytes(b)
	if err != nil {
		return
	}
	builder, err := table.NewBuilder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer builder.Close()
	if _, err := index.Collect(builder, index.Files{File: f}); err != nil {
		t.Errorf("damage is no reason to fail: %v", err)
	}
	if x, err := Extract(bytes.NewReader(b), int64(len(b))); err == nil {
		_, _ = x.WriteTo(io.Discard)
		x.Close()
	}
}

func smallProgram(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("../elf/testdata/small.elf")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDamagedFiles(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	good := smallProgram(t)
	dir := t.TempDir()
	damaged(t, dir, good)
	for range 2000 {
		b := bytes.Clone(good)
		for range 1 + rnd.IntN(8) {
			b[rnd.IntN(len(b))] = byte(rnd.IntN(256))
		}
		damaged(t, dir, b)
	}
}

func FuzzBuild(f *testing.F) {
	f.Add(smallProgram(f))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) { damaged(t, dir, b) })
}
