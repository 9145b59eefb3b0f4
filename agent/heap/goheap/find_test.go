package goheap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perfuse/perfuse/symbolize/elf"
)

// withoutSymbols hides the symbol table, so that all else stays where it is.
func withoutSymbols(tb testing.TB, path string) []byte {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	le := binary.LittleEndian
	headers, found := b[le.Uint64(b[40:]):], false
	for i := range int(le.Uint16(b[60:])) {
		if typ := headers[i*64+4:]; le.Uint32(typ) == elf.SectionSymtab {
			le.PutUint32(typ, elf.SectionProgbits)
			found = true
		}
	}
	if !found {
		tb.Fatalf("%s has no symbols", path)
	}
	return b
}

func findBytes(b []byte) (*Layout, error) {
	f, err := elf.NewBytes(b)
	if err != nil {
		return nil, err
	}
	return Find(f)
}

// TestFind compares what the machine code tells with the symbols.
func TestFind(t *testing.T) {
	for _, toolchain := range toolchains {
		for _, form := range []struct {
			name, arch string
			args       []string
		}{
			{"amd64", "amd64", nil},
			{"arm64", "arm64", nil},
			{"amd64 pie", "amd64", []string{"-buildmode=pie"}},
			{"arm64 pie", "arm64", []string{"-buildmode=pie"}},
		} {
			if toolchain != "local" && form.args != nil {
				continue // its whole standard library would be built for this
			}
			t.Run(toolchain+" "+form.name, func(t *testing.T) {
				env := []string{"GOARCH=" + form.arch, "GOAMD64=v1"}
				for _, program := range []string{"heap", "removed"} {
					path := build(t, toolchain, program, env, form.args...)
					want, err := findIn(path)
					if err != nil {
						t.Fatal(err)
					}
					got, err := findBytes(withoutSymbols(t, path))
					if err != nil {
						t.Fatal(err)
					}
					if !reflect.DeepEqual(got, want) {
						t.Errorf("%s: by machine code %+v, by symbols %+v", program, got, want)
					}
					if all := symbol(t, path, "runtime.allgs"); got.scheduler == nil && toolchain+form.arch != "go1.20.14arm64" ||
						got.scheduler != nil && got.scheduler.all != all {
						t.Errorf("%s: goroutines %+v, want a list at %d", program, got.scheduler, all)
					}
					if got.Removed != (program == "removed") {
						t.Errorf("%s: removed: %v", program, got.Removed)
					}
					if toolchain != "local" && got.Version != toolchain || !strings.HasPrefix(got.Version, "go1.") {
						t.Errorf("version %q", got.Version)
					}
				}
			})
		}
	}
}

func symbol(t *testing.T, path, name string) (addr uint64) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range f.Sections {
		if s := &f.Sections[i]; s.Type == elf.SectionSymtab {
			if err := f.Symbols(s, func(_ int, sym elf.Symbol) bool {
				if sym.Name == name {
					addr = sym.Addr
				}
				return addr == 0
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	return addr
}

// TestFindNothing looks where there is nothing that can be read.
func TestFindNothing(t *testing.T) {
	t.Run("C", func(t *testing.T) {
		needGCC(t)
		out := filepath.Join(t.TempDir(), "user")
		if text, err := exec.Command("gcc", "-o", out, "testdata/user.c", "-ldl").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if _, err := findIn(out); !errors.Is(err, ErrNotGo) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("32 bits", func(t *testing.T) {
		if _, err := findIn(build(t, "local", "removed", []string{"GOARCH=386"})); !errors.Is(err, ErrNotGo) {
			t.Errorf("got %v", err)
		}
	})
	for _, toolchain := range []string{"go1.18.10"} {
		t.Run(toolchain, func(t *testing.T) {
			if _, err := findIn(build(t, toolchain, "removed", nil)); !errors.Is(err, ErrLayout) {
				t.Errorf("got %v", err)
			}
		})
	}
	// Machine code that is unlike what is known is not guessed at.
	t.Run("another layout", func(t *testing.T) {
		b := withoutSymbols(t, build(t, "local", "removed", []string{"GOARCH=amd64"}))
		for _, c := range []struct {
			name      string
			old, with []byte
		}{
			{"the type stands elsewhere", []byte{0x48, 0x83, 0x78, 0x10, 0x01}, []byte{0x48, 0x83, 0x78, 0x18, 0x01}},
			{"the stack begins elsewhere", []byte{0x48, 0x8d, 0x40, 0x30, 0x48, 0x83}, []byte{0x48, 0x8d, 0x40, 0x38, 0x48, 0x83}},
		} {
			i := bytes.Index(b, c.old)
			if i < 0 || !bytes.Contains(b[i:i+64], []byte{0x48, 0x8b, 0x48, 0x28}) && c.old[2] == 0x78 {
				t.Fatalf("%s: (*bucket).mp is not where it is looked for", c.name)
			}
			mutated := bytes.ReplaceAll(b, c.old, c.with)
			if l, err := findBytes(mutated); !errors.Is(err, ErrLayout) {
				t.Errorf("%s: got %+v, %v", c.name, l, err)
			}
		}
	})
}

// TestLibrary reads the profile of a Go library in a C program.
func TestLibrary(t *testing.T) {
	needGCC(t)
	cgo := []string{"CGO_ENABLED=1", "CC=gcc"}
	for _, flags := range []string{"", "-s -w"} {
		library := build(t, "local", "cshared", cgo, "-buildmode=c-shared", "-ldflags="+flags)
		user := filepath.Join(t.TempDir(), "user")
		if text, err := exec.Command("gcc", "-o", user, "testdata/user.c", "-ldl").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		p := start(t, user, library, library)
		got, err := p.reader().Read(patient)
		if err != nil {
			t.Fatal(err)
		}
		n := newNames(t, library, p.bias)
		var bytes int64
		for i := range got.Buckets {
			if strings.Contains(strings.Join(n.of(got.Buckets[i].Stack), " "), "main.keep main.Keep") {
				_, inUse := got.Buckets[i].InUse(got.Rate)
				bytes += inUse
			}
		}
		if want := 1600 * 64 << 10 / 1.0; float64(bytes) < 0.7*want || float64(bytes) > 1.3*want {
			t.Errorf("%q: %d bytes in use, want about %.0f", flags, bytes, want)
		}
	}
}

// manySections gives a program as many sections as there may be, and lays those behind them that its function table changes between.
func manySections(t *testing.T, b []byte) []byte {
	t.Helper()
	f, err := elf.NewBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	pclntab := f.Section(".gopclntab")
	if pclntab == nil {
		t.Fatal("no .gopclntab")
	}
	raw := b[pclntab.Offset:][:pclntab.Size]
	names, functable := le.Uint64(raw[32:]), le.Uint64(raw[64:])
	n := int(le.Uint16(b[60:]))
	old := b[le.Uint64(b[40:]):][:64*n]
	header := func(addr, offset, size uint64) []byte {
		h := make([]byte, 64)
		le.PutUint32(h[4:], elf.SectionProgbits)
		le.PutUint64(h[8:], elf.SectionAlloc)
		for i, v := range []uint64{addr, offset, size} {
			le.PutUint64(h[16+8*i:], v)
		}
		return h
	}
	out := bytes.Clone(b)
	out = append(out, make([]byte, -len(out)&7)...)
	table := len(out)
	out = append(out, make([]byte, 64)...)
	others := 1<<18 - n - 4
	for i := range others {
		out = append(out, header(1<<40+uint64(16*i), 64, 16)...)
	}
	out = append(out, header(pclntab.Addr+functable, pclntab.Offset+functable, pclntab.Size-functable)...)
	out = append(out, header(pclntab.Addr+names, pclntab.Offset+names, functable-names)...)
	out = append(out, header(pclntab.Addr, pclntab.Offset, names)...)
	moved := others + 3
	for i := range n - 1 {
		h := bytes.Clone(old[64*(i+1):][:64])
		if le.Uint64(h[16:]) == pclntab.Addr {
			le.PutUint64(h[8:], 0) // not loaded, so that it is not found at once
		}
		if link := le.Uint32(h[40:]); link != 0 {
			le.PutUint32(h[40:], link+uint32(moved))
		}
		out = append(out, h...)
	}
	// There are too many for the file's header: the first section tells how many, and where their names are.
	le.PutUint64(out[40:], uint64(table))
	strings := uint32(le.Uint16(b[62:]))
	le.PutUint16(out[60:], 0)
	le.PutUint16(out[62:], 0xffff)
	le.PutUint64(out[table+32:], uint64(len(out)-table)/64)
	le.PutUint32(out[table+40:], strings+uint32(moved))
	return out
}

// TestFindManySections: each function's name and record are in sections of their own, behind a quarter of a million others.
func TestFindManySections(t *testing.T) {
	path := build(t, "local", "heap", nil)
	want, err := findIn(path)
	if err != nil {
		t.Fatal(err)
	}
	b := withoutSymbols(t, path)
	f, err := elf.NewBytes(manySections(t, b))
	if err != nil {
		t.Fatal(err)
	}
	var before, after unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &before)
	got, err := Find(f)
	unix.Getrusage(unix.RUSAGE_SELF, &after)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	cpu := time.Duration(after.Utime.Nano() - before.Utime.Nano())
	t.Logf("%d sections: %v", len(f.Sections), cpu)
	if len(f.Sections) < 1<<18-4 || cpu > time.Second {
		t.Errorf("%d sections take %v", len(f.Sections), cpu)
	}
}

// sparse is a file of holes but for its beginning.
type sparse []byte

func (s sparse) ReadAt(b []byte, off int64) (int, error) {
	clear(b)
	if off < int64(len(s)) {
		copy(b, s[off:])
	}
	return len(b), nil
}

// TestFindSparse: what a file claims to have costs nothing.
func TestFindSparse(t *testing.T) {
	program := build(t, "local", "heap", nil)
	f := func(name, section string, want error) {
		t.Helper()
		b, err := os.ReadFile(program)
		if err != nil {
			t.Fatal(err)
		}
		file, err := elf.NewBytes(b)
		if err != nil {
			t.Fatal(err)
		}
		le := binary.LittleEndian
		for i := range file.Sections {
			if h := b[le.Uint64(b[40:]):][64*i:]; file.Sections[i].Name == section {
				le.PutUint64(h[32:], 1<<40)
			}
		}
		hole, err := elf.New(sparse(b), 1<<42)
		if err != nil {
			t.Fatal(err)
		}
		if l, err := Find(hole); !errors.Is(err, want) {
			t.Errorf("%s: %+v, %v, want %v", name, l, err, want)
		}
	}
	f("as it is", "", nil)
	f("a terabyte of functions", ".gopclntab", ErrLayout)
	f("a terabyte of constants", ".rodata", ErrLayout)
	f("a terabyte of symbols", ".symtab", ErrLayout)
	f("a terabyte of their names", ".strtab", ErrLayout)
	f("a terabyte of debug information", ".debug_info", nil)
}

// TestFindTimeout: there is an end to whatever a file claims to have, with symbols and without.
func TestFindTimeout(t *testing.T) {
	path := build(t, "local", "heap", nil)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"whole": whole, "stripped": withoutSymbols(t, path)} {
		f, err := elf.NewBytes(b)
		if err != nil {
			t.Fatal(err)
		}
		looks, last := 0, 0
		clock := time.Unix(0, 0)
		if _, err := find(f, func() time.Time { looks++; return clock }); err != nil || looks < 4 {
			t.Fatalf("%s: %d looks at the clock, %v", name, looks, err)
		}
		for last = range looks {
			n := 0
			_, err := find(f, func() time.Time {
				if n++; n > max(last, 1) {
					return clock.Add(findTimeout + 1)
				}
				return clock
			})
			if !errors.Is(err, ErrLayout) || !errors.Is(err, errTime) {
				t.Errorf("%s: at the %dth of %d looks at the clock: %v", name, last, looks, err)
			}
		}
	}
}
