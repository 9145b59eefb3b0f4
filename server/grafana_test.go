package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/cockroachdb/datadriven"
	"github.com/klauspost/compress/gzip"
	"github.com/perfuse/perfuse/profile"
	googlev1 "github.com/perfuse/perfuse/proto/google/v1"
	queryv1alpha1 "github.com/perfuse/perfuse/proto/parca/query/v1alpha1"
	"github.com/perfuse/perfuse/proto/parca/query/v1alpha1/queryv1alpha1connect"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	querierv1 "github.com/perfuse/perfuse/proto/querier/v1"
	"github.com/perfuse/perfuse/proto/querier/v1/querierv1connect"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/storage/storagetest"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// TestGrafana replays what Grafana's stock datasources send, byte for byte, and reads the answers as they do.
// The bodies were written by the peers' own clients (grafana/pyroscope/api v1.6.0, @parca/client 0.17.24). Times are
// seconds since the epoch.
//
//	load type=T labels=(name=value, …) time=S [for=S] [span=ID]   store folded text
//	limits flame_nodes=N answer_values=N                          begin anew with these limits
//	connect PATH                                                  post hex as the Pyroscope datasource does
//	grpcweb PATH                                                  post hex as the Parca datasource does
//	json PATH                                                     post JSON as Profiles Drilldown does
//	get PATH                                                      ask by GET
//
// What is sent is shown as our own protos read it. Flame graphs are shown as the datasources hand them on: a line
// a node with its value and its own; they must have the totals of our own API's, path by path.
func TestGrafana(t *testing.T) {
	datadriven.Walk(t, "testdata/grafana", func(t *testing.T, path string) {
		g := &grafana{}
		g.begin(t, limits.Limits{})
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "load":
				return g.load(t, d)
			case "limits":
				var lim limits.Limits
				d.MaybeScanArgs(t, "flame_nodes", &lim.FlameNodes)
				d.MaybeScanArgs(t, "answer_values", &lim.AnswerValues)
				g.begin(t, lim)
				return ""
			case "connect", "grpcweb":
				return g.rpc(t, d.CmdArgs[0].Key, strings.Join(strings.Fields(d.Input), ""), d.Cmd == "grpcweb")
			case "json":
				return g.json(t, d.CmdArgs[0].Key, d.Input)
			case "get":
				return g.ask(t, strings.Join(strings.Fields(d.Input), ""))
			}
			d.Fatalf(t, "unknown command %s", d.Cmd)
			return ""
		})
	})
}

// TestGrafanaProtocols: both services answer in every protocol, errors too.
func TestGrafanaProtocols(t *testing.T) {
	s := start(t, Options{})
	if _, err := otlp(t, s.Addr()).Export(t.Context(), request("web", 4)); err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string][]connect.ClientOption{
		"Connect": nil, "JSON": {connect.WithProtoJSON()}, "gRPC": {connect.WithGRPC()}, "gRPC-web": {connect.WithGRPCWeb()}, "gzip": {connect.WithSendGzip()},
	} {
		client := http.DefaultClient
		if name == "gRPC" {
			client = h2c()
		}
		toPyroscope := querierv1connect.NewQuerierServiceClient(client, s.url, opts...)
		graph, err := toPyroscope.SelectMergeStacktraces(t.Context(), &querierv1.SelectMergeStacktracesRequest{ProfileTypeID: "samples", LabelSelector: `{service_name="web"}`})
		if err != nil || graph.Flamegraph.Total != 6 {
			t.Errorf("%s: %v, %v", name, graph, err)
		}
		if _, err := toPyroscope.Diff(t.Context(), &querierv1.DiffRequest{}); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%s: a diff of nothing: %v", name, err)
		}
		toParca := queryv1alpha1connect.NewQueryServiceClient(client, s.url, opts...)
		report, err := toParca.Query(t.Context(), &queryv1alpha1.QueryRequest{
			Mode: queryv1alpha1.QueryRequest_MODE_MERGE, Options: &queryv1alpha1.QueryRequest_Merge{Merge: &queryv1alpha1.MergeProfile{Query: `samples{service_name="web"}`}},
			ReportType: queryv1alpha1.QueryRequest_REPORT_TYPE_FLAMEGRAPH_ARROW,
		})
		if err != nil || report.Total != 6 {
			t.Errorf("%s: %v, %v", name, report, err)
		}
		if _, err := toParca.Query(t.Context(), &queryv1alpha1.QueryRequest{Mode: 77}); connect.CodeOf(err) != connect.CodeUnimplemented {
			t.Errorf("%s: an unknown mode: %v", name, err)
		}
	}
}

// grafana is a server with what was loaded.
type grafana struct {
	store *storagetest.Model
	*running
}

func (g *grafana) begin(t *testing.T, lim limits.Limits) {
	g.store = &storagetest.Model{}
	store := g.store
	g.running = start(t, Options{Limits: lim, Open: func(context.Context) (Backends, error) { return Backends{Store: store}, nil }})
	g.awaitReady(t)
}

func (g *grafana) load(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	var typ, span string
	var at, duration int64
	d.ScanArgs(t, "type", &typ)
	d.ScanArgs(t, "time", &at)
	d.MaybeScanArgs(t, "for", &duration)
	d.MaybeScanArgs(t, "span", &span)
	pt, err := profile.ParseType(typ)
	if err != nil {
		d.Fatalf(t, "%v", err)
	}
	var ls []profile.Label
	for _, a := range d.CmdArgs {
		for _, v := range a.Vals {
			if name, value, ok := strings.Cut(v, "="); ok && a.Key == "labels" {
				ls = append(ls, profile.Label{Name: name, Value: value})
			}
		}
	}
	b, err := profile.ParseFolded(strings.NewReader(d.Input), pt, profile.NewLabels(ls...))
	if err != nil {
		d.Fatalf(t, "%v", err)
	}
	p := &b.Profiles[0]
	p.TimeNanos, p.DurationNanos = at*1e9, duration*1e9
	if span != "" {
		var link profile.Link
		if _, err := hex.Decode(link.SpanID[:], []byte(span)); err != nil {
			d.Fatalf(t, "%v", err)
		}
		for i := range p.Samples {
			p.Samples[i].Link = b.Dictionary.Link(link)
		}
	}
	if err := g.store.Write(t.Context(), b); err != nil {
		d.Fatalf(t, "%v", err)
	}
	return ""
}

// rpc sends a body and shows what it means and what comes back.
func (g *grafana) rpc(t *testing.T, path, body string, web bool) string {
	t.Helper()
	raw, err := hex.DecodeString(body)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	method := methodOf(path)
	var req proto.Message
	if method != nil {
		req = newMessage(t, method.Input())
		message := raw
		if web {
			message = raw[5:]
		}
		if err := proto.Unmarshal(message, req); err != nil {
			t.Fatal(err)
		}
		out.WriteString(compact(t, req) + "\n")
	}
	status, header, answer := g.send(t, path, raw, web)
	if _, _, again := g.send(t, path, raw, web); !bytes.Equal(answer, again) {
		t.Errorf("%s: the same question has two answers:\n%x\n%x", path, answer, again)
	}
	if web {
		message, code, text := unframe(t, header, answer)
		if code != "0" {
			return out.String() + fmt.Sprintf("grpc-status %s: %s\n", code, text)
		}
		answer = message
	} else if status != http.StatusOK {
		return out.String() + failure(t, status, answer)
	}
	resp := newMessage(t, method.Output())
	if err := proto.Unmarshal(answer, resp); err != nil {
		t.Fatal(err)
	}
	return out.String() + g.show(t, req, resp)
}

// json sends JSON and shows what it means here and what comes back.
func (g *grafana) json(t *testing.T, path, body string) string {
	t.Helper()
	method := methodOf(path)
	req, resp := newMessage(t, method.Input()), newMessage(t, method.Output())
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal([]byte(body), req); err != nil {
		t.Fatal(err)
	}
	status, answer := g.post(t, path, strings.NewReader(body), "Content-Type", "application/json")
	if status != http.StatusOK {
		return compact(t, req) + "\n" + failure(t, status, []byte(answer))
	}
	if err := protojson.Unmarshal([]byte(answer), resp); err != nil {
		t.Fatal(err)
	}
	return compact(t, req) + "\n" + g.show(t, req, resp)
}

func (g *grafana) send(t *testing.T, path string, body []byte, web bool) (status int, header http.Header, answer []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.url+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"User-Agent": {"connect-go/1.19.2 (go1.26.8)"}}
	if web {
		req.Header.Set("Accept-Encoding", "identity")
		req.Header.Set("Content-Type", "application/grpc-web+proto")
		req.Header.Set("Grpc-Accept-Encoding", "gzip")
		req.Header.Set("X-User-Agent", "connect-go/1.19.2 (go1.26.8)")
	} else {
		req.Header.Set("Accept-Encoding", "gzip")
		req.Header.Set("Connect-Protocol-Version", "1")
		req.Header.Set("Content-Type", "application/proto")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.Header.Get("Content-Encoding") == "gzip" {
		return resp.StatusCode, resp.Header, gunzip(t, resp.Body)
	}
	if answer, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, answer
}

func gunzip(t *testing.T, r io.Reader) []byte {
	t.Helper()
	z, err := gzip.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// ask gets a path and shows the answer: JSON compactly, a pprof as folded text, flame graphs as trees.
func (g *grafana) ask(t *testing.T, path string) string {
	t.Helper()
	status, body := g.get(t, path)
	if _, again := g.get(t, path); body != again {
		t.Errorf("%s: the same question has two answers:\n%s\n%s", path, body, again)
	}
	if status != http.StatusOK {
		return failure(t, status, []byte(body))
	}
	if strings.HasPrefix(body, "\x1f\x8b") {
		return folded(t, []byte(body))
	}
	if !strings.HasPrefix(body, "{") {
		return body
	}
	var bearer struct {
		Flamebearer struct {
			Names  []string
			Levels [][]int64
		}
		Metadata struct{ Format string }
	}
	if err := json.Unmarshal([]byte(body), &bearer); err != nil {
		t.Fatal(err)
	}
	sides := 1
	if bearer.Metadata.Format == "double" {
		sides = 2
	}
	bars := readLevels(t, bearer.Flamebearer.Names, bearer.Flamebearer.Levels, sides)
	if sides == 1 {
		in, err := url.ParseQuery(path[strings.Index(path, "?")+1:])
		if err != nil {
			t.Fatal(err)
		}
		typ, selector, _ := strings.Cut(in.Get("query"), "{")
		g.compare(t, bars, &queryv1.Selection{ProfileType: typ, Selector: "{" + selector})
	}
	return body + "\n" + tree(bars, sides)
}

func failure(t *testing.T, status int, body []byte) string {
	t.Helper()
	var e struct{ Code, Message string }
	if err := json.Unmarshal(body, &e); err != nil {
		t.Fatalf("%d %s", status, body)
	}
	return fmt.Sprintf("%d %s: %s\n", status, e.Code, e.Message)
}

// methodOf finds the procedure of a path among all that are linked in; nil if there is none.
func methodOf(path string) protoreflect.MethodDescriptor {
	service, name, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return nil
	}
	return d.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(name))
}

func newMessage(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	mt, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return mt.New().Interface()
}

func compact(t *testing.T, m proto.Message) string {
	t.Helper()
	b, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer // protojson varies its spaces on purpose
	if err := json.Compact(&out, b); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// unframe reads a gRPC-web answer: a message, and the trailers as a frame of their own or among the headers.
func unframe(t *testing.T, header http.Header, body []byte) (message []byte, code, text string) {
	t.Helper()
	trailers := header
	for len(body) > 0 {
		if len(body) < 5 || len(body)-5 < int(binary.BigEndian.Uint32(body[1:])) {
			t.Fatalf("a frame ends early: %x", body)
		}
		frame := body[5 : 5+binary.BigEndian.Uint32(body[1:])]
		length := 5 + len(frame)
		if body[0]&1 != 0 {
			frame = gunzip(t, bytes.NewReader(frame))
		}
		if body[0]&0x80 == 0 {
			message = frame
		} else {
			trailers = http.Header{}
			for _, line := range strings.Split(strings.TrimSpace(string(frame)), "\r\n") {
				name, value, _ := strings.Cut(line, ":")
				trailers.Set(name, strings.TrimSpace(value))
			}
		}
		body = body[length:]
	}
	text, err := url.PathUnescape(trailers.Get("Grpc-Message"))
	if err != nil {
		t.Fatal(err)
	}
	return message, trailers.Get("Grpc-Status"), text
}

func folded(t *testing.T, pprof []byte) string {
	t.Helper()
	b, err := profile.ReadPprof(bytes.NewReader(pprof), profile.PprofOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for i := range b.Profiles {
		fmt.Fprintf(&out, "%s\n", b.Profiles[i].Type)
		if err := profile.WriteFolded(&out, b, &b.Profiles[i]); err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

func (g *grafana) show(t *testing.T, req, resp proto.Message) string {
	t.Helper()
	switch r := resp.(type) {
	case *googlev1.Profile:
		b, err := proto.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return folded(t, b)
	case *querierv1.SelectMergeStacktracesResponse:
		if r.Flamegraph == nil {
			break
		}
		in := req.(*querierv1.SelectMergeStacktracesRequest)
		bars := readLevels(t, r.Flamegraph.Names, levelValues(r.Flamegraph.Levels), 1)
		if in.StackTraceSelector == nil && len(in.SpanSelector)+len(in.TraceIdSelector) == 0 && !strings.Contains(in.LabelSelector, "__profile_type__") {
			g.compare(t, bars, &queryv1.Selection{ProfileType: in.ProfileTypeID, Selector: in.LabelSelector, StartUnixNano: in.Start * 1e6, EndUnixNano: in.End * 1e6})
		}
		return fmt.Sprintf("total %d, max self %d\n%s", r.Flamegraph.Total, r.Flamegraph.MaxSelf, tree(bars, 1))
	case *querierv1.SelectMergeSpanProfileResponse:
		return tree(readLevels(t, r.Flamegraph.Names, levelValues(r.Flamegraph.Levels), 1), 1)
	case *querierv1.DiffResponse:
		f := r.Flamegraph
		return fmt.Sprintf("total %d, left %d, right %d, max self %d\n%s", f.Total, f.LeftTicks, f.RightTicks, f.MaxSelf,
			tree(readLevels(t, f.Names, levelValues(f.Levels), 2), 2))
	case *queryv1alpha1.QueryResponse:
		switch report := r.Report.(type) {
		case *queryv1alpha1.QueryResponse_Pprof:
			return folded(t, report.Pprof)
		case *queryv1alpha1.QueryResponse_FlamegraphArrow:
			bars, diffs := readArrow(t, report.FlamegraphArrow.Record)
			if in := req.(*queryv1alpha1.QueryRequest).GetMerge(); in != nil && r.Filtered == 0 {
				typ, selector, _ := strings.Cut(in.Query, "{")
				sel := &queryv1.Selection{ProfileType: typ, Selector: "{" + selector}
				if in.Start != nil {
					sel.StartUnixNano, sel.EndUnixNano = in.Start.AsTime().UnixNano(), in.End.AsTime().UnixNano()
				}
				g.compare(t, bars, sel)
			}
			return fmt.Sprintf("total %d, filtered %d, unit %s, height %d\n%s%s", r.Total, r.Filtered, report.FlamegraphArrow.Unit, report.FlamegraphArrow.Height, tree(bars, 1), diffs)
		}
	}
	return compact(t, resp) + "\n"
}

func levelValues(levels []*querierv1.Level) (out [][]int64) {
	for _, l := range levels {
		out = append(out, l.Values)
	}
	return out
}

// bar is a node as the datasources hand it on, in order of a depth-first walk.
type bar struct {
	name        string
	level       int
	value, self [2]int64
}

func tree(bars []bar, sides int) string {
	var out strings.Builder
	for _, b := range bars {
		fmt.Fprintf(&out, "%s%s", strings.Repeat("  ", b.level), b.name)
		for side := range sides {
			fmt.Fprintf(&out, " %d/%d", b.value[side], b.self[side])
		}
		out.WriteByte('\n')
	}
	return out.String()
}

// readLevels finds each bar's parent as the Pyroscope datasource does: on the level above, the first that spans the
// bar, beginning with the parent of the bar before it.
func readLevels(t *testing.T, names []string, levels [][]int64, sides int) []bar {
	t.Helper()
	type node struct {
		bar
		start    [2]int64
		children []*node
	}
	spans := func(p, n *node) bool {
		for side := range sides {
			if n.start[side] < p.start[side] || n.start[side]+n.value[side] > p.start[side]+p.value[side] {
				return false
			}
		}
		return true
	}
	root := &node{} // above the first level, as wide as anything
	root.value = [2]int64{math.MaxInt64, math.MaxInt64}
	above := []*node{root}
	for level, values := range levels {
		var here []*node
		var end [2]int64
		parent := 0
		for bars := range slices.Chunk(values, 3*sides+1) {
			n := &node{bar: bar{name: names[bars[3*sides]], level: level}}
			for side := range sides {
				n.start[side], n.value[side], n.self[side] = end[side]+bars[3*side], bars[3*side+1], bars[3*side+2]
				end[side] = n.start[side] + n.value[side]
			}
			for parent < len(above) && !spans(above[parent], n) {
				parent++
			}
			if parent == len(above) {
				t.Fatalf("no bar on the level above spans %+v", n.bar)
			}
			above[parent].children = append(above[parent].children, n)
			here = append(here, n)
		}
		above = here
	}
	if len(root.children) != 1 || names[0] != root.children[0].name {
		t.Fatalf("the first level has %d bars, names begin with %q", len(root.children), names[0])
	}
	var out []bar
	var walk func(n *node)
	walk = func(n *node) {
		out = append(out, n.bar)
		for _, c := range n.children {
			walk(c)
		}
	}
	walk(root.children[0])
	return out
}

// readArrow walks the rows as the Parca datasource does, which names them "[binary] function". diffs are shown for
// rows that have one.
func readArrow(t *testing.T, stream []byte) (out []bar, diffs string) {
	t.Helper()
	r, err := ipc.NewReader(bytes.NewReader(stream))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	if !r.Next() {
		t.Fatalf("no record: %v", r.Err())
	}
	rec := r.Record()
	column := func(name string) arrow.Array { return rec.Column(rec.Schema().FieldIndices(name)[0]) }
	children := column("children").(*array.List)
	child := children.ListValues().(*array.Uint32)
	cumulative, flat := column("cumulative").(*array.Uint64), column("flat").(*array.Uint64)
	diff, offset := column("diff").(*array.Int64), column("value_offset").(*array.Uint64)
	parent, depth := column("parent").(*array.Int32), column("depth").(*array.Uint32)
	address := column("location_address").(*array.Uint64)
	if int(rec.NumRows()) != child.Len()+1 || child.NullN() > 0 || address.NullN() != 1 {
		t.Errorf("%d rows, %d children, %d of them null, %d rows without an address", rec.NumRows(), child.Len(), child.NullN(), address.NullN())
	}
	texts := func(name string) func(row int) string {
		c := column(name).(*array.Dictionary)
		values := c.Dictionary().(*array.Binary)
		return func(row int) string {
			if !c.IsValid(row) {
				return ""
			}
			return values.ValueString(c.GetValueIndex(row))
		}
	}
	function, mapping := texts("function_name"), texts("mapping_file")
	var walk func(row, level int)
	walk = func(row, level int) {
		b := bar{name: "total", level: level, value: [2]int64{int64(cumulative.Value(row))}, self: [2]int64{int64(cumulative.Value(row))}}
		if row > 0 {
			if b.name = function(row); mapping(row) != "" {
				b.name = "[" + mapping(row)[strings.LastIndexByte(mapping(row), '/')+1:] + "] " + b.name
			}
		}
		if diff.Value(row) != 0 {
			diffs += fmt.Sprintf("diff of %s %+d\n", b.name, diff.Value(row))
		}
		at := len(out)
		out = append(out, b)
		begin, end := children.ValueOffsets(row)
		left := offset.Value(row)
		for i := begin; i < end; i++ {
			c := int(child.Value(int(i)))
			if int(parent.Value(c)) != row || int(depth.Value(c)) != level+1 || offset.Value(c) != left {
				t.Errorf("row %d, child of %d: parent %d, depth %d, offset %d", c, row, parent.Value(c), depth.Value(c), offset.Value(c))
			}
			left += cumulative.Value(c)
			out[at].self[0] -= int64(cumulative.Value(c))
			walk(c, level+1)
		}
		if out[at].self[0] != int64(flat.Value(row)) {
			t.Errorf("row %d: %d left for itself, flat %d", row, out[at].self[0], flat.Value(row))
		}
	}
	walk(0, 0)
	return out, diffs
}

// compare asks our own API for the same flame graph, whole, and compares the totals by path of names.
func (g *grafana) compare(t *testing.T, bars []bar, sel *queryv1.Selection) {
	t.Helper()
	sums := func(bars []bar) map[string]int64 {
		out := map[string]int64{}
		var path []string
		for _, b := range bars {
			name := b.name
			if _, function, ok := strings.Cut(name, "] "); ok && strings.HasPrefix(name, "[") { // the binary
				name = function
			}
			if path = append(path[:b.level], name); b.level > 0 && slices.Contains([]string{"other", "(small)"}, name) {
				return nil // cut to size on demand
			}
			out[strings.Join(path[1:], ";")] += b.value[0]
		}
		return out
	}
	got := sums(bars)
	sel.ProfileType = strings.TrimSuffix(sel.ProfileType, ":delta") // nothing with it is stored here
	resp, err := g.query().FlameGraph(t.Context(), &queryv1.FlameGraphRequest{Selection: sel, MinShare: -1})
	if err != nil {
		t.Fatal(err)
	}
	if bars[0].value[0] != resp.Total {
		t.Errorf("total %d, our own API says %d", bars[0].value[0], resp.Total)
	}
	frames := make([]profile.TreeFrame, len(resp.Frames))
	for i, f := range resp.Frames {
		frames[i] = profile.TreeFrame{Name: f.Name, File: f.File, Mapping: f.Mapping}
	}
	own, err := profile.DecodeNodes(resp.Nodes, frames, resp.Strings)
	if err != nil {
		t.Fatal(err)
	}
	var ours []bar
	var walk func(i uint32, level int)
	walk = func(i uint32, level int) {
		ours = append(ours, bar{name: own.Name(i), level: level, value: [2]int64{own.Total[i]}})
		for c := range own.Children(i) {
			walk(c, level+1)
		}
	}
	walk(0, 0)
	if want := sums(ours); got != nil && !maps.Equal(got, want) {
		t.Errorf("totals by path:\n%v\nour own API says\n%v", got, want)
	}
}
