package hotspot

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perfuse/perfuse/profile"
)

func skipUnlessRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("acting for another user needs root")
	}
}

func TestRefused(t *testing.T) {
	home := oneJDK(t)
	for _, c := range []struct {
		name, env, option string
	}{
		{"by an option", "", "-XX:+DisableAttachMechanism"},
		{"by a variable", "JAVA_TOOL_OPTIONS=-XX:+DisableAttachMechanism", "-Dx=y"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if name, value, ok := strings.Cut(c.env, "="); ok {
				t.Setenv(name, value)
			}
			p := run(t, home, nil, c.option)
			_, err := p.find().Start(context.Background(), Options{Allocations: true, CPU: true})
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "DisableAttachMechanism") {
				t.Errorf("%v", err)
			}
			if got := p.do("nothing"); got != "unknown" { // a thread dump would come before
				t.Errorf("it says %q", got)
			}
		})
	}
	t.Run("by a file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "options")
		if err := os.WriteFile(file, []byte("-XX:+DisableAttachMechanism\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		p := run(t, home, nil, "-XX:VMOptionsFile="+file)
		j := p.find()
		dumps := 0
		until := func(last string) {
			t.Helper()
			for line := ""; !strings.HasPrefix(line, last); {
				if line = p.line(); strings.HasPrefix(line, "Full thread dump") {
					dumps++
				}
			}
		}
		for try := range 2 {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			if _, err := j.Start(ctx, Options{Allocations: true}); !errors.Is(err, ErrRefused) {
				t.Errorf("%v", err)
			}
			cancel()
			if try == 0 {
				until("Full thread dump") // which it writes when it gets to it
			}
		}
		io.WriteString(p.in, "nothing\n")
		until("unknown")
		if dumps != 1 {
			t.Errorf("%d thread dumps for two attempts, want one", dumps)
		}
		left, err := filepath.Glob(fmt.Sprintf("/tmp/.attach_pid%d", p.pid))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %q, %v", left, err)
		}
	})
}

// TestStopped: a stopped JVM gets no signal that it would find later, and one that listens does not hold anybody up.
func TestStopped(t *testing.T) {
	p := run(t, oneJDK(t), nil)
	j := p.find()
	stop := func(signal syscall.Signal, states string) {
		p.cmd.Process.Signal(signal)
		for {
			_, state, err := startTime(p.pid)
			if err != nil {
				t.Fatal(err)
			}
			if strings.ContainsRune(states, rune(state)) {
				return
			}
		}
	}
	stop(syscall.SIGSTOP, "T")
	if _, err := j.Start(context.Background(), Options{Allocations: true, CPU: true}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "stopped") {
		t.Errorf("before it listens: %v", err)
	}
	stop(syscall.SIGCONT, "SR")
	r := p.start(Options{Allocations: true, CPU: true})
	stop(syscall.SIGSTOP, "T")
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if _, err := r.Dump(ctx); !errors.Is(err, ErrRefused) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while it listens: %v", err)
	}
	stop(syscall.SIGCONT, "SR")
	dump(t, r, true)
	p.clean()
}

// TestOtherUser: root records another user's JVM as that user, and another user does not record root's.
func TestOtherUser(t *testing.T) {
	skipUnlessRoot(t)
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		t.Skip("setpriv is missing: apt-get install util-linux")
	}
	home := oneJDK(t)
	p := run(t, home, []string{setpriv, "--reuid=65534", "--regid=65534", "--clear-groups"})
	r := p.start(Options{Allocations: true, Live: true})
	p.do("keep 5")
	ofType(t, dump(t, r, true), profile.TypeInuseSpace)
	p.clean()
	if os.Geteuid() != 0 {
		t.Errorf("the test runs as %d now", os.Geteuid())
	}

	root := run(t, home, nil)
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	os.Chmod(dir, 0o755)
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "agent")
	if err := os.WriteFile(program, self, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if line := record(t, cmd, root.pid); !strings.Contains(line, ErrPermission.Error()) {
		t.Errorf("another user's agent: %s", line)
	}
	if got := root.do("nothing"); got != "unknown" {
		t.Errorf("the JVM says %q", got)
	}
}

// TestGroups: who acts for a JVM's user is in none of the agent's groups, and no other thread leaves them.
func TestGroups(t *testing.T) {
	skipUnlessRoot(t)
	old, err := syscall.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setgroups([]int{4711, 4712}); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setgroups(old)
	j := &JVM{uid: 65534, gid: 65534}
	for range 100 {
		if err := j.asOwner(func() error {
			groups, err := unix.Getgroups()
			user, effective, saved := unix.Getresuid()
			if err != nil || len(groups) > 0 || user != 0 || effective != 65534 || saved != 0 {
				t.Errorf("as the owner: groups %v, %v, user %d %d %d", groups, err, user, effective, saved)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	threads, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(threads) == 0 {
		t.Fatal(threads, err)
	}
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if err == nil && !regexp.MustCompile(`(?m)^Groups:\t4711 4712 ?$`).Match(text) {
			t.Errorf("%s:\n%s", thread, text)
		}
	}
}

// record starts a program that records a JVM until it is killed, and returns what it says.
func record(t *testing.T, cmd *exec.Cmd, pid int) string {
	t.Helper()
	cmd.Env = append(os.Environ(), "HOTSPOT_TEST_RECORD="+strconv.Itoa(pid))
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	return firstWords(t, cmd)
}

// firstWords starts a program that ends with the test and returns its first line.
func firstWords(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := begin(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// TestKilled: when nobody is left to stop a recording it ends by itself, and leaves nothing.
func TestKilled(t *testing.T) {
	eachJDK(t, func(t *testing.T, home string) {
		p := run(t, home, nil)
		cmd := exec.Command("/proc/self/exe")
		if line := record(t, cmd, p.pid); line != "recording <nil>" {
			t.Fatal(line)
		}
		name := ours(cmd.Process.Pid)
		if text := jcmd(t, p.pid, "JFR.check"); !strings.Contains(text, name) {
			t.Fatalf("JFR.check: %s", text)
		}
		cmd.Process.Kill()
		cmd.Wait()
		for deadline := time.Now().Add(time.Minute); ; {
			text := jcmd(t, p.pid, "JFR.check")
			if !strings.Contains(text, name) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("it still runs: %s", text)
			}
		}
		p.clean()
	})
}

// TestNamespaces: a JVM as in a container, with user, mount and pid namespaces of its own, whose root is nobody outside.
func TestNamespaces(t *testing.T) {
	skipUnlessRoot(t)
	home := oneJDK(t)
	classes, err := javac()
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("mount -t tmpfs none /mnt && cp -r %s/. /mnt && mount -t tmpfs none /tmp && exec \"$@\"", classes)
	prefix := []string{
		"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
		"unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
		"sh", "-c", script, "sh",
	}
	if out, err := exec.Command(prefix[0], append(slices.Clone(prefix[1:slices.Index(prefix, "sh")]), "true")...).CombinedOutput(); err != nil {
		t.Skipf("no namespaces here: %v: %s", err, out)
	}
	p := run(t, home, prefix, "-cp", "/mnt")
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.pid, p.pid))
	if err != nil {
		t.Fatal(err)
	}
	if p.pid, err = strconv.Atoi(strings.TrimSpace(string(children))); err != nil {
		t.Fatal(err)
	}
	j := p.find()
	if j.NamespacePID != 1 || j.uid != 65534 {
		t.Errorf("%+v", j)
	}
	r := p.start(Options{Allocations: true, CPU: true, Live: true})
	p.do("keep 10")
	b := dump(t, r, false)
	if sites := byCaller(b, ofType(t, b, profile.TypeInuseSpace)); sites["byte[] Workload.half"] < 2e6 {
		t.Errorf("%v", sites)
	}
	dump(t, r, true)
	p.clean()
}

// TestReadOnlyTemp: a container without a /tmp that can be written to says what to do.
func TestReadOnlyTemp(t *testing.T) {
	skipUnlessRoot(t)
	classes, err := javac()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("unshare", "--mount", "true").CombinedOutput(); err != nil {
		t.Skipf("no namespaces here: %v: %s", err, out)
	}
	script := fmt.Sprintf("mount -t tmpfs none /mnt && cp -r %s/. /mnt && mount -t tmpfs -o ro none /tmp && exec \"$@\"", classes)
	p := run(t, oneJDK(t), []string{"unshare", "--mount", "sh", "-c", script, "sh"}, "-cp", "/mnt")
	j := p.find()
	if _, err := j.Start(context.Background(), Options{Allocations: true}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "emptyDir") {
		t.Errorf("asking it to listen: %v", err)
	}
	if _, err := j.newExchange(); err == nil || !strings.Contains(err.Error(), "emptyDir") {
		t.Errorf("making a directory: %v", err)
	}
	if got := p.do("nothing"); got != "unknown" {
		t.Errorf("the JVM says %q", got)
	}
}

// TestDies: a JVM that ends in the middle.
func TestDies(t *testing.T) {
	p := run(t, oneJDK(t), nil, "-Djava.io.tmpdir="+t.TempDir()) // it keeps what it had no time to remove
	r := p.start(Options{Allocations: true, CPU: true})
	j := p.find()
	p.cmd.Process.Signal(syscall.SIGSTOP)
	dumped := make(chan error)
	go func() {
		_, err := r.Dump(context.Background())
		dumped <- err
	}()
	p.cmd.Process.Kill()
	if err := <-dumped; !errors.Is(err, ErrGone) {
		t.Errorf("in the middle: %v", err)
	}
	p.cmd.Wait()
	if _, err := r.Stop(context.Background()); !errors.Is(err, ErrGone) && !errors.Is(err, ErrEnded) {
		t.Errorf("stopping: %v", err)
	}
	if _, err := j.Histogram(context.Background(), false); !errors.Is(err, ErrGone) {
		t.Errorf("afterwards: %v", err)
	}
	if _, err := Find(p.pid); !errors.Is(err, ErrGone) {
		t.Errorf("finding it: %v", err)
	}
}

func TestNotJVM(t *testing.T) {
	if _, err := Find(os.Getpid()); !errors.Is(err, ErrNotJVM) {
		t.Errorf("this program: %v", err)
	}
	// A process that maps the library and handles SIGQUIT, by ending: it must not get one.
	library := filepath.Join(oneJDK(t), "lib", "server", "libjvm.so")
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "HOTSPOT_TEST_MAP="+library)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if line := firstWords(t, cmd); line != "mapped <nil>" {
		t.Fatal(line)
	}
	j, err := Find(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.Start(context.Background(), Options{Allocations: true, CPU: true}); !errors.Is(err, ErrRefused) {
		t.Errorf("a program that has the library: %v", err)
	}
	if err := j.alive(); err != nil {
		t.Errorf("it got a signal: %v", err)
	}
}

// mapForever is what the test's own program does when it is to look like a JVM.
func mapForever(library string) {
	f, err := os.Open(library)
	if err == nil {
		_, err = unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
	}
	fmt.Println("mapped", err)
	forever()
	runtime.KeepAlive(f)
}

// forever waits to be killed. A program in which nothing can happen any more would be ended by its runtime.
func forever() {
	never := make(chan os.Signal, 1)
	signal.Notify(never, syscall.SIGUSR2)
	<-never
}

// TestNoRecorder: a runtime that was built without jdk.jfr.
func TestNoRecorder(t *testing.T) {
	home := oneJDK(t)
	jlink := filepath.Join(home, "bin", "jlink")
	if _, err := os.Stat(filepath.Join(home, "jmods")); err != nil {
		t.Skip("this JDK has no jmods to build a runtime from")
	}
	small := filepath.Join(t.TempDir(), "small")
	if out, err := exec.Command(jlink, "--add-modules", "java.base,java.management,jdk.management", "--output", small).CombinedOutput(); err != nil {
		t.Skipf("no jlink: %v: %s", err, out)
	}
	p := run(t, small, nil)
	j := p.find()
	if _, err := j.Start(context.Background(), Options{Allocations: true, CPU: true}); !errors.Is(err, ErrNoRecorder) {
		t.Errorf("%v", err)
	}
	if classes, err := j.Histogram(context.Background(), false); err != nil || len(classes) < 100 {
		t.Errorf("%d classes, %v", len(classes), err)
	}
}

// TestBesideOthers: a recording that somebody else runs goes on, and is not ours.
func TestBesideOthers(t *testing.T) {
	p := run(t, oneJDK(t), nil)
	r := p.start(Options{Allocations: true, CPU: true})
	jcmd(t, p.pid, "JFR.start name=theirs settings=default")
	dump(t, r, false)
	dump(t, r, true)
	if text := jcmd(t, p.pid, "JFR.check"); !strings.Contains(text, "theirs") || strings.Contains(text, ours(os.Getpid())) {
		t.Errorf("JFR.check: %s", text)
	}
	// Somebody stops ours.
	r = p.start(Options{Allocations: true, CPU: true})
	jcmd(t, p.pid, "JFR.stop name="+r.name)
	if _, err := r.Dump(context.Background()); !errors.Is(err, ErrEnded) {
		t.Errorf("after it was stopped: %v", err)
	}
	dump(t, r, true)
	jcmd(t, p.pid, "JFR.stop name=theirs")
	p.clean()
}

// TestForeignFiles: what lies in the place of the JVM's files is not followed.
func TestForeignFiles(t *testing.T) {
	p := run(t, oneJDK(t), nil)
	j := p.find()
	x, err := j.newExchange()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := x.close(); err != nil {
			t.Error(err)
		}
	}()
	dir := filepath.Join("/tmp", x.name)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, recordingFile)
	for _, c := range []struct {
		name string
		make func() error
	}{
		{"a symbolic link", func() error { return os.Symlink(secret, file) }},
		{"a hard link", func() error { return os.Link(secret, file) }},
		{"a fifo", func() error { return unix.Mkfifo(file, 0o600) }},
		{"too large", func() error { return errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, 2000)) }},
	} {
		if err := c.make(); err != nil {
			t.Logf("%s: %v", c.name, err)
			continue
		}
		if data, err := x.read(recordingFile, 1000); err == nil {
			t.Errorf("%s: read %q", c.name, data)
		}
		os.Remove(file)
	}
	// In the place of the socket.
	socket := fmt.Sprintf("/tmp/.java_pid%d", p.pid)
	if err := os.Symlink(secret, socket); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(socket)
	if _, err := j.Histogram(context.Background(), false); err == nil {
		t.Error("a symbolic link in the place of its socket was followed")
	}
}

// TestSweep: directories of agents that were killed go, new ones stay.
func TestSweep(t *testing.T) {
	p := run(t, oneJDK(t), nil)
	j := p.find()
	x, err := j.newExchange()
	if err != nil {
		t.Fatal(err)
	}
	if err := x.write(settingsFile, "x"); err != nil {
		t.Fatal(err)
	}
	if err := j.sweep(time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join("/tmp", x.name, settingsFile)); err != nil {
		t.Errorf("one that is new: %v", err)
	}
	// Of its time others' are new: several agents and tests share a /tmp.
	killed := time.Now().Add(-staleAfter - time.Minute)
	if err := os.Chtimes(filepath.Join("/tmp", x.name), killed, killed); err != nil {
		t.Fatal(err)
	}
	if err := j.sweep(time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join("/tmp", x.name)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("one that is old: %v", err)
	}
	x.dir.Close()
	x.temp.Close()
}

// TestCodeMap: compiled methods are told with their addresses, nothing is left, and what is somebody else's is left alone.
func TestCodeMap(t *testing.T) {
	eachJDK(t, func(t *testing.T, home string) {
		p := run(t, home, nil, "-XX:CompileCommand=quiet", "-XX:CompileCommand=dontinline,Workload.seventy")
		p.do("burn 1 300")
		j := p.find()
		file := fmt.Sprintf("/tmp/perf-%d.map", j.NamespacePID)
		data, err := j.CodeMap(context.Background())
		if majorVersion(j.Version) < 17 {
			if !errors.Is(err, ErrNoCodeMap) {
				t.Errorf("got %v, want %v", err, ErrNoCodeMap)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(`(?m)^0x[0-9a-f]+ 0x[0-9a-f]+ void Workload\.seventy\(\)$`).Match(data) {
			t.Errorf("Workload.seventy is not in\n%.2000s", data)
		}
		if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("its file: %v, want none", err)
		}
		for _, put := range []func() error{
			func() error { return os.WriteFile(file, []byte("mine"), 0o600) },
			func() error { return os.Symlink("/etc/hostname", file) },
		} {
			if err := put(); err != nil {
				t.Fatal(err)
			}
			before, _ := os.ReadFile(file)
			if _, err := j.CodeMap(context.Background()); !errors.Is(err, os.ErrExist) {
				t.Errorf("beside another's file: %v, want %v", err, os.ErrExist)
			}
			if after, _ := os.ReadFile(file); string(after) != string(before) {
				t.Errorf("another's file has become %q", after)
			}
			if err := os.Remove(file); err != nil {
				t.Error(err)
			}
		}
		p.clean()
	})
}
