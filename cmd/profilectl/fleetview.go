package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/perfuse/perfuse/profile"
	fleetv1 "github.com/perfuse/perfuse/proto/perfuse/fleet/v1"
)

// agentRow is an agent as JSON.
type agentRow struct {
	Node             string      `json:"node"`
	Instance         string      `json:"instance"`
	State            string      `json:"state"`
	Version          string      `json:"version"`
	Kernel           string      `json:"kernel"`
	Architecture     string      `json:"architecture"`
	CPUs             uint32      `json:"cpus"`
	Started          time.Time   `json:"started"`
	Seen             time.Time   `json:"seen"`
	Samples          uint64      `json:"samples"`
	SamplesPerSecond float64     `json:"samples_per_second"`
	LostShare        float64     `json:"lost_share"`
	Cores            float64     `json:"cores"`
	RSSBytes         uint64      `json:"rss_bytes"`
	WithServer       bool        `json:"with_server"`
	Processes        uint32      `json:"processes"`
	WaitingBytes     uint64      `json:"waiting_bytes"`
	LastError        *problemRow `json:"last_error,omitempty"`
}

type problemRow struct {
	Time  time.Time `json:"time"`
	Where string    `json:"where"`
	Error string    `json:"error"`
}

func moment(nanos int64) time.Time { return time.Unix(0, nanos).UTC() }

func agentRows(agents []*fleetv1.Agent) []agentRow {
	rows := make([]agentRow, len(agents))
	for i, ag := range agents {
		rows[i] = agentRow{
			Node: ag.Node, Instance: ag.Instance, State: stateName(ag.State), Version: ag.Version, Kernel: ag.Kernel, Architecture: ag.Architecture,
			CPUs: ag.Cpus, Started: moment(ag.StartedUnixNano), Seen: moment(ag.SeenUnixNano), Samples: ag.Samples,
			SamplesPerSecond: ag.SamplesPerSecond, LostShare: ag.LostShare, Cores: ag.Cores, RSSBytes: ag.RssBytes, WithServer: ag.WithServer,
			Processes: ag.Processes, WaitingBytes: ag.WaitingBytes,
		}
		if e := ag.LastError; e != nil {
			rows[i].LastError = &problemRow{moment(e.UnixNano), e.Where, e.Text}
		}
	}
	return rows
}

type lossRow struct {
	Kind   string `json:"kind"`
	Reason string `json:"reason"`
	Count  uint64 `json:"count"`
}

type countRow struct {
	Name  string `json:"name"`
	Count uint64 `json:"count"`
}

// detailRow is an agent with all that it has told.
type detailRow struct {
	agentRow
	Settings  map[string]string `json:"settings"`
	Off       map[string]string `json:"off"`
	Losses    []lossRow         `json:"losses"`
	Stacks    []countRow        `json:"stacks"`
	Unwinding struct {
		Files     uint64 `json:"files"`
		Tables    uint64 `json:"tables"`
		Failed    uint64 `json:"failed"`
		Queued    uint64 `json:"queued"`
		LastError string `json:"last_error,omitempty"`
	} `json:"unwinding"`
	Delivery struct {
		Messages   uint64 `json:"messages"`
		Delivered  uint64 `json:"delivered"`
		Failures   uint64 `json:"failures"`
		QueueBytes uint64 `json:"queue_bytes"`
		SpoolBytes uint64 `json:"spool_bytes"`
	} `json:"delivery"`
	Debuginfo struct {
		Pending   uint64 `json:"pending"`
		Uploaded  uint64 `json:"uploaded"`
		Failed    uint64 `json:"failed"`
		Gone      uint64 `json:"gone"`
		LastError string `json:"last_error,omitempty"`
	} `json:"debuginfo"`
	Heaps struct {
		Go      uint32     `json:"go"`
		JVM     uint32     `json:"jvm"`
		Native  uint32     `json:"native"`
		Without []countRow `json:"without"`
	} `json:"heaps"`
	// BPFCores is null where the kernel does not say.
	BPFCores *float64 `json:"bpf_cores"`
}

func countRows(list []*fleetv1.Ending) []countRow {
	rows := make([]countRow, len(list))
	for i, e := range list {
		rows[i] = countRow{e.End, e.Count}
	}
	return rows
}

func detailRows(told []*fleetv1.AgentResponse) []detailRow {
	rows := make([]detailRow, len(told))
	for i, one := range told {
		r, row := one.Report, &rows[i]
		row.agentRow = agentRows([]*fleetv1.Agent{one.Agent})[0]
		row.Settings, row.Off, row.Losses = map[string]string{}, map[string]string{}, []lossRow{}
		for _, s := range r.Settings {
			row.Settings[s.Name] = s.Value
		}
		for _, o := range r.Off {
			row.Off[o.What] = o.Why
		}
		for _, l := range r.Losses {
			row.Losses = append(row.Losses, lossRow{strings.ToLower(l.Kind.String()), l.Reason, l.Count})
		}
		row.Stacks = countRows(r.GetSampling().GetStacks())
		u, d, s, h := r.GetUnwinding(), r.GetDelivery(), r.GetDebuginfo(), r.GetHeaps()
		row.Unwinding.Files, row.Unwinding.Tables, row.Unwinding.Failed = u.GetFiles(), u.GetTables(), u.GetFailed()
		row.Unwinding.Queued, row.Unwinding.LastError = u.GetQueued(), u.GetLastError()
		row.Delivery.Messages, row.Delivery.Delivered, row.Delivery.Failures = d.GetMessages(), d.GetDelivered(), d.GetFailures()
		row.Delivery.QueueBytes, row.Delivery.SpoolBytes = d.GetQueueBytes(), d.GetSpoolBytes()
		row.Debuginfo.Pending, row.Debuginfo.Uploaded, row.Debuginfo.Failed = s.GetPending(), s.GetUploaded(), s.GetFailed()
		row.Debuginfo.Gone, row.Debuginfo.LastError = s.GetGone(), s.GetLastError()
		row.Heaps.Go, row.Heaps.JVM, row.Heaps.Native, row.Heaps.Without = h.GetGo(), h.GetJvm(), h.GetNative(), countRows(h.GetWithout())
		if v := r.GetCost().GetBpfCores(); v >= 0 && r.GetCost() != nil {
			row.BPFCores = &v
		}
	}
	return rows
}

// writeDetails prints all that agents have told, one below the other.
func writeDetails(w io.Writer, term terminal, told []*fleetv1.AgentResponse, now time.Time) error {
	for i, one := range told {
		if i > 0 {
			fmt.Fprintln(w)
		}
		d := details{storageText{term: term}, now}
		if _, err := io.WriteString(w, d.text(one)); err != nil {
			return err
		}
	}
	return nil
}

type details struct {
	storageText
	at time.Time
}

func (d *details) text(one *fleetv1.AgentResponse) string {
	ag, r := one.Agent, one.Report
	n := func(v uint64) string { return profile.FormatValue(int64(min(v, 1<<62)), "count") }
	bytes := func(v uint64) string { return profile.FormatValue(int64(min(v, 1<<62)), "bytes") }
	var b strings.Builder
	put := func(name, format string, args ...any) { b.WriteString(d.line(name, "", fmt.Sprintf(format, args...))) }
	style := map[fleetv1.State]string{fleetv1.State_LATE: styleRed, fleetv1.State_STOPPED: styleDim}[ag.State]
	b.WriteString(d.line("Agent", style, fmt.Sprintf("%s, %s, instance %s, seen %s ago", ag.Node, stateName(ag.State), ag.Instance, age(d.at.Sub(moment(ag.SeenUnixNano))))))
	put("Program", "%s on Linux %s, %s, %d processors; started %s ago", r.Version, r.Kernel, r.Architecture, r.Cpus, age(d.at.Sub(moment(r.StartedUnixNano))))
	cost := fmt.Sprintf("%s cores, %s", profile.FormatFloat(ag.Cores, ""), bytes(ag.RssBytes))
	if v := r.GetCost().GetBpfCores(); v >= 0 {
		cost += fmt.Sprintf("; %s cores of that in BPF programs", profile.FormatFloat(v, ""))
	}
	if ag.WithServer {
		cost += "; the server in the same process included"
	}
	put("Cost", "%s", cost)
	s := r.GetSampling()
	put("Samples", "%s, %s a second now, of %d processes; %s lost", n(s.GetSamples()), profile.FormatFloat(ag.SamplesPerSecond, ""), s.GetProcesses(), profile.FormatRatio(ag.LostShare))
	for _, l := range r.Losses {
		b.WriteString(d.line("Lost", styleRed, fmt.Sprintf("%s %s: %s", n(l.Count), strings.ToLower(l.Kind.String()), l.Reason)))
	}
	var ends []string
	for _, e := range s.GetStacks() {
		ends = append(ends, e.End+" "+n(e.Count))
	}
	if len(ends) > 0 {
		put("Stacks", "%s; %s walked by the agent", strings.Join(ends, ", "), n(s.GetDeferred()))
	}
	u := r.GetUnwinding()
	put("Unwinding", "%s files, %s tables, %s failed, %s wait", n(u.GetFiles()), n(u.GetTables()), n(u.GetFailed()), n(u.GetQueued()))
	if e := u.GetLastError(); e != "" {
		put("", "%s", e)
	}
	dl := r.GetDelivery()
	put("Delivery", "%s of %s messages arrived, %s tries failed; %s wait in memory, %s on disk", n(dl.GetDelivered()), n(dl.GetMessages()), n(dl.GetFailures()), bytes(dl.GetQueueBytes()), bytes(dl.GetSpoolBytes()))
	di := r.GetDebuginfo()
	put("Symbols", "%s files uploaded, %s wait, %s failed, %s were gone", n(di.GetUploaded()), n(di.GetPending()), n(di.GetFailed()), n(di.GetGone()))
	if e := di.GetLastError(); e != "" {
		put("", "%s", e)
	}
	h := r.GetHeaps()
	put("Heaps", "of %d Go programs, %d JVMs, %d native programs", h.GetGo(), h.GetJvm(), h.GetNative())
	for _, e := range h.GetWithout() {
		put("", "not of %s: %s", n(e.Count), e.End)
	}
	for _, o := range r.Off {
		put("Off", "%s: %s", o.What, o.Why)
	}
	for _, o := range r.Settings {
		put("Setting", "%s: %s", o.Name, o.Value)
	}
	if e := r.LastError; e != nil {
		b.WriteString(d.line("Last error", styleRed, fmt.Sprintf("%s ago, %s: %s", age(d.at.Sub(moment(e.UnixNano))), e.Where, e.Text)))
	}
	return b.String()
}

type targetRow struct {
	Job         string            `json:"job"`
	Address     string            `json:"address"`
	Health      string            `json:"health"`
	Labels      map[string]string `json:"labels"`
	LastScrape  *time.Time        `json:"last_scrape"`
	TookSeconds float64           `json:"took_seconds"`
	Missed      uint32            `json:"missed"`
	Errors      map[string]string `json:"errors"` // by profile
}

type jobRow struct {
	Name     string   `json:"name"`
	Interval string   `json:"interval"`
	Targets  uint32   `json:"targets"`
	Dropped  uint32   `json:"dropped"`
	Errors   []string `json:"errors"`
}

func targetsJSON(resp *fleetv1.TargetsResponse) any {
	jobs, targets := []jobRow{}, []targetRow{}
	for _, j := range resp.Jobs {
		jobs = append(jobs, jobRow{j.Name, j.Interval, j.Targets, j.Dropped, append([]string{}, j.Errors...)})
	}
	for _, t := range resp.Targets {
		row := targetRow{t.Job, t.Address, t.Health, t.Labels, nil, t.TookSeconds, t.Missed, map[string]string{}}
		if t.LastScrapeUnixNano != 0 {
			at := moment(t.LastScrapeUnixNano)
			row.LastScrape = &at
		}
		for _, p := range t.Profiles {
			if p.Error != "" {
				row.Errors[p.Name] = p.Error
			}
		}
		targets = append(targets, row)
	}
	return struct {
		Jobs    []jobRow    `json:"jobs"`
		Targets []targetRow `json:"targets"`
	}{jobs, targets}
}
