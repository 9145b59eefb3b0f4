package frost

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage"
	"github.com/perfuse/perfuse/storage/dictionary"
	"github.com/perfuse/perfuse/storage/storagetest"
)

// TestMergeOfManyFrames: of an answer that would be too large the least stacks are one, sums stay exact, and the same
// question gets the same answer.
func TestMergeOfManyFrames(t *testing.T) {
	const most = 300
	s := open(t, Options{Dir: t.TempDir(), Retention: -1, MaxFrames: most})
	r := rand.New(rand.NewPCG(5, 6))
	sums, depths := map[string]int64{}, map[string]int{} // by pod and stack
	total := map[string]int64{}
	for pod := range 3 {
		name := fmt.Sprintf("p%d", pod)
		var lines []string
		for i := range 100 {
			depth, v := 1+r.IntN(9), 1+r.Int64N(40)
			stack := strings.Repeat("f;", depth-1) + fmt.Sprint("leaf", i)
			lines = append(lines, fmt.Sprintf("%s %d", stack, v))
			sums[name+" "+stack], depths[name+" "+stack] = v, depth
			total[name] += v
		}
		if err := s.Write(t.Context(), storagetest.Folded(profile.TypeCPU, "pod="+name, time.Duration(pod)*time.Second, lines...)); err != nil {
			t.Fatal(err)
		}
	}
	text := func(b *profile.Batch) string {
		out := ""
		for i := range b.Profiles {
			var lines strings.Builder
			if err := profile.WriteFolded(&lines, b, &b.Profiles[i]); err != nil {
				t.Fatal(err)
			}
			out += fmt.Sprintln(b.Profiles[i].Labels, lines.String())
		}
		return out
	}
	var last string
	for _, flush := range []bool{false, true} {
		if flush {
			if err := s.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		b, err := s.Merge(t.Context(), storage.Selection{Type: &profile.TypeCPU}, []string{"pod"})
		if err != nil || len(b.Profiles) != 3 {
			t.Fatalf("%d profiles, %v", len(b.Profiles), err)
		}
		if now := text(b); last != "" && now != last {
			t.Errorf("the answer was\n%s\nand is\n%s", last, now)
		}
		last = text(b)
		var kept, lost []int64
		frames, unit := 0, int64(0)
		for i := range b.Profiles {
			p := &b.Profiles[i]
			pod := p.Labels.Get("pod")
			unit = p.Total() / total[pod]
			if p.Total() != unit*total[pod] {
				t.Errorf("%s: the total is %d, want a multiple of %d", pod, p.Total(), total[pod])
			}
			there := map[string]bool{}
			for _, sample := range p.Samples {
				var names []string
				for _, f := range slices.Backward(b.Dictionary.Stacks[sample.Stack]) {
					names = append(names, b.Dictionary.Functions[b.Dictionary.Frames[f].Lines[0].Function].Name)
				}
				key := pod + " " + strings.Join(names, ";")
				if names[0] == profile.CutName && b.Dictionary.Frames[b.Dictionary.Stacks[sample.Stack][0]].Kind == profile.KindCut {
					continue
				}
				if sample.Value != unit*sums[key] {
					t.Errorf("%s is %d, want %d", key, sample.Value, unit*sums[key])
				}
				there[key] = true
				kept = append(kept, sample.Value)
				frames += depths[key]
			}
			for key, v := range sums {
				if strings.HasPrefix(key, pod) && !there[key] {
					lost = append(lost, v*unit)
				}
			}
		}
		if frames > most || frames < most-10 || slices.Min(kept) < slices.Max(lost) {
			t.Errorf("%d frames are kept, values from %d on, up to %d are not", frames, slices.Min(kept), slices.Max(lost))
		}
	}
}

func TestMergeOutOfMemory(t *testing.T) {
	s := open(t, Options{Dir: t.TempDir(), Retention: -1, maxPages: 2})
	for i := range 3 {
		if err := s.Write(t.Context(), batchOf(i)); err != nil {
			t.Fatal(err)
		}
	}
	merge := func(by ...string) error {
		_, err := s.Merge(t.Context(), storage.Selection{Type: &profile.TypeCPU}, by)
		return err
	}
	if err := merge(); err != nil {
		t.Error(err)
	}
	if err := merge("service_name"); !errors.Is(err, storage.ErrLimit) || !strings.Contains(err.Error(), "group by fewer labels") {
		t.Errorf("three groups: %v", err)
	}
	s = open(t, Options{Dir: t.TempDir(), Retention: -1, MaxFrames: 6})
	series := func() error {
		all := func(_ context.Context, d *profile.Dictionary) ([]bool, error) {
			return make([]bool, len(d.Stacks)), nil
		}
		_, err := s.Series(t.Context(), storage.Selection{Type: &profile.TypeCPU, Stacks: all}, nil, time.Minute)
		return err
	}
	for i := range 3 {
		if err := series(); i < 2 && err != nil || i == 2 && !errors.Is(err, storage.ErrLimit) {
			t.Errorf("series of %d stacks: %v", i+1, err)
		}
		if err := s.Write(t.Context(), batchOf(i)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestKnownStacks: a stack that was written while a question is answered is known.
func TestKnownStacks(t *testing.T) {
	s := open(t, Options{Dir: t.TempDir(), Retention: -1})
	known := knownStacks{s: s}
	check := func(id dictionary.StackID) error {
		return known.check(&part{samples: &samplesOf{stacks: []dictionary.StackID{0, id}}})
	}
	for i := range 2 {
		if err := s.Write(t.Context(), batchOf(i)); err != nil {
			t.Fatal(err)
		}
		last := dictionary.StackID(s.dict.StackCount() - 1)
		if err := check(last); err != nil {
			t.Error(err)
		}
		if err := check(last + 1); !errors.Is(err, errCorruptRow) {
			t.Errorf("a stack that is not there: %v", err)
		}
	}
}
