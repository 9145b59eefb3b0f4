package elf

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	stdelf "debug/elf"
)

// samples are executables that this machine has for sure (the test itself) or perhaps.
func samples(t testing.TB) []string {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out := []string{self}
	for _, p := range []string{"/bin/ls", "/lib/x86_64-linux-gnu/libc.so.6", "/lib/aarch64-linux-gnu/libc.so.6"} {
		if p, err := filepath.EvalSymlinks(p); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// What is read equals what the standard library reads.
func TestAgainstStandardLibrary(t *testing.T) {
	for _, path := range samples(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			std, err := stdelf.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer std.Close()
			f, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if len(f.Sections) != len(std.Sections) || len(f.Segments) != len(std.Progs) || f.Entry != std.Entry {
				t.Fatalf("%d sections, %d segments, entry %#x", len(f.Sections), len(f.Segments), f.Entry)
			}
			for i, s := range std.Sections {
				got := f.Sections[i]
				if got.Name != s.Name || got.Addr != s.Addr || got.Size != s.FileSize || got.Offset != s.Offset || got.Type != uint32(s.Type) {
					t.Errorf("section %d: got %+v, want %+v", i, got, s.SectionHeader)
				}
				if s.Type == stdelf.SHT_NOBITS || s.Type == stdelf.SHT_NULL {
					continue
				}
				want, err := s.Data()
				if err != nil {
					t.Fatal(err)
				}
				c, err := f.Content(&f.Sections[i])
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(c.Bytes, want) {
					t.Errorf("section %s differs", s.Name)
				}
				c.Release()
			}
			for _, kind := range []uint32{SectionSymtab, SectionDynsym} {
				want, err := std.Symbols()
				if kind == SectionDynsym {
					want, err = std.DynamicSymbols()
				}
				if err != nil {
					continue
				}
				var got []Symbol
				for i := range f.Sections {
					if f.Sections[i].Type == kind {
						err := f.Symbols(&f.Sections[i], func(i int, s Symbol) bool {
							if i > 0 {
								got = append(got, s)
							}
							return true
						})
						if err != nil {
							t.Fatal(err)
						}
					}
				}
				if len(got) != len(want) {
					t.Fatalf("%d symbols, want %d", len(got), len(want))
				}
				for i, w := range want {
					name, _, _ := strings.Cut(w.Name, "@@") // the standard library may add versions
					g := got[i]
					if g.Name != name || g.Addr != w.Value || g.Size != w.Size || g.Type != w.Info&0xf || g.Bind != w.Info>>4 {
						t.Errorf("symbol %d: got %+v, want %+v", i, g, w)
					}
				}
			}
		})
	}
}

func TestBuildIDAgainstReadelf(t *testing.T) {
	readelf, err := exec.LookPath("readelf")
	if err != nil {
		t.Skip(err)
	}
	re := regexp.MustCompile(`Build ID: ([0-9a-f]+)`)
	for _, path := range samples(t) {
		out, err := exec.Command(readelf, "-n", path).Output()
		if err != nil {
			t.Fatal(err)
		}
		m := re.FindSubmatch(out)
		if m == nil {
			continue
		}
		h, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := BuildID(h)
		h.Close()
		if err != nil || got != string(m[1]) {
			t.Errorf("%s: got %s %v, want %s", path, got, err, m[1])
		}
	}
}

type onlyReaderAt struct{ io.ReaderAt }

func TestBuildIDOfAnything(t *testing.T) {
	f := func(content []byte, want string) {
		t.Helper()
		for _, r := range []io.ReaderAt{bytes.NewReader(content), onlyReaderAt{bytes.NewReader(content)}} {
			got, err := BuildID(r)
			if err != nil || got != want {
				t.Errorf("%d bytes: got %s %v, want %s", len(content), got, err, want)
			}
		}
	}
	// printf '\0\0\0\0\0\0\0\0' | sha256sum
	f(nil, "af5570f5a1810b7af78caf4bc70a660f0df51e42")
	// { printf '#!/bin/sh\n'; printf '\0\0\0\0\0\0\0\012'; } | sha256sum
	f([]byte("#!/bin/sh\n"), sha("#!/bin/sh\n", "\x00\x00\x00\x00\x00\x00\x00\x0a"))
	big := strings.Repeat("abcdefgh", 2000)
	f([]byte(big), sha(big[:4096], big[16000-4096:], "\x00\x00\x00\x00\x00\x00\x3e\x80"))
	odd := strings.Repeat("x", 8193)
	f([]byte(odd), sha(odd[:4096], odd[:4096], "\x00\x00\x00\x00\x00\x00\x20\x01"))
}

func TestBuildIDOfGo(t *testing.T) {
	gobin, err := exec.LookPath("go")
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	src := filepath.Join(dir, "a.go")
	if err := os.WriteFile(src, []byte("package main\nfunc main() {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(dir, "a")
	cmd := exec.Command(gobin, "build", "-ldflags=-B none -buildid=some/go/build-id", "-o", exe, src)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("%v: %s", err, out)
	}
	f, err := Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := f.GoBuildID(); got != "some/go/build-id" {
		t.Fatalf("the Go build id is %q", got)
	}
	if got, want := f.BuildID(), sha("some/go/build-id"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestAddr(t *testing.T) {
	f := &File{Segments: []Segment{
		{Type: SegmentLoad, Offset: 0, Vaddr: 0x400000, Filesz: 0x1100, Memsz: 0x1100},
		{Type: SegmentLoad, Flags: FlagExec, Offset: 0x1000, Vaddr: 0x402000, Filesz: 0x800, Memsz: 0x800},
		{Type: SegmentLoad, Offset: 0x1900, Vaddr: 0x404900, Filesz: 0x100, Memsz: 0x5000},
	}}
	try := func(off, want uint64, wantOK bool) {
		t.Helper()
		if got, ok := f.Addr(off); uint64(got) != want || ok != wantOK {
			t.Errorf("offset %#x: got %#x %v", off, got, ok)
		}
	}
	try(0x10, 0x400010, true)
	try(0x1010, 0x402010, true) // in two segments: the executable one
	try(0x17ff, 0x4027ff, true)
	try(0x1800, 0, false)
	try(0x1901, 0x404901, true)
	try(0x1a00, 0, false)
	try(^uint64(0), 0, false)
	if a, ok := f.MappedAddr(0x7f0000001810, 0x7f0000001000, 0x1000); !ok || a != 0x402810 {
		t.Errorf("behind the segment, on its last page: got %#x %v", a, ok)
	}
	if !f.Executable(0x402000) || f.Executable(0x402800) || f.Executable(0x400000) {
		t.Error("Executable is wrong")
	}
}

// A mapped file that shrinks is an error, not the end of the process.
func TestGuard(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	self, err := os.ReadFile(samples(t)[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, self, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	var sum byte
	err = Guard(func() error {
		b, err := f.Raw(&f.Sections[len(f.Sections)-1])
		for _, c := range b {
			sum += c
		}
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "shrank") {
		t.Errorf("got %v", err)
	}
}

// walk reads everything that can be read of a file.
func walk(f *File) {
	f.BuildID()
	f.GoBuildID()
	for i := range f.Sections {
		s := &f.Sections[i]
		if c, err := f.Content(s); err == nil {
			c.Release()
		}
		_ = f.Symbols(s, func(_ int, sym Symbol) bool { f.Executable(sym.Addr); return true })
		_, _ = f.ReadAddr(s.Addr, s.Size)
	}
	_ = f.FunctionRanges(func(start, end uint64) bool { return start < end })
	f.Stubs(func(addr uint64) string { return "" })
	f.DebugLink()
	f.DebugAltLink()
	if mini, err := f.MiniDebug(); err == nil && mini != nil {
		mini.Close()
	}
	for _, o := range []uint64{0, f.Entry, ^uint64(0)} {
		f.Addr(o)
		f.MappedAddr(o, 0, 0)
		_, _ = f.ReadAddr(o, 16)
	}
}

func small(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/small.elf")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Single changed bytes all over the headers, and cut files.
func TestDamaged(t *testing.T) {
	good := small(t)
	f, err := NewBytes(good)
	if err != nil {
		t.Fatal(err)
	}
	walk(f)
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		b := bytes.Clone(good)
		for range 1 + rnd.IntN(4) {
			at := rnd.IntN(len(b))
			if rnd.IntN(2) == 0 {
				at = rnd.IntN(64 * 10)
			}
			b[at] = byte(rnd.IntN(256))
		}
		if rnd.IntN(8) == 0 {
			b = b[:rnd.IntN(len(b))]
		}
		if f, err := NewBytes(b); err == nil {
			walk(f)
		}
		if f, err := New(bytes.NewReader(b), int64(len(b))); err == nil {
			walk(f)
		}
	}
}

func FuzzFile(f *testing.F) {
	f.Add(small(f))
	f.Add([]byte("\x7fELF\x02\x01\x01"))
	h, _ := hex.DecodeString("7f454c4601010100000000000000000002000300010000005480040834000000")
	f.Add(append(h, make([]byte, 64)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if file, err := NewBytes(b); err == nil {
			walk(file)
		}
		if _, err := BuildID(bytes.NewReader(b)); err != nil {
			t.Errorf("memory cannot fail to be read: %v", err)
		}
	})
}

// What xz makes of five lines, as one block and as four.
var (
	oneXZ  = "fd377a585a0000016922de36020021010c0000008f98419ce0001800105d003698497283759dc95af71ae53a66400000e912560f0001281941b3b0199042990d010000000001595a"
	fourXZ = "fd377a585a000000ff12d941020021010c0000008f98419c0100076d61696e0a776f7200020021010c0000008f98419c0100076b0a6d61696e0a7700" +
		"020021010c0000008f98419c0100076f726b0a6d61696e00020021010c0000008f98419c0100000a00000000000418081808180811010000ea238eee0dd35637030000000000595a"
)

func FuzzXZ(f *testing.F) {
	const lines = "main\nwork\nmain\nwork\nmain\n"
	for _, text := range []string{oneXZ, fourXZ} {
		b, err := hex.DecodeString(text)
		if err != nil {
			f.Fatal(err)
		}
		if got, err := unxz(b, 100); err != nil || string(got) != lines {
			f.Fatalf("%q, %v", got, err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if out, err := unxz(b, 1<<16); err == nil && len(out) > 1<<16 {
			t.Errorf("%d bytes", len(out))
		}
	})
}

// TestXZBlocks: blocks of nothing, each of which wants the largest dictionary.
func TestXZBlocks(t *testing.T) {
	b, err := hex.DecodeString(fourXZ)
	if err != nil {
		t.Fatal(err)
	}
	block := []byte{2, 0, 0x21, 1, 28, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} // 64 MiB; the end of its data, padded
	bomb := append(b[:12:12], bytes.Repeat(block, 1000)...)
	if out, err := unxz(append(bomb, 0), 1<<20); err == nil || !strings.Contains(err.Error(), "less than their dictionaries") {
		t.Errorf("%d bytes, %v", len(out), err)
	}
}

func sha(parts ...string) string {
	h := sha256.Sum256([]byte(strings.Join(parts, "")))
	return hex.EncodeToString(h[:20])
}
