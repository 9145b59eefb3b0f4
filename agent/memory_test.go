package agent

import (
	"fmt"
	"strings"
	"testing"
)

func TestCleanMappings(t *testing.T) {
	mapping := func(header string, dirty, anonymous int) string {
		return fmt.Sprintf("%s\nSize:    8 kB\nRss:    8 kB\nShared_Dirty: 0 kB\nPrivate_Dirty: %d kB\nAnonymous: %d kB\nSwap: 0 kB\nVmFlags: rd ex mr\n", header, dirty, anonymous)
	}
	smaps := mapping("00400000-00402000 r-xp 00000000 fe:00 12 /usr/bin/perfuse", 0, 0) +
		mapping("00402000-00404000 r--p 00002000 fe:00 12 /usr/bin/perfuse", 0, 0) +
		mapping("00404000-00406000 rw-p 00004000 fe:00 12 /usr/bin/perfuse", 0, 0) + // data
		mapping("00406000-00408000 r--p 00006000 fe:00 12 /usr/bin/perfuse", 8, 0) + // relocated
		mapping("00408000-0040a000 r--p 00006000 fe:00 12 /usr/bin/perfuse", 0, 8) + // relocated
		mapping("7f0000000000-7f0000002000 r-xp 00000000 fe:00 13 /usr/lib/other/perfuse", 0, 0) +
		mapping("7ffc00000000-7ffc00002000 r-xp 00000000 00:00 0 [vdso]", 0, 0)
	got := fmt.Sprintf("%x", cleanMappings(strings.NewReader(smaps), "/usr/bin/perfuse"))
	if want := "[{400000 402000} {402000 404000}]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestGiveBack runs on after its own code is gone from memory.
func TestGiveBack(t *testing.T) {
	giveBack()
	if s := fmt.Sprint(strings.Repeat("ab", 3), 1.5); s != "ababab1.5" && s != "ababab 1.5" {
		t.Errorf("got %q", s)
	}
}
