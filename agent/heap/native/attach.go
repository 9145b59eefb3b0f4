package native

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/go-kit/log/level"

	"github.com/perfuse/perfuse/agent/process"
	"github.com/perfuse/perfuse/bpf/memory"
)

// maxFiles bounds what is remembered of files.
const maxFiles = 4096

// look puts probes on the files that the process maps and that were not looked at yet.
func (p *Profiler) look(w *watch) {
	if w.stopped {
		return
	}
	for _, m := range w.process.Mappings() {
		if m.File == (process.FileID{}) || w.files[m.File] {
			continue
		}
		w.files[m.File] = true
		n, err := p.lookAt(w, m)
		if err != nil {
			if w.err == nil {
				w.err = err
			}
			level.Debug(p.opts.Logger).Log("msg", "a file's allocations are not seen", "pid", w.process.PID, "err", err)
		}
		if n == 0 {
			continue
		}
		w.names = append(w.names, m.Path)
		if w.since.IsZero() {
			w.since = time.Now()
		}
		level.Info(p.opts.Logger).Log("msg", "heap is profiled", "pid", w.process.PID, "comm", w.process.Comm, "allocator", m.Path, "probes", n)
	}
}

// lookAt puts probes on one file and returns how many. It is called by Run's goroutine alone, with p.mu held, and lets
// others have that while it reads: a compiler's libraries take half a second.
func (p *Profiler) lookAt(w *watch, m process.Mapping) (int, error) {
	k := p.files[m.File]
	if k != nil && len(k.hooks) == 0 {
		return 0, k.err
	}
	r, err := p.opts.Open(w.process, m)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	if k == nil {
		k = &allocator{}
		p.mu.Unlock()
		if k.hooks, k.err = findHooks(r); k.err != nil {
			k.err = fmt.Errorf("looking for allocators in %s: %w", m.Path, k.err)
		}
		p.mu.Lock()
		if len(p.files) >= maxFiles {
			clear(p.files)
		}
		p.files[m.File] = k
		if len(k.hooks) == 0 {
			return 0, k.err
		}
	}
	hooks := slices.DeleteFunc(slices.Clone(k.hooks), func(h hook) bool { return p.opts.AllocOnly && h.form == memory.Free })
	// Frees first: what has been sampled must not be freed unseen.
	slices.SortStableFunc(hooks, func(a, b hook) int { return rank(a) - rank(b) })
	f, ok := r.(interface{ Fd() uintptr })
	if !ok {
		return 0, fmt.Errorf("attaching to %s: it has no descriptor", m.Path)
	}
	// The mapped file itself, whatever its path leads to by now.
	path := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	if !p.followsNew && !p.opts.AllocOnly && w.incomplete == nil && slices.ContainsFunc(hooks, func(h hook) bool { return h.throws }) {
		w.incomplete = fmt.Errorf("operator new of %s: %w", m.Path, errThrows)
	}
	links, n, err := p.attach(w, path, hooks)
	w.links = append(w.links, links...)
	if err != nil {
		return n, fmt.Errorf("attaching to the allocator in %s: %w", m.Path, err)
	}
	return n, nil
}

// attach puts probes on functions of a file by the best means that the kernel has, and returns on how many.
func (p *Profiler) attach(w *watch, path string, hooks []hook) (links []io.Closer, n int, err error) {
	all := func(prog *ebpf.Program, hooks []hook) error {
		offsets, cookies := make([]uint64, len(hooks)), make([]uint64, len(hooks))
		for i, h := range hooks {
			offsets[i], cookies[i] = h.offset, h.cookie(w.id)
		}
		l, err := p.programs.Attach(prog, path, offsets, cookies, int(w.process.PID))
		if err == nil {
			links = append(links, l)
		}
		return err
	}
	switch {
	case p.programs.Session != nil:
		err = all(p.programs.Session, hooks)
	case p.programs.Multi:
		// Ends first: without its end no call must begin.
		if ends := slices.DeleteFunc(slices.Clone(hooks), func(h hook) bool { return !h.hasEnd() }); len(ends) > 0 {
			err = all(p.programs.End, ends)
		}
		if err == nil {
			err = all(p.programs.Begin, hooks)
		}
	default:
		return p.attachEach(w, path, hooks)
	}
	if err != nil {
		for _, l := range links {
			l.Close()
		}
		return nil, 0, err
	}
	return links, len(hooks), nil
}

// hasEnd says whether the end of a call is looked at where there are no sessions.
func (h hook) hasEnd() bool { return h.form != memory.Free && !h.throws }

// attachEach puts a probe on the beginning of each function and one on its end, for kernels before 6.6.
func (p *Profiler) attachEach(w *watch, path string, hooks []hook) (out []io.Closer, n int, err error) {
	ex, err := link.OpenExecutable(path)
	if err != nil {
		return nil, 0, err
	}
	for _, h := range hooks {
		o := link.UprobeOptions{Address: h.offset, PID: int(w.process.PID), Cookie: h.cookie(w.id)}
		if h.hasEnd() {
			l, err := ex.Uretprobe(h.name, p.programs.End, &o)
			if err != nil {
				return out, n, err
			}
			out = append(out, l)
		}
		l, err := ex.Uprobe(h.name, p.programs.Begin, &o)
		if err != nil {
			return out, n, err
		}
		out = append(out, l)
		n++
	}
	return out, n, nil
}

func (h hook) cookie(watch uint32) uint64 {
	return memory.Cookie(watch, h.form, h.leaf, h.throws, h.args[0], h.args[1], h.args[2])
}

// errThrows is why heaps that have operators new of their own are incomplete. libstdc++'s come through malloc.
var errThrows = errors.New("what it allocates is counted; what of that is in use is not known, since no exception could pass a probed return")

// overcommits says whether the kernel promises memory to everyone, so that allocations fail only for sizes that the kernel
// side leaves alone.
func overcommits() bool {
	b, err := os.ReadFile("/proc/sys/vm/overcommit_memory")
	return err == nil && strings.TrimSpace(string(b)) != "2"
}

func rank(h hook) int {
	if h.form == memory.Free {
		return 0
	}
	return 1
}
