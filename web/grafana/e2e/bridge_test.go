package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	sdk "github.com/grafana/grafana-plugin-sdk-go/backend"
	"github.com/grafana/grafana-plugin-sdk-go/genproto/pluginv2"
)

// bridge is the part of Grafana's HTTP API that a data source's front end uses, from there to the plugin's back end; and
// the built host page and module.
func bridge(t *testing.T, p *plugin) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServer(http.Dir("host/dist")))
	mux.Handle("/public/plugins/perfuse-profiling-datasource/", http.StripPrefix("/public/plugins/perfuse-profiling-datasource/", http.FileServer(http.Dir("../dist"))))
	mux.HandleFunc("POST /api/ds/query", p.serveQuery)
	mux.HandleFunc("GET /api/datasources/uid/perfuse/resources/{path...}", p.serveResource)
	mux.HandleFunc("GET /api/live", p.serveStream)
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	t.Cleanup(s.CloseClientConnections) // streams would keep Close waiting
	return s
}

func failed(w http.ResponseWriter, err error) bool {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
	return err != nil
}

func (p *plugin) serveQuery(w http.ResponseWriter, r *http.Request) {
	var in struct {
		From, To string
		Queries  []json.RawMessage
	}
	if failed(w, json.NewDecoder(r.Body).Decode(&in)) {
		return
	}
	from, err := strconv.ParseInt(in.From, 10, 64)
	if failed(w, err) {
		return
	}
	to, err := strconv.ParseInt(in.To, 10, 64)
	if failed(w, err) {
		return
	}
	req := &pluginv2.QueryDataRequest{PluginContext: p.context()}
	for _, raw := range in.Queries {
		var head struct {
			RefID, QueryType          string
			IntervalMs, MaxDataPoints int64
		}
		if failed(w, json.Unmarshal(raw, &head)) {
			return
		}
		req.Queries = append(req.Queries, &pluginv2.DataQuery{
			RefId: head.RefID, QueryType: head.QueryType, Json: raw, IntervalMS: head.IntervalMs, MaxDataPoints: head.MaxDataPoints,
			TimeRange: &pluginv2.TimeRange{FromEpochMS: from, ToEpochMS: to},
		})
	}
	resp, err := p.data.QueryData(r.Context(), req)
	if failed(w, err) {
		return
	}
	out, err := sdk.FromProto().QueryDataResponse(resp)
	if failed(w, err) {
		return
	}
	body, err := json.Marshal(out)
	if failed(w, err) {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	// Grafana's own choice: a query that failed makes the status.
	for _, one := range out.Responses {
		if one.Error != nil {
			w.WriteHeader(int(one.Status))
			break
		}
	}
	w.Write(body)
}

func (p *plugin) serveResource(w http.ResponseWriter, r *http.Request) {
	path := r.PathValue("path")
	stream, err := p.resource.CallResource(r.Context(), &pluginv2.CallResourceRequest{
		PluginContext: p.context(), Path: path, Method: r.Method, Url: strings.TrimSuffix(path+"?"+r.URL.RawQuery, "?"),
	})
	if failed(w, err) {
		return
	}
	resp, err := stream.Recv()
	if failed(w, err) {
		return
	}
	for name, values := range resp.Headers {
		w.Header()[name] = values.Values
	}
	w.WriteHeader(int(resp.Code))
	w.Write(resp.Body)
}

// serveStream subscribes and sends each frame as a line.
func (p *plugin) serveStream(w http.ResponseWriter, r *http.Request) {
	path, data := r.URL.Query().Get("path"), []byte(r.URL.Query().Get("data"))
	sub, err := p.stream.SubscribeStream(r.Context(), &pluginv2.SubscribeStreamRequest{PluginContext: p.context(), Path: path, Data: data})
	if failed(w, err) {
		return
	}
	if sub.Status != pluginv2.SubscribeStreamResponse_OK {
		http.Error(w, sub.Status.String(), http.StatusNotFound)
		return
	}
	stream, err := p.stream.RunStream(r.Context(), &pluginv2.RunStreamRequest{PluginContext: p.context(), Path: path, Data: data})
	if failed(w, err) {
		return
	}
	for {
		packet, err := stream.Recv()
		if err != nil {
			return // the page left, or the plugin ended it
		}
		if _, err := io.WriteString(w, string(packet.Data)+"\n"); err != nil {
			return
		}
		http.NewResponseController(w).Flush()
	}
}
