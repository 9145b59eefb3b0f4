package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// instance is a perfuse process with a server in it.
type instance struct {
	cmd     *exec.Cmd
	address string
	said    *said
	ended   chan struct{} // closed when the process is gone
}

// said keeps the last of what a process says.
type said struct {
	sync.Mutex
	bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.Lock()
	defer s.Unlock()
	if s.Len() > 1<<20 {
		s.Reset()
	}
	return s.Buffer.Write(p)
}

func (s *said) String() string {
	s.Lock()
	defer s.Unlock()
	return s.Buffer.String()
}

// start starts `perfuse command` on a storage path and waits until it is ready. What it says is logged if the test fails.
func start(t *testing.T, command, address, storage string, args ...string) *instance {
	t.Helper()
	in := launch(t, append([]string{command, "--http-address", address, "--storage-path", storage}, args...)...)
	in.address = address
	in.ready(t)
	return in
}

// launch starts perfuse, ready or not, and kills it at the end of the test.
func launch(t *testing.T, args ...string) *instance {
	t.Helper()
	in := &instance{cmd: exec.Command(program(t, "perfuse"), args...), said: &said{}, ended: make(chan struct{})}
	in.cmd.Stdout, in.cmd.Stderr = in.said, in.said
	if err := in.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = in.cmd.Wait()
		close(in.ended)
	}()
	t.Cleanup(func() {
		in.kill()
		if t.Failed() {
			t.Logf("perfuse %s said:\n%s", strings.Join(args, " "), in.said)
		}
	})
	return in
}

// kill ends the process as a power cut would.
func (in *instance) kill() {
	_ = in.cmd.Process.Kill()
	<-in.ended
}

// stop ends the process as systemd would, and fails the test if that takes too long.
func (in *instance) stop(t *testing.T) {
	t.Helper()
	if err := in.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	in.waitEnd(t, 15*time.Second)
	if code := in.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("perfuse ended with status %d", code)
	}
}

func (in *instance) waitEnd(t *testing.T, limit time.Duration) {
	t.Helper()
	select {
	case <-in.ended:
	case <-time.After(limit):
		t.Fatalf("perfuse still runs after %s:\n%s", limit, in.said)
	}
}

// alive fails the test if the process is gone or does not answer.
func (in *instance) alive(t *testing.T) {
	t.Helper()
	select {
	case <-in.ended:
		t.Fatalf("perfuse is gone: %s", in.cmd.ProcessState)
	default:
	}
	if status, body := in.get(t, "/healthz"); status != http.StatusOK {
		t.Fatalf("/healthz answers %d: %s", status, body)
	}
}

func (in *instance) ready(t *testing.T) {
	t.Helper()
	eventually(t, 30*time.Second, "perfuse is ready", func() bool {
		select {
		case <-in.ended:
			t.Fatalf("perfuse ended: %s\n%s", in.cmd.ProcessState, in.said)
		default:
		}
		response, err := http.Get(in.url("/readyz"))
		if err != nil {
			return false
		}
		defer response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
}

func (in *instance) url(path string) string { return "http://" + in.address + path }

func (in *instance) get(t *testing.T, path string) (int, string) {
	t.Helper()
	response, err := http.Get(in.url(path))
	if err != nil {
		t.Fatalf("asking for %s: %v", path, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 16<<20))
	if err != nil {
		t.Fatalf("asking for %s: %v", path, err)
	}
	return response.StatusCode, string(body)
}

// export sends an OTLP request over HTTP. A status of 0 means that no answer came.
func (in *instance) export(body []byte, header ...string) (int, string) {
	return in.post("/v1development/profiles", bytes.NewReader(body), append([]string{"Content-Type", "application/x-protobuf"}, header...)...)
}

func (in *instance) post(path string, body io.Reader, header ...string) (int, string) {
	request, err := http.NewRequest(http.MethodPost, in.url(path), body)
	if err != nil {
		return 0, err.Error()
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(answer)
}

// profilectl runs a command line against the instance and returns what it prints.
func (in *instance) profilectl(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(t, "profilectl"), append([]string{"--server", in.url("")}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("profilectl %s: %v\n%s", strings.Join(args, " "), err, errs.String())
	}
	return out.String()
}

// folded returns a service's samples: stack → value.
func (in *instance) folded(t *testing.T, service, profileType string) map[string]int64 {
	t.Helper()
	out := in.profilectl(t, "query", fmt.Sprintf("{service_name=%q}", service), "--type", profileType, "--from", "0", "-o", "folded")
	stacks := map[string]int64{}
	for line := range strings.Lines(out) {
		stack, value, ok := cutLast(strings.TrimSpace(line))
		n, err := strconv.ParseInt(value, 10, 64)
		if !ok || err != nil {
			t.Fatalf("%q is no folded stack", line)
		}
		stacks[stack] += n
	}
	return stacks
}

func cutLast(line string) (before, after string, ok bool) {
	at := strings.LastIndexByte(line, ' ')
	if at < 0 {
		return line, "", false
	}
	return line[:at], line[at+1:], true
}

// freeAddress returns an address on loopback that nobody listens on now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// eventually waits for a condition of another process, which has no event to wait for.
func eventually(t *testing.T, limit time.Duration, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(limit)
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("after %s it is not so that %s", limit, what)
		}
	}
}

// profilectlLines is what a command line prints; none if it says that there is nothing (exit status 1).
func (in *instance) profilectlLines(t *testing.T, args ...string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program(t, "profilectl"), append([]string{"--server", in.url("")}, args...)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil && cmd.ProcessState.ExitCode() != 1 {
		t.Fatalf("profilectl %s: %v\n%s", strings.Join(args, " "), err, errs.String())
	}
	return slices.Collect(strings.Lines(string(out)))
}

// value is the sum of a service's samples, 0 if there is none.
func (in *instance) value(t *testing.T, service, profileType string) (sum int64) {
	t.Helper()
	for _, line := range in.profilectlLines(t, "query", fmt.Sprintf("{service_name=%q}", service), "--type", profileType, "--from", "0", "-o", "folded") {
		_, value, _ := cutLast(strings.TrimSpace(line))
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			t.Fatalf("%q is no folded stack", line)
		}
		sum += n
	}
	return sum
}

// rss is the process's resident memory in bytes.
func (in *instance) rss(t *testing.T) int64 {
	t.Helper()
	data, err := os.ReadFile("/proc/" + itoa(in.cmd.Process.Pid) + "/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(data))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

func itoa(n int) string { return strconv.Itoa(n) }
