package storagetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
)

func testEmpty(t *testing.T, s storage.Store) {
	ctx := t.Context()
	types, err := s.Types(ctx, time.Time{}, time.Time{})
	equal(t, "types", []any{len(types), err}, []any{0, nil})
	names, err := s.LabelNames(ctx, storage.Selection{})
	equal(t, "names", []any{len(names), err}, []any{0, nil})
	values, err := s.LabelValues(ctx, "service_name", storage.Selection{})
	equal(t, "values", []any{len(values), err}, []any{0, nil})
	labels, err := s.Labels(ctx, storage.Selection{})
	equal(t, "labels", []any{len(labels), err}, []any{0, nil})
	series, err := s.Series(ctx, storage.Selection{Type: &typeCPU}, nil, time.Second)
	equal(t, "series", []any{len(series), err}, []any{0, nil})
	b, err := s.Merge(ctx, storage.Selection{Type: &typeCPU}, nil)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "profiles", len(b.Profiles), 0)
	if b.Dictionary == nil {
		t.Error("an empty answer has no dictionary")
	}
	recent(t, s)
	write(t, s, &profile.Batch{})
}

func testTypes(t *testing.T, s storage.Store) {
	write(t, s, Folded(typeCPU, "a=1", 0, "f 1"), Folded(typeInuse, "a=1", time.Hour, "f 1"), Folded(typeAlloc, "a=2", 0, "f 1"), Folded(typeCPU, "a=2", 0, "f 1"))
	f := func(from, to time.Duration, want ...profile.Type) {
		t.Helper()
		got, err := s.Types(t.Context(), Base.Add(from), Base.Add(to))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, fmt.Sprintf("types from %s to %s", from, to), got, want)
	}
	f(0, 2*time.Hour, typeAlloc, typeInuse, typeCPU)
	f(0, time.Hour, typeAlloc, typeCPU)
	f(time.Hour, 2*time.Hour, typeInuse)
	f(59*time.Minute, 61*time.Minute, typeInuse)
	f(time.Minute, 2*time.Minute, typeAlloc, typeCPU) // widened to the resolution
	f(storage.IndexResolution, time.Hour)
	f(2*time.Hour, 3*time.Hour)
	f(-time.Hour, 0)
}

func testLabels(t *testing.T, s storage.Store) {
	write(t, s,
		Folded(typeCPU, "service_name=api pod=a-1", 0, "f 1"),
		Folded(typeCPU, "service_name=api pod=a-2 zone=z", time.Hour, "f 1"),
		Folded(typeInuse, "service_name=db", 0, "f 1"))
	ctx := t.Context()
	names := func(sel storage.Selection, want ...string) {
		t.Helper()
		got, err := s.LabelNames(ctx, sel)
		equal(t, "names", []any{strings.Join(got, " "), err}, []any{strings.Join(want, " "), nil})
	}
	values := func(name string, sel storage.Selection, want ...string) {
		t.Helper()
		got, err := s.LabelValues(ctx, name, sel)
		equal(t, "values of "+name, []any{strings.Join(got, " "), err}, []any{strings.Join(want, " "), nil})
	}
	labels := func(sel storage.Selection, want ...string) {
		t.Helper()
		got, err := s.Labels(ctx, sel)
		var text []string
		for _, ls := range got {
			text = append(text, ls.String())
		}
		equal(t, "labels", []any{strings.Join(text, " "), err}, []any{strings.Join(want, " "), nil})
	}
	all := storage.Selection{}
	early := storage.Selection{Start: Base, End: Base.Add(time.Minute)}
	names(all, "pod", "service_name", "zone")
	names(early, "pod", "service_name")
	names(selection(&typeInuse, `{}`), "service_name")
	names(selection(nil, `{service_name="api"}`), "pod", "service_name", "zone")
	values("service_name", all, "api", "db")
	values("service_name", selection(&typeCPU, `{}`), "api")
	values("pod", selection(nil, `{zone="z"}`), "a-2")
	values("pod", early, "a-1")
	values("nothing", all)
	labels(all, `{pod="a-1", service_name="api"}`, `{pod="a-2", service_name="api", zone="z"}`, `{service_name="db"}`)
	labels(selection(&typeCPU, `{zone=""}`), `{pod="a-1", service_name="api"}`)
	labels(storage.Selection{Type: &typeAlloc})
}

func testSelectors(t *testing.T, s storage.Store) {
	write(t, s,
		Folded(typeCPU, "service_name=api", 0, "f 1"),
		Folded(typeCPU, "service_name=api-canary env=prod", 0, "f 10"),
		Folded(typeCPU, "service_name=db env=test", 0, "f 100"),
		Folded(typeCPU, "", 0, "f 1000"))
	f := func(selector, want string) {
		t.Helper()
		equal(t, selector, folded(t, s, selection(&typeCPU, selector)), want)
	}
	f(`{}`, lines("{}", "f 1111"))
	f(`{service_name="api"}`, lines("{}", "f 1"))
	f(`{service_name="ap"}`, "")
	f(`{service_name=""}`, lines("{}", "f 1000"))
	f(`{service_name!="api"}`, lines("{}", "f 1110"))
	f(`{service_name!=""}`, lines("{}", "f 111"))
	f(`{service_name=~"api.*"}`, lines("{}", "f 11"))
	f(`{service_name=~"ap"}`, "")
	f(`{service_name=~"api|db"}`, lines("{}", "f 101"))
	f(`{service_name=~""}`, lines("{}", "f 1000"))
	f(`{service_name=~".*"}`, lines("{}", "f 1111"))
	f(`{service_name!~"api.*"}`, lines("{}", "f 1100"))
	f(`{service_name!~".+"}`, lines("{}", "f 1000"))
	f(`{env=~"prod|"}`, lines("{}", "f 1011"))
	f(`{env!~"prod", service_name=~".+"}`, lines("{}", "f 101"))
	f(`{env="prod", env!="prod"}`, "")
	f(`{absent=""}`, lines("{}", "f 1111"))
	f(`{absent!=""}`, "")
}

func testTimes(t *testing.T, s storage.Store) {
	write(t, s, Folded(typeCPU, "a=1", 0, "f 1"), Folded(typeCPU, "a=1", 10*time.Second, "f 10"))
	b := Folded(typeCPU, "a=1", 20*time.Second, "f 100", "f 1000", "g 10000")
	for i, after := range []time.Duration{21 * time.Second, 40 * time.Second, 0} {
		if after != 0 {
			b.Profiles[0].Samples[i].TimeNanos = Base.Add(after).UnixNano()
		}
	}
	write(t, s, b)
	f := func(from, to time.Duration, want string) {
		t.Helper()
		sel := storage.Selection{Type: &typeCPU, Start: Base.Add(from), End: Base.Add(to)}
		equal(t, fmt.Sprintf("from %s to %s", from, to), folded(t, s, sel), want)
	}
	f(0, time.Hour, lines("{}", "f 1111", "g 10000"))
	f(0, 1, lines("{}", "f 1"))
	f(0, 10*time.Second, lines("{}", "f 1"))
	f(1, 10*time.Second+1, lines("{}", "f 10"))
	f(20*time.Second, 21*time.Second, lines("{}", "g 10000"))
	f(21*time.Second, 22*time.Second, lines("{}", "f 100"))
	f(40*time.Second, 41*time.Second, lines("{}", "f 1000"))
	f(40*time.Second, 40*time.Second, "")
	f(time.Hour, 0, "")
	sel := storage.Selection{Type: &typeCPU, Start: Base.Add(21 * time.Second)}
	equal(t, "no end", folded(t, s, sel), lines("{}", "f 1100"))
	sel = storage.Selection{Type: &typeCPU, End: Base.Add(21 * time.Second)}
	equal(t, "no start", folded(t, s, sel), lines("{}", "f 11", "g 10000"))
}

func testSeries(t *testing.T, s storage.Store) {
	write(t, s,
		Folded(typeCPU, "service_name=api pod=1", 0, "f 1", "g 2"),
		Folded(typeCPU, "service_name=api pod=2", 10*time.Second, "f 10"),
		Folded(typeCPU, "service_name=db pod=1", 70*time.Second, "f 100"),
		Folded(typeInuse, "service_name=db pod=1", 70*time.Second, "f 1000"))
	f := func(selector string, by []string, step time.Duration, want ...string) {
		t.Helper()
		course(t, s, selection(&typeCPU, selector), by, step, want...)
	}
	f(`{}`, nil, 10*time.Second, "{} 0s=3 10s=10 1m10s=100")
	f(`{}`, nil, time.Minute, "{} 0s=13 1m0s=100")
	f(`{service_name="api"}`, nil, time.Minute, "{} 0s=13")
	f(`{}`, []string{"service_name"}, time.Minute, `{service_name="api"} 0s=13`, `{service_name="db"} 1m0s=100`)
	f(`{}`, []string{"pod", "nothing", "pod"}, time.Hour, `{pod="1"} 0s=103`, `{pod="2"} 0s=10`)
	f(`{}`, []string{"service_name", "pod"}, time.Hour, `{pod="1", service_name="api"} 0s=3`, `{pod="1", service_name="db"} 0s=100`, `{pod="2", service_name="api"} 0s=10`)
	f(`{service_name="x"}`, nil, time.Minute)
	for _, step := range []time.Duration{0, -1} {
		if _, err := s.Series(t.Context(), selection(&typeCPU, `{}`), nil, step); !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("step %d: %v", step, err)
		}
	}
	if _, err := s.Series(t.Context(), selection(nil, `{}`), nil, time.Second); !errors.Is(err, storage.ErrInvalid) {
		t.Errorf("no type: %v", err)
	}
}

// course checks a series: labels and points, a group a line.
func course(t *testing.T, s storage.Store, sel storage.Selection, by []string, step time.Duration, want ...string) {
	t.Helper()
	got, err := s.Series(t.Context(), sel, by, step)
	if err != nil {
		t.Fatal(err)
	}
	var text []string
	for _, ts := range got {
		line := ts.Labels.String()
		for _, p := range ts.Points {
			line += fmt.Sprintf(" %s=%d", time.Unix(0, p.TimeNanos).Sub(Base), p.Value)
		}
		text = append(text, line)
	}
	equal(t, fmt.Sprintf("%s by %v, steps of %s", sel.Selector, by, step), strings.Join(text, "\n"), strings.Join(want, "\n"))
}

// lasting returns a profile of Folded with another duration.
func lasting(d time.Duration, b *profile.Batch) *profile.Batch {
	b.Profiles[0].DurationNanos = int64(d)
	return b
}

// testSpread: amounts lie evenly on their profile's time, and add up exactly.
func testSpread(t *testing.T, s storage.Store) {
	own := Folded(typeCPU, "a=own", time.Minute, "f 100", "f 7", "g 1")
	own.Profiles[0].Samples[0].TimeNanos = Base.Add(66 * time.Second).UnixNano()
	own.Profiles[0].Samples[2].TimeNanos = Base.Add(3 * time.Minute).UnixNano() // outside of its profile's time
	most := Folded(typeCPU, "a=most", 0, "f 9223372036854775807")
	write(t, s,
		Folded(typeCPU, "a=even", 0, "f 60", "g 40"),
		lasting(25*time.Second, Folded(typeCPU, "a=uneven", 3500*time.Millisecond, "f 100")),
		lasting(3*time.Second, Folded(typeCPU, "a=thirds", 0, "f 1", "g 1")),
		Folded(typeCPU, "a=few", 0, "f 1"),
		Folded(typeCPU, "a=minus", 0, "f -3"),
		lasting(0, Folded(typeCPU, "a=moment", 1500*time.Millisecond, "f 10")),
		lasting(1, Folded(typeCPU, "a=nanosecond", 10*time.Second-1, "f 10")),
		lasting(4*time.Second, Folded(typeCPU, "a=two", 0, "f 1")),
		lasting(4*time.Second, Folded(typeCPU, "a=two", 0, "f 1")),
		lasting(4*time.Second, Folded(typeCPU, "a=two,b", 0, "f 1")), own, most)
	f := func(value string, step time.Duration, want string) {
		t.Helper()
		course(t, s, selection(&typeCPU, `{a="`+value+`"}`), nil, step, "{} "+want)
	}
	f("even", time.Second, "0s=10 1s=10 2s=10 3s=10 4s=10 5s=10 6s=10 7s=10 8s=10 9s=10")
	f("even", 4*time.Second, "0s=40 4s=40 8s=20")
	f("even", 10*time.Second, "0s=100")
	f("uneven", 10*time.Second, "0s=26 10s=40 20s=34")
	f("thirds", time.Second, "0s=1 2s=1") // 2/3 and 4/3 have passed: 1 and 1
	f("few", time.Second, "4s=1")
	f("minus", time.Second, "1s=-1 4s=-1 8s=-1")
	f("moment", time.Second, "1s=10")
	f("nanosecond", time.Second, "9s=10")
	f("two", time.Second, "0s=1 2s=1") // two profiles of the same time are spread as one
	f("two,b", time.Second, "1s=1")
	f("own", time.Second, "1m0s=1 1m2s=1 1m3s=1 1m4s=1 1m6s=101 1m7s=1 1m9s=1 3m0s=1")
	f("most", 5*time.Second, "0s=4611686018427387904 5s=4611686018427387903")
	course(t, s, selection(&typeCPU, `{a=~"two.*"}`), nil, time.Second, "{} 0s=1 1s=1 3s=1") // three, as one group
	// By the samples' times it is selected, and then whole.
	sel := selection(&typeCPU, `{a=~"uneven|own"}`)
	sel.Start, sel.End = Base.Add(3500*time.Millisecond), Base.Add(4*time.Second)
	course(t, s, sel, nil, 10*time.Second, "{} 0s=26 10s=40 20s=34")
	sel.Start, sel.End = Base.Add(4*time.Second), Base.Add(time.Minute)
	course(t, s, sel, nil, 10*time.Second)
	sel.Start, sel.End = Base.Add(61*time.Second), Base.Add(time.Hour)
	course(t, s, sel, nil, 10*time.Second, "{} 1m0s=100 3m0s=1")
}

// testLevels: levels are averaged in a series and added over series.
func testLevels(t *testing.T, s storage.Store) {
	put := func(labels string, after, lasts time.Duration, lines ...string) {
		t.Helper()
		write(t, s, lasting(lasts, Folded(typeInuse, labels, after, lines...)))
	}
	put("a=1 pod=x", 0, 10*time.Second, "f 60", "g 40")
	put("a=1 pod=x", 10*time.Second, 10*time.Second, "f 200")
	put("a=1 pod=y", 5*time.Second, 10*time.Second, "f 1000")
	put("a=moments", 0, 0, "f 1")
	put("a=moments", 4*time.Second, 0, "f 2")
	put("a=minus", 0, 0, "f -1")
	put("a=minus", 1, 0, "f -2")
	put("a=parts", 0, 10*time.Second, "f 5")
	put("a=parts", 0, 10*time.Second, "g 7")
	put("a=zero", 0, 5*time.Second, "f 10")
	put("a=zero", 5*time.Second, 5*time.Second, "f 1", "g -1")
	f := func(selector string, by []string, step time.Duration, want ...string) {
		t.Helper()
		course(t, s, selection(&typeInuse, selector), by, step, want...)
	}
	f(`{pod="x"}`, nil, 5*time.Second, "{} 0s=100 5s=100 10s=200 15s=200")
	f(`{pod="x"}`, nil, 15*time.Second, "{} 0s=133 15s=200") // 10 s of 100, 5 s of 200
	f(`{pod="x"}`, nil, time.Minute, "{} 0s=150")
	f(`{a="1"}`, nil, 5*time.Second, "{} 0s=100 5s=1100 10s=1200 15s=200")
	f(`{a="1"}`, nil, time.Minute, "{} 0s=1150")
	f(`{a="1"}`, []string{"pod"}, time.Minute, `{pod="x"} 0s=150`, `{pod="y"} 0s=1000`)
	f(`{a="moments"}`, nil, time.Second, "{} 0s=1 4s=2")
	f(`{a="moments"}`, nil, 10*time.Second, "{} 0s=2")
	f(`{a="minus"}`, nil, 10*time.Second, "{} 0s=-2")
	f(`{a="parts"}`, nil, 5*time.Second, "{} 0s=12 5s=12")
	f(`{a="zero"}`, nil, 5*time.Second, "{} 0s=10")
	f(`{a="zero"}`, nil, 10*time.Second, "{} 0s=5")
	// So many samples that a store may keep them in several places, and with times of their own.
	large := Folded(typeInuse, "a=large", 0, "f 1")
	p := &large.Profiles[0]
	for i := range int64(70_000) {
		p.Samples = append(p.Samples, profile.Sample{Stack: p.Samples[0].Stack, Value: 2, TimeNanos: p.TimeNanos + i + 1})
	}
	write(t, s, large)
	f(`{a="large"}`, nil, 10*time.Second, "{} 0s=140001")
	f(`{a="large"}`, nil, time.Second, "{} 0s=140001 1s=140001 2s=140001 3s=140001 4s=140001 5s=140001 6s=140001 7s=140001 8s=140001 9s=140001")
	// Of one type a level, of another an amount.
	write(t, s, Folded(typeAlloc, "a=1", 0, "f 10"), Folded(typeAlloc, "a=1", 10*time.Second, "f 10"))
	course(t, s, selection(&typeAlloc, `{}`), nil, time.Minute, "{} 0s=20")
}

func testMerge(t *testing.T, s storage.Store) {
	write(t, s,
		Folded(typeCPU, "service_name=api pod=1", 0, "main;f 1", "main;g 2", "7"),
		Folded(typeCPU, "service_name=api pod=2", 10*time.Second, "main;f 10", "main 5"),
		Folded(typeCPU, "service_name=db pod=1", 20*time.Second, "main;f 100", "-1"),
		Folded(typeInuse, "service_name=db pod=1", 0, "main;f 1000"))
	sel := selection(&typeCPU, `{}`)
	equal(t, "all", folded(t, s, sel), lines("{}", "6", "main 5", "main;f 111", "main;g 2"))
	equal(t, "by service", folded(t, s, sel, "service_name"), lines(
		`{service_name="api"}`, "7", "main 5", "main;f 11", "main;g 2",
		`{service_name="db"}`, "-1", "main;f 100"))
	equal(t, "by a label that some lack", folded(t, s, sel, "zone"), lines("{}", "6", "main 5", "main;f 111", "main;g 2"))
	equal(t, "another type", folded(t, s, selection(&typeInuse, `{}`)), lines("{}", "main;f 1000"))

	b, err := s.Merge(t.Context(), sel, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := b.Profiles[0]
	equal(t, "type, times and period", []any{p.Type, p.TimeNanos, p.DurationNanos, p.Period, p.Labels},
		[]any{typeCPU, Base.UnixNano(), int64(30 * time.Second), int64(time.Second) / 19, profile.Labels(nil)})
	other := Folded(typeCPU, "service_name=api", 0, "f 1")
	other.Profiles[0].Period = 7
	write(t, s, other)
	b, err = s.Merge(t.Context(), sel, nil)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "period of profiles that disagree", b.Profiles[0].Period, int64(0))
	if err := storage.Validate(b); err != nil {
		t.Errorf("the answer is not a valid batch: %v", err)
	}
	if _, err := s.Merge(t.Context(), selection(nil, `{}`), nil); !errors.Is(err, storage.ErrInvalid) {
		t.Errorf("no type: %v", err)
	}
}

func testLinks(t *testing.T, s storage.Store) {
	b := Folded(typeCPU, "service_name=api", 0, "f 1", "f 10", "f 100", "g 1000", "f 10000")
	link := func(i int, trace, span byte, name string) {
		l := b.Dictionary.Link(profile.Link{TraceID: profile.TraceID{trace}, SpanID: profile.SpanID{span}, SpanName: name})
		b.Profiles[0].Samples[i].Link = l
	}
	link(0, 1, 1, "GET /")
	link(1, 1, 2, "GET /")
	link(2, 2, 3, "POST /")
	link(3, 3, 3, "")
	write(t, s, b, Folded(typeCPU, "service_name=db", 0, "f 100000"))
	f := func(change func(*storage.Selection), want string) {
		t.Helper()
		sel := selection(&typeCPU, `{}`)
		change(&sel)
		equal(t, fmt.Sprintf("%x %x %q", sel.TraceIDs, sel.SpanIDs, sel.SpanNames), folded(t, s, sel), want)
	}
	f(func(*storage.Selection) {}, lines("{}", "f 110111", "g 1000"))
	f(func(s *storage.Selection) { s.TraceIDs = []profile.TraceID{{1}} }, lines("{}", "f 11"))
	f(func(s *storage.Selection) { s.TraceIDs = []profile.TraceID{{1}, {3}} }, lines("{}", "f 11", "g 1000"))
	f(func(s *storage.Selection) { s.SpanIDs = []profile.SpanID{{3}} }, lines("{}", "f 100", "g 1000"))
	f(func(s *storage.Selection) { s.SpanNames = []string{"GET /"} }, lines("{}", "f 11"))
	f(func(s *storage.Selection) { s.SpanNames = []string{"nothing"} }, "")
	f(func(s *storage.Selection) {
		s.TraceIDs, s.SpanIDs, s.SpanNames = []profile.TraceID{{1}}, []profile.SpanID{{2}, {3}}, []string{"GET /"}
	}, lines("{}", "f 10"))
	f(func(s *storage.Selection) { s.TraceIDs = []profile.TraceID{{9}} }, "")
	sel := storage.Selection{TraceIDs: []profile.TraceID{{1}}}
	got, err := s.Labels(t.Context(), sel)
	equal(t, "labels of a trace", []any{fmt.Sprint(got), err}, []any{`[{service_name="api"}]`, nil})
	sel.TraceIDs = []profile.TraceID{{9}}
	got, err = s.Labels(t.Context(), sel)
	equal(t, "labels of no trace", []any{len(got), err}, []any{0, nil})
	f2 := func(by []string, most int, want ...string) {
		t.Helper()
		list, err := s.Exemplars(t.Context(), selection(&typeCPU, `{}`), by, time.Minute, most)
		var got []string
		for _, e := range list {
			got = append(got, fmt.Sprintf("%s %d %x %x %q", e.Labels, e.Value, e.Link.TraceID[0], e.Link.SpanID[0], e.Link.SpanName))
		}
		equal(t, fmt.Sprintf("%d exemplars by %v", most, by), []any{got, err}, []any{want, nil})
	}
	f2(nil, 1, `{} 1000 3 3 ""`)
	f2(nil, 2, `{} 1000 3 3 ""`, `{} 100 2 3 "POST /"`)
	f2([]string{"service_name"}, 9, `{service_name="api"} 1000 3 3 ""`, `{service_name="api"} 100 2 3 "POST /"`, `{service_name="api"} 10 1 2 "GET /"`, `{service_name="api"} 1 1 1 "GET /"`)
	if _, err := s.Exemplars(t.Context(), sel, nil, time.Minute, 1); !errors.Is(err, storage.ErrInvalid) {
		t.Errorf("exemplars of no type: %v", err)
	}
	sel = selection(&typeCPU, `{}`)
	sel.SpanIDs = []profile.SpanID{{3}}
	series, err := s.Series(t.Context(), sel, nil, time.Minute)
	equal(t, "series of a span", []any{fmt.Sprint(series), err}, []any{fmt.Sprint([]storage.TimeSeries{{Points: []storage.Point{{TimeNanos: Base.UnixNano(), Value: 1100}}}}), nil})
}

func testFrames(t *testing.T, s storage.Store) {
	d := profile.NewDictionary()
	lib := d.Mapping(profile.Mapping{BuildID: "abc123", File: "/lib/libc.so.6"})
	named := d.Function(profile.Function{Name: "std::f()", SystemName: "_ZSt1fv", File: "f.cc", StartLine: 10})
	inner := d.Function(profile.Function{Name: "inner"})
	frames := profile.Stack{
		d.Frame(profile.Frame{Mapping: lib, Addr: 0xfffffffffffffff0, Lines: []profile.Line{{Function: inner, Line: 3, Column: 4}, {Function: named, Line: 12}}}),
		d.Frame(profile.Frame{Mapping: lib, Addr: 0x1000}),
		d.Frame(profile.Frame{Kind: profile.KindKernel, Addr: 0xffffffff81000000, Lines: []profile.Line{{Function: inner, Line: -1}}}),
		d.Frame(profile.Frame{Kind: profile.KindJIT, Lines: []profile.Line{{Function: inner}}}),
		d.Frame(profile.Frame{Kind: profile.KindUnwind, Lines: []profile.Line{{Function: named}}}),
		d.Frame(profile.Frame{}),
	}
	deep := make(profile.Stack, 3000)
	for i := range deep {
		deep[i] = frames[i%len(frames)]
	}
	b := &profile.Batch{Dictionary: d, Profiles: []profile.Profile{{
		Type: typeCPU, TimeNanos: Base.UnixNano(), Samples: []profile.Sample{{Stack: d.Stack(frames), Value: 3}, {Stack: d.Stack(deep), Value: 1 << 62}},
	}}}
	write(t, s, b)
	got, err := s.Merge(t.Context(), selection(&typeCPU, `{}`), nil)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "frames", Dump(got), Dump(b))
}

func testZero(t *testing.T, s storage.Store) {
	write(t, s,
		Folded(typeCPU, "a=zero", 0, "f 0", "g 0"),
		Folded(typeCPU, "a=none", 0),
		Folded(typeCPU, "a=cancels", 0, "f 1", "f -1"),
		Folded(typeCPU, "a=plus", 0, "f 5", "f 5", "g 1"),
		Folded(typeCPU, "a=minus", 0, "f -10"))
	values, err := s.LabelValues(t.Context(), "a", storage.Selection{})
	equal(t, "values", []any{strings.Join(values, " "), err}, []any{"minus plus", nil})
	equal(t, "merge", folded(t, s, selection(&typeCPU, `{}`)), lines("{}", "g 1"))
	equal(t, "merge to nothing", folded(t, s, selection(&typeCPU, `{a=~"zero|none|cancels"}`)), "")
}

func testDeterministic(t *testing.T, s storage.Store) {
	rnd := NewRandom(7)
	for range 20 {
		write(t, s, rnd.Batch())
	}
	for range 10 {
		q := rnd.Query()
		if a, b := q.Exact(t, s), q.Exact(t, s); a != b {
			t.Fatalf("%s: the same question was answered differently:\n%s\n%s", q, a, b)
		}
	}
}

func testInvalid(t *testing.T, s storage.Store) {
	f := func(what string, change func(*profile.Batch)) {
		t.Helper()
		b := Folded(typeCPU, "a=1 b=2", 0, "main;f 1", "main;g 2")
		// The first profile is good: nothing of it may stay either.
		bad := b.Profiles[0]
		bad.Labels = append(profile.Labels(nil), bad.Labels...)
		bad.Samples = append([]profile.Sample(nil), bad.Samples...)
		b.Profiles = append(b.Profiles, bad)
		change(b)
		if err := s.Write(t.Context(), b); !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	f("no dictionary", func(b *profile.Batch) { b.Dictionary = nil })
	f("stack index", func(b *profile.Batch) { b.Profiles[1].Samples[1].Stack = 99 })
	f("link index", func(b *profile.Batch) { b.Profiles[1].Samples[1].Link = 1 })
	f("frame index", func(b *profile.Batch) { b.Dictionary.Stacks[1][0] = 99 })
	f("function index", func(b *profile.Batch) { b.Dictionary.Frames[1].Lines[0].Function = 99 })
	f("mapping index", func(b *profile.Batch) { b.Dictionary.Frames[1].Mapping = 99 })
	f("kind", func(b *profile.Batch) { b.Dictionary.Frames[1].Kind = 200 })
	f("first stack", func(b *profile.Batch) { b.Dictionary.Stacks[0] = profile.Stack{1} })
	f("first function", func(b *profile.Batch) { b.Dictionary.Functions[0].Name = "x" })
	f("no tables", func(b *profile.Batch) { b.Dictionary = &profile.Dictionary{} })
	f("no type", func(b *profile.Batch) { b.Profiles[1].Type = profile.Type{} })
	f("colon in type", func(b *profile.Batch) { b.Profiles[1].Type.SampleUnit = "a:b" })
	f("unsorted labels", func(b *profile.Batch) { l := b.Profiles[1].Labels; l[0], l[1] = l[1], l[0] })
	f("label twice", func(b *profile.Batch) { b.Profiles[1].Labels[1] = b.Profiles[1].Labels[0] })
	f("empty label", func(b *profile.Batch) { b.Profiles[1].Labels[0].Value = "" })
	f("nameless label", func(b *profile.Batch) { b.Profiles[1].Labels[0].Name = "" })
	f("label not UTF-8", func(b *profile.Batch) { b.Profiles[1].Labels[0].Value = "\xff" })
	f("negative time", func(b *profile.Batch) { b.Profiles[1].TimeNanos = -1 })
	f("negative duration", func(b *profile.Batch) { b.Profiles[1].DurationNanos = -1 })
	f("end of time", func(b *profile.Batch) { b.Profiles[1].DurationNanos = 1<<63 - 1 })
	f("negative sample time", func(b *profile.Batch) { b.Profiles[1].Samples[0].TimeNanos = -1 })
	if err := s.Write(t.Context(), nil); !errors.Is(err, storage.ErrInvalid) {
		t.Errorf("nil batch: %v", err)
	}
	types, err := s.Types(t.Context(), time.Time{}, time.Time{})
	equal(t, "types after refusals", []any{len(types), err}, []any{0, nil})
	equal(t, "merge after refusals", folded(t, s, selection(&typeCPU, `{}`)), "")
	write(t, s, Folded(typeCPU, "a=1", 0, "f 1"))
	equal(t, "merge after a good one", folded(t, s, selection(&typeCPU, `{}`)), lines("{}", "f 1"))
}

// testOwnCopy: the store keeps nothing of the batch, and gives its answers away.
func testOwnCopy(t *testing.T, s storage.Store) {
	b := Folded(typeCPU, "a=1", 0, "main;f 1")
	write(t, s, b)
	b.Profiles[0].Samples[0].Value = 99
	b.Profiles[0].Labels[0].Value = "changed"
	b.Dictionary.Stacks[1][0] = 0
	b.Dictionary.Frames[1].Lines[0].Line = 42
	got, err := s.Merge(t.Context(), selection(&typeCPU, `{}`), []string{"a"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range got.Dictionary.Stacks {
		clear(got.Dictionary.Stacks[i])
	}
	for i := range got.Dictionary.Frames {
		clear(got.Dictionary.Frames[i].Lines)
	}
	clear(got.Profiles[0].Labels)
	equal(t, "merge", folded(t, s, selection(&typeCPU, `{}`), "a"), lines(`{a="1"}`, "main;f 1"))
}

// testRecent: IDs come in the order of their last write, and only of what is kept.
func testRecent(t *testing.T, s storage.Store) {
	put := func(ids ...profile.ID) {
		t.Helper()
		b := &profile.Batch{}
		for _, id := range ids {
			one := Folded(typeCPU, "a=1", 0, "f 1", "g 2")
			one.Profiles[0].ID = id
			b.Dictionary, b.Profiles = one.Dictionary, append(b.Profiles, one.Profiles[0])
		}
		write(t, s, b)
	}
	a, b, c, d := profile.ID{1}, profile.ID{15: 2}, profile.ID{3}, profile.ID{4}
	put(a, a, profile.ID{}, b)
	recent(t, s, a, b)
	put(profile.ID{})
	put(c)
	recent(t, s, a, b, c)
	put(b, profile.ID{}, b)
	recent(t, s, a, c, b)
	none := Folded(typeCPU, "a=1", 0, "f 0", "g 1", "g -1")
	none.Profiles[0].ID = d
	write(t, s, none)
	bad := Folded(typeCPU, "a=1", 0, "f 1")
	bad.Profiles[0].ID, bad.Profiles[0].TimeNanos = d, -1
	if err := s.Write(t.Context(), bad); !errors.Is(err, storage.ErrInvalid) {
		t.Errorf("an invalid batch: %v", err)
	}
	recent(t, s, a, c, b)
	got, err := s.Recent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	clear(got)
	recent(t, s, a, c, b)
}

func testCancelled(t *testing.T, s storage.Store) {
	write(t, s, Folded(typeCPU, "a=1", 0, "f 1"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	sel := selection(&typeCPU, `{}`)
	f := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", what, err)
		}
	}
	f("write", s.Write(ctx, Folded(typeCPU, "a=2", 0, "f 2")))
	_, err := s.Types(ctx, time.Time{}, time.Time{})
	f("types", err)
	_, err = s.LabelNames(ctx, sel)
	f("names", err)
	_, err = s.LabelValues(ctx, "a", sel)
	f("values", err)
	_, err = s.Labels(ctx, sel)
	f("labels", err)
	_, err = s.Series(ctx, sel, nil, time.Second)
	f("series", err)
	_, err = s.Merge(ctx, sel, nil)
	f("merge", err)
	_, err = s.Recent(ctx)
	f("recent", err)
	equal(t, "nothing of the cancelled write", folded(t, s, sel), lines("{}", "f 1"))
}

// testConcurrent: writers and readers at once; every writer finds what it wrote as soon as it was acknowledged.
func testConcurrent(t *testing.T, s storage.Store) {
	const writers, batches = 8, 25
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			labels := fmt.Sprintf("service_name=s%d", w)
			sel := selection(&typeCPU, fmt.Sprintf(`{service_name="s%d"}`, w))
			for i := range batches {
				b := Folded(typeCPU, labels, time.Duration(i)*time.Second, fmt.Sprintf("main;shared;own%d;f%d 1", w, i%5), "main;shared 2")
				if err := s.Write(t.Context(), b); err != nil {
					t.Errorf("writing: %v", err)
					return
				}
				got, err := s.Merge(t.Context(), sel, nil)
				if err != nil || len(got.Profiles) != 1 || got.Profiles[0].Total() != int64(3*(i+1)) {
					t.Errorf("after write %d: %v, %s", i, err, Dump(got))
					return
				}
			}
		})
	}
	wg.Wait()
	got, err := s.Merge(t.Context(), selection(&typeCPU, `{}`), nil)
	if err != nil || got.Profiles[0].Total() != writers*batches*3 {
		t.Errorf("at the end: %v, %s", err, Dump(got))
	}
}

func testClosed(t *testing.T, s storage.Store) {
	write(t, s, Folded(typeCPU, "a=1", 0, "f 1"))
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatalf("closing: %v", err)
		}
	}
	if err := s.Write(t.Context(), Folded(typeCPU, "a=1", 0, "f 1")); !errors.Is(err, storage.ErrClosed) {
		t.Errorf("write: %v", err)
	}
	if _, err := s.Merge(t.Context(), selection(&typeCPU, `{}`), nil); !errors.Is(err, storage.ErrClosed) {
		t.Errorf("merge: %v", err)
	}
	if _, err := s.Recent(t.Context()); !errors.Is(err, storage.ErrClosed) {
		t.Errorf("recent: %v", err)
	}
	if _, err := s.Types(t.Context(), time.Time{}, time.Time{}); !errors.Is(err, storage.ErrClosed) {
		t.Errorf("types: %v", err)
	}
}
