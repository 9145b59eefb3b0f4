package process

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/perfuse/perfuse/profile/relabel"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// Observer is told what happens, in order, from the table's one goroutine: a slow observer delays the table.
// It may call the table. Executions are told apart by Process.Generation.
//
// Each execution gets one Started, then any number of Mapped, then one Exited. An exec ends the old
// execution before it starts the new one. Mapped replaces whatever was in its range.
type Observer interface {
	// Started announces a process that was found by the scan (with its mappings), forked (with those of
	// its parent) or exec'ed (with none: they follow at once). The mappings are read-only.
	Started(p *Process, mappings []Mapping)
	Mapped(p *Process, m Mapping)
	Exited(p *Process)
}

// Options of a table; the zero value works.
type Options struct {
	Observers []Observer
	// Node is the value of the label node. Default: the host's name.
	Node string
	// Relabel rules are applied to the labels of each process, in order. keep and drop decide whether it is
	// profiled. For rules only there are __meta_container_id, __meta_container_runtime, __meta_pod_uid,
	// __meta_systemd_unit, __meta_executable_path and __meta_pid.
	Relabel []relabel.Rule
	// Proc is where procfs is mounted. Default "/proc".
	Proc string
	// RingBytes is the size of each CPU's ring, a power of two times the page size. Default 256 KiB, on
	// nodes with many CPUs down to 64 KiB. A record has about 100 bytes.
	RingBytes int
	// Grace is how long an ended process stays known. Default one minute.
	Grace time.Duration
	// MaxEnded bounds the ended processes that are kept; the oldest go first. Default 8192.
	MaxEnded int
	// MaxMappings bounds the executable mappings of one process. Default 16384.
	MaxMappings int
	// Logger and Registerer: default none.
	Logger     log.Logger
	Registerer prometheus.Registerer
}

func (o *Options) setDefaults() error {
	if o.Node == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("finding the node's name: %w", err)
		}
		o.Node = host
	}
	if o.Proc == "" {
		o.Proc = "/proc"
	}
	if o.RingBytes == 0 {
		o.RingBytes = 256 << 10
		for o.RingBytes > 64<<10 && o.RingBytes*runtime.NumCPU() > 4<<20 {
			o.RingBytes /= 2
		}
	}
	if o.Grace == 0 {
		o.Grace = time.Minute
	}
	if o.MaxEnded == 0 {
		o.MaxEnded = 8192
	}
	if o.MaxMappings == 0 {
		o.MaxMappings = 16384
	}
	if o.Logger == nil {
		o.Logger = log.NewNopLogger()
	}
	return nil
}

// Table is the table of processes. [New] opens the kernel's records, Run scans and then follows them.
type Table struct {
	opts    Options
	metrics *metrics
	events  *events
	// containers is what control groups were parsed to.
	containers containers
	relabel    *relabel.Rules

	// bootOffset is wall clock minus CLOCK_MONOTONIC, sleptFor CLOCK_BOOTTIME minus CLOCK_MONOTONIC.
	bootOffset int64
	sleptFor   uint64

	// Owned by Run's goroutine.
	generation uint32
	opening    map[PID]*Process // exec'ed, not announced yet: the first mapping will name the executable
	queue      scanQueue
	young      []*Process // executions whose environment is still to be read, in order of start
	lost       bool       // records were lost since the last rescan
	buf        []byte
	// files is what /proc's ids of files were found to be, for the length of one scan.
	files        map[FileID]FileID
	identifier   *identifier
	noIdentifier bool // the kernel does not let us

	mu           sync.RWMutex
	byPID        map[PID]*Process // the newest of each pid
	byGeneration map[uint32]*Process
	ended        []*Process // in order of their end
	scanned      chan struct{}
	syncs        chan chan struct{}
}

// New opens the kernel's records, one small ring per CPU. It fails where the agent may not see them.
func New(opts Options) (*Table, error) {
	if err := opts.setDefaults(); err != nil {
		return nil, err
	}
	t, err := newTable(opts)
	if err != nil {
		return nil, err
	}
	if t.events, err = openEvents(t.opts.RingBytes, onlineCPUs); err != nil {
		return nil, err
	}
	return t, nil
}

// newTable makes a table without a source of records.
func newTable(opts Options) (*Table, error) {
	rules, err := relabel.New(opts.Relabel, maxAttributeBytes)
	if err != nil {
		return nil, err
	}
	t := &Table{
		opts:         opts,
		files:        map[FileID]FileID{},
		relabel:      rules,
		opening:      map[PID]*Process{},
		byPID:        map[PID]*Process{},
		byGeneration: map[uint32]*Process{},
		scanned:      make(chan struct{}),
		syncs:        make(chan chan struct{}, 16),
	}
	t.metrics = newMetrics(opts.Registerer, t)
	t.setBootOffset()
	return t, nil
}

func (t *Table) setBootOffset() {
	mono := monotonic() // first: no difference may become negative
	t.sleptFor = clock(unix.CLOCK_BOOTTIME) - mono
	t.mu.Lock()
	t.bootOffset = int64(clock(unix.CLOCK_REALTIME)) - int64(mono)
	t.mu.Unlock()
}

// wall turns a kernel time into a wall-clock time.
func (t *Table) wall(mono uint64) time.Time { return time.Unix(0, int64(mono)+t.bootOffset) }

// Lookup returns what ran under a pid at a time (the zero time: now), nil if nothing is known of it. A
// process that ended within the grace period is found, also a little after its end.
func (t *Table) Lookup(pid PID, at time.Time) *Process {
	t.mu.RLock()
	defer t.mu.RUnlock()
	p := t.byPID[pid]
	if p == nil || at.IsZero() {
		return p
	}
	mono := at.UnixNano() - t.bootOffset
	for p.older != nil && int64(p.start) > mono {
		p = p.older
	}
	return p
}

// ByGeneration returns an execution by its number, nil if it is not known (any more).
func (t *Table) ByGeneration(generation uint32) *Process {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byGeneration[generation]
}

// Processes returns those that run now, in no order.
func (t *Table) Processes() []*Process {
	t.mu.RLock()
	defer t.mu.RUnlock()
	ps := make([]*Process, 0, len(t.byPID))
	for _, p := range t.byPID {
		if p.end == 0 {
			ps = append(ps, p)
		}
	}
	return ps
}

// Sync returns when the table knows of all that the kernel reported before the call: on a busy machine it
// may be far behind. Run must be running.
func (t *Table) Sync(ctx context.Context) error {
	done := make(chan struct{})
	select {
	case t.syncs <- done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	t.events.ringBell()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Scanned is closed when the first scan of /proc is done: from then on every process is known.
func (t *Table) Scanned() <-chan struct{} { return t.scanned }

const (
	scanBudget = 2 * time.Millisecond
	housekeep  = time.Second
)

// Run scans /proc, then follows the kernel's records until ctx ends. It returns nil then.
func (t *Table) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, t.events.ringBell)()
	if err := t.queue.fill(t.opts.Proc); err != nil {
		return err
	}
	pace, kept := newPace(), time.Now()
	var waiting []chan struct{} // those who called Sync
	for ctx.Err() == nil {
		for more := true; more; {
			select {
			case done := <-t.syncs:
				waiting = append(waiting, done)
			default:
				more = false
			}
		}
		n, held := t.events.drain(t.apply)
		if !held {
			for _, done := range waiting {
				close(done)
			}
			waiting = nil
		}
		t.metrics.records.Add(float64(n))
		openings := t.announceLate(t.events.drained)
		scanning := t.scan(scanBudget)
		if now := time.Now(); now.Sub(kept) >= housekeep {
			kept = now
			if err := t.keepHouse(); err != nil {
				level.Warn(t.opts.Logger).Log("msg", "following processes", "err", err)
			}
		}
		switch {
		case scanning:
		case held:
			time.Sleep(100 * time.Microsecond)
		default:
			d := pace.next(time.Now())
			if n > 0 && d > 0 {
				t.events.mute(true)
				if err := t.events.wait(d); err != nil { // ends early if a ring is half full
					return err
				}
				continue
			}
			if t.events.muted {
				t.events.mute(false)
				continue
			}
			timeout := t.untilNextTask(kept)
			if openings {
				timeout = min(timeout, openingPatience)
			}
			if err := t.events.wait(timeout); err != nil {
				return err
			}
		}
	}
	return nil
}

// pace bounds how often the table wakes up. A wake-up of a sleeping thread costs 20 to 150 microseconds in a
// virtual machine, several times what the records of one exec cost; so a quiet machine's records are read at
// once, and in a burst the table looks wakeups times a second and finds many records each time.
type pace struct {
	tokens float64
	last   time.Time
}

const (
	wakeups     = 25 // a second, for long
	wakeupBurst = 50 // that many more at once
)

func newPace() *pace { return &pace{tokens: wakeupBurst, last: time.Now()} }

// next takes note of a wake-up and returns how long to wait before the next one.
func (p *pace) next(now time.Time) time.Duration {
	p.tokens = max(min(p.tokens+now.Sub(p.last).Seconds()*wakeups, wakeupBurst)-1, -1)
	p.last = now
	if p.tokens >= 0 {
		return 0
	}
	return time.Duration(-p.tokens * float64(time.Second) / wakeups)
}

// Close releases the kernel's records. Call it after Run has returned.
func (t *Table) Close() error {
	if t.events != nil {
		t.events.close()
		t.events = nil
	}
	t.metrics.unregister()
	return nil
}
