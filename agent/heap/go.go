package heap

import (
	"errors"
	"time"

	"github.com/perfuse/perfuse/agent/heap/goheap"
	"github.com/perfuse/perfuse/agent/process"
	"github.com/perfuse/perfuse/agent/sampler"
	"github.com/perfuse/perfuse/bpf/cpu"
	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/symbolize/elf"
)

// goProcess is a Go program.
type goProcess struct {
	mem    *goheap.Memory
	reader *goheap.Reader
	// whole: all that it has allocated so far was allocated while we looked on.
	whole bool
	// complete: the last profile had all buckets, so that one that was not in it is new. missed counts the profiles since then.
	complete bool
	missed   int
	// What buckets had, and their stacks, by address.
	before map[uint64]allocated
	stacks map[uint64][]cpu.Frame
}

type allocated struct{ objects, bytes int64 }

// patience is how many profiles of a program may lack buckets before such are better than none.
const patience = 4

// since returns what each bucket of a profile has allocated since the one before, and begins anew if the reader has.
func (g *goProcess) since(p *goheap.Profile) []allocated {
	if p.Anew {
		g.whole = g.whole && g.before == nil // else it was told already
		g.complete = false
		g.before, g.stacks = map[uint64]allocated{}, map[uint64][]cpu.Frame{}
	}
	out := make([]allocated, len(p.Buckets))
	if p.Early { // the runtime may take back of it
		return out
	}
	for i := range p.Buckets {
		b := &p.Buckets[i]
		objects, bytes := b.Alloc(p.Rate)
		before, known := g.before[b.Addr]
		g.before[b.Addr] = allocated{objects, bytes}
		if known || g.whole || g.complete { // else nobody knows when it was
			out[i] = allocated{objects - before.objects, bytes - before.bytes}
		}
	}
	g.complete = p.Complete
	return out
}

// levels says whether what a profile has in use is to be told: one that lacks buckets looks as if memory had been freed.
func (g *goProcess) levels(p *goheap.Profile) bool {
	if p.Complete {
		g.missed = 0
		return true
	}
	g.missed++
	return g.missed > patience
}

func findLayout(r process.File) (l *goheap.Layout, err error) {
	err = elf.Guard(func() error {
		f, err := elf.New(r, r.Size())
		if err != nil {
			return goheap.ErrNotGo // whatever it is, nothing can run it
		}
		defer f.Close()
		l, err = goheap.Find(f)
		return err
	})
	return l, err
}

// walk adds the profile of a Go program.
func (h *Heap) walk(c *candidate, j *sampler.Joiner, st *Stats) {
	g := c.go_
	start := time.Now()
	p, err := g.reader.Read(goheap.Limits{})
	st.Walking += time.Since(start)
	if errors.Is(err, goheap.ErrGone) {
		c.close() // what was wrong with it stays to be said
		return
	}
	c.reason = err
	if err != nil {
		return
	}
	st.Walks++
	if !p.Complete || !p.Consistent {
		st.Partial++
	}
	levels := g.levels(p)
	if levels {
		j.Touch(c.process, "go", profile.TypeInuseSpace, profile.TypeInuseObjects)
	}
	add := func(t profile.Type, stack []cpu.Frame, n int64) {
		if n > 0 {
			j.Add(sampler.Sample{Process: c.process, Heap: "go", Type: t, Period: p.Rate, Stack: stack, Value: n})
		}
	}
	since := g.since(p)
	for i := range p.Buckets {
		b := &p.Buckets[i]
		stack, ok := g.stacks[b.Addr]
		if !ok {
			stack = frames(j, c.process, b.Stack)
			g.stacks[b.Addr] = stack
		}
		if levels {
			objects, bytes := b.InUse(p.Rate)
			add(profile.TypeInuseObjects, stack, objects)
			add(profile.TypeInuseSpace, stack, bytes)
		}
		add(profile.TypeAllocObjects, stack, since[i].objects)
		add(profile.TypeAllocSpace, stack, since[i].bytes)
	}
}

// goroutineLimits keep a look at a program's goroutines below some 50 ms.
var goroutineLimits = goheap.Limits{Goroutines: 10_000, Duration: 100 * time.Millisecond}

// count adds how many goroutines a Go program has, by stack; those that run just now have none.
func (h *Heap) count(c *candidate, j *sampler.Joiner, st *Stats) {
	start := time.Now()
	gs, err := c.go_.reader.Goroutines(goroutineLimits)
	st.Counting += time.Since(start)
	if err != nil {
		return // of a process that is gone, or of a runtime that is not known: its heap is what matters
	}
	if !gs.Complete {
		st.Partial++
	}
	add := func(stack []cpu.Frame, n int) {
		j.Add(sampler.Sample{Process: c.process, Type: profile.TypeGoroutines, Period: 1, Stack: stack, Value: int64(n)})
	}
	for _, one := range gs.Stacks {
		add(frames(j, c.process, one.Stack), one.Count)
	}
	if gs.Running > 0 {
		add(nil, gs.Running)
	}
}

// frames looks return addresses up in a process.
func frames(j *sampler.Joiner, p *process.Process, returns []uint64) []cpu.Frame {
	addrs := make([]uint64, len(returns))
	for i, a := range returns {
		addrs[i] = a - 1
	}
	return j.Frames(p, addrs)
}
