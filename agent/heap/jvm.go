package heap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-kit/log/level"

	"github.com/perfuse/perfuse/agent/heap/hotspot"
	"github.com/perfuse/perfuse/agent/process"
	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/symbolize/jit"
)

// jvms asks the chosen JVMs, each from a goroutine of its own: a JVM answers when it likes. What they have told comes out at each
// look, all of them together: several with the same labels are one series.
type jvms struct {
	h    *Heap
	wait sync.WaitGroup
	// answer bounds a question, stop the last one: an agent that is to end is given some 30 s by most who end it.
	answer, stop time.Duration

	mu    sync.Mutex
	known map[uint32]*java // by generation
	ended map[string]int   // as Stats.Ended
	// amounts are what was told since the last look.
	amounts []*profile.Batch
}

// java is a process that looks like a JVM.
type java struct {
	process *process.Process
	// found is kept while the process lives: it knows whether the JVM had its signal, which is sent once. For ask only.
	found *hotspot.JVM

	cancel context.CancelFunc // nil: it is not being asked
	not    bool               // it is no JVM
	told   bool               // it has told, and nothing went wrong since
	err    error              // why it does not
	failed time.Time
	pause  time.Duration // how long it is left alone after that
	// levels are the newest that it has told, and when.
	levels   *profile.Batch
	levelsAt time.Time
}

const (
	maxJVMs = 64
	// codeMapTimeout bounds a list of compiled methods, which takes a JVM some milliseconds.
	codeMapTimeout = 5 * time.Second
	// jvmRetry is how long a JVM is left alone at most that did not answer. The first pause is an interval: it may
	// have been about to start.
	jvmRetry = 5 * time.Minute
)

func newJVMs(h *Heap) *jvms {
	return &jvms{h: h, answer: 30 * time.Second, stop: 20 * time.Second, known: map[uint32]*java{}, ended: map[string]int{}}
}

// look begins with JVMs that are new, unless ctx is over, and ends with those whose process is gone.
func (v *jvms) look(ctx context.Context, all []*candidate, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	alive := map[uint32]bool{}
	for _, c := range all {
		alive[c.process.Generation] = true
	}
	running := 0
	for g, j := range v.known {
		switch {
		case alive[g] && j.cancel == nil:
		case alive[g]:
			running++
		case j.cancel != nil:
			j.cancel() // the next look takes it out
			running++
		default:
			delete(v.known, g)
			if j.err != nil {
				addReason(v.ended, j.err)
			}
		}
	}
	for _, c := range all {
		if ctx.Err() != nil {
			return
		}
		j := v.known[c.process.Generation]
		if j == nil {
			if young(c.process, now) || !mayBeJVM(c.process) || !v.h.opts.JVM.Select(c.process) {
				continue
			}
			j = &java{process: c.process}
			v.known[c.process.Generation] = j
		}
		if j.cancel != nil || j.not || now.Sub(j.failed) < j.pause {
			continue
		}
		if running >= v.h.opts.JVM.MaxProcesses {
			j.err = fmt.Errorf("there are more than %d JVMs on this node", v.h.opts.JVM.MaxProcesses)
			continue
		}
		running++
		ctx, cancel := context.WithCancel(ctx)
		j.cancel = cancel
		v.wait.Go(func() {
			defer cancel()
			v.note(j, v.ask(ctx, j))
		})
	}
}

// mayBeJVM spares a look into /proc for every process.
func mayBeJVM(p *process.Process) bool {
	return slices.ContainsFunc(p.Mappings(), func(m process.Mapping) bool { return strings.Contains(m.Path, "libjvm.so") })
}

// note says why a JVM is not asked any more.
func (v *jvms) note(j *java, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	j.cancel = nil
	switch {
	case err == nil:
	case errors.Is(err, hotspot.ErrGone): // what was wrong with it stays to be said
	case errors.Is(err, hotspot.ErrNotJVM), errors.Is(err, errNothingToAsk):
		j.not, j.err = true, nil
	default:
		j.told, j.err = false, err
		j.failed = time.Now()
		j.pause = min(max(2*j.pause, v.h.opts.Interval), jvmRetry)
	}
}

var errNothingToAsk = errors.New("there is nothing to ask it")

// ask records in a JVM until ctx ends.
func (v *jvms) ask(ctx context.Context, j *java) (err error) {
	if j.found == nil {
		if j.found, err = hotspot.Find(int(j.process.PID)); err != nil {
			return err
		}
	}
	sampled := keepsFramePointers(int(j.process.PID)) // the sampler sees its stacks whole
	o := v.h.opts.JVM.Options
	o.CPU = o.CPU && (!sampled || v.h.opts.JVM.AlwaysCPU)
	record := o.Allocations || o.Live || o.CPU
	switch {
	case !record && !sampled:
		return errNothingToAsk
	case !record:
		return v.name(ctx, j)
	case sampled:
		naming, stop := context.WithCancel(ctx)
		var wait sync.WaitGroup
		defer wait.Wait()
		defer stop()
		wait.Go(func() {
			if err := v.name(naming, j); err != nil && !errors.Is(err, hotspot.ErrGone) && naming.Err() == nil {
				level.Warn(v.h.opts.Logger).Log("msg", "the compiled methods of a JVM have no names", "pid", j.process.PID, "err", err)
			}
		})
	}
	starting, cancel := context.WithTimeout(ctx, v.answer)
	r, err := j.found.Start(starting, o)
	cancel()
	if err != nil {
		return err
	}
	v.answered(j, false)
	tick := time.NewTicker(o.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), v.stop)
			defer cancel()
			b, err := r.Stop(stopping)
			if err == nil {
				v.answered(j, true)
			}
			v.take(j, b)
			return err
		case <-tick.C:
		}
		dumping, cancel := context.WithTimeout(ctx, v.answer)
		b, err := r.Dump(dumping)
		cancel()
		if ctx.Err() != nil {
			v.take(j, b)
			continue
		}
		if err != nil {
			stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), v.stop)
			defer cancel()
			_, stopErr := r.Stop(stopping)
			return errors.Join(err, stopErr)
		}
		v.answered(j, true)
		v.take(j, b)
	}
}

// name keeps the sampler told of what code the JVM has compiled, until ctx ends. It asks only if samples were in such code.
func (v *jvms) name(ctx context.Context, j *java) error {
	tick := time.NewTicker(v.h.opts.Interval)
	defer tick.Stop()
	for known := false; ; {
		if !known || v.h.opts.Sampler.UsesCode(j.process) {
			// Not given up half-way: the JVM would write its file after it was removed.
			asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), codeMapTimeout)
			text, err := j.found.CodeMap(asking)
			cancel()
			switch {
			case ctx.Err() != nil:
				return nil
			case errors.Is(err, os.ErrExist): // it writes one itself, which the sampler reads
				<-ctx.Done()
				return nil
			case err != nil:
				return err
			}
			m, err := jit.Read(bytes.NewReader(text))
			if err != nil {
				return err
			}
			v.h.opts.Sampler.NameCode(j.process, m)
			if !known {
				known = true
				v.answered(j, false)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// answered: whatever was wrong with a JVM, it answers now.
func (v *jvms) answered(j *java, told bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	j.err = nil
	if told {
		j.told, j.pause = true, 0
	}
}

// take keeps what a JVM has told until the next look, with the process's labels. The CPU time that a JVM tells of has a type of
// its own: the sampler has counted the same time, with other stacks.
func (v *jvms) take(j *java, b *profile.Batch) {
	if b == nil {
		return
	}
	levels, amounts := &profile.Batch{Dictionary: b.Dictionary}, &profile.Batch{Dictionary: b.Dictionary}
	for _, one := range b.Profiles {
		ls := slices.Concat(one.Labels, j.process.Labels())
		if one.Type == profile.TypeCPU {
			one.Type = profile.TypeJavaCPU
		} else {
			ls = append(ls, profile.Label{Name: profile.LabelHeap, Value: "java"})
		}
		one.Labels = profile.NewLabels(ls...)
		if one.Type.Level() {
			levels.Profiles = append(levels.Profiles, one)
		} else {
			amounts.Profiles = append(amounts.Profiles, one)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	j.levels, j.levelsAt = levels, time.Now()
	v.amounts = append(v.amounts, amounts)
}

// flush emits what was told between two looks, and of levels the newest of each JVM that lives.
func (v *jvms) flush(last, now time.Time) {
	v.mu.Lock()
	all := v.amounts
	v.amounts = nil
	holds := 3 * max(v.h.opts.JVM.Interval, v.h.opts.Interval)
	for _, g := range slices.Sorted(maps.Keys(v.known)) {
		if j := v.known[g]; j.levels != nil && now.Sub(j.levelsAt) < holds {
			all = append(all, j.levels)
		}
	}
	v.mu.Unlock()
	b := profile.Merge(all...)
	for i := range b.Profiles {
		b.Profiles[i].TimeNanos, b.Profiles[i].DurationNanos = last.UnixNano(), now.Sub(last).Nanoseconds()
	}
	if len(b.Profiles) > 0 {
		v.h.emit(b)
	}
}

// without calls f with each JVM that does not tell, and why.
func (v *jvms) without(f func(*process.Process, error)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, j := range v.known {
		if j.err != nil {
			f(j.process, j.err)
		}
	}
}

// addTo adds how many JVMs tell, and why others do not, as of now.
func (v *jvms) addTo(st *Stats) {
	v.without(func(_ *process.Process, err error) { st.Without[err.Error()]++ })
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, j := range v.known {
		if j.told {
			st.JVM++
		}
	}
	for reason, n := range v.ended {
		st.Ended[reason] += n
	}
}

// keepsFramePointers says whether a JVM was told to keep frame pointers.
func keepsFramePointers(pid int) bool {
	for _, name := range []string{"cmdline", "environ"} {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/" + name)
		if err == nil && strings.Contains(string(b), "-XX:+PreserveFramePointer") {
			return true
		}
	}
	return false
}
