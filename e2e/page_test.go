package e2e

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"testing"
	"time"
)

// TestPage runs the page's browser tests (web/e2e) against a real server with ten minutes of profiles of two services.
func TestPage(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"npm", "chromium"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	if _, err := os.Stat("../web/node_modules/.package-lock.json"); errors.Is(err, os.ErrNotExist) {
		t.Skip("the page's modules are not installed (./task installs them)")
	}
	in := start(t, "server", freeAddress(t), t.TempDir())
	chain := []string{"serve", "route", "authenticate", "handle", "query", "scan", "decode", "encode", "compress", "write"}
	for at := time.Now().Add(-10 * time.Minute); at.Before(time.Now()); at = at.Add(5 * time.Second) {
		for _, service := range []string{"checkout", "search"} {
			names := make([]string, 0, 10*len(chain))
			for i, name := range chain {
				for range len(chain) - i {
					names = append(names, name)
				}
			}
			names = append(names, numbered("worker", 0, 20)...)
			if status, answer := in.export(export(t, service, at, names...)); status != http.StatusOK {
				t.Fatalf("sending profiles answers %d: %s", status, answer)
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "run", "--silent", "e2e")
	cmd.Dir = "../web"
	cmd.Env = append(os.Environ(), "PERFUSE_URL="+in.url(""), "CI=true", "NO_COLOR=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the page's tests: %v\n%s", err, out)
	}
	t.Logf("%s", out)
}
