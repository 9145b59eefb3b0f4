package unwind

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/perfuse/perfuse/profile"
)

// buildGo builds a program below testdata and returns its path.
func buildGo(t *testing.T, dir string, env []string, args ...string) string {
	t.Helper()
	return buildGoIn(t, filepath.Join("testdata", dir), env, args...)
}

func buildGoIn(t *testing.T, folder string, env []string, args ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "program")
	cmd := exec.Command("go", append(append([]string{"build", "-buildvcs=false", "-o", out}, args...), ".")...)
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), env...)
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, msg)
	}
	return out
}

func compileFile(t *testing.T, path string) *Table {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := Compile(f)
	if err != nil {
		t.Fatal(err)
	}
	checkTable(t, table)
	testPacked(t, table)
	return table
}

// compareDebugFrame compares CFAs with those of the file's .debug_frame, within the Go code. Where rows
// know more (frame pointers, ends, signals) .debug_frame has to be silent. It returns how many addresses
// agree.
func compareDebugFrame(t *testing.T, path string, table *Table) (same int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	im, err := openImage(f)
	if err != nil {
		t.Fatal(err)
	}
	s, ok := im.section(".debug_frame")
	if !ok {
		t.Fatal("no .debug_frame")
	}
	r, n, err := im.open(s)
	if err != nil {
		t.Fatal(err)
	}
	b := newBuilder()
	if err := newFrames(im, b, r, n, 0, false).read(); err != nil {
		t.Fatal(err)
	}
	want := b.table(im.machine)
	bad, others := 0, 0
	for i, row := range want.Rows[:len(want.Rows)-1] {
		w := want.Rules[row.Rule]
		for _, a := range []profile.Addr{row.Addr, want.Rows[i+1].Addr - 1} {
			if a < table.Go.Text.Start || a >= table.Go.Text.End || w == NoInfo {
				continue
			}
			sigtramp := table.Go.Switches["sigtramp"]
			switch g := table.Lookup(a); {
			case w.CFA == CFAEnd && a >= sigtramp.Start && a < sigtramp.End:
				others++ // Go's own tracebacks end there; ours go on, through the signal frame
			case g.CFA == CFARegister && g.Reg == w.Reg && g.Offset == w.Offset:
				same++
			case g.CFA == CFAEnd || g.CFA == CFASignal || g.CFA == CFARegister && g.Reg == dwarfRBP && g.Offset == 16 ||
				g.CFA == CFARegister && g.Reg == dwarfX29 || g.CFA == CFAUnsupported:
				others++
			case g == NoInfo && i > 0: // padding, which .debug_frame counts in
				if p := table.Lookup(a - 1); p != NoInfo && !isPadding(im, uint64(a), uint64(want.Rows[i+1].Addr)) && bad < 10 {
					t.Errorf("%#x: no information, .debug_frame says %s", uint64(a), showRule(w))
					bad++
				}
			case bad < 10:
				t.Errorf("%#x: %s, .debug_frame says %s", uint64(a), showRule(g), showRule(w))
				bad++
			}
		}
	}
	t.Logf("%s: %d addresses agree, %d are beyond .debug_frame", filepath.Base(path), same, others)
	if others*50 > same {
		t.Errorf("%d addresses beyond .debug_frame", others)
	}
	return same
}

func isPadding(im *image, from, to uint64) bool {
	b := make([]byte, to-from)
	im.readAt(b, from)
	for _, c := range b {
		if c != 0xcc && c != 0 && c != 0x90 {
			return false
		}
	}
	return true
}

func sameRows(t *testing.T, what string, got, want *Table) {
	t.Helper()
	bad := 0
	for i := 0; i < max(len(got.Rows), len(want.Rows)) && bad < 5; i++ {
		var g, w dumpedRow
		if i < len(got.Rows) {
			g = dumpedRow{uint64(got.Rows[i].Addr), got.Rules[got.Rows[i].Rule]}
		}
		if i < len(want.Rows) {
			w = dumpedRow{uint64(want.Rows[i].Addr), want.Rules[want.Rows[i].Rule]}
		}
		if g != w {
			t.Errorf("%s: row %d: %x %s, want %x %s", what, i, g.addr, showRule(g.rule), w.addr, showRule(w.rule))
			bad++
		}
	}
	if got.Go == nil || got.Go.Text != want.Go.Text || got.Go.Version != want.Go.Version || len(got.Go.Switches) != len(want.Go.Switches) {
		t.Errorf("%s: Go is %+v, want %+v", what, got.Go, want.Go)
	}
}

// symbols returns the functions of a file's symbol table.
func symbols(t *testing.T, path string) map[string]Range {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	syms, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]Range{}
	for _, s := range syms {
		if elf.ST_TYPE(s.Info) == elf.STT_FUNC && s.Size > 0 {
			m[s.Name] = Range{profile.Addr(s.Value), profile.Addr(s.Value + s.Size)}
		}
	}
	return m
}

// testGo compares an unstripped Go program's table with its .debug_frame and its symbols.
func testGo(t *testing.T, path string) *Table {
	t.Helper()
	table := compileFile(t, path)
	if table.Go == nil {
		t.Fatal("no Go found")
	}
	if !strings.HasPrefix(table.Go.Version, "go1.") {
		t.Errorf("version is %q", table.Go.Version)
	}
	if compareDebugFrame(t, path, table) < 10000 {
		t.Error("too little to compare")
	}
	syms := symbols(t, path)
	rule := func(name string, off int) Rule {
		t.Helper()
		s, ok := syms[name]
		if !ok {
			t.Fatalf("no symbol %s", name)
		}
		return table.Lookup(profile.Addr(int(s.Start) + off))
	}
	end, signal := Rule{CFA: CFAEnd}, Rule{CFA: CFASignal}
	for _, name := range []string{"runtime.goexit.abi0", "runtime.mstart.abi0", "runtime.rt0_go.abi0"} {
		if r := rule(name, 0); r != end {
			t.Errorf("%s: %s", name, showRule(r))
		}
	}
	if table.Machine == elf.EM_X86_64 {
		// The frame below a signal handler is looked up one byte before the trampoline.
		for off := -1; off < 9; off++ {
			if r := rule("runtime.sigreturn__sigaction.abi0", off); r != signal {
				t.Errorf("sigreturn%+d: %s", off, showRule(r))
			}
		}
	}
	if r := rule("main.main", 0); r.CFA != CFARegister || r.FP != SaveSame {
		t.Errorf("main.main: %s", showRule(r))
	}
	for _, name := range []string{"systemstack", "mcall", "morestack", "gogo", "asmcgocall", "asyncPreempt"} {
		sym := "runtime." + name + ".abi0"
		if _, ok := syms[sym]; !ok {
			sym = "runtime." + name
		}
		if name == "gogo" {
			sym = "gogo"
		}
		r, ok := table.Go.Switches[name]
		if want := syms[sym]; !ok || r.Start != want.Start || r.End < want.End {
			t.Errorf("%s is at %x, want %x", name, r, want)
		}
	}
	inChain := func(a profile.Addr) bool {
		for _, r := range table.FramePointers {
			if a >= r.Start && a < r.End {
				return true
			}
		}
		return false
	}
	for name, want := range map[string]bool{"main.main": true, "runtime.systemstack.abi0": true, "runtime.goexit.abi0": false, "runtime.morestack.abi0": false} {
		if got := inChain(syms[name].Start); got != want {
			t.Errorf("frame pointers at %s: %v", name, got)
		}
	}
	return table
}

// TestGo reads what Go's linker writes, with and without symbols.
func TestGo(t *testing.T) {
	full := buildGo(t, "goprogram", []string{"CGO_ENABLED=0"})
	table := testGo(t, full)
	sameRows(t, "stripped", compileFile(t, buildGo(t, "goprogram", []string{"CGO_ENABLED=0"}, "-ldflags=-s -w")), table)
	pie := buildGo(t, "goprogram", []string{"CGO_ENABLED=0"}, "-buildmode=pie")
	table = testGo(t, pie)
	sameRows(t, "stripped PIE", compileFile(t, buildGo(t, "goprogram", []string{"CGO_ENABLED=0"}, "-buildmode=pie", "-ldflags=-s -w")), table)
}

// TestGoWithoutSections finds pclntab in a file whose section headers are gone.
func TestGoWithoutSections(t *testing.T) {
	path := buildGo(t, "goprogram", []string{"CGO_ENABLED=0"})
	want := compileFile(t, path)
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bare := filepath.Join(t.TempDir(), "bare")
	if err := os.WriteFile(bare, withoutSections(file), 0o600); err != nil {
		t.Fatal(err)
	}
	got := compileFile(t, bare)
	want.Go.Version = "" // it is in a section
	sameRows(t, "without sections", got, want)
}

// TestCgo reads files that another linker put together from Go and C.
func TestCgo(t *testing.T) {
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("gcc is not installed")
	}
	for _, mode := range []string{"exe", "pie"} {
		full := buildGo(t, "cgoprogram", []string{"CGO_ENABLED=1", "CC=gcc"}, "-buildmode="+mode, "-ldflags=-linkmode=external")
		table := testGo(t, full)
		// The C code has rows as well.
		syms := symbols(t, full)
		for _, name := range []string{"compare", "_start"} {
			s, ok := syms[name]
			if !ok {
				t.Fatalf("no symbol %s", name)
			}
			if s.Start >= table.Go.Text.Start && s.Start < table.Go.Text.End {
				t.Errorf("%s lies within the Go code", name)
			}
			if r := table.Lookup(s.Start); r == NoInfo {
				t.Errorf("%s: no information", name)
			}
		}
		if r := table.Lookup(syms["_start"].Start); r.CFA != CFAEnd {
			t.Errorf("_start: %s", showRule(r))
		}
		sameRows(t, "stripped "+mode, compileFile(t, buildGo(t, "cgoprogram", []string{"CGO_ENABLED=1", "CC=gcc"}, "-buildmode="+mode, "-ldflags=-linkmode=external -s -w")), table)
	}
}

// TestGoARM64 builds for arm64, which takes long the first time.
func TestGoARM64(t *testing.T) {
	if os.Getenv("PERFUSE_ALL_LIBRARIES") == "" {
		t.Skip("builds the standard library for another machine; set PERFUSE_ALL_LIBRARIES=1")
	}
	testGo(t, buildGo(t, "goprogram", []string{"CGO_ENABLED=0", "GOARCH=arm64"}))
}
