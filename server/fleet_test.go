package server

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/perfuse/perfuse/proto/perfuse/fleet/v1"
	"github.com/perfuse/perfuse/proto/perfuse/fleet/v1/fleetv1connect"
	"github.com/perfuse/perfuse/server/fleet"
	"github.com/perfuse/perfuse/server/scrape"
)

func (r *running) fleet(opts ...connect.ClientOption) fleetv1connect.FleetServiceClient {
	return fleetv1connect.NewFleetServiceClient(h2c(), r.url, opts...)
}

// TestFleet reports over every protocol and asks for what was told; the metrics count along.
func TestFleet(t *testing.T) {
	s := start(t, Options{Scrape: []scrape.Config{}})
	for i, opts := range [][]connect.ClientOption{nil, {connect.WithGRPC()}, {connect.WithGRPCWeb()}, {connect.WithProtoJSON()}} {
		resp, err := s.fleet(opts...).Report(t.Context(), &fleetv1.ReportRequest{Report: &fleetv1.Report{
			Instance: fmt.Sprint("instance ", i), Node: "a", Sampling: &fleetv1.Sampling{Samples: uint64(i) << 60}, LastError: &fleetv1.Problem{Text: "größer"},
		}})
		if err != nil {
			t.Fatal(err)
		}
		if resp.IntervalNano != 15e9 {
			t.Errorf("the next report is wanted in %d ns", resp.IntervalNano)
		}
	}
	list, err := s.fleet().Agents(t.Context(), &fleetv1.AgentsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Agents) != 4 || list.Sums.Up != 4 || list.Agents[3].Samples != 3<<60 || list.Agents[0].LastError.Text != "größer" {
		t.Errorf("the list is %v", list)
	}
	one, err := s.fleet().Agent(t.Context(), &fleetv1.AgentRequest{Instance: "instance 2"})
	if err != nil || one.Report.Sampling.Samples != 2<<60 {
		t.Errorf("one agent is %v, %v", one, err)
	}
	if _, err := s.fleet().Agent(t.Context(), &fleetv1.AgentRequest{Instance: "nobody"}); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("nobody is %v", err)
	}
	if resp, err := s.fleet().Targets(t.Context(), &fleetv1.TargetsRequest{}); err != nil || resp.Total != 0 {
		t.Errorf("targets are %v, %v", resp, err)
	}
	if resp, err := s.fleet().Symbols(t.Context(), &fleetv1.SymbolsRequest{}); err != nil || resp.Total != 0 {
		t.Errorf("symbols are %v, %v", resp, err)
	}
	for _, line := range []string{`perfuse_fleet_agents{state="up"} 4`, `perfuse_fleet_agents{state="late"} 0`, "perfuse_fleet_reports_total 4"} {
		if _, text := s.get(t, "/metrics"); !strings.Contains(text, line+"\n") {
			t.Errorf("/metrics lacks %s", line)
		}
	}
}

// TestFleetAbuse: what is more than a report may be is refused by name, and the server goes on.
func TestFleetAbuse(t *testing.T) {
	s := start(t, Options{Fleet: fleet.Config{MaxAgents: 1000}})
	report := func(r *fleetv1.Report) error {
		_, err := s.fleet(connect.WithGRPC()).Report(t.Context(), &fleetv1.ReportRequest{Report: r})
		return err
	}
	f := func(what string, r *fleetv1.Report, code connect.Code, want string) {
		t.Helper()
		if err := report(r); connect.CodeOf(err) != code || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s with %q", what, err, code, want)
		}
	}
	f("nothing", nil, connect.CodeInvalidArgument, "instance is missing")
	f("a long name", &fleetv1.Report{Instance: "1", Node: strings.Repeat("x", 10_000)}, connect.CodeInvalidArgument, "node's bytes are 10000: want at most 256")
	f("a large report", &fleetv1.Report{Instance: "1", Node: "a", Settings: []*fleetv1.Setting{{Value: strings.Repeat("x", 500_000)}}}, connect.CodeInvalidArgument, "want at most 16384")
	f("more than a question may be", &fleetv1.Report{Instance: "1", Node: "a", Settings: []*fleetv1.Setting{{Value: strings.Repeat("x", 4<<20)}}}, connect.CodeResourceExhausted, "query_bytes")
	many := &fleetv1.Report{Instance: "1", Node: "a"}
	for range 5000 {
		many.Losses = append(many.Losses, &fleetv1.Loss{})
	}
	f("many entries", many, connect.CodeInvalidArgument, "losses' entries are 5000: want at most 64")
	if status, _ := s.post(t, fleetv1connect.FleetServiceReportProcedure, bytes.NewReader([]byte("\xff\xff\xff")), "Content-Type", "application/proto"); status != http.StatusBadRequest {
		t.Errorf("bytes that are no message are answered %d", status)
	}
	if status, _ := s.post(t, "/"+fleetv1connect.FleetServiceName+"/Forget", bytes.NewReader(nil), "Content-Type", "application/proto"); status != http.StatusNotImplemented {
		t.Errorf("a procedure that is not there is answered %d", status)
	}

	// A fleet larger than there is room for, all at once.
	var wait sync.WaitGroup
	errs := make([]error, 1100)
	client := s.fleet(connect.WithGRPC())
	for worker := range 8 {
		wait.Go(func() {
			for i := worker; i < len(errs); i += 8 {
				_, errs[i] = client.Report(t.Context(), &fleetv1.ReportRequest{Report: &fleetv1.Report{
					Instance: fmt.Sprint(i), Node: strings.Repeat("n", 250) + fmt.Sprint(i), Kernel: strings.Repeat("\u200b", 80), Version: "\x1b[31m",
				}})
			}
		})
	}
	wait.Wait()
	full := 0
	for _, err := range errs {
		if err == nil {
			continue
		}
		if full++; connect.CodeOf(err) != connect.CodeResourceExhausted || !strings.Contains(err.Error(), "fleet.max_agents") {
			t.Fatalf("got %v", err)
		}
	}
	list, err := client.Agents(t.Context(), &fleetv1.AgentsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if full != 100 || len(list.Agents) != 1000 {
		t.Errorf("%d were refused and %d are there, want 100 and 1000", full, len(list.Agents))
	}
	if size := proto.Size(list); size > 1<<20 {
		t.Errorf("the list of a thousand has %d bytes", size)
	}
}
