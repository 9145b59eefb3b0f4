package scrape

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"go.yaml.in/yaml/v3"

	"github.com/perfuse/perfuse/profile/relabel"
)

// TestConfig runs testdata/config: "fetches" prints what the jobs fetch of each target, "show" what the debug page
// shows, both the error if there is one.
func TestConfig(t *testing.T) {
	datadriven.RunTest(t, "testdata/config", func(t *testing.T, d *datadriven.TestData) string {
		configs, err := parse(d.Input)
		if err == nil {
			err = Check(configs)
		}
		if err != nil {
			return err.Error() + "\n"
		}
		if d.Cmd == "show" {
			b, err := yaml.Marshal(configs)
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
		var out strings.Builder
		for i := range configs {
			c := &configs[i]
			fmt.Fprintf(&out, "%s every %s, timeout %s\n", c.JobName, c.ScrapeInterval, c.ScrapeTimeout)
			for _, f := range c.fetches() {
				fmt.Fprintf(&out, "  %s %s", f.name, f.path)
				if f.seconds > 0 {
					fmt.Fprintf(&out, " for %ds", f.seconds)
				}
				if len(f.keep) > 0 {
					fmt.Fprintf(&out, " only %v", f.keep)
				}
				out.WriteByte('\n')
			}
		}
		return out.String()
	})
}

// Paths of files are relative to the configuration file.
func TestSetDirectory(t *testing.T) {
	c, err := parse(`
- job_name: a
  file_sd_configs: [{files: [t/*.yaml, /abs/x.json]}]
  basic_auth: {username: u, password_file: secret}
  kubernetes_sd_configs: [{role: pod, tls_config: {ca_file: ca.crt}}]`)
	if err != nil {
		t.Fatal(err)
	}
	c[0].SetDirectory("/etc/perfuse")
	got := fmt.Sprint(c[0].File[0].Files, c[0].HTTP.BasicAuth.PasswordFile, c[0].Kubernetes[0].HTTP.TLSConfig.CAFile)
	if want := "[/etc/perfuse/t/*.yaml /abs/x.json]/etc/perfuse/secret/etc/perfuse/ca.crt"; strings.ReplaceAll(got, "] /", "]/") != want && got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// The example in the documentation is a configuration, with what is commented out as well.
func TestExample(t *testing.T) {
	b, err := os.ReadFile("../../docs/operate/scrape.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(b), "scrape_configs:\n")
	configs, err := parse(strings.ReplaceAll(list, "\n#  ", "\n  "))
	if err != nil || Check(configs) != nil || len(configs) != 3 {
		t.Fatal(err, len(configs))
	}
	pods := &configs[2]
	rules, err := relabel.New(pods.Relabel, maxLabelBytes)
	if err != nil {
		t.Fatal(err)
	}
	var p pod
	if err := json.Unmarshal([]byte(`{"metadata": {"name": "api-0", "namespace": "prod", "annotations": {"profiles.perfuse.dev/port": "6060"}},
		"spec": {"containers": [{"name": "main", "ports": [{"containerPort": 80}, {"containerPort": 6060}]}, {"name": "sidecar"}]},
		"status": {"phase": "Running", "podIP": "10.0.0.1"}}`), &p); err != nil {
		t.Fatal(err)
	}
	all, err := p.targets()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, ls := range all {
		if tgt, err := newTarget(pods, rules, ls); err != nil {
			t.Error(err)
		} else if tgt != nil {
			got = append(got, tgt.labels.String())
		}
	}
	if want := `[{container="main", instance="10.0.0.1:6060", job="pods", namespace="prod", pod="api-0", service_name="pods"}]`; fmt.Sprint(got) != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// Keys of this package's types are known by the name that the YAML package gives to the type.
func TestKeys(t *testing.T) {
	_, err := parse("- {job_name: a, metrics_path: /x}")
	if err == nil {
		t.Fatal("an unknown key is taken")
	}
	_, name, _ := strings.Cut(err.Error(), "not found in type ")
	if keys := strings.Join(Keys(name), " "); !strings.Contains(keys, "scrape_interval") || !strings.Contains(keys, "basic_auth") || !strings.Contains(keys, "proxy_url") {
		t.Errorf("keys of %q: %s", name, keys)
	}
}

// FuzzConfig: what is read can be shown.
func FuzzConfig(f *testing.F) {
	b, err := os.ReadFile(filepath.Join("testdata", "config"))
	if err != nil {
		f.Fatal(err)
	}
	for block := range strings.SplitSeq(string(b), "\n\n") {
		input, _, _ := strings.Cut(block, "\n----")
		_, input, _ = strings.Cut(input, "\n")
		f.Add(input)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parse(text)
		if err != nil {
			return
		}
		if Check(c) != nil {
			return
		}
		for i := range c {
			c[i].fetches()
		}
		if _, err := yaml.Marshal(c); err != nil && !strings.Contains(err.Error(), "TLS version") {
			t.Fatal(err)
		}
	})
}
