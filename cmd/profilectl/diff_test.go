package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/server/limits"
)

// plainSide is a side of a difference as folded text says it.
type plainSide map[string]int64 // by stack

func randomSide(r *rand.Rand) plainSide {
	s := plainSide{}
	names := []string{"main", "a", "b", "c", "malloc", "runtime.mallocgc", "read_[k]"}
	for range 1 + r.IntN(20) {
		stack := []string{"main"}
		for range r.IntN(5) {
			stack = append(stack, names[r.IntN(len(names))])
		}
		s[strings.Join(stack, ";")] += int64(1 + r.IntN(50))
	}
	return s
}

func (s plainSide) text() string {
	var b strings.Builder
	for stack, v := range s {
		fmt.Fprintf(&b, "%s %d\n", stack, v)
	}
	return b.String()
}

func (s plainSide) sum() (n int64) {
	for _, v := range s {
		n += v
	}
	return n
}

// costs are self and total by function. Memory belongs to who asks for it.
func (s plainSide) costs(memory bool) map[string][2]int64 {
	out := map[string][2]int64{}
	for stack, v := range s {
		frames := strings.Split(stack, ";")
		end := len(frames)
		for memory && (frames[end-1] == "malloc" || frames[end-1] == "runtime.mallocgc") {
			end--
		}
		for i, f := range frames[:end] {
			at := out[f]
			if i == end-1 {
				at[0] += v
			}
			if !slices.Contains(frames[:i], f) {
				at[1] += v
			}
			out[f] = at
		}
	}
	return out
}

// answer is what -o json writes.
type answer struct {
	Before, After struct {
		Total int64
		Scale float64
	}
	Functions []struct {
		Name, Kind  string
		Self, Total int64
		Before      struct{ Self, Total int64 }
	}
	Root answerNode
}

type answerNode struct {
	Name, Kind  string
	Self, Total int64
	Before      struct{ Self, Total int64 }
	Children    []answerNode
}

func (n *answerNode) stacks(path string, before, after plainSide) {
	for _, c := range n.Children {
		name := c.Name
		if c.Kind == "kernel" {
			name += "_[k]"
		}
		at := strings.TrimPrefix(path+";"+name, ";")
		if c.Before.Self != 0 {
			before[at] += c.Before.Self
		}
		if c.Self != 0 {
			after[at] += c.Self
		}
		c.stacks(at, before, after)
	}
}

// TestDiffRandom: the same two profiles as files, on the server and mixed, in every scale, are what plain sums over
// their lines say.
func TestDiffRandom(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 0, 0, time.UTC)
	t.Chdir(t.TempDir())
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 11))
		sides := [2]plainSide{randomSide(r), randomSide(r)}
		typ := []profile.Type{profile.TypeCPU, uploadTypes[5], uploadTypes[3]}[r.IntN(3)]
		m := &memory{}
		url := serve(t, m, func() time.Time { return now }, limits.Limits{})
		for i, s := range sides {
			if err := os.WriteFile([2]string{"before", "after"}[i], []byte(s.text()), 0o644); err != nil {
				t.Fatal(err)
			}
			b, err := profile.ParseFolded(strings.NewReader(s.text()), typ, profile.LabelsFromMap(map[string]string{"version": fmt.Sprint(i)}))
			if err != nil {
				t.Fatal(err)
			}
			b.Profiles[0].TimeNanos = now.Add(-10 * time.Minute).UnixNano()
			if err := m.Write(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
		for _, args := range [][]string{
			{"before", "after"},
			{`{version="0"}`, `{version="1"}`},
			{"before", `{version="1"}`},
			{`{version="0"}`, "after"},
		} {
			for _, scale := range []string{"none", "samples", "operations"} {
				flags := []string{"diff", "--type", typ.String(), "--server", url, "--limit", "0", "-o", "json"}
				scales := [2]float64{1, 1}
				switch scale {
				case "samples":
					flags, scales = append(flags, "--scale", scale), [2]float64{1 / float64(sides[0].sum()), 1 / float64(sides[1].sum())}
				case "operations":
					flags, scales = append(flags, "--before-operations", "4", "--after-operations", "5"), [2]float64{1. / 4, 1. / 5}
				default:
					flags = append(flags, "--scale", scale)
				}
				what := fmt.Sprintf("seed %d, %s, %q, scale %s", seed, typ, args, scale)
				var got answer
				if err := json.Unmarshal(runOut(t, what, now, append(flags, args...)), &got); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				checkAnswer(t, what, &got, sides, scales, typ.Memory())
			}
		}
	}
}

func runOut(t *testing.T, what string, now time.Time, args []string) []byte {
	t.Helper()
	var out, errOut bytes.Buffer
	a := &app{out: &out, err: &errOut, now: func() time.Time { return now }, http: http.DefaultClient, env: func(string) string { return "" }}
	if code := run(t.Context(), a, args); code != 0 {
		t.Fatalf("%s: exit %d: %s", what, code, errOut.String())
	}
	return out.Bytes()
}

func checkAnswer(t *testing.T, what string, got *answer, sides [2]plainSide, scales [2]float64, memory bool) {
	t.Helper()
	for i, s := range []struct {
		Total int64
		Scale float64
	}{got.Before, got.After} {
		if s.Total != sides[i].sum() || math.Abs(s.Scale-scales[i]) > 1e-12 {
			t.Fatalf("%s: side %d: total %d times %g, want %d times %g", what, i, s.Total, s.Scale, sides[i].sum(), scales[i])
		}
	}
	before, after := plainSide{}, plainSide{}
	got.Root.stacks("", before, after)
	if !maps.Equal(before, sides[0]) || !maps.Equal(after, sides[1]) {
		t.Fatalf("%s: tree has\n%v\n%v\nwant\n%v\n%v", what, before, after, sides[0], sides[1])
	}
	want := [2]map[string][2]int64{sides[0].costs(memory), sides[1].costs(memory)}
	last := math.Inf(1)
	for _, f := range got.Functions {
		name := f.Name
		if f.Kind == "kernel" {
			name += "_[k]"
		}
		if b := [2]int64{f.Before.Self, f.Before.Total}; b != want[0][name] {
			t.Fatalf("%s: %s before is %v, want %v", what, name, b, want[0][name])
		}
		if a := [2]int64{f.Self, f.Total}; a != want[1][name] {
			t.Fatalf("%s: %s after is %v, want %v", what, name, a, want[1][name])
		}
		change := math.Abs(float64(f.Self)*scales[1] - float64(f.Before.Self)*scales[0])
		if change > last+1e-12 {
			t.Fatalf("%s: %s is not in order", what, name)
		}
		last = change
		delete(want[0], name)
		delete(want[1], name)
	}
	if len(want[0])+len(want[1]) > 0 {
		t.Fatalf("%s: no rows for %v", what, want)
	}
}

func TestParseSpan(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	f := func(in, want string) {
		t.Helper()
		from, to, err := parseSpan(in, now)
		got := describeRange(from, to)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
	f("-2h..-1h", "2026-03-04T03:06:07Z to 2026-03-04T04:06:07Z")
	f("-1h..", "2026-03-04T04:06:07Z to 2026-03-04T05:06:07Z")
	f("0..-1h", "until 2026-03-04T04:06:07Z")
	f("0..0", "all time")
	f("2026-03-01..2026-03-02", "2026-03-01T00:00:00Z to 2026-03-02T00:00:00Z")
	f("1700000000.5..1700000100", "2023-11-14T22:13:20Z to 2023-11-14T22:15:00Z")
	f("..-1h", `"..-1h": want FROM..TO, as -2h..-1h`)
	f("-1h", `"-1h": want FROM..TO, as -2h..-1h`)
	f("-1h..-2h", `"-1h..-2h": 2026-03-04T04:06:07Z is not before 2026-03-04T03:06:07Z`)
	f("-1h..-1h", `"-1h..-1h": 2026-03-04T04:06:07Z is not before 2026-03-04T04:06:07Z`)
	f("x..now", `"x..now": its beginning "x": want a distance as -1h or -2d, a time as 2026-01-02T15:04:05Z, Unix seconds, or now`)
	f("-1h..x", `"-1h..x": its end "x": want a distance as -1h or -2d, a time as 2026-01-02T15:04:05Z, Unix seconds, or now`)
	f("+1h..0", `"+1h..0": 2026-03-04T06:06:07Z is not before now`)
}

// FuzzParseSpan: what is read is a range, and the same range written out is read as the same.
func FuzzParseSpan(f *testing.F) {
	for _, s := range []string{"-2h..-1h", "-1h..now", "0..0", "..", "...", "1700000000.5..1700000100", "2026-03-01..2026-03-02T04:05", "now-1h..now+1h", "-1h....", "NaN..Inf"} {
		f.Add(s)
	}
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		from, to, err := parseSpan(s, now)
		if err != nil {
			return
		}
		if !from.IsZero() && !to.IsZero() && !from.Before(to) {
			t.Fatalf("%q: from %s to %s", s, from, to)
		}
		if from.IsZero() || to.IsZero() || from.Year() > 9999 || to.Year() > 9999 || from.Year() < 1 {
			return
		}
		again, end, err := parseSpan(from.Format(time.RFC3339Nano)+".."+to.Format(time.RFC3339Nano), now)
		if err != nil || !again.Equal(from) || !end.Equal(to) {
			t.Fatalf("%q: from %s to %s came back as %s to %s: %v", s, from, to, again, end, err)
		}
	})
}

func TestFitMiddle(t *testing.T) {
	f := func(in string, width int, want string) {
		t.Helper()
		if got := fitMiddle(in, width); got != want {
			t.Errorf("%q in %d: got %q, want %q", in, width, got, want)
		}
	}
	f("net/http.(*conn).serve", 0, "net/http.(*conn).serve")
	f("net/http.(*conn).serve", 22, "net/http.(*conn).serve")
	f("net/http.(*conn).serve", 11, "net/h…serve")
	f("net/http.(*conn).serve", 10, "net/…serve")
	f("aé", 1, "…")
	f("äöü", 2, "…ü")
}

// TestDiffColour: more is warm, less is cold, what stays is grey, and each step is seen beside the one before.
func TestDiffColour(t *testing.T) {
	last := ""
	for i := range 21 {
		c := diffColour(float64(i-10) / 10)
		var red, green, blue int
		if _, err := fmt.Sscanf(c, "#%02x%02x%02x", &red, &green, &blue); err != nil {
			t.Fatal(err)
		}
		if c == last || i > 10 && red <= blue || i < 10 && red >= blue || i == 10 && red != blue {
			t.Errorf("%d is %s", i-10, c)
		}
		last = c
	}
}

// TestDiffPage: a page holds no markup but its own, whatever functions are called, and loads nothing.
func TestDiffPage(t *testing.T) {
	t.Chdir(t.TempDir())
	evil := `</script></style></svg><script>alert("x")</script><img src=x onerror=y>`
	for name, text := range map[string]string{"before": "main;" + evil + " 5\n", "after": "main;" + evil + " 50\nmain;<b> 7\n"} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	page := string(runOut(t, "page", time.Now(), []string{"diff", "before", "after", "-o", "html"}))
	for what, want := range map[string]int{
		"<script": 1, "</script>": 1, "<svg": 1, "</svg>": 1, "<img": 0, "<b>": 0, "href=": 0, "@import": 0, "url(": 0, "https:": 0,
		"default-src 'none'": 1, "&lt;img src=x onerror=y&gt;": 3,
	} {
		if n := strings.Count(page, what); n != want {
			t.Errorf("%q occurs %d times, want %d", what, n, want)
		}
	}
}
