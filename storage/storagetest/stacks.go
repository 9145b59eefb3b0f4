package storagetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
)

// testStacks: of a series only the stacks count that a judge says.
func testStacks(t *testing.T, s storage.Store) {
	own := Folded(typeCPU, "a=own", time.Minute, "f 100", "g 7", "f 3")
	own.Profiles[0].Samples[0].TimeNanos = Base.Add(66 * time.Second).UnixNano()
	own.Profiles[0].Samples[1].TimeNanos = Base.Add(66 * time.Second).UnixNano()
	linked := Folded(typeCPU, "a=linked", 0, "f 1", "f 10", "g 100")
	for i := range 2 {
		linked.Profiles[0].Samples[i+1].Link = linked.Dictionary.Link(profile.Link{SpanName: "GET"})
	}
	write(t, s, own, linked,
		Folded(typeCPU, "a=1 pod=x", 0, "main;f 10", "main;g 1000", "5"),
		Folded(typeCPU, "a=1 pod=y", 5*time.Second, "main;f;g 100"),
		Folded(typeCPU, "a=1 pod=z", 0, "main;h 7"),
		Folded(typeInuse, "pod=x", 0, "main;f 60", "main;g 40"),
		Folded(typeInuse, "pod=x", 10*time.Second, "main;g 50"),
		Folded(typeInuse, "pod=y", 0, "main;g 8"))
	f := func(typ profile.Type, selector, function string, by []string, step time.Duration, want ...string) {
		t.Helper()
		sel := selection(&typ, selector)
		sel.Stacks = judge(function)
		course(t, s, sel, by, step, want...)
	}
	f(typeCPU, `{a="1"}`, "f", nil, time.Minute, "{} 0s=110")
	f(typeCPU, `{a="1"}`, "f", nil, 5*time.Second, "{} 0s=5 5s=55 10s=50")
	f(typeCPU, `{a="1"}`, "f", []string{"pod"}, 10*time.Second, `{pod="x"} 0s=10`, `{pod="y"} 0s=50 10s=50`)
	f(typeCPU, `{a="1"}`, "!g", nil, time.Minute, "{} 0s=22") // what has no stack has no function
	f(typeCPU, `{a="1"}`, "nothing", nil, time.Minute)
	f(typeCPU, `{a="none"}`, "f", nil, time.Minute)
	f(typeCPU, `{a="own"}`, "f", nil, 5*time.Second, "{} 1m0s=2 1m5s=101")
	f(typeCPU, `{a="own"}`, "g", nil, 5*time.Second, "{} 1m5s=7")

	sel := selection(&typeCPU, `{a="linked"}`)
	sel.Stacks, sel.SpanNames = judge("f"), []string{"GET"}
	course(t, s, sel, nil, time.Minute, "{} 0s=10")
	sel = selection(&typeCPU, `{a="own"}`)
	sel.Stacks, sel.Start = judge("f"), Base.Add(65*time.Second)
	course(t, s, sel, nil, 5*time.Second, "{} 1m5s=100")

	// A level of which nothing counts is 0, not absent: its parts add up to the whole.
	f(typeInuse, `{}`, "f", nil, 20*time.Second, "{} 0s=30")
	f(typeInuse, `{}`, "g", nil, 20*time.Second, "{} 0s=53")
	f(typeInuse, `{}`, "!nothing", nil, 20*time.Second, "{} 0s=83")
	f(typeInuse, `{}`, "f", []string{"pod"}, 10*time.Second, `{pod="x"} 0s=60`)

	broken := errors.New("no names today")
	sel = selection(&typeCPU, `{}`)
	sel.Stacks = func(context.Context, *profile.Dictionary) ([]bool, error) { return nil, broken }
	if _, err := s.Series(t.Context(), sel, nil, time.Minute); !errors.Is(err, broken) {
		t.Errorf("a judge that fails: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	sel.Stacks = func(ctx context.Context, d *profile.Dictionary) ([]bool, error) {
		cancel()
		return judge("f")(ctx, d)
	}
	if _, err := s.Series(ctx, sel, nil, time.Minute); !errors.Is(err, context.Canceled) {
		t.Errorf("a client that left: %v", err)
	}
}

// testStacksMeanwhile: what is written while a series is asked for is judged too, whenever it is seen.
func testStacksMeanwhile(t *testing.T, s storage.Store) {
	write(t, s, Folded(typeCPU, "a=1", 0, "keep;f 1", "leave;f 1"))
	done := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() {
		defer close(done)
		for i := range 40 {
			write(t, s, Folded(typeCPU, "a=1", 0, fmt.Sprintf("keep;f%d 2", i), fmt.Sprintf("leave;f%d 1", i)))
		}
	})
	sel := selection(&typeCPU, `{}`)
	sel.Stacks = judge("keep")
	sum := func() int64 {
		t.Helper()
		series, err := s.Series(t.Context(), sel, nil, time.Hour)
		if err != nil || len(series) != 1 || len(series[0].Points) != 1 {
			t.Fatalf("%v, %v", series, err)
		}
		return series[0].Points[0].Value
	}
	for more := true; more; {
		select {
		case <-done:
			more = false
		default:
		}
		if n := sum(); n%2 != 1 || n > 81 {
			t.Fatalf("%d: what does not count was counted, or twice", n)
		}
	}
	writing.Wait()
	if n := sum(); n != 81 {
		t.Errorf("%d at the end, want 81", n)
	}
}
