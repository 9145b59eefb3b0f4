package jit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perfuse/perfuse/profile"
)

func write(t testing.TB, path, text string, flag int) {
	t.Helper()
	f, err := os.OpenFile(path, flag|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestLookup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "perf-7.map")
	write(t, path, `1000 100 LazyCompile:~fib /app/a.js:1
0x2000 10 Builtin:Call
garbage
1080 8 stub inside
3000 0 empty
ffffffffffffffff 10 overflows
-1 10 negative
2000 20 Builtin:Call moved
4000 10
5000 10 unfinished`, os.O_TRUNC)
	m, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(0, 0)
	m.now = func() time.Time { return now }
	m.checked = now
	f := func(addr uint64, want string) {
		t.Helper()
		got, ok := m.Lookup(profile.Addr(addr))
		if got != want || ok != (want != "") {
			t.Errorf("%#x: got %q %v, want %q", addr, got, ok, want)
		}
	}
	f(0xfff, "")
	f(0x1000, "LazyCompile:~fib /app/a.js:1")
	f(0x1080, "stub inside")
	f(0x1087, "stub inside")
	f(0x1088, "LazyCompile:~fib /app/a.js:1")
	f(0x10ff, "LazyCompile:~fib /app/a.js:1")
	f(0x1100, "")
	f(0x2005, "Builtin:Call moved")
	f(0x201f, "Builtin:Call moved")
	f(0x5000, "") // its line has no end yet
	if _, dropped := m.Stats(); dropped != 5 {
		t.Errorf("%d lines dropped, want 5", dropped)
	}

	write(t, path, " now whole\n1000 40 fib, optimised\n", os.O_APPEND)
	f(0x5000, "") // less than a second ago
	now = now.Add(time.Second)
	f(0x5000, "unfinished now whole")
	f(0x1000, "fib, optimised")
	f(0x1040, "LazyCompile:~fib /app/a.js:1")

	write(t, path, "9000 10 begun anew\n", os.O_TRUNC)
	now = now.Add(time.Second)
	f(0x9000, "begun anew")
	f(0x1000, "")

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Second)
	f(0xa000, "")
	f(0x9000, "begun anew")
}

func TestOpen(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(os.Getpid(), root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a map: got %v", err)
	}
	path := filepath.Join(root, "tmp", fmt.Sprintf("perf-%d.map", os.Getpid()))
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(os.Getpid(), root); err == nil {
		t.Error("a pipe in the map's place was read")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write(t, path, "10 10 f\n", 0)
	m, err := Open(os.Getpid(), root)
	if err != nil {
		t.Fatal(err)
	}
	if name, _ := m.Lookup(0x18); name != "f" {
		t.Errorf("got %q", name)
	}
}

func TestInnermostPID(t *testing.T) {
	f := func(status string, want int) {
		t.Helper()
		if got := innermostPID([]byte(status), 4); got != want {
			t.Errorf("%q: got %d, want %d", status, got, want)
		}
	}
	f("Name:\tx\nNSpid:\t4711\t17\t1\nNSsid:\t9\n", 1)
	f("NSpid:\t4711\n", 4711)
	f("NSpid:\n", 4)
	f("NSpid:\tx\n", 4)
	f("", 4)
}

// A map that is far too large costs no more than the limits say.
func TestLimits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m")
	var b strings.Builder
	for i := range 20000 {
		fmt.Fprintf(&b, "%x 10 %s\n", 0x1000+i*16, strings.Repeat("n", 5000))
	}
	b.WriteString("1 1 " + strings.Repeat("x", 200<<10) + "\n")
	write(t, path, b.String(), 0)
	m, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, dropped := m.Stats(); m.names > maxNames || dropped != 20001-maxNames/maxNameBytes {
		t.Errorf("%d lines dropped, %d bytes of names", dropped, m.names)
	}
}

func FuzzMap(f *testing.F) {
	f.Add("1000 100 a\n1080 8 b\n", uint64(0x1080))
	f.Add("0 ffffffffffffffff x\n1 1 y\n", uint64(1))
	f.Add("\n\x00 \n 5  6  z \n", uint64(5))
	f.Fuzz(func(t *testing.T, text string, addr uint64) {
		var in []entry
		for line := range strings.Lines(text) {
			if e, ok := parseLine([]byte(line)); ok {
				in = append(in, e)
			}
		}
		want := ""
		for _, e := range in {
			if addr >= e.start && addr < e.end {
				want = e.name
			}
		}
		m := &Map{now: time.Now, checked: time.Now().Add(time.Hour), fresh: in}
		if got, _ := m.Lookup(profile.Addr(addr)); got != want {
			t.Errorf("%#x: got %q, want %q", addr, got, want)
		}
		for i := 1; i < len(m.entries); i++ {
			if m.entries[i-1].end > m.entries[i].start {
				t.Errorf("entries %d and %d overlap", i-1, i)
			}
		}
	})
}

func TestJavaMethods(t *testing.T) {
	for _, c := range []struct{ name, want string }{
		{"void Workload.churn()", "Workload.churn"},
		{"java.lang.AbstractStringBuilder java.lang.AbstractStringBuilder.append(java.lang.String)", "java.lang.AbstractStringBuilder.append"},
		{"int[] java.util.Arrays.copyOf(int[], int)", "java.util.Arrays.copyOf"},
		{"java.lang.Object Main$$Lambda$14/0x0000000800c03000.get()", "Main$$Lambda.get"},
		{"void com.foo.Bar.<init>()", "com.foo.Bar.<init>"},
		{"I2C/C2I adapters", "I2C/C2I adapters"},
		{"Interpreter", "Interpreter"},
		{"LazyCompile:~fib /app/a.js:1", "LazyCompile:~fib /app/a.js:1"},
		{"void [System.Private.CoreLib] System.Threading.Thread::Start()", "void [System.Private.CoreLib] System.Threading.Thread::Start()"},
		{"Function:~(anonymous) /app/a.js:1 (x.y)", "Function:~(anonymous) /app/a.js:1 (x.y)"},
		{"py::f:/app/my (old).py(1)", "py::f:/app/my (old).py(1)"},
	} {
		m, err := Read(strings.NewReader("1000 10 " + c.name + "\n2000 10 unfinished"))
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := m.Lookup(0x1008); !ok || got != c.want {
			t.Errorf("%q: got %q, want %q", c.name, got, c.want)
		}
		if _, ok := m.Lookup(0x2000); ok {
			t.Error("an unfinished line is an entry")
		}
	}
}
