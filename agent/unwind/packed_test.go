package unwind

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/perfuse/perfuse/profile"
)

// readRows makes a table of lines "ADDRESS RULE"; the rules are CFA = rsp+RULE, 0 is no information.
func readRows(t *testing.T, text string) *Table {
	t.Helper()
	table := &Table{Rules: []Rule{NoInfo}}
	for line := range strings.Lines(text) {
		var addr uint64
		var rule int
		if _, err := fmt.Sscanf(line, "%x %d", &addr, &rule); err != nil {
			t.Fatalf("reading %q: %v", line, err)
		}
		for len(table.Rules) <= rule {
			table.Rules = append(table.Rules, Rule{CFA: CFARegister, Reg: dwarfRSP, Offset: int32(len(table.Rules))})
		}
		table.Rows = append(table.Rows, Row{profile.Addr(addr), uint16(rule)})
	}
	return table
}

// TestPack packs tables of addresses and rules, prints the blocks, and looks addresses up.
func TestPack(t *testing.T) {
	var p *Packed
	datadriven.RunTest(t, "testdata/pack", func(t *testing.T, d *datadriven.TestData) string {
		var out strings.Builder
		switch d.Cmd {
		case "pack":
			table := readRows(t, d.Input)
			checkTable(t, table)
			var err error
			if p, err = Pack(table); err != nil {
				return err.Error() + "\n"
			}
			if err := p.validate(); err != nil {
				t.Fatal(err)
			}
			for i := range len(p.Blocks) - 1 {
				fmt.Fprintf(&out, "%x:", (p.FirstBlock+uint64(i))<<blockShift)
				for _, r := range p.Rows[p.Blocks[i]:p.Blocks[i+1]] {
					fmt.Fprintf(&out, " %x=%d", r&0xffff, r>>16)
				}
				out.WriteByte('\n')
			}
		case "lookup":
			for w := range strings.FieldsSeq(d.Input) {
				var addr uint64
				if _, err := fmt.Sscanf(w, "%x", &addr); err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&out, "%x: %d\n", addr, p.Lookup(profile.Addr(addr)).Offset)
			}
		default:
			d.Fatalf(t, "no command %s", d.Cmd)
		}
		return out.String()
	})
}

// testPacked checks that a packed table answers as the table does, at and around every row.
func testPacked(t *testing.T, table *Table) *Packed {
	t.Helper()
	p, err := Pack(table)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.validate(); err != nil {
		t.Fatal(err)
	}
	ask := func(a profile.Addr) {
		if g, w := p.Lookup(a), table.Lookup(a); g != w {
			t.Fatalf("%#x: packed says %+v, table %+v", a, g, w)
		}
	}
	for i, r := range table.Rows {
		if w := table.Rules[r.Rule]; p.Lookup(r.Addr) != w {
			t.Fatalf("%#x: packed says %+v, table %+v", r.Addr, p.Lookup(r.Addr), w)
		}
		if i%16 == 0 {
			ask(r.Addr - 1)
		}
	}
	for _, a := range []profile.Addr{0, 1, 1<<64 - 1, profile.Addr(p.FirstBlock<<blockShift - 1), profile.Addr(p.FirstBlock << blockShift)} {
		ask(a)
	}
	return p
}

// TestPackRandom packs tables whose rows stand at random, also exactly where blocks begin and end.
func TestPackRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		table := &Table{Rules: []Rule{NoInfo, {CFA: CFAEnd}, {CFA: CFASignal}, {CFA: CFAPLT}}}
		addr := profile.Addr(r.Uint64N(1 << 20))
		last := uint16(0)
		for range r.IntN(40) {
			rule := uint16(r.IntN(len(table.Rules)))
			if rule == last {
				continue
			}
			table.Rows = append(table.Rows, Row{addr, rule})
			last = rule
			switch r.IntN(3) {
			case 0:
				addr += 1 + profile.Addr(r.Uint64N(1<<18))
			case 1:
				addr = addr&^0xffff + 1<<16
			default:
				addr += 1 + profile.Addr(r.Uint64N(8))
			}
		}
		if len(table.Rows) > 0 && last != 0 {
			table.Rows = append(table.Rows, Row{addr, 0})
		}
		checkTable(t, table)
		testPacked(t, table)
	}
}

// TestManyRules gives a table more rules than 16 bits can name: the rarest must become CFAUnsupported.
func TestManyRules(t *testing.T) {
	b := newBuilder()
	const n = 70000
	for i := range uint64(n) {
		b.begin(0x1000+16*i, 0x1000+16*i+16)
		b.add(0, Rule{CFA: CFARegister, Reg: dwarfRSP, Offset: int32(i)})
		b.add(8, Rule{CFA: CFARegister, Reg: dwarfRSP, Offset: int32(i%100) + n})
		if err := b.end(); err != nil {
			t.Fatal(err)
		}
	}
	table := b.table(0)
	checkTable(t, table)
	if len(table.Rules) != 1<<16 || table.Stats.LostRules != n+100+2-1<<16 {
		t.Fatalf("%d rules, %d lost", len(table.Rules), table.Stats.LostRules)
	}
	for i := range uint64(n) {
		if r := table.Lookup(profile.Addr(0x1000 + 16*i + 8)); r.Offset != int32(i%100)+n {
			t.Fatalf("function %d: a rule that 700 rows share is lost: %+v", i, r)
		}
		r := table.Lookup(profile.Addr(0x1000 + 16*i))
		if r.CFA != CFAUnsupported && r.Offset != int32(i) {
			t.Fatalf("function %d: %+v", i, r)
		}
	}
	testPacked(t, table)
}

// TestPackTooWide refuses what would need more blocks than the kernel is given.
func TestPackTooWide(t *testing.T) {
	_, err := Pack(readRows(t, "400000 1\n7f0000000000 0\n"))
	if !errors.Is(err, ErrTooWide) {
		t.Fatalf("error is %v", err)
	}
}
