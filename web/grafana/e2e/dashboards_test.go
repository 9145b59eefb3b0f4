package e2e

import (
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/genproto/pluginv2"
	"go.yaml.in/yaml/v3"
)

const deploy = "../../../deploy/grafana/"

// manifest is what plugin.json says.
func manifest(t *testing.T) (m struct{ ID, Executable string }) {
	t.Helper()
	raw, err := os.ReadFile("../src/plugin.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

type dashboard struct {
	UID, Title string
	Templating struct {
		List []struct {
			Name, Type string
			Query      any
		}
	}
	Panels []struct {
		ID          int
		Title, Type string
		GridPos     struct{ X, Y, W, H int }
		Targets     []fields
	}
}

// TestDashboards asks each dashboard's queries as Grafana would after it has put in the variables' values.
func TestDashboards(t *testing.T) {
	s := startServer(t)
	for minute := range 4 {
		at := noon.Add(time.Duration(minute) * time.Minute)
		s.load(t, "api.cpu{pod=api-1,thread=main}", "samples", at, "main;handler;md5 600\nmain;runtime.gcBgMarkWorker 30\n")
		s.load(t, "api.cpu{thread=gc}", "samples", at, "gc;runtime.gcBgMarkWorker 30\n")
		s.load(t, "api.inuse_space{pod=api-1}", "bytes", at, "main;cache 4096\n")
		s.load(t, "api.alloc_space{pod=api-1}", "bytes", at, "main;cache 8192\n")
	}
	p := startPlugin(t, s.url)
	files, err := filepath.Glob(deploy + "dashboards/*.json")
	if err != nil || len(files) < 3 {
		t.Fatalf("%d dashboards: %v", len(files), err)
	}
	uids := map[string]bool{}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var d dashboard
			if err := json.Unmarshal(raw, &d); err != nil {
				t.Fatal(err)
			}
			if d.UID == "" || d.Title == "" || uids[d.UID] {
				t.Errorf("uid %q, title %q", d.UID, d.Title)
			}
			uids[d.UID] = true
			values := map[string]string{"$datasource": p.source.Uid}
			for _, v := range d.Templating.List {
				switch q := v.Query.(type) {
				case string:
					if v.Type != "datasource" || q != manifest(t).ID {
						t.Errorf("variable %s is a %s of %s", v.Name, v.Type, q)
					}
				case fields:
					status, body := p.get(t, "label-values", url.Values{"name": {text(q["label"])}, "selector": {filled(text(q["selector"]), values)}})
					var got struct{ Values []string }
					if err := json.Unmarshal([]byte(body), &got); err != nil || status != 200 || len(got.Values) != 1 {
						t.Fatalf("variable %s: %d %s", v.Name, status, body)
					}
					values["$"+v.Name] = got.Values[0]
				}
			}
			taken := map[[2]int]int{}
			for _, panel := range d.Panels {
				for x := panel.GridPos.X; x < panel.GridPos.X+panel.GridPos.W; x++ {
					for y := panel.GridPos.Y; y < panel.GridPos.Y+panel.GridPos.H; y++ {
						if other, ok := taken[[2]int{x, y}]; ok || x >= 24 {
							t.Fatalf("panel %d lies over panel %d, or outside", panel.ID, other)
						}
						taken[[2]int{x, y}] = panel.ID
					}
				}
				for _, target := range panel.Targets {
					testPanel(t, p, panel.Type, panel.Title, target, values)
				}
			}
		})
	}
}

func testPanel(t *testing.T, p *plugin, typ, title string, target fields, values map[string]string) {
	t.Helper()
	raw, err := json.Marshal(target)
	if err != nil {
		t.Fatal(err)
	}
	// Variables stand in selectors only, between quotes that JSON escapes.
	var q fields
	if err := json.Unmarshal([]byte(filled(string(raw), values)), &q); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text(q["selector"]), "$") {
		t.Fatalf("%s: a variable is unknown: %v", title, q)
	}
	got := frames(t, p.ask(t, text(q["queryType"]), q))
	if len(got) != 1 || typ == "timeseries" != (string(got[0].Meta.PreferredVisualization) == "graph") || typ == "flamegraph" != (string(got[0].Meta.PreferredVisualization) == "flamegraph") {
		t.Errorf("%s: a %s shows %v", title, typ, got[0].Meta)
	}
	if rows, _ := got[0].RowLen(); rows < 2 && !strings.Contains(text(q["profileType"]), "off_cpu") {
		t.Errorf("%s is empty: %v", title, got[0].Meta.Notices)
	}
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

func filled(s string, values map[string]string) string {
	for name, value := range values {
		s = strings.ReplaceAll(s, name, value)
	}
	return s
}

// TestProvisioning: the data sources that are provisioned are such as exist, and ours works with those settings.
func TestProvisioning(t *testing.T) {
	raw, err := os.ReadFile(deploy + "provisioning/datasources/perfuse.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		APIVersion  int `yaml:"apiVersion"`
		Datasources []struct {
			Name, UID, Type, Access, URL string
			JSONData                     fields `yaml:"jsonData"`
		}
	}
	if err := yaml.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	s := startServer(t)
	p := startPlugin(t, s.url)
	var types []string
	for _, d := range file.Datasources {
		types = append(types, d.Type)
		if d.Name == "" || d.UID == "" || d.Access != "proxy" || d.URL != "$PERFUSE_URL" {
			t.Errorf("%+v", d)
		}
		if d.Type != manifest(t).ID {
			continue
		}
		settings, err := json.Marshal(d.JSONData)
		if err != nil {
			t.Fatal(err)
		}
		ours := p.with(func(in *pluginv2.DataSourceInstanceSettings) { in.JsonData = settings })
		health, err := ours.diagnostics.CheckHealth(t.Context(), &pluginv2.CheckHealthRequest{PluginContext: ours.context()})
		if err != nil || health.Status != pluginv2.CheckHealthResponse_OK || !strings.Contains(health.Message, "has no profiles yet") {
			t.Errorf("%v, %v", health, err)
		}
	}
	if m := manifest(t); m.Executable != "gpx_perfuse" {
		t.Errorf("plugin.json names %q, this test builds gpx_perfuse_…", m.Executable)
	}
	if got := strings.Join(types, " "); file.APIVersion != 1 || got != "perfuse-profiling-datasource grafana-pyroscope-datasource parca" {
		t.Errorf("version %d of %s", file.APIVersion, got)
	}
	raw, err = os.ReadFile(deploy + "provisioning/dashboards/perfuse.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var boards struct{ Providers []struct{ Type string } }
	if err := yaml.Unmarshal(raw, &boards); err != nil || len(boards.Providers) != 1 || boards.Providers[0].Type != "file" {
		t.Errorf("%+v, %v", boards, err)
	}
}
