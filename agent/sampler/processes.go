package sampler

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/perfuse/perfuse/agent/process"
	"github.com/perfuse/perfuse/bpf/cpu"
	"github.com/perfuse/perfuse/symbolize/jit"
)

// running is a process as the kernel side knows it.
type running struct {
	process  *process.Process
	mappings []mapped // sorted by start, not overlapping
	span     span     // where they lie in the kernel's array
	jit      *jit.Map // names for code without a file, opened when first asked
	jitTried time.Time
	jitUsed  bool      // since NameCode there were frames in code without a file
	ended    time.Time // zero: it runs
}

type mapped struct {
	process.Mapping
	file *file // nil: memory without a file, or a file that cannot be read
	bias uint64
}

// Started implements process.Observer.
func (s *Sampler) Started(p *process.Process, ms []process.Mapping) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	r := &running{process: p}
	s.processes[p.Generation] = r
	s.byPID[p.PID] = r
	for _, m := range ms {
		s.add(r, m, now)
	}
	s.publish(r, now)
}

// Mapped implements process.Observer.
func (s *Sampler) Mapped(p *process.Process, m process.Mapping) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.processes[p.Generation]
	if r == nil || !r.ended.IsZero() {
		return
	}
	now := time.Now()
	s.add(r, m, now)
	s.publish(r, now)
}

// Exited implements process.Observer. What is needed to name the process's last samples stays until they
// are drained.
func (s *Sampler) Exited(p *process.Process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.processes[p.Generation]
	if r == nil || !r.ended.IsZero() {
		return
	}
	now := time.Now()
	r.ended = now
	s.spans.release(r.span, now)
	r.span = span{}
	if s.byPID[p.PID] == r {
		delete(s.byPID, p.PID)
		// At an exec the kernel side has forgotten the old image by itself, and the new one may be told already.
		_ = s.programs.Processes.Delete(uint32(p.PID))
	}
}

// forget drops processes that ended before the interval that was just drained, and their hold on files.
func (s *Sampler) forget(before time.Time) {
	for g, r := range s.processes {
		if r.ended.IsZero() || !r.ended.Before(before) {
			continue
		}
		for i := range r.mappings {
			if f := r.mappings[i].file; f != nil {
				f.refs--
				f.lastUsed = r.ended
			}
		}
		delete(s.processes, g)
	}
}

// find returns the mapping that holds an address, or nil.
func (r *running) find(addr uint64) *mapped {
	i, found := slices.BinarySearchFunc(r.mappings, addr, func(m mapped, a uint64) int { return cmp.Compare(m.Start, a) })
	if !found {
		i--
	}
	if i < 0 || addr >= r.mappings[i].End {
		return nil
	}
	return &r.mappings[i]
}

// add puts a mapping among those of r. It replaces what it overlaps: the kernel does not tell of unmapping.
func (s *Sampler) add(r *running, m process.Mapping, now time.Time) {
	if m.End <= m.Start {
		return
	}
	n := mapped{Mapping: m, file: s.files.get(r.process, m, now)}
	if n.file != nil {
		var ok bool
		if n.bias, ok = n.file.bias(m); !ok {
			n.file = nil
		} else {
			n.file.refs++
		}
	}
	out := make([]mapped, 0, len(r.mappings)+2)
	for _, o := range r.mappings {
		if o.End <= m.Start || o.Start >= m.End {
			out = append(out, o)
			continue
		}
		parts := 0
		if o.Start < m.Start {
			left := o
			left.End = m.Start
			out = append(out, left)
			parts++
		}
		if o.End > m.End {
			right := o
			right.Offset += m.End - o.Start
			right.Start = m.End
			out = append(out, right)
			parts++
		}
		if o.file != nil {
			o.file.refs += parts - 1
		}
	}
	i, _ := slices.BinarySearchFunc(out, m.Start, func(o mapped, start uint64) int {
		if o.Start < start {
			return -1
		}
		return 1
	})
	r.mappings = slices.Insert(out, i, n)
}

// publish tells the kernel side of all mappings of r: the new list first, then the process that refers to it.
func (s *Sampler) publish(r *running, now time.Time) {
	old := r.span
	r.span = span{}
	executable := uint32(0)
	if len(r.mappings) > 0 {
		var ok bool
		if r.span, ok = s.spans.alloc(uint32(len(r.mappings)), now); !ok {
			s.unpublished++
			s.spans.release(old, now)
			_ = s.programs.Processes.Delete(uint32(r.process.PID))
			return
		}
		ms := s.scratch[:0]
		for _, m := range r.mappings {
			if m.file != nil && strings.TrimSuffix(m.Path, " (deleted)") == r.process.Executable {
				executable = m.file.id
			}
			k := cpu.Mapping{Start: m.Start, End: m.End, Bias: m.bias}
			if m.file != nil {
				k.Object = m.file.id
			}
			ms = append(ms, k)
		}
		s.scratch = ms
		if err := putSpan(s.programs.Mappings, r.span, ms); err != nil {
			s.unpublished++
		}
	}
	p := cpu.Process{First: r.span.first, Count: r.span.count, Generation: r.process.Generation, Executable: executable}
	if err := s.programs.Processes.Put(uint32(r.process.PID), p); err != nil {
		s.unpublished++
	}
	s.spans.release(old, now)
}
