package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/server/scrape"
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
