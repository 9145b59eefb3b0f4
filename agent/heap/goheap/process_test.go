package goheap

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/perfuse/perfuse/symbolize/elf"
	"github.com/perfuse/perfuse/symbolize/gosym"
)

// toolchains are the last of each minor version; the first is the one that runs the tests.
var toolchains = []string{"local", "go1.20.14", "go1.21.13", "go1.22.12", "go1.23.12", "go1.24.11", "go1.25.5"}

// patient leaves time for a machine that is busy with something else.
var patient = Limits{Duration: time.Minute}

// sources is a copy of testdata outside of our module, so that other toolchains can build it.
var sources = sync.OnceValues(func() (string, error) {
	folder, err := os.MkdirTemp("", "goheap")
	if err != nil {
		return "", err
	}
	if err := os.CopyFS(folder, os.DirFS("testdata")); err != nil {
		return "", err
	}
	return folder, os.WriteFile(filepath.Join(folder, "go.mod"), []byte("module programs\n\ngo 1.20\n"), 0o600)
})

func TestMain(m *testing.M) {
	code := m.Run()
	if folder, err := sources(); err == nil {
		os.RemoveAll(folder)
	}
	os.Exit(code)
}

// needToolchain skips a test of a toolchain that would have to be downloaded.
func needToolchain(tb testing.TB, toolchain string) {
	tb.Helper()
	if toolchain == "local" || os.Getenv("PERFUSE_ALL_LIBRARIES") != "" {
		return
	}
	cache, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		tb.Fatalf("asking for the module cache: %v", err)
	}
	path := filepath.Join(strings.TrimSpace(string(cache)), "golang.org", "toolchain@v0.0.1-"+toolchain+".linux-"+runtime.GOARCH)
	if _, err := os.Stat(path); err != nil {
		tb.Skipf("%s is not in the module cache: PERFUSE_ALL_LIBRARIES=1 downloads it", toolchain)
	}
}

func needGCC(tb testing.TB) {
	tb.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		tb.Skip("gcc is not installed")
	}
}

var built = map[string]string{}

// build builds a program of testdata, once.
func build(tb testing.TB, toolchain, program string, env []string, args ...string) string {
	tb.Helper()
	needToolchain(tb, toolchain)
	folder, err := sources()
	if err != nil {
		tb.Fatal(err)
	}
	key := fmt.Sprint(toolchain, program, env, args)
	if path, ok := built[key]; ok {
		return path
	}
	out := filepath.Join(folder, fmt.Sprintf("%s-%d", program, len(built)))
	cmd := exec.Command("go", append(append([]string{"build", "-o", out}, args...), "./"+program)...)
	cmd.Dir = folder
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOWORK=off", "GOTOOLCHAIN="+toolchain), env...)
	if text, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("building %s with %s: %v\n%s", program, toolchain, err, text)
	}
	built[key] = out
	return out
}

// findIn looks into a file.
func findIn(path string) (l *Layout, err error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	err = elf.Guard(func() error { l, err = Find(f); return err })
	return l, err
}

// program is one of testdata while it runs.
type program struct {
	tb     testing.TB
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	mem    *Memory
	layout *Layout
	bias   uint64
}

// start runs path and opens its memory. file is what has the Go code, path if it is empty.
func start(tb testing.TB, path, file string, args ...string) *program {
	tb.Helper()
	if file == "" {
		file = path
	}
	p := &program{tb: tb, cmd: exec.Command(path, args...)}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.Stderr = os.Stderr
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		tb.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	runtime.LockOSThread() // the thread's end would be that of its children
	if err := p.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { p.kill(); runtime.UnlockOSThread() })
	if line := p.line(); line != "ready" {
		tb.Fatalf("the program says %q", line)
	}
	if p.mem, err = OpenMemory(p.cmd.Process.Pid); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { p.mem.Close() })
	if p.layout, err = findIn(file); err != nil {
		tb.Fatal(err)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", p.cmd.Process.Pid))
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var from, to, offset uint64
		var flags string
		if _, err := fmt.Sscanf(line, "%x-%x %s %x", &from, &to, &flags, &offset); err != nil {
			tb.Fatal(err)
		}
		// An emulator does not map code as such.
		if strings.HasSuffix(line, file+"\n") && (strings.Contains(flags, "x") || file != path) {
			if bias, ok := p.layout.Bias(from, offset); ok {
				p.bias = bias
				return p
			}
		}
	}
	tb.Fatalf("the code of %s is not mapped", file)
	return nil
}

func (p *program) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

func (p *program) line() string {
	p.tb.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.tb.Fatalf("waiting for the program's answer: %v", err)
	}
	return strings.TrimSpace(line)
}

func (p *program) order(format string, args ...any) string {
	p.tb.Helper()
	if _, err := fmt.Fprintf(p.in, format+"\n", args...); err != nil {
		p.tb.Fatal(err)
	}
	return p.line()
}

func (p *program) reader() *Reader { return NewReader(p.layout, p.mem, p.bias) }

// record is what the program says of a bucket.
type record struct {
	AllocBytes, FreeBytes, AllocObjects, FreeObjects int64
	Stack                                            []uint64
	Frames                                           []string
}

func (p *program) profile() (out []record) {
	p.tb.Helper()
	if err := json.NewDecoder(strings.NewReader(p.order("profile"))).Decode(&out); err != nil {
		p.tb.Fatal(err)
	}
	return out
}

// names gives return addresses the names of all functions that are there, inlined ones first.
type names struct {
	table *gosym.Table
	bias  uint64
	funcs []gosym.Func // without rows
}

func newNames(tb testing.TB, path string, bias uint64) *names {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	f, err := elf.NewBytes(b)
	if err != nil {
		tb.Fatal(err)
	}
	n := &names{bias: bias}
	if n.table, err = gosym.Find(f); err != nil {
		tb.Fatal(err)
	}
	var fn gosym.Func
	for i := range n.table.Len() {
		if n.table.Func(i, &fn) == nil {
			fn := fn
			fn.Rows, fn.Inlined = slices.Clone(fn.Rows), slices.Clone(fn.Inlined)
			n.funcs = append(n.funcs, fn)
		}
	}
	return n
}

func (n *names) of(stack []uint64) (out []string) {
	for _, pc := range stack {
		at := pc - n.bias - 1
		i := sort.Search(len(n.funcs), func(i int) bool { return n.funcs[i].Start > at }) - 1
		if i < 0 || at >= n.funcs[i].End {
			out = append(out, "?")
			continue
		}
		fn := &n.funcs[i]
		row := sort.Search(len(fn.Rows), func(i int) bool { return fn.Rows[i].Addr > at }) - 1
		for call := fn.Rows[row].Call; call >= 0; call = fn.Inlined[call].Parent {
			out = append(out, printed(n.table.Name(fn.Inlined[call].Name)))
		}
		out = append(out, printed(n.table.Name(fn.Name)))
	}
	return out
}

// printed leaves type arguments out, as the runtime does.
func printed(name string) string {
	i, j := strings.IndexByte(name, '['), strings.LastIndexByte(name, ']')
	if i < 0 || j < i {
		return name
	}
	return name[:i] + "[...]" + name[j+1:]
}

// sorted makes lists comparable.
func sorted[T any](list []T, f func(T) string) []string {
	var out []string
	for _, x := range list {
		out = append(out, f(x))
	}
	slices.Sort(out)
	return out
}

// difference lists what only one of two sorted lists has.
func difference(got, want []string) string {
	var b bytes.Buffer
	for len(got) > 0 || len(want) > 0 {
		switch {
		case len(want) == 0 || len(got) > 0 && got[0] < want[0]:
			fmt.Fprintln(&b, "got ", got[0])
			got = got[1:]
		case len(got) == 0 || got[0] > want[0]:
			fmt.Fprintln(&b, "want", want[0])
			want = want[1:]
		default:
			got, want = got[1:], want[1:]
		}
	}
	return b.String()
}
