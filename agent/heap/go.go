package heap

import (
	"errors"
	"time"
	"unsafe"

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
	whole  bool
	early  bool // the last profile was of before the first collection
	before map[site]allocated
	stacks map[site][]cpu.Frame
}

// site is a bucket: stacks stay where they are for as long as their reader lives.
type site struct {
	stack *uint64
	size  int64
}

type allocated struct{ objects, bytes int64 }

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
	j.Touch(c.process, "go", profile.TypeInuseSpace, profile.TypeInuseObjects)
	first := g.before == nil || g.early
	g.early = p.Early // then the runtime may take back of it
	if g.before == nil {
		g.before, g.stacks = map[site]allocated{}, map[site][]cpu.Frame{}
	}
	add := func(t profile.Type, stack []cpu.Frame, n int64) {
		if n > 0 {
			j.Add(sampler.Sample{Process: c.process, Heap: "go", Type: t, Period: p.Rate, Stack: stack, Value: n})
		}
	}
	for i := range p.Buckets {
		b := &p.Buckets[i]
		at := site{unsafe.SliceData(b.Stack), b.Size}
		stack, ok := g.stacks[at]
		if !ok {
			stack = frames(j, c.process, b.Stack)
			g.stacks[at] = stack
		}
		objects, bytes := b.InUse(p.Rate)
		add(profile.TypeInuseObjects, stack, objects)
		add(profile.TypeInuseSpace, stack, bytes)
		objects, bytes = b.Alloc(p.Rate)
		before := g.before[at]
		g.before[at] = allocated{objects, bytes}
		if first && !g.whole || p.Early {
			g.before[at] = before
			if !p.Early {
				g.before[at] = allocated{objects, bytes} // nobody knows when it was
			}
			continue
		}
		add(profile.TypeAllocObjects, stack, objects-before.objects)
		add(profile.TypeAllocSpace, stack, bytes-before.bytes)
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
