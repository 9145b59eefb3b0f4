package native

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/go-kit/log/level"

	"github.com/perfuse/perfuse/agent/process"
	"github.com/perfuse/perfuse/bpf/memory"
)

// maxFiles bounds what is remembered of files.
const maxFiles = 4096

// look puts probes on the files that the process maps and that were not looked at yet. First all are read: one may say
// that there must be none.
func (p *Profiler) look(ctx context.Context, w *watch) {
	if w.stopped {
		return
	}
	var fresh []process.Mapping
	found := map[process.FileID]*allocator{}
	for _, m := range w.process.Mappings() {
		if m.File == (process.FileID{}) || w.files[m.File] {
			continue
		}
		k, err := p.find(ctx, w.process, m)
		if ctx.Err() != nil {
			return
		}
		w.files[m.File] = true
		_ = p.readLocked() // the ring fills meanwhile; an error comes again at the next poll
		if err != nil {
			p.skipped(w, err)
			continue
		}
		if k.unwinds != "" {
			p.stop(w, fmt.Errorf("%s: %w", k.unwinds, errUnwinds))
			return
		}
		fresh, found[m.File] = append(fresh, m), k
	}
	for _, m := range fresh {
		n, err := p.put(w, m, found[m.File])
		if err != nil {
			p.skipped(w, err)
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

func (p *Profiler) skipped(w *watch, err error) {
	w.err = cmp.Or(w.err, err)
	level.Debug(p.opts.Logger).Log("msg", "a file's allocations are not seen", "pid", w.process.PID, "err", err)
}

// find returns what a file has. It is called by Run's goroutine alone, with p.mu held, and lets others have that while it
// reads: a compiler's libraries take half a second.
func (p *Profiler) find(ctx context.Context, proc *process.Process, m process.Mapping) (*allocator, error) {
	if k := p.files[m.File]; k != nil {
		return k, k.err
	}
	r, err := p.opts.Open(proc, m)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	p.mu.Unlock()
	k, err := findAllocator(ctx, r)
	p.mu.Lock()
	if err != nil {
		k.err = fmt.Errorf("looking for allocators in %s: %w", m.Path, err)
	}
	if len(p.files) >= maxFiles {
		clear(p.files)
	}
	if ctx.Err() == nil {
		p.files[m.File] = k
	}
	return k, k.err
}

// put puts probes on what was found in a file and returns on how many functions.
func (p *Profiler) put(w *watch, m process.Mapping, k *allocator) (int, error) {
	if len(k.hooks) == 0 {
		return 0, nil
	}
	r, err := p.opts.Open(w.process, m)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	hooks := slices.DeleteFunc(slices.Clone(k.hooks), func(h hook) bool { return p.opts.AllocOnly && h.form == memory.Free })
	// Frees first: what has been sampled must not be freed unseen.
	slices.SortStableFunc(hooks, func(a, b hook) int { return rank(a) - rank(b) })
	f, ok := r.(interface{ Fd() uintptr })
	if !ok {
		return 0, fmt.Errorf("attaching to %s: it has no descriptor", m.Path)
	}
	// The mapped file itself, whatever its path leads to by now.
	path := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	if !p.opts.AllocOnly && w.incomplete == nil && slices.ContainsFunc(hooks, func(h hook) bool { return h.throws }) {
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
		if len(hooks) == 0 {
			return nil
		}
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
	without := func(f func(hook) bool) []hook { return slices.DeleteFunc(slices.Clone(hooks), f) }
	switch {
	case p.programs.Session != nil:
		if err = all(p.programs.Session, without(func(h hook) bool { return h.throws })); err == nil {
			err = all(p.programs.Begin, without(func(h hook) bool { return !h.throws }))
		}
	case p.programs.Multi:
		// Ends first: without its end no call must begin.
		if err = all(p.programs.End, without(func(h hook) bool { return !h.hasEnd() })); err == nil {
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

// errUnwinds is why programs are left alone that take stack traces where they allocate, as these libraries do.
var errUnwinds = errors.New("it takes stack traces within allocations, which would end at a probed return")

// errThrows is why heaps that have operators new of their own are incomplete. libstdc++'s come through malloc.
var errThrows = errors.New("what it allocates is counted; what of that is in use is not known, since no exception could pass a probed return")

func rank(h hook) int {
	if h.form == memory.Free {
		return 0
	}
	return 1
}
