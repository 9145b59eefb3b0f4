package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/perfuse/perfuse/agent"
	"github.com/perfuse/perfuse/server"
)

func upCommand() *cobra.Command {
	var f serverFlags
	rate := rateFlag(defaultRate)
	c := &cobra.Command{
		Use:   "up",
		Short: "Profile this machine and show it: agent and server in one process",
		Long: "Profiles every process on this machine and serves the page at http://127.0.0.1:7070.\n" +
			"Without the privileges that profiling needs it still serves what is stored.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			logger, err := newLogger(f.logLevel)
			if err != nil {
				return err
			}
			settings, err := f.settings()
			if err != nil {
				return err
			}
			return up(c.Context(), settings, int(rate), logger)
		},
	}
	f.register(c, "config", "config-path")
	c.Flags().Var(&rate, "sampling-rate", "samples per second and CPU")
	return c
}

// up runs the server and, where it may, the agent, until ctx ends or one of them fails.
func up(ctx context.Context, c server.Config, rate int, logger log.Logger) error {
	registry := newRegistry()
	config, err := agent.ParseConfig(c.Agent)
	if err != nil {
		return usageError{fmt.Errorf("reading the configuration's section agent: %w", err)}
	}
	var node *agent.Agent
	s, err := newServer(c, logger, registry, map[string]func() any{
		"agent": func() any {
			if node == nil {
				return "not running: see the log"
			}
			return node.Status()
		},
	})
	if err != nil {
		return err
	}
	defer s.Close()
	node, err = newAgent(config, s.Addr(), c.Storage.Path, rate, logger, registry)
	if err != nil {
		level.Warn(logger).Log("msg", "profiling is off, what is stored is served; 'perfuse doctor' says more", "err", err)
	} else {
		defer node.Close()
	}

	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	var wait sync.WaitGroup
	var serverErr error
	wait.Go(func() {
		serverErr = s.Run(serving)
		stop(errStopped) // the agent has nowhere to send to
	})
	if node != nil {
		err = node.Run(ctx)
	} else {
		<-ctx.Done()
		err = nil
	}
	// The agent has handed over its last batch: now the server may go.
	stopServing()
	wait.Wait()
	return errors.Join(serverErr, err)
}

// errStopped ends the agent when the server has ended.
var errStopped = errors.New("the server has stopped")

// newAgent makes the agent that sends to the server in the same process.
func newAgent(c agent.Config, address string, storage string, rate int, logger log.Logger, registry *prometheus.Registry) (*agent.Agent, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return agent.New(agent.Options{
		Node:       c.Node,
		Address:    net.JoinHostPort(host, port),
		Insecure:   true,
		Rate:       rate,
		Interval:   c.Interval,
		BPFFS:      c.BPFFS,
		OffCPU:     c.OffCPU,
		Wakers:     c.Wakers,
		PageFaults: c.PageFaults,
		Heap:       c.Heap,
		Relabel:    c.RelabelConfigs,
		SpoolDir:   filepath.Join(storage, "spool"),
		Version:    version(),
		WithServer: true,
		Logger:     log.With(logger, "part", "agent"),
		Registerer: registry,
	})
}
