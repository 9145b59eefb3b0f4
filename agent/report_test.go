package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/perfuse/perfuse/agent/sampler"
	"github.com/perfuse/perfuse/agent/ship"
	"github.com/perfuse/perfuse/profile"
)

// TestClip cuts texts where a letter ends, and mends what is no text.
func TestClip(t *testing.T) {
	f := func(in string, max int, want string) {
		t.Helper()
		if got := clip(in, max); got != want || len(got) > max || !utf8.ValidString(got) {
			t.Errorf("%q within %d bytes: got %q, want %q", in, max, got, want)
		}
	}
	f("", 10, "")
	f("abc", 3, "abc")
	f("abcdef", 5, "ab…")
	f("aää", 4, "a…")
	f("a\xffb", 10, "a\uFFFDb")
	f(strings.Repeat("\xff", 10), 9, "\uFFFD") // what follows one another is one mistake
}

// TestLosses lists what was lost at all, each kind by its reason.
func TestLosses(t *testing.T) {
	got := losses(
		sampler.Stats{Drops: map[string]uint64{"ring full": 3, "counts full": 0}, Malformed: 2},
		ship.Stats{Dropped: map[string]uint64{"spool_full": 5}, Rejected: 7},
	)
	var lines []string
	for _, l := range got {
		lines = append(lines, fmt.Sprintf("%s %s %d", l.Kind, l.Reason, l.Count))
	}
	const want = "SAMPLES malformed record 2, SAMPLES ring full 3, MESSAGES spool full 5, PROFILES rejected by the server 7"
	if got := strings.Join(lines, ", "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := losses(sampler.Stats{}, ship.Stats{}); len(got) > 0 {
		t.Errorf("of nothing there is %v", got)
	}
}

// TestEndings keeps the largest of too many.
func TestEndings(t *testing.T) {
	counts := map[string]int{}
	for i := range 1000 {
		counts[strings.Repeat("x", 500)+fmt.Sprint(i)] = i
	}
	counts["most"] = 5000
	got := endings(counts)
	if len(got) != maxTold || got[0].End != "most" || got[1].Count != 999 || len(got[1].End) > maxToldName {
		t.Errorf("got %d, the first of them %v, %v", len(got), got[0], got[1])
	}
}

// TestCount counts CPU samples, and until when.
func TestCount(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	var told told
	for i := range 3 {
		told.count(&profile.Batch{Profiles: []profile.Profile{
			{Type: profile.TypeCPUSamples, TimeNanos: at.Add(time.Duration(i) * time.Minute).UnixNano(), DurationNanos: int64(time.Minute), Samples: []profile.Sample{{Value: 4}, {Value: 6}}},
			{Type: profile.TypeCPU, Samples: []profile.Sample{{Value: 1e9}}},
		}})
	}
	if told.samples != 30 || !told.until.Equal(at.Add(3*time.Minute)) {
		t.Errorf("%d samples until %s", told.samples, told.until)
	}
}

// TestBPFRun reads what kernels say of a program, with and without its run time.
func TestBPFRun(t *testing.T) {
	f := func(text, id string, ran time.Duration) {
		t.Helper()
		if gotID, got := bpfRun(text); gotID != id || got != ran {
			t.Errorf("%q: got %q, %s", text, gotID, got)
		}
	}
	f("pos:\t0\nprog_type:\t5\nprog_id:\t42\nrun_time_ns:\t1234567\nrun_cnt:\t9\n", "42", 1234567)
	f("prog_id:\t42\n", "42", 0)
	f("run_time_ns:\tmany\nprog_id:\t1", "1", 0)
	f("", "", 0)
}

// TestCost: a process that computes is seen to.
func TestCost(t *testing.T) {
	before := cpuTime()
	x := uint64(1)
	for end := time.Now().Add(time.Minute); cpuTime()-before < int64(10*time.Millisecond); {
		for range 100_000 {
			x = x*3 + 1
		}
		if time.Now().After(end) {
			t.Fatalf("in a minute of work (%d) there are %d ns", x, cpuTime()-before)
		}
	}
	if got := residentBytes(); got < 1<<20 || got > 1<<40 {
		t.Errorf("%d bytes are resident", got)
	}
}
