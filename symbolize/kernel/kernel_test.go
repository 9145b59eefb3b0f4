package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/perfuse/perfuse/profile"
)

const listing = `ffffffff81000000 T _text
ffffffff81000000 T startup_64
ffffffff81000000 t __startup_secondary_64
ffffffff81000100 t do_one
ffffffff81000100 T __x64_sys_read
ffffffff81000200 D a_datum
ffffffff81000300 W weak_one
this is no symbol
ffffffffzz T nor_is_this
ffffffff81000400
ffffffffc0100000 t ext4_write	[ext4]
ffffffffc0200000 T nf_hook	[nf_tables]
ffffffffc0300000 t bpf_prog_6deef7357e7b4530_sd	[bpf]
`

func TestLookup(t *testing.T) {
	table, err := Read(strings.NewReader(listing))
	if err != nil {
		t.Fatal(err)
	}
	f := func(addr uint64, want string) {
		t.Helper()
		got := "-"
		if name, module, ok := table.Lookup(profile.Addr(addr)); ok {
			got = name + " " + module
		}
		if got != want {
			t.Errorf("%#x: got %q, want %q", addr, got, want)
		}
	}
	f(0, "-")
	f(0xffffffff80ffffff, "-")
	f(0xffffffff81000000, "startup_64 [kernel.kallsyms]")
	f(0xffffffff810000ff, "startup_64 [kernel.kallsyms]")
	f(0xffffffff81000100, "__x64_sys_read [kernel.kallsyms]") // global before local
	f(0xffffffff81000250, "__x64_sys_read [kernel.kallsyms]")
	f(0xffffffff81000300, "weak_one [kernel.kallsyms]")
	f(0xffffffff81400300, "-") // the gap before the modules
	f(0xffffffffc0100010, "ext4_write [ext4]")
	f(0xffffffffc01fffff, "ext4_write [ext4]")
	f(0xffffffffc0200000, "nf_hook [nf_tables]")
	f(0xffffffffc0300004, "bpf_prog_6deef7357e7b4530_sd [bpf]")
	f(0xffffffffffffffff, "-")
}

func TestReadHidden(t *testing.T) {
	_, err := Read(strings.NewReader("0000000000000000 T _text\n0000000000000000 t f\n"))
	if !errors.Is(err, ErrHidden) {
		t.Errorf("got %v, want ErrHidden", err)
	}
}

// The truth about this machine: each text symbol's own address finds a symbol of that address.
func TestThisKernel(t *testing.T) {
	raw, err := os.ReadFile("/proc/kallsyms")
	if err != nil {
		t.Skip(err)
	}
	table, err := Read(bytes.NewReader(raw))
	if errors.Is(err, ErrHidden) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	at := map[uint64][]string{}
	for line := range strings.Lines(string(raw)) {
		w := strings.Fields(line)
		addr, err := strconv.ParseUint(w[0], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains("tTwW", w[1]) && addr != 0 {
			mod := Core
			if len(w) > 3 {
				mod = w[3]
			}
			at[addr] = append(at[addr], w[2]+" "+mod)
		}
	}
	if len(at) != table.Len() {
		t.Errorf("%d addresses in the table, %d in the file", table.Len(), len(at))
	}
	for addr, want := range at {
		name, module, ok := table.Lookup(profile.Addr(addr))
		if !ok || !strings.Contains(fmt.Sprint(want), name+" "+module) {
			t.Fatalf("%#x: got %s %s, want one of %v", addr, name, module, want)
		}
	}
	t.Logf("%d symbols, %d modules", table.Len(), len(table.moduleNames)-1)
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(listing))
	f.Add([]byte("ffffffffffffffff T a\nfffffffffffffffe t b\n0000000000000001 w c"))
	f.Add(bytes.Repeat([]byte{'a'}, 70<<10))
	f.Fuzz(func(t *testing.T, b []byte) {
		table, err := Read(bytes.NewReader(b))
		if err != nil {
			return
		}
		for _, a := range []uint64{0, 1, 1 << 63, ^uint64(0)} {
			table.Lookup(profile.Addr(a))
		}
		for _, a := range table.addrs {
			if _, _, ok := table.Lookup(profile.Addr(a)); !ok {
				t.Errorf("%#x is a symbol's address and not found", a)
			}
		}
	})
}

func BenchmarkLookup(b *testing.B) {
	table, err := Load("/proc/kallsyms")
	if err != nil {
		b.Skip(err)
	}
	n := uint64(table.Len())
	for i := uint64(0); b.Loop(); i++ {
		table.Lookup(profile.Addr(table.addrs[i*7919%n] + 5))
	}
}
