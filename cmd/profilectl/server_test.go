package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sort"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zstd"

	"github.com/perfuse/perfuse/profile"
	debuginfov1 "github.com/perfuse/perfuse/proto/perfuse/debuginfo/v1"
	"github.com/perfuse/perfuse/proto/perfuse/debuginfo/v1/debuginfov1connect"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/proto/perfuse/query/v1/queryv1connect"
	"github.com/perfuse/perfuse/server/ingest"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/storagetest"
)

// memory is a query service over one batch, as simple as can be: the commands are tested against it, it is not.
type memory struct {
	queryv1connect.UnimplementedQueryServiceHandler
	batch *profile.Batch
	err   error // what every call returns, if not nil

	storage struct {
		status int
		text   string
	}
}

func serve(t *testing.T, m *memory, now func() time.Time) string {
	mux := http.NewServeMux()
	mux.Handle(queryv1connect.NewQueryServiceHandler(m))
	mux.Handle(debuginfov1connect.NewDebuginfoServiceHandler(&debugFiles{}))
	in, err := ingest.New(ingest.Options{Store: &memoryStore{m: m}, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	mux.Handle(ingest.PushProcedure, in.Push())
	mux.HandleFunc("GET /debug/storage", func(w http.ResponseWriter, r *http.Request) {
		if m.storage.status == 0 {
			http.NotFound(w, r)
			return
		}
		w.WriteHeader(m.storage.status)
		io.WriteString(w, m.storage.text)
	})
	s := httptest.NewUnstartedServer(mux)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s.URL
}

// strangers starts a server that knows none of our paths, and one that never answers.
func strangers(t *testing.T) (strangerURL, silentURL string) {
	stranger := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(stranger.Close)
	over := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		<-over
	}))
	t.Cleanup(silent.Close)
	t.Cleanup(func() { close(over) }) // comes first: Close waits for handlers
	return stranger.URL, silent.URL
}

// Write makes memory a store behind the server's own doors. It refuses the service "unwelcome".
func (s *memoryStore) Write(_ context.Context, b *profile.Batch) error {
	for i := range b.Profiles {
		if b.Profiles[i].Labels.Get(profile.LabelServiceName) == "unwelcome" {
			return fmt.Errorf("%w: the service is not welcome", storage.ErrInvalid)
		}
	}
	s.m.batch = profile.Merge(s.m.batch, b)
	return s.m.err
}

type memoryStore struct {
	storagetest.Model
	m *memory
}

// selected returns the profiles that a selection is about, and their samples as one profile.
func (m *memory) selected(sel *queryv1.Selection) (profile.Profile, []*profile.Profile, error) {
	var all profile.Profile
	if m.err != nil {
		return all, nil, m.err
	}
	parsed, err := profile.ParseSelector(sel.GetSelector())
	if err != nil {
		return all, nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	if sel.GetProfileType() != "" {
		if all.Type, err = profile.ParseType(sel.GetProfileType()); err != nil {
			return all, nil, connect.NewError(connect.CodeInvalidArgument, err)
		}
	}
	var found []*profile.Profile
	for i := range m.batch.Profiles {
		p := &m.batch.Profiles[i]
		if sel.GetProfileType() != "" && p.Type != all.Type || !parsed.Match(p.Labels) ||
			sel.GetStartUnixNano() != 0 && p.TimeNanos < sel.GetStartUnixNano() ||
			sel.GetEndUnixNano() != 0 && p.TimeNanos >= sel.GetEndUnixNano() {
			continue
		}
		found = append(found, p)
		all.Samples = append(all.Samples, p.Samples...)
	}
	return all, found, nil
}

func (m *memory) ProfileTypes(context.Context, *queryv1.ProfileTypesRequest) (*queryv1.ProfileTypesResponse, error) {
	if m.err != nil {
		return nil, m.err
	}
	resp := &queryv1.ProfileTypesResponse{}
	seen := map[profile.Type]bool{}
	for _, p := range m.batch.Profiles {
		if t := p.Type; !seen[t] {
			seen[t] = true
			resp.Types = append(resp.Types, &queryv1.ProfileType{Id: t.String(), Name: t.Name, SampleType: t.SampleType, SampleUnit: t.SampleUnit, PeriodType: t.PeriodType, PeriodUnit: t.PeriodUnit})
		}
	}
	return resp, nil
}

func (m *memory) LabelNames(_ context.Context, req *queryv1.LabelNamesRequest) (*queryv1.LabelNamesResponse, error) {
	_, found, err := m.selected(req.Selection)
	var names []string
	for _, p := range found {
		for _, l := range p.Labels {
			names = append(names, l.Name)
		}
	}
	slices.Sort(names)
	return &queryv1.LabelNamesResponse{Names: slices.Compact(names)}, err
}

func (m *memory) LabelValues(_ context.Context, req *queryv1.LabelValuesRequest) (*queryv1.LabelValuesResponse, error) {
	_, found, err := m.selected(req.Selection)
	var values []string
	for _, p := range found {
		if v := p.Labels.Get(req.Name); v != "" {
			values = append(values, v)
		}
	}
	slices.Sort(values)
	resp := &queryv1.LabelValuesResponse{Values: slices.Compact(values)}
	if n := int(req.Limit); n > 0 && n < len(resp.Values) {
		resp.Values, resp.Truncated = resp.Values[:n], true
	}
	return resp, err
}

func (m *memory) Series(_ context.Context, req *queryv1.SeriesRequest) (*queryv1.SeriesResponse, error) {
	all, found, err := m.selected(req.Selection)
	if err != nil {
		return nil, err
	}
	resp := &queryv1.SeriesResponse{StepNano: req.StepNano, Unit: all.Type.SampleUnit}
	if resp.StepNano == 0 {
		resp.StepNano = int64(time.Minute)
	}
	groups := map[string]map[int64]int64{}
	labels := map[string]profile.Labels{}
	for _, p := range found {
		var ls profile.Labels
		for _, l := range p.Labels {
			if slices.Contains(req.GroupBy, l.Name) {
				ls = append(ls, l)
			}
		}
		key := ls.String()
		if groups[key] == nil {
			groups[key] = map[int64]int64{}
			labels[key] = ls
		}
		groups[key][p.TimeNanos/resp.StepNano*resp.StepNano] += p.Total()
	}
	for key, points := range groups {
		s := &queryv1.TimeSeries{}
		for _, l := range labels[key] {
			s.Labels = append(s.Labels, &queryv1.Label{Name: l.Name, Value: l.Value})
		}
		for at := range points {
			s.TimeUnixNano = append(s.TimeUnixNano, at)
		}
		slices.Sort(s.TimeUnixNano)
		for _, at := range s.TimeUnixNano {
			s.Values = append(s.Values, points[at])
		}
		resp.Series = append(resp.Series, s)
	}
	sort.Slice(resp.Series, func(i, j int) bool { return sum(resp.Series[i].Values) > sum(resp.Series[j].Values) })
	return resp, nil
}

func (m *memory) FlameGraph(_ context.Context, req *queryv1.FlameGraphRequest) (*queryv1.FlameGraphResponse, error) {
	all, found, err := m.selected(req.Selection)
	if err != nil {
		return nil, err
	}
	tree := profile.NewTree(m.batch, &all)
	resp := &queryv1.FlameGraphResponse{NodeCount: int64(tree.Len()), StackCount: int64(len(all.Samples)), SeriesCount: int64(len(found))}
	resp.CutCount = int64(tree.Cut(req.MinShare))
	resp.Unit, resp.Total, resp.Strings, resp.Nodes = tree.Unit, tree.Total[0], tree.Strings, tree.AppendNodes(nil)
	for _, f := range tree.Frames {
		kind := queryv1.FrameKind(f.Kind) // the two enumerations have the same values
		resp.Frames = append(resp.Frames, &queryv1.FlameFrame{Name: f.Name, File: f.File, Mapping: f.Mapping, Kind: kind, Inlined: f.Inlined, StartLine: f.StartLine})
	}
	return resp, nil
}

func (m *memory) Top(_ context.Context, req *queryv1.TopRequest) (*queryv1.TopResponse, error) {
	all, _, err := m.selected(req.Selection)
	if err != nil {
		return nil, err
	}
	rows := profile.Top(m.batch, &all)
	if req.Order == queryv1.TopOrder_TOP_ORDER_TOTAL {
		profile.SortByTotal(rows)
	}
	resp := &queryv1.TopResponse{Unit: all.Type.SampleUnit, Total: all.Total(), FunctionCount: int64(len(rows))}
	for _, r := range rows[:min(len(rows), int(req.Limit))] {
		resp.Functions = append(resp.Functions, &queryv1.TopFunction{Name: r.Name, File: r.File, Mapping: r.Mapping, Kind: queryv1.FrameKind(r.Kind), Self: r.Self, Total: r.Total})
	}
	return resp, nil
}

func (m *memory) Export(_ context.Context, req *queryv1.ExportRequest) (*queryv1.ExportResponse, error) {
	all, _, err := m.selected(req.Selection)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	if req.Format == queryv1.ExportFormat_EXPORT_FORMAT_FOLDED {
		err = profile.WriteFolded(&buf, m.batch, &all)
	} else {
		err = profile.WritePprof(&buf, m.batch, &all)
	}
	return &queryv1.ExportResponse{Data: buf.Bytes()}, err
}

// debugFiles is a debuginfo service that remembers what it was given.
type debugFiles struct {
	debuginfov1connect.UnimplementedDebuginfoServiceHandler
	list []*debuginfov1.Debuginfo
}

func (d *debugFiles) has(id string) bool {
	return slices.ContainsFunc(d.list, func(f *debuginfov1.Debuginfo) bool { return f.BuildId == id })
}

func (d *debugFiles) Wanted(_ context.Context, req *debuginfov1.WantedRequest) (*debuginfov1.WantedResponse, error) {
	return &debuginfov1.WantedResponse{BuildIds: slices.DeleteFunc(req.BuildIds, d.has)}, nil
}

func (d *debugFiles) Upload(_ context.Context, stream *connect.ClientStream[debuginfov1.UploadRequest]) (*debuginfov1.UploadResponse, error) {
	if !stream.Receive() || stream.Msg().GetInfo() == nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("no info"))
	}
	info := stream.Msg().GetInfo()
	var packed bytes.Buffer
	for stream.Receive() {
		packed.Write(stream.Msg().GetChunk())
	}
	if err := stream.Err(); err != nil {
		return nil, err
	}
	zr, err := zstd.NewReader(&packed)
	if err != nil {
		return nil, err
	}
	defer zr.Close()
	data, err := io.ReadAll(zr)
	if err != nil {
		return nil, err
	}
	if bytes.Contains(data, []byte("refuse me")) {
		return nil, connect.NewError(connect.CodeResourceExhausted, errors.New("limit upload_bytes (2 GiB) exceeded"))
	}
	d.list = append(d.list, &debuginfov1.Debuginfo{
		BuildId: info.BuildId, File: info.File, State: "indexed", SizeBytes: uint64(len(data)), IndexBytes: 4096, UploadedUnixNano: 1_700_000_000_000_000_000,
	})
	return &debuginfov1.UploadResponse{SizeBytes: uint64(len(data))}, nil
}

func (d *debugFiles) List(context.Context, *debuginfov1.ListRequest) (*debuginfov1.ListResponse, error) {
	return &debuginfov1.ListResponse{Debuginfo: d.list}, nil
}

var errTooMuch = connect.NewError(connect.CodeResourceExhausted, errors.New("limit query.max_stacks (100000) exceeded"))
