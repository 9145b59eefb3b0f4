package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/perfuse/perfuse/bench/running"
	"github.com/perfuse/perfuse/bpf/cpu"
)

const (
	header = "  Hz  agent CPU    BPF CPU    together   BPF/sample      RSS   start CPU"
	reach  = "to reach: 1.5 % of a core at 19 Hz, 3 % at 97 Hz, together; 30 µs; 60 MB; 1 s\n" +
		"the OpenTelemetry eBPF profiler, same shape of load: 2.3 to 2.5 % at 20 Hz, 3.65 % at 97 Hz; 38 µs; 43 to 78 MB; 2.5 s"
)

// result is one line of the table. CPU is a share of one core.
type result struct {
	rate       int
	agent, bpf float64
	perSample  time.Duration
	rssBytes   int64
	startCPU   time.Duration
}

func (r result) String() string {
	return fmt.Sprintf("%4d %8.2f %% %8.2f %% %8.2f %%  %8.1f µs  %4.0f MB     %5.2f s", r.rate, 100*r.agent, 100*r.bpf, 100*(r.agent+r.bpf),
		float64(r.perSample.Nanoseconds())/1e3, float64(r.rssBytes)/1e6, r.startCPU.Seconds())
}

// measure runs a server and an agent, each a process of its own, and watches the agent.
func measure(ctx context.Context, c config, folder string, rate int) (result, error) {
	address, err := running.FreeAddress()
	if err != nil {
		return result{}, err
	}
	server, err := running.Start(ctx, c.program, "server", "--http-address", address, "--storage-path", filepath.Join(folder, fmt.Sprint("data-", rate)))
	if err != nil {
		return result{}, err
	}
	defer server.Stop()
	if err := running.Ready(ctx, server, address); err != nil {
		return result{}, err
	}
	stats, err := running.CountBPF()
	if err != nil {
		return result{}, err
	}
	defer stats.Close()
	agent, err := running.Start(ctx, c.program, "agent", "--remote-store-address", address, "--remote-store-insecure", "--http-address", "",
		"--spool-path", filepath.Join(folder, fmt.Sprint("spool-", rate)), "--sampling-rate", fmt.Sprint(rate))
	if err != nil {
		return result{}, err
	}
	defer agent.Stop()
	if err := running.Pause(ctx, agent, c.settle); err != nil {
		return result{}, err
	}
	startCPU, err := running.CPUTime(agent.PID())
	if err != nil {
		return result{}, err
	}
	bpfBefore, err := running.BPFPrograms(agent.PID())
	if err != nil {
		return result{}, err
	}
	began := time.Now()
	if err := running.Pause(ctx, agent, c.duration); err != nil {
		return result{}, err
	}
	endCPU, err := running.CPUTime(agent.PID())
	if err != nil {
		return result{}, err
	}
	bpfAfter, err := running.BPFPrograms(agent.PID())
	if err != nil {
		return result{}, err
	}
	took := time.Since(began)
	rss, err := running.RSSBytes(agent.PID())
	if err != nil {
		return result{}, err
	}
	r := result{rate: rate, rssBytes: rss, startCPU: startCPU}
	r.agent = (endCPU - startCPU).Seconds() / took.Seconds()
	all, sampling, runs := costs(running.SinceBPF(bpfBefore, bpfAfter))
	r.bpf = all.Seconds() / took.Seconds()
	// An event ticks Slots times a sample; the ticks that take none are part of what a sample costs.
	if samples := runs / cpu.Slots; samples > 0 {
		r.perSample = sampling / time.Duration(samples)
	} else {
		return r, errors.New("the agent took no sample")
	}
	return r, nil
}

// costs sums what the programs have taken: all of them, and those that sample the CPUs.
func costs(programs map[string]running.BPFProgram) (all, samples time.Duration, sampleRuns uint64) {
	for name, p := range programs {
		all += p.Time
		if strings.HasPrefix(name, "cpu_") {
			samples += p.Time
			sampleRuns += p.Runs
		}
	}
	return all, samples, sampleRuns
}
