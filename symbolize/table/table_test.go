package table

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zeebo/xxh3"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/symbolize"
)

type added struct {
	priority   Priority
	name       string
	start, end uint64
	nodes      []Node
	rows       []Row
}

// builder gives a builder, and functions that must not fail.
type builder struct {
	*Builder
	t testing.TB
}

func newBuilder(t testing.TB) builder {
	t.Helper()
	b, err := NewBuilder(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return builder{b, t}
}

func (b builder) str(s string) StringID {
	b.t.Helper()
	id, err := b.String(s)
	if err != nil {
		b.t.Fatal(err)
	}
	return id
}

func (b builder) fn(name, file string, line int32) FunctionID {
	b.t.Helper()
	id, err := b.Function(name, b.str(file), line)
	if err != nil {
		b.t.Fatal(err)
	}
	return id
}

func (b builder) add(a added) {
	b.t.Helper()
	if err := b.Add(a.priority, b.fn(a.name, "", 0), a.start, a.end, a.nodes, a.rows); err != nil {
		b.t.Fatal(err)
	}
}

func (b builder) open() *Table {
	b.t.Helper()
	path := filepath.Join(b.t.TempDir(), "x.symtab")
	if err := b.Write(path); err != nil {
		b.t.Fatal(err)
	}
	t, err := Open(path)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { t.Close() })
	return t
}

func text(sources []symbolize.Source) string {
	var out []string
	for _, s := range sources {
		out = append(out, fmt.Sprintf("%s %s:%d", s.Name, s.File, s.Line))
	}
	return strings.Join(out, " < ")
}

func TestLookup(t *testing.T) {
	b := newBuilder(t)
	a, c, h := b.str("a.c"), b.str("c.c"), b.str("h.h")
	main := b.fn("main", "a.c", 3)
	inner, outer := b.fn("_ZN1x5innerEi", "h.h", 7), b.fn("outer", "c.c", 1)
	err := b.Add(FromDwarf, main, 0x1000, 0x1100, []Node{
		{outer, -1, a, 10},
		{inner, 0, c, 20},
		{inner, -1, a, 11}, // no row needs it
	}, []Row{
		{0x1000, -1, a, 4},
		{0x1010, 0, c, 5},
		{0x1020, 1, h, 8},
		{0x1030, -1, a, 12},
		{0x1200, -1, a, 99}, // outside
	})
	if err != nil {
		t.Fatal(err)
	}
	b.add(added{priority: FromSymbols, name: "main_symbol", start: 0x1000, end: 0x1200})
	b.add(added{priority: FromSymbols, name: "later", start: 0x1300, end: 0x1310})
	b.add(added{priority: FromDwarf, name: "before_rows", start: 0x1400, end: 0x1410, rows: []Row{{0x1408, -1, a, 1}}})
	table := b.open()
	f := func(addr uint64, want string) {
		t.Helper()
		if got := text(table.Lookup(profile.Addr(addr), nil)); got != want {
			t.Errorf("%#x: got %q, want %q", addr, got, want)
		}
	}
	f(0, "")
	f(0xfff, "")
	f(0x1000, "main a.c:4")
	f(0x100f, "main a.c:4")
	f(0x1010, "outer c.c:5 < main a.c:10")
	f(0x1020, "x::inner h.h:8 < outer c.c:20 < main a.c:10")
	f(0x102f, "x::inner h.h:8 < outer c.c:20 < main a.c:10")
	f(0x1030, "main a.c:12")
	f(0x10ff, "main a.c:12")
	f(0x1100, "main_symbol :0")
	f(0x11ff, "main_symbol :0")
	f(0x1200, "")
	f(0x1305, "later :0")
	f(0x1310, "")
	f(0x1400, "before_rows :0")
	f(0x1408, "before_rows a.c:1")
	f(^uint64(0), "")
	got := table.Lookup(0x1020, nil)[0]
	if got.SystemName != "_ZN1x5innerEi" || got.StartLine != 7 {
		t.Errorf("got %+v", got)
	}
	if err := table.Close(); err != nil {
		t.Fatal(err)
	}
	f(0x1000, "")
}

// Code without a name is one function, called by its start, around whatever else is known.
func TestNameless(t *testing.T) {
	b := newBuilder(t)
	for _, r := range [][2]uint64{{0x1000, 0x1100}, {0x1100, 0x1180}, {0x2000, 0x2000}, {0xffffffffff600000, 0xffffffffff600100}} {
		if err := b.AddNameless(r[0], r[1]); err != nil {
			t.Fatal(err)
		}
	}
	b.add(added{priority: FromStubs, name: "write@plt", start: 0x1040, end: 0x1050})
	b.add(added{priority: FromSymbols, name: "f", start: 0x10c0, end: 0x1110})
	table := b.open()
	f := func(addr uint64, want string) {
		t.Helper()
		var got string
		for _, s := range table.Lookup(profile.Addr(addr), nil) {
			got += s.Name
			if s != (symbolize.Source{Name: s.Name}) {
				t.Errorf("%#x: got %+v", addr, s)
			}
		}
		if got != want {
			t.Errorf("%#x: got %q, want %q", addr, got, want)
		}
	}
	f(0xfff, "")
	f(0x1000, "+0x1000")
	f(0x1045, "write@plt")
	f(0x1050, "+0x1000")
	f(0x10c0, "f")
	f(0x1110, "+0x1100")
	f(0x1180, "")
	f(0x2000, "")
	f(0xffffffffff6000ff, "+0xffffffffff600000")
}

// Many rows are cut into blocks; each still finds its nodes.
func TestManyRows(t *testing.T) {
	b := newBuilder(t)
	fn, file := b.fn("f", "", 0), b.str("f.c")
	var nodes []Node
	var rows []Row
	for i := range 5000 {
		parent := int32(-1)
		if i%3 > 0 {
			parent = int32(i - 1)
		}
		nodes = append(nodes, Node{b.fn(fmt.Sprintf("n%d", i), "", 0), parent, file, int32(i)})
		rows = append(rows, Row{uint64(i) * 4, int32(i), file, int32(2 * i)})
	}
	if err := b.Add(FromDwarf, fn, 0, 20000, nodes, rows); err != nil {
		t.Fatal(err)
	}
	table := b.open()
	if table.Ranges() < 5000/blockRows {
		t.Errorf("%d ranges", table.Ranges())
	}
	for i := range 5000 {
		want := fmt.Sprintf("n%d f.c:%d", i, 2*i)
		for k := i; ; k-- {
			if k%3 == 0 {
				want += fmt.Sprintf(" < f f.c:%d", k)
				break
			}
			want += fmt.Sprintf(" < n%d f.c:%d", k-1, k)
		}
		if got := text(table.Lookup(profile.Addr(i*4+1), nil)); got != want {
			t.Fatalf("row %d: got %q, want %q", i, got, want)
		}
	}
}

// Overlapping ranges against the plainest possible way to say who is believed.
func TestOverlaps(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	for range 40 {
		b := newBuilder(t)
		var all []added
		for i := range 1 + rnd.IntN(12) {
			start := uint64(rnd.IntN(60))
			a := added{priority: Priority(rnd.IntN(3)), name: fmt.Sprintf("f%d", i), start: start, end: start + uint64(rnd.IntN(25))}
			all = append(all, a)
			b.add(a)
		}
		table := b.open()
		for addr := range uint64(90) {
			best := -1
			for i, a := range all {
				if addr < a.start || addr >= a.end {
					continue
				}
				if best < 0 {
					best = i
					continue
				}
				o := all[best]
				switch {
				case a.priority != o.priority:
					if a.priority > o.priority {
						best = i
					}
				case a.start != o.start:
					if a.start > o.start {
						best = i
					}
				case a.end < o.end:
					best = i
				}
			}
			want := ""
			if best >= 0 {
				want = all[best].name + " :0"
			}
			if got := text(table.Lookup(profile.Addr(addr), nil)); got != want {
				t.Fatalf("%d: got %q, want %q of %+v", addr, got, want, all)
			}
		}
		for i := 1; i < table.Ranges(); i++ {
			before, _ := table.Range(i - 1)
			if at, _ := table.Range(i); at <= before {
				t.Fatalf("range %d begins at %#x after %#x", i, at, before)
			}
		}
	}
}

func TestStringsAreStoredOnce(t *testing.T) {
	b := newBuilder(t)
	if b.str("x") != b.str("x") || b.str("x") == b.str("y") || b.str("") != 0 {
		t.Error("equal strings have different places, or different ones equal")
	}
	if b.fn("f", "a", 1) != b.fn("f", "a", 1) || b.fn("f", "a", 1) == b.fn("f", "a", 2) {
		t.Error("functions are not told apart")
	}
	b.str(strings.Repeat("z", 1<<20))
	if b.strings.n > 1<<17 {
		t.Errorf("a long string takes %d bytes", b.strings.n)
	}
}

func sample(t testing.TB) []byte {
	b := newBuilder(t)
	f := b.str("a.c")
	fn := b.fn("main", "a.c", 1)
	if err := b.Add(FromDwarf, fn, 0x1000, 0x1100, []Node{{b.fn("in", "", 0), -1, f, 3}}, []Row{{0x1000, 0, f, 4}, {0x1040, -1, f, 5}}); err != nil {
		t.Fatal(err)
	}
	b.add(added{priority: FromSymbols, name: "g", start: 0x1200, end: 0x1210})
	path := filepath.Join(t.TempDir(), "x")
	if err := b.Write(path); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestOpenRefuses(t *testing.T) {
	good := sample(t)
	dir := t.TempDir()
	f := func(name string, want error, change func(b []byte) []byte) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, change(bytes.Clone(good)), 0o600); err != nil {
			t.Fatal(err)
		}
		if table, err := Open(path); !errors.Is(err, want) {
			t.Errorf("%s: got %v", name, err)
			table.Close()
		}
	}
	f("empty", ErrFormat, func(b []byte) []byte { return nil })
	f("cut", ErrFormat, func(b []byte) []byte { return b[:len(b)-1] })
	f("longer", ErrFormat, func(b []byte) []byte { return append(b, 0) })
	f("magic", ErrFormat, func(b []byte) []byte { b[0]++; return b })
	f("version", ErrVersion, func(b []byte) []byte { b[8]++; return b })
	f("header", ErrFormat, func(b []byte) []byte { b[30]++; return b })
	f("content", ErrFormat, func(b []byte) []byte { b[len(b)-1]++; return b })
}

// Whatever the bytes are, with checksums made to fit: no panic, and no endless loop.
func FuzzTable(f *testing.F) {
	good := sample(f)
	f.Add(good, uint64(0x1004))
	f.Add(good[:headerSize], uint64(0))
	f.Fuzz(func(t *testing.T, b []byte, addr uint64) {
		if len(b) < headerSize {
			return
		}
		copy(b, magic)
		le := binary.LittleEndian
		le.PutUint32(b[8:], Version)
		le.PutUint64(b[16:], uint64(len(b)))
		le.PutUint64(b[112:], xxh3.Hash(b[headerSize:]))
		le.PutUint64(b[120:], xxh3.Hash(b[:120]))
		table, err := newTable(b)
		if err != nil {
			return
		}
		table.Lookup(profile.Addr(addr), nil)
		for i := range min(table.Ranges(), 50) {
			start, _ := table.Range(i)
			table.Lookup(start+3, nil)
		}
	})
}

func BenchmarkLookup(b *testing.B) {
	bb := newBuilder(b)
	file := bb.str("a.c")
	for i := range 50000 {
		start := uint64(i) * 256
		var rows []Row
		for k := range uint64(20) {
			rows = append(rows, Row{start + k*10, int32(k%2) - 1, file, int32(k)})
		}
		fn := bb.fn(fmt.Sprintf("function%d", i), "", 0)
		if err := bb.Add(FromDwarf, fn, start, start+200, []Node{{fn, -1, file, 5}}, rows); err != nil {
			b.Fatal(err)
		}
	}
	t := bb.open()
	var out []symbolize.Source
	b.ReportAllocs()
	for i := uint64(0); b.Loop(); i++ {
		out = t.Lookup(profile.Addr(i*0x9e3779b97f4a7c15%(50000*256)), out[:0])
	}
	b.ReportMetric(float64(t.Size()), "table-bytes")
}
