package api

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/cockroachdb/datadriven"
	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/proto/perfuse/query/v1/queryv1connect"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/server/query"
	"github.com/perfuse/perfuse/server/sources"
	"github.com/perfuse/perfuse/storage/storagetest"
	"github.com/perfuse/perfuse/symbolize"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// symbols is a resolver that knows what the transcript taught it.
type symbols struct {
	mu    sync.Mutex
	files map[string]map[profile.Addr][]symbolize.Source
	asked []string // what was asked since it was last looked at
	err   error
}

func (s *symbols) Resolve(ctx context.Context, buildID string, addrs []profile.Addr) ([][]symbolize.Source, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, fmt.Sprintf("%s %x", buildID, addrs))
	if s.err != nil {
		return nil, s.err
	}
	file, ok := s.files[buildID]
	if !ok {
		return nil, fmt.Errorf("resolving %s: %w", buildID, symbolize.ErrNoDebugInfo)
	}
	out := make([][]symbolize.Source, len(addrs))
	for i, a := range addrs {
		out[i] = file[a]
	}
	return out, nil
}

// world is one server's worth of state for a transcript.
type world struct {
	store   *storagetest.Model
	symbols *symbols
	api     *API
	url     string
}

func newWorld(t testing.TB, lim limits.Limits, debuginfo Debuginfo) *world {
	t.Helper()
	w := &world{store: &storagetest.Model{}, symbols: &symbols{files: map[string]map[profile.Addr][]symbolize.Source{}}}
	engine, err := query.New(query.Options{Store: w.store, Resolver: w.symbols})
	if err != nil {
		t.Fatal(err)
	}
	files, err := sources.New(sources.Rules{{Directory: "testdata/source"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { files.Close() })
	if w.api, err = New(Options{Store: w.store, Engine: engine, Limits: lim, Debuginfo: debuginfo, Sources: files}); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	w.api.Mount(mux)
	srv := httptest.NewUnstartedServer(mux)
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetHTTP1(true)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	t.Cleanup(srv.Close)
	w.url = srv.URL
	return w
}

// TestAPI runs the transcripts in testdata/api. Times are seconds since the epoch.
//
//	load type=T labels={…} time=S [for=S] [trace=HEX span=HEX name=NAME]
//	                                        store folded text; a frame file@buildid+0xaddr has no name yet
//	symbols buildid=ID                      teach the resolver: 0xaddr name[:line] …, the innermost first; what
//	                                        is in work.c has its source in testdata/source
//	limits (name: value)                    begin anew with these limits
//	call METHOD                             post JSON, in which "$S" stands for second S in nanoseconds, and
//	                                        print the answer
func TestAPI(t *testing.T) {
	datadriven.Walk(t, "testdata/api", func(t *testing.T, path string) {
		w := newWorld(t, limits.Limits{}, nil)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "limits":
				var lim limits.Limits
				if err := yaml.Unmarshal([]byte(d.Input), &lim); err != nil {
					d.Fatalf(t, "%v", err)
				}
				w = newWorld(t, lim, nil)
				return ""
			case "load":
				return w.load(t, d)
			case "symbols":
				file := map[profile.Addr][]symbolize.Source{}
				for _, line := range strings.Split(d.Input, "\n") {
					fields := strings.Fields(line)
					addr, err := strconv.ParseUint(fields[0], 0, 64)
					if err != nil {
						d.Fatalf(t, "%v", err)
					}
					file[profile.Addr(addr)] = []symbolize.Source{}
					for _, name := range fields[1:] {
						name, at, _ := strings.Cut(name, ":")
						line, _ := strconv.Atoi(at)
						file[profile.Addr(addr)] = append(file[profile.Addr(addr)], symbolize.Source{Name: name, File: name + ".c", StartLine: 1, Line: int32(line)})
					}
				}
				var id string
				d.ScanArgs(t, "buildid", &id)
				w.symbols.files[id] = file
				w.api.opts.Engine.Forget(id)
				return ""
			case "call":
				return w.call(t, d.CmdArgs[0].Key, d.Input)
			}
			d.Fatalf(t, "unknown command %s", d.Cmd)
			return ""
		})
	})
}

func (w *world) load(t *testing.T, d *datadriven.TestData) string {
	var typ, labels string
	var at, duration int64
	d.ScanArgs(t, "type", &typ)
	d.ScanArgs(t, "time", &at)
	d.MaybeScanArgs(t, "for", &duration)
	var pt profile.Type
	var err error
	if pt, err = profile.ParseType(typ); err != nil {
		d.Fatalf(t, "%v", err)
	}
	var ls []profile.Label
	for _, a := range d.CmdArgs {
		if a.Key == "labels" {
			for _, v := range a.Vals {
				n, v, _ := strings.Cut(v, "=")
				labels += n
				ls = append(ls, profile.Label{Name: n, Value: v})
			}
		}
	}
	b, err := profile.ParseFolded(strings.NewReader(d.Input), pt, profile.NewLabels(ls...))
	if err != nil {
		d.Fatalf(t, "%v", err)
	}
	dict := b.Dictionary
	for i := range dict.Frames {
		f := &dict.Frames[i]
		if len(f.Lines) == 0 {
			continue
		}
		name := dict.Functions[f.Lines[0].Function].Name
		file, rest, ok := strings.Cut(name, "@")
		if !ok {
			continue
		}
		id, addr, _ := strings.Cut(rest, "+")
		n, err := strconv.ParseUint(addr, 0, 64)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		*f = profile.Frame{Mapping: dict.Mapping(profile.Mapping{File: file, BuildID: id}), Addr: profile.Addr(n)}
	}
	link := profile.Link{}
	for _, id := range []struct {
		key string
		to  []byte
	}{{"trace", link.TraceID[:]}, {"span", link.SpanID[:]}} {
		var text string
		if d.MaybeScanArgs(t, id.key, &text); text != "" {
			if _, err := hex.Decode(id.to, []byte(text)); err != nil {
				d.Fatalf(t, "%v", err)
			}
		}
	}
	d.MaybeScanArgs(t, "name", &link.SpanName)
	for i := range b.Profiles[0].Samples {
		b.Profiles[0].Samples[i].Link = dict.Link(link)
	}
	b.Profiles[0].TimeNanos, b.Profiles[0].DurationNanos = at*1e9, duration*1e9
	if err := w.store.Write(t.Context(), b); err != nil {
		return err.Error() + "\n"
	}
	return ""
}

func (w *world) call(t *testing.T, method, input string) string {
	t.Helper()
	for i := range 100 { // "$7" is second 7
		input = strings.ReplaceAll(input, fmt.Sprintf(`"$%d"`, i), fmt.Sprintf(`"%d000000000"`, i))
	}
	resp, err := http.Post(w.url+"/perfuse.query.v1.QueryService/"+method, "application/json", strings.NewReader(input))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if resp.StatusCode != http.StatusOK {
		var e struct{ Code, Message string }
		if err := json.Unmarshal(body, &e); err != nil {
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
		fmt.Fprintf(&out, "%d %s: %s\n", resp.StatusCode, e.Code, e.Message)
	} else {
		out.WriteString(show(t, method, body))
	}
	w.symbols.mu.Lock()
	sort.Strings(w.symbols.asked)
	for _, a := range w.symbols.asked {
		fmt.Fprintf(&out, "resolved %s\n", a)
	}
	w.symbols.asked = nil
	w.symbols.mu.Unlock()
	return out.String()
}

// show prints an answer: flame graphs and exports as folded text, all else as compact JSON.
func show(t *testing.T, method string, body []byte) string {
	t.Helper()
	unmarshal := func(m proto.Message) {
		if err := protojson.Unmarshal(body, m); err != nil {
			t.Fatal(err)
		}
	}
	switch method {
	case "FlameGraph":
		var r queryv1.FlameGraphResponse
		unmarshal(&r)
		of := ""
		if r.UnfilteredTotal != r.Total {
			of = fmt.Sprintf(" of %d", r.UnfilteredTotal)
		}
		return fmt.Sprintf("%d%s %s, %d nodes, %d cut, %d stacks, %d series\n%s", r.Total, of, r.Unit, r.NodeCount, r.CutCount, r.StackCount, r.SeriesCount,
			flameText(t, r.Strings, r.Frames, r.Nodes, false))
	case "Sandwich":
		var r queryv1.SandwichResponse
		unmarshal(&r)
		out := fmt.Sprintf("%d, self %d, of %d %s, %d stacks, %d series\n", r.Total, r.Self, r.UnfilteredTotal, r.Unit, r.StackCount, r.SeriesCount)
		for _, t2 := range []*queryv1.FlameTree{r.Callers, r.Callees} {
			out += fmt.Sprintf("%d nodes, %d cut\n%s", t2.NodeCount, t2.CutCount, flameText(t, t2.Strings, t2.Frames, t2.Nodes, false))
		}
		return out
	case "Diff":
		var r queryv1.DiffResponse
		unmarshal(&r)
		out := ""
		for i, s := range []*queryv1.DiffSide{r.Before, r.After} {
			out += fmt.Sprintf("%s %d of %d %s in %s, times %.6g, %d stacks, %d series\n", []string{"before", "after"}[i], s.Total, s.UnfilteredTotal, r.Unit,
				time.Duration(s.DurationNano), s.Scale, s.StackCount, s.SeriesCount)
		}
		return out + fmt.Sprintf("%d nodes, %d cut\n%s", r.NodeCount, r.CutCount, flameText(t, r.Strings, r.Frames, r.Nodes, true))
	case "Export":
		var r queryv1.ExportResponse
		unmarshal(&r)
		if !bytes.HasPrefix(r.Data, []byte("\x1f\x8b")) {
			return string(r.Data)
		}
		b, err := profile.ReadPprof(bytes.NewReader(r.Data), profile.PprofOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		for i := range b.Profiles {
			fmt.Fprintf(&out, "pprof %s\n", b.Profiles[i].Type)
			if err := profile.WriteFolded(&out, b, &b.Profiles[i]); err != nil {
				t.Fatal(err)
			}
		}
		return out.String()
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, body); err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(compact.String(), "},{", "},\n {") + "\n"
}

// flameText decodes what the page decodes and indents it, with the frames' properties behind the names.
func flameText(t *testing.T, strs []string, wire []*queryv1.FlameFrame, nodes []byte, diff bool) string {
	t.Helper()
	frames := make([]profile.TreeFrame, len(wire))
	for i, f := range wire {
		frames[i] = profile.TreeFrame{Name: f.Name, File: f.File, Mapping: f.Mapping, Inlined: f.Inlined, StartLine: f.StartLine}
	}
	tree, err := &profile.DiffTree{}, error(nil)
	if diff {
		tree, err = profile.DecodeDiffNodes(nodes, frames, strs)
	} else if one, failed := profile.DecodeNodes(nodes, frames, strs); failed == nil {
		tree.Tree = *one
	} else {
		err = failed
	}
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	var walk func(i uint32, depth int)
	walk = func(i uint32, depth int) {
		f := wire[tree.Frame[i]]
		out.WriteString(strings.Repeat("  ", depth) + tree.Name(i))
		if diff {
			fmt.Fprintf(&out, " %d →", tree.BeforeTotal[i])
		}
		fmt.Fprintf(&out, " %d", tree.Total[i])
		if k := strings.ToLower(strings.TrimPrefix(f.Kind.String(), "FRAME_KIND_")); k != "native" {
			out.WriteString(" " + k)
		}
		if f.Inlined {
			out.WriteString(" inlined")
		}
		if s := strs[f.File]; s != "" {
			out.WriteString(" in " + s)
		}
		if s := strs[f.Mapping]; s != "" {
			out.WriteString(" of " + s)
		}
		out.WriteByte('\n')
		for c := range tree.Children(i) {
			walk(c, depth+1)
		}
	}
	walk(0, 0)
	return out.String()
}

// TestQueryTime: a query that takes too long ends with the limit's name; one that waits for its turn with that of the limit of turns.
func TestQueryTime(t *testing.T) {
	w := newWorld(t, limits.Limits{QueryTime: 20 * time.Millisecond, ConcurrentQueries: 1}, nil)
	err := w.api.query(t.Context(), func(ctx context.Context) error {
		// The only turn is taken.
		_, err := queryv1connect.NewQueryServiceClient(http.DefaultClient, w.url).ProfileTypes(t.Context(), &queryv1.ProfileTypesRequest{})
		if connect.CodeOf(err) != connect.CodeResourceExhausted || !strings.Contains(err.Error(), "has waited 20ms for its turn: limit concurrent_queries is 1 (to change it: limits.concurrent_queries") {
			t.Errorf("waiting: %v", err)
		}
		<-ctx.Done()
		return fmt.Errorf("the store says: %w", ctx.Err())
	})
	if codeOf(err) != connect.CodeResourceExhausted || !strings.Contains(err.Error(), "limit query_time is 20ms") {
		t.Errorf("working: %v", err)
	}
}
