package e2e

import (
	"fmt"
	"math"
	"os/exec"
	"testing"
	"time"

	"github.com/perfuse/perfuse/e2e/workloads"
)

// TestOutage takes the server away for a minute while an agent profiles a workload of known length: when the server is back,
// all of the workload's samples are there.
func TestOutage(t *testing.T) {
	t.Parallel()
	needSampler(t)
	const (
		cpuSeconds = 40
		outage     = time.Minute
		rate       = 97
	)
	path, err := workloads.Build("c-gcc")
	if err != nil {
		t.Skip(err)
	}
	address, storage := freeAddress(t), t.TempDir()
	in := start(t, "server", address, storage)
	launch(t, "agent", "--remote-store-address", address, "--remote-store-insecure", "--sampling-rate", fmt.Sprint(rate),
		"--spool-path", t.TempDir(), "--http-address", "")
	// The agent is at work when the first profiles of anything have come.
	eventually(t, time.Minute, "the agent's first profiles have come", func() bool {
		return len(in.profilectlLines(t, "types", "--from", "0")) > 0
	})

	load := exec.CommandContext(t.Context(), path, fmt.Sprint(cpuSeconds))
	if err := load.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- load.Wait() }()
	eventually(t, time.Minute, "the workload's first profiles have come", func() bool {
		return in.value(t, "c-gcc", "cpu") > 0
	})
	in.kill()
	<-time.After(outage) // the time itself is what is tested
	in = start(t, "server", address, storage)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	used := load.ProcessState.UserTime() + load.ProcessState.SystemTime()
	want := float64(used.Nanoseconds())
	var got float64
	// What is still missing is in the agent's hands for an interval, and on its way.
	deadline := time.Now().Add(2 * time.Minute)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for got = 0; time.Now().Before(deadline); <-tick.C {
		// Samples are random: 40 s at 97 Hz are 3880, give or take 1 %, and interrupts are sampled but not used CPU.
		if got = float64(in.value(t, "c-gcc", "cpu")); math.Abs(got-want) < 0.03*want {
			t.Logf("the workload used %s of CPU, the server has %s of it (%+.2f %%)", used, time.Duration(got), 100*(got-want)/want)
			return
		}
	}
	t.Errorf("the workload used %s of CPU, the server has %s of it (%+.2f %%)", used, time.Duration(got), 100*(got-want)/want)
}
