package dwarf

import (
	"bytes"
	stddwarf "debug/dwarf"
	stdelf "debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/perfuse/perfuse/symbolize/elf"
)

func small(t testing.TB) *Data {
	t.Helper()
	f, err := elf.Open("../elf/testdata/small.elf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	d, err := Open(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

func read(d *Data) (out []string, err error) {
	for i := range d.units {
		err = errors.Join(err, d.Read(&d.units[i], func(files Files, fn *Func) error {
			for k, r := range fn.Rows {
				high := fn.High
				if k+1 < len(fn.Rows) {
					high = fn.Rows[k+1].Addr
				}
				line := fmt.Sprintf("%#x-%#x", r.Addr, high)
				file, pos := r.File, r.Line
				for c := r.Call; c >= 0; c = fn.Inlined[c].Parent {
					line += fmt.Sprintf(" %s %s:%d", fn.Inlined[c].Function.Name, filepath.Base(files.Name(file)), pos)
					file, pos = fn.Inlined[c].CallFile, fn.Inlined[c].CallLine
				}
				out = append(out, line+fmt.Sprintf(" %s %s:%d", fn.Name, filepath.Base(files.Name(file)), pos))
			}
			return nil
		}, func(Files, Range, []Row) error { return nil }))
	}
	return out, err
}

func TestSmall(t *testing.T) {
	got, err := read(small(t))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"0x1005-0x1009 shared small.c:2 main small.c:3",
		"0x1009-0x100a main small.c:3",
		"0x1000-0x1005 shared small.c:2",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// The line tables of programs equal those that the standard library reads, row for row.
func TestLinesAgainstStandardLibrary(t *testing.T) {
	const source = `#include <stdio.h>
static inline int twice(int x) { return x + x; }
int main(int c, char **v) { for (int i = 0; i < c; i++) { puts(v[i]); c -= twice(i); } return c; }
`
	f := func(tool string, args ...string) {
		t.Run(tool+fmt.Sprint(args), func(t *testing.T) {
			bin, err := exec.LookPath(tool)
			if err != nil {
				t.Skip(err)
			}
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "a.c"), []byte(source), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(bin, append(args, "-o", "a", "a.c")...)
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			std, err := stdelf.Open(filepath.Join(dir, "a"))
			if err != nil {
				t.Fatal(err)
			}
			defer std.Close()
			sd, err := std.DWARF()
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for r := sd.Reader(); ; {
				cu, err := r.Next()
				if err != nil {
					t.Fatal(err)
				}
				if cu == nil {
					break
				}
				r.SkipChildren()
				lr, err := sd.LineReader(cu)
				if err != nil {
					t.Fatal(err)
				}
				if lr == nil {
					continue
				}
				var e stddwarf.LineEntry
				for lr.Next(&e) == nil {
					row := fmt.Sprintf("%#x %v", e.Address, e.EndSequence)
					if !e.EndSequence {
						row += fmt.Sprintf(" %s:%d", filepath.Clean(e.File.Name), e.Line)
					}
					// The last row of an address counts.
					if n := len(want); n > 0 && bytes.HasPrefix([]byte(want[n-1]), []byte(fmt.Sprintf("%#x ", e.Address))) {
						want = want[:n-1]
					}
					want = append(want, row)
				}
			}
			ef, err := elf.Open(filepath.Join(dir, "a"))
			if err != nil {
				t.Fatal(err)
			}
			defer ef.Close()
			d, err := Open(ef)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			var got []string
			for i := range d.units {
				u := &d.units[i]
				if _, err := d.load(u); err != nil {
					t.Fatal(err)
				}
				rows, files, err := d.lines(u, nil)
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range rows {
					row := fmt.Sprintf("%#x %v", r.addr, r.end)
					if !r.end {
						row += fmt.Sprintf(" %s:%d", filepath.Clean(files.name(r.file)), r.line)
					}
					got = append(got, row)
				}
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) || len(got) < 10 {
				t.Errorf("got %d rows\n%q\nwant %d\n%q", len(got), got, len(want), want)
			}
		})
	}
	f("gcc", "-g", "-O2")
	f("gcc", "-gdwarf-2", "-O2")
	f("gcc", "-gdwarf-3", "-O0")
	f("gcc", "-gdwarf-4", "-O2", "-gz")
	f("clang-19", "-g", "-O2")
	f("clang-19", "-gdwarf-4", "-O1")
}

func TestNumbers(t *testing.T) {
	u := func(want uint64, b ...byte) {
		t.Helper()
		r := buffer{b: b}
		if got := r.uvarint(); got != want || r.bad || len(r.b) != 0 {
			t.Errorf("%x: got %d, %v", b, got, r)
		}
	}
	u(0, 0)
	u(127, 0x7f)
	u(128, 0x80, 1)
	u(624485, 0xe5, 0x8e, 0x26)
	u(1, 0x81, 0x80, 0x80, 0) // padded
	u(^uint64(0), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1)
	s := func(want int64, b ...byte) {
		t.Helper()
		r := buffer{b: b}
		if got := r.varint(); got != want || r.bad || len(r.b) != 0 {
			t.Errorf("%x: got %d, %v", b, got, r)
		}
	}
	s(2, 2)
	s(-2, 0x7e)
	s(127, 0xff, 0)
	s(-127, 0x81, 0x7f)
	s(-123456, 0xc0, 0xbb, 0x78)
	s(-1<<63, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7f)
	for _, b := range [][]byte{nil, {0x80}, {0xff, 0xff}} {
		r := buffer{b: b}
		if r.uvarint(); !r.bad {
			t.Errorf("%x is not bad", b)
		}
	}
}

// sections builds a Data around bytes.
func sections(parts ...[]byte) *Data {
	d := &Data{order: binary.LittleEndian, abbrevs: map[abbrevKey]*abbrevTable{}, own: map[uint64]*FuncInfo{}, foreign: map[uint64]*FuncInfo{}}
	for i, p := range []*[]byte{&d.info, &d.abbrev, &d.line, &d.str, &d.lineStr, &d.strOffsets, &d.addr, &d.ranges, &d.rnglists} {
		if i < len(parts) {
			*p = parts[i]
		}
	}
	d.exec = []Range{{0x1000, 0x10000}}
	d.setBudgets()
	return d
}

func tryAll(d *Data) {
	if d.readUnits() == nil {
		_, _ = read(d)
	}
}

func TestDamaged(t *testing.T) {
	g := small(t)
	rnd := rand.New(rand.NewPCG(9, 10))
	for range 20000 {
		parts := [][]byte{g.info, g.abbrev, g.line, g.str, g.lineStr, g.strOffsets, g.addr, g.ranges, g.rnglists}
		for range 1 + rnd.IntN(4) {
			i := rnd.IntN(len(parts))
			if len(parts[i]) == 0 {
				continue
			}
			parts[i] = bytes.Clone(parts[i])
			parts[i][rnd.IntN(len(parts[i]))] = byte(rnd.IntN(256))
			if rnd.IntN(10) == 0 {
				parts[i] = parts[i][:rnd.IntN(len(parts[i]))]
			}
		}
		tryAll(sections(parts...))
	}
}

func FuzzRead(f *testing.F) {
	g := small(f)
	f.Add(g.info, g.abbrev, g.line, g.str, g.lineStr, g.strOffsets, g.addr, g.ranges, g.rnglists)
	for _, name := range []string{"four", "clang"} {
		parts := seed(f, name)
		f.Add(parts[0], parts[1], parts[2], parts[3], parts[4], parts[5], parts[6], parts[7], parts[8])
	}
	f.Fuzz(func(t *testing.T, info, abbrev, line, str, lineStr, strOffsets, addr, ranges, rnglists []byte) {
		tryAll(sections(info, abbrev, line, str, lineStr, strOffsets, addr, ranges, rnglists))
	})
}

// seed reads sections that are kept one after the other, each behind its length: DWARF 4 of gcc, DWARF 5 of
// clang with indexed strings and addresses.
func seed(t testing.TB, name string) (parts [9][]byte) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name + ".sections")
	if err != nil {
		t.Fatal(err)
	}
	r := bytes.NewReader(b)
	for i := range parts {
		var n uint32
		if err := binary.Read(r, binary.LittleEndian, &n); err != nil {
			t.Fatal(err)
		}
		parts[i] = make([]byte, n)
		if _, err := io.ReadFull(r, parts[i]); err != nil {
			t.Fatal(err)
		}
	}
	return parts
}

func TestSeeds(t *testing.T) {
	for _, name := range []string{"four", "clang"} {
		parts := seed(t, name)
		d := sections(parts[:]...)
		if err := d.readUnits(); err != nil {
			t.Fatal(err)
		}
		got, err := read(d)
		if err != nil || len(got) < 3 {
			t.Errorf("%s: got %q %v", name, got, err)
		}
	}
}
