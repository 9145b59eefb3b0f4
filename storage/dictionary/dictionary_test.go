package dictionary

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage/storagetest"
)

func everything(int, *profile.Sample) bool { return true }

// back resolves what a batch was interned as, and gives the batch that it stands for.
func back(t *testing.T, d *Dictionary, b *profile.Batch, in Interned) *profile.Batch {
	t.Helper()
	out := &profile.Batch{Dictionary: profile.NewDictionary()}
	r := d.NewResolver(out.Dictionary)
	for i, p := range b.Profiles {
		if len(p.Samples) > 0 {
			var ok bool
			if p.Type, p.Labels, ok = d.Series(in.Series[i]); !ok {
				t.Fatalf("no series %d", in.Series[i])
			}
		}
		p.Samples = append([]profile.Sample(nil), p.Samples...)
		for j := range p.Samples {
			s := &p.Samples[j]
			l := b.Dictionary.Links[s.Link]
			l.SpanName = d.Text(in.SpanNames[s.Link])
			s.Link = out.Dictionary.Link(l)
			var err error
			if s.Stack, err = r.Stack(in.Stacks[s.Stack]); err != nil {
				t.Fatal(err)
			}
		}
		out.Profiles = append(out.Profiles, p)
	}
	return out
}

func TestInternAndDelta(t *testing.T) {
	rnd := storagetest.NewRandom(1)
	d, copied := New(), New()
	var marks Marks
	var deltas [][]byte
	for range 200 {
		b := rnd.Batch()
		in, err := d.Intern(b, everything)
		if err != nil {
			t.Fatal(err)
		}
		now := d.Marks()
		delta := d.AppendDelta(nil, marks, now)
		deltas = append(deltas, delta)
		marks = now
		rest, err := copied.Apply(append(delta, "rest"...))
		if err != nil || string(rest) != "rest" {
			t.Fatalf("applying: %v, rest %q", err, rest)
		}
		again, err := d.Intern(b, everything)
		if err != nil || fmt.Sprint(again) != fmt.Sprint(in) || d.Marks() != marks {
			t.Fatalf("interning again gave other ids or more entries")
		}
		want := storagetest.Dump(b)
		for _, dd := range []*Dictionary{d, copied} {
			if got := storagetest.Dump(back(t, dd, b, in)); got != want {
				t.Fatalf("got %s\nwant %s", got, want)
			}
		}
	}
	// Applied again, in whole or one by one, deltas change nothing.
	for _, delta := range append(deltas, d.AppendDelta(nil, Marks{}, marks)) {
		if _, err := copied.Apply(delta); err != nil || copied.Marks() != marks {
			t.Fatalf("applying again: %v", err)
		}
	}
	// A dictionary that was loaded goes on where the other would.
	b := rnd.Batch()
	in1, _ := d.Intern(b, everything)
	in2, _ := copied.Intern(b, everything)
	if fmt.Sprint(in1) != fmt.Sprint(in2) {
		t.Errorf("ids %v and %v", in1, in2)
	}
}

func TestOnlyUsed(t *testing.T) {
	d := New()
	b := storagetest.Folded(profile.TypeCPU, "a=1", 0, "main;f 1", "main;g 2")
	in, err := d.Intern(b, func(_ int, s *profile.Sample) bool { return s.Value == 1 })
	if err != nil {
		t.Fatal(err)
	}
	if n := d.StackCount(); n != 2 || in.Stacks[1] == 0 || in.Stacks[2] != 0 {
		t.Errorf("%d stacks, %v", n, in.Stacks)
	}
	if _, ok := d.FindText("g"); ok {
		t.Error("g is in the dictionary")
	}
	if _, err := d.Intern(b, func(int, *profile.Sample) bool { return false }); err != nil {
		t.Fatal(err)
	}
}

func TestLostDelta(t *testing.T) {
	d := New()
	f := func(lines ...string) (Marks, Interned) {
		in, err := d.Intern(storagetest.Folded(profile.TypeCPU, "a="+lines[0][:1], 0, lines...), everything)
		if err != nil {
			t.Fatal(err)
		}
		return d.Marks(), in
	}
	m1, _ := f("a;b 1")
	m2, lost := f("c;d 1", "x;a 1")
	m3, kept := f("e;f;a 1")
	got := New()
	if _, err := got.Apply(d.AppendDelta(nil, Marks{}, m1)); err != nil {
		t.Fatal(err)
	}
	if _, err := got.Apply(d.AppendDelta(nil, m2, m3)); err != nil {
		t.Fatal(err)
	}
	if got.Holes() == 0 || got.Marks() != m3 {
		t.Errorf("%d holes", got.Holes())
	}
	out := profile.NewDictionary()
	r := got.NewResolver(out)
	for _, id := range []StackID{lost.Stacks[1], kept.Stacks[1]} {
		if _, err := r.Stack(id); err != nil {
			t.Error(err)
		}
	}
	if n := len(out.Stacks); n != 2 { // the lost one is empty
		t.Errorf("%d stacks", n)
	}
	if _, _, ok := got.Series(lost.Series[0]); ok {
		t.Error("a lost series has labels")
	}
	if _, ls, ok := got.Series(kept.Series[0]); !ok || ls.Get("a") != "e" {
		t.Errorf("series %v", ls)
	}
	// Applied again in one, the holes are still there, and still lost.
	if _, err := got.Apply(got.AppendDelta(nil, Marks{}, got.Marks())); err != nil || got.Holes() == 0 {
		t.Errorf("%d holes, %v", got.Holes(), err)
	}
	// What was lost may come again, as something new.
	if _, err := got.Intern(storagetest.Folded(profile.TypeCPU, "a=c", 0, "c;d 1"), everything); err != nil {
		t.Fatal(err)
	}
	// It is lost as long as something refers to it.
	for want := range 2 {
		d := copied(t, got)
		c := d.Collect()
		if want == 1 {
			c.Stack(lost.Stacks[1])
		}
		err := c.Trace(t.Context())
		if err == nil {
			_, err = c.Sweep(t.Context())
		}
		if c.End(); err != nil || d.Holes() != want {
			t.Errorf("%d holes, want %d: %v", d.Holes(), want, err)
		}
	}
}

func TestCollisions(t *testing.T) {
	var tb table
	tb.addHashed([]byte(""), 0)
	for i := range 1000 {
		if id := tb.addHashed([]byte(fmt.Sprint("entry", i)), uint64(i%3)); id != uint32(i+1) {
			t.Fatalf("entry %d has id %d", i, id)
		}
	}
	for i := range 1000 {
		if id := tb.addHashed([]byte(fmt.Sprint("entry", i)), uint64(i%3)); id != uint32(i+1) || tb.text(id) != fmt.Sprint("entry", i) {
			t.Fatalf("entry %d is %d %q", i, id, tb.text(id))
		}
	}
	big := bytes.Repeat([]byte("x"), 3*chunkBytes)
	if id := tb.add(big); !bytes.Equal(tb.get(id), big) {
		t.Error("a large entry came back otherwise")
	}
}

// FuzzApply: no bytes make Apply panic, and what it took can be read, resolved and applied to another.
func FuzzApply(f *testing.F) {
	rnd := storagetest.NewRandom(1)
	d := New()
	for range 3 {
		before := d.Marks()
		if _, err := d.Intern(rnd.Batch(), everything); err != nil {
			f.Fatal(err)
		}
		f.Add(d.AppendDelta(nil, before, d.Marks()))
	}
	f.Add(d.AppendDelta(nil, Marks{}, d.Marks()))
	f.Add([]byte{0xff})
	f.Add([]byte{0, 1, 0, 0, 5, 1, 1, 'a', 0, 9, 0, 1, 1, 1, 5, 0, 0xff}) // with holes
	f.Fuzz(func(t *testing.T, data []byte) {
		d := New()
		if _, err := d.Apply(data); err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("applying: %v", err)
			}
			return
		}
		r := d.NewResolver(profile.NewDictionary())
		for id := range min(d.StackCount(), 1000) {
			if _, err := r.Stack(StackID(id)); err != nil {
				t.Errorf("stack %d: %v", id, err)
			}
		}
		for id := range SeriesID(min(d.Marks()[series], 1000)) {
			d.Series(id)
		}
		again := New()
		if _, err := again.Apply(d.AppendDelta(nil, Marks{}, d.Marks())); err != nil || again.Marks() != d.Marks() || again.Holes() != 0 {
			t.Errorf("applying again: %d holes, %v", again.Holes(), err)
		}
	})
}
