package heap

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/perfuse/perfuse/agent/process"
	"github.com/perfuse/perfuse/profile"
)

// javaProgram returns the words that run the workload; the options come between them.
func javaProgram(t *testing.T, options ...string) []string {
	t.Helper()
	for _, tool := range []string{"java", "jcmd"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	classes := build(t, "classes", "javac", "-d", "OUT", "hotspot/testdata/Workload.java")
	// What is killed has no time to remove its files. Thread dumps are not to come into the middle of its answers.
	words := []string{"java", "-Xmx64m", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-XX:+DisplayVMOutputToStderr", "-Djava.io.tmpdir=" + t.TempDir(), "-cp", classes}
	return append(append(words, options...), "Workload")
}

func newJVMRig(t *testing.T, o Options) *rig {
	t.Helper()
	var r *rig
	o.JVM.Select = func(p *process.Process) bool { return r.isMine(p) }
	o.JVM.Allocations, o.JVM.Interval = true, 300*time.Millisecond
	r = newRig(t, o)
	return r
}

// clean fails if a JVM that lives has a recording of ours, or files.
func (p *program) clean() {
	p.rig.t.Helper()
	text, err := p.recordings()
	if err != nil || strings.Contains(text, "perfuse-") {
		p.rig.t.Errorf("JFR.check: %v: %s", err, text)
	}
	for _, pattern := range []string{fmt.Sprintf("/tmp/.perfuse-jvm-%d-*", os.Getpid()), fmt.Sprintf("/tmp/.attach_pid%d", p.cmd.Process.Pid)} {
		left, err := filepath.Glob(pattern)
		if err != nil || len(left) > 0 {
			p.rig.t.Errorf("left behind: %q, %v", left, err)
		}
	}
	if got := p.do("nothing"); got != "unknown" {
		p.rig.t.Errorf("the JVM says %q", got)
	}
}

// recordings is what a JVM says of its recordings.
func (p *program) recordings() (string, error) {
	text, err := exec.Command("jcmd", fmt.Sprint(p.cmd.Process.Pid), "JFR.check").CombinedOutput()
	return string(text), err
}

// works has a JVM allocate until something came of it.
func (r *rig) works(p *program) {
	r.t.Helper()
	before := r.toldOf("java", profile.TypeAllocSpace)
	r.until("the JVM tells", func() bool {
		p.do("churn 5")
		return r.toldOf("java", profile.TypeAllocSpace) > before
	})
}

// TestJVMsComeAndGo: a JVM is asked as soon as it can be, also if it was met while it was about to start, and let go when
// it ends, or we do.
func TestJVMsComeAndGo(t *testing.T) {
	r := newJVMRig(t, Options{Interval: 5 * time.Millisecond})
	words := javaProgram(t)
	r.run()
	for range 3 {
		p := r.start(words...)
		r.works(p)
		if got := r.Stats().JVM; got != 1 {
			t.Errorf("%d JVMs have told, want 1", got)
		}
		p.kill() // most likely in the middle of a question
		r.until("it is gone", func() bool {
			r.jvms.mu.Lock()
			defer r.jvms.mu.Unlock()
			return len(r.jvms.known) == 0
		})
	}
	p := r.start(words...)
	r.works(p)
	r.end()
	p.clean()
	if st := r.Stats(); st.JVM != 1 || len(st.Without) > 0 || len(st.Ended) > 0 {
		t.Errorf("want a JVM that has told, and no reasons: %+v", st)
	}
}

// TestJVMRefuses: one that lets nobody attach is said to be so, alive and afterwards, is asked again by and by, and gets one
// signal only.
func TestJVMRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "options")
	if err := os.WriteFile(file, []byte("-XX:+DisableAttachMechanism\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, option, why string
		dumps             int
	}{
		{"openly", "-XX:+DisableAttachMechanism", "it runs with -XX:+DisableAttachMechanism", 0},
		{"silently", "-XX:VMOptionsFile=" + file, "it did not begin to listen when it was asked before", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newJVMRig(t, Options{Interval: 5 * time.Millisecond})
			words := javaProgram(t, c.option)
			r.jvms.answer = time.Second
			r.run()
			p := r.start(words...)
			r.until("there is a reason", func() bool { _, n := reason(r.Stats().Without, c.why); return n == 1 })
			if got := r.Stats().JVM; got != 0 {
				t.Errorf("%d JVMs have told, want none", got)
			}
			r.until("it is logged", func() bool { return strings.Contains(r.logged(), c.why) })
			if got := p.do("nothing"); got != "unknown" {
				t.Errorf("the JVM says %q", got)
			}
			p.kill()
			if got := strings.Count(p.said.String(), "Full thread dump"); got != c.dumps {
				t.Errorf("%d thread dumps, want %d", got, c.dumps)
			}
			r.until("it has ended with that reason", func() bool {
				st := r.Stats()
				_, n := reason(st.Ended, c.why)
				return n == 1 && len(st.Without) == 0
			})
		})
	}
}

// TestTooManyJVMs: those beyond the limit are said to be so, and have their turn.
func TestTooManyJVMs(t *testing.T) {
	o := Options{Interval: 10 * time.Millisecond}
	o.JVM.MaxProcesses = 1
	r := newJVMRig(t, o)
	words := javaProgram(t)
	r.run()
	const why = "there are more than 1 JVMs on this node"
	first := r.start(words...)
	r.works(first)
	second := r.start(words...)
	r.until("one is too many", func() bool { st := r.Stats(); return st.JVM == 1 && st.Without[why] == 1 })
	first.kill()
	r.works(second)
	r.until("the other has its turn", func() bool { st := r.Stats(); return st.JVM == 1 && len(st.Without) == 0 })
	r.end()
	second.clean()
}

// TestJVMStopped: a JVM that does not answer does not keep us from ending; what runs in it ends by itself.
func TestJVMStopped(t *testing.T) {
	o := Options{Interval: 10 * time.Millisecond}
	o.JVM.Lifetime = 5 * time.Second
	r := newJVMRig(t, o)
	words := javaProgram(t)
	r.jvms.stop = 100 * time.Millisecond
	r.run()
	p := r.start(words...)
	r.works(p)
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	r.end()
	if took := time.Since(begin); took > 15*time.Second {
		t.Errorf("it took %s to end", took)
	}
	if _, n := reason(r.Stats().Without, "does not answer"); n != 1 {
		t.Errorf("there is no reason: %+v", r.Stats())
	}
	if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	r.until("its recording has ended", func() bool {
		text, err := p.recordings()
		return err == nil && !strings.Contains(text, "perfuse-")
	})
	p.clean()
}

// TestTwoJVMs: of two with the same labels the levels add up; when one ends, what the other has is left.
func TestTwoJVMs(t *testing.T) {
	o := Options{Interval: 200 * time.Millisecond}
	o.JVM.Live = true
	r := newJVMRig(t, o)
	words := javaProgram(t)
	r.run()
	first, second := r.start(words...), r.start(words...)
	r.works(first)
	r.works(second)
	first.do("keep 10")
	second.do("keep 20")
	r.until("both are in the sum", func() bool { return r.lastOf("java", profile.TypeInuseSpace) > 30e6 })
	second.kill()
	r.until("one is left", func() bool {
		n := r.lastOf("java", profile.TypeInuseSpace)
		return n > 10e6 && n < 20e6
	})
}
