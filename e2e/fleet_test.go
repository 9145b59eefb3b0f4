package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"
)

// TestFleet asks a real `perfuse up` for its own agent, as a user does.
func TestFleet(t *testing.T) {
	t.Parallel()
	needSampler(t)
	in := start(t, "up", freeAddress(t), t.TempDir(), "--sampling-rate", "97")
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 90*time.Second, "the agent has told of samples", func() bool {
		var agents []struct {
			Node       string `json:"node"`
			State      string `json:"state"`
			Version    string `json:"version"`
			Samples    int64  `json:"samples"`
			WithServer bool   `json:"with_server"`
			RSSBytes   int64  `json:"rss_bytes"`
		}
		out, code := in.try(t, "agents", "-o", "json")
		if code == 1 {
			return false // it has not reported yet
		}
		if code != 0 {
			t.Fatalf("profilectl agents ended with %d: %s", code, out)
		}
		if err := json.Unmarshal([]byte(out), &agents); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if len(agents) != 1 || agents[0].Node != host || agents[0].State != "up" || agents[0].Version == "" || !agents[0].WithServer || agents[0].RSSBytes == 0 {
			t.Fatalf("the agents are %+v, want this node's", agents)
		}
		return agents[0].Samples > 0
	})
	if out, code := in.try(t, "targets"); code != 1 {
		t.Errorf("profilectl targets ended with %d although nothing is scraped: %s", code, out)
	}
}

// try runs profilectl against the instance and returns what it printed to standard output, and its exit code.
func (in *instance) try(t *testing.T, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, program(t, "profilectl"), append([]string{"--server", in.url("")}, args...)...).Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if exit == nil {
		return string(out), 0
	}
	return string(out) + string(exit.Stderr), exit.ExitCode()
}
