package dictionary

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/storage/storagetest"
)

// kept is a batch that a store would still have, with its ids and what it means.
type kept struct {
	batch *profile.Batch
	in    Interned
	want  string
}

func intern(t testing.TB, d *Dictionary, b *profile.Batch) kept {
	t.Helper()
	in, err := d.Intern(b, everything)
	if err != nil {
		t.Fatal(err)
	}
	return kept{b, in, storagetest.Dump(b)}
}

// refer tells a collection what batches refer to.
func refer(c *Collection, list []kept) {
	for _, k := range list {
		for _, id := range k.in.Stacks {
			c.Stack(id)
		}
		for _, id := range slices.Concat(k.in.SpanNames, k.in.Services) {
			c.Text(id)
		}
		for _, id := range k.in.Series {
			c.Series(id)
		}
	}
}

func collect(t testing.TB, d *Dictionary, list []kept) (forgotten int) {
	t.Helper()
	c := d.Collect()
	defer c.End()
	refer(c, list)
	if err := c.Trace(t.Context()); err != nil {
		t.Fatal(err)
	}
	n, err := c.Sweep(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// copied returns a dictionary made of the parts of another.
func copied(t testing.TB, d *Dictionary) *Dictionary {
	t.Helper()
	out := New()
	err := d.Parts(d.Marks(), func(delta []byte) error {
		rest, err := out.Apply(delta)
		if len(rest) > 0 {
			t.Errorf("%d bytes are left", len(rest))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	out.SetLost(d.Lost())
	return out
}

// content is what a dictionary says of itself and what everything in it is.
func content(d *Dictionary) string {
	out := fmt.Sprintln(d.Marks(), d.Lost())
	for i := range d.t {
		t := &d.t[i]
		for id := range t.len() {
			if t.at(id) != nil {
				out += fmt.Sprintf("%s %d %q\n", tableID(i), id, t.get(id))
			}
		}
	}
	return out
}

// TestCollectAgainstModel: whatever is written, dropped and collected, in a dictionary that is also loaded again
// now and then, everything that is kept reads as it was written, and nothing else is there.
func TestCollectAgainstModel(t *testing.T) {
	for seed := range uint64(6) {
		rnd, d := storagetest.NewRandom(seed), New()
		var list []kept
		var logged Marks
		log := New() // what the log would give
		forgotten := 0
		for round := range 120 {
			b := rnd.Batch()
			if rnd.IntN(2) == 0 { // of a build of its own
				for i := range b.Dictionary.Functions {
					if i > 0 {
						b.Dictionary.Functions[i].Name += fmt.Sprintf(" build %d", round)
					}
				}
			}
			list = append(list, intern(t, d, b))
			now := d.Marks()
			if _, err := log.Apply(d.AppendDelta(nil, logged, now)); err != nil {
				t.Fatalf("seed %d, round %d: %v", seed, round, err)
			}
			logged = now
			if rnd.IntN(6) == 0 {
				list = slices.Delete(list, 0, rnd.IntN(len(list)))
				before := d.Marks()
				forgotten += collect(t, d, list)
				if d.Marks() != before {
					t.Fatalf("ids were %v, are %v", before, d.Marks())
				}
				only := New()
				for _, k := range list {
					intern(t, only, k.batch)
				}
				for i, s := range d.Sizes() {
					if want := only.Sizes()[i]; s.Entries != want.Entries || s.Forgotten == 0 && int64(before[i]) > s.Entries+1 {
						t.Fatalf("seed %d, round %d: %+v is kept, want %+v", seed, round, s, want)
					}
				}
				again := copied(t, d)
				if got, want := content(again), content(d); got != want {
					t.Fatalf("seed %d, round %d: copied\n%s\nwant\n%s", seed, round, got, want)
				}
				// What the log has is older than what was forgotten.
				if _, err := again.Apply(log.AppendDelta(nil, Marks{}, log.Marks())); err != nil || content(again) != content(d) {
					t.Fatalf("seed %d, round %d: the log was applied: %v", seed, round, err)
				}
				if rnd.IntN(2) == 0 {
					d = again
				}
			}
			for _, dd := range []*Dictionary{d, log} {
				k := list[rnd.IntN(len(list))]
				if got := storagetest.Dump(back(t, dd, k.batch, k.in)); got != k.want {
					t.Fatalf("seed %d, round %d: got %s\nwant %s", seed, round, got, k.want)
				}
			}
		}
		for _, k := range list {
			if got := storagetest.Dump(back(t, d, k.batch, k.in)); got != k.want {
				t.Fatalf("seed %d: got %s\nwant %s", seed, got, k.want)
			}
		}
		if forgotten == 0 {
			t.Errorf("seed %d: nothing was forgotten", seed)
		}
	}
}

// TestCollectGivesBack: what is forgotten is no more in memory, what is handed out before stays as it is.
func TestCollectGivesBack(t *testing.T) {
	d := New()
	build := func(n int) kept {
		var lines []string
		for i := range 3000 {
			lines = append(lines, fmt.Sprintf("main;build %d;handler %d of many that have a long name;leaf %d 1", n, i%100, i))
		}
		return intern(t, d, storagetest.Folded(profile.TypeCPU, fmt.Sprintf("service_name=s build=%d", n), 0, lines...))
	}
	memory := func() (n, entries int64) {
		for _, s := range d.Sizes() {
			n += s.Memory
			entries += s.Entries
		}
		return n, entries
	}
	list := []kept{build(0)}
	one, entries := memory()
	text := d.Text(list[0].in.Services[0])
	_, labels, _ := d.Series(list[0].in.Series[0])
	for n := 1; n <= 20; n++ {
		list = append(list, build(n))
	}
	all, _ := memory()
	list = list[20:]
	collect(t, d, list)
	left, leftEntries := memory()
	if all < 2*one || left > one*11/10 || leftEntries > entries+10 {
		t.Errorf("one build takes %d bytes and %d entries, 21 builds %d bytes, one that is left %d and %d", one, entries, all, left, leftEntries)
	}
	if text != "s" || labels.Get("build") != "0" {
		t.Errorf("what was handed out became %q and %v", text, labels)
	}
	if _, _, ok := d.Series(1); ok {
		t.Error("the series of the first build is known")
	}
	if got := storagetest.Dump(back(t, d, list[0].batch, list[0].in)); got != list[0].want {
		t.Error("what is kept came back otherwise")
	}
	// The same ones that come again are new.
	if again := build(0); again.in.Stacks[1] <= list[0].in.Stacks[1] {
		t.Errorf("stack %d was given again", again.in.Stacks[1])
	}
}

// TestManyHoles: ids that were given long ago cost next to nothing.
func TestManyHoles(t *testing.T) {
	d := New()
	before := d.Sizes()[strings].Memory
	delta := []byte{byte(strings), 1, 0, byte(strings)}
	delta = binary.AppendUvarint(delta, 1<<31)
	if _, err := d.Apply(append(delta, 0, deltaEnd)); err != nil {
		t.Fatal(err)
	}
	k := intern(t, d, storagetest.Folded(profile.TypeCPU, "service_name=s", 0, "main;f 1"))
	if s := d.Sizes()[strings]; s.Memory > before+1<<20 || s.Forgotten != 1<<31-1 || k.in.Services[0] < 1<<31 {
		t.Errorf("%+v, service %d", s, k.in.Services[0])
	}
	again := copied(t, d)
	if b := d.AppendDelta(nil, Marks{}, d.Marks()); len(b) > 1000 || again.Marks() != d.Marks() {
		t.Errorf("%d bytes, %v", len(b), again.Marks())
	}
	for _, dd := range []*Dictionary{d, again} {
		if got := storagetest.Dump(back(t, dd, k.batch, k.in)); got != k.want {
			t.Errorf("got %s\nwant %s", got, k.want)
		}
	}
	if collect(t, d, nil); d.Sizes()[strings].Entries != 0 {
		t.Errorf("%+v", d.Sizes()[strings])
	}
}

// TestCollectBesideWrites: batches that are written while a collection runs, also of what it is about to forget,
// read as they were written.
func TestCollectBesideWrites(t *testing.T) {
	d := New()
	pool := make([]*profile.Batch, 60)
	rnd := storagetest.NewRandom(3)
	for i := range pool {
		pool[i] = rnd.Batch()
		for j := range pool[i].Dictionary.Functions[1:] {
			pool[i].Dictionary.Functions[j+1].Name += fmt.Sprintf(" of %d", i/3)
		}
		intern(t, d, pool[i])
	}
	var list []kept
	forgotten := 0
	for round := range 20 {
		var mu sync.Mutex
		var young []kept
		var wg sync.WaitGroup
		c := d.Collect() // nothing is being written: all there is is in list
		for w := range 3 {
			wg.Go(func() {
				for i := range 20 {
					b := pool[(round*7+w*11+i*5)%len(pool)]
					in, err := d.Intern(b, everything)
					if err != nil {
						t.Error(err)
						return
					}
					k := kept{b, in, storagetest.Dump(b)}
					if got := storagetest.Dump(back(t, d, b, in)); got != k.want {
						t.Errorf("at once: got %s\nwant %s", got, k.want)
						return
					}
					mu.Lock()
					young = append(young, k)
					mu.Unlock()
				}
			})
		}
		refer(c, list)
		if err := c.Trace(t.Context()); err != nil {
			t.Fatal(err)
		}
		n, err := c.Sweep(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		forgotten += n
		c.End()
		wg.Wait()
		list = append(list, young...)
		for _, k := range list {
			if got := storagetest.Dump(back(t, d, k.batch, k.in)); got != k.want {
				t.Fatalf("round %d: got %s\nwant %s", round, got, k.want)
			}
		}
		list = list[len(list)*3/4:]
	}
	if forgotten == 0 {
		t.Error("nothing was forgotten")
	}
}

// TestCollectionEndsEarly: at whatever point a collection is cancelled, all that is kept is there, and the next one
// does the rest.
func TestCollectionEndsEarly(t *testing.T) {
	for stop := 0; ; stop++ {
		d, rnd := New(), storagetest.NewRandom(9)
		for range 10 {
			intern(t, d, rnd.Batch())
		}
		var list []kept
		for range 3 {
			list = append(list, intern(t, d, rnd.Batch()))
		}
		whole := copied(t, d)
		ctx := &countdown{Context: t.Context(), left: stop}
		c := d.Collect()
		refer(c, list)
		err := c.Trace(ctx)
		if err == nil {
			_, err = c.Sweep(ctx)
		}
		c.End()
		for range 3 {
			list = append(list, intern(t, d, rnd.Batch()))
		}
		for _, dd := range []*Dictionary{d, copied(t, d)} {
			for _, k := range list {
				if got := storagetest.Dump(back(t, dd, k.batch, k.in)); got != k.want {
					t.Fatalf("stopped at %d: got %s\nwant %s", stop, got, k.want)
				}
			}
		}
		// The disk may still have everything, and the log what came since: equal entries under two ids.
		if _, err := whole.Apply(d.AppendDelta(nil, whole.Marks(), d.Marks())); err != nil {
			t.Fatalf("stopped at %d: applied to what was before: %v", stop, err)
		}
		for _, k := range list {
			if got := storagetest.Dump(back(t, whole, k.batch, k.in)); got != k.want {
				t.Fatalf("stopped at %d: got %s\nwant %s", stop, got, k.want)
			}
			if again := intern(t, whole, k.batch); fmt.Sprint(again.in) != fmt.Sprint(k.in) {
				t.Fatalf("stopped at %d: ids %v, want %v", stop, again.in, k.in)
			}
		}
		collect(t, d, list)
		only := New()
		for _, k := range list {
			intern(t, only, k.batch)
		}
		for i, s := range d.Sizes() {
			if want := only.Sizes()[i]; s.Entries != want.Entries {
				t.Fatalf("stopped at %d: %+v is left, want %+v", stop, s, want)
			}
		}
		if err == nil {
			if stop < 10 {
				t.Errorf("only %d steps", stop)
			}
			return
		}
	}
}

// countdown is a context that ends when it was asked so often.
type countdown struct {
	context.Context
	left int
}

func (c *countdown) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

// BenchmarkApply loads a dictionary of half a million entries, as opening a store does.
func BenchmarkApply(b *testing.B) {
	d := New()
	for n := range 10 {
		var lines []string
		for i := range 10_000 {
			lines = append(lines, fmt.Sprintf("main;build %d;handler %d of many;f%d;g%d;h%d;leaf %d 1", n, i%100, i%1000, i%2000, i%3000, i))
		}
		if _, err := d.Intern(storagetest.Folded(profile.TypeCPU, "service_name=s", 0, lines...), everything); err != nil {
			b.Fatal(err)
		}
	}
	delta := d.AppendDelta(nil, Marks{}, d.Marks())
	b.SetBytes(int64(len(delta)))
	for b.Loop() {
		if _, err := New().Apply(delta); err != nil {
			b.Fatal(err)
		}
	}
}
