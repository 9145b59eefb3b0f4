package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zstd"

	"github.com/perfuse/perfuse/profile"
	debuginfov1 "github.com/perfuse/perfuse/proto/perfuse/debuginfo/v1"
	"github.com/perfuse/perfuse/proto/perfuse/debuginfo/v1/debuginfov1connect"
	"github.com/perfuse/perfuse/proto/perfuse/query/v1/queryv1connect"
	"github.com/perfuse/perfuse/server/api"
	"github.com/perfuse/perfuse/server/fleet"
	"github.com/perfuse/perfuse/server/ingest"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/server/query"
	"github.com/perfuse/perfuse/server/scrape"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/storagetest"
)

// memory is a server that keeps everything in memory: our own doors and answers over a store as simple as can be.
type memory struct {
	storagetest.Model
	err     error // what writing and listing types return, if not nil
	crowded bool  // all stacks but the heaviest are too many for an answer

	storage struct {
		status int
		text   string
	}
	targets []scrape.JobStatus
}

func serve(t *testing.T, m *memory, now func() time.Time, lim limits.Limits) string {
	mux := http.NewServeMux()
	mux.Handle(debuginfov1connect.NewDebuginfoServiceHandler(&debugFiles{}))
	in, err := ingest.New(ingest.Options{Store: m, Now: now})
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
	engine, err := query.New(query.Options{Store: m})
	if err != nil {
		t.Fatal(err)
	}
	answers, err := api.New(api.Options{Store: m, Engine: engine, Limits: lim})
	if err != nil {
		t.Fatal(err)
	}
	agents, err := fleet.New(fleet.Options{API: answers, Store: m, Engine: engine, Now: now, Targets: func() []scrape.JobStatus { return m.targets }})
	if err != nil {
		t.Fatal(err)
	}
	agents.Mount(mux)
	queries := http.NewServeMux()
	answers.Mount(queries)
	mux.Handle("/"+queryv1connect.QueryServiceName+"/", queries)
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

// Write refuses the service "unwelcome".
func (m *memory) Write(ctx context.Context, b *profile.Batch) error {
	for i := range b.Profiles {
		if b.Profiles[i].Labels.Get(profile.LabelServiceName) == "unwelcome" {
			return fmt.Errorf("%w: the service is not welcome", storage.ErrInvalid)
		}
	}
	if m.err != nil {
		return m.err
	}
	return m.Model.Write(ctx, b)
}

func (m *memory) Merge(ctx context.Context, sel storage.Selection, by []string) (*profile.Batch, error) {
	b, err := m.Model.Merge(ctx, sel, by)
	if !m.crowded || err != nil {
		return b, err
	}
	d := b.Dictionary
	cut := d.Frame(profile.Frame{Kind: profile.KindCut, Lines: []profile.Line{{Function: d.Function(profile.Function{Name: profile.CutName})}}})
	for i := range b.Profiles {
		p := &b.Profiles[i]
		slices.SortStableFunc(p.Samples, func(a, b profile.Sample) int { return cmp.Compare(b.Value, a.Value) })
		rest := profile.Sample{Stack: d.Stack(profile.Stack{cut})}
		for _, s := range p.Samples[1:] {
			rest.Value += s.Value
		}
		p.Samples = append(p.Samples[:1], rest)
	}
	return b, nil
}

func (m *memory) Types(ctx context.Context, start, end time.Time) ([]profile.Type, error) {
	if m.err != nil {
		return nil, m.err
	}
	return m.Model.Types(ctx, start, end)
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

var errTooMuch = &limits.Error{Limit: limits.AnswerValues, What: "too many of them", Max: "3"}
