package ship

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zstd"
	debuginfov1 "github.com/perfuse/perfuse/proto/perfuse/debuginfo/v1"
	"github.com/perfuse/perfuse/proto/perfuse/debuginfo/v1/debuginfov1connect"
	"github.com/perfuse/perfuse/symbolize/elf"
)

// library is a server of debug information that keeps it in memory.
type library struct {
	debuginfov1connect.UnimplementedDebuginfoServiceHandler
	t       *testing.T
	address string

	mu      sync.Mutex
	changed chan struct{}
	files   map[string][]byte
	names   map[string]string
	asked   int
	uploads int
	fail    func(upload int) error // before reading, nil: takes it
	token   string
}

func newLibrary(t *testing.T) *library {
	l := &library{t: t, changed: make(chan struct{}), files: map[string][]byte{}, names: map[string]string{}}
	mux := http.NewServeMux()
	mux.Handle(debuginfov1connect.NewDebuginfoServiceHandler(l))
	s := httptest.NewUnstartedServer(mux)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	l.address = s.Listener.Addr().String()
	return l
}

func (l *library) tell() {
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *library) Wanted(ctx context.Context, req *debuginfov1.WantedRequest) (*debuginfov1.WantedResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	if info, ok := connect.CallInfoForHandlerContext(ctx); ok {
		l.token = info.RequestHeader().Get("Authorization")
	}
	l.tell()
	res := &debuginfov1.WantedResponse{}
	for _, id := range req.BuildIds {
		if l.files[id] == nil {
			res.BuildIds = append(res.BuildIds, id)
		}
	}
	return res, nil
}

func (l *library) Upload(_ context.Context, stream *connect.ClientStream[debuginfov1.UploadRequest]) (*debuginfov1.UploadResponse, error) {
	l.mu.Lock()
	l.uploads++
	n, fail := l.uploads, l.fail
	l.tell()
	l.mu.Unlock()
	if fail != nil {
		if err := fail(n); err != nil {
			return nil, err
		}
	}
	var packed bytes.Buffer
	var info *debuginfov1.UploadInfo
	for stream.Receive() {
		if i := stream.Msg().GetInfo(); i != nil {
			info = i
			continue
		}
		if len(stream.Msg().GetChunk()) > chunkBytes {
			l.t.Errorf("a chunk of %d bytes", len(stream.Msg().GetChunk()))
		}
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
	b, err := io.ReadAll(zr)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.files[info.BuildId], l.names[info.BuildId] = b, info.File
	l.tell()
	return &debuginfov1.UploadResponse{SizeBytes: uint64(len(b))}, nil
}

func (l *library) wait(what string, f func() bool) {
	l.t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		l.mu.Lock()
		ok, changed := f(), l.changed
		l.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			l.t.Fatalf("never happened: %s", what)
		}
	}
}

func runDebuginfo(t *testing.T, opts DebuginfoOptions) *Debuginfo {
	t.Helper()
	opts.Insecure = true
	d, err := NewDebuginfo(opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, d.Close()); err != nil {
			t.Error(err)
		}
		if d.held != 0 {
			t.Errorf("%d files are still open", d.held)
		}
	})
	return d
}

type opened struct {
	*os.File
	size int64
}

func (o opened) Size() int64 { return o.size }

// program compiles a C program with debug information and a given build id.
func program(t *testing.T, buildID string) opened {
	t.Helper()
	cc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("needs gcc")
	}
	dir := t.TempDir()
	src := filepath.Join(dir, "p.c")
	if err := os.WriteFile(src, []byte("int work(int n) { return n * 3; }\nint main(int c, char **v) { return work(c); }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "program")
	if b, err := exec.Command(cc, "-g", "-o", out, src, "-Wl,--build-id=0x"+buildID).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	f, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return opened{f, info.Size()}
}

func id(n int) string { return fmt.Sprintf("%040x", 0xabc000+n) }

func TestDebuginfoUpload(t *testing.T) {
	t.Parallel()
	l := newLibrary(t)
	d := runDebuginfo(t, DebuginfoOptions{Address: l.address, Headers: map[string]string{"Authorization": "Bearer x"}})
	there, deleted, moved := program(t, id(1)), program(t, id(2)), program(t, id(3))
	if err := os.Remove(deleted.Name()); err != nil {
		t.Fatal(err)
	}
	// Another file lies under its path now.
	if err := os.WriteFile(moved.Name()+".new", []byte("something else"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(moved.Name()+".new", moved.Name()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		d.Found(id(1), there.Name(), "", there)
		d.Found(id(2), deleted.Name()+" (deleted)", "", deleted)
		d.Found(id(3), moved.Name(), "/proc/self/root", moved)
	}
	d.Found("", "nameless", "", there)
	l.wait("three uploads", func() bool { return len(l.files) == 3 })
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.uploads != 3 || l.token != "Bearer x" {
		t.Errorf("%d uploads with the token %q", l.uploads, l.token)
	}
	for i := 1; i <= 3; i++ {
		if got, err := elf.BuildID(bytes.NewReader(l.files[id(i)])); err != nil || got != id(i) {
			t.Errorf("what was uploaded for %s has the build id %s, %v", id(i), got, err)
		}
	}
	if l.names[id(2)] != deleted.Name() {
		t.Errorf("the deleted file is called %s", l.names[id(2)])
	}
}

// A server that fails gets the file later; one that refuses it does not see it again; what it has lost it
// gets again.
func TestDebuginfoAgain(t *testing.T) {
	t.Parallel()
	l := newLibrary(t)
	l.fail = func(n int) error {
		switch n {
		case 1:
			return connect.NewError(connect.CodeUnavailable, errors.New("later"))
		case 2:
			return connect.NewError(connect.CodeInvalidArgument, errors.New("never"))
		}
		return nil
	}
	d := runDebuginfo(t, DebuginfoOptions{Address: l.address, Recheck: 50 * time.Millisecond})
	first, second := program(t, id(1)), program(t, id(2))
	d.Found(id(1), first.Name(), "", first)
	l.wait("a refusal", func() bool { return l.uploads == 2 })
	d.Found(id(2), second.Name(), "", second)
	l.wait("the second file", func() bool { return l.files[id(2)] != nil })
	l.mu.Lock()
	delete(l.files, id(2))
	l.mu.Unlock()
	l.wait("the second file again", func() bool { return l.files[id(2)] != nil })
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.files[id(1)] != nil || l.uploads != 4 {
		t.Errorf("%d uploads, %d files", l.uploads, len(l.files))
	}
}

// A server that has everything is asked once and sent nothing; what is no program is not sent either.
func TestDebuginfoUnwanted(t *testing.T) {
	t.Parallel()
	l := newLibrary(t)
	has := program(t, id(1))
	l.files[id(1)] = []byte{1}
	d := runDebuginfo(t, DebuginfoOptions{Address: l.address})
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no program at all"), 0o644); err != nil {
		t.Fatal(err)
	}
	h, err := os.Open(text)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	d.Found(id(1), has.Name(), "", has)
	d.Found(id(2), text, "", opened{h, 17})
	last := program(t, id(3))
	d.Found(id(3), last.Name(), "", last)
	l.wait("the last one", func() bool { return l.files[id(3)] != nil })
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.uploads != 1 || len(l.files[id(1)]) != 1 {
		t.Errorf("%d uploads", l.uploads)
	}
}

// Uploads keep to their share of the line.
func TestUploadRate(t *testing.T) {
	t.Parallel()
	var sent int
	start := time.Now()
	c := &chunks{ctx: t.Context(), bytesPerSecond: 4 << 20, start: start, send: func(b []byte) error { sent += len(b); return nil }}
	noise := make([]byte, 2<<20)
	for i := range noise {
		noise[i] = byte(uint32(i)*2654435761>>13 ^ uint32(i*i)>>7)
	}
	if _, err := c.Write(noise); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); sent != len(noise) || took < 400*time.Millisecond {
		t.Errorf("%d bytes in %v at 4 MiB/s", sent, took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.ctx, c.bytesPerSecond = ctx, 1
	if _, err := c.Write(noise); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %v", err)
	}
}
