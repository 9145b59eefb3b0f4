package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/perfuse/perfuse/profile"
	queryv1 "github.com/perfuse/perfuse/proto/perfuse/query/v1"
	"github.com/perfuse/perfuse/proto/perfuse/query/v1/queryv1connect"
	"github.com/perfuse/perfuse/server/query"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/frost"
	"github.com/perfuse/perfuse/storage/storagetest"
	"google.golang.org/protobuf/proto"
)

func serviceOf(t testing.TB, store storage.Store) queryService {
	t.Helper()
	engine, err := query.New(query.Options{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(Options{Store: store, Engine: engine})
	if err != nil {
		t.Fatal(err)
	}
	return queryService{a}
}

// TestStableAnswers: the same data is answered byte for byte alike, asked twice, and by two stores that got it in
// opposite orders.
func TestStableAnswers(t *testing.T) {
	r := storagetest.NewRandom(11)
	var batches []*profile.Batch
	for range 40 {
		batches = append(batches, r.Batch())
	}
	disk, err := frost.New(frost.Options{Dir: t.TempDir(), Retention: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	stores := []storage.Store{&storagetest.Model{}, disk}
	services := make([]queryService, len(stores))
	for i, s := range stores {
		for _, b := range batches {
			if err := s.Write(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
		slices.Reverse(batches)
		services[i] = serviceOf(t, s)
	}
	types, err := services[0].ProfileTypes(t.Context(), &queryv1.ProfileTypesRequest{})
	if err != nil || len(types.Types) < 3 {
		t.Fatal(err, types)
	}
	answered := 0
	ask := func(what string, call func(s queryService) (proto.Message, error)) {
		t.Helper()
		var want []byte
		for i, s := range slices.Concat(services, services) {
			m, err := call(s)
			got, failed := proto.MarshalOptions{Deterministic: true}.Marshal(m)
			if failed != nil {
				t.Fatal(failed)
			}
			if err != nil {
				got = []byte(err.Error())
			} else {
				answered++
			}
			if i == 0 {
				want = got
			} else if string(got) != string(want) {
				t.Fatalf("%s: answer %d is another one:\n%q\n%q", what, i, got, want)
			}
		}
	}
	asked := 0
	for _, typ := range types.Types {
		for _, filter := range []*queryv1.StackFilter{
			nil,
			{Keep: []*queryv1.FrameMatcher{{Value: "f[1-4]", Regexp: true}}},
			{Drop: []*queryv1.FrameMatcher{{Value: "f1"}, {Field: queryv1.FrameField_FRAME_FIELD_BINARY, Value: "vdso", Regexp: true}}},
			{CallSite: []string{"f1"}},
		} {
			sel := &queryv1.Selection{ProfileType: typ.Id}
			before := &queryv1.Selection{ProfileType: typ.Id, EndUnixNano: storagetest.Base.Unix()*1e9 + 3600e9}
			after := &queryv1.Selection{ProfileType: typ.Id, StartUnixNano: before.EndUnixNano, SpanNames: []string{"GET /", "POST /"}}
			what := fmt.Sprint(typ.Id, " ", filter)
			for _, share := range []float64{-1, 0.05} {
				for _, by := range [][]string{nil, {"pod", "env"}} {
					ask("FlameGraph "+what, func(s queryService) (proto.Message, error) {
						return s.FlameGraph(t.Context(), &queryv1.FlameGraphRequest{Selection: sel, Filter: filter, GroupBy: by, MinShare: share})
					})
				}
				for scale := range queryv1.DiffScale(3) {
					ask("Diff "+what, func(s queryService) (proto.Message, error) {
						return s.Diff(t.Context(), &queryv1.DiffRequest{Before: before, After: after, Filter: filter, Scale: scale, MinShare: share})
					})
				}
				ask("Sandwich "+what, func(s queryService) (proto.Message, error) {
					return s.Sandwich(t.Context(), &queryv1.SandwichRequest{Selection: sel, Filter: filter, Function: "f2", MinShare: share})
				})
			}
			ask("Exemplars "+what, func(s queryService) (proto.Message, error) {
				return s.Exemplars(t.Context(), &queryv1.ExemplarsRequest{Selection: sel, Filter: filter, GroupBy: []string{"pod"}, Limit: 2})
			})
			ask("Lines "+what, func(s queryService) (proto.Message, error) {
				return s.Lines(t.Context(), &queryv1.LinesRequest{Selection: sel, Filter: filter, Function: "f2"})
			})
			ask("DiffTop "+what, func(s queryService) (proto.Message, error) {
				return s.DiffTop(t.Context(), &queryv1.DiffTopRequest{Before: before, After: after, Filter: filter, Scale: queryv1.DiffScale_DIFF_SCALE_TIME, Limit: 5})
			})
			ask("Top "+what, func(s queryService) (proto.Message, error) {
				return s.Top(t.Context(), &queryv1.TopRequest{Selection: after, Filter: filter})
			})
			for format := range queryv1.ExportFormat(2) {
				ask("Export "+what, func(s queryService) (proto.Message, error) {
					return s.Export(t.Context(), &queryv1.ExportRequest{Selection: sel, Filter: filter, Format: format})
				})
			}
			for _, by := range [][]string{nil, {"pod", "env"}} {
				ask("Series "+what, func(s queryService) (proto.Message, error) {
					return s.Series(t.Context(), &queryv1.SeriesRequest{Selection: sel, Filter: filter, GroupBy: by, StepNano: 60e9})
				})
			}
			asked += 2*6 + 8
			if !strings.Contains(typ.Id, "inuse") {
				addsUp(t, services[1], sel, filter)
			}
		}
	}
	if answered != 4*asked {
		t.Errorf("%d answers to %d questions", answered, 4*asked)
	}
}

// addsUp: a chart above a flame graph, both of the same stacks, adds up to it, and so does what stands beside both.
func addsUp(t *testing.T, s queryService, sel *queryv1.Selection, filter *queryv1.StackFilter) {
	t.Helper()
	flame, err := s.FlameGraph(t.Context(), &queryv1.FlameGraphRequest{Selection: sel, Filter: filter})
	if err != nil {
		t.Fatal(err)
	}
	chart, err := s.Series(t.Context(), &queryv1.SeriesRequest{Selection: sel, Filter: filter, GroupBy: []string{"pod"}, StepNano: 7e9, Limit: 2})
	if err != nil {
		t.Fatal(err)
	}
	sum := func(series ...*queryv1.TimeSeries) (n int64) {
		for _, one := range series {
			for _, v := range one.GetValues() {
				n += v
			}
		}
		return n
	}
	if got := sum(chart.Series...); got != flame.Total {
		t.Errorf("%s %v: the chart has %d, the flame graph %d", sel.ProfileType, filter, got, flame.Total)
	}
	if got := sum(chart.Unfiltered); filter != nil && got != flame.UnfilteredTotal {
		t.Errorf("%s %v: without the filter the chart has %d, the flame graph %d", sel.ProfileType, filter, got, flame.UnfilteredTotal)
	}
}

// waiting is a store that answers merges only when whoever asked has left.
type waiting struct {
	storagetest.Model
	arrived, left chan string
	quit          chan struct{} // ends what did not see its client leave
}

func (s *waiting) Merge(ctx context.Context, sel storage.Selection, by []string) (*profile.Batch, error) {
	s.arrived <- ""
	select {
	case <-ctx.Done():
		s.left <- ctx.Err().Error()
		return nil, ctx.Err()
	case <-s.quit:
		return nil, errors.New("the client never left")
	}
}

// TestClientLeaves: a client that leaves ends its query, and gives back its turn.
func TestClientLeaves(t *testing.T) {
	store := &waiting{arrived: make(chan string), left: make(chan string, 2), quit: make(chan struct{})}
	s := serviceOf(t, store)
	mux := http.NewServeMux()
	s.Mount(mux)
	srv := httptest.NewServer(mux)
	defer srv.Close()
	defer close(store.quit)
	client := queryv1connect.NewQueryServiceClient(srv.Client(), srv.URL)
	sel := &queryv1.Selection{ProfileType: profile.TypeCPU.String()}
	f := func(what string, merges int, call func(ctx context.Context) error) {
		t.Helper()
		ctx, leave := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- call(ctx) }()
		for range merges {
			<-store.arrived
		}
		leave()
		if err := <-done; connect.CodeOf(err) != connect.CodeCanceled {
			t.Errorf("%s: %v", what, err)
		}
		for range merges {
			select {
			case got := <-store.left:
				if got != context.Canceled.Error() {
					t.Errorf("%s: the store saw %s", what, got)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%s: the store works on for a client that has left", what)
			}
		}
		// All turns are there again once the handler has ended.
		if err := s.turns.Acquire(t.Context(), s.limits.ConcurrentQueries); err != nil {
			t.Error(err)
		}
		s.turns.Release(s.limits.ConcurrentQueries)
	}
	f("FlameGraph", 1, func(ctx context.Context) error {
		_, err := client.FlameGraph(ctx, &queryv1.FlameGraphRequest{Selection: sel})
		return err
	})
	f("Diff", 2, func(ctx context.Context) error {
		_, err := client.Diff(ctx, &queryv1.DiffRequest{Before: sel, After: sel})
		return err
	})
	f("Sandwich", 1, func(ctx context.Context) error {
		_, err := client.Sandwich(ctx, &queryv1.SandwichRequest{Selection: sel, Function: "main"})
		return err
	})
	f("Export", 1, func(ctx context.Context) error {
		_, err := client.Export(ctx, &queryv1.ExportRequest{Selection: sel})
		return err
	})
}
