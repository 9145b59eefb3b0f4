package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/perfuse/perfuse/profile"
	fleetv1 "github.com/perfuse/perfuse/proto/perfuse/fleet/v1"
	"github.com/perfuse/perfuse/proto/perfuse/fleet/v1/fleetv1connect"
)

func (a *app) agents() *cobra.Command {
	var outFlag string
	cmd := &cobra.Command{
		Use:   "agents [NODE]",
		Short: "Show what the agents do: who is up, what is lost, what it costs",
		Long: `Show what the agents do: who is up, what is lost, what it costs. With NODE, which may also be the beginning of an
instance, show all that the agents there have told.

An agent is late when it has missed three reports. Samples and processors are those of the last minute, losses those of the
last ten. Where agent and server are one process, as in 'perfuse up', its processors and memory are those of both.`,
		Example: `  profilectl agents
  profilectl agents worker-7
  profilectl agents -o json`,
		Args: between(0, "NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			out, err := parseOutput(outFlag, listForms)
			if err != nil {
				return err
			}
			var list *fleetv1.AgentsResponse
			var told []*fleetv1.AgentResponse
			err = a.askFleet(cmd.Context(), "asking for the agents", func(ctx context.Context, c fleetv1connect.FleetServiceClient) (err error) {
				if list, err = c.Agents(ctx, &fleetv1.AgentsRequest{}); err != nil || len(args) == 0 {
					return err
				}
				told, err = agentsOf(ctx, c, list, args[0])
				return err
			})
			if err != nil {
				return err
			}
			switch {
			case len(list.Agents) == 0:
				return nothing("no agent has reported to %s.\nStart one with 'perfuse agent --remote-store-address HOST:7070', or with 'perfuse up' on the server's machine. Agents that are older than this server do not report.", a.server)
			case len(args) > 0 && len(told) == 0:
				return nothing("no agent at %s has the node or instance %s. 'profilectl agents' lists those that there are.", a.server, args[0])
			}
			return out.write(a, func(w io.Writer) error {
				switch {
				case len(args) > 0 && out.form == formJSON:
					return printJSON(w, detailRows(told))
				case len(args) > 0:
					return writeDetails(w, a.outTerm, told, time.Unix(0, list.NowUnixNano))
				case out.form == formJSON:
					return printJSON(w, agentRows(list.Agents))
				}
				return writeAgents(w, a.outTerm, list)
			})
		},
	}
	cmd.Flags().StringVarP(&outFlag, "output", "o", formTable, "form: table or json")
	return cmd
}

// askFleet calls f with a client and a context that ends with the timeout, and explains its error.
func (a *app) askFleet(ctx context.Context, what string, f func(context.Context, fleetv1connect.FleetServiceClient) error) error {
	server, err := a.serverURL()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	return a.explain(what, server, f(ctx, fleetv1connect.NewFleetServiceClient(a.http, server, connect.WithReadMaxBytes(maxAnswerBytes))))
}

// minInstance is how much of an instance names it.
const minInstance = 4

// agentsOf asks for those of a node, or for one by the beginning of its instance.
func agentsOf(ctx context.Context, c fleetv1connect.FleetServiceClient, list *fleetv1.AgentsResponse, name string) (out []*fleetv1.AgentResponse, err error) {
	for _, ag := range list.Agents {
		if ag.Node != name && (len(name) < minInstance || !strings.HasPrefix(ag.Instance, name)) {
			continue
		}
		one, err := c.Agent(ctx, &fleetv1.AgentRequest{Instance: ag.Instance})
		if connect.CodeOf(err) == connect.CodeNotFound {
			continue // forgotten just now
		}
		if err != nil {
			return nil, err
		}
		if one.Agent == nil || one.Report == nil {
			return nil, errors.New("the server's answer lacks the agent")
		}
		out = append(out, one)
	}
	return out, nil
}

func stateName(s fleetv1.State) string { return strings.ToLower(s.String()) }

// agentNames gives each agent its node's name, with the instance where a node has more than one.
func agentNames(agents []*fleetv1.Agent) []string {
	count := map[string]int{}
	for _, ag := range agents {
		count[ag.Node]++
	}
	names := make([]string, len(agents))
	for i, ag := range agents {
		names[i] = printable(ag.Node)
		if count[ag.Node] > 1 {
			names[i] += " #" + printable(ag.Instance[:min(len(ag.Instance), 8)])
		}
	}
	return names
}

func writeAgents(w io.Writer, term terminal, list *fleetv1.AgentsResponse) error {
	now := time.Unix(0, list.NowUnixNano)
	t := table{
		head:  []string{"NODE", "STATE", "SEEN", "UP", "SAMPLES/S", "LOST", "CORES", "MEMORY", "VERSION", "LAST ERROR"},
		right: []bool{false, false, true, true, true, true, true, true, false, false},
	}
	names := agentNames(list.Agents)
	for i, ag := range list.Agents {
		style, up, rate, cores := "", "-", "-", "-"
		switch ag.State {
		case fleetv1.State_UP:
			up = age(now.Sub(time.Unix(0, ag.StartedUnixNano)))
			rate, cores = profile.FormatFloat(ag.SamplesPerSecond, ""), profile.FormatFloat(ag.Cores, "")
		case fleetv1.State_LATE:
			style = styleRed
		default:
			style = styleDim
		}
		problem := "-"
		if e := ag.LastError; e != nil {
			problem = fmt.Sprintf("%s ago: %s", age(now.Sub(time.Unix(0, e.UnixNano))), printable(e.Text))
		}
		t.add(names[i], stateName(ag.State), age(now.Sub(time.Unix(0, ag.SeenUnixNano))), up, rate, profile.FormatRatio(ag.LostShare), cores,
			profile.FormatValue(int64(ag.RssBytes), "bytes"), printable(ag.Version), problem)
		t.styles = append(t.styles, style)
	}
	_, err := fmt.Fprintf(w, "%s\n\n%s", sumsText(list.Sums), t.text(term))
	return err
}

func sumsText(s *fleetv1.Sums) string {
	text := fmt.Sprintf("%d up", s.GetUp())
	if s.GetLate() > 0 {
		text += fmt.Sprintf(", %d late", s.GetLate())
	}
	if s.GetStopped() > 0 {
		text += fmt.Sprintf(", %d stopped", s.GetStopped())
	}
	text += fmt.Sprintf("; %s samples/s, %s lost; %s of %d cores, %s", profile.FormatFloat(s.GetSamplesPerSecond(), ""), profile.FormatRatio(s.GetLostShare()),
		profile.FormatFloat(s.GetCores(), ""), s.GetCpus(), profile.FormatValue(int64(s.GetRssBytes()), "bytes"))
	if n := s.GetWithServer(); n > 0 {
		text += ", a server included"
	}
	return text
}

func (a *app) targets() *cobra.Command {
	var (
		outFlag string
		failing bool
	)
	cmd := &cobra.Command{
		Use:   "targets",
		Short: "Show what the server scrapes, and how that goes",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			out, err := parseOutput(outFlag, listForms)
			if err != nil {
				return err
			}
			var resp *fleetv1.TargetsResponse
			err = a.askFleet(cmd.Context(), "asking for the targets", func(ctx context.Context, c fleetv1connect.FleetServiceClient) (err error) {
				resp, err = c.Targets(ctx, &fleetv1.TargetsRequest{Failing: failing})
				return err
			})
			if err != nil {
				return err
			}
			switch {
			case len(resp.Jobs) == 0 && failing:
				return nothing("no target at %s is down, of %d.", a.server, resp.Total)
			case len(resp.Jobs) == 0:
				return nothing("%s scrapes nothing.\nPrograms that serve pprof are scraped by scrape_configs in the server's configuration file.", a.server)
			}
			return out.write(a, func(w io.Writer) error {
				if out.form == formJSON {
					return printJSON(w, targetsJSON(resp))
				}
				return writeTargets(w, a.outTerm, resp)
			})
		},
	}
	cmd.Flags().BoolVar(&failing, "failing", false, "only those that are down")
	cmd.Flags().StringVarP(&outFlag, "output", "o", formTable, "form: table or json")
	return cmd
}

func writeTargets(w io.Writer, term terminal, resp *fleetv1.TargetsResponse) error {
	now := time.Unix(0, resp.NowUnixNano)
	var b strings.Builder
	fmt.Fprintf(&b, "%d targets: %d up, %d down, %d not asked yet\n", resp.Total, resp.Up, resp.Down, resp.Total-resp.Up-resp.Down)
	for _, j := range resp.Jobs {
		for _, e := range j.Errors {
			fmt.Fprintf(&b, "%s\n", term.style(styleRed, printable(fmt.Sprintf("job %s: %s", j.Name, e))))
		}
	}
	if len(resp.Targets) > 0 {
		t := table{head: []string{"JOB", "ADDRESS", "HEALTH", "LAST", "TOOK", "MISSED", "ERROR"}, right: []bool{false, false, false, true, true, true, false}}
		for _, target := range resp.Targets {
			style, last, took := "", "never", "-"
			if target.Health == "down" {
				style = styleRed
			}
			if target.LastScrapeUnixNano != 0 {
				last = age(now.Sub(time.Unix(0, target.LastScrapeUnixNano))) + " ago"
				took = profile.FormatValue(int64(target.TookSeconds*1e9), "nanoseconds")
			}
			t.add(printable(target.Job), printable(target.Address), target.Health, last, took, fmt.Sprint(target.Missed), printable(firstError(target)))
			t.styles = append(t.styles, style)
		}
		b.WriteString("\n" + t.text(term))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// firstError is what is wrong with a target, "-" for nothing.
func firstError(t *fleetv1.Target) string {
	for _, p := range t.Profiles {
		if p.Error != "" {
			return p.Name + ": " + p.Error
		}
	}
	return "-"
}
