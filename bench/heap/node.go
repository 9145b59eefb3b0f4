package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/perfuse/perfuse/agent/heap"
	"github.com/perfuse/perfuse/bench/running"
)

// node is a server and the agents that send to it, one at a time.
type node struct {
	program, folder, address string
	server                   *running.Process
	agents                   int // that were started
}

func startNode(ctx context.Context, program, folder string) (*node, error) {
	n := &node{program: program, folder: folder}
	var err error
	if n.address, err = running.FreeAddress(); err != nil {
		return nil, err
	}
	if n.server, err = running.Start(ctx, program, "server", "--http-address", n.address, "--storage-path", filepath.Join(folder, "data")); err != nil {
		return nil, err
	}
	if err := running.Ready(ctx, n.server, n.address); err != nil {
		n.server.Stop()
		return nil, err
	}
	return n, nil
}

// collector is a running agent.
type collector struct {
	*running.Process
	address string
	began   time.Time
	used    time.Duration // of CPU time when it had settled
}

// start starts an agent with a configuration and lets it settle.
func (n *node) start(ctx context.Context, config string, settle time.Duration) (*collector, error) {
	n.agents++
	file := filepath.Join(n.folder, fmt.Sprintf("agent-%d.yaml", n.agents))
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	a := &collector{}
	var err error
	if a.address, err = running.FreeAddress(); err != nil {
		return nil, err
	}
	if a.Process, err = running.Start(ctx, n.program, "agent", "--remote-store-address", n.address, "--remote-store-insecure",
		"--http-address", a.address, "--spool-path", filepath.Join(n.folder, fmt.Sprintf("spool-%d", n.agents)), "--config", file); err != nil {
		return nil, err
	}
	if err = running.Ready(ctx, a.Process, a.address); err == nil {
		err = running.Pause(ctx, a.Process, settle)
	}
	if err == nil {
		a.used, err = running.CPUTime(a.PID())
	}
	if err != nil {
		a.Stop()
		return nil, err
	}
	a.began = time.Now()
	return a, nil
}

// heap asks the agent for its own numbers of memory profiles.
func (a *collector) heap(ctx context.Context) (heap.Stats, error) {
	var status struct {
		Heap heap.Stats `json:"heap"`
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.address+"/debug/", nil)
	if err != nil {
		return status.Heap, err
	}
	answer, err := http.DefaultClient.Do(q)
	if err != nil {
		return status.Heap, err
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(io.LimitReader(answer.Body, 4<<20)).Decode(&status); err != nil {
		return status.Heap, fmt.Errorf("reading the agent's status: %w", err)
	}
	return status.Heap, nil
}

// cost is what the agent has used since it had settled, and its memory now.
func (a *collector) cost() (cpu time.Duration, rssBytes int64, err error) {
	if cpu, err = running.CPUTime(a.PID()); err != nil {
		return 0, 0, err
	}
	rssBytes, err = running.RSSBytes(a.PID())
	return cpu - a.used, rssBytes, err
}

// await asks until the answer is yes, for a minute.
func (a *collector) await(ctx context.Context, what string, ask func() (bool, error)) error {
	for range 300 {
		if yes, err := ask(); err != nil || yes {
			return err
		}
		if err := running.Pause(ctx, a.Process, 200*time.Millisecond); err != nil {
			return err
		}
	}
	st, err := a.heap(ctx)
	if err != nil {
		return err
	}
	return fmt.Errorf("a minute has passed, but not: %s; the agent says: %d Go, %d JVM, %d native, without: %q", what, st.Go, st.JVM, st.Native, st.Reasons())
}
