package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perfuse/perfuse/e2e/workloads"
)

// TestLeak runs programs that leak 1 MB/s under a real agent and asks what has changed between two times: the
// function that remembers is the first line.
func TestLeak(t *testing.T) {
	needSampler(t)
	config := filepath.Join(t.TempDir(), "perfuse.yaml")
	if err := os.WriteFile(config, []byte(`agent:
  interval: 1s
  heap:
    interval: 2s
    native: {selector: '{comm="leak-c"}', sample_bytes: 65536}
    jvm: {selector: '{comm="java"}', live: true, cpu: false}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	in := start(t, "up", freeAddress(t), t.TempDir(), "--config", config)
	for _, c := range []struct{ workload, selector, function string }{
		{"leak-c", `{comm="leak-c"}`, "remember"},
		{"leak-go", `{comm="leak-go"}`, "main.remember"},
		{"leak-java", `{comm="java"}`, "Leak.remember"},
	} {
		t.Run(c.workload, func(t *testing.T) {
			t.Parallel()
			path, err := workloads.Build(c.workload)
			if errors.Is(err, workloads.ErrNoCompiler) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(path)
			if c.workload == "leak-java" {
				cmd = exec.Command("java", "-Xmx256m", "-cp", path, "Leak")
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			})
			began := time.Now()
			// Until the leak stands out of what a program needs to start, and of chance.
			eventually(t, time.Minute, "the leak is seen to have grown by 10 MB", func() bool {
				return inUse(t, in, c.selector, began) > 12e6
			})
			middle := began.Add(time.Since(began) / 2)
			out := profilectl(t, "diff", c.selector, "--server", in.url(""), "--type", "inuse_space", "-o", "json",
				"--before", stamp(began)+".."+stamp(middle), "--after", stamp(middle)+".."+stamp(time.Now()))
			var diff struct {
				Functions []struct {
					Name string `json:"name"`
				} `json:"functions"`
			}
			if err := json.Unmarshal([]byte(out), &diff); err != nil {
				t.Fatalf("reading the difference: %v\n%s", err, out)
			}
			table := profilectl(t, "diff", c.selector, "--server", in.url(""), "--type", "inuse_space",
				"--before", stamp(began)+".."+stamp(middle), "--after", stamp(middle)+".."+stamp(time.Now()))
			t.Logf("after %s:\n%s", time.Since(began).Round(time.Second), firstLines(table, 8))
			if len(diff.Functions) == 0 || diff.Functions[0].Name != c.function {
				t.Errorf("the first line is not %s", c.function)
			}
		})
	}
}

// inUse is the largest value in use that the chart of a program shows.
func inUse(t *testing.T, in *instance, selector string, from time.Time) (most float64) {
	t.Helper()
	out, err := exec.Command(program(t, "profilectl"), "series", selector, "--server", in.url(""), "--type", "inuse_space",
		"--from", stamp(from), "--to", "now", "-o", "json").Output()
	if err != nil {
		return 0 // there is nothing yet
	}
	var answer struct {
		Series []struct {
			Points []struct {
				Value float64 `json:"value"`
			} `json:"points"`
		} `json:"series"`
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		t.Fatalf("reading a series: %v\n%s", err, out)
	}
	for _, s := range answer.Series {
		for _, p := range s.Points {
			most = max(most, p.Value)
		}
	}
	return most
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func firstLines(text string, n int) string {
	lines := strings.SplitAfterN(text, "\n", n+1)
	return fmt.Sprint(strings.Join(lines[:min(n, len(lines))], ""))
}
