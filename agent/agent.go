// Package agent profiles a node: it joins the process table, the sampler and the sender into one program that
// runs until it is told to stop. [Record] is the same without a server: it profiles for a while and
// returns what it saw.
package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/perfuse/perfuse/agent/heap"
	"github.com/perfuse/perfuse/agent/heap/hotspot"
	"github.com/perfuse/perfuse/agent/process"
	"github.com/perfuse/perfuse/agent/sampler"
	"github.com/perfuse/perfuse/agent/ship"
	"github.com/perfuse/perfuse/bpf/cpu"
	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/profile/relabel"
)

// Options configures an Agent. The zero value of each field but Address is its default.
type Options struct {
	// Node is the value of the label node. Default: the host's name.
	Node string
	// Address is the server's, as host:port. Required.
	Address string
	// Insecure speaks plain text instead of TLS.
	Insecure bool
	// Headers go with every request, for authentication.
	Headers map[string]string
	// Rate is samples per second and CPU. Default 19.
	Rate int
	// OffCPU measures what threads wait for, PageFaults who makes memory resident. Default: both.
	OffCPU, PageFaults *bool
	// Wakers also measures who ends the waits.
	Wakers bool
	// Heap says whose memory profiles are collected. Default: those of Go programs.
	Heap HeapConfig
	// Interval is the time between two batches. Default 10 s.
	Interval time.Duration
	// SpoolDir keeps what the server has not taken yet. Default: a directory below the system's temporary
	// one, named for the node.
	SpoolDir string
	// SpoolMaxBytes bounds it. Default 256 MiB.
	SpoolMaxBytes int64
	// BPFFS is the BPF file system in which agents on a node share which request a thread serves. Default: cpu.DefaultBPFFS.
	BPFFS string
	// Relabel rules apply to the labels of each process.
	Relabel []relabel.Rule
	// Version is what the agent calls itself when it reports to the server. Default: "unknown".
	Version string
	// WithServer says that a server runs in the same process, whose cost is reported along.
	WithServer bool
	// Logger and Registerer: default none.
	Logger     log.Logger
	Registerer prometheus.Registerer
}

// Agent profiles a node.
type Agent struct {
	opts      Options
	table     *process.Table
	sampler   *sampler.Sampler
	heap      *heap.Heap
	sender    *ship.T
	debuginfo *ship.Debuginfo
	reporter  *ship.Reporter
	told      told
	scanned   atomic.Bool
	lastBatch atomic.Int64 // Unix nanoseconds
}

// New opens everything. Its error says in one line what is missing.
func New(o Options) (_ *Agent, err error) {
	if o.Logger == nil {
		o.Logger = log.NewNopLogger()
	}
	a := &Agent{opts: o}
	if err := a.told.init(o); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	late, lateHeap := &lateObserver{}, &lateObserver{}
	if a.table, err = process.New(process.Options{
		Observers:  []process.Observer{late, lateHeap},
		Node:       o.Node,
		Relabel:    o.Relabel,
		Logger:     o.Logger,
		Registerer: o.Registerer,
	}); err != nil {
		return nil, sampler.Explain(err, nil)
	}
	if a.sender, err = ship.New(ship.Options{
		Address:       o.Address,
		Insecure:      o.Insecure,
		Headers:       o.Headers,
		SpoolDir:      o.SpoolDir,
		SpoolMaxBytes: o.SpoolMaxBytes,
		OnError:       func(err error) { a.problem("sending profiles", err) },
		Logger:        o.Logger,
		Registerer:    o.Registerer,
	}); err != nil {
		return nil, err
	}
	a.reporter = a.sender.NewReporter(ship.ReporterOptions{Report: a.report, Logger: o.Logger})
	if a.debuginfo, err = ship.NewDebuginfo(ship.DebuginfoOptions{
		Address:    o.Address,
		Insecure:   o.Insecure,
		Headers:    o.Headers,
		OnError:    func(err error) { a.problem("sending debug information", err) },
		Logger:     o.Logger,
		Registerer: o.Registerer,
	}); err != nil {
		return nil, err
	}
	faultRate := 0
	if !or(o.PageFaults, true) {
		faultRate = -1
	}
	if a.sampler, err = sampler.New(sampler.Options{
		Rate:      o.Rate,
		FaultRate: faultRate,
		OffCPU:    or(o.OffCPU, true),
		Wakers:    o.Wakers,
		Interval:  o.Interval,
		BPFFS:     cmp.Or(o.BPFFS, cpu.DefaultBPFFS),
		MakeSpans: true,
		Open:      a.table.Open,
		Lookup:    a.table.Lookup,
		Sync:      a.table.Sync,
		Keep:      keep,
		Found:     a.found,
		Sink:      a.accept,
		Logger:    o.Logger,
	}); err != nil {
		return nil, err
	}
	late.Observer = a.sampler
	a.heap = a.newHeap()
	lateHeap.Observer = a.heap
	if o.Registerer != nil {
		if err := o.Registerer.Register(a.sampler); err != nil {
			return nil, fmt.Errorf("registering the sampler's metrics: %w", err)
		}
		for _, c := range a.heap.Collectors() {
			if err := o.Registerer.Register(c); err != nil {
				return nil, fmt.Errorf("registering the metrics of heaps: %w", err)
			}
		}
	}
	return a, nil
}

func (a *Agent) newHeap() *heap.Heap {
	c := a.opts.Heap
	return heap.New(heap.Options{
		Interval: c.Interval,
		Sampler:  a.sampler,
		Open:     a.table.Open,
		Keep:     keep,
		NoGo:     !or(c.Go, true),

		NoGoroutines: !or(c.Goroutines, true),

		Native: heap.Native{Select: c.Native.Selector.selects(), Rate: c.Native.SampleBytes, AllocOnly: c.Native.AllocOnly, MaxCalls: c.Native.MaxCalls},
		JVM: heap.JVM{
			Select:  c.JVM.Selector.selects(),
			Options: hotspot.Options{Allocations: true, Live: c.JVM.Live, CPU: or(c.JVM.CPU, true)},
		},
		Sink:   a.accept,
		Logger: a.opts.Logger,
	})
}

func keep(p *process.Process) bool { return p == nil || p.Profiled() }

func or(set *bool, unset bool) bool {
	if set == nil {
		return unset
	}
	return *set
}

// Run profiles until ctx ends. What was measured by then is with the server or in the spool when it returns.
func (a *Agent) Run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var sampling, supporting, reporting sync.WaitGroup
	support, stopSupport := context.WithCancel(context.WithoutCancel(ctx))
	defer supporting.Wait()
	defer stopSupport()

	start := func(wait *sync.WaitGroup, ctx context.Context, part string, run func(context.Context) error) {
		wait.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				a.problem(part, err)
				stop(fmt.Errorf("%s: %w", part, err))
			}
		})
	}
	start(&supporting, support, "following processes", func(ctx context.Context) error {
		return process.Ahead(func() error { return a.table.Run(ctx) })
	})
	start(&supporting, support, "sending profiles", a.sender.Run)
	start(&supporting, support, "sending debug information", a.debuginfo.Run)
	report, stopReports := context.WithCancel(support)
	defer stopReports()
	start(&reporting, report, "reporting", a.reporter.Run)
	start(&reporting, report, "measuring BPF programs", a.told.measureBPF)
	select {
	case <-a.table.Scanned():
	case <-ctx.Done():
	}
	a.scanned.Store(true)
	start(&sampling, ctx, "sampling", a.sampler.Run)
	start(&sampling, ctx, "collecting memory profiles", a.heap.Run)
	if a.sampler.Settle(ctx) == nil {
		giveBack()
	}
	<-ctx.Done()
	// The sampler drains a last time, and the sender has a moment to hand it over; the rest stays in the
	// spool.
	sampling.Wait()
	flush, cancel := context.WithTimeout(support, flushTimeout)
	defer cancel()
	if err := a.sender.Flush(flush); err != nil {
		level.Info(a.opts.Logger).Log("msg", "some profiles wait in the spool for the next start", "err", err)
	}
	stopReports()
	reporting.Wait()
	a.reporter.Last(flush)
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// flushTimeout bounds how long the end of the agent waits for the server.
const flushTimeout = time.Second

// found tells of an executable file, so that the server can name its functions.
func (a *Agent) found(buildID string, p *process.Process, m process.Mapping, f process.File) {
	a.debuginfo.Found(buildID, m.Path, fmt.Sprintf("/proc/%d/root", p.PID), f)
}

// accept takes a batch from the sampler.
func (a *Agent) accept(b *profile.Batch) {
	first := a.lastBatch.Swap(time.Now().UnixNano()) == 0
	a.told.count(b)
	if err := a.sender.Send(context.Background(), b); err != nil {
		level.Error(a.opts.Logger).Log("msg", "a batch of profiles is lost", "err", err)
		a.problem("handing over profiles", err)
	}
	if first { // whoever has just started it waits for a sign
		a.reporter.Soon()
	}
}

// Close releases everything. Run must have returned.
func (a *Agent) Close() error {
	var errs []error
	if a.sampler != nil {
		if a.opts.Registerer != nil {
			a.opts.Registerer.Unregister(a.sampler)
		}
		if a.heap != nil {
			errs = append(errs, a.heap.Close())
		}
		errs = append(errs, a.sampler.Close())
	}
	if a.debuginfo != nil {
		errs = append(errs, a.debuginfo.Close())
	}
	if a.sender != nil {
		errs = append(errs, a.sender.Close())
	}
	if a.table != nil {
		errs = append(errs, a.table.Close())
	}
	return errors.Join(errs...)
}

// Status is what people want to know of a running agent.
type Status struct {
	Address   string        `json:"address"`
	Event     string        `json:"event"`
	Rate      int           `json:"rate"`
	OffCPU    string        `json:"off_cpu"`
	Processes int           `json:"processes"`
	LastBatch time.Time     `json:"last_batch"`
	Sampler   sampler.Stats `json:"sampler"`
	Heap      heap.Stats    `json:"heap"`
	Error     string        `json:"error,omitempty"`
}

// Status reads it.
func (a *Agent) Status() Status {
	st := Status{
		Address:   a.opts.Address,
		Event:     a.sampler.Event(),
		Rate:      a.sampler.Rate(),
		Processes: len(a.table.Processes()),
	}
	st.Heap = a.heap.Stats()
	st.OffCPU = "measured"
	if err := a.sampler.OffCPU(); err != nil {
		st.OffCPU = err.Error()
	}
	if t := a.lastBatch.Load(); t != 0 {
		st.LastBatch = time.Unix(0, t)
	}
	var err error
	if st.Sampler, err = a.sampler.Stats(); err != nil {
		st.Error = err.Error()
	}
	return st
}

// Ready says whether every process is known, so that sampling runs.
func (a *Agent) Ready() bool { return a.scanned.Load() }
