package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perfuse/perfuse/profile"
	fleetv1 "github.com/perfuse/perfuse/proto/perfuse/fleet/v1"
	"github.com/perfuse/perfuse/server/api"
	"github.com/perfuse/perfuse/server/query"
	"github.com/perfuse/perfuse/server/scrape"
	"github.com/perfuse/perfuse/storage/storagetest"
	"github.com/perfuse/perfuse/symbolize"
	"github.com/perfuse/perfuse/symbolize/debuginfo"
)

// files are build ids with what is known of them. Addresses below 100 have names in those that are indexed.
type files map[string]debuginfo.Info

func (f files) Resolve(_ context.Context, buildID string, addrs []profile.Addr) ([][]symbolize.Source, error) {
	if f[buildID].State != debuginfo.Indexed {
		return nil, symbolize.ErrNoDebugInfo
	}
	out := make([][]symbolize.Source, len(addrs))
	for i, a := range addrs {
		if a < 100 {
			out[i] = []symbolize.Source{{Name: fmt.Sprint("f", a)}}
		}
	}
	return out, nil
}

func (f files) Put(context.Context, string, string, io.Reader) (int64, error) {
	return 0, errors.New("not here")
}
func (f files) Wanted([]string) []string { return nil }
func (f files) List() (out []debuginfo.Info) {
	for id, i := range f {
		i.BuildID = id
		out = append(out, i)
	}
	return out
}

func newService(t *testing.T, store *storagetest.Model, known files, now func() time.Time, targets func() []scrape.JobStatus) service {
	t.Helper()
	o := query.Options{Store: store}
	var kept api.Debuginfo
	if known != nil {
		o.Resolver, kept = known, known
	}
	engine, err := query.New(o)
	if err != nil {
		t.Fatal(err)
	}
	a, err := api.New(api.Options{Store: store, Engine: engine, Debuginfo: kept})
	if err != nil {
		t.Fatal(err)
	}
	f, err := New(Options{API: a, Store: store, Engine: engine, Debuginfo: kept, Targets: targets, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return service{f}
}

// write stores a stack of native frames, as "file@buildid+addr" each, leaf first; "=name" at the end names one.
func write(t *testing.T, store *storagetest.Model, at time.Time, value int64, frames ...string) {
	t.Helper()
	d := profile.NewDictionary()
	var stack profile.Stack
	for _, text := range frames {
		text, name, _ := strings.Cut(text, "=")
		file, rest, _ := strings.Cut(text, "@")
		id, addr, _ := strings.Cut(rest, "+")
		f := profile.Frame{Mapping: d.Mapping(profile.Mapping{BuildID: id, File: file})}
		if _, err := fmt.Sscan(addr, &f.Addr); err != nil {
			t.Fatal(err)
		}
		if name != "" {
			f.Lines = []profile.Line{{Function: d.Function(profile.Function{Name: name})}}
		}
		stack = append(stack, d.Frame(f))
	}
	p := profile.Profile{Type: profile.TypeCPU, Labels: profile.LabelsFromMap(map[string]string{"node": "a"}), TimeNanos: at.UnixNano()}
	p.Samples = []profile.Sample{{Stack: d.Stack(stack), Value: value}}
	if err := store.Write(t.Context(), &profile.Batch{Dictionary: d, Profiles: []profile.Profile{p}}); err != nil {
		t.Fatal(err)
	}
}

func symbolLines(resp *fleetv1.SymbolsResponse) string {
	var out []string
	for _, f := range resp.Files {
		out = append(out, fmt.Sprintf("%s@%s %s %.0f%% of frames, %.0f%% unnamed", f.File, f.BuildId, f.Source, 100*f.FramesShare, 100*f.UnnamedShare))
	}
	return strings.Join(out, "\n")
}

// TestSymbols weighs each file's frames by their samples and says where names are from.
func TestSymbols(t *testing.T) {
	now := time.Now()
	store := &storagetest.Model{}
	known := files{"aa": {State: debuginfo.Indexed}, "bb": {State: debuginfo.Failed, Error: "no sections"}, "cc": {State: debuginfo.Uploaded}}
	s := newService(t, store, known, func() time.Time { return now }, nil)
	ask := func() *fleetv1.SymbolsResponse {
		t.Helper()
		resp, err := s.Symbols(t.Context(), &fleetv1.SymbolsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	if resp := ask(); len(resp.Files) > 0 || resp.ProfileType != "" {
		t.Errorf("without profiles the answer is %v", resp)
	}
	minute := now.Add(-time.Minute)
	write(t, store, minute, 30, "/bin/whole@aa+1", "/bin/whole@aa+2")
	write(t, store, minute, 10, "/bin/whole@aa+200")
	write(t, store, minute, 10, "/bin/broken@bb+1", "/bin/new@cc+1", "/bin/none@dd+7", "/bin/bare@+5")
	write(t, store, minute, 10, "/bin/went@ee+9=main", "//anon@+77")
	write(t, store, now.Add(-time.Hour), 1000, "/bin/old@ff+1")
	now = now.Add(time.Second)
	if resp := ask(); len(resp.Files) > 0 {
		t.Errorf("half a minute must pass before it is counted anew, but there is %v", resp)
	}
	now = now.Add(symbolsFresh)
	resp := ask()
	// 60 + 10 + 40 + 20 frames, each for a sample.
	const want = `//anon@ MISSING 8% of frames, 100% unnamed
/bin/whole@aa PARTIAL 54% of frames, 14% unnamed
/bin/bare@ MISSING 8% of frames, 100% unnamed
/bin/broken@bb FAILED 8% of frames, 100% unnamed
/bin/new@cc INDEXING 8% of frames, 100% unnamed
/bin/none@dd MISSING 8% of frames, 100% unnamed
/bin/went@ee PROFILES 8% of frames, 0% unnamed`
	lines := strings.Split(symbolLines(resp), "\n")
	slices.Sort(lines)
	wanted := strings.Split(want, "\n")
	slices.Sort(wanted)
	if !slices.Equal(lines, wanted) {
		t.Errorf("got\n%s\nwant\n%s", symbolLines(resp), want)
	}
	if f := resp.Files[0]; f.BuildId != "aa" {
		t.Errorf("first is %s, want the one with most frames among equal ones", f.File)
	}
	if got, want := resp.UnnamedShare, 60./130; got < want-1e-9 || got > want+1e-9 {
		t.Errorf("%v of all frames are unnamed, want %v", got, want)
	}
	for file, reason := range map[string]string{
		"/bin/bare": "no build id", "//anon": "perf map", "/bin/none": "profilectl debuginfo upload", "/bin/broken": "no sections", "/bin/whole": "stripped",
	} {
		i := slices.IndexFunc(resp.Files, func(f *fleetv1.Symbols) bool { return f.File == file })
		if !strings.Contains(resp.Files[i].Reason, reason) {
			t.Errorf("%s: %q does not say %q", file, resp.Files[i].Reason, reason)
		}
	}
	// Names that arrive later are seen later.
	known["dd"] = debuginfo.Info{State: debuginfo.Indexed}
	now = now.Add(symbolsFresh)
	if text := symbolLines(ask()); !strings.Contains(text, "/bin/none@dd STORE 8% of frames, 0% unnamed") {
		t.Errorf("after its symbols have come:\n%s", text)
	}
}

// TestSymbolsNotKept: a server without a store of symbols says so.
func TestSymbolsNotKept(t *testing.T) {
	store := &storagetest.Model{}
	now := time.Now()
	s := newService(t, store, nil, func() time.Time { return now }, nil)
	write(t, store, now.Add(-time.Minute), 1, "/bin/x@aa+1")
	resp, err := s.Symbols(t.Context(), &fleetv1.SymbolsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.Files) != 1 || resp.Files[0].Reason != "this server keeps no symbols" {
		t.Errorf("got %v", resp)
	}
}

// TestTargets: what is down is first, and the list is bounded.
func TestTargets(t *testing.T) {
	job := scrape.JobStatus{Job: "many", Interval: "15s", Dropped: 3, Errors: []string{"no such file"}}
	for i := range maxTargets + 5 {
		job.Targets = append(job.Targets, scrape.TargetStatus{Address: fmt.Sprintf("http://t%05d", i), Health: scrape.Up, LastScrape: time.Unix(5, 0)})
	}
	job.Targets[7000].Health = scrape.Unknown
	job.Targets[9000].Health = scrape.Down
	job.Targets[9000].Profiles = []scrape.ProfileStatus{{Name: "memory", Error: "connection refused"}}
	fine := scrape.JobStatus{Job: "fine", Targets: []scrape.TargetStatus{{Address: "http://fine", Health: scrape.Up}}}
	s := newService(t, &storagetest.Model{}, nil, nil, func() []scrape.JobStatus { return []scrape.JobStatus{job, fine} })
	all, err := s.Targets(t.Context(), &fleetv1.TargetsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(all.Targets) != maxTargets || all.Total != maxTargets+6 || all.Down != 1 || all.Up != maxTargets+4 || len(all.Jobs) != 2 {
		t.Errorf("%d targets listed of %d, %d down, %d up, %d jobs", len(all.Targets), all.Total, all.Down, all.Up, len(all.Jobs))
	}
	if a, b, c := all.Targets[0], all.Targets[1], all.Targets[2]; a.Address != "http://t09000" || a.Profiles[0].Error != "connection refused" || b.Health != "unknown" || c.Address != "http://t00000" {
		t.Errorf("they begin with %v, %v, %v", a, b, c)
	}
	if all.Targets[2].LastScrapeUnixNano != 5e9 || all.Targets[0].Job != "many" {
		t.Errorf("a target is %v", all.Targets[2])
	}
	failing, err := s.Targets(t.Context(), &fleetv1.TargetsRequest{Failing: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(failing.Targets) != 1 || len(failing.Jobs) != 1 || failing.Jobs[0].Dropped != 3 || failing.Total != all.Total {
		t.Errorf("failing are %v", failing)
	}
}
