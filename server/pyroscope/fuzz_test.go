package pyroscope

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	querierv1 "github.com/perfuse/perfuse/proto/querier/v1"
	typesv1 "github.com/perfuse/perfuse/proto/types/v1"
	"github.com/perfuse/perfuse/server/api"
	"github.com/perfuse/perfuse/server/query/querytest"
)

// FuzzAsk: whatever is asked for, it is answered or it is the question that is wrong.
func FuzzAsk(f *testing.F) {
	store, engine := querytest.New(f)
	a, err := api.New(api.Options{Store: store, Engine: engine})
	if err != nil {
		f.Fatal(err)
	}
	door, err := New(Options{API: a, Store: store, Engine: engine, Now: func() time.Time { return time.Unix(6, 0) }})
	if err != nil {
		f.Fatal(err)
	}
	mux := http.NewServeMux()
	door.Mount(mux)
	s := service{door}

	f.Add("cpu", `{service_name="web", __profile_type__=~"process.*"}`, int64(0), int64(0), int64(0), int32(0), 0.0, "service_name", "9a517183f26a089d", "query=cpu{}&from=0&until=now")
	f.Add("process_cpu:cpu:nanoseconds:cpu:nanoseconds:delta", `{__type__!="cpu"}`, int64(1), int64(10_000), int64(-1), int32(3), 1.0, "__type__", "xyz", "query=cpu&from=5&until=6&format=dot&max-nodes=1")
	f.Add("", `{a="b`, int64(-1), int64(5), int64(1), int32(4), -1.0, "", "", "leftQuery=cpu{}&rightQuery=samples{}&leftFrom=now-6s&rightFrom=now-1h")
	f.Add("samples", `{}`, int64(1<<62), int64(1<<62), int64(1<<62), int32(2), 1e300, "a b", "main", "query=%zz&format=pprof")
	f.Fuzz(func(t *testing.T, typ, selector string, start, end, nodes int64, format int32, step float64, label, span, params string) {
		check := func(what string, err error) { querytest.Blames(t, what, api.CodeOf(err), err) }
		ctx := t.Context()
		ask := &querierv1.SelectMergeStacktracesRequest{ProfileTypeID: typ, LabelSelector: selector, Start: start, End: end, MaxNodes: &nodes,
			Format: querierv1.ProfileFormat(format), StackTraceSelector: &typesv1.StackTraceSelector{CallSite: []*typesv1.Location{{Name: span}}}}
		_, err := s.SelectMergeStacktraces(ctx, ask)
		check("SelectMergeStacktraces", err)
		_, err = s.Diff(ctx, &querierv1.DiffRequest{Left: ask, Right: &querierv1.SelectMergeStacktracesRequest{ProfileTypeID: typ, SpanSelector: []string{span}}})
		check("Diff", err)
		_, err = s.SelectMergeSpanProfile(ctx, &querierv1.SelectMergeSpanProfileRequest{ProfileTypeID: typ, LabelSelector: selector, Start: start, End: end, SpanSelector: []string{span}})
		check("SelectMergeSpanProfile", err)
		_, err = s.SelectMergeProfile(ctx, &querierv1.SelectMergeProfileRequest{ProfileTypeID: typ, LabelSelector: selector, Start: start, End: end})
		check("SelectMergeProfile", err)
		_, err = s.SelectSeries(ctx, &querierv1.SelectSeriesRequest{ProfileTypeID: typ, LabelSelector: selector, Start: start, End: end, Step: step, GroupBy: []string{label}, Limit: &nodes})
		check("SelectSeries", err)
		_, err = s.LabelNames(ctx, &typesv1.LabelNamesRequest{Matchers: []string{selector}, Start: start, End: end})
		check("LabelNames", err)
		_, err = s.LabelValues(ctx, &typesv1.LabelValuesRequest{Name: label, Matchers: []string{selector}, Start: start, End: end})
		check("LabelValues", err)
		_, err = s.Series(ctx, &querierv1.SeriesRequest{Matchers: []string{selector}, LabelNames: []string{label, "__profile_type__"}, Start: start, End: end})
		check("Series", err)
		_, err = s.ProfileTypes(ctx, &querierv1.ProfileTypesRequest{Start: start, End: end})
		check("ProfileTypes", err)
		for _, path := range []string{"/pyroscope/render", "/pyroscope/render-diff"} {
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, &http.Request{Method: http.MethodGet, URL: &url.URL{Path: path, RawQuery: params}, Header: http.Header{}})
			if w.Code >= 500 && w.Code != http.StatusNotImplemented || w.Body.Len() == 0 {
				t.Fatalf("%s?%s: %d %s", path, params, w.Code, w.Body)
			}
		}
	})
}
