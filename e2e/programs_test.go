// Package e2e starts the real programs and talks to them as a user does: over the command line and the network.
package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// programs are built from this tree once for all tests.
var programs = struct {
	sync.Mutex
	folder string
	built  map[string]error
}{built: map[string]error{}}

// program returns the path of a program of ours.
func program(t *testing.T, name string) string {
	t.Helper()
	programs.Lock()
	defer programs.Unlock()
	if programs.folder == "" {
		folder, err := os.MkdirTemp("", "perfuse-e2e-")
		if err != nil {
			t.Fatal(err)
		}
		programs.folder = folder
	}
	path := filepath.Join(programs.folder, name)
	err, ok := programs.built[name]
	if !ok {
		cmd := exec.Command("go", "build", "-o", path, "./cmd/"+name)
		cmd.Dir = ".."
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		var out []byte
		if out, err = cmd.CombinedOutput(); err != nil {
			err = fmt.Errorf("building %s: %w\n%s", name, err, out)
		}
		programs.built[name] = err
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMain(m *testing.M) {
	code := m.Run()
	if programs.folder != "" {
		if err := os.RemoveAll(programs.folder); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	os.Exit(code)
}

// needSampler skips a test where this user may not sample the machine.
func needSampler(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("sampling every process needs root")
	}
	if _, err := os.Stat("/proc/sys/kernel/perf_event_paranoid"); errors.Is(err, os.ErrNotExist) {
		t.Skip("this kernel has no perf events")
	}
}
