package sampler

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perfuse/perfuse/agent/process"
	"github.com/perfuse/perfuse/bpf/cpu"
	"github.com/perfuse/perfuse/profile"
)

// live is a sampler over the real machine.
type live struct {
	*Sampler
	table *process.Table
	mu    sync.Mutex
	more  sync.Cond
	got   []*profile.Batch
}

// next waits for the batch after the first *at ones.
func (l *live) next(t *testing.T, at *int) *profile.Batch {
	t.Helper()
	stop := context.AfterFunc(t.Context(), l.more.Broadcast)
	defer stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.got) <= *at {
		if t.Context().Err() != nil {
			t.Fatal("there is no further batch")
		}
		l.more.Wait()
	}
	*at++
	return l.got[*at-1]
}

// lateObserver lets the table be made before the sampler.
type lateObserver struct{ process.Observer }

func newLive(t *testing.T, o Options, verify func(*live, []deferred, map[cpu.Key]seen)) *live {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("sampling needs root")
	}
	l := &live{}
	l.more.L = &l.mu
	late := &lateObserver{}
	var err error
	if l.table, err = process.New(process.Options{Observers: []process.Observer{late}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.table.Close() })
	o.Open, o.Lookup = l.table.Open, l.table.Lookup
	o.Sink = func(b *profile.Batch) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.got = append(l.got, b)
		l.more.Broadcast()
	}
	var f func([]deferred, map[cpu.Key]seen)
	if verify != nil {
		f = func(copies []deferred, stacks map[cpu.Key]seen) { verify(l, copies, stacks) }
	}
	if l.Sampler, err = newSampler(o, f); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Sampler.Close() })
	late.Observer = l.Sampler

	var wait sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(wait.Wait)
	t.Cleanup(stop)
	run := func(f func(context.Context) error) {
		wait.Go(func() {
			if err := f(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	run(l.table.Run)
	<-l.table.Scanned()
	run(l.Sampler.Run)
	if err := l.Settle(ctx); err != nil {
		t.Fatal(err)
	}
	return l
}

// TestModel walks every sample twice: in the kernel, and here by a model over a copy of the registers and
// the stack. Where the copy is long enough both must find the same frames.
func TestModel(t *testing.T) {
	var mu sync.Mutex
	var same, short, different int
	verify := func(l *live, copies []deferred, stacks map[cpu.Key]seen) {
		l.Sampler.mu.Lock()
		defer l.Sampler.mu.Unlock()
		mu.Lock()
		defer mu.Unlock()
		for i := range copies {
			d := &copies[i]
			st, ok := stacks[d.key]
			if !ok {
				continue // counted in the other epoch
			}
			r := l.owner(d.key, d.time)
			if r == nil || r.process.Generation != d.key.Generation {
				continue // the table was behind the kernel
			}
			model := l.walk(d, r)
			switch {
			case slices.Equal(model, st.frames):
				same++
			case model[len(model)-1] == stopFrame(cpu.StopRead):
				short++
			default:
				different++
				if different <= 3 {
					t.Errorf("pid %d: the kernel walked\n%v\nthe model\n%v", d.key.Tgid, st.frames, model)
				}
			}
		}
	}
	newLive(t, Options{Rate: 997, Interval: time.Second}, verify)

	// A shell that forks and runs programs: signals, system calls, short lives, PLT, dlopen.
	cmd := exec.CommandContext(t.Context(), "sh", "-c",
		`i=0; while [ $i -lt 400 ]; do ls -l /usr/bin >/dev/null; i=$((i+1)); done; head -c 10000000 /dev/zero | gzip | md5sum >/dev/null`)
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		t.Logf("%d samples the same, %d with too short a copy, %d different", same, short, different)
		if same < 100 {
			t.Errorf("only %d samples were compared", same)
		}
	})
}

// TestSpans puts spans of a busy thread into the shared map, as another agent does, and takes them away again.
func TestSpans(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("sampling needs root")
	}
	bpffs := t.TempDir()
	if err := unix.Mount("bpf", bpffs, "bpf", 0, ""); err != nil {
		t.Skipf("mounting a BPF file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(bpffs, 0); err != nil {
			t.Error(err)
		}
	})
	if _, err := cpu.OpenSpans(bpffs, false); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("opening what is not there: %v", err)
	}
	l := newLive(t, Options{Rate: 199, Interval: 200 * time.Millisecond, BPFFS: bpffs, MakeSpans: true}, nil)
	spans, err := cpu.OpenSpans(bpffs, false)
	if err != nil {
		t.Fatal(err)
	}
	defer spans.Close()

	cmd := exec.CommandContext(t.Context(), "sh", "-c", "while :; do :; done")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })

	// until waits for the samples of an interval that lies wholly after now to say what they should.
	until := func(want profile.Link) {
		t.Helper()
		now := time.Now().UnixNano()
		for at := 0; ; {
			b := l.next(t, &at)
			for _, p := range b.Profiles {
				if p.Labels.Get(profile.LabelComm) != "sh" || p.TimeNanos < now || len(p.Samples) == 0 {
					continue
				}
				for _, s := range p.Samples {
					if got := b.Dictionary.Links[s.Link]; got != want {
						t.Fatalf("got a sample with %v, want %v", got, want)
					}
				}
				return
			}
		}
	}
	key := uint64(cmd.Process.Pid)<<32 | uint64(cmd.Process.Pid)
	for i := range byte(2) {
		span := profile.Link{TraceID: profile.TraceID{1, 2, 3, 15: i}, SpanID: profile.SpanID{4, 7: i}}
		if err := spans.Put(key, append(span.TraceID[:], span.SpanID[:]...)); err != nil {
			t.Fatal(err)
		}
		until(span)
	}
	if err := spans.Delete(key); err != nil {
		t.Fatal(err)
	}
	until(profile.Link{})
}
