package unwind

import (
	"debug/dwarf"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestGoLabels compares what the machine code tells with what the debug information says.
func TestGoLabels(t *testing.T) {
	// Outside of our module, so that other toolchains can build it.
	folder := t.TempDir()
	if err := os.CopyFS(folder, os.DirFS("testdata/labels")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "go.mod"), []byte("module labels\n\ngo 1.21\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := func(name string, before124 bool, env []string, args ...string) {
		t.Helper()
		full := buildGoIn(t, folder, env, args...)
		want := labelsTruth(t, full)
		want.Map = before124
		for _, flags := range []string{"", "-s -w"} {
			path := full
			if flags != "" {
				path = buildGoIn(t, folder, env, append(args, "-ldflags="+flags)...)
			}
			got := compileFile(t, path).Go.Labels
			if got == nil || *got != want {
				t.Errorf("%s %s: got %+v, want %+v", name, flags, got, want)
			}
		}
	}
	f("static", false, []string{"CGO_ENABLED=0"})
	f("pie", false, []string{"CGO_ENABLED=0"}, "-buildmode=pie")
	if _, err := exec.LookPath("gcc"); err == nil {
		f("cgo", false, []string{"CGO_ENABLED=1", "CC=gcc"})
		f("cgo, pie", false, []string{"CGO_ENABLED=1", "CC=gcc"}, "-buildmode=pie")
	}
	if l := compileFile(t, buildGo(t, "goprogram", []string{"CGO_ENABLED=0"})).Go.Labels; l != nil {
		t.Errorf("a program that sets no labels: got %+v", l)
	}
	if os.Getenv("PERFUSE_ALL_LIBRARIES") == "" {
		return
	}
	f("arm64", false, []string{"CGO_ENABLED=0", "GOARCH=arm64"})
	for _, version := range []string{"1.21.13", "1.22.12", "1.23.12"} {
		f(version, true, []string{"CGO_ENABLED=0", "GOTOOLCHAIN=go" + version})
	}
	for _, version := range []string{"1.24.11", "1.25.5"} {
		f(version, false, []string{"CGO_ENABLED=0", "GOTOOLCHAIN=go" + version})
	}
}

func labelsTruth(t *testing.T, path string) (l GoLabels) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := f.DWARF()
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]uint16{}
	for r := d.Reader(); ; {
		e, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if e == nil {
			break
		}
		name, _ := e.Val(dwarf.AttrName).(string)
		if e.Tag != dwarf.TagStructType || name != "runtime.g" && name != "runtime.m" {
			continue
		}
		for {
			member, err := r.Next()
			if err != nil || member.Tag == 0 {
				break
			}
			at, _ := member.Val(dwarf.AttrDataMemberLoc).(int64)
			fields[name+"."+member.Val(dwarf.AttrName).(string)] = uint16(at)
		}
	}
	l.M, l.Curg, l.Labels = fields["runtime.g.m"], fields["runtime.m.curg"], fields["runtime.g.labels"]
	if f.Machine == elf.EM_AARCH64 {
		return l
	}
	l.TLS = -8
	for _, p := range f.Progs {
		if p.Type != elf.PT_TLS {
			continue
		}
		l.TLS = -int32((p.Memsz + p.Align - 1) &^ (p.Align - 1))
		syms, err := f.Symbols()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range syms {
			if s.Name == "runtime.tlsg" {
				l.TLS += int32(s.Value)
			}
		}
	}
	return l
}

// FuzzGoCode looks for labels and changes of the stack pointer in whatever code.
func FuzzGoCode(f *testing.F) {
	f.Add(goText, goText, "go1.23.4 X:none")
	for _, seed := range []struct {
		arm64                 bool
		systemstack, setLabel []byte
	}{
		// mov rax, fs:[-8]; mov rbx, [rax+48]; cmp rax, [rbx+0x50]; cmp rax, [rbx+0xb8]; call 0. mov [rcx+0x188], rax; ret.
		{false, []byte{0x64, 0x48, 0x8b, 0x04, 0x25, 0xf8, 0xff, 0xff, 0xff, 0x48, 0x8b, 0x58, 0x30, 0x48, 0x3b, 0x43, 0x50,
			0x48, 0x3b, 0x83, 0xb8, 0, 0, 0, 0xe8, 0, 0, 0, 0}, []byte{0x48, 0x89, 0x81, 0x88, 1, 0, 0, 0xc3}},
		// ldr x4, [x28, 48]; ldr x5, [x4, 192]; bl 0. str x0, [x28, 392]; ret.
		{true, []byte{0x84, 0x1b, 0x40, 0xf9, 0x85, 0x60, 0x40, 0xf9, 0, 0, 0, 0x94}, []byte{0x80, 0xc7, 0, 0xf9, 0xc0, 3, 0x5f, 0xd6}},
	} {
		if findGoLabels(seed.arm64, "go1.24", seed.systemstack, seed.setLabel) == nil {
			f.Fatalf("no labels in % x, % x", seed.systemstack, seed.setLabel)
		}
		f.Add(seed.systemstack, seed.setLabel, "devel go1.24-abc")
	}
	f.Fuzz(func(t *testing.T, systemstack, setLabel []byte, toolchain string) {
		for _, arm64 := range []bool{false, true} {
			l := findGoLabels(arm64, toolchain, systemstack, setLabel)
			if l != nil && (max(l.M, l.Curg, l.Labels) >= maxGoOffset || min(l.M, l.Curg, l.Labels) == 0 || !arm64 && l.TLS >= 0) {
				t.Errorf("%+v", l)
			}
		}
		if s := findSPWrites(setLabel); s.gone > uint64(len(setLabel)) {
			t.Errorf("%+v in %d bytes", s, len(setLabel))
		}
	})
}
