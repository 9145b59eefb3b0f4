package ship

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"github.com/go-kit/log"

	fleetv1 "github.com/perfuse/perfuse/proto/perfuse/fleet/v1"
	"github.com/perfuse/perfuse/proto/perfuse/fleet/v1/fleetv1connect"
)

// listener is a server that hears reports at the times of a synctest bubble.
type listener struct {
	begun    time.Time
	heard    []time.Duration // since begun
	last     *fleetv1.Report
	interval time.Duration
	err      error
}

func (l *listener) hear(_ context.Context, r *fleetv1.Report) (time.Duration, error) {
	l.heard, l.last = append(l.heard, time.Since(l.begun)), r
	return l.interval, l.err
}

// reporting runs a Reporter for a while beside f.
func reporting(t *testing.T, l *listener, f func(r *Reporter, end func())) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l.begun = time.Now()
		r := &Reporter{
			opts: ReporterOptions{Interval: 15 * time.Second, Logger: log.NewNopLogger(), Report: func() *fleetv1.Report { return &fleetv1.Report{} }},
			send: l.hear, soon: make(chan struct{}, 1),
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		f(r, func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run returned %v", err)
			}
		})
	})
}

// TestReporterInterval: at once, then every interval that the server wants, within a tenth.
func TestReporterInterval(t *testing.T) {
	l := &listener{}
	reporting(t, l, func(r *Reporter, end func()) {
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := len(l.heard); n < 36 || n > 45 || l.heard[0] != 0 {
			t.Errorf("%d reports in ten minutes, the first after %s", n, l.heard[0])
		}
		even := true
		for i := 1; i < len(l.heard); i++ {
			d := l.heard[i] - l.heard[i-1]
			if d < 13500*time.Millisecond || d > 16500*time.Millisecond {
				t.Errorf("%s between two reports", d)
			}
			even = even && d == l.heard[1]-l.heard[0]
		}
		if even {
			t.Error("the reports of a fleet that starts together would come together for ever")
		}
		l.interval = 2 * time.Minute
		time.Sleep(17 * time.Second) // one more comes as before, and hears it
		synctest.Wait()
		before := len(l.heard)
		time.Sleep(20 * time.Minute)
		synctest.Wait()
		if n := len(l.heard) - before; n < 9 || n > 12 {
			t.Errorf("%d reports in twenty minutes, want one in two", n)
		}
		end()
		r.Last(t.Context())
		if !l.last.Stopping {
			t.Error("the last word is none")
		}
	})
}

// TestReporterSoon: after a problem a report comes at once, but never more than one in three seconds.
func TestReporterSoon(t *testing.T) {
	l := &listener{interval: time.Minute}
	reporting(t, l, func(r *Reporter, end func()) {
		time.Sleep(30 * time.Second)
		r.Soon()
		synctest.Wait()
		if n := len(l.heard); n != 2 || l.heard[1] != 30*time.Second {
			t.Fatalf("reports came at %v, want one more at once", l.heard)
		}
		for range 300 {
			r.Soon()
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		if n := len(l.heard); n < 10 || n > 13 {
			t.Errorf("%d reports in half a minute full of problems", n)
		}
		end()
	})
}

// TestReporterOldServer: a server without the service is asked seldom, whatever happens.
func TestReporterOldServer(t *testing.T) {
	l := &listener{err: connect.NewError(connect.CodeUnimplemented, errors.New("no such procedure"))}
	reporting(t, l, func(r *Reporter, end func()) {
		for range 600 {
			r.Soon()
			time.Sleep(6 * time.Second)
		}
		synctest.Wait()
		if n := len(l.heard); n != 6 && n != 7 {
			t.Errorf("%d reports in an hour, want one in ten minutes", n)
		}
		l.err = nil // it was replaced
		time.Sleep(11 * time.Minute)
		synctest.Wait()
		if n := len(l.heard); n < 8 {
			t.Errorf("%d reports: the new server hears nothing", n)
		}
		end()
	})
}

// TestReporterAway: a server that is away is tried again at once at first and then every interval, and one that wants to
// be left alone is.
func TestReporterAway(t *testing.T) {
	l := &listener{err: connect.NewError(connect.CodeUnavailable, errors.New("starting"))}
	reporting(t, l, func(r *Reporter, end func()) {
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if n := len(l.heard); n < 2 {
			t.Errorf("%d tries in three seconds", n)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(l.heard); n < 200 || n > 600 {
			t.Errorf("%d tries in an hour", n)
		}
		end()
	})
}

// TestReporterAgainstAnOlderServer: what a real server without the service answers is understood.
func TestReporterAgainstAnOlderServer(t *testing.T) {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	defer s.Close()
	sender, err := New(Options{Address: s.Listener.Addr().String(), Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	r := sender.NewReporter(ReporterOptions{Report: func() *fleetv1.Report { return &fleetv1.Report{Instance: "1"} }})
	if pause := r.tell(t.Context(), r.opts.Report()); pause != oldServer {
		t.Errorf("it is asked again after %s", pause)
	}
}

// ear is the service, and remembers.
type ear struct {
	fleetv1connect.UnimplementedFleetServiceHandler
	instance, token string
}

func (e *ear) Report(ctx context.Context, req *fleetv1.ReportRequest) (*fleetv1.ReportResponse, error) {
	info, _ := connect.CallInfoForHandlerContext(ctx)
	e.instance, e.token = req.GetReport().GetInstance(), info.RequestHeader().Get("Authorization")
	return &fleetv1.ReportResponse{IntervalNano: int64(time.Minute)}, nil
}

// TestReporterToken: a report carries the headers that profiles do, and the answer's interval holds.
func TestReporterToken(t *testing.T) {
	e := &ear{}
	mux := http.NewServeMux()
	mux.Handle(fleetv1connect.NewFleetServiceHandler(e))
	s := httptest.NewUnstartedServer(mux)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	defer s.Close()
	sender, err := New(Options{Address: s.Listener.Addr().String(), Insecure: true, Headers: map[string]string{"Authorization": "Bearer abc"}})
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	r := sender.NewReporter(ReporterOptions{Report: func() *fleetv1.Report { return &fleetv1.Report{Instance: "1"} }})
	pause := r.tell(t.Context(), r.opts.Report())
	if e.instance != "1" || e.token != "Bearer abc" || pause < 54*time.Second || pause > 66*time.Second {
		t.Errorf("heard instance %q with %q; the next in %s", e.instance, e.token, pause)
	}
}
