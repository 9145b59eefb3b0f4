package hotspot

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/perfuse/perfuse/profile"
)

// jdks finds JDKs by major version: those that testdata/jdks fetched, and the machine's.
var jdks = sync.OnceValue(func() map[int]string {
	found := map[int]string{}
	for _, pattern := range []string{"/usr/lib/jvm/*", "../../../.tools/jdks/*"} {
		homes, _ := filepath.Glob(pattern)
		for _, home := range homes {
			home, err := filepath.Abs(home)
			if err != nil {
				continue
			}
			data, err := os.ReadFile(filepath.Join(home, "release"))
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(data)) {
				if v, ok := strings.CutPrefix(strings.TrimSpace(line), `JAVA_VERSION="`); ok {
					if _, err := os.Stat(filepath.Join(home, "bin", "java")); err == nil {
						found[majorVersion(v)] = home
					}
				}
			}
		}
	}
	return found
})

// javac compiles the workload once, for the oldest JDK, with whichever compiler there is.
var javac = sync.OnceValues(func() (string, error) {
	for _, home := range jdks() {
		compiler := filepath.Join(home, "bin", "javac")
		if _, err := os.Stat(compiler); err != nil {
			continue
		}
		out, err := os.MkdirTemp("", "workload")
		if err != nil {
			return "", err
		}
		os.Chmod(out, 0o755)
		text, err := exec.Command(compiler, "--release", "11", "-Xlint:-options", "-d", out, "testdata/Workload.java").CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("compiling the workload: %w\n%s", err, text)
		}
		return out, nil
	}
	return "", fmt.Errorf("no javac")
})

func TestMain(m *testing.M) {
	switch {
	case os.Getenv("HOTSPOT_TEST_RECORD") != "":
		recordForever()
	case os.Getenv("HOTSPOT_TEST_MAP") != "":
		mapForever(os.Getenv("HOTSPOT_TEST_MAP"))
	}
	code := m.Run()
	if len(jdks()) > 0 {
		if dir, err := javac(); err == nil {
			os.RemoveAll(dir)
		}
	}
	os.Exit(code)
}

// eachJDK runs f with each JDK of those that matter, and says which are missing.
func eachJDK(t *testing.T, f func(t *testing.T, home string)) {
	t.Helper()
	for _, version := range []int{11, 17, 21, 25} {
		t.Run(fmt.Sprintf("JDK %d", version), func(t *testing.T) {
			home, ok := jdks()[version]
			if !ok {
				t.Skipf("no JDK %d here: agent/heap/hotspot/testdata/jdks fetches it", version)
			}
			f(t, home)
		})
	}
}

// oneJDK returns a JDK for tests that need no particular one.
func oneJDK(t testing.TB) string {
	t.Helper()
	for _, version := range slices.Backward(slices.Sorted(maps.Keys(jdks()))) {
		if version == 17 || version <= 17 && version >= 11 {
			return jdks()[version]
		}
	}
	for _, home := range jdks() {
		return home
	}
	t.Skip("no JDK here: agent/heap/hotspot/testdata/jdks fetches some")
	return ""
}

// program is the workload in a JVM.
type program struct {
	t    testing.TB
	cmd  *exec.Cmd
	pid  int // of the JVM
	in   io.WriteCloser
	out  *bufio.Reader
	text bytes.Buffer
}

// living is a thread that lives as long as the tests do.
var living = sync.OnceValue(func() chan func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// begin starts a program that dies with its parent: to the kernel that is the thread that has started it, and here threads
// die that have acted for another user.
func begin(cmd *exec.Cmd) error {
	done := make(chan error)
	living() <- func() { done <- cmd.Start() }
	return <-done
}

// run starts the workload; prefix are words before the java command, such as unshare's.
func run(t testing.TB, home string, prefix []string, options ...string) *program {
	t.Helper()
	classes, err := javac()
	if err != nil {
		t.Fatal(err)
	}
	words := append(slices.Clone(prefix), filepath.Join(home, "bin", "java"), "-Xmx512m", "-cp", classes)
	words = append(append(words, options...), "Workload")
	p := &program{t: t, cmd: exec.Command(words[0], words[1:]...)}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.Stderr = &p.text
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if err := begin(p.cmd); err != nil {
		t.Fatal(err)
	}
	p.pid = p.cmd.Process.Pid
	jvm := p.pid
	t.Cleanup(func() {
		// At the end of its input it ends, and removes its files; one that had to be killed does not.
		p.in.Close()
		p.cmd.Process.Signal(syscall.SIGCONT)
		limit := time.AfterFunc(10*time.Second, func() { p.cmd.Process.Kill() })
		defer limit.Stop()
		io.Copy(io.Discard, p.out)
		p.cmd.Wait()
		os.Remove(fmt.Sprintf("/tmp/.java_pid%d", jvm))
	})
	if line := p.line(); line != "ready" {
		t.Fatalf("the workload says %q\n%s", line, p.text.String())
	}
	return p
}

// line reads a line of the program's that is no thread dump.
func (p *program) line() string {
	p.t.Helper()
	limit := time.AfterFunc(time.Minute, func() { p.cmd.Process.Kill() }) // then reading fails
	defer limit.Stop()
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatalf("the workload's output: %v\n%s", err, p.text.String())
	}
	return strings.TrimSpace(line)
}

// do has the program do something, and waits for it.
func (p *program) do(command string) string {
	p.t.Helper()
	if _, err := io.WriteString(p.in, command+"\n"); err != nil {
		p.t.Fatal(err)
	}
	return p.line()
}

func (p *program) allocated() int64 {
	p.t.Helper()
	n, err := strconv.ParseInt(p.do("allocated"), 10, 64)
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

func (p *program) find() *JVM {
	p.t.Helper()
	j, err := Find(p.pid)
	if err != nil {
		p.t.Fatal(err)
	}
	return j
}

func (p *program) start(o Options) *Recording {
	p.t.Helper()
	r, err := p.find().Start(context.Background(), o)
	if err != nil {
		p.t.Fatal(err)
	}
	return r
}

// dump dumps, or stops if last, and checks the batch.
func dump(t *testing.T, r *Recording, last bool) *profile.Batch {
	t.Helper()
	turn := r.Dump
	if last {
		turn = r.Stop
	}
	b, err := turn(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Check(); err != nil {
		t.Fatal(err)
	}
	return b
}

func ofType(t *testing.T, b *profile.Batch, typ profile.Type) *profile.Profile {
	t.Helper()
	for i := range b.Profiles {
		if b.Profiles[i].Type == typ {
			return &b.Profiles[i]
		}
	}
	t.Fatalf("no %s", typ)
	return nil
}

// by sums a profile by the first function of the stack, leaf first, that is one of names; "" is the rest.
func by(b *profile.Batch, p *profile.Profile, names ...string) map[string]int64 {
	sums := map[string]int64{}
	for _, s := range p.Samples {
		found := ""
		for _, f := range b.Dictionary.Stacks[s.Stack] {
			name := b.Dictionary.Functions[b.Dictionary.Frames[f].Lines[0].Function].Name
			if slices.Contains(names, name) {
				found = name
				break
			}
		}
		sums[found] += s.Value
	}
	return sums
}

// near fails unless got is within tolerance of want.
func near(t *testing.T, what string, got int64, want, tolerance float64) {
	t.Helper()
	off := float64(got)/want - 1
	t.Logf("%s: %d, of %.0f: %+.1f %%, within %.0f %%", what, got, want, 100*off, 100*tolerance)
	if off < -tolerance || off > tolerance {
		t.Errorf("%s: %d, want %.0f within %.0f %%", what, got, want, 100*tolerance)
	}
}

// jcmd asks the JVM itself.
func jcmd(t testing.TB, pid int, command string) string {
	t.Helper()
	j, err := Find(pid)
	if err != nil {
		t.Fatal(err)
	}
	text, err := j.command(context.Background(), command)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// ours begins the names of the recordings of an agent: another one may run on this machine.
func ours(agent int) string { return fmt.Sprintf("perfuse-%d-", agent) }

// clean fails if something of ours is left: a recording, a file.
func (p *program) clean() {
	p.t.Helper()
	if text := jcmd(p.t, p.pid, "JFR.check"); strings.Contains(text, ours(os.Getpid())) {
		p.t.Errorf("JFR.check: %s", text)
	}
	pid := p.find().NamespacePID
	for _, pattern := range []string{
		fmt.Sprintf("%s%d-*", exchangePrefix, os.Getpid()), fmt.Sprintf(".attach_pid%d", pid), fmt.Sprintf("perf-%d.map", pid),
	} {
		left, err := filepath.Glob(fmt.Sprintf("/proc/%d/root/tmp/%s", p.pid, pattern))
		if err != nil || len(left) > 0 {
			p.t.Errorf("left behind: %q, %v", left, err)
		}
	}
	dumps, err := filepath.Glob(fmt.Sprintf("/proc/%d/cwd/*.jfr", p.pid))
	if err != nil || len(dumps) > 0 {
		p.t.Errorf("left behind: %q, %v", dumps, err)
	}
}

// recordForever is what the test's own program does when a test starts it to kill it.
func recordForever() {
	pid, _ := strconv.Atoi(os.Getenv("HOTSPOT_TEST_RECORD"))
	j, err := Find(pid)
	if err == nil {
		_, err = j.Start(context.Background(), Options{Allocations: true, Live: true, Lifetime: 10 * time.Second})
	}
	fmt.Println("recording", err)
	forever()
}
