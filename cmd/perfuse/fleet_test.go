package main

import (
	"context"
	"errors"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/go-kit/log"
	"golang.org/x/sys/unix"

	"github.com/perfuse/perfuse/agent"
	fleetv1 "github.com/perfuse/perfuse/proto/perfuse/fleet/v1"
	"github.com/perfuse/perfuse/proto/perfuse/fleet/v1/fleetv1connect"
	"github.com/perfuse/perfuse/server"
	"github.com/perfuse/perfuse/server/fleet"
	"github.com/perfuse/perfuse/storage/storagetest"
)

// TestAgentReports runs an agent against a server in this process: what it measures and sends is what it says that it
// has, and its last word is heard.
func TestAgentReports(t *testing.T) {
	s, err := server.New(server.Options{
		HTTPAddress: "127.0.0.1:0", OTLPAddresses: []string{}, Fleet: fleet.Config{Interval: time.Second},
		Open: func(context.Context) (server.Backends, error) {
			return server.Backends{Store: &storagetest.Model{}}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	serving, stopServing := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Run(serving) }()
	defer func() {
		stopServing()
		if err := <-served; err != nil {
			t.Errorf("serving: %v", err)
		}
	}()
	off := false
	a, err := agent.New(agent.Options{
		Node: "here", Address: s.Addr(), Insecure: true, Rate: 97, Interval: time.Second, OffCPU: &off, SpoolDir: t.TempDir(), Version: "test 1", Logger: log.NewNopLogger(),
	})
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, os.ErrPermission) {
		t.Skipf("the kernel refuses: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	running, stopAgent := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- a.Run(running) }()
	ended := false
	end := func() {
		if ended {
			return
		}
		ended = true
		stopAgent()
		if err := <-ran; err != nil {
			t.Errorf("the agent: %v", err)
		}
	}
	defer end()

	client := fleetv1connect.NewFleetServiceClient(http.DefaultClient, "http://"+s.Addr())
	ask := func() *fleetv1.Agent {
		resp, err := client.Agents(t.Context(), &fleetv1.AgentsRequest{})
		if err != nil || len(resp.Agents) == 0 {
			return nil // the server opens, or has heard nothing yet
		}
		if len(resp.Agents) > 1 {
			t.Fatalf("one agent is %d", len(resp.Agents))
		}
		return resp.Agents[0]
	}
	told := func(ag *fleetv1.Agent) *fleetv1.AgentResponse {
		one, err := client.Agent(t.Context(), &fleetv1.AgentRequest{Instance: ag.Instance})
		if err != nil {
			t.Fatal(err)
		}
		return one
	}
	// The first report with samples may be of the moment before the server has taken them.
	enough := func(ag *fleetv1.Agent) bool {
		return ag != nil && ag.Samples >= 20 && ag.SamplesPerSecond > 0 && told(ag).Report.Delivery.Delivered > 0
	}
	deadline := time.Now().Add(time.Minute)
	work := uint64(1)
	for ag := ask(); !enough(ag); ag = ask() {
		for i := range 20_000_000 { // something to sample
			work += work<<3 ^ uint64(i)
		}
		if time.Now().After(deadline) {
			t.Fatalf("in a minute of work the agent told %v (%d)", ag, work)
		}
	}
	ag := ask()
	if ag.Node != "here" || ag.State != fleetv1.State_UP || ag.Version != "test 1" || ag.Kernel == "" || ag.Cpus == 0 || ag.RssBytes == 0 || ag.Cores == 0 || ag.Processes == 0 || ag.WithServer {
		t.Errorf("the agent is %v", ag)
	}
	one := told(ag)
	r := one.Report
	if err := fleet.Check(r); err != nil {
		t.Error(err)
	}
	if d := r.Delivery; d.Delivered == 0 || d.Messages < d.Delivered {
		t.Errorf("%d of %d messages are delivered", d.Delivered, d.Messages)
	}
	if !slices.ContainsFunc(r.Off, func(o *fleetv1.Off) bool { return o.What == "waits" && o.Why != "" }) {
		t.Errorf("waits were switched off, and off are %v", r.Off)
	}
	if !slices.ContainsFunc(r.Settings, func(s *fleetv1.Setting) bool { return s.Name == "sampling rate" && s.Value == "97 Hz" }) {
		t.Errorf("the settings are %v", r.Settings)
	}
	if !slices.ContainsFunc(r.Sampling.Stacks, func(e *fleetv1.Ending) bool { return e.End == "complete" }) {
		t.Errorf("stacks ended as %v", r.Sampling.Stacks)
	}
	if len(one.History) == 0 {
		t.Error("there is no history")
	}
	end()
	if ag := ask(); ag == nil || ag.State != fleetv1.State_STOPPED {
		t.Errorf("after its last word the agent is %v", ag)
	}
}
