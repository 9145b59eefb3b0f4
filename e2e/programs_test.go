// Package e2e starts the real programs and talks to them as a user does: over the command line and the network.
package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// built holds the folder of the programs under test, made once for all tests.
var built struct {
	sync.Once
	folder string
	err    error
}

// program returns the path of a program of ours, built from this tree.
func program(t *testing.T, name string) string {
	t.Helper()
	built.Do(func() {
		if built.folder, built.err = os.MkdirTemp("", "perfuse-e2e-"); built.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-o", built.folder+"/", "./cmd/perfuse", "./cmd/profilectl")
		cmd.Dir = ".."
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		var out []byte
		if out, built.err = cmd.CombinedOutput(); built.err != nil {
			built.err = &buildError{built.err, string(out)}
		}
	})
	if built.err != nil {
		t.Fatalf("building the programs: %v", built.err)
	}
	return filepath.Join(built.folder, name)
}

type buildError struct {
	err    error
	output string
}

func (e *buildError) Error() string { return e.err.Error() + "\n" + e.output }

func TestMain(m *testing.M) {
	code := m.Run()
	if built.folder != "" {
		os.RemoveAll(built.folder)
	}
	os.Exit(code)
}

// needSampler skips a test where this user may not sample the machine.
func needSampler(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("sampling every process needs root")
	}
	if _, err := os.Stat("/proc/sys/kernel/perf_event_paranoid"); err != nil {
		t.Skipf("this kernel has no perf events: %v", err)
	}
}
