package sampler

import (
	"fmt"
	"time"

	"github.com/perfuse/perfuse/agent/process"
	"github.com/perfuse/perfuse/bpf/cpu"
	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/symbolize/jit"
	"github.com/perfuse/perfuse/symbolize/kernel"
)

func pid(n uint32) process.PID { return process.PID(n) }

// frame translates one frame of the kernel side. Kernel and JIT frames are named here: their addresses mean
// nothing on another machine, and nothing on this one after a restart.
func (b *builder) frame(s *Sampler, r *running, f cpu.Frame) profile.FrameIndex {
	perProcess := f.Kind == cpu.FrameUser && f.Object == 0
	if !perProcess {
		if i, ok := b.frames[f]; ok {
			return i
		}
	}
	var out profile.Frame
	switch {
	case f.Kind == cpu.FrameKernel:
		out = b.kernelFrame(s, f.Addr)
	case f.Kind == cpu.FrameStopped:
		reason := "unknown reason"
		if f.Addr < uint64(len(cpu.Stops)) {
			reason = cpu.Stops[f.Addr]
		}
		out = b.named(profile.KindUnwind, 0, "[unwind: "+reason+"]")
	case perProcess:
		out = b.anonymousFrame(s, r, f.Addr)
	default:
		if o := s.files.byID[f.Object]; o != nil {
			out = profile.Frame{Kind: profile.KindNative, Mapping: b.dict.Mapping(o.frameMapping()), Addr: profile.Addr(f.Addr)}
		} else {
			out = profile.Frame{Kind: profile.KindNative, Addr: profile.Addr(f.Addr)}
		}
	}
	i := b.dict.Frame(out)
	if !perProcess {
		b.frames[f] = i
	}
	return i
}

func (b *builder) named(k profile.Kind, m profile.MappingIndex, name string) profile.Frame {
	return profile.Frame{Kind: k, Mapping: m, Lines: []profile.Line{{Function: b.dict.Function(profile.Function{Name: name})}}}
}

func (b *builder) kernelFrame(s *Sampler, addr uint64) profile.Frame {
	if name, module, ok := s.kernelName(profile.Addr(addr)); ok {
		return b.named(profile.KindKernel, b.dict.Mapping(profile.Mapping{File: module}), name)
	}
	return profile.Frame{Kind: profile.KindKernel, Mapping: b.dict.Mapping(profile.Mapping{File: kernel.Core}), Addr: profile.Addr(addr)}
}

// kernelName looks an address up. One that is not there may be of a module or a BPF program that was loaded
// since: the kernel's list is read again, at most once a minute.
func (s *Sampler) kernelName(addr profile.Addr) (name, module string, ok bool) {
	if s.kernel == nil {
		return "", "", false
	}
	if name, module, ok = s.kernel.Lookup(addr); ok || time.Since(s.kernelRead) < time.Minute {
		return name, module, ok
	}
	s.kernelRead = time.Now()
	t, err := kernel.Load("/proc/kallsyms")
	if err != nil {
		return "", "", false
	}
	s.kernel = t
	return t.Lookup(addr)
}

// anonymousFrame is code without a file: what a JIT compiler wrote, named by its perf map if it keeps one.
func (b *builder) anonymousFrame(s *Sampler, r *running, addr uint64) profile.Frame {
	m := b.dict.Mapping(profile.Mapping{File: "//anon"})
	if r != nil {
		r.jitUsed = true
		if names := r.jitNames(time.Now()); names != nil {
			if name, ok := names.Lookup(profile.Addr(addr)); ok {
				return b.named(profile.KindJIT, m, name)
			}
		}
	}
	return profile.Frame{Kind: profile.KindNative, Mapping: m, Addr: profile.Addr(addr)}
}

// jitNames returns the names that the process's JIT compiler publishes, or nil. Where there are none yet it
// looks again every few seconds.
func (r *running) jitNames(now time.Time) *jit.Map {
	if r.jit == nil && now.Sub(r.jitTried) >= 5*time.Second {
		r.jitTried = now
		if m, err := jit.Open(int(r.process.PID), fmt.Sprintf("/proc/%d/root", r.process.PID)); err == nil {
			r.jit = m
		}
	}
	return r.jit
}

// UsesCode says whether samples of a process were in code without a file since it was last named.
func (s *Sampler) UsesCode(p *process.Process) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.processes[p.Generation]
	return r != nil && r.jitUsed
}

// NameCode names a process's code without a file from now on, instead of what was known of it.
func (s *Sampler) NameCode(p *process.Process, m *jit.Map) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.processes[p.Generation]; r != nil {
		r.jit, r.jitUsed = m, false
	}
}
