package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	googlev1 "github.com/perfuse/perfuse/proto/google/v1"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/server/limits/limitstest"
	"github.com/perfuse/perfuse/server/scrape"
	"google.golang.org/protobuf/proto"
)

// TestScrape lets a server scrape itself, as its configuration file says, and asks for what it has stored.
func TestScrape(t *testing.T) {
	targets := filepath.Join(t.TempDir(), "targets")
	if err := os.Mkdir(targets, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(filepath.Dir(targets), "perfuse.yaml")
	if err := os.WriteFile(file, []byte(`
scrape_configs:
  - job_name: self
    scrape_interval: 1s
    basic_auth: {username: u, password: hush}
    profiling_config: {pprof_config: {block: {enabled: false}, mutex: {enabled: false}}}
    file_sd_configs: [{files: [targets/*.yaml], refresh_interval: 1s}]
    relabel_configs: [{source_labels: [__meta_kind], target_label: kind}]
  - job_name: broken
    scrape_interval: 1s
    params: {token: [hush]}
    profiling_config: {pprof_config: {process_cpu: {enabled: false}}, path_prefix: /debug/nowhere}
    file_sd_configs: [{files: [targets/*.yaml], refresh_interval: 1s}]
`), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, c.Options())
	if err := os.WriteFile(filepath.Join(targets, "a.yaml"), fmt.Appendf(nil, "- {targets: [%q], labels: {__meta_kind: own}}\n", s.Addr()), 0o600); err != nil {
		t.Fatal(err)
	}

	deadline := time.Now().Add(time.Minute)
	total := func(typ string) int64 {
		resp, err := s.query().FlameGraph(t.Context(), &queryv1.FlameGraphRequest{Selection: &queryv1.Selection{
			ProfileType: typ, Selector: fmt.Sprintf(`{service_name="self", job="self", instance=%q, kind="own"}`, s.Addr()),
		}})
		if err != nil {
			return 0 // the type is not known yet
		}
		return resp.Total
	}
	work := make([]byte, 1<<20)
	for _, typ := range []string{"process_cpu:cpu", "memory:alloc_space", "memory:inuse_space", "goroutine:goroutine"} {
		for total(typ) == 0 {
			if time.Now().After(deadline) {
				t.Fatalf("%s: nothing is stored", typ)
			}
			for i := range work { // something for the CPU profile to see
				work[i] += byte(i)
			}
		}
	}
	_, text := s.get(t, "/debug/targets?format=json")
	var jobs []scrape.JobStatus
	if err := json.Unmarshal([]byte(text), &jobs); err != nil {
		t.Fatal(err)
	}
	if len(jobs) != 2 || len(jobs[0].Targets) != 1 || jobs[0].Targets[0].Health != scrape.Up || len(jobs[0].Errors) > 0 ||
		len(jobs[1].Targets) != 1 || jobs[1].Targets[0].Health != scrape.Down || !strings.Contains(jobs[1].Targets[0].Profiles[0].Error, "the target answers 404") {
		t.Error(text)
	}
	_, page := s.get(t, "/debug/targets")
	_, config := s.get(t, "/debug/config")
	_, errors := s.get(t, "/debug/errors")
	_, metrics := s.get(t, "/metrics")
	if !strings.Contains(page, `<td class="down">down</td>`) || !strings.Contains(config, "path_prefix: /debug/nowhere") ||
		!strings.Contains(metrics, fmt.Sprintf("perfuse_scrape_up{instance=%q,job=\"self\"} 1", s.Addr())) {
		t.Errorf("%s\n%s", page, config)
	}
	for _, shown := range []string{page, text, config, errors, metrics} {
		if strings.Contains(shown, "hush") {
			t.Errorf("a secret is shown: %s", shown)
		}
	}
	if status, _ := s.get(t, "/debug/"); status != http.StatusOK {
		t.Error(status)
	}
}

// TestBadTargets scrapes targets that answer what no target should: each is down, and says why in the words of the other
// doors; nothing of it is stored, at a bounded cost of memory, and a good target beside them is up.
func TestBadTargets(t *testing.T) {
	good := &googlev1.Profile{
		StringTable: []string{"", "inuse_space", "bytes", "work"}, SampleType: []*googlev1.ValueType{{Type: 1, Unit: 2}}, TimeNanos: time.Now().UnixNano(),
		Function: []*googlev1.Function{{Id: 1, Name: 3}}, Location: []*googlev1.Location{{Id: 1, Line: []*googlev1.Line{{FunctionId: 1}}}},
		Sample: []*googlev1.Sample{{LocationId: []uint64{1}, Value: []int64{4}}},
	}
	with := func(change func(*googlev1.Profile)) []byte {
		p := proto.CloneOf(good)
		change(p)
		b, err := proto.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	whole := with(func(*googlev1.Profile) {})
	answers := []struct {
		name   string
		status int
		body   []byte
		want   string
	}{
		{"good", 200, whole, ""},
		{"no page", 404, []byte("404 page not found\n"), "the target answers 404 Not Found: 404 page not found"},
		{"a page", 200, []byte("<html><body>sign in</body></html>"), "the scraped profile: reading pprof"},
		{"an error that is no text", 500, []byte("\xff\xfe\x00"), "the target answers 500 Internal Server Error: (no text)"},
		{"empty", 200, nil, "the scraped profile is empty: want a pprof"},
		{"folded text", 200, []byte("main;work 4\n"), "the scraped profile: reading pprof"},
		{"truncated", 200, whole[:len(whole)-3], "the scraped profile: reading pprof"},
		{"truncated, packed", 200, limitstest.Pack(t, "gzip", whole)[:40], "unpacking the scraped profile (gzip): unexpected EOF"},
		{"a bomb", 200, bomb(t, "gzip"), "limit decompressed_bytes is 4194304"},
		{"too large", 200, make([]byte, 3<<20), "limit body_bytes is 2097152"},
		{"an index below zero", 200, with(func(p *googlev1.Profile) { p.Function[0].Name = -1 }), "string -1 of"},
		{"two values for one type", 200, with(func(p *googlev1.Profile) { p.Sample[0].Value = []int64{1, 2} }), "a sample has 2 values, there are 1 sample types"},
		{"a value below zero", 200, with(func(p *googlev1.Profile) { p.Sample[0].Value[0] = -4 }), "is -4: want 0 or more"},
		{"of the future", 200, with(func(p *googlev1.Profile) { p.TimeNanos += int64(time.Hour) }), "limit future is 10m0s"},
	}
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var i int
		if _, err := fmt.Sscanf(r.URL.Path, "/%d/", &i); err != nil {
			t.Errorf("%s: %v", r.URL.Path, err)
		}
		w.WriteHeader(answers[i].status)
		w.Write(answers[i].body)
	}))
	defer target.Close()
	text := "limits: {body_bytes: 2097152, decompressed_bytes: 4194304}\nscrape_configs:\n"
	for i := range answers {
		text += fmt.Sprintf("  - job_name: job%d\n    scrape_interval: 1s\n    static_configs: [{targets: [%q]}]\n    profiling_config:\n      path_prefix: /%d\n"+
			"      pprof_config: {block: {enabled: false}, mutex: {enabled: false}, goroutine: {enabled: false}, process_cpu: {enabled: false}}\n", i, target.Listener.Addr(), i)
	}
	file := filepath.Join(t.TempDir(), "perfuse.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	peak := watchHeap(t)
	s := start(t, c.Options())
	var jobs []scrape.JobStatus
	asked := func() bool {
		jobs = nil
		_, text := s.get(t, "/debug/targets?format=json")
		if err := json.Unmarshal([]byte(text), &jobs); err != nil {
			t.Fatal(err)
		}
		for _, j := range jobs {
			if len(j.Targets) != 1 || j.Targets[0].Health == scrape.Unknown {
				return false
			}
		}
		return len(jobs) == len(answers)
	}
	for deadline := time.Now().Add(time.Minute); !asked(); {
		if time.Now().After(deadline) {
			t.Fatalf("not all targets were asked: %+v", jobs)
		}
	}
	if grown := peak(); grown > 100<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	for i, a := range answers {
		at := jobs[i].Targets[0]
		if (at.Health == scrape.Up) != (a.want == "") || !strings.Contains(at.Profiles[0].Error, a.want) {
			t.Errorf("%s: %s %q, want %q", a.name, at.Health, at.Profiles[0].Error, a.want)
		}
	}
	resp, err := s.query().LabelValues(t.Context(), &queryv1.LabelValuesRequest{Name: "job"})
	if err != nil || fmt.Sprint(resp.Values) != "[job0]" {
		t.Errorf("stored are profiles of %v, %v", resp, err)
	}
}
