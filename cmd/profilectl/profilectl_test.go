package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/perfuse/perfuse/agent"
	"github.com/perfuse/perfuse/profile"
	fleetv1 "github.com/perfuse/perfuse/proto/perfuse/fleet/v1"
	"github.com/perfuse/perfuse/proto/perfuse/fleet/v1/fleetv1connect"
	"github.com/perfuse/perfuse/server/limits"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/prototext"
)

// TestTranscripts runs what is in testdata/*.txt. Directives:
//
//	profile [type=T] [at=-10m] [for=5m] [trace=HEX] [span=HEX] [span-name=N] [label=value ...]
//	folded lines                  adds a profile to the server
//
//	limits                        another server, empty, with these limits
//	name: value
//
//	storage [status=N]            is the server's page about its storage from now on; before, there is none
//	JSON or another text
//
//	agent [at=-10s]               has an agent report
//	report in protobuf's text form
//
//	targets                       are what the server scrapes from now on
//	as its page /debug/targets has them in JSON
//
//	crowded                       from now on all stacks but the heaviest are too many for the server
//
//	fail                          from now on every call fails with a limit
//
//	run [width=80] [colour]       runs a command line; width makes the output a terminal. STRANGER is the
//	command line                  URL of a server that is no Perfuse, SILENT of one that never answers
//
//	file NAME                     shows a file that a command wrote
//
//	write NAME                    writes a file; elf NAME [times=N] writes one with an ELF header
//	text                          before the text, which may be repeated
//
//	pprof NAME [label=value ...]  writes a pprof with the columns samples and cpu, 10 ms a sample
//	folded lines of samples
//
//	cut NAME to=N                 shortens a file to so many bytes
//
//	java NAME                     writes a recording of Java's Flight Recorder
//
//	recording [samples=N] [lost=N] [exit=N] [denied]
//	folded lines of CPU time      is what the recording engine will return
func TestTranscripts(t *testing.T) {
	testdata, err := filepath.Abs("testdata") // each file runs in a directory of its own
	if err != nil {
		t.Fatal(err)
	}
	datadriven.Walk(t, testdata, func(t *testing.T, path string) {
		if filepath.Ext(path) != ".txt" {
			return
		}
		now := time.Date(2026, 3, 4, 5, 6, 0, 0, time.UTC)
		m := &memory{}
		var engine fakeEngine
		clock := now // goes back while an agent reports
		url := serve(t, m, func() time.Time { return clock }, limits.Limits{})
		strangerURL, silentURL := strangers(t)
		t.Chdir(t.TempDir())
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "profile":
				addProfile(t, d, m, now)
				return ""
			case "limits":
				var lim limits.Limits
				if err := yaml.Unmarshal([]byte(d.Input), &lim); err != nil {
					t.Fatal(err)
				}
				m = &memory{}
				url = serve(t, m, func() time.Time { return clock }, lim)
				return ""
			case "agent":
				at := "-0s"
				d.MaybeScanArgs(t, "at", &at)
				var err error
				if clock, err = parseTime(at, now); err != nil {
					t.Fatal(err)
				}
				defer func() { clock = now }()
				report := &fleetv1.Report{}
				if err := prototext.Unmarshal([]byte(d.Input), report); err != nil {
					t.Fatal(err)
				}
				client := fleetv1connect.NewFleetServiceClient(http.DefaultClient, url)
				if _, err := client.Report(t.Context(), &fleetv1.ReportRequest{Report: report}); err != nil {
					return err.Error() + "\n"
				}
				return ""
			case "targets":
				m.targets = nil
				if err := json.Unmarshal([]byte(d.Input), &m.targets); err != nil {
					t.Fatal(err)
				}
				return ""
			case "storage":
				m.storage.status, m.storage.text = http.StatusOK, d.Input
				d.MaybeScanArgs(t, "status", &m.storage.status)
				return ""
			case "crowded":
				m.crowded = true
				return ""
			case "fail":
				m.err = errTooMuch
				return ""
			case "pprof":
				writePprofFile(t, d, now)
				return ""
			case "cut":
				var to int64
				d.ScanArgs(t, "to", &to)
				if err := os.Truncate(d.CmdArgs[0].Key, to); err != nil {
					t.Fatal(err)
				}
				return ""
			case "java":
				data, err := os.ReadFile(filepath.Join(testdata, "../../../profile/testdata/jfr/workload-17.jfr.gz"))
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(d.CmdArgs[0].Key, data, 0o644); err != nil {
					t.Fatal(err)
				}
				return ""
			case "recording":
				engine = newFakeEngine(t, d)
				return ""
			case "elf":
				header := "\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 57)
				times := 1
				d.MaybeScanArgs(t, "times", &times)
				if err := os.WriteFile(d.CmdArgs[0].Key, []byte(header+strings.Repeat(d.Input, times)), 0o644); err != nil {
					t.Fatal(err)
				}
				return ""
			case "write":
				if err := os.WriteFile(d.CmdArgs[0].Key, []byte(d.Input), 0o644); err != nil {
					t.Fatal(err)
				}
				return ""
			case "file":
				data, err := os.ReadFile(d.CmdArgs[0].Key)
				if err != nil {
					t.Fatal(err)
				}
				return string(data)
			case "run":
				var out, errOut bytes.Buffer
				a := &app{in: strings.NewReader("main;from;stdin 5\n"), out: &out, err: &errOut, now: func() time.Time { return now }, http: http.DefaultClient}
				a.env = func(name string) string { return map[string]string{serverEnv: url}[name] }
				if d.HasArg("width") {
					d.ScanArgs(t, "width", &a.outTerm.width)
					a.outTerm.is, a.outTerm.colour = true, d.HasArg("colour")
				}
				a.record = engine.record
				a.errTerm.is = d.HasArg("progress")
				code := run(context.Background(), a, splitCommand(strings.NewReplacer("STRANGER", strangerURL, "SILENT", silentURL).Replace(d.Input)))
				s := out.String()
				if errOut.Len() > 0 {
					s += "--- stderr\n" + errOut.String()
				}
				s = strings.NewReplacer(url, "http://SERVER", strangerURL, "http://STRANGER", silentURL, "http://SILENT", "\x1b", "^", "\r", "<CR>").Replace(s)
				return fmt.Sprintf("%s--- exit %d\n", s, code)
			}
			t.Fatalf("unknown directive %s", d.Cmd)
			return ""
		})
	})
}

func writePprofFile(t *testing.T, d *datadriven.TestData, now time.Time) {
	b, err := profile.ParseFolded(strings.NewReader(d.Input), profile.TypeCPUSamples, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &b.Profiles[0]
	for _, arg := range d.CmdArgs[1:] {
		p.Labels = profile.NewLabels(append(p.Labels, profile.Label{Name: arg.Key, Value: arg.Vals[0]})...)
	}
	p.TimeNanos, p.DurationNanos, p.Period = now.Add(-20*time.Minute).UnixNano(), int64(10*time.Second), 10_000_000
	cpu := *p
	cpu.Type = profile.TypeCPU
	cpu.Samples = slices.Clone(p.Samples)
	for i := range cpu.Samples {
		cpu.Samples[i].Value *= p.Period
	}
	b.Profiles = append(b.Profiles, cpu)
	var buf bytes.Buffer
	if err := profile.WritePprof(&buf, b); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.CmdArgs[0].Key, buf.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// fakeEngine stands for the agent's recording engine, which needs a kernel and privileges.
type fakeEngine struct {
	rec agent.Recording
	err error
}

func newFakeEngine(t *testing.T, d *datadriven.TestData) (e fakeEngine) {
	if d.HasArg("denied") {
		e.err = fmt.Errorf("loading BPF program: %w", os.ErrPermission)
		return e
	}
	b, err := profile.ParseFolded(strings.NewReader(d.Input), profile.TypeCPU, profile.NewLabels(profile.Label{Name: profile.LabelComm, Value: "app"}))
	if err != nil {
		t.Fatal(err)
	}
	samples := b.Profiles[0]
	samples.Type = profile.TypeCPUSamples
	samples.Samples = slices.Clone(samples.Samples)
	for i := range samples.Samples {
		samples.Samples[i].Value /= 10_000_000
	}
	b.Profiles = append(b.Profiles, samples)
	e.rec = agent.Recording{Batch: b, Samples: samples.Total(), Duration: 1500 * time.Millisecond, Event: "cpu-clock"}
	d.MaybeScanArgs(t, "lost", &e.rec.Lost)
	d.MaybeScanArgs(t, "exit", &e.rec.ExitCode)
	return e
}

func (e fakeEngine) record(_ context.Context, o agent.RecordOptions) (*agent.Recording, error) {
	if e.err != nil {
		return nil, e.err
	}
	if o.Progress != nil {
		o.Progress(42, time.Second)
	}
	e.rec.Event = fmt.Sprintf("as asked: command %q, pid %d, duration %s, rate %d, symbols %t", o.Command, o.PID, o.Duration, o.Rate, o.Symbols != nil)
	return &e.rec, nil
}

func addProfile(t *testing.T, d *datadriven.TestData, m *memory, now time.Time) {
	typ := profile.TypeCPU
	at := now.Add(-10 * time.Minute)
	length := time.Duration(0)
	ls := map[string]string{}
	var link profile.Link
	for _, arg := range d.CmdArgs {
		var err error
		switch arg.Key {
		case "trace":
			_, err = hex.Decode(link.TraceID[:], []byte(arg.Vals[0]))
		case "span":
			_, err = hex.Decode(link.SpanID[:], []byte(arg.Vals[0]))
		case "span-name":
			link.SpanName = arg.Vals[0]
		case "type":
			typ, err = profile.ParseType(arg.Vals[0])
		case "at":
			at, err = parseTime(arg.Vals[0], now)
		case "for":
			length, err = time.ParseDuration(arg.Vals[0])
		default:
			ls[arg.Key] = arg.Vals[0]
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	b, err := profile.ParseFolded(strings.NewReader(d.Input), typ, profile.LabelsFromMap(ls))
	if err != nil {
		t.Fatal(err)
	}
	b.Profiles[0].TimeNanos, b.Profiles[0].DurationNanos = at.UnixNano(), int64(length)
	for i := range b.Profiles[0].Samples {
		b.Profiles[0].Samples[i].Link = b.Dictionary.Link(link)
	}
	if err := m.Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

// splitCommand splits at spaces, except inside single quotes.
func splitCommand(s string) (args []string) {
	for i, part := range strings.Split(strings.TrimSpace(s), "'") {
		if i%2 == 1 {
			args = append(args, part)
			continue
		}
		args = append(args, strings.Fields(part)...)
	}
	return args
}

func TestParseTime(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	f := func(in, want string) {
		t.Helper()
		got, err := parseTime(in, now)
		if err != nil {
			if want != "error" {
				t.Errorf("%q: %v", in, err)
			}
			return
		}
		if s := got.UTC().Format(time.RFC3339Nano); s != want {
			t.Errorf("%q: got %s, want %s", in, s, want)
		}
	}
	f("now", "2026-03-04T05:06:07Z")
	f("-1h", "2026-03-04T04:06:07Z")
	f("-1h30m", "2026-03-04T03:36:07Z")
	f("-2d", "2026-03-02T05:06:07Z")
	f("-1.5d", "2026-03-02T17:06:07Z")
	f("-1w", "2026-02-25T05:06:07Z")
	f("now-90s", "2026-03-04T05:04:37Z")
	f("+1m", "2026-03-04T05:07:07Z")
	f("0", "0001-01-01T00:00:00Z")
	f("1700000000", "2023-11-14T22:13:20Z")
	f("1700000000.5", "2023-11-14T22:13:20.5Z")
	f("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z")
	f("2026-01-02T03:04:05.25+02:00", "2026-01-02T01:04:05.25Z")
	f("2026-01-02 03:04", "2026-01-02T03:04:00Z")
	f("2026-01-02", "2026-01-02T00:00:00Z")
	f("yesterday", "error")
	f("1h", "error")
	f("--1h", "error")
	f("-", "error")
	f("-1x", "error")
	f("1e300", "error")
	f("NaN", "error")
	f("-99999999999999d", "error")
}
