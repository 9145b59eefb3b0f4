package ingest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/server/limits"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/storagetest"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/profiles/v1development"
	profilesv1 "go.opentelemetry.io/proto/otlp/profiles/v1development"
	"google.golang.org/protobuf/proto"
)

// gatedStore is a store whose writes wait for the test to say how they end.
type gatedStore struct {
	storagetest.Model
	arrived chan struct{}
	result  chan error
}

func (g *gatedStore) Write(ctx context.Context, b *profile.Batch) error {
	g.arrived <- struct{}{}
	select {
	case err := <-g.result:
		if err != nil {
			return err
		}
		return g.Model.Write(ctx, b)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *gatedStore) total(t *testing.T) int64 {
	t.Helper()
	counts := profile.Type{Name: "unknown", SampleType: "samples", SampleUnit: "count"}
	b, err := g.Merge(t.Context(), storage.Selection{Type: &counts}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var n int64
	for i := range b.Profiles {
		n += b.Profiles[i].Total()
	}
	return n
}

func withID(ids ...string) *collectorv1.ExportProfilesServiceRequest {
	sp := &profilesv1.ScopeProfiles{}
	for _, id := range ids {
		sp.Profiles = append(sp.Profiles, &profilesv1.Profile{
			ProfileId: []byte(id), TimeUnixNano: uint64(testNow.UnixNano()), Samples: []*profilesv1.Sample{{Values: []int64{1}}},
		})
	}
	return &collectorv1.ExportProfilesServiceRequest{ResourceProfiles: []*profilesv1.ResourceProfiles{{ScopeProfiles: []*profilesv1.ScopeProfiles{sp}}}}
}

func newGatedStore(t *testing.T, window int) (*gatedStore, *Ingester) {
	t.Helper()
	g := &gatedStore{arrived: make(chan struct{}, 10), result: make(chan error, 10)}
	in, err := New(Options{Store: g, Window: window, Now: func() time.Time { return testNow }})
	if err != nil {
		t.Fatal(err)
	}
	return g, in
}

// TestSeenAgain: a profile that was stored is acknowledged and not stored again; what has no id always is.
func TestSeenAgain(t *testing.T) {
	g, in := newGatedStore(t, 3)
	f := func(total int64, writes bool, ids ...string) {
		t.Helper()
		if writes {
			g.result <- nil
		}
		if err := in.Export(t.Context(), withID(ids...)); err != nil {
			t.Fatal(err)
		}
		if writes {
			<-g.arrived
		}
		if got := g.total(t); got != total {
			t.Errorf("after %q: %d samples, want %d", ids, got, total)
		}
	}
	none := string(make([]byte, 16))
	f(1, true, "aaaaaaaaaaaaaaaa")
	f(1, false, "aaaaaaaaaaaaaaaa")
	f(2, true, "aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb")
	f(2, false, "bbbbbbbbbbbbbbbb", "aaaaaaaaaaaaaaaa")
	f(3, true, "")
	f(4, true, "")
	f(5, true, none)
	f(6, true, none)
	// Three are remembered: with c, d and e, a and b are forgotten.
	f(9, true, "cccccccccccccccc", "dddddddddddddddd", "eeeeeeeeeeeeeeee")
	f(9, false, "eeeeeeeeeeeeeeee")
	f(10, true, "aaaaaaaaaaaaaaaa")
	// One id for profiles that differ: a profiler that took them at one moment.
	req := withID("ffffffffffffffff", "ffffffffffffffff")
	req.ResourceProfiles[0].ScopeProfiles[0].Profiles[1].Samples[0].Values[0] = 7
	g.result <- nil
	if err := in.Export(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if got := g.total(t); got != 18 {
		t.Errorf("%d samples, want 18", got)
	}
}

// TestSeenInFlight: a second attempt waits for the first; if that fails, it stores the profile itself.
func TestSeenInFlight(t *testing.T) {
	broken := errors.New("disk on fire")
	for _, c := range []struct {
		first          error
		writes         int
		total          int64
		wantSecondErrs bool
	}{
		{first: nil, writes: 1, total: 1},
		{first: broken, writes: 2, total: 1},
	} {
		t.Run(fmt.Sprint(c.first), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, in := newGatedStore(t, 100)
				errs := make(chan error, 2)
				go func() { errs <- in.Export(t.Context(), withID("aaaaaaaaaaaaaaaa")) }()
				<-g.arrived
				go func() { errs <- in.Export(t.Context(), withID("aaaaaaaaaaaaaaaa")) }()
				synctest.Wait() // the second waits for the first
				if len(errs) != 0 || len(g.arrived) != 0 {
					t.Fatal("the second attempt did not wait for the first")
				}
				g.result <- c.first
				if err := <-errs; !errors.Is(err, c.first) {
					t.Fatalf("first attempt: %v, want %v", err, c.first)
				}
				if c.writes == 2 {
					<-g.arrived
					g.result <- nil
				}
				if err := <-errs; err != nil {
					t.Fatalf("second attempt: %v", err)
				}
				if got := g.total(t); got != c.total {
					t.Errorf("%d samples, want %d", got, c.total)
				}
			})
		})
	}
}

// TestSeenCrosswise: two requests with the same two profiles in opposite order do not wait for each other,
// and one whose client leaves while it waits lets go of nothing it does not have.
func TestSeenCrosswise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, in := newGatedStore(t, 100)
		errs := make(chan error, 3)
		go func() { errs <- in.Export(t.Context(), withID("aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb")) }()
		go func() { errs <- in.Export(t.Context(), withID("bbbbbbbbbbbbbbbb", "aaaaaaaaaaaaaaaa")) }()
		<-g.arrived
		ctx, leave := context.WithCancel(t.Context())
		left := make(chan error)
		go func() { left <- in.Export(ctx, withID("aaaaaaaaaaaaaaaa")) }()
		synctest.Wait()
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("client left: %v", err)
		}
		g.result <- nil
		for range 2 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if got := g.total(t); got != 2 {
			t.Errorf("%d samples, want 2", got)
		}
	})
}

// TestSeenClientLeaves: a client that leaves while its profile is being written and comes back does not
// have it stored twice.
func TestSeenClientLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, in := newGatedStore(t, 100)
		ctx, leave := context.WithCancel(t.Context())
		errs := make(chan error, 2)
		go func() { errs <- in.Export(ctx, withID("aaaaaaaaaaaaaaaa")) }()
		<-g.arrived
		leave()
		go func() { errs <- in.Export(t.Context(), withID("aaaaaaaaaaaaaaaa")) }()
		synctest.Wait()
		if len(errs) != 0 {
			t.Fatalf("the write was given up: %v", <-errs)
		}
		g.result <- nil
		for range 2 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if got := g.total(t); got != 1 {
			t.Errorf("%d samples, want 1", got)
		}
	})
}

// TestSeenAfterRefusal: what was refused was not stored, so it may come again.
func TestSeenAfterRefusal(t *testing.T) {
	g, in := newGatedStore(t, 100)
	bad := withID("aaaaaaaaaaaaaaaa")
	bad.ResourceProfiles[0].ScopeProfiles[0].Profiles[0].Samples[0].StackIndex = 5
	if err := in.Export(t.Context(), bad); !errors.Is(err, ErrInvalid) {
		t.Fatalf("got %v, want ErrInvalid", err)
	}
	g.result <- nil
	if err := in.Export(t.Context(), withID("aaaaaaaaaaaaaaaa")); err != nil {
		t.Fatal(err)
	}
	if got := g.total(t); got != 1 {
		t.Errorf("%d samples, want 1", got)
	}
}

// TestGate: bodies together have a bound, beyond which they are refused at once, and so many requests work at
// a time; what left makes room.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(&limits.Limits{BodyBytes: 100, InFlightBytes: 150, ConcurrentIngests: 1})
		f := func(n int, want limits.Name, busy bool) (leave func()) {
			t.Helper()
			body, leave, err := g.enter(t.Context(), strings.NewReader(strings.Repeat("x", n)), -1)
			var le *limits.Error
			switch {
			case want == "" && (err != nil || len(body) != n), want != "" && (!errors.As(err, &le) || le.Limit != want || errors.Is(err, ErrBusy) != busy):
				t.Fatalf("%d bytes: %d bytes, %v, want %v", n, len(body), err, want)
			}
			return leave
		}
		f(101, limits.BodyBytes, false)
		leave := f(100, "", false)
		f(60, limits.InFlightBytes, true)
		f(50, limits.ConcurrentIngests, true) // no turn in time
		leave()
		leave = f(100, "", false)
		next := make(chan func())
		go func() { next <- f(50, "", false) }()
		synctest.Wait()
		select {
		case <-next:
			t.Error("two at a time")
		default:
		}
		leave()
		(<-next)()
		if held := g.wire.Load(); held != 0 {
			t.Errorf("%d bytes are still held", held)
		}
	})
}

// TestRoom: what is decoded at one time has a bound; what finds no room waits, and not for ever.
func TestRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, in := newGatedStore(t, 100)
		body, err := proto.Marshal(withID(""))
		if err != nil {
			t.Fatal(err)
		}
		cost, err := estimate(body, false, &in.limits)
		if err != nil {
			t.Fatal(err)
		}
		in.gate.room = newQueue(limits.DecodedBytes, 2*cost+cost/2, "")
		errs := make(chan error, 3)
		for range 3 {
			go func() { errs <- in.decodeAndExport(t.Context(), body, false) }()
		}
		synctest.Wait()
		if n := len(g.arrived); n != 2 {
			t.Fatalf("%d requests reached the store, want 2", n)
		}
		if err := <-errs; !errors.Is(err, ErrBusy) || codeOf(err) != connect.CodeUnavailable {
			t.Errorf("the third: %v", err)
		}
		g.result <- nil
		g.result <- nil
		for range 2 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		g.result <- nil
		if err := in.decodeAndExport(t.Context(), body, false); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}
