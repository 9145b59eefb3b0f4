// Package kernel names addresses of the running kernel and its modules from /proc/kallsyms, read once into
// a compact sorted table.
//
// The table keeps what can be executed: symbols of type t, T, w and W, and whatever the kernel lists without
// sizes, so a symbol holds up to the next one. The gaps between the kernel's text and its modules are not
// part of any symbol: one longer than 4 MiB ends the symbol before it.
package kernel

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/perfuse/perfuse/profile"
)

// Core is the mapping name of the kernel proper; that of a module is its name in brackets.
const Core = "[kernel.kallsyms]"

// ErrHidden: kallsyms lists only zeros: kernel.kptr_restrict is 2, or it is 1 and CAP_SYSLOG is missing.
var ErrHidden = errors.New("kernel addresses are hidden (kernel.kptr_restrict, CAP_SYSLOG)")

// Limits of what is believed. A kernel with many modules has some 250 000 symbols and 12 MB of names.
const (
	maxSymbols = 4 << 20
	maxNames   = 256 << 20
	maxGap     = 4 << 20
)

// Table is immutable; it may be used by several goroutines at once.
type Table struct {
	addrs   []uint64 // sorted, each once
	names   []uint32 // offset into text where the name begins
	modules []uint16 // index into moduleNames
	text    string   // all names, each ended by a zero byte

	moduleNames []string // moduleNames[0] is Core, the others are "[name]"

	schedStart, schedEnd uint64 // what the kernel calls its scheduling text
}

// Load reads a file in the format of /proc/kallsyms.
func Load(path string) (*Table, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("loading kernel symbols: %w", err)
	}
	defer f.Close()
	t, err := Read(f)
	if err != nil {
		return nil, fmt.Errorf("loading kernel symbols from %s: %w", path, err)
	}
	return t, nil
}

type symbol struct {
	addr   uint64
	name   uint32
	module uint16
	weak   bool // a weak or local name gives way to a global one at the same address
}

// Read parses lines of the form "ffffffff81000000 T _text" with an optional "\t[module]". A line that is
// none is skipped. The result is [ErrHidden] if all addresses are zero.
func Read(r io.Reader) (*Table, error) {
	t := &Table{moduleNames: []string{Core}}
	modules := map[string]uint16{}
	var syms []symbol
	var names strings.Builder
	hidden := false

	b := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := b.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			// No symbol is that long: skip what is left of the line.
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = b.ReadSlice('\n')
			}
			line = nil
		}
		if len(line) > 0 {
			addr, kind, name, module, ok := parseLine(line)
			switch {
			case !ok:
			case addr == 0:
				hidden = true
			case len(syms) >= maxSymbols || names.Len() >= maxNames:
				return nil, fmt.Errorf("more than %d symbols or %d bytes of names", maxSymbols, maxNames)
			default:
				switch string(name) {
				case "__sched_text_start":
					t.schedStart = addr
				case "__sched_text_end":
					t.schedEnd = addr
				}
				s := symbol{addr: addr, name: uint32(names.Len()), weak: kind != 'T'}
				names.Write(name)
				names.WriteByte(0)
				if len(module) > 0 {
					i, known := modules[string(module)]
					if !known && len(t.moduleNames) <= math.MaxUint16 {
						i = uint16(len(t.moduleNames))
						modules[string(module)] = i
						t.moduleNames = append(t.moduleNames, "["+string(module)+"]")
					}
					s.module = i
				}
				syms = append(syms, s)
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	if len(syms) == 0 && hidden {
		return nil, ErrHidden
	}
	t.text = strings.Clone(names.String())
	slices.SortFunc(syms, func(a, b symbol) int {
		switch {
		case a.addr != b.addr:
			if a.addr < b.addr {
				return -1
			}
			return 1
		case a.weak != b.weak:
			if b.weak {
				return -1
			}
			return 1
		}
		return betterName(t.nameAt(a.name), t.nameAt(b.name))
	})
	syms = slices.CompactFunc(syms, func(a, b symbol) bool { return a.addr == b.addr })
	t.addrs = make([]uint64, len(syms))
	t.names = make([]uint32, len(syms))
	t.modules = make([]uint16, len(syms))
	for i, s := range syms {
		t.addrs[i], t.names[i], t.modules[i] = s.addr, s.name, s.module
	}
	return t, nil
}

// Scheduling says whether an address lies in the functions of the kernel that a thread is in whenever it does not run
// (schedule and its like): they say nothing of what it waits for.
func (t *Table) Scheduling(addr profile.Addr) bool {
	return uint64(addr) >= t.schedStart && uint64(addr) < t.schedEnd
}

// betterName orders aliases: fewer leading underscores, then shorter, then by the alphabet. _text and its
// like are marks, not functions.
func betterName(a, b string) int {
	under := func(s string) int { return len(s) - len(strings.TrimLeft(s, "_")) }
	if d := under(a) - under(b); d != 0 {
		return d
	}
	if d := len(a) - len(b); d != 0 {
		return d
	}
	return strings.Compare(a, b)
}

func parseLine(line []byte) (addr uint64, kind byte, name, module []byte, ok bool) {
	line = bytes.TrimRight(line, "\r\n")
	i := 0
	for ; i < len(line) && i < 16; i++ {
		c := line[i]
		switch {
		case c >= '0' && c <= '9':
			addr = addr<<4 | uint64(c-'0')
		case c >= 'a' && c <= 'f':
			addr = addr<<4 | uint64(c-'a'+10)
		default:
			goto digits
		}
	}
digits:
	// Digits, a blank, the type, a blank, the name.
	if i == 0 || len(line) < i+4 || line[i] != ' ' || line[i+2] != ' ' {
		return 0, 0, nil, nil, false
	}
	kind = line[i+1]
	switch kind {
	case 't', 'T', 'w', 'W':
	default:
		return 0, 0, nil, nil, false
	}
	name = line[i+3:]
	if j := bytes.IndexAny(name, "\t "); j >= 0 {
		rest := bytes.TrimLeft(name[j:], "\t ")
		name = name[:j]
		if len(rest) > 2 && rest[0] == '[' && rest[len(rest)-1] == ']' {
			module = rest[1 : len(rest)-1]
		}
	}
	if len(name) == 0 || bytes.IndexByte(name, 0) >= 0 {
		return 0, 0, nil, nil, false
	}
	return addr, kind, name, module, true
}

func (t *Table) nameAt(off uint32) string {
	s := t.text[off:]
	return s[:strings.IndexByte(s, 0)]
}

// Lookup returns the symbol that holds addr and the mapping it belongs to: Core or "[module]". The name
// shares the table's memory.
func (t *Table) Lookup(addr profile.Addr) (name, module string, ok bool) {
	i, exact := slices.BinarySearch(t.addrs, uint64(addr))
	if !exact {
		i--
	}
	if i < 0 {
		return "", "", false
	}
	// The distance cannot overflow, the end of the last symbol could.
	size := uint64(maxGap)
	if i+1 < len(t.addrs) {
		size = min(size, t.addrs[i+1]-t.addrs[i])
	}
	if uint64(addr)-t.addrs[i] >= size {
		return "", "", false
	}
	return t.nameAt(t.names[i]), t.moduleNames[t.modules[i]], true
}

// Len is the number of distinct addresses.
func (t *Table) Len() int { return len(t.addrs) }
