package query

import (
	"fmt"
	"testing"
	"time"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/storagetest"
)

// look is what one look at one node tells: each stack with its value.
type look struct {
	node     string
	at       time.Duration
	duration time.Duration
	stacks   map[string]int64
}

func write(t *testing.T, e *Engine, origin time.Time, looks ...look) {
	t.Helper()
	for _, l := range looks {
		b := &profile.Batch{Dictionary: profile.NewDictionary()}
		p := profile.Profile{
			Type: profile.TypeInuseSpace, Labels: profile.NewLabels(profile.Label{Name: "node", Value: l.node}),
			TimeNanos: origin.Add(l.at).UnixNano(), DurationNanos: l.duration.Nanoseconds(),
		}
		for name, v := range l.stacks {
			f := b.Dictionary.Frame(profile.Frame{Kind: profile.KindJIT, Lines: []profile.Line{{Function: b.Dictionary.Function(profile.Function{Name: name})}}})
			p.Samples = append(p.Samples, profile.Sample{Stack: b.Dictionary.Stack(profile.Stack{f}), Value: v})
		}
		b.Profiles = []profile.Profile{p}
		if err := e.opts.Store.Write(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMean: a level that does not change is what it is, however the range lies.
func TestMean(t *testing.T) {
	e := engine(t, nil, 0)
	origin := time.Unix(1_700_000_000, 0)
	const every = 15 * time.Second
	for node := range 10 {
		for at := time.Duration(node) * every / 10; at < 2*time.Hour; at += every {
			write(t, e, origin, look{fmt.Sprint(node), at, every, map[string]int64{"keep": 100_000}})
		}
	}
	for _, length := range []time.Duration{time.Minute, 4 * time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour} {
		for shift := time.Duration(0); shift < 2*time.Minute; shift += 7 * time.Second {
			start := origin.Add(10*time.Minute + shift)
			m, err := e.Merge(t.Context(), storage.Selection{Type: &profile.TypeInuseSpace, Start: start, End: start.Add(length)})
			if err != nil {
				t.Fatal(err)
			}
			if got := m.Profile.Total(); got != 1_000_000 {
				t.Errorf("over %s from %s: %d, want 1000000", length, shift, got)
			}
		}
	}
}

// TestMeanOfSuccessors: a program and its next version were not there together.
func TestMeanOfSuccessors(t *testing.T) {
	e := engine(t, nil, 0)
	origin := time.Unix(1_700_000_000, 0)
	for at := time.Duration(0); at < time.Hour; at += 15 * time.Second {
		node := "old"
		if at >= 30*time.Minute {
			node = "new"
		}
		write(t, e, origin, look{node, at, 15 * time.Second, map[string]int64{"keep": 1000}})
	}
	m, err := e.Merge(t.Context(), storage.Selection{Type: &profile.TypeInuseSpace, Start: origin, End: origin.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	// The step in which the one replaces the other may count both.
	if got := m.Profile.Total(); got < 1000 || got > 1050 {
		t.Errorf("%d, want 1000 or little more", got)
	}
}

// TestMeanOfSmallStacks: many stacks of which each is less than one on average add up to what there was.
func TestMeanOfSmallStacks(t *testing.T) {
	store := &storagetest.Model{}
	e, err := New(Options{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	origin := time.Unix(1_700_000_000, 0)
	for n := range 20 {
		stacks := map[string]int64{}
		for i := range 100 {
			stacks[fmt.Sprintf("goroutine%d.%d", n, i)] = 1
		}
		write(t, e, origin, look{"a", time.Duration(n) * 15 * time.Second, 15 * time.Second, stacks})
	}
	m, err := e.Merge(t.Context(), storage.Selection{Type: &profile.TypeInuseSpace})
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Profile.Total(); got != 100 {
		t.Errorf("%d, want 100", got)
	}
}
