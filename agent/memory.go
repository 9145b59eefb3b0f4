package agent

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// giveBack returns memory that only the start needed: the heap in which the tables of all that runs were compiled, and
// the pages of our own executable. Every package of the one binary initialises, the server's too; what is
// needed again comes back from the page cache, page by page.
func giveBack() {
	debug.FreeOSMemory()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer f.Close()
	for _, m := range cleanMappings(f, exe) {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED)
	}
}

type addresses struct{ start, end uintptr }

// cleanMappings lists the mappings of a file that cannot be written and hold nothing but the file's content: no
// relocated page among them.
func cleanMappings(smaps io.Reader, path string) (out []addresses) {
	var m addresses
	wanted := false
	b := bufio.NewScanner(smaps)
	for b.Scan() {
		line := b.Text()
		var start, end, offset uintptr
		var perms string
		if n, _ := fmt.Sscanf(line, "%x-%x %s %x", &start, &end, &perms, &offset); n == 4 {
			m = addresses{start, end}
			wanted = strings.HasSuffix(line, " "+path) && strings.HasPrefix(perms, "r-")
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		switch name {
		case "Private_Dirty", "Shared_Dirty", "Anonymous", "Swap":
			wanted = wanted && strings.TrimSpace(value) == "0 kB"
		case "VmFlags": // the last line of a mapping
			if wanted {
				out = append(out, m)
			}
			wanted = false
		}
	}
	return out
}
