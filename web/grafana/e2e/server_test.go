package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/proto/perfuse/query/v1/queryv1connect"
)

// server is a `perfuse server` of a test's own.
type server struct {
	url   string
	cmd   *exec.Cmd
	ended chan struct{}
}

func startServer(t *testing.T) *server {
	t.Helper()
	path, err := perfuse()
	if err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	out := &said{}
	s := &server{url: "http://" + address, ended: make(chan struct{})}
	s.cmd = exec.Command(path, "server", "--http-address", address, "--storage-path", t.TempDir())
	s.cmd.Stdout, s.cmd.Stderr = out, out
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = s.cmd.Wait()
		close(s.ended)
	}()
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Logf("perfuse server said:\n%s", out)
		}
	})
	eventually(t, "the server is ready", func() bool {
		select {
		case <-s.ended:
			t.Fatalf("the server ended:\n%s", out)
		default:
		}
		resp, err := http.Get(s.url + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return s
}

func (s *server) stop() {
	_ = s.cmd.Process.Kill()
	<-s.ended
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("it does not come to be that %s", what)
		}
	}
}

// api is the server's own.
func (s *server) api() queryv1connect.QueryServiceClient {
	return queryv1connect.NewQueryServiceClient(http.DefaultClient, s.url)
}

// load sends folded text through Pyroscope's door: units of the type, at a time, over a minute.
func (s *server) load(t *testing.T, name, units string, at time.Time, folded string) {
	t.Helper()
	in := url.Values{"name": {name}, "units": {units}, "from": {fmt.Sprint(at.Unix())}, "until": {fmt.Sprint(at.Add(time.Minute).Unix())}}
	resp, err := http.Post(s.url+"/ingest?"+in.Encode(), "text/plain", strings.NewReader(folded))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		t.Fatalf("loading %s: %d %s", name, resp.StatusCode, body)
	}
}

// noon is the minute in which tests' profiles begin: some while ago, so that every step has ended.
var noon = time.Now().Add(-20 * time.Minute).Truncate(time.Minute)

// span is all that tests load.
func span() (from, to time.Time) { return noon.Add(-time.Minute), noon.Add(10 * time.Minute) }

// loadShop has two services in two zones, CPU time and memory in use, and a slower version after five minutes.
func (s *server) loadShop(t *testing.T) {
	t.Helper()
	for minute := range 8 {
		at := noon.Add(time.Duration(minute) * time.Minute)
		md5 := 600
		if minute >= 5 {
			md5 = 1800
		}
		for i, zone := range []string{"a", "b"} {
			s.load(t, fmt.Sprintf("api.cpu{zone=%s}", zone), "samples", at, fmt.Sprintf("main;handler;md5 %d\nmain;handler;read;vfs_read_[k] %d\nmain;gc 30\n", md5, 70*(i+1)))
		}
		s.load(t, "db.cpu{zone=a}", "samples", at, "main;scan 1000\nmain;handler;md5 50\n")
		s.load(t, "db.inuse_space{zone=a}", "bytes", at, "main;cache 4096\nmain;pool 1024\n")
	}
}

// loadSpans stores a profile whose samples were taken while spans of those costs in nanoseconds were served.
func (s *server) loadSpans(t *testing.T, service string, at time.Time, costs map[byte]int64) {
	t.Helper()
	d := profile.NewDictionary()
	p := profile.Profile{Type: profile.TypeCPU, Labels: profile.LabelsFromMap(map[string]string{profile.LabelServiceName: service}), TimeNanos: at.UnixNano(), DurationNanos: 10e9, Period: 10e6}
	stack := d.Stack(profile.Stack{d.Frame(profile.Frame{Lines: []profile.Line{{Function: d.Function(profile.Function{Name: "serve"})}}})})
	for span, cost := range costs {
		link := d.Link(profile.Link{TraceID: profile.TraceID{15: span}, SpanID: profile.SpanID{7: span}, SpanName: "GET /"})
		p.Samples = append(p.Samples, profile.Sample{Stack: stack, Link: link, Value: cost})
	}
	var body bytes.Buffer
	if err := profile.WritePprof(&body, &profile.Batch{Dictionary: d, Profiles: []profile.Profile{p}}); err != nil {
		t.Fatal(err)
	}
	q := url.Values{"name": {service}, "format": {"pprof"}, "from": {fmt.Sprint(at.Unix())}, "until": {fmt.Sprint(at.Unix() + 10)}}
	resp, err := http.Post(s.url+"/ingest?"+q.Encode(), "application/octet-stream", &body)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		t.Fatalf("storing spans: %s %s", resp.Status, text)
	}
}

func selection(typ, selector string) *queryv1.Selection {
	from, to := span()
	return &queryv1.Selection{ProfileType: typ, Selector: selector, StartUnixNano: from.UnixNano(), EndUnixNano: to.UnixNano()}
}
