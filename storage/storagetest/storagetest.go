// Package storagetest says what a storage.Store is: a conformance suite that every implementation passes, a
// naive [Model] that is the meaning of the contract in code, and random batches and questions that compare an
// implementation with it.
package storagetest

import (
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
)

// NewStore opens the store that lives in dir, making it if it is not there. The suite closes what it opens.
type NewStore func(t testing.TB, dir string) storage.Store

// Test runs the whole suite.
func Test(t *testing.T, newStore NewStore) {
	TestAnswers(t, newStore)
	TestReopen(t, newStore)
	TestRecent(t, newStore)
	t.Run("differential", func(t *testing.T) {
		for seed := range uint64(4) {
			t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) { Differential(t, newStore, seed, 40) })
		}
	})
}

// TestAnswers checks what a store answers while it is open.
func TestAnswers(t *testing.T, newStore NewStore) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, storage.Store)
	}{
		{"empty", testEmpty},
		{"types", testTypes},
		{"labels", testLabels},
		{"selectors", testSelectors},
		{"times", testTimes},
		{"series", testSeries},
		{"spread", testSpread},
		{"levels", testLevels},
		{"stacks", testStacks},
		{"merge", testMerge},
		{"links", testLinks},
		{"frames", testFrames},
		{"zero", testZero},
		{"deterministic", testDeterministic},
		{"invalid", testInvalid},
		{"own", testOwnCopy},
		{"recent", testRecent},
		{"cancelled", testCancelled},
		{"concurrent", testConcurrent},
		{"stacks meanwhile", testStacksMeanwhile},
		{"closed", testClosed},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t, t.TempDir())
			defer s.Close()
			c.run(t, s)
		})
	}
}

// Base is the time around which the suite's profiles lie, a multiple of storage.IndexResolution.
var Base = time.Date(2026, 3, 14, 15, 0, 0, 0, time.UTC)

var (
	typeCPU   = profile.TypeCPU
	typeInuse = profile.Type{Name: "memory", SampleType: "inuse_space", SampleUnit: "bytes", PeriodType: "space", PeriodUnit: "bytes"}
	typeAlloc = profile.Type{Name: "memory", SampleType: "alloc_space", SampleUnit: "bytes", PeriodType: "space", PeriodUnit: "bytes", Delta: true}
)

// Folded returns a batch of one profile of 10 seconds that starts at Base+after. Each line is folded text, root
// first, and a value: "main;handler;md5 60"; a line of only a value is a sample without a stack. The labels
// are written as a=b.
func Folded(typ profile.Type, labels string, after time.Duration, lines ...string) *profile.Batch {
	d := profile.NewDictionary()
	p := profile.Profile{
		Type: typ, Labels: parseLabels(labels), TimeNanos: Base.Add(after).UnixNano(),
		DurationNanos: int64(10 * time.Second), Period: int64(time.Second) / 19,
	}
	for _, line := range lines {
		frames, value := "", line
		if i := strings.LastIndexByte(line, ' '); i >= 0 {
			frames, value = line[:i], line[i+1:]
		}
		v, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			panic("BUG: folded line " + line)
		}
		var stack profile.Stack
		if frames != "" {
			names := strings.Split(frames, ";")
			for i := len(names) - 1; i >= 0; i-- {
				fn := d.Function(profile.Function{Name: names[i]})
				stack = append(stack, d.Frame(profile.Frame{Lines: []profile.Line{{Function: fn}}}))
			}
		}
		p.Samples = append(p.Samples, profile.Sample{Stack: d.Stack(stack), Value: v})
	}
	return &profile.Batch{Dictionary: d, Profiles: []profile.Profile{p}}
}

func parseLabels(s string) profile.Labels {
	var ls []profile.Label
	for _, f := range strings.Fields(s) {
		n, v, _ := strings.Cut(f, "=")
		ls = append(ls, profile.Label{Name: n, Value: v})
	}
	return profile.NewLabels(ls...)
}

func write(t testing.TB, s storage.Store, batches ...*profile.Batch) {
	t.Helper()
	for _, b := range batches {
		if err := s.Write(t.Context(), b); err != nil {
			t.Fatalf("writing: %v", err)
		}
	}
}

// selection names a type and a selector such as `{a="b"}`.
func selection(typ *profile.Type, selector string) storage.Selection {
	sel, err := profile.ParseSelector(selector)
	if err != nil {
		panic("BUG: selector " + selector + ": " + err.Error())
	}
	return storage.Selection{Type: typ, Selector: sel}
}

func equal(t testing.TB, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %v\nwant %v", what, got, want)
	}
}

// folded merges and writes the answer as the labels and lines of each group.
func folded(t testing.TB, s storage.Store, sel storage.Selection, by ...string) string {
	t.Helper()
	b, err := s.Merge(t.Context(), sel, by)
	if err != nil {
		t.Fatalf("merging: %v", err)
	}
	var out []string
	for _, para := range strings.Split(strings.TrimSuffix(Dump(b), "\n"), "\n") {
		if head, ok := strings.CutPrefix(para, "  "); ok {
			out = append(out, strings.TrimSpace(head))
		} else if i := strings.IndexByte(para, '{'); i >= 0 {
			out = append(out, para[i:strings.LastIndexByte(para, '}')+1])
		}
	}
	return strings.Join(out, "\n")
}

func lines(s ...string) string { return strings.Join(s, "\n") }

// TestReopen checks that a store that is closed and opened again answers every question with the same bytes,
// and goes on from there.
func TestReopen(t *testing.T, newStore NewStore) {
	t.Run("reopen", func(t *testing.T) {
		dir := t.TempDir()
		rnd := NewRandom(11)
		queries := make([]Query, 20)
		for i := range queries {
			queries[i] = rnd.Query()
		}
		model := &Model{}
		for round := range 4 {
			s := newStore(t, dir)
			for range 10 {
				b := rnd.Batch()
				write(t, s, b)
				write(t, model, b)
			}
			before := make([]string, len(queries))
			for i, q := range queries {
				before[i] = q.Exact(t, s)
				q.Compare(t, s, model)
			}
			if err := s.Close(); err != nil {
				t.Fatalf("closing: %v", err)
			}
			s = newStore(t, dir)
			sameRecent(t, s, model)
			for i, q := range queries {
				if after := q.Exact(t, s); after != before[i] {
					t.Errorf("round %d, %s:\nbefore %s\n after %s", round, q, before[i], after)
				}
			}
			if err := s.Close(); err != nil {
				t.Fatalf("closing: %v", err)
			}
		}
	})
}

// TestRecent checks that a store that is closed and opened again knows the IDs of what it has, in order, and
// that they have an end.
func TestRecent(t *testing.T, newStore NewStore) {
	t.Run("recent-reopen", func(t *testing.T) {
		dir := t.TempDir()
		number := func(i int) profile.ID { return profile.ID{byte(i), byte(i >> 8), byte(i >> 16), 1} }
		var want []profile.ID
		for round, n := range []int{3, 2000, 1, storage.RecentIDs + 10, 5} {
			s := newStore(t, dir)
			recent(t, s, want...)
			b := Folded(typeCPU, "a=1", 0, "f 1")
			p := b.Profiles[0]
			b.Profiles = nil
			for i := range n {
				p.ID = number(round<<18 + i)
				want = append(want, p.ID)
				b.Profiles = append(b.Profiles, p)
			}
			write(t, s, b)
			want = want[max(0, len(want)-storage.RecentIDs):]
			recent(t, s, want...)
			if err := s.Close(); err != nil {
				t.Fatalf("closing: %v", err)
			}
		}
		s := newStore(t, dir)
		recent(t, s, want...)
		if err := s.Close(); err != nil {
			t.Fatalf("closing: %v", err)
		}
	})
}

func sameRecent(t testing.TB, s, model storage.Store) {
	t.Helper()
	want, err := model.Recent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	recent(t, s, want...)
}

func recent(t testing.TB, s storage.Store, want ...profile.ID) {
	t.Helper()
	got, err := s.Recent(t.Context())
	if err != nil {
		t.Fatalf("asking for the recent IDs: %v", err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d recent IDs, want %d others:\n got %.200x\nwant %.200x", len(got), len(want), got, want)
	}
}
