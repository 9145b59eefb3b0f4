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
		got, err := p.reader().Read(Limits{})
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
