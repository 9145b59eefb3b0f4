package server

import (
	"html/template"
	"net/http"
	"time"
)

var targetsTemplate = template.Must(template.New("targets").Funcs(template.FuncMap{
	"ago": func(t time.Time) string {
		if t.IsZero() {
			return "never"
		}
		return time.Since(t).Round(time.Second).String() + " ago"
	},
}).Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Perfuse: targets</title>
<style>
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
body { max-width: 80rem; margin: 2rem auto; padding: 0 1rem }
td, pre { font-family: ui-monospace, monospace; font-size: 13px }
table { border-collapse: collapse } td, th { text-align: left; vertical-align: top; padding: .15rem 1rem .15rem 0 }
tr { border-top: 1px solid #8884 } .down { color: #c33; font-weight: bold } p.down { white-space: pre-wrap }
</style></head><body>
<h1>Perfuse: targets</h1>
<p><a href="/debug/">debug</a>, <a href="/debug/targets?format=json">the same as JSON</a></p>
{{range .}}<h2>{{.Job}}</h2>
<p>{{len .Targets}} targets every {{.Interval}}, {{.Dropped}} dropped by relabelling.</p>
{{range .Errors}}<p class="down">{{.}}</p>{{end}}
{{if .Targets}}<table><tr><th>address</th><th>health</th><th>labels</th><th>last round</th><th>profiles</th></tr>
{{range .Targets}}<tr><td>{{.Address}}</td><td class="{{.Health}}">{{.Health}}</td>
<td>{{range $n, $v := .Labels}}{{$n}}={{printf "%q" $v}}<br>{{end}}<details><summary>before relabelling</summary>{{range $n, $v := .Discovered}}{{$n}}={{printf "%q" $v}}<br>{{end}}</details></td>
<td>{{ago .LastScrape}}, took {{printf "%.3f" .TookSeconds}} s{{if .Missed}}, {{.Missed}} missed{{end}}</td>
<td>{{range .Profiles}}{{.Name}} {{.Path}} {{printf "%.3f" .TookSeconds}} s{{if .Restarts}}, {{.Restarts}} restarts{{end}}{{if .Error}} <span class="down">{{.Error}}</span>{{end}}<br>{{end}}</td></tr>
{{end}}</table>{{end}}
{{else}}<p>Nothing is scraped: the configuration has no scrape_configs.</p>{{end}}
</body></html>
`))

// debugTargets shows what is scraped, as a page or, with format=json, as JSON.
func (s *Server) debugTargets(w http.ResponseWriter, r *http.Request) {
	b := s.backend.Load()
	if b == nil {
		unavailable(w)
		return
	}
	jobs := b.scraper.Status()
	if r.URL.Query().Get("format") == "json" {
		writeJSON(w, jobs)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	targetsTemplate.Execute(w, jobs)
}
