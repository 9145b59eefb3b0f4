package sampler

import (
	"slices"
	"time"

	"github.com/perfuse/perfuse/agent/process"
	"github.com/perfuse/perfuse/bpf/cpu"
	"github.com/perfuse/perfuse/profile"
)

// Programs are the kernel side's, whose maps other programs can share (cpu.Programs.Share). They live as long as the
// sampler.
func (s *Sampler) Programs() *cpu.Programs { return s.programs }

// A Joiner makes profiles of stacks that other parts of the agent took: with the labels of their processes, and with
// frames as those of the sampler's own profiles. It is for one goroutine, and for stacks of one moment: while it
// is in use, the processes that it was asked for stay known.
type Joiner struct {
	s     *Sampler
	b     *builder
	known map[uint32]*running // by generation
}

// Join begins a batch of profiles that say what was from start to end. Equal times are a moment.
func (s *Sampler) Join(start, end time.Time) *Joiner {
	return &Joiner{s: s, b: newBuilder(start, end), known: map[uint32]*running{}}
}

// Sample is a value of a type at a stack in a process.
type Sample struct {
	Process *process.Process
	Type    profile.Type
	// Period is the mean distance between two samples, in the unit of the type's period; 0 if unknown.
	Period int64
	// Thread is the thread's name; empty if it is not known.
	Thread string
	// Heap is which of the process's heaps it is, in memory profiles.
	Heap string
	// Stack has the leaf first. Frames of the kernel side are as it tells them.
	Stack []cpu.Frame
	Value int64
}

// Add adds a sample. Of a process that is not reported it adds nothing.
func (j *Joiner) Add(x Sample) {
	if j.s.opts.Keep != nil && !j.s.opts.Keep(x.Process) {
		return
	}
	j.s.mu.Lock()
	defer j.s.mu.Unlock()
	r := j.running(x.Process)
	ls := with(x.Process.Labels(), profile.Label{Name: profile.LabelThread, Value: x.Thread}, profile.Label{Name: profile.LabelHeap, Value: x.Heap})
	j.b.stack = j.b.stack[:0]
	for _, f := range x.Stack {
		j.b.stack = append(j.b.stack, j.b.frame(j.s, r, f))
	}
	j.b.add(j.b.series(x.Type, x.Period, ls), profile.Link{}, j.b.stack, x.Value)
}

// with returns labels with more; those without a value are none.
func with(ls profile.Labels, more ...profile.Label) profile.Labels {
	return profile.NewLabels(append(slices.Clone(ls), more...)...)
}

// Touch says that a heap of a process was looked at, and that what is added of these types is all there is: none is a value, too.
// Its profiles may be without samples.
func (j *Joiner) Touch(p *process.Process, heap string, types ...profile.Type) {
	if j.s.opts.Keep != nil && !j.s.opts.Keep(p) {
		return
	}
	for _, t := range types {
		j.b.series(t, 0, with(p.Labels(), profile.Label{Name: profile.LabelHeap, Value: heap}))
	}
}

// Frames returns the frames of a process's own addresses, the leaf first, as they are to be looked up: a return address
// less one.
func (j *Joiner) Frames(p *process.Process, addrs []uint64) []cpu.Frame {
	j.s.mu.Lock()
	defer j.s.mu.Unlock()
	r := j.running(p)
	out := make([]cpu.Frame, len(addrs))
	for i, a := range addrs {
		out[i] = cpu.Frame{Addr: a, Kind: cpu.FrameUser}
		if m := r.find(a); m != nil && m.file != nil {
			out[i].Addr, out[i].Object = a-m.bias, m.file.id
		}
	}
	return out
}

func (j *Joiner) running(p *process.Process) *running {
	r := j.known[p.Generation]
	if r == nil {
		if r = j.s.processes[p.Generation]; r == nil {
			r = &running{process: p}
		}
		j.known[p.Generation] = r
	}
	return r
}

// Batch ends it.
func (j *Joiner) Batch() *profile.Batch {
	return &profile.Batch{Dictionary: j.b.dict, Profiles: j.b.out}
}
