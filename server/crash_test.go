package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/frost"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/profiles/v1development"
)

const (
	crashDirEnv = "PERFUSE_TEST_CRASH_DIR"
	crashHowEnv = "PERFUSE_TEST_CRASH_HOW"
)

// How the child of TestCrashBeforeAnswer ends.
const (
	crashNever   = "never"
	crashWritten = "written" // the profiles are in the log
	crashFlushed = "flushed" // they are in a block
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDirEnv); dir != "" {
		if err := crashingServer(dir, os.Getenv(crashHowEnv)); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// crashingStore ends the process after its first write, before anybody hears of it.
type crashingStore struct {
	*frost.Store
	how string
}

func (c *crashingStore) Write(ctx context.Context, b *profile.Batch) error {
	if err := c.Store.Write(ctx, b); err != nil || c.how == crashNever {
		return err
	}
	if c.how == crashFlushed {
		if err := c.Flush(ctx); err != nil {
			return err
		}
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		return err
	}
	select {}
}

// crashOptions make a block of every few profiles.
func crashOptions(dir string) frost.Options {
	return frost.Options{Dir: dir, Retention: -1, HeadBytes: 400, SegmentBytes: 300}
}

func crashingServer(dir, how string) error {
	s, err := New(Options{HTTPAddress: "127.0.0.1:0", OTLPAddresses: []string{}, Open: func(context.Context) (Backends, error) {
		store, err := frost.New(crashOptions(dir))
		if err != nil {
			return Backends{}, err
		}
		return Backends{Store: &crashingStore{store, how}}, nil
	}})
	if err != nil {
		return err
	}
	fmt.Println(s.Addr())
	return s.Run(context.Background())
}

// startCrashing runs a server in a process of its own until it crashes or stop ends it.
func startCrashing(t *testing.T, dir, how string) (client collectorv1.ProfilesServiceClient, stop func()) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), crashDirEnv+"="+dir, crashHowEnv+"="+how)
	var stderr strings.Builder
	child.Stderr = &stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the server does not start: %v\n%s", err, stderr.String())
	}
	r := running{url: "http://" + strings.TrimSpace(address)}
	r.awaitReady(t)
	return otlp(t, strings.TrimSpace(address)), func() {
		t.Helper()
		if how == crashNever {
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		_, _ = io.Copy(io.Discard, out)
		var exit *exec.ExitError
		if err := child.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("the server ended otherwise than it should: %v\n%s", err, stderr.String())
		}
	}
}

// storedSamples opens what a server left and adds up its samples, of counts and of CPU time.
func storedSamples(t *testing.T, dir string) (sums [2]int64) {
	t.Helper()
	s, err := frost.New(crashOptions(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i, typ := range []profile.Type{profile.TypeCPUSamples, profile.TypeCPU} {
		b, err := s.Merge(t.Context(), storage.Selection{Type: &typ}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for j := range b.Profiles {
			sums[i] += b.Profiles[j].Total()
		}
	}
	return sums
}

// TestCrashBeforeAnswer kills the server between the durable write and its answer, in turns with the profiles in
// the log and in a block, and sends them again to the next one, which dies in the same moment of the next request.
// Every sample is there exactly once at each step.
func TestCrashBeforeAnswer(t *testing.T) {
	const rounds = 12
	dir := t.TempDir()
	numbered := func(i int) *collectorv1.ExportProfilesServiceRequest {
		req := request(fmt.Sprintf("web-%d", i%3), 4)
		req.ResourceProfiles[0].ScopeProfiles[0].Profiles[0].ProfileId = []byte(fmt.Sprintf("delivery %07d", i))
		return req
	}
	check := func(what string, n int64) {
		t.Helper()
		// 4 and 2 samples at 10 ms.
		if got, want := storedSamples(t, dir), ([2]int64{6 * n, 60_000_000 * n}); got != want {
			t.Fatalf("%s: %v samples and nanoseconds are stored, want %v", what, got, want)
		}
	}
	for i := range rounds {
		client, stop := startCrashing(t, dir, []string{crashWritten, crashFlushed}[i/2%2])
		for j := range i { // all of them, the last one for the first time
			if _, err := client.Export(t.Context(), numbered(j)); err != nil {
				t.Fatalf("round %d: sending %d again: %v", i, j, err)
			}
		}
		if _, err := client.Export(t.Context(), numbered(i)); err == nil {
			t.Fatalf("round %d: the server answered", i)
		}
		stop()
		check(fmt.Sprintf("killed %d times", i+1), int64(i+1))
	}
	client, stop := startCrashing(t, dir, crashNever)
	again := numbered(0) // as one of all in one request, beside a new one
	for i := 1; i <= rounds; i++ {
		again.ResourceProfiles = append(again.ResourceProfiles, numbered(i).ResourceProfiles...)
	}
	for range 2 {
		if _, err := client.Export(t.Context(), again); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // without an ID nobody can tell
		if _, err := client.Export(t.Context(), request("web-0", 4)); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	check("at the end", rounds+1+2)
}
