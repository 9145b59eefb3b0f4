package ship

import (
	"errors"
	"testing"
	"time"

	"connectrpc.com/connect"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/profiles/v1development"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

func TestJudge(t *testing.T) {
	f := func(code connect.Code, retry *errdetails.RetryInfo, want verdict) {
		t.Helper()
		err := connect.NewError(code, errors.New("x"))
		if retry != nil {
			d, detailErr := connect.NewErrorDetail(retry)
			if detailErr != nil {
				t.Fatal(detailErr)
			}
			err.AddDetail(d)
		}
		if got := judge(err); got != want {
			t.Errorf("%s %v: %+v, want %+v", code, retry, got, want)
		}
	}
	in := func(d time.Duration) *errdetails.RetryInfo {
		return &errdetails.RetryInfo{RetryDelay: durationpb.New(d)}
	}
	f(connect.CodeUnavailable, nil, verdict{})
	f(connect.CodeUnavailable, in(1500*time.Millisecond), verdict{after: 1500 * time.Millisecond})
	f(connect.CodeUnavailable, in(time.Hour), verdict{after: maxRetryAfter})
	f(connect.CodeUnavailable, in(-time.Hour), verdict{after: maxRetryAfter})
	f(connect.CodeResourceExhausted, nil, verdict{permanent: true})
	f(connect.CodeResourceExhausted, in(time.Second), verdict{after: time.Second})
	f(connect.CodeInvalidArgument, nil, verdict{permanent: true})
	f(connect.CodeUnauthenticated, nil, verdict{})
	f(connect.CodePermissionDenied, nil, verdict{})
	f(connect.CodeUnimplemented, nil, verdict{})
	f(connect.CodeDeadlineExceeded, nil, verdict{})
	f(connect.CodeInternal, nil, verdict{})
	if v := judge(errors.New("no connection")); v.permanent {
		t.Error("an error of the network is permanent")
	}
}

func TestBackoff(t *testing.T) {
	var b backoff
	base := firstBackoff
	for range 20 {
		if d := b.wait(verdict{}); d < base/2 || d >= base*3/2 {
			t.Errorf("%v around %v", d, base)
		}
		base = min(2*base, lastBackoff)
	}
	if d := b.wait(verdict{after: time.Minute}); d != time.Minute {
		t.Errorf("the server wants a minute, gets %v", d)
	}
	b.reset()
	if d := b.wait(verdict{}); d >= firstBackoff*3/2 {
		t.Errorf("after success %v", d)
	}
}

// The server's word on when to come back counts.
func TestRetryInfo(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	var refused, accepted time.Time
	c.answer = func(n int, _ *collectorv1.ExportProfilesServiceRequest) error {
		if n > 1 {
			accepted = time.Now()
			return nil
		}
		refused = time.Now()
		st, err := status.New(codes.ResourceExhausted, "busy").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(1200 * time.Millisecond)})
		if err != nil {
			t.Error(err)
		}
		return st.Err()
	}
	s := newShip(t, Options{Address: c.address})
	run(t, s)
	send(t, s, 0, 1)
	c.check(1)
	if d := accepted.Sub(refused); d < 1200*time.Millisecond {
		t.Errorf("came back after %v", d)
	}
}

func TestPartialSuccess(t *testing.T) {
	b, err := proto.Marshal(&collectorv1.ExportProfilesServiceResponse{PartialSuccess: &collectorv1.ExportProfilesPartialSuccess{RejectedProfiles: 3, ErrorMessage: "no"}})
	if err != nil {
		t.Fatal(err)
	}
	if n, reason := partialSuccess(b); n != 3 || reason != "no" {
		t.Errorf("%d %q", n, reason)
	}
}

func TestServerURL(t *testing.T) {
	f := func(address string, insecure bool, want string) {
		t.Helper()
		got, err := serverURL(address, insecure)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q, %v: %q %v", address, insecure, got, err)
		}
	}
	f("a:7070", true, "http://a:7070")
	f("a:7070", false, "https://a:7070")
	f("[::1]:1", true, "http://[::1]:1")
	f("http://a:1/", true, "http://a:1")
	f("https://a/x", false, "https://a/x")
	f("http://a:1", false, "error")
	f("https://a:1", true, "error")
	f("", true, "error")
	f("a", true, "error")
	f("unix:/x", true, "error")
}
