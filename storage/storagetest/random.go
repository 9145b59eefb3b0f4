package storagetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
)

// Random makes batches and questions from a seed. It is not safe for concurrent use.
type Random struct{ *rand.Rand }

// NewRandom returns a Random whose course depends on nothing but the seed.
func NewRandom(seed uint64) *Random { return &Random{rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15))} }

func pick[T any](r *Random, from ...T) T { return from[r.IntN(len(from))] }

func (r *Random) typ() profile.Type { return pick(r, typeCPU, typeCPU, typeInuse, typeAlloc) }

func (r *Random) labels() profile.Labels {
	m := map[string]string{}
	if r.IntN(10) > 0 {
		m[profile.LabelServiceName] = pick(r, "api", "db", "web", "api-canary", "ünï")
	}
	if r.IntN(2) == 0 {
		m["pod"] = fmt.Sprintf("pod-%d", r.IntN(4))
	}
	if r.IntN(4) == 0 {
		m["env"] = pick(r, "prod", "test")
	}
	return profile.LabelsFromMap(m)
}

func (r *Random) time() time.Time {
	return Base.Add(time.Duration(r.IntN(2*3600)) * time.Second)
}

func (r *Random) link() profile.Link {
	if r.IntN(5) == 0 {
		return profile.Link{}
	}
	return profile.Link{
		TraceID:  profile.TraceID{byte(r.IntN(3) + 1)},
		SpanID:   profile.SpanID{7: byte(r.IntN(3) + 1)},
		SpanName: pick(r, "", "GET /", "POST /"),
	}
}

func (r *Random) frame(d *profile.Dictionary) profile.FrameIndex {
	f := profile.Frame{Kind: profile.Kind(r.IntN(5))}
	if r.IntN(2) == 0 {
		f.Mapping = d.Mapping(profile.Mapping{BuildID: pick(r, "", "aa", "bb"), File: pick(r, "/bin/x", "[vdso]", "")})
		f.Addr = profile.Addr(r.IntN(8) * 0x1000)
	}
	for range r.IntN(3) {
		fn := profile.Function{Name: fmt.Sprintf("f%d", r.IntN(12))}
		if r.IntN(3) == 0 {
			fn.SystemName, fn.File, fn.StartLine = "_Z"+fn.Name, pick(r, "a.c", "b.c", "not \xff utf-8"), int32(r.IntN(3))
		}
		f.Lines = append(f.Lines, profile.Line{Function: d.Function(fn), Line: int32(r.IntN(4) - 1), Column: int32(r.IntN(2))})
	}
	return d.Frame(f)
}

// Batch makes a valid batch: few functions and labels, so that much of it was seen before.
func (r *Random) Batch() *profile.Batch {
	d := profile.NewDictionary()
	frames := make([]profile.FrameIndex, 10)
	for i := range frames {
		frames[i] = r.frame(d)
	}
	stacks := make([]profile.StackIndex, 8)
	for i := range stacks {
		s := make(profile.Stack, r.IntN(6))
		for j := range s {
			s[j] = pick(r, frames...)
		}
		stacks[i] = d.Stack(s)
	}
	b := &profile.Batch{Dictionary: d}
	for range 1 + r.IntN(5) {
		p := profile.Profile{
			Type: r.typ(), Labels: r.labels(), TimeNanos: r.time().UnixNano(),
			DurationNanos: pick(r, 0, 5*time.Second, 10*time.Second, 2*time.Minute, time.Duration(r.IntN(1e11))).Nanoseconds(), Period: int64(r.IntN(2)+1) * 1000,
		}
		if r.IntN(3) > 0 {
			p.ID = profile.ID{byte(r.IntN(50)), byte(r.IntN(4))}
		}
		timed, linked := r.IntN(3) == 0, r.IntN(3) == 0
		for range r.IntN(12) {
			s := profile.Sample{Stack: pick(r, stacks...), Value: int64(r.IntN(2000) - 100)}
			if r.IntN(10) == 0 {
				s.Value = 0
			}
			if timed && r.IntN(4) > 0 {
				s.TimeNanos = p.TimeNanos + int64(r.IntN(20)-3)*int64(time.Second)
			}
			if linked {
				s.Link = d.Link(r.link())
			}
			p.Samples = append(p.Samples, s)
		}
		b.Profiles = append(b.Profiles, p)
	}
	return b
}

// Query is one question of any kind.
type Query struct {
	Kind   string // types, names, values, labels, series, exemplars or merge
	Sel    storage.Selection
	Stacks string // a function that the stacks of a series have or, after "!", do not have
	Name   string
	By     []string
	Step   time.Duration
}

// Query makes a question that often has an answer.
func (r *Random) Query() Query {
	q := Query{Kind: pick(r, "types", "names", "values", "labels", "series", "series", "exemplars", "exemplars", "merge", "merge", "merge")}
	if r.IntN(3) > 0 {
		q.Sel.Start = r.time()
	}
	if r.IntN(3) > 0 {
		q.Sel.End = r.time()
		if !q.Sel.Start.IsZero() && q.Sel.End.Before(q.Sel.Start) {
			q.Sel.Start, q.Sel.End = q.Sel.End, q.Sel.Start
		}
	}
	if q.Kind == "types" {
		return q
	}
	if q.Kind == "series" || q.Kind == "exemplars" || q.Kind == "merge" || r.IntN(2) == 0 {
		t := r.typ()
		q.Sel.Type = &t
	}
	for range r.IntN(3) {
		name := pick(r, profile.LabelServiceName, profile.LabelServiceName, "pod", "env", "absent")
		op := profile.MatchOp(r.IntN(4))
		value := pick(r, "api", "db", "pod-1", "prod", "", "ünï")
		if op == profile.MatchRegexp || op == profile.MatchNotRegexp {
			value = pick(r, "api.*", "pod-[12]|db", ".*", ".+", "", "prod|", "ap")
		}
		m, err := profile.NewMatcher(name, op, value)
		if err != nil {
			panic("BUG: " + err.Error())
		}
		q.Sel.Selector = append(q.Sel.Selector, m)
	}
	if r.IntN(4) == 0 {
		q.Sel.TraceIDs = []profile.TraceID{r.link().TraceID}
	}
	if r.IntN(6) == 0 {
		q.Sel.SpanIDs = []profile.SpanID{r.link().SpanID, {7: 2}}
	}
	if r.IntN(6) == 0 {
		q.Sel.SpanNames = []string{r.link().SpanName}
	}
	q.Name = pick(r, profile.LabelServiceName, "pod", "env", "absent")
	q.By = pick(r, nil, nil, []string{profile.LabelServiceName}, []string{"pod", profile.LabelServiceName}, []string{"absent"})
	if (q.Kind == "series" || q.Kind == "exemplars") && r.IntN(2) == 0 {
		q.Stacks = pick(r, "", "!") + fmt.Sprintf("f%d", r.IntN(12))
		q.Sel.Stacks = judge(q.Stacks)
	}
	q.Step = pick(r, time.Second, 999_999_937, time.Minute, 7*time.Minute, time.Hour)
	return q
}

// judge returns one that keeps the stacks that have a function or, after "!", do not have it. It spoils the dictionary,
// which is its own.
func judge(function string) storage.Judge {
	name, not := strings.CutPrefix(function, "!")
	return func(_ context.Context, d *profile.Dictionary) ([]bool, error) {
		counts := make([]bool, len(d.Stacks))
		for i, stack := range d.Stacks {
			has := slices.ContainsFunc(stack, func(f profile.FrameIndex) bool {
				return slices.ContainsFunc(d.Frames[f].Lines, func(l profile.Line) bool { return d.Functions[l.Function].Name == name })
			})
			counts[i] = has != not
		}
		for i := range d.Frames {
			clear(d.Frames[i].Lines)
		}
		return counts, nil
	}
}

func (q Query) String() string {
	typ := ""
	if q.Sel.Type != nil {
		typ = q.Sel.Type.String()
	}
	at := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return t.Sub(Base).String()
	}
	return fmt.Sprintf("%s %s%s from %s to %s traces %x spans %x names %q stacks %q name %q by %v step %s", q.Kind, typ, q.Sel.Selector,
		at(q.Sel.Start), at(q.Sel.End), q.Sel.TraceIDs, q.Sel.SpanIDs, q.Sel.SpanNames, q.Stacks, q.Name, q.By, q.Step)
}

// ask puts the question and returns the answer as it is.
func (q Query) ask(t testing.TB, s storage.Store) any {
	t.Helper()
	ctx := t.Context()
	var answer any
	var err error
	switch q.Kind {
	case "types":
		answer, err = s.Types(ctx, q.Sel.Start, q.Sel.End)
	case "names":
		answer, err = s.LabelNames(ctx, q.Sel)
	case "values":
		answer, err = s.LabelValues(ctx, q.Name, q.Sel)
	case "labels":
		answer, err = s.Labels(ctx, q.Sel)
	case "series":
		answer, err = s.Series(ctx, q.Sel, q.By, q.Step)
	case "exemplars":
		answer, err = s.Exemplars(ctx, q.Sel, q.By, q.Step, 1+len(q.By))
	case "merge":
		answer, err = s.Merge(ctx, q.Sel, q.By)
	}
	if err != nil {
		t.Fatalf("%s: %v", q, err)
	}
	return answer
}

// Exact returns the answer with everything in it, the order of dictionaries too.
func (q Query) Exact(t testing.TB, s storage.Store) string {
	t.Helper()
	if b, ok := q.ask(t, s).(*profile.Batch); ok {
		d := b.Dictionary
		return fmt.Sprintf("%v %v %v %v %v %v", b.Profiles, d.Stacks, d.Frames, d.Functions, d.Mappings, d.Links)
	}
	return fmt.Sprint(q.ask(t, s))
}

// Answer returns the meaning of the answer: equal for stores that hold the same.
func (q Query) Answer(t testing.TB, s storage.Store) string {
	t.Helper()
	answer := q.ask(t, s)
	if b, ok := answer.(*profile.Batch); ok {
		if err := storage.Validate(b); err != nil {
			t.Errorf("%s: the answer is not a valid batch: %v", q, err)
		}
		return Dump(b)
	}
	v := reflect.ValueOf(answer)
	var out strings.Builder
	for i := range v.Len() {
		fmt.Fprintf(&out, "%q\n", fmt.Sprint(v.Index(i).Interface()))
	}
	return out.String()
}

// Compare asks both and reports a difference.
func (q Query) Compare(t testing.TB, got, want storage.Store) {
	t.Helper()
	if q.Kind == "series" && !q.Sel.Type.Level() {
		series, merge := q.ask(t, got).([]storage.TimeSeries), Query{Kind: "merge", Sel: q.Sel}.ask(t, got).(*profile.Batch)
		sum := int64(0)
		for _, ts := range series {
			for _, p := range ts.Points {
				sum += p.Value
			}
		}
		counts := make([]bool, len(merge.Dictionary.Stacks))
		if q.Sel.Stacks != nil {
			counts, _ = q.Sel.Stacks(t.Context(), merge.Dictionary)
		}
		for i := range merge.Profiles {
			for _, s := range merge.Profiles[i].Samples {
				if q.Sel.Stacks == nil || counts[s.Stack] {
					sum -= s.Value
				}
			}
		}
		if sum != 0 {
			t.Errorf("%s: the points are %d more than the merge", q, sum)
		}
	}
	if g, w := q.Answer(t, got), q.Answer(t, want); g != w {
		t.Errorf("%s:\n got %s\nwant %s", q, g, w)
	}
}

// Differential writes random batches to a new store and to a Model and compares their answers to random
// questions, exactly. Now and then the store is closed and opened again.
func Differential(t *testing.T, newStore NewStore, seed uint64, rounds int) {
	rnd, dir := NewRandom(seed), t.TempDir()
	s, model := newStore(t, dir), &Model{}
	defer func() { s.Close() }()
	for range rounds {
		for range rnd.IntN(4) {
			b := rnd.Batch()
			write(t, s, b)
			write(t, model, b)
		}
		if rnd.IntN(10) == 0 {
			if err := s.Close(); err != nil {
				t.Fatalf("closing: %v", err)
			}
			s = newStore(t, dir)
		}
		for range 5 {
			rnd.Query().Compare(t, s, model)
		}
		sameRecent(t, s, model)
		if t.Failed() {
			t.FailNow()
		}
	}
}
