package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	queryv1alpha1 "github.com/perfuse/perfuse/proto/parca/query/v1alpha1"
	"github.com/perfuse/perfuse/proto/parca/query/v1alpha1/queryv1alpha1connect"
	debuginfov1 "github.com/perfuse/perfuse/proto/perfuse/debuginfo/v1"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	querierv1 "github.com/perfuse/perfuse/proto/querier/v1"
	"github.com/perfuse/perfuse/proto/querier/v1/querierv1connect"
	typesv1 "github.com/perfuse/perfuse/proto/types/v1"
	"github.com/perfuse/perfuse/server/limits"
)

// question is what every door for questions is asked, in its own form.
type question struct {
	typ, selector string
	start, end    time.Time
	by            []string
	step          time.Duration
	spans, site   []string
	keep          []string
	label         string
}

// asker asks a question by one procedure. uses says which parts of a question it has, beside the selector and the range:
// type, by, step, spans, site, keep, nodes, label.
type asker struct {
	name string
	uses string
	ask  func(q question) error
}

func (a *asker) has(part string) bool { return slices.Contains(strings.Fields(a.uses), part) }

// askers are the procedures of every door for questions.
func askers(t *testing.T, s *running) []asker {
	own := s.query()
	toPyroscope := querierv1connect.NewQuerierServiceClient(http.DefaultClient, s.url)
	toParca := queryv1alpha1connect.NewQueryServiceClient(http.DefaultClient, s.url, connect.WithGRPCWeb())
	ctx := t.Context()
	nanos := func(at time.Time) int64 {
		if at.IsZero() {
			return 0
		}
		return at.UnixNano()
	}
	millis := func(at time.Time) int64 { return nanos(at) / 1e6 }
	stamp := func(at time.Time) *timestamppb.Timestamp {
		if at.IsZero() {
			return nil
		}
		return timestamppb.New(at)
	}
	selection := func(q question) *queryv1.Selection {
		return &queryv1.Selection{ProfileType: q.typ, Selector: q.selector, StartUnixNano: nanos(q.start), EndUnixNano: nanos(q.end), SpanIds: q.spans}
	}
	filter := func(q question) *queryv1.StackFilter {
		f := &queryv1.StackFilter{CallSite: q.site}
		for _, text := range q.keep {
			f.Keep = append(f.Keep, &queryv1.FrameMatcher{Value: text, Regexp: true})
		}
		return f
	}
	parcaFilter := func(q question) (out []*queryv1alpha1.Filter) {
		for _, text := range q.keep {
			out = append(out, &queryv1alpha1.Filter{Filter: &queryv1alpha1.Filter_StackFilter{StackFilter: &queryv1alpha1.StackFilter{Filter: &queryv1alpha1.StackFilter_Criteria{
				Criteria: &queryv1alpha1.FilterCriteria{FunctionName: &queryv1alpha1.StringCondition{Condition: &queryv1alpha1.StringCondition_Contains{Contains: text}}}}}}})
		}
		return out
	}
	stacktraces := func(q question) *querierv1.SelectMergeStacktracesRequest {
		all := int64(math.MaxInt64)
		site := &typesv1.StackTraceSelector{}
		for _, name := range q.site {
			site.CallSite = append(site.CallSite, &typesv1.Location{Name: name})
		}
		return &querierv1.SelectMergeStacktracesRequest{ProfileTypeID: q.typ, LabelSelector: q.selector, Start: millis(q.start), End: millis(q.end), MaxNodes: &all,
			SpanSelector: q.spans, StackTraceSelector: site}
	}
	merge := func(q question) *queryv1alpha1.MergeProfile {
		return &queryv1alpha1.MergeProfile{Query: q.typ + q.selector, Start: stamp(q.start), End: stamp(q.end)}
	}
	whole := proto.Float32(-1)
	render := func(path string, sides ...string) func(q question) error {
		return func(q question) error {
			in := url.Values{"max-nodes": {"-1"}}
			for _, side := range sides {
				names := []string{side + "Query", side + "From", side + "Until"}
				if side == "" {
					names = []string{"query", "from", "until"}
				}
				in.Set(names[0], q.typ+q.selector)
				if !q.start.IsZero() {
					in.Set(names[1], fmt.Sprint(millis(q.start)))
					in.Set(names[2], fmt.Sprint(millis(q.end)))
				}
			}
			status, body := s.get(t, path+"?"+in.Encode())
			if status == http.StatusOK {
				return nil
			}
			var e struct{ Code, Message string }
			var code connect.Code
			if err := errors.Join(json.Unmarshal([]byte(body), &e), code.UnmarshalText([]byte(e.Code))); err != nil {
				t.Fatalf("%d %s: %v", status, body, err)
			}
			return connect.NewError(code, errors.New(e.Message))
		}
	}
	discard := func(_ any, err error) error { return err }
	return []asker{
		{"FlameGraph", "type by spans site keep", func(q question) error {
			return discard(own.FlameGraph(ctx, &queryv1.FlameGraphRequest{Selection: selection(q), GroupBy: q.by, Filter: filter(q), MinShare: -1}))
		}},
		{"Top", "type spans site keep", func(q question) error {
			return discard(own.Top(ctx, &queryv1.TopRequest{Selection: selection(q), Filter: filter(q)}))
		}},
		{"Export", "type spans site keep", func(q question) error {
			return discard(own.Export(ctx, &queryv1.ExportRequest{Selection: selection(q), Filter: filter(q), Format: queryv1.ExportFormat_EXPORT_FORMAT_FOLDED}))
		}},
		{"Diff", "type spans site keep", func(q question) error {
			return discard(own.Diff(ctx, &queryv1.DiffRequest{Before: selection(q), After: selection(q), Filter: filter(q), MinShare: -1}))
		}},
		{"DiffTop", "type spans site keep", func(q question) error {
			return discard(own.DiffTop(ctx, &queryv1.DiffTopRequest{Before: selection(q), After: selection(q), Filter: filter(q)}))
		}},
		{"Exemplars", "type by step spans site keep", func(q question) error {
			return discard(own.Exemplars(ctx, &queryv1.ExemplarsRequest{Selection: selection(q), GroupBy: q.by, StepNano: int64(q.step), Filter: filter(q)}))
		}},
		{"Lines", "type spans site keep", func(q question) error {
			return discard(own.Lines(ctx, &queryv1.LinesRequest{Selection: selection(q), Function: "work", Filter: filter(q)}))
		}},
		{"Sandwich", "type spans site keep", func(q question) error {
			return discard(own.Sandwich(ctx, &queryv1.SandwichRequest{Selection: selection(q), Function: "work", Filter: filter(q), MinShare: -1}))
		}},
		{"Series", "type by step spans site keep", func(q question) error {
			return discard(own.Series(ctx, &queryv1.SeriesRequest{Selection: selection(q), GroupBy: q.by, StepNano: int64(q.step), Filter: filter(q)}))
		}},
		{"LabelNames", "", func(q question) error {
			return discard(own.LabelNames(ctx, &queryv1.LabelNamesRequest{Selection: selection(q)}))
		}},
		{"LabelValues", "label", func(q question) error {
			return discard(own.LabelValues(ctx, &queryv1.LabelValuesRequest{Selection: selection(q), Name: q.label}))
		}},
		{"Labels", "", func(q question) error {
			return discard(own.Labels(ctx, &queryv1.LabelsRequest{Selection: selection(q)}))
		}},

		{"Pyroscope's SelectMergeStacktraces", "type spans site nodes", func(q question) error {
			return discard(toPyroscope.SelectMergeStacktraces(ctx, stacktraces(q)))
		}},
		{"Pyroscope's Diff", "type spans site nodes", func(q question) error {
			return discard(toPyroscope.Diff(ctx, &querierv1.DiffRequest{Left: stacktraces(q), Right: stacktraces(q)}))
		}},
		{"Pyroscope's SelectMergeProfile", "type site", func(q question) error {
			in := stacktraces(q)
			return discard(toPyroscope.SelectMergeProfile(ctx, &querierv1.SelectMergeProfileRequest{ProfileTypeID: in.ProfileTypeID, LabelSelector: in.LabelSelector,
				Start: in.Start, End: in.End, StackTraceSelector: in.StackTraceSelector}))
		}},
		{"Pyroscope's SelectSeries", "type by step", func(q question) error {
			return discard(toPyroscope.SelectSeries(ctx, &querierv1.SelectSeriesRequest{ProfileTypeID: q.typ, LabelSelector: q.selector, Start: millis(q.start), End: millis(q.end),
				GroupBy: q.by, Step: q.step.Seconds()}))
		}},
		{"Pyroscope's LabelNames", "", func(q question) error {
			return discard(toPyroscope.LabelNames(ctx, &typesv1.LabelNamesRequest{Matchers: []string{q.selector}, Start: millis(q.start), End: millis(q.end)}))
		}},
		{"Pyroscope's LabelValues", "label", func(q question) error {
			return discard(toPyroscope.LabelValues(ctx, &typesv1.LabelValuesRequest{Matchers: []string{q.selector}, Start: millis(q.start), End: millis(q.end), Name: q.label}))
		}},
		{"Pyroscope's Series", "", func(q question) error {
			return discard(toPyroscope.Series(ctx, &querierv1.SeriesRequest{Matchers: []string{q.selector}, Start: millis(q.start), End: millis(q.end)}))
		}},
		{"/pyroscope/render", "type nodes", render("/pyroscope/render", "")},
		{"/pyroscope/render-diff", "type nodes", render("/pyroscope/render-diff", "left", "right")},

		{"Parca's Query", "type nodes keep", func(q question) error {
			return discard(toParca.Query(ctx, &queryv1alpha1.QueryRequest{Mode: queryv1alpha1.QueryRequest_MODE_MERGE, NodeTrimThreshold: whole,
				Filter: parcaFilter(q), Options: &queryv1alpha1.QueryRequest_Merge{Merge: merge(q)}, ReportType: queryv1alpha1.QueryRequest_REPORT_TYPE_FLAMEGRAPH_ARROW}))
		}},
		{"Parca's Query for a diff", "type nodes", func(q question) error {
			side := &queryv1alpha1.ProfileDiffSelection{Mode: queryv1alpha1.ProfileDiffSelection_MODE_MERGE, Options: &queryv1alpha1.ProfileDiffSelection_Merge{Merge: merge(q)}}
			return discard(toParca.Query(ctx, &queryv1alpha1.QueryRequest{Mode: queryv1alpha1.QueryRequest_MODE_DIFF, NodeTrimThreshold: whole,
				Options:    &queryv1alpha1.QueryRequest_Diff{Diff: &queryv1alpha1.DiffProfile{A: side, B: side}},
				ReportType: queryv1alpha1.QueryRequest_REPORT_TYPE_FLAMEGRAPH_ARROW}))
		}},
		{"Parca's QueryRange", "type by step", func(q question) error {
			return discard(toParca.QueryRange(ctx, &queryv1alpha1.QueryRangeRequest{Query: q.typ + q.selector, Start: stamp(q.start), End: stamp(q.end), SumBy: q.by, Step: durationpb.New(q.step)}))
		}},
		{"Parca's Labels", "", func(q question) error {
			return discard(toParca.Labels(ctx, &queryv1alpha1.LabelsRequest{Match: []string{q.selector}, Start: stamp(q.start), End: stamp(q.end)}))
		}},
		{"Parca's Values", "label", func(q question) error {
			return discard(toParca.Values(ctx, &queryv1alpha1.ValuesRequest{LabelName: q.label, Match: []string{q.selector}, Start: stamp(q.start), End: stamp(q.end)}))
		}},
	}
}

func numbered(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprint("name", i)
	}
	return out
}

// TestBadQuestions asks the same bad question by every procedure of every door that can be asked it: the code is the same
// everywhere, and so is what the words point at.
func TestBadQuestions(t *testing.T) {
	s := start(t, Options{})
	if _, err := otlp(t, s.Addr()).Export(t.Context(), request("web", 4)); err != nil {
		t.Fatal(err)
	}
	all := askers(t, s)
	const invalid, limit = connect.CodeInvalidArgument, connect.CodeResourceExhausted
	from := testTime.Truncate(time.Second).UTC().Add(-time.Hour)
	until := from.Add(2 * time.Hour)
	base := func(change func(*question)) question {
		q := question{typ: "cpu", selector: `{service_name="web"}`, start: from, end: until, label: "service_name"}
		change(&q)
		return q
	}
	for _, c := range []struct {
		name   string
		change func(*question)
		needs  string // what of a question a procedure has to have
		code   connect.Code
		want   string
	}{
		{"good", func(*question) {}, "", noError, ""},
		{"good, of all times", func(q *question) { q.start, q.end = time.Time{}, time.Time{} }, "", noError, ""},

		{"a comma is missing", func(q *question) { q.selector = `{service_name="web" pod="a"}` }, "", invalid,
			"parsing selector at column 21: want ',' or '}' here\n  {service_name=\"web\" pod=\"a\"}\n                      ^"},
		{"an operator of its own", func(q *question) { q.selector = `{service_name=="web"}` }, "", invalid, "parsing selector at column 15: want a quoted value, as in service_name=\"value\""},
		{"a quote is missing", func(q *question) { q.selector = `{service_name="web}` }, "", invalid, "parsing selector at column 15: want a quoted value"},
		{"a brace is missing", func(q *question) { q.selector = `{service_name="web"` }, "", invalid, "parsing selector at column 20: want ',' or '}' here"},
		{"something behind it", func(q *question) { q.selector = `{service_name="web"} or {}` }, "", invalid, "parsing selector at column 22: nothing may follow the selector"},
		{"a comma is missing in a long one", func(q *question) { q.selector = `{pod=~"` + strings.Repeat("pod|", 1000) + `" node="b"}` }, "", invalid,
			"parsing selector at column 4010: want ',' or '}' here\n  …"},
		{"no regular expression", func(q *question) { q.selector = `{pod=~"("}` }, "", invalid, "parsing the regular expression for label pod"},
		{"a long one that is none", func(q *question) { q.selector = `{pod=~"` + strings.Repeat("(pod|", 1000) + `"}` }, "", invalid, "missing closing )"},
		{"a regular expression that repeats too much", func(q *question) { q.selector = `{pod=~"(a{1000}){1000}"}` }, "", invalid, "invalid repeat count"},
		{"a regular expression that is too large", func(q *question) { q.selector = `{pod=~"` + strings.Repeat(`\\pL`, 3000) + `"}` }, "", limit,
			"the selector has 12009 bytes: limit selector_bytes is 8192 (to change it: limits.selector_bytes in the configuration file, or PERFUSE_LIMITS_SELECTOR_BYTES)"},

		{"an unknown type", func(q *question) { q.typ = "walltime" }, "type", connect.CodeNotFound, "profile type \"walltime\" is unknown, there are\n  process_cpu:cpu:nanoseconds:cpu:nanoseconds"},
		{"a long unknown type", func(q *question) { q.typ = strings.Repeat("walltime", 1000) }, "type", connect.CodeNotFound, "is unknown, there are"},
		{"an ambiguous type", func(q *question) { q.typ = "process_cpu" }, "type", invalid, "profile type \"process_cpu\" is ambiguous, it could be one of\n"},
		{"no type", func(q *question) { q.typ = "" }, "type", invalid, "profile type"},

		{"an end before its start", func(q *question) { q.start, q.end = q.end, q.start }, "", invalid,
			"the time range ends (" + from.Format(time.RFC3339) + ") before it begins (" + until.Format(time.RFC3339) + ")"},
		{"an end at its start", func(q *question) { q.end = q.start }, "", invalid, "the time range ends"},

		{"a step below zero", func(q *question) { q.step = -time.Second }, "step", invalid, "step"},
		{"a step of a nanosecond", func(q *question) { q.step = 1 }, "step", limit, "steps of 1ns; ask for wider steps or less time: limit series_points is 11000"},
		{"a step of a thousand days", func(q *question) { q.step = 1000 * 24 * time.Hour }, "step", noError, ""},

		{"many names to group by", func(q *question) { q.by = numbered(64) }, "by", noError, ""},
		{"a thousand names to group by", func(q *question) { q.by = numbered(1000) }, "by", limit, "_by has 1000 entries: limit labels_per_series is 64"},
		{"an empty name to group by", func(q *question) { q.by = []string{"pod", ""} }, "by", invalid, "_by has an empty name: want names of labels"},
		{"a name to group by twice", func(q *question) { q.by = []string{"pod", "node", "pod"} }, "by", invalid, "_by has pod twice"},

		{"a span that is no id", func(q *question) { q.spans = []string{"9a517183f26a089d", "9A5"} }, "spans", invalid, `[1] is "9A5": want 16 hexadecimal digits`},
		{"the span of zeros", func(q *question) { q.spans = []string{"0000000000000000"} }, "spans", invalid, "not all of them 0"},
		{"spans without end", func(q *question) { q.spans = numbered(10_001) }, "spans", limit, "has 10001 entries: limit query_terms is 10000"},
		{"a call site without end", func(q *question) { q.site = numbered(10_001) }, "site", limit, "call_site has 10001 entries: limit query_terms is 10000"},
		{"a filter", func(q *question) { q.keep = []string{"work"} }, "keep", noError, ""},
		{"a filter that is too large", func(q *question) { q.keep = []string{"work", strings.Repeat("work", 300)} }, "keep", limit, "limit pattern_bytes is 1024"},
		{"filters without end", func(q *question) { q.keep = numbered(100) }, "keep", invalid, "100 conditions: want at most"},
		{"a label without a name", func(q *question) { q.label = "" }, "label", invalid, "name is empty: want a label's name"},
	} {
		asked := 0
		for _, a := range all {
			if slices.ContainsFunc(strings.Fields(c.needs), func(part string) bool { return !a.has(part) }) {
				continue
			}
			asked++
			t.Run(c.name+"/"+a.name, func(t *testing.T) {
				err := a.ask(base(c.change))
				code := noError
				if err != nil {
					code = connect.CodeOf(err)
				}
				if code != c.code || err != nil && !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want %s with %q", err, c.code, c.want)
				}
				if err != nil && len(err.Error()) > 2000 { // it travels in a header
					t.Errorf("%d bytes of error", len(err.Error()))
				}
			})
		}
		if asked == 0 {
			t.Errorf("%s: nobody was asked", c.name)
		}
	}

	small := start(t, Options{Limits: limits.Limits{FlameNodes: 2}})
	if _, err := otlp(t, small.Addr()).Export(t.Context(), request("web", 4)); err != nil {
		t.Fatal(err)
	}
	for _, a := range askers(t, small) {
		if err := a.ask(base(func(*question) {})); a.has("nodes") && (connect.CodeOf(err) != limit || !strings.Contains(err.Error(), "limit flame_nodes is 2")) {
			t.Errorf("%s: more nodes than may be: %v", a.name, err)
		}
	}

	// What one door alone can be asked.
	for _, c := range []struct {
		params, want string
		status       int
	}{
		{"query=cpu{}&from=-5", "from:", 400},
		{"query=cpu{}&from=yesterday", `"yesterday\" is no time: want now, now-1h`, 400},
		{"query=cpu{}&until=now-999999999y", "is no time", 400},
		{"query=cpu{}&max-nodes=99999999999999999999", `max-nodes is \"99999999999999999999\": want a whole number`, 400},
		{"query=cpu{}&max-nodes=1e3", "max-nodes", 400},
		{"query=cpu{}&format=svg", "served are json, pprof and dot", 501},
		{"query=%zz", "reading the parameters", 400},
		{"", "want a profile type and a selector", 400},
	} {
		if status, body := s.get(t, "/pyroscope/render?"+c.params); status != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %s, want %d with %s", c.params, status, body, c.status, c.want)
		}
	}
	for _, share := range []float64{1, 2, math.NaN(), math.Inf(1)} {
		_, err := s.query().FlameGraph(t.Context(), &queryv1.FlameGraphRequest{Selection: &queryv1.Selection{ProfileType: "cpu"}, MinShare: share})
		if connect.CodeOf(err) != invalid || !strings.Contains(err.Error(), "min_share is") {
			t.Errorf("a share of %g: %v", share, err)
		}
	}
}

// TestBadMessages sends what is no question to every service that answers, in every protocol: each is refused with the same
// code and a word on what is wrong, at a bounded cost of memory, and answers a good question after it.
func TestBadMessages(t *testing.T) {
	s := start(t, Options{OTLPAddresses: []string{"127.0.0.1:0"}})
	if _, err := otlp(t, s.Addr()).Export(t.Context(), request("web", 4)); err != nil {
		t.Fatal(err)
	}
	const invalid, limit, unserved = connect.CodeInvalidArgument, connect.CodeResourceExhausted, connect.CodeUnimplemented
	services := map[string]struct {
		method string
		good   proto.Message
	}{
		"perfuse.query.v1.QueryService": {"FlameGraph", &queryv1.FlameGraphRequest{Selection: &queryv1.Selection{ProfileType: "cpu"}}},
		"querier.v1.QuerierService":     {"SelectMergeStacktraces", &querierv1.SelectMergeStacktracesRequest{ProfileTypeID: "cpu"}},
		"parca.query.v1alpha1.QueryService": {"Query", &queryv1alpha1.QueryRequest{Mode: queryv1alpha1.QueryRequest_MODE_MERGE,
			Options: &queryv1alpha1.QueryRequest_Merge{Merge: &queryv1alpha1.MergeProfile{Query: "cpu{}"}}, ReportType: queryv1alpha1.QueryRequest_REPORT_TYPE_FLAMEGRAPH_ARROW}},
		"perfuse.debuginfo.v1.DebuginfoService": {"Wanted", &debuginfov1.WantedRequest{BuildIds: []string{"c0ffee"}}},
	}
	for service, of := range services {
		for _, p := range []protocol{overGRPC, overGRPCWeb, overConnect, overConnectJSON} {
			good, err := proto.Marshal(of.good)
			if p.contentType == "application/json" {
				good, err = protojson.Marshal(of.good)
			}
			if err != nil {
				t.Fatal(err)
			}
			w := &wire{service, "/" + service + "/" + of.method, p, good}
			f := func(name string, wantCode connect.Code, want, encoding string, message []byte) {
				t.Run(w.String()+"/"+name, func(t *testing.T) {
					peak := watchHeap(t)
					var headers []string
					if encoding != "" {
						headers = []string{p.encodingHeader, encoding}
					}
					code, text := w.send(t, s, w.body(message, encoding != ""), headers...)
					if code != wantCode || !strings.Contains(text, want) {
						t.Errorf("%s %q, want %s with %q", code, text, wantCode, want)
					}
					if grown := peak(); grown > 64<<20 {
						t.Errorf("the heap grew by %d MiB", grown>>20)
					}
				})
			}
			f("garbage", invalid, "unmarshal", "", []byte("\xff\xff\xff\xffgarbage\x00\x01"))
			f("not gzip", invalid, "gzip", "gzip", append(bytes.Clone(good), "nothing"...))
			f("a gzip bomb", limit, "limit query_bytes is 1048576", "gzip", bomb(t, "gzip")[:1<<19])
			f("a zstd bomb", limit, "limit query_bytes is 1048576", "zstd", bomb(t, "zstd"))
			f("too large", limit, "limit query_bytes is 1048576", "", bytes.Repeat([]byte(" "), 2<<20))
			f("an encoding that nobody speaks", unserved, "snappy", "snappy", good)
			for _, path := range []string{"/" + service + "/Nothing", "/" + service + "/", "/" + service + ".v2/" + of.method} {
				other := *w
				other.path = path
				if code, text := other.send(t, s, w.body(good, false)); code != unserved || !strings.Contains(text, "is not served") {
					t.Errorf("%s: %s %q", path, code, text)
				}
			}
			if of.method != "Wanted" { // this server keeps no debug information
				f("a good question", noError, "", "", good)
			}
		}
	}
	onPort := &running{url: "http://" + s.OTLPAddrs()[0]}
	traces := &wire{"", "/opentelemetry.proto.collector.trace.v1.TraceService/Export", overGRPC, nil}
	if code, text := traces.send(t, onPort, traces.body(nil, false)); code != unserved || !strings.Contains(text, traces.path+" is not served") {
		t.Errorf("traces for OTLP's port: %s %q", code, text)
	}
	for _, path := range []string{"/push.v1.PusherService/Nothing", "/parca.profilestore.v1alpha1.ProfileStoreService/Nothing", "/parca.debuginfo.v1alpha1.DebuginfoService/ShouldInitiateUpload"} {
		for _, p := range []protocol{overGRPC, overGRPCWeb, overConnect, overConnectJSON} {
			w := &wire{"", path, p, nil}
			if code, text := w.send(t, s, w.body(nil, false)); code != unserved || !strings.Contains(text, path+" is not served") {
				t.Errorf("%s by %s: %s %q", path, p.name, code, text)
			}
		}
	}
	if _, metrics := s.get(t, "/metrics"); !strings.Contains(metrics, "perfuse_server_panics_total 0\n") {
		t.Error("something panicked")
	}
}
