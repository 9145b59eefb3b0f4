package query

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/storagetest"
	"github.com/perfuse/perfuse/symbolize"
)

// resolver answers by a function.
type resolver func(ctx context.Context, buildID string, addrs []profile.Addr) ([][]symbolize.Source, error)

func (r resolver) Resolve(ctx context.Context, buildID string, addrs []profile.Addr) ([][]symbolize.Source, error) {
	return r(ctx, buildID, addrs)
}

// batch is a profile with one stack of native frames; they are given from the leaf on.
func batch(frames ...profile.Frame) (*profile.Batch, func(names ...profile.Mapping)) {
	b := &profile.Batch{Dictionary: profile.NewDictionary()}
	return b, func(files ...profile.Mapping) {
		var s profile.Stack
		for i, f := range frames {
			f.Mapping = b.Dictionary.Mapping(files[i])
			s = append(s, b.Dictionary.Frame(f))
		}
		b.Profiles = []profile.Profile{{Type: profile.TypeCPU, Samples: []profile.Sample{{Stack: b.Dictionary.Stack(s), Value: 1}}}}
	}
}

func engine(t *testing.T, r symbolize.Resolver, cache int) *Engine {
	t.Helper()
	e, err := New(Options{Store: &storagetest.Model{}, Resolver: r, CacheAddresses: cache})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func names(b *profile.Batch) []string {
	var out []string
	for _, r := range profile.Top(b, &b.Profiles[0]) {
		out = append(out, r.Name)
	}
	slices.Sort(out)
	return out
}

// TestSymbolizeErrors: a file that cannot be read costs its names and nothing else; a context that ends, the
// answer.
func TestSymbolizeErrors(t *testing.T) {
	broken := errors.New("the table's checksum is wrong")
	var mu sync.Mutex
	var told []string
	e := engine(t, resolver(func(ctx context.Context, id string, addrs []profile.Addr) ([][]symbolize.Source, error) {
		switch id {
		case "good":
			return [][]symbolize.Source{{{Name: "f\xff", File: "\xfe.c"}}}, nil
		case "short":
			return nil, nil
		case "broken":
			return nil, broken
		}
		return nil, symbolize.ErrNoDebugInfo
	}), 100)
	e.opts.OnError = func(where string, err error) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, fmt.Sprint(where, ": ", err))
	}
	b, fill := batch(profile.Frame{Addr: 1}, profile.Frame{Addr: 2}, profile.Frame{Addr: 3}, profile.Frame{Addr: 4}, profile.Frame{Addr: 5})
	fill(profile.Mapping{BuildID: "good", File: "a"}, profile.Mapping{BuildID: "broken", File: "b"}, profile.Mapping{BuildID: "unknown", File: "c"},
		profile.Mapping{File: "d"}, profile.Mapping{BuildID: "short", File: "e"})
	if err := e.Symbolize(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if got, want := names(b), []string{"b+0x2", "c+0x3", "d+0x4", "e+0x5", "f\uFFFD"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	slices.Sort(told)
	if want := []string{"symbolize broken: the table's checksum is wrong", "symbolize short: got 0 answers for 1 addresses"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}

	ctx, cancel := context.WithCancel(t.Context())
	e = engine(t, resolver(func(ctx context.Context, id string, addrs []profile.Addr) ([][]symbolize.Source, error) {
		cancel()
		return nil, ctx.Err()
	}), 100)
	fill(profile.Mapping{BuildID: "good"}, profile.Mapping{}, profile.Mapping{}, profile.Mapping{}, profile.Mapping{})
	if err := e.Symbolize(ctx, b); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestCache: what was answered is not asked for again until it is forgotten or there is no room.
func TestCache(t *testing.T) {
	var asked atomic.Int64
	e := engine(t, resolver(func(ctx context.Context, id string, addrs []profile.Addr) ([][]symbolize.Source, error) {
		asked.Add(int64(len(addrs)))
		out := make([][]symbolize.Source, len(addrs))
		for i, a := range addrs {
			if a != 0xdead { // not covered: that is an answer too
				out[i] = []symbolize.Source{{Name: fmt.Sprintf("%s_%d", id, a)}}
			}
		}
		return out, nil
	}), 4)
	f := func(want int64, id string, addrs ...profile.Addr) {
		t.Helper()
		var frames []profile.Frame
		var files []profile.Mapping
		for _, a := range addrs {
			frames = append(frames, profile.Frame{Addr: a})
			files = append(files, profile.Mapping{BuildID: id, File: id})
		}
		b, fill := batch(frames...)
		fill(files...)
		before := asked.Load()
		if err := e.Symbolize(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if got := asked.Load() - before; got != want {
			t.Errorf("%s %x: asked for %d addresses, want %d", id, addrs, got, want)
		}
		for _, n := range names(b) {
			if n != id+"+0xdead" && n[:len(id)+1] != id+"_" {
				t.Errorf("%s %x: %q", id, addrs, n)
			}
		}
		size := 0
		for _, file := range e.cache.files {
			size += len(file.sources)
		}
		if size != e.cache.size || size > 4 {
			t.Errorf("%d addresses are kept, %d counted", size, e.cache.size)
		}
	}
	f(2, "a", 1, 2)
	f(0, "a", 1, 2)
	f(1, "a", 1, 0xdead)
	f(0, "a", 0xdead)
	f(1, "b", 1)
	f(0, "a", 1)
	f(1, "c", 1) // no room: b was not asked for the longest
	f(0, "a", 2)
	f(1, "b", 1) // and now it goes in for c
	f(5, "d", 1, 2, 3, 4, 5)
	f(5, "d", 1, 2, 3, 4, 5) // too many to keep
	e.Forget("a")
	f(2, "a", 1, 2)
}

// TestForgetWhileAsking: an answer from before a file changed is not kept after it.
func TestForgetWhileAsking(t *testing.T) {
	name := "old"
	var e *Engine
	e = engine(t, resolver(func(ctx context.Context, id string, addrs []profile.Addr) ([][]symbolize.Source, error) {
		answer := [][]symbolize.Source{{{Name: name}}}
		if name == "old" {
			name = "new"
			e.Forget(id)
		}
		return answer, nil
	}), 100)
	for _, want := range []string{"old", "new", "new"} {
		b, fill := batch(profile.Frame{Addr: 1})
		fill(profile.Mapping{BuildID: "a"})
		if err := e.Symbolize(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if got := names(b); got[0] != want {
			t.Errorf("got %q, want %s", got, want)
		}
	}
}

// TestMergeNothing: an empty selection is a profile without samples.
func TestMergeNothing(t *testing.T) {
	e := engine(t, nil, 0)
	m, err := e.Merge(t.Context(), storage.Selection{Type: &profile.TypeCPU})
	if err != nil || len(m.Profile.Samples) != 0 || m.Series != 0 || m.Profile.Type != profile.TypeCPU {
		t.Errorf("got %+v, %v", m, err)
	}
}

// TestSeriesNames: a filter of a series sees the names that the resolver gives, and nothing of it stays behind.
func TestSeriesNames(t *testing.T) {
	store := &storagetest.Model{}
	asked := 0
	e, err := New(Options{Store: store, Resolver: resolver(func(ctx context.Context, id string, addrs []profile.Addr) ([][]symbolize.Source, error) {
		asked++
		out := make([][]symbolize.Source, len(addrs))
		for i, a := range addrs {
			out[i] = []symbolize.Source{{Name: fmt.Sprintf("f%d", a), File: id + ".c"}}
		}
		return out, ctx.Err()
	})})
	if err != nil {
		t.Fatal(err)
	}
	for addr, value := range []int64{1, 10, 100} {
		b, fill := batch(profile.Frame{Addr: profile.Addr(addr + 1)})
		fill(profile.Mapping{BuildID: "aa", File: "/bin/a"})
		b.Profiles[0].Samples[0].Value = value
		if err := store.Write(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	sum := func(ctx context.Context, field profile.FrameField, pattern string) (int64, error) {
		m, err := profile.NewFrameMatcher(field, pattern, true)
		if err != nil {
			t.Fatal(err)
		}
		q := Question{Selection: storage.Selection{Type: &profile.TypeCPU}, Filter: profile.StackFilter{Keep: []profile.FrameMatcher{m}}}
		series, err := e.Series(ctx, q, time.Minute)
		if err != nil || len(series) == 0 {
			return 0, err
		}
		return series[0].Points[0].Value, nil
	}
	f := func(want int64, field profile.FrameField, pattern string) {
		t.Helper()
		if got, err := sum(t.Context(), field, pattern); got != want || err != nil {
			t.Errorf("%s %s: %d, %v, want %d", field, pattern, got, err, want)
		}
	}
	f(101, profile.FieldFunction, "f[13]")
	f(111, profile.FieldFile, "aa.c")
	f(10, profile.FieldFunction, "^f2$")
	f(0, profile.FieldFunction, `\+0x2`)
	if asked != 1 {
		t.Errorf("asked %d times for what is known", asked)
	}
	e.Forget("aa")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := sum(ctx, profile.FieldFunction, "f"); !errors.Is(err, context.Canceled) {
		t.Errorf("a client that left: %v", err)
	}
}
