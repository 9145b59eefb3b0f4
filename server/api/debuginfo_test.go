package api

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zstd"
	debuginfov1 "github.com/perfuse/perfuse/proto/perfuse/debuginfo/v1"
	"github.com/perfuse/perfuse/proto/perfuse/debuginfo/v1/debuginfov1connect"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/symbolize/debuginfo"
	"google.golang.org/protobuf/proto"
)

// shelf keeps files in memory.
type shelf struct {
	mu    sync.Mutex
	files map[string]debuginfo.Info
	bytes map[string][]byte
	err   error
	began chan struct{}
	broke chan error // how uploads that could not be read to the end broke off
}

func (s *shelf) Wanted(ids []string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool { _, ok := s.files[id]; return ok })
}

func (s *shelf) Put(_ context.Context, id, file string, r io.Reader) (int64, error) {
	select {
	case s.began <- struct{}{}:
	default:
	}
	b, err := io.ReadAll(r)
	if err != nil {
		select {
		case s.broke <- err:
		default:
		}
		return 0, fmt.Errorf("reading the upload: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	s.files[id] = debuginfo.Info{BuildID: id, File: file, State: debuginfo.Uploaded, Bytes: int64(len(b)), Uploaded: time.Unix(7, 0)}
	s.bytes[id] = b
	return int64(len(b)), nil
}

func (s *shelf) List() []debuginfo.Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.files), func(a, b debuginfo.Info) int { return strings.Compare(a.BuildID, b.BuildID) })
}

func zstdOf(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

// TestUpload sends files in pieces, whole and broken, over each protocol that streams.
func TestUpload(t *testing.T) {
	store := &shelf{files: map[string]debuginfo.Info{}, bytes: map[string][]byte{}}
	w := newWorld(t, limits.Limits{UploadBytes: 1 << 20}, store)
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	h2c := &http.Client{Transport: &http.Transport{Protocols: p}}
	info := func(id string, packed bool) *debuginfov1.UploadRequest {
		return &debuginfov1.UploadRequest{Data: &debuginfov1.UploadRequest_Info{Info: &debuginfov1.UploadInfo{BuildId: id, File: "/bin/" + id, Zstd: packed}}}
	}
	chunk := func(b []byte) *debuginfov1.UploadRequest {
		return &debuginfov1.UploadRequest{Data: &debuginfov1.UploadRequest_Chunk{Chunk: b}}
	}
	content := bytes.Repeat([]byte("debug information "), 1000)
	packed := zstdOf(t, content)
	for _, protocol := range []struct {
		name string
		opts []connect.ClientOption
	}{{"Connect", nil}, {"gRPC", []connect.ClientOption{connect.WithGRPC()}}} {
		client := debuginfov1connect.NewDebuginfoServiceClient(h2c, w.url, protocol.opts...)
		f := func(id string, wantErr string, wantCode connect.Code, messages ...*debuginfov1.UploadRequest) {
			t.Helper()
			clear(store.files)
			stream, err := client.Upload(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range messages {
				if err := stream.Send(m); err != nil && !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
			}
			resp, err := stream.CloseAndReceive()
			switch {
			case wantErr == "":
				if err != nil || resp.GetSizeBytes() != uint64(len(content)) || !bytes.Equal(store.bytes[id], content) {
					t.Errorf("%s: %v, %v", protocol.name, resp, err)
				}
			case err == nil || !strings.Contains(err.Error(), wantErr) || connect.CodeOf(err) != wantCode:
				t.Errorf("%s: got %v, want %s %q", protocol.name, err, wantCode, wantErr)
			case len(store.files) != 0:
				t.Errorf("%s: after %v something was kept", protocol.name, err)
			}
		}
		f("aa", "", 0, info("aa", false), chunk(content))
		f("aa", "", 0, info("aa", false), chunk(content[:1]), chunk(nil), chunk(content[1:]))
		f("aa", "", 0, info("aa", true), chunk(packed[:10]), chunk(packed[10:]))
		f("aa", "the stream is empty", connect.CodeInvalidArgument)
		f("aa", "the first message has no info", connect.CodeInvalidArgument, chunk(content))
		f("aa", "build_id has 0 bytes", connect.CodeInvalidArgument, info("", false), chunk(content))
		f("aa", "build_id has 300 bytes", connect.CodeInvalidArgument, info(strings.Repeat("a", 300), false))
		f("aa", "the file is empty", connect.CodeInvalidArgument, info("aa", false))
		f("aa", "info came twice", connect.CodeInvalidArgument, info("aa", false), chunk(content), info("aa", false))
		f("aa", "unpacking the file (zstd)", connect.CodeInvalidArgument, info("aa", true), chunk(content))
		f("aa", "unpacking the file (zstd): unexpected EOF", connect.CodeInvalidArgument, info("aa", true), chunk(packed[:20]))
		f("aa", "limit upload_bytes is 1048576", connect.CodeResourceExhausted, info("aa", true), chunk(zstdOf(t, make([]byte, 1<<20+1))))
		f("aa", "limit upload_bytes is 1048576", connect.CodeResourceExhausted, info("aa", false), chunk(make([]byte, 1<<19)), chunk(make([]byte, 1<<20)))

		// A client that breaks off leaves nothing.
		clear(store.files)
		store.began, store.broke = make(chan struct{}, 1), make(chan error, 1)
		ctx, leave := context.WithCancel(t.Context())
		stream, err := client.Upload(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(stream.Send(info("bb", false)), stream.Send(chunk(content))); err != nil {
			t.Fatal(err)
		}
		<-store.began
		leave()
		<-store.broke
		wanted, err := client.Wanted(t.Context(), &debuginfov1.WantedRequest{BuildIds: []string{"aa", "bb"}})
		if err != nil || !slices.Equal(wanted.BuildIds, []string{"aa", "bb"}) {
			t.Errorf("wanted %v, %v", wanted, err)
		}

		f("aa", "", 0, info("aa", false), chunk(content))
		if list, err := client.List(t.Context(), &debuginfov1.ListRequest{}); err != nil || len(list.Debuginfo) != 1 ||
			list.Debuginfo[0].File != "/bin/aa" || list.Debuginfo[0].UploadedUnixNano != 7e9 {
			t.Errorf("list %v, %v", list, err)
		}
		if _, err := client.Wanted(t.Context(), &debuginfov1.WantedRequest{BuildIds: make([]string, 20_000)}); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("many ids: %v", err)
		}
		for err, code := range map[error]connect.Code{
			errors.New("disk on fire"): connect.CodeInternal, debuginfo.ErrBuildID: connect.CodeInvalidArgument, debuginfo.ErrUpload: connect.CodeInvalidArgument,
			debuginfo.ErrKnown: connect.CodeAlreadyExists, debuginfo.ErrFull: connect.CodeResourceExhausted, debuginfo.ErrTooLarge: connect.CodeResourceExhausted,
		} {
			store.err = fmt.Errorf("storing it: %w", err)
			f("aa", store.err.Error(), code, info("aa", false), chunk(content))
		}
		store.err = nil
	}
}

// TestLargeMessages: a file may be large, what asks for it and its pieces may not, packed or not.
func TestLargeMessages(t *testing.T) {
	store := &shelf{files: map[string]debuginfo.Info{}, bytes: map[string][]byte{}}
	w := newWorld(t, limits.Limits{UploadBytes: 8 << 20, BodyBytes: 1 << 20, QueryBytes: 1 << 10}, store)
	for name, opts := range map[string][]connect.ClientOption{"plain": nil, "packed": {connect.WithSendGzip()}} {
		client := debuginfov1connect.NewDebuginfoServiceClient(http.DefaultClient, w.url, opts...)
		if _, err := client.Wanted(t.Context(), &debuginfov1.WantedRequest{BuildIds: make([]string, 2000)}); connect.CodeOf(err) != connect.CodeResourceExhausted ||
			!strings.Contains(err.Error(), "limit query_bytes is 1024") {
			t.Errorf("%s: %v", name, err)
		}
		for size, want := range map[int]string{1 << 19: "", 2 << 20: "is too large: limit body_bytes is 1048576"} {
			clear(store.files)
			stream, err := client.Upload(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range []*debuginfov1.UploadRequest{
				{Data: &debuginfov1.UploadRequest_Info{Info: &debuginfov1.UploadInfo{BuildId: "aa"}}},
				{Data: &debuginfov1.UploadRequest_Chunk{Chunk: make([]byte, size)}},
			} {
				if err := stream.Send(m); err != nil && !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
			}
			_, err = stream.CloseAndReceive()
			if (err == nil) != (want == "") || err != nil && (connect.CodeOf(err) != connect.CodeResourceExhausted || !strings.Contains(err.Error(), want)) {
				t.Errorf("%s, %d bytes: %v", name, size, err)
			}
			if kept := len(store.files) > 0; kept != (want == "") {
				t.Errorf("%s, %d bytes: kept: %t", name, size, kept)
			}
		}
	}
}

// TestNoDebuginfo: a server without a place for files says so.
func TestNoDebuginfo(t *testing.T) {
	w := newWorld(t, limits.Limits{}, nil)
	client := debuginfov1connect.NewDebuginfoServiceClient(http.DefaultClient, w.url)
	if _, err := client.Wanted(t.Context(), &debuginfov1.WantedRequest{}); connect.CodeOf(err) != connect.CodeUnimplemented {
		t.Errorf("got %v", err)
	}
}

// FuzzUpload: whatever messages an upload has, it is kept as it was sent or it is the client's fault, and nothing is kept.
func FuzzUpload(f *testing.F) {
	store := &shelf{files: map[string]debuginfo.Info{}, bytes: map[string][]byte{}}
	w := newWorld(f, limits.Limits{UploadBytes: 1 << 16}, store)
	messages := func(ms ...*debuginfov1.UploadRequest) (out []byte) {
		for _, m := range ms {
			b, err := proto.Marshal(m)
			if err != nil {
				f.Fatal(err)
			}
			out = append(binary.BigEndian.AppendUint32(append(out, 0), uint32(len(b))), b...)
		}
		return out
	}
	info := func(packed bool) *debuginfov1.UploadRequest {
		return &debuginfov1.UploadRequest{Data: &debuginfov1.UploadRequest_Info{Info: &debuginfov1.UploadInfo{BuildId: "aa", File: "/bin/aa", Zstd: packed}}}
	}
	chunk := func(b []byte) *debuginfov1.UploadRequest {
		return &debuginfov1.UploadRequest{Data: &debuginfov1.UploadRequest_Chunk{Chunk: b}}
	}
	packed := zstdOf(f, bytes.Repeat([]byte("debug information "), 100))
	f.Add(messages(info(false), chunk([]byte("\x7fELF")), chunk(nil), chunk([]byte{2})))
	f.Add(messages(info(true), chunk(packed[:9]), chunk(packed[9:])))
	f.Add(messages(info(true), chunk(zstdOf(f, make([]byte, 1<<16+1)))))
	f.Add(append(messages(info(false)), 0, 0xff, 0xff, 0xff, 0xff, 1))
	f.Fuzz(func(t *testing.T, body []byte) {
		clear(store.files)
		resp, err := http.Post(w.url+"/perfuse.debuginfo.v1.DebuginfoService/Upload", "application/connect+proto", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if failed := bytes.Contains(answer, []byte(`"error"`)); failed == (len(store.files) > 0) {
			t.Errorf("%d files are kept, the answer is %s %q", len(store.files), resp.Status, answer)
		}
		for _, of := range []string{"internal", "unknown", "unavailable"} {
			if bytes.Contains(answer, []byte(`"code":"`+of)) {
				t.Errorf("not the client's fault: %q", answer)
			}
		}
	})
}
