package heap

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/perfuse/perfuse/agent/heap/hotspot"
	"github.com/perfuse/perfuse/agent/process"
	"github.com/perfuse/perfuse/profile"
)

// jvms asks the chosen JVMs, each from a goroutine of its own: a JVM answers when it likes.
type jvms struct {
	h      *Heap
	wait   sync.WaitGroup
	mu     sync.Mutex
	asked  map[uint32]context.CancelFunc // by generation; nil: it is no JVM
	errs   map[uint32]error
	failed map[uint32]time.Time
}

const (
	maxJVMs = 64
	// jvmTimeout bounds one question.
	jvmTimeout = 30 * time.Second
	// jvmRetry is how long a JVM is left alone that did not answer.
	jvmRetry = 5 * time.Minute
)

func newJVMs(h *Heap) *jvms {
	return &jvms{h: h, asked: map[uint32]context.CancelFunc{}, errs: map[uint32]error{}, failed: map[uint32]time.Time{}}
}

// look begins with JVMs that are new, and ends with those whose process is gone.
func (v *jvms) look(ctx context.Context, all []*candidate, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	alive := map[uint32]bool{}
	running := 0
	for _, cancel := range v.asked {
		if cancel != nil {
			running++
		}
	}
	for _, c := range all {
		g := c.process.Generation
		alive[g] = true
		if _, ok := v.asked[g]; ok || now.Sub(v.failed[g]) < jvmRetry || !mayBeJVM(c.process) || !v.h.opts.JVM.Select(c.process) {
			continue
		}
		if running >= maxJVMs {
			v.errs[g] = errTooManyJVMs
			continue
		}
		running++
		ctx, cancel := context.WithCancel(ctx)
		v.asked[g] = cancel
		v.wait.Go(func() { v.ended(c.process, v.ask(ctx, c.process)) })
	}
	gone := func(g uint32) bool { return !alive[g] }
	for g, cancel := range v.asked {
		if gone(g) && cancel != nil {
			cancel() // ended takes it out
		} else if gone(g) {
			delete(v.asked, g)
		}
	}
	maps.DeleteFunc(v.errs, func(g uint32, _ error) bool { return gone(g) })
	maps.DeleteFunc(v.failed, func(g uint32, _ time.Time) bool { return gone(g) })
}

var errTooManyJVMs = errors.New("there are more than " + strconv.Itoa(maxJVMs) + " JVMs on this node")

// mayBeJVM spares a look into /proc for every process.
func mayBeJVM(p *process.Process) bool {
	return slices.ContainsFunc(p.Mappings(), func(m process.Mapping) bool { return strings.Contains(m.Path, "libjvm.so") })
}

// ended notes why a JVM is not asked any more.
func (v *jvms) ended(p *process.Process, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	g := p.Generation
	switch {
	case err == nil, errors.Is(err, hotspot.ErrGone):
		delete(v.asked, g)
	case errors.Is(err, hotspot.ErrNotJVM):
		v.asked[g] = nil
	default:
		delete(v.asked, g)
		v.errs[g] = err
		v.failed[g] = time.Now()
	}
}

// ask records in a JVM until ctx ends.
func (v *jvms) ask(ctx context.Context, p *process.Process) error {
	jvm, err := hotspot.Find(int(p.PID))
	if err != nil {
		return err
	}
	o := v.h.opts.JVM.Options
	o.CPU = o.CPU && !keepsFramePointers(int(p.PID))
	starting, cancel := context.WithTimeout(ctx, jvmTimeout)
	r, err := jvm.Start(starting, o)
	cancel()
	if err != nil {
		return err
	}
	v.known(p)
	tick := time.NewTicker(o.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), jvmTimeout)
			defer cancel()
			b, err := r.Stop(stopping)
			v.emit(p, b)
			return err
		case <-tick.C:
		}
		dumping, cancel := context.WithTimeout(ctx, jvmTimeout)
		b, err := r.Dump(dumping)
		cancel()
		if ctx.Err() != nil {
			continue
		}
		if err != nil {
			stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), jvmTimeout)
			defer cancel()
			_, stopErr := r.Stop(stopping)
			return errors.Join(err, stopErr)
		}
		v.emit(p, b)
	}
}

// known: whatever was wrong with it, it answers now.
func (v *jvms) known(p *process.Process) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.errs, p.Generation)
}

// emit gives a batch the process's labels. The CPU time that a JVM tells of has a type of its own: the sampler has
// counted the same time, with other stacks.
func (v *jvms) emit(p *process.Process, b *profile.Batch) {
	if b == nil || len(b.Profiles) == 0 {
		return
	}
	for i := range b.Profiles {
		one := &b.Profiles[i]
		ls := slices.Concat(one.Labels, p.Labels())
		if one.Type == profile.TypeCPU {
			one.Type = profile.TypeJavaCPU
		} else {
			ls = append(ls, profile.Label{Name: profile.LabelHeap, Value: "java"})
		}
		one.Labels = profile.NewLabels(ls...)
	}
	v.h.emit(b)
}

// numbers returns how many JVMs are asked, and why others are not.
func (v *jvms) numbers(without map[string]int) (n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, cancel := range v.asked {
		if cancel != nil {
			n++
		}
	}
	for _, err := range v.errs {
		without[err.Error()]++
	}
	return n
}

// keepsFramePointers says whether a JVM was told to keep frame pointers: then the sampler sees its stacks whole.
func keepsFramePointers(pid int) bool {
	for _, name := range []string{"cmdline", "environ"} {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/" + name)
		if err == nil && strings.Contains(string(b), "-XX:+PreserveFramePointer") {
			return true
		}
	}
	return false
}
