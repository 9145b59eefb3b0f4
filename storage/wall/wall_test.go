package wall

import (
	"context"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/storagetest"
)

// TestConformance: with wall-clock time a store is still a store.
func TestConformance(t *testing.T) {
	storagetest.TestAnswers(t, func(testing.TB, string) storage.Store { return New(&storagetest.Model{}) })
}

// TestWall compares the answers of both parts together with those of a store in which they are one type.
func TestWall(t *testing.T) {
	both := profile.Type{Name: "x", SampleType: "x", SampleUnit: "nanoseconds", PeriodType: "x", PeriodUnit: "nanoseconds"}
	for seed := range uint64(20) {
		ctx, r := context.Background(), storagetest.NewRandom(seed)
		split, joined := New(&storagetest.Model{}), &storagetest.Model{}
		for range 6 {
			b := r.Batch()
			for i := range b.Profiles {
				p := &b.Profiles[i]
				p.DurationNanos, p.Period = 0, 0 // what is spread over time is rounded once a type
				p.Type = parts[r.IntN(2)]
			}
			write(t, split, b)
			for i := range b.Profiles {
				b.Profiles[i].Type = both
			}
			write(t, joined, b)
		}
		for range 10 {
			sel := storage.Selection{Start: storagetest.Base, End: storagetest.Base.Add(time.Duration(r.IntN(7200)) * time.Second)}
			one := sel
			sel.Type, one.Type = &profile.TypeWall, &both
			by := [][]string{nil, {profile.LabelServiceName}, {"pod", "env"}}[r.IntN(3)]
			same(t, seed, "merge", folded(t, split, sel, by), folded(t, joined, one, by))
			got, err := split.Series(ctx, sel, by, 10*time.Second)
			want, err2 := joined.Series(ctx, one, by, 10*time.Second)
			same(t, seed, "series", result{got, err}, result{want, err2})
			names, err := split.LabelNames(ctx, sel)
			wantNames, err2 := joined.LabelNames(ctx, one)
			same(t, seed, "names", result{names, err}, result{wantNames, err2})
			values, err := split.LabelValues(ctx, "pod", sel)
			wantValues, err2 := joined.LabelValues(ctx, "pod", one)
			same(t, seed, "values", result{values, err}, result{wantValues, err2})
			sets, err := split.Labels(ctx, sel)
			wantSets, err2 := joined.Labels(ctx, one)
			same(t, seed, "sets", result{sets, err}, result{wantSets, err2})
		}
	}
}

func TestTypes(t *testing.T) {
	ctx, s := context.Background(), New(&storagetest.Model{})
	f := func(want ...profile.Type) {
		t.Helper()
		got, err := s.Types(ctx, time.Time{}, time.Time{})
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, %v, want %v", got, err, want)
		}
	}
	one := func(typ profile.Type) *profile.Batch {
		d := profile.NewDictionary()
		return &profile.Batch{Dictionary: d, Profiles: []profile.Profile{{
			Type: typ, TimeNanos: storagetest.Base.UnixNano(), Samples: []profile.Sample{{Value: 1}},
		}}}
	}
	write(t, s, one(profile.TypeCPU))
	f(profile.TypeCPU)
	write(t, s, one(profile.TypeOffCPU))
	f(profile.TypeOffCPU, profile.TypeCPU, profile.TypeWall)
}

type result struct {
	value any
	err   error
}

func same(t *testing.T, seed uint64, what string, got, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) { // none may be nil or empty
		t.Fatalf("seed %d, %s:\ngot  %+v\nwant %+v", seed, what, got, want)
	}
}

func write(t *testing.T, s storage.Store, b *profile.Batch) {
	t.Helper()
	if err := s.Write(context.Background(), b); err != nil {
		t.Fatal(err)
	}
}

// folded returns what a merge answers as text, without the type.
func folded(t *testing.T, s storage.Store, sel storage.Selection, by []string) string {
	t.Helper()
	b, err := s.Merge(context.Background(), sel, by)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b.Profiles {
		if b.Profiles[i].Type != *sel.Type {
			t.Fatalf("a merge of %s answers %s", sel.Type, b.Profiles[i].Type)
		}
		b.Profiles[i].Type = profile.TypeWall
	}
	return storagetest.Dump(b)
}
