package ship

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perfuse/perfuse/profile"
	"github.com/prometheus/client_golang/prometheus"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/profiles/v1development"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // as every collector has it; zstd is not there
	"google.golang.org/grpc/status"
)

// collector is an OTLP server made of grpc-go, as OpenTelemetry's own is. It notes what it took.
type collector struct {
	collectorv1.UnimplementedProfilesServiceServer
	t       testing.TB
	address string
	server  *grpc.Server

	mu      sync.Mutex
	changed chan struct{}
	// answer decides on a call; nil takes everything. n counts calls from 1.
	answer func(n int, req *collectorv1.ExportProfilesServiceRequest) error
	calls  int
	ids    map[string]bool
	took   []string // service names, in order, each id once
	again  int      // profiles that came twice
}

func newCollector(t testing.TB) *collector {
	c := &collector{t: t, changed: make(chan struct{}), ids: map[string]bool{}}
	c.start()
	t.Cleanup(func() { c.stop() })
	return c
}

func (c *collector) start() {
	c.t.Helper()
	address := c.address
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		c.t.Fatal(err)
	}
	c.address = l.Addr().String()
	c.server = grpc.NewServer()
	collectorv1.RegisterProfilesServiceServer(c.server, c)
	go c.server.Serve(l)
}

func (c *collector) stop() { c.server.Stop() }

func (c *collector) Export(_ context.Context, req *collectorv1.ExportProfilesServiceRequest) (*collectorv1.ExportProfilesServiceResponse, error) {
	c.mu.Lock()
	c.calls++
	n, answer := c.calls, c.answer
	c.mu.Unlock()
	var err error
	if answer != nil {
		err = answer(n, req)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() { close(c.changed); c.changed = make(chan struct{}) }()
	if err != nil && err != errAfterTaking {
		return nil, err
	}
	for _, r := range req.ResourceProfiles {
		for _, s := range r.ScopeProfiles {
			for _, p := range s.Profiles {
				if c.ids[string(p.ProfileId)] {
					c.again++
					continue
				}
				c.ids[string(p.ProfileId)] = true
				for _, a := range r.Resource.Attributes {
					if a.Key == "service.name" {
						c.took = append(c.took, a.Value.GetStringValue())
					}
				}
			}
		}
	}
	if err != nil {
		return nil, err
	}
	return &collectorv1.ExportProfilesServiceResponse{}, nil
}

// errAfterTaking is an answer that gets lost although the server took the profiles.
var errAfterTaking = status.Error(codes.Unavailable, "the connection broke")

// wait returns when a condition on the collector holds.
func (c *collector) wait(what string, f func() bool) {
	c.t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		c.mu.Lock()
		ok, changed := f(), c.changed
		took := len(c.took)
		c.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			c.t.Fatalf("never happened: %s (took %d)", what, took)
		}
	}
}

func service(i int) string { return fmt.Sprintf("service-%04d", i) }

// batch is one profile of one sample.
func batch(name string) *profile.Batch {
	d := profile.NewDictionary()
	f := d.Function(profile.Function{Name: "main"})
	s := d.Stack(profile.Stack{d.Frame(profile.Frame{Lines: []profile.Line{{Function: f}}})})
	return &profile.Batch{Dictionary: d, Profiles: []profile.Profile{{
		Type: profile.TypeCPU, Labels: profile.NewLabels(profile.Label{Name: profile.LabelServiceName, Value: name}),
		TimeNanos: 1, DurationNanos: 2, Period: 3, Samples: []profile.Sample{{Stack: s, Value: 4}},
	}}}
}

func newShip(t testing.TB, opts Options) *T {
	t.Helper()
	opts.Insecure = true
	s, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// run starts Run; stop ends it.
func run(t testing.TB, s *T) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func send(t testing.TB, s *T, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if err := s.Send(t.Context(), batch(service(i))); err != nil {
			t.Fatal(err)
		}
	}
}

// check says that services 0 to n came once each and in order.
func (c *collector) check(n int) {
	c.t.Helper()
	c.wait(fmt.Sprintf("%d profiles", n), func() bool { return len(c.took) >= n })
	c.mu.Lock()
	defer c.mu.Unlock()
	var want []string
	for i := range n {
		want = append(want, service(i))
	}
	if !slices.Equal(c.took, want) {
		c.t.Errorf("the collector took\n%v\nwant %d, in order", c.took, n)
	}
}

func TestDeliver(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	s := newShip(t, Options{Address: c.address, SpoolDir: t.TempDir()})
	run(t, s)
	send(t, s, 0, 20)
	c.check(20)
	if err := s.Flush(t.Context()); err != nil {
		t.Error(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// grpc-go without zstd refuses the first call before our handler sees it; from then on gzip is used.
	if c.calls != 20 || c.again != 0 || !s.exporter.noZstd {
		t.Errorf("%d calls, %d duplicates, zstd refused: %v", c.calls, c.again, s.exporter.noZstd)
	}
}

// A server that goes away and comes back gets everything, once, in order: also what was sent while it was
// away, and what was on its way when it went.
func TestServerGoesAndReturns(t *testing.T) {
	t.Parallel()
	for _, spool := range []bool{true, false} {
		t.Run(fmt.Sprintf("spool=%v", spool), func(t *testing.T) {
			t.Parallel()
			c := newCollector(t)
			opts := Options{Address: c.address}
			if spool {
				opts.SpoolDir = t.TempDir()
			}
			s := newShip(t, opts)
			run(t, s)
			send(t, s, 0, 10)
			c.check(10)
			c.stop()
			send(t, s, 10, 200)
			c.start()
			c.check(200)
			send(t, s, 200, 210)
			c.check(210)
		})
	}
}

// Calls that fail at random, also after the server has taken the profiles, change nothing.
func TestFlakyServer(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	c.answer = func(n int, _ *collectorv1.ExportProfilesServiceRequest) error {
		switch n % 7 {
		case 1:
			return status.Error(codes.Unavailable, "later")
		case 3:
			return errAfterTaking
		}
		return nil
	}
	s := newShip(t, Options{Address: c.address, SpoolDir: t.TempDir()})
	run(t, s)
	send(t, s, 0, 6)
	c.check(6)
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c.again == 0 {
		t.Error("nothing came twice; the test does not test")
	}
}

// What was not delivered survives the end of the agent.
func TestRestart(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	c.stop()
	opts := Options{Address: c.address, SpoolDir: t.TempDir()}
	s := newShip(t, opts)
	stop := run(t, s)
	send(t, s, 0, 30)
	if _, err := New(Options{Address: c.address, Insecure: true, SpoolDir: opts.SpoolDir}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second agent with the same spool: %v", err)
	}
	stop()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Send(t.Context(), batch("late")); err != ErrClosed {
		t.Errorf("sending after Close: %v", err)
	}
	s = newShip(t, opts)
	send(t, s, 30, 40)
	c.start()
	run(t, s)
	c.check(40)
}

// A message that the server refuses for good does not stand in the way of others; one that it cannot take
// now does.
func TestRefused(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	c.answer = func(_ int, req *collectorv1.ExportProfilesServiceRequest) error {
		if req.ResourceProfiles[0].Resource.Attributes[0].Value.GetStringValue() == service(99) {
			return status.Error(codes.InvalidArgument, "profile without sense")
		}
		return nil
	}
	s := newShip(t, Options{Address: c.address, SpoolDir: t.TempDir()})
	run(t, s)
	send(t, s, 99, 100)
	send(t, s, 0, 3)
	c.check(3)
}

// A slow server does not stop Send, and a queue that is full goes to the spool, nothing is lost.
func TestSlowServer(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	gate := make(chan struct{})
	c.answer = func(n int, _ *collectorv1.ExportProfilesServiceRequest) error { <-gate; return nil }
	s := newShip(t, Options{Address: c.address, SpoolDir: t.TempDir(), QueueBytes: 2000})
	run(t, s)
	send(t, s, 0, 100)
	s.mu.Lock()
	if s.queued > 2000 {
		t.Errorf("%d bytes in memory", s.queued)
	}
	s.mu.Unlock()
	close(gate)
	c.check(100)
}

// A server that never answers is given up and asked again.
func TestHangingServer(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	gate := make(chan struct{})
	t.Cleanup(func() { close(gate) })
	c.answer = func(n int, _ *collectorv1.ExportProfilesServiceRequest) error {
		if n == 1 {
			<-gate
		}
		return nil
	}
	s := newShip(t, Options{Address: c.address, SpoolDir: t.TempDir(), Timeout: 300 * time.Millisecond})
	run(t, s)
	send(t, s, 0, 5)
	c.check(5)
}

// What is too much is dropped from the oldest end, counted, and the rest arrives in order.
func TestFull(t *testing.T) {
	t.Parallel()
	for _, spool := range []bool{true, false} {
		t.Run(fmt.Sprintf("spool=%v", spool), func(t *testing.T) {
			t.Parallel()
			c := newCollector(t)
			c.stop()
			reg := prometheus.NewPedanticRegistry()
			opts := Options{Address: c.address, QueueBytes: 4000, Registerer: reg}
			if spool {
				opts.SpoolDir, opts.SpoolMaxBytes = t.TempDir(), 40_000
			}
			s := newShip(t, opts)
			stop := run(t, s)
			const n = 400
			send(t, s, 0, n)
			stop()
			left, size := len(s.queue), s.queued
			if spool {
				// What is in memory because a try was on its way goes to the spool.
				s.mu.Lock()
				s.spill()
				left, size = s.spool.size()
				s.mu.Unlock()
			}
			if size > 40_000 || left == 0 {
				t.Fatalf("%d messages of %d bytes are left", left, size)
			}
			dropped := n - left
			if got := counter(t, reg, "perfuse_ship_dropped_batches_total"); got != float64(dropped) || dropped == 0 {
				t.Errorf("%v counted as dropped, %d are gone", got, dropped)
			}
			c.start()
			run(t, s)
			c.wait("the rest", func() bool { return len(c.took) == left })
			for i, name := range c.took {
				// The one that is on its way stays when memory runs full, whichever it is.
				if name != service(dropped+i) && (i > 0 || spool || name > service(dropped)) {
					t.Fatalf("number %d is %s, want %s", i, name, service(dropped+i))
				}
			}
		})
	}
}

func counter(t *testing.T, reg *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// The agent is killed: what Send had taken while the server was away is there after the restart.
func TestKill(t *testing.T) {
	if dir := os.Getenv("PERFUSE_TEST_KILL"); dir != "" {
		s, err := New(Options{Address: os.Getenv("PERFUSE_TEST_ADDRESS"), Insecure: true, SpoolDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		go s.Run(t.Context())
		for i := 0; ; i++ {
			if err := s.Send(t.Context(), batch(service(i))); err != nil {
				t.Fatal(err)
			}
			s.mu.Lock()
			spooled := len(s.queue) == 0
			s.mu.Unlock()
			if spooled {
				fmt.Printf("sent %d\n", i)
			}
		}
	}
	c := newCollector(t)
	c.stop()
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
	cmd.Env = append(os.Environ(), "PERFUSE_TEST_KILL="+dir, "PERFUSE_TEST_ADDRESS="+c.address)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	last := -1
	lines := bufio.NewScanner(out)
	for last < 300 && lines.Scan() {
		fmt.Sscanf(lines.Text(), "sent %d", &last)
	}
	cmd.Process.Kill()
	for lines.Scan() { // what it said before it died
		fmt.Sscanf(lines.Text(), "sent %d", &last)
	}
	cmd.Wait()
	if last < 300 {
		t.Fatalf("the agent came to %d", last)
	}
	s := newShip(t, Options{Address: c.address, SpoolDir: dir})
	c.start()
	run(t, s)
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.took) <= last {
		t.Errorf("%d came, %d were sent", len(c.took), last+1)
	}
	for i, name := range c.took {
		if name != service(i) {
			t.Fatalf("number %d is %s", i, name)
		}
	}
}
