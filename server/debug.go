package server

import (
	"context"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/perfuse/perfuse/storage/frost"
	"go.yaml.in/yaml/v3"
)

// errorLog keeps the last errors for the debug page.
type errorLog struct {
	mu   sync.Mutex
	last []loggedError // oldest first
}

type loggedError struct {
	Time  time.Time `json:"time"`
	Where string    `json:"where"`
	Error string    `json:"error"`
	// Count is how often the same happened in a row.
	Count int `json:"count"`
}

const keptErrors = 100

func (l *errorLog) add(where string, err error) {
	text := "no error was given"
	if err != nil {
		text = err.Error()
	}
	if len(text) > 2000 {
		text = text[:2000] + "…"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.last); n > 0 && l.last[n-1].Where == where && l.last[n-1].Error == text {
		l.last[n-1].Count++
		l.last[n-1].Time = time.Now()
		return
	}
	if len(l.last) == keptErrors {
		l.last = slices.Delete(l.last, 0, 1)
	}
	l.last = append(l.last, loggedError{time.Now(), where, text, 1})
}

func (l *errorLog) list() []loggedError {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.last)
}

var debugTemplate = template.Must(template.New("debug").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Perfuse: debug</title>
<style>
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
pre, td { font-family: ui-monospace, monospace; font-size: 13px }
pre { overflow: auto; padding: .75rem; border: 1px solid #8884; border-radius: 6px }
table { border-collapse: collapse } td, th { text-align: left; vertical-align: top; padding: .15rem 1rem .15rem 0 }
</style></head><body>
<h1>Perfuse: debug</h1>
<p>{{.State}} for {{.Up}}, {{.Goroutines}} goroutines, {{.HeapMiB}} MiB of heap in use.</p>
<ul>
<li><a href="/debug/pprof/">pprof</a>: profiles of this process</li>
<li><a href="/debug/config">config</a>: the settings in force</li>
<li><a href="/debug/build">build</a>: version, revision and modules</li>
<li><a href="/debug/status">status</a>: store, queues and drops, as JSON</li>
<li><a href="/debug/storage">storage</a>: blocks, sizes, series, labels with most values, dictionary, as JSON (<code>?top=20</code>;
<code>&amp;series=20</code> also counts every series' samples); <code>profilectl storage</code> prints it</li>
<li><a href="/debug/targets">targets</a>: what is scraped, and how that goes</li>
<li><a href="/debug/errors">errors</a>: the last errors, as JSON</li>
<li><a href="/metrics">metrics</a></li>
</ul>
<h2>Status</h2><pre>{{.Status}}</pre>
<h2>Last errors</h2>
{{if .Errors}}<table><tr><th>when</th><th>where</th><th>×</th><th>what</th></tr>
{{range .Errors}}<tr><td>{{.Time.Format "2006-01-02 15:04:05"}}</td><td>{{.Where}}</td><td>{{.Count}}</td><td>{{.Error}}</td></tr>
{{end}}</table>{{else}}<p>None since the start.</p>{{end}}
</body></html>
`))

func (s *Server) debugPage(w http.ResponseWriter, r *http.Request) {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	status, err := json.MarshalIndent(s.status(), "", "  ")
	if err != nil {
		status = []byte(err.Error())
	}
	state := "Starting"
	if s.Ready() {
		state = "Up"
	}
	errors := s.errors.list()
	slices.Reverse(errors)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	debugTemplate.Execute(w, map[string]any{
		"State": state, "Up": time.Since(s.started).Round(time.Second), "Goroutines": runtime.NumGoroutine(),
		"HeapMiB": mem.HeapInuse >> 20, "Status": string(status), "Errors": errors,
	})
}

// Statuser is what a store or another backend may implement to tell about itself on the debug page. The
// answer is shown as JSON.
type Statuser interface{ Status() any }

func (s *Server) status() map[string]any {
	out := map[string]any{"http_address": s.Addr(), "otlp_addresses": s.OTLPAddrs(), "ready": s.Ready()}
	if b := s.backend.Load(); b != nil {
		for name, part := range map[string]any{"store": b.Store, "symbols": b.Resolver, "debuginfo": b.Debuginfo} {
			switch st := part.(type) {
			case Statuser:
				out[name] = st.Status()
			case *frost.Store:
				out[name] = st.Stats()
			}
		}
	}
	for name, f := range s.opts.Status {
		out[name] = f()
	}
	// What was dropped or refused, from the metrics, so that no second count can differ.
	if families, err := s.registry.Gather(); err == nil {
		drops := map[string]float64{}
		for _, f := range families {
			if !isLoss(f.GetName()) {
				continue
			}
			for _, m := range f.GetMetric() {
				if v := m.GetCounter().GetValue(); v != 0 {
					name := f.GetName()
					for _, l := range m.GetLabel() {
						name += fmt.Sprintf(" %s=%s", l.GetName(), l.GetValue())
					}
					drops[name] = v
				}
			}
		}
		out["losses"] = drops
	}
	return out
}

// isLoss says whether a metric counts what did not arrive.
func isLoss(name string) bool {
	if !strings.HasPrefix(name, "perfuse_") {
		return false
	}
	for _, word := range []string{"drop", "lost", "refus", "panic", "error", "unresolved"} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}

func (s *Server) debugStatus(w http.ResponseWriter, r *http.Request) { writeJSON(w, s.status()) }

// Storager is what a store may implement to tell about its blocks and labels on the debug page: the top first of each
// list and, if series is not 0, as many of the series with most samples. The answer is shown as JSON.
type Storager interface {
	Storage(ctx context.Context, top, series int) (any, error)
}

// maxTop bounds the lists of the page about storage.
const maxTop = 1000

func (s *Server) debugStorage(w http.ResponseWriter, r *http.Request) {
	wanted := map[string]int{"top": 10, "series": 0}
	for _, name := range []string{"top", "series"} {
		text := r.URL.Query().Get(name)
		if text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n > maxTop {
			plain(w, http.StatusBadRequest, fmt.Sprintf("%s is %.80q: want a number from 0 to %d", name, text, maxTop))
			return
		}
		wanted[name] = n
	}
	b := s.backend.Load()
	if b == nil {
		unavailable(w)
		return
	}
	store, ok := b.Store.(Storager)
	if !ok {
		plain(w, http.StatusNotFound, "this store tells nothing of itself")
		return
	}
	v, err := store.Storage(r.Context(), wanted["top"], wanted["series"])
	if err != nil {
		plain(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	writeJSON(w, v)
}

func (s *Server) debugErrors(w http.ResponseWriter, r *http.Request) {
	list := s.errors.list()
	if list == nil {
		list = []loggedError{}
	}
	writeJSON(w, list)
}

func (s *Server) debugConfig(w http.ResponseWriter, r *http.Request) {
	b, err := yaml.Marshal(s.opts.Settings)
	if err != nil {
		plain(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Write(b)
}

func debugBuild(w http.ResponseWriter, r *http.Request) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		plain(w, http.StatusNotFound, "this program was built without build information")
		return
	}
	plain(w, http.StatusOK, info.String())
}

func writeJSON(w http.ResponseWriter, v any) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		plain(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(append(b, '\n'))
}
