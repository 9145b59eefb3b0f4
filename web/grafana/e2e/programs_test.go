// Package e2e starts the plugin as Grafana does and a real `perfuse server`, and asks over the plugin's own protocol: gRPC,
// after the handshake of hashicorp/go-plugin. The editor runs in Chromium against the same two processes.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// folder has the programs, each built from this tree once.
var folder string

func TestMain(m *testing.M) {
	var err error
	if folder, err = os.MkdirTemp("", "perfuse-grafana-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := os.RemoveAll(folder); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

var (
	perfuse = sync.OnceValues(func() (string, error) { return build("../../..", "./cmd/perfuse", "perfuse") })
	// The name is what plugin.json's "executable" and the platform make of it.
	backend = sync.OnceValues(func() (string, error) {
		return build("..", ".", fmt.Sprintf("gpx_perfuse_%s_%s", runtime.GOOS, runtime.GOARCH))
	})
)

func build(dir, pkg, name string) (string, error) {
	path := filepath.Join(folder, name)
	cmd := exec.Command("go", "build", "-o", path, pkg)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", name, err, out)
	}
	return path, nil
}

// said keeps what a process says.
type said struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}
