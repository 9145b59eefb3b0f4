package workloads

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"
)

// TestBuild builds every workload and runs it: it ends by itself, prints nothing and has burnt what it was
// asked to burn.
func TestBuild(t *testing.T) {
	for _, w := range slices.Concat(All, Labelled) {
		t.Run(w.Name, func(t *testing.T) {
			t.Parallel()
			path, err := Build(w.Name)
			if errors.Is(err, ErrNoCompiler) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(path, "0.1")
			cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
			out, err := cmd.CombinedOutput()
			if err != nil || len(out) > 0 {
				t.Fatalf("running %s: %v\n%s", path, err, out)
			}
			if got := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(); got < 90*time.Millisecond {
				t.Errorf("used %s of CPU, want 100 ms", got)
			}
		})
	}
}
