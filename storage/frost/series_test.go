package frost

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/storagetest"
)

// TestSeriesLimits: neither many points nor a profile over all of time cost more than an error.
func TestSeriesLimits(t *testing.T) {
	s := open(t, Options{Dir: t.TempDir(), Retention: -1, MaxPoints: 10})
	put := func(typ profile.Type, labels string, after, lasts time.Duration) {
		t.Helper()
		b := storagetest.Folded(typ, labels, after, "f 1000000")
		b.Profiles[0].DurationNanos = int64(lasts)
		if err := s.Write(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	for _, typ := range []profile.Type{profile.TypeCPU, typeInuse} {
		for i := range 12 {
			put(typ, "a=moments", time.Duration(i)*time.Minute, 0)
		}
		put(typ, "a=lasts", 0, 10*time.Second)
		put(typ, "a=ever", 0, 100*365*24*time.Hour)
		f := func(value string, step time.Duration, points int) {
			t.Helper()
			sel, err := profile.ParseSelector(fmt.Sprintf("{a=%q}", value))
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.Series(t.Context(), storage.Selection{Type: &typ, Selector: sel}, nil, step)
			if points == 0 {
				if !errors.Is(err, storage.ErrLimit) {
					t.Errorf("%s of %s, steps of %s: %v", typ.SampleType, value, step, err)
				}
				return
			}
			if err != nil || len(got) != 1 || len(got[0].Points) != points {
				t.Errorf("%s of %s, steps of %s: %v, %v", typ.SampleType, value, step, got, err)
			}
		}
		f("moments", time.Minute, 0)
		f("moments", 10*time.Minute, 2)
		f("lasts", time.Second, 10)
		f("lasts", time.Second/2, 0)
		f("ever", time.Nanosecond, 0)
		f("ever", 20*365*24*time.Hour, 6)
	}
}

var typeInuse = profile.Type{Name: "memory", SampleType: "inuse_space", SampleUnit: "bytes", PeriodType: "space", PeriodUnit: "bytes"}

// BenchmarkSeries asks for an hour of 100 pods, each a profile of 10 seconds with 60 samples every 10 seconds, each at
// a moment of its own.
func BenchmarkSeries(b *testing.B) {
	s := open(b, Options{Dir: b.TempDir(), Retention: -1})
	const pods, profiles, samples = 100, 360, 60
	for pod := range pods {
		d := profile.NewDictionary()
		batch := &profile.Batch{Dictionary: d}
		labels := profile.LabelsFromMap(map[string]string{"service_name": fmt.Sprintf("s%02d", pod/5), "pod": fmt.Sprint(pod)})
		for i := range profiles {
			at := storagetest.Base.Add(time.Duration(i)*10*time.Second + time.Duration(pod)*97*time.Millisecond)
			p := profile.Profile{Type: profile.TypeCPU, Labels: labels, TimeNanos: at.UnixNano(), DurationNanos: int64(10 * time.Second)}
			for j := range samples {
				f := d.Frame(profile.Frame{Addr: profile.Addr(1 + (i*7+j*13)%1000)})
				p.Samples = append(p.Samples, profile.Sample{Stack: d.Stack(profile.Stack{f}), Value: int64(1+(i+j)%5) * 10_000_000})
			}
			batch.Profiles = append(batch.Profiles, p)
			p.Type = typeInuse
			batch.Profiles = append(batch.Profiles, p)
		}
		if err := s.Write(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	for _, typ := range []profile.Type{profile.TypeCPU, typeInuse} {
		for _, step := range []time.Duration{time.Second, 10 * time.Second, 20 * time.Second, 10 * time.Minute} {
			for _, by := range [][]string{nil, {"service_name"}} {
				b.Run(fmt.Sprintf("%s/%s/%d", typ.SampleType, step, len(by)), func(b *testing.B) {
					for b.Loop() {
						if _, err := s.Series(b.Context(), storage.Selection{Type: &typ}, by, step); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
	typ := profile.TypeCPU
	b.Run("judged", func(b *testing.B) {
		half := func(_ context.Context, d *profile.Dictionary) ([]bool, error) {
			counts := make([]bool, len(d.Stacks))
			for i, stack := range d.Stacks {
				counts[i] = len(stack) > 0 && d.Frames[stack[0]].Addr%2 == 0
			}
			return counts, nil
		}
		for b.Loop() {
			if _, err := s.Series(b.Context(), storage.Selection{Type: &typ, Stacks: half}, nil, 10*time.Second); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("merge", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Merge(b.Context(), storage.Selection{Type: &typ}, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}
