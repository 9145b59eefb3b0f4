package index

import (
	"fmt"
	"strings"
	"testing"
)

// What a symbol table means: aliases, symbols without a size, labels inside functions, gaps.
func TestChooseFunctions(t *testing.T) {
	f := func(want string, all ...candidate) {
		t.Helper()
		var got []string
		for _, fn := range chooseFunctions(all) {
			got = append(got, fmt.Sprintf("%x-%x %s", fn.start, fn.end, fn.name))
		}
		if g := strings.Join(got, ", "); g != want {
			t.Errorf("got %s, want %s", g, want)
		}
	}
	const global, weak, local, label = 0, 1, 2, 4
	c := func(addr, size, end uint64, name string, rank uint8) candidate {
		return candidate{addr: addr, size: size, end: end, name: name, rank: rank}
	}
	f("")
	f("10-20 write", c(0x10, 0x10, 0x100, "write", global))
	// Aliases: global before weak before local, then fewer underscores, shorter, by the alphabet.
	f("10-20 write", c(0x10, 0x10, 0x100, "__write", global), c(0x10, 0x10, 0x100, "write", global), c(0x10, 0x10, 0x100, "a", weak))
	f("10-20 abc", c(0x10, 0x10, 0x100, "abd", global), c(0x10, 0x10, 0x100, "abc", global))
	f("10-20 static", c(0x10, 0x10, 0x100, "label", label), c(0x10, 0x10, 0x100, "static", local))
	// The largest size of the aliases counts.
	f("10-30 a", c(0x10, 0, 0x100, "a", global), c(0x10, 0x20, 0x100, "b", local))
	// Without a size: up to the next symbol, or the section's end.
	f("10-20 a, 20-100 b", c(0x10, 0, 0x100, "a", global), c(0x20, 0, 0x100, "b", global))
	f("10-80 a, 200-210 b", c(0x10, 0, 0x80, "a", global), c(0x200, 0x10, 0x300, "b", global))
	// A label inside a function with a size is no function; one behind it is.
	f("10-20 a, 28-100 end", c(0x10, 0x10, 0x100, "a", global), c(0x18, 0, 0x100, "loop", label), c(0x28, 0, 0x100, "end", label))
	// Functions with sizes may lie in each other; the table lets the inner one win.
	f("10-40 outer, 20-28 inner", c(0x10, 0x30, 0x100, "outer", global), c(0x20, 8, 0x100, "inner", local))
}
