package datasource

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/backend"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
)

// maxChoices is how many names or values an editor or a variable gets at most.
const maxChoices = 1000

// resources are what the editor and template variables ask by GET:
//
//	/types         ?start= &end=
//	/label-names   ?start= &end= &profileType= &selector= &limit=
//	/label-values  the same, and &name= &prefix=
//
// Times are milliseconds since 1970; left out, all of the time.
func (ds *Datasource) resources() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /types", ds.resource(ds.typesResource))
	mux.HandleFunc("GET /label-names", ds.resource(ds.labelNames))
	mux.HandleFunc("GET /label-values", ds.resource(ds.labelValues))
	return mux
}

func (ds *Datasource) resource(f func(r *http.Request, in url.Values) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		status := http.StatusOK
		out, err := f(r, r.URL.Query())
		if err != nil {
			e := ds.explain(err)
			status, out = e.status, map[string]string{"message": e.message}
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		if err := json.NewEncoder(w).Encode(out); err != nil {
			backend.Logger.FromContext(r.Context()).Warn("writing a resource", "path", r.URL.Path, "error", err)
		}
	}
}

type typeChoice struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	SampleType string `json:"sampleType"`
	SampleUnit string `json:"sampleUnit"`
}

func (ds *Datasource) typesResource(r *http.Request, in url.Values) (any, error) {
	from, to, err := between(in)
	if err != nil {
		return nil, err
	}
	types, err := ds.types(r.Context(), from, to)
	if err != nil {
		return nil, err
	}
	out := make([]typeChoice, len(types))
	for i, t := range types {
		out[i] = typeChoice{ID: t.String(), Name: t.Name, SampleType: t.SampleType, SampleUnit: t.SampleUnit}
	}
	return map[string]any{"types": out}, nil
}

type choices struct {
	Values    []string `json:"values"`
	Truncated bool     `json:"truncated"`
}

func (ds *Datasource) labelNames(r *http.Request, in url.Values) (any, error) {
	sel, limit, err := about(in)
	if err != nil {
		return nil, err
	}
	resp, err := ds.api.LabelNames(r.Context(), &queryv1.LabelNamesRequest{Selection: sel, Limit: limit})
	if err != nil {
		return nil, err
	}
	return choices{notNil(resp.Names), resp.Truncated}, nil
}

func (ds *Datasource) labelValues(r *http.Request, in url.Values) (any, error) {
	sel, limit, err := about(in)
	if err != nil {
		return nil, err
	}
	if in.Get("name") == "" {
		return nil, invalid("no label is named: want name=LABEL")
	}
	resp, err := ds.api.LabelValues(r.Context(), &queryv1.LabelValuesRequest{Selection: sel, Name: in.Get("name"), Prefix: in.Get("prefix"), Limit: limit})
	if err != nil {
		return nil, err
	}
	return choices{notNil(resp.Values), resp.Truncated}, nil
}

// notNil makes a list of what would be null in JSON.
func notNil(list []string) []string { return append([]string{}, list...) }

// about reads what a list of names or values is about.
func about(in url.Values) (*queryv1.Selection, int32, error) {
	from, to, err := between(in)
	if err != nil {
		return nil, 0, err
	}
	limit := maxChoices
	if text := in.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return nil, 0, invalid("limit is %q: want 1 to %d", text, maxChoices)
		}
		limit = min(n, maxChoices)
	}
	sel := &queryv1.Selection{ProfileType: in.Get("profileType"), Selector: in.Get("selector")}
	if !from.IsZero() {
		sel.StartUnixNano, sel.EndUnixNano = from.UnixNano(), to.UnixNano()
	}
	return sel, int32(limit), nil
}

func between(in url.Values) (from, to time.Time, err error) {
	if in.Get("start") == "" && in.Get("end") == "" {
		return from, to, nil
	}
	var ms [2]int64
	for i, name := range []string{"start", "end"} {
		if ms[i], err = strconv.ParseInt(in.Get(name), 10, 64); err != nil || ms[i] < 0 || ms[i] > maxMillis {
			return from, to, invalid("%s is %q: want milliseconds since 1970", name, in.Get(name))
		}
	}
	if ms[0] >= ms[1] {
		return from, to, invalid("the time range is empty: start is %d and end is %d", ms[0], ms[1])
	}
	return time.UnixMilli(ms[0]), time.UnixMilli(ms[1]), nil
}

// maxMillis is what still fits in nanoseconds.
const maxMillis = 9_223_372_036_854
