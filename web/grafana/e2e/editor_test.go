package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
)

// TestEditor builds the plugin's front end and uses it in Chromium, in front of the real back end and a real server.
func TestEditor(t *testing.T) {
	for _, tool := range []string{"npm", "chromium"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	if _, err := os.Stat("../node_modules/.package-lock.json"); errors.Is(err, os.ErrNotExist) {
		t.Skip("the plugin's modules are not installed (./task installs them)")
	}
	s := startServer(t)
	s.loadShop(t)
	p := startPlugin(t, s.url)
	b := bridge(t, p)
	from, to := span()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "run", "--silent", "e2e")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "PERFUSE_GRAFANA_URL="+b.URL, "PERFUSE_URL="+s.url,
		fmt.Sprintf("PERFUSE_FROM=%d", from.UnixMilli()), fmt.Sprintf("PERFUSE_TO=%d", to.UnixMilli()), "CI=true", "NO_COLOR=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the editor's tests: %v\n%s", err, out)
	}
	t.Logf("%s", out)
}
