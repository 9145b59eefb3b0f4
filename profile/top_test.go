package profile

import (
	"fmt"
	"strings"
	"testing"
)

func TestTop(t *testing.T) {
	b, p := folded(t, "main;a 50", "main;a;b;a 7", "main;b;a;b 3", "a 2", "[no stack] 4")
	show := func(rows []TopRow) string {
		var s strings.Builder
		for _, r := range rows {
			fmt.Fprintf(&s, "%s %d %d\n", r.Name, r.Self, r.Total)
		}
		return s.String()
	}
	rows := Top(b, p)
	if got, want := show(rows), "a 59 62\nb 3 10\nmain 0 60\n"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	SortByTotal(rows)
	if got, want := show(rows), "a 59 62\nmain 0 60\nb 3 10\n"; got != want {
		t.Errorf("by total: got\n%s\nwant\n%s", got, want)
	}
}

// A function that is inlined here and called there is one row; one of the same name elsewhere is another.
func TestTopInlined(t *testing.T) {
	rows := Top(recording(), &recording().Profiles[0])
	for _, r := range rows {
		if r.Name == "ns::inner(int)" && (r.Self != 650_000_000 || r.File != "inner.h" || r.Mapping != "/usr/bin/app") {
			t.Errorf("got %+v", r)
		}
	}
	if len(rows) != 5 {
		t.Errorf("%d rows: %+v", len(rows), rows)
	}
}

func TestMerge(t *testing.T) {
	labelled := func(service string, start, duration, period int64, lines ...string) *Batch {
		b, p := folded(t, lines...)
		p.Labels = NewLabels(Label{LabelServiceName, service})
		p.TimeNanos, p.DurationNanos, p.Period = start, duration, period
		return b
	}
	got := Merge(
		labelled("a", 100, 10, 5, "main;x 1", "main;y 2"),
		labelled("b", 100, 10, 5, "main;x 4"),
		labelled("a", 150, 20, 5, "main;y 8", "z 16"),
		labelled("b", 90, 10, 7, "main;x 32"),
	)
	if err := got.Check(); err != nil {
		t.Fatal(err)
	}
	var s strings.Builder
	for i := range got.Profiles {
		p := &got.Profiles[i]
		fmt.Fprintf(&s, "%s from %d for %d every %d, %d samples\n", p.Labels, p.TimeNanos, p.DurationNanos, p.Period, len(p.Samples))
		if err := WriteFolded(&s, got, p); err != nil {
			t.Fatal(err)
		}
	}
	const want = `{service_name="a"} from 100 for 70 every 5, 3 samples
main;x 1
main;y 10
z 16
{service_name="b"} from 90 for 20 every 0, 1 samples
main;x 36
`
	if s.String() != want {
		t.Errorf("got\n%s\nwant\n%s", s.String(), want)
	}
	if n := len(got.Dictionary.Stacks); n != 4 {
		t.Errorf("%d stacks, want 3 and the empty one", n-1)
	}
	one, two := recording(), recording()
	if g, w := describe(t, Merge(one)), describe(t, two); g != w {
		t.Errorf("merging one batch changes it:\n%s\nwant\n%s", g, w)
	}
}

func TestDiff(t *testing.T) {
	b1, p1 := folded(t, "main;a 10", "main;b;x 5", "main;b;y 5", "old 3", "[no stack] 1")
	b2, p2 := folded(t, "main;a 12", "main;b;x 1", "main;c 7", "zzz;old 3")
	d := Diff(NewTree(b1, p1), NewTree(b2, p2))
	checkTree(t, &d.Tree)
	var s strings.Builder
	for i := range d.Frame {
		fmt.Fprintf(&s, "%s %d/%d → %d/%d\n", d.Name(uint32(i)), d.BeforeSelf[i], d.BeforeTotal[i], d.Self[i], d.Total[i])
	}
	const want = `root 1/24 → 0/23
main 0/20 → 0/20
a 10/10 → 12/12
b 0/10 → 0/1
x 5/5 → 1/1
y 5/5 → 0/0
c 0/0 → 7/7
old 3/3 → 0/0
zzz 0/0 → 0/3
old 0/0 → 3/3
`
	if s.String() != want {
		t.Errorf("got\n%s\nwant\n%s", s.String(), want)
	}
}
