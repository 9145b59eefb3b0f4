package e2e

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/perfuse/perfuse/e2e/workloads"
)

// TestPage runs the page's browser tests (web/e2e) in Chromium against a real `perfuse up` that profiles this machine.
func TestPage(t *testing.T) {
	t.Parallel()
	needSampler(t)
	for _, tool := range []string{"npm", "chromium"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	if _, err := os.Stat("../web/node_modules/.package-lock.json"); errors.Is(err, os.ErrNotExist) {
		t.Skip("the page's modules are not installed (./task installs them)")
	}
	work, err := workloads.Build("go")
	if err != nil {
		t.Fatal(err)
	}
	sources, err := filepath.Abs("workloads/src") // the server shows the workload's
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "run", "--silent", "e2e")
	cmd.Dir = "../web"
	cmd.Env = append(os.Environ(), "PERFUSE_BIN="+program(t, "perfuse"), "PERFUSE_WORK="+work, "PERFUSE_SOURCES="+sources, "CI=true", "NO_COLOR=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the page's tests: %v\n%s", err, out)
	}
	t.Logf("%s", out)
}
