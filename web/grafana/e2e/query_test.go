package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/data"
	"github.com/grafana/grafana-plugin-sdk-go/genproto/pluginv2"
	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
)

// TestPlugin compares what the plugin answers with the server's own API.
func TestPlugin(t *testing.T) {
	s := startServer(t)
	s.loadShop(t)
	p := startPlugin(t, s.url)
	t.Run("health", func(t *testing.T) {
		resp, err := p.diagnostics.CheckHealth(t.Context(), &pluginv2.CheckHealthRequest{PluginContext: p.context()})
		if err != nil || resp.Status != pluginv2.CheckHealthResponse_OK || !strings.HasPrefix(resp.Message, "Perfuse ") || !strings.HasSuffix(resp.Message, " has 2 profile types") {
			t.Errorf("%v, %v", resp, err)
		}
		if strings.Contains(resp.Message, "unknown version") {
			t.Errorf("no version: %s", resp.Message)
		}
	})
	t.Run("series", func(t *testing.T) { testSeries(t, s, p) })
	t.Run("levels", func(t *testing.T) { testLevels(t, p) })
	t.Run("flame graph", func(t *testing.T) { testFlameGraph(t, s, p) })
	t.Run("filters", func(t *testing.T) { testFilters(t, s, p) })
	t.Run("diff", func(t *testing.T) { testDiff(t, s, p) })
	t.Run("both", func(t *testing.T) {
		got := frames(t, p.ask(t, "both", fields{"profileType": "cpu"}))
		if len(got) != 2 || got[0].Meta.PreferredVisualization != data.VisTypeGraph || got[1].Meta.PreferredVisualization != "flamegraph" {
			t.Errorf("%d frames", len(got))
		}
	})
	t.Run("resources", func(t *testing.T) { testResources(t, p) })
	t.Run("nothing", func(t *testing.T) {
		for _, kind := range []string{"series", "flamegraph", "diff"} {
			f := frames(t, p.ask(t, kind, fields{"profileType": "cpu", "selector": `{service_name="nobody"}`}))[0]
			if len(f.Meta.Notices) == 0 || !strings.Contains(f.Meta.Notices[0].Text, "No profile of cpu matches") && !strings.Contains(f.Meta.Notices[0].Text, "No profile of process_cpu:") {
				t.Errorf("%s: notices %v", kind, f.Meta.Notices)
			}
		}
	})
	t.Run("annotations", func(t *testing.T) { testAnnotations(t, s, p) })
	t.Run("exemplars", func(t *testing.T) { testExemplars(t, s, p) }) // stores what the others do not expect
}

func testSeries(t *testing.T, s *server, p *plugin) {
	frame := frames(t, p.ask(t, "series", fields{"profileType": "cpu", "groupBy": []string{"service_name", "zone"}}))[0]
	if frame.Meta.Type != data.FrameTypeTimeSeriesWide {
		t.Errorf("the frame is %q", frame.Meta.Type)
	}
	times := column[time.Time](t, frame, "time")
	from, to := span()
	for i, at := range times {
		if at.Before(from) || !at.Before(to) || i > 0 && at.Sub(times[i-1]) != 15*time.Second {
			t.Fatalf("step %d begins at %s", i, at)
		}
	}
	var names []string
	for _, f := range frame.Fields[1:] {
		names = append(names, f.Config.DisplayNameFromDS)
		if f.Name != "cpu" || f.Config.Unit != "suffix:cores" {
			t.Errorf("field %q has the unit %q", f.Name, f.Config.Unit)
		}
		// Cores times seconds are what the flame graph of the same series adds up to.
		sum := 0.0
		for i := range f.Len() {
			sum += f.At(i).(float64) * 15
		}
		whole, err := s.api().FlameGraph(t.Context(), &queryv1.FlameGraphRequest{Selection: selection("cpu", fmt.Sprintf(`{service_name=%q, zone=%q}`, f.Labels["service_name"], f.Labels["zone"]))})
		if err != nil {
			t.Fatal(err)
		}
		// A step's value is a whole number of nanoseconds: 40 of them at most are rounded.
		if want := float64(whole.Total) / 1e9; math.Abs(sum-want) > 1e-6 || want == 0 {
			t.Errorf("%s: %g core seconds, our own API says %g", f.Config.DisplayNameFromDS, sum, want)
		}
	}
	slices.Sort(names)
	if want := []string{"api, a", "api, b", "db, a"}; !slices.Equal(names, want) {
		t.Errorf("series %v, want %v", names, want)
	}
	one := frames(t, p.ask(t, "series", fields{"profileType": "cpu", "groupBy": []string{"service_name"}, "limit": 1}))[0]
	if len(one.Fields) != 3 || one.Fields[2].Config.DisplayNameFromDS != "other" || len(one.Meta.Notices) != 1 || !strings.Contains(one.Meta.Notices[0].Text, "There are 2 series") {
		t.Errorf("of 2 series, 1 asked for: %v, notices %v", one.Fields, one.Meta.Notices)
	}
}

// testAnnotations: values of a label are marked when they are first seen, but not those that are only older than the range.
func testAnnotations(t *testing.T, s *server, p *plugin) {
	s.load(t, "roll.cpu{version=2}", "samples", noon.Add(4*time.Minute), "main;work 100\n")
	s.load(t, "roll.cpu{version=1}", "samples", noon.Add(-3*time.Minute), "main;work 100\n")
	s.load(t, "roll.cpu{version=1}", "samples", noon.Add(2*time.Minute), "main;work 100\n")
	frame := frames(t, p.ask(t, "beginnings", fields{"profileType": "cpu", "selector": `{service_name="roll"}`, "label": "version"}))[0]
	if frame.Meta.DataTopic != data.DataTopicAnnotations {
		t.Errorf("topic %q", frame.Meta.DataTopic)
	}
	titles, times := column[string](t, frame, "title"), column[time.Time](t, frame, "time")
	if !slices.Equal(titles, []string{"version 2"}) || times[0].Sub(noon.Add(4*time.Minute)).Abs() > 15*time.Second {
		t.Errorf("%q at %s", titles, times)
	}
}

// testExemplars: the spans that cost most are points of the series, and lead to their flame graphs.
func testExemplars(t *testing.T, s *server, p *plugin) {
	s.loadSpans(t, "spans", noon.Add(2*time.Minute), map[byte]int64{1: 40e6, 2: 900e6, 3: 60e6})
	asked := fields{"profileType": "cpu", "selector": `{service_name="spans"}`, "groupBy": []string{"service_name"}, "exemplars": true}
	got := frames(t, p.ask(t, "series", asked))
	if len(got) != 2 {
		t.Fatalf("%d frames, want the series and its exemplars", len(got))
	}
	points := got[1]
	if points.Name != "exemplar" || points.Meta.DataTopic != data.DataTopicAnnotations {
		t.Errorf("frame %q on the topic %q", points.Name, points.Meta.DataTopic)
	}
	own, err := s.api().Exemplars(t.Context(), &queryv1.ExemplarsRequest{Selection: selection("cpu", `{service_name="spans"}`), StepNano: int64(15 * time.Second)})
	if err != nil || len(own.Exemplars) != 1 || own.Exemplars[0].Value != 900e6 {
		t.Fatalf("our own API: %v, %v", own, err)
	}
	want := own.Exemplars[0]
	trace, cost, value := column[string](t, points, "traceID"), column[float64](t, points, "cost"), column[float64](t, points, "Value")
	if len(trace) != 1 || trace[0] != want.TraceId || cost[0] != float64(want.Value) || math.Abs(value[0]-0.9/15) > 1e-9 || column[string](t, points, "service_name")[0] != "spans" {
		t.Errorf("traces %q, costs %v, at %v; want %s", trace, cost, value, want)
	}
	if at := column[time.Time](t, points, "Time")[0]; at.UnixNano() != want.TimeUnixNano {
		t.Errorf("taken at %s", at)
	}
	// No point lies above its series.
	most := 0.0
	for _, v := range column[float64](t, got[0], "cpu") {
		most = max(most, v)
	}
	if value[0] > most {
		t.Errorf("a span's %g cores are more than the series' %g", value[0], most)
	}
	link := points.Fields[3].Config.Links[0].Internal
	if link == nil || link.DatasourceUID == "" {
		t.Fatal("a trace leads nowhere")
	}
	next, err := json.Marshal(link.Query)
	if err != nil {
		t.Fatal(err)
	}
	var query fields
	if err := json.Unmarshal([]byte(strings.ReplaceAll(string(next), "${__value.raw}", trace[0])), &query); err != nil {
		t.Fatal(err)
	}
	flame := frames(t, p.ask(t, query["queryType"].(string), query))[0]
	if total := column[int64](t, flame, "value")[0]; total != 900e6 {
		t.Errorf("the trace's flame graph has %d", total)
	}
}

func testLevels(t *testing.T, p *plugin) {
	frame := frames(t, p.ask(t, "series", fields{"profileType": "inuse_space", "selector": `{service_name="db"}`}))[0]
	if u := frame.Fields[1].Config.Unit; u != "bytes" {
		t.Errorf("unit %q", u)
	}
	most := 0.0
	for _, v := range column[float64](t, frame, "inuse_space") {
		most = max(most, v)
	}
	if most != 5120 {
		t.Errorf("at most %g bytes in use, want 5120", most)
	}
}

// node is a row of a flame graph: the path of names, and what the columns say.
func nodes(t *testing.T, f *data.Frame, columns ...string) map[string][]int64 {
	t.Helper()
	label, _ := f.FieldByName("label")
	var values [][]int64
	for _, c := range columns {
		values = append(values, column[int64](t, f, c))
	}
	out := map[string][]int64{}
	var path []string
	for i, level := range column[int64](t, f, "level") {
		if int(level) > len(path) {
			t.Fatalf("row %d is on level %d, below level %d", i, level, len(path)-1)
		}
		path = append(path[:level], label.Config.TypeConfig.Enum.Text[label.At(i).(data.EnumItemIndex)])
		for _, v := range values {
			out[strings.Join(path, ";")] = append(out[strings.Join(path, ";")], v[i])
		}
	}
	return out
}

func treeFrames(in []*queryv1.FlameFrame) (out []profile.TreeFrame) {
	for _, f := range in {
		out = append(out, profile.TreeFrame{Name: f.Name, File: f.File, Mapping: f.Mapping})
	}
	return out
}

// walk has the tree's nodes by path.
func walk(t *profile.Tree, row func(i uint32) []int64) map[string][]int64 {
	out := map[string][]int64{}
	var visit func(i uint32, path string)
	visit = func(i uint32, path string) {
		path += t.Name(i)
		out[path] = row(i)
		for c := range t.Children(i) {
			visit(c, path+";")
		}
	}
	visit(0, "")
	return out
}

func same(t *testing.T, got, want map[string][]int64) {
	t.Helper()
	if !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("got\n%v\nour own API says\n%v", got, want)
	}
	if len(got) < 3 {
		t.Errorf("only %d nodes: nothing is compared", len(got))
	}
}

func testFlameGraph(t *testing.T, s *server, p *plugin) {
	for _, groupBy := range [][]string{nil, {"service_name", "zone"}} {
		frame := frames(t, p.ask(t, "flamegraph", fields{"profileType": "cpu", "groupBy": groupBy}))[0]
		resp, err := s.api().FlameGraph(t.Context(), &queryv1.FlameGraphRequest{Selection: selection("cpu", ""), GroupBy: groupBy})
		if err != nil {
			t.Fatal(err)
		}
		tree, err := profile.DecodeNodes(resp.Nodes, treeFrames(resp.Frames), resp.Strings)
		if err != nil {
			t.Fatal(err)
		}
		same(t, nodes(t, frame, "value", "self"), walk(tree, func(i uint32) []int64 { return []int64{tree.Total[i], tree.Self[i]} }))
		for _, name := range []string{"value", "self"} {
			if f, _ := frame.FieldByName(name); f.Config.Unit != "ns" {
				t.Errorf("%s is in %q", name, f.Config.Unit)
			}
		}
	}
}

func testFilters(t *testing.T, s *server, p *plugin) {
	frame := frames(t, p.ask(t, "flamegraph", fields{
		"profileType": "cpu", "callSite": []string{"main", "handler"},
		"keep": []fields{{"field": "function", "value": "^(md5|read)$", "regexp": true}}, "drop": []fields{{"value": "vfs_read"}},
	}))[0]
	resp, err := s.api().FlameGraph(t.Context(), &queryv1.FlameGraphRequest{Selection: selection("cpu", ""), Filter: &queryv1.StackFilter{
		CallSite: []string{"main", "handler"}, Keep: []*queryv1.FrameMatcher{{Value: "^(md5|read)$", Regexp: true}}, Drop: []*queryv1.FrameMatcher{{Value: "vfs_read"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	got := nodes(t, frame, "value")
	if got["root"][0] != resp.Total || resp.Total == 0 || resp.Total == resp.UnfilteredTotal || len(got["root;main;handler;md5"]) != 1 || len(got["root;main;handler;read"]) != 0 {
		t.Errorf("got %v, our own API's total is %d of %d", got, resp.Total, resp.UnfilteredTotal)
	}
	none := frames(t, p.ask(t, "flamegraph", fields{"profileType": "cpu", "spanIds": []string{"00000000000000ab"}}))[0]
	if len(none.Meta.Notices) != 1 {
		t.Errorf("a span that nobody served: %v", none.Meta)
	}
}

func testDiff(t *testing.T, s *server, p *plugin) {
	slow, end := noon.Add(5*time.Minute), noon.Add(8*time.Minute)
	frame := frames(t, p.askAbout(t, "diff", fields{"profileType": "cpu", "before": fields{"earlier": "3m"}}, slow, end))[0]
	at := func(from, to time.Time) *queryv1.Selection {
		return &queryv1.Selection{ProfileType: "cpu", StartUnixNano: from.UnixNano(), EndUnixNano: to.UnixNano()}
	}
	resp, err := s.api().Diff(t.Context(), &queryv1.DiffRequest{Before: at(slow.Add(-3*time.Minute), slow), After: at(slow, end)})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := profile.DecodeDiffNodes(resp.Nodes, treeFrames(resp.Frames), resp.Strings)
	if err != nil {
		t.Fatal(err)
	}
	same(t, nodes(t, frame, "value", "self", "valueRight", "selfRight"), walk(&tree.Tree, func(i uint32) []int64 {
		return []int64{tree.BeforeTotal[i], tree.BeforeSelf[i], tree.Total[i], tree.Self[i]}
	}))
	// Left out, what lies before is as long as the range and ends where it begins.
	same(t, nodes(t, frames(t, p.askAbout(t, "diff", fields{"profileType": "cpu"}, slow, end))[0], "value", "valueRight"), nodes(t, frame, "value", "valueRight"))

	rates := frames(t, p.askAbout(t, "diff", fields{"profileType": "cpu", "before": fields{"selector": `{zone="b"}`, "perSecond": true}}, slow, end))[0]
	right := column[float64](t, rates, "valueRight")
	if want := float64(resp.After.Total) / 1e9 / 180; math.Abs(right[0]-want) > 1e-9 {
		t.Errorf("%g cores on the right, want %g", right[0], want)
	}
	if f, _ := rates.FieldByName("valueRight"); f.Config.Unit != "suffix:cores" {
		t.Errorf("in %q", f.Config.Unit)
	}
}

func testResources(t *testing.T, p *plugin) {
	from, to := span()
	when := url.Values{"start": {fmt.Sprint(from.UnixMilli())}, "end": {fmt.Sprint(to.UnixMilli())}}
	f := func(path string, more url.Values, wantStatus int, want string) {
		t.Helper()
		in := maps.Clone(when)
		maps.Copy(in, more)
		status, body := p.get(t, path, in)
		if body = strings.TrimSpace(body); status != wantStatus || body != want {
			t.Errorf("%s %v: %d %s\nwant %d %s", path, more, status, body, wantStatus, want)
		}
	}
	f("types", nil, 200, `{"types":[{"id":"memory:inuse_space:bytes:space:bytes","name":"memory","sampleType":"inuse_space","sampleUnit":"bytes"},`+
		`{"id":"process_cpu:cpu:nanoseconds:cpu:nanoseconds","name":"process_cpu","sampleType":"cpu","sampleUnit":"nanoseconds"}]}`)
	f("label-names", url.Values{"profileType": {"cpu"}}, 200, `{"values":["service_name","zone"],"truncated":false}`)
	f("label-values", url.Values{"name": {"service_name"}}, 200, `{"values":["api","db"],"truncated":false}`)
	f("label-values", url.Values{"name": {"service_name"}, "prefix": {"d"}}, 200, `{"values":["db"],"truncated":false}`)
	f("label-values", url.Values{"name": {"zone"}, "selector": {`{service_name="db"}`}}, 200, `{"values":["a"],"truncated":false}`)
	f("label-values", url.Values{"name": {"service_name"}, "limit": {"1"}}, 200, `{"values":["api"],"truncated":true}`)
	f("label-values", url.Values{"name": {"nobody"}}, 200, `{"values":[],"truncated":false}`)
	f("label-values", nil, 400, `{"message":"no label is named: want name=LABEL"}`)
	f("label-values", url.Values{"name": {"zone"}, "limit": {"many"}}, 400, `{"message":"limit is \"many\": want 1 to 1000"}`)
	f("types", url.Values{"start": {"yesterday"}}, 400, `{"message":"start is \"yesterday\": want milliseconds since 1970"}`)
	status, body := p.get(t, "label-values", url.Values{"name": {"zone"}, "selector": {`{service_name=db}`}})
	var refused struct{ Message string }
	if err := json.Unmarshal([]byte(body), &refused); err != nil || status != 400 || !strings.Contains(refused.Message, "column 15") {
		t.Errorf("a selector without quotes: %d %s", status, body)
	}
}
