package e2e

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/genproto/pluginv2"
)

// TestBadQuestions: what is wrong with a question is said, with its place.
func TestBadQuestions(t *testing.T) {
	s := startServer(t)
	s.loadShop(t)
	p := startPlugin(t, s.url)
	f := func(kind string, q fields, status int32, says ...string) {
		t.Helper()
		resp := p.ask(t, kind, q)
		for _, word := range says {
			if resp.Status != status || !strings.Contains(resp.Error, word) || resp.ErrorSource != "downstream" {
				t.Errorf("%s %v: status %d, source %s, error %q; want status %d and %q", kind, q, resp.Status, resp.ErrorSource, resp.Error, status, word)
			}
		}
	}
	for _, kind := range []string{"series", "flamegraph", "diff", "both"} {
		f(kind, fields{"profileType": "cpu", "selector": `{service_name="api`}, 400, "column 15", `{service_name="api`, "^")
		f(kind, fields{"profileType": "nonsense"}, 404, `profile type "nonsense" is unknown`, "process_cpu:cpu:nanoseconds:cpu:nanoseconds")
		f(kind, fields{}, 400, "no profile type is chosen")
		f(kind, fields{"profileType": "cpu", "keep": []fields{{"value": "(", "regexp": true}}}, 400, "missing closing )")
		f(kind, fields{"profileType": "cpu", "drop": []fields{{"value": "x", "field": "colour"}}}, 400, `no "colour"`)
		f(kind, fields{"profileType": "cpu", "traceIds": []string{"12"}}, 400, `"12" is no trace id: want 32 hexadecimal digits`)
		f(kind, fields{"profileType": 7}, 400, "reading the query")
	}
	f("heatmap", fields{"profileType": "cpu"}, 400, `"heatmap" is unknown`)
	f("diff", fields{"profileType": "cpu", "before": fields{"earlier": "yesterday"}}, 400, `"yesterday" earlier`)
	f("flamegraph", fields{"profileType": "cpu", "minShare": 2}, 400, "below 1")
	if resp := p.askAbout(t, "series", fields{"profileType": "cpu"}, noon, noon); resp.Status != 400 || !strings.Contains(resp.Error, "the time range is empty") {
		t.Errorf("an empty range: %v", resp)
	}
}

// TestBadServers: a server that is away, that is none, that hangs, that wants to know who asks.
func TestBadServers(t *testing.T) {
	s := startServer(t)
	s.loadShop(t)
	p := startPlugin(t, s.url)
	cpu := fields{"profileType": "cpu"}
	f := func(p *plugin, status int32, says ...string) {
		t.Helper()
		resp := p.ask(t, "both", cpu)
		health, err := p.diagnostics.CheckHealth(t.Context(), &pluginv2.CheckHealthRequest{PluginContext: p.context()})
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range says {
			if resp.Status != status || !strings.Contains(resp.Error, word) {
				t.Errorf("status %d, error %q; want status %d and %q", resp.Status, resp.Error, status, word)
			}
			if health.Status != pluginv2.CheckHealthResponse_ERROR || !strings.Contains(health.Message, word) {
				t.Errorf("health is %s %q; want an error with %q", health.Status, health.Message, word)
			}
		}
	}
	at := func(url string) *plugin {
		return p.with(func(s *pluginv2.DataSourceInstanceSettings) { s.Url = url })
	}
	away := "http://" + freeAddress(t)
	f(at(away), 502, away+" cannot be reached", "is a Perfuse server running there")
	other := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(other.Close)
	f(at(other.URL), 502, "is not Perfuse's", "check the URL")

	// The server's own answer to a name that it does not know (DNS rebinding).
	strange := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", strings.TrimPrefix(s.url, "http://"), "perfuse.example.com"
	}})
	t.Cleanup(strange.Close)
	f(at(strange.URL), 403, "refuses (403 Forbidden)", "allowed_hosts")

	hangs := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-hangs:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(silent.Close)
	t.Cleanup(func() { close(hangs) })
	f(p.with(func(s *pluginv2.DataSourceInstanceSettings) { s.Url, s.JsonData = silent.URL, []byte(`{"timeout": 1}`) }), 504, "did not answer in time", "raise the timeout")

	target, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	locked := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if r.Header.Get("Authorization") != "Bearer open" && (user != "ann" || password != "sesame") {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(locked.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: locked.Certificate().Raw})
	known := func(change func(*pluginv2.DataSourceInstanceSettings)) *plugin {
		return p.with(func(s *pluginv2.DataSourceInstanceSettings) {
			s.Url, s.JsonData, s.DecryptedSecureJsonData = locked.URL, []byte(`{"tlsAuthWithCACert": true}`), map[string]string{"tlsCACert": string(ca)}
			change(s)
		})
	}
	f(at(locked.URL), 502, "cannot be reached", "certificate")
	f(known(func(*pluginv2.DataSourceInstanceSettings) {}), 401, "wants other credentials")
	f(known(func(s *pluginv2.DataSourceInstanceSettings) { s.DecryptedSecureJsonData["bearerToken"] = "shut" }), 401, "wants other credentials")
	for _, open := range []func(*pluginv2.DataSourceInstanceSettings){
		func(s *pluginv2.DataSourceInstanceSettings) { s.DecryptedSecureJsonData["bearerToken"] = "open" },
		func(s *pluginv2.DataSourceInstanceSettings) {
			s.BasicAuthEnabled, s.BasicAuthUser, s.DecryptedSecureJsonData["basicAuthPassword"] = true, "ann", "sesame"
		},
	} {
		if got := frames(t, known(open).ask(t, "both", cpu)); len(got) != 2 {
			t.Errorf("%d frames with the right credentials", len(got))
		}
	}

	// A server that goes away and comes back needs no new plugin.
	s.stop()
	f(p, 502, "cannot be reached")
}

// TestBadSettings: a data source that cannot work says why when it is asked.
func TestBadSettings(t *testing.T) {
	p := startPlugin(t, "")
	f := func(want string, change func(*pluginv2.DataSourceInstanceSettings)) {
		t.Helper()
		other := p.with(change)
		health, err := other.diagnostics.CheckHealth(t.Context(), &pluginv2.CheckHealthRequest{PluginContext: other.context()})
		if err != nil || health.Status != pluginv2.CheckHealthResponse_ERROR || !strings.Contains(health.Message, want) {
			t.Errorf("got %v, %v, want %q", health, err, want)
		}
	}
	f(`the URL is "": want that of a Perfuse server`, func(*pluginv2.DataSourceInstanceSettings) {})
	f(`the URL is "localhost:7070"`, func(s *pluginv2.DataSourceInstanceSettings) { s.Url = "localhost:7070" })
	f(`the least step is "soon"`, func(s *pluginv2.DataSourceInstanceSettings) {
		s.Url, s.JsonData = "http://x", []byte(`{"minStep":"soon"}`)
	})
	f(`the largest answer is 5000 MiB`, func(s *pluginv2.DataSourceInstanceSettings) {
		s.Url, s.JsonData = "http://x", []byte(`{"answerMiB":5000}`)
	})
	f(`both a bearer token and basic`, func(s *pluginv2.DataSourceInstanceSettings) {
		s.Url, s.BasicAuthEnabled, s.DecryptedSecureJsonData = "http://x", true, map[string]string{"bearerToken": "x"}
	})
}

// TestHugeAnswers: what is too much is refused with a word on what to do, and the plugin lives on.
func TestHugeAnswers(t *testing.T) {
	s := startServer(t)
	for part := range 4 {
		var text strings.Builder
		for i := range 30_000 {
			fmt.Fprintf(&text, "main;%s_%d_%d 1\n", strings.Repeat("deep", 8), part, i)
		}
		s.load(t, "huge.cpu{}", "samples", noon.Add(time.Duration(part)*time.Minute), text.String())
	}
	p := startPlugin(t, s.url)
	all := fields{"profileType": "cpu", "minShare": 1e-9}
	if resp := p.ask(t, "flamegraph", all); resp.Status != 400 || !strings.Contains(resp.Error, "more than the 100000 that a panel can draw") {
		t.Errorf("120000 nodes: status %d, %q", resp.Status, resp.Error)
	}
	small := p.with(func(s *pluginv2.DataSourceInstanceSettings) { s.JsonData = []byte(`{"answerMiB":1}`) })
	if resp := small.ask(t, "flamegraph", all); resp.Status != 413 || !strings.Contains(resp.Error, "more than 1 MiB") {
		t.Errorf("more than 1 MiB: status %d, %q", resp.Status, resp.Error)
	}
	cut := frames(t, small.ask(t, "flamegraph", fields{"profileType": "cpu"}))[0]
	got := nodes(t, cut, "value")
	if len(got) != 3 || got["root;main;(small)"][0] != got["root"][0] {
		t.Errorf("what is too small to be seen is one node: %v", got)
	}
	resp := p.askAbout(t, "series", fields{"profileType": "cpu"}, time.Unix(1, 0), time.Now())
	if n := frames(t, resp)[0].Fields[0].Len(); n > 10_001 {
		t.Errorf("%d steps of fifty years", n)
	}
	var wild map[string]any
	if err := json.Unmarshal([]byte(`{"profileType":"cpu","limit":-5}`), &wild); err != nil {
		t.Fatal(err)
	}
	if resp := p.ask(t, "series", wild); resp.Status != 400 {
		t.Errorf("a limit below 0: status %d, %q", resp.Status, resp.Error)
	}
}
