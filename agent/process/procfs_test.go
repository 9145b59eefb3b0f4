package process

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestParseStat(t *testing.T) {
	f := func(text string, want string) {
		t.Helper()
		s, err := parseStat([]byte(text))
		got := "error"
		if err == nil {
			got = fmt.Sprintf("%q %c %d %v %d %d", s.comm, s.state, s.parent, s.kernel, s.threads, s.startTicks)
		}
		if got != want {
			t.Errorf("%q:\n got %s\nwant %s", text, got, want)
		}
	}
	rest := " 1 1 0 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 4711 9 9 9"
	f("1 (init) S"+rest, `"init" S 1 false 3 4711`)
	f("1 (a) S 9 (b c\n) R"+rest, `"a) S 9 (b c\n" R 1 false 3 4711`)
	f("2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 17 0 0", `"kthreadd" S 0 true 1 17`)
	f("1 () Z"+rest, `"" Z 1 false 3 4711`)
	f("", "error")
	f("1 (a", "error")
	f("1 )(", "error")
	f("1 (a) S 1 2 3", "error")
	f("1 (a) S x 1 0 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 4711 9", "error")
	f("1 (a)", "error")
}

func TestParseMaps(t *testing.T) {
	f := func(line string, want string) {
		t.Helper()
		got := ""
		parseMaps([]byte(line), func(m Mapping, path []byte) {
			got += fmt.Sprintf("%x-%x %x %d:%d %d %q\n", m.Start, m.End, m.Offset, m.File.Dev>>20, m.File.Dev&0xfffff, m.File.Inode, path)
		})
		if got != want {
			t.Errorf("%q:\n got %s\nwant %s", line, got, want)
		}
	}
	f("55d0c8a00000-55d0c8a28000 r-xp 00002000 fe:01 1234                       /usr/bin/cat\n", "55d0c8a00000-55d0c8a28000 2000 254:1 1234 \"/usr/bin/cat\"\n")
	f("1000-2000 r-xp 00000000 103:05 9 /a b (deleted)\n3000-4000 --xs 00001000 00:01 7 /memfd:x (deleted)",
		"1000-2000 0 259:5 9 \"/a b (deleted)\"\n3000-4000 1000 0:1 7 \"/memfd:x (deleted)\"\n")
	f(`1000-2000 r-xp 00000000 08:01 9 /a\012b`, "1000-2000 0 8:1 9 \"/a\\nb\"\n")
	f("1000-2000 rwxp 00000000 00:00 0 \n", "1000-2000 0 0:0 0 \"//anon\"\n")
	f("1000-2000 rwxp 00000000 00:00 0", "1000-2000 0 0:0 0 \"//anon\"\n")
	f("1000-2000 rwxp 00000000 00:00 0                      [anon:v8]\n", "1000-2000 0 0:0 0 \"//anon\"\n")
	f("7fff1000-7fff3000 r-xp 00000000 00:00 0              [vdso]\n", "7fff1000-7fff3000 0 0:0 0 \"[vdso]\"\n")
	f("ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]\n", "")
	f("1000-2000 r--p 00000000 08:01 9 /data\n", "")
	for _, bad := range []string{"\n\n", "x", "1000 r-xp 0 8:1 9 /a", "2000-1000 r-xp 0 8:1 9 /a", "1000-2000 r-x 0 8:1 9 /a", "1000-2000 r-xp 0 81 9 /a",
		"1000-2000 r-xp 0 8:1 x /a", "10000000000000000-2 r-xp 0 8:1 9 /a", "1000-2000 r-xp G 8:1 9 /a", "1000-2000"} {
		f(bad, "")
	}
}

// All of this machine's maps are read without a loss of executable lines.
func TestParseRealMaps(t *testing.T) {
	pids, err := listPIDs("/proc")
	if err != nil || len(pids) == 0 {
		t.Fatal(err)
	}
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
		if err != nil {
			continue // died
		}
		want, got := 0, 0
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if f[1][2] == 'x' && !strings.HasSuffix(line, "[vsyscall]\n") {
				want++
			}
		}
		parseMaps(b, func(Mapping, []byte) { got++ })
		if got != want {
			t.Errorf("process %d: %d executable mappings, want %d", pid, got, want)
		}
	}
}

func FuzzParseProc(f *testing.F) {
	f.Add([]byte("1 (a) S 1 1 0 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 4711 9"), []byte("1000-2000 r-xp 00000000 08:01 9 /a\n"))
	f.Add([]byte("1 (a))) S"), []byte("7fff1000-7fff3000 r-xp 0 00:00 0              [vdso]\n\n-"))
	f.Fuzz(func(t *testing.T, stat, maps []byte) {
		parseStat(stat)
		parseMaps(maps, func(m Mapping, path []byte) {
			if m.Start >= m.End {
				t.Errorf("%+v", m)
			}
		})
	})
}
