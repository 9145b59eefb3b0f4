package main

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/perfuse/perfuse/agent"
)

const defaultRate = 19

// rateFlag is a number of samples per second.
type rateFlag int

func (r *rateFlag) String() string { return strconv.Itoa(int(*r)) }
func (r *rateFlag) Type() string   { return "hertz" }

func (r *rateFlag) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > 10000 {
		return errors.New("want a whole number from 1 to 10000")
	}
	*r = rateFlag(n)
	return nil
}

func agentCommand() *cobra.Command {
	var (
		o        agent.Options
		config   string
		http     string
		headers  []string
		logLevel string
	)
	rate := rateFlag(defaultRate)
	c := &cobra.Command{
		Use:   "agent",
		Short: "Profile this node and send what is seen to a server",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			leaner()
			logger, err := newLogger(logLevel)
			if err != nil {
				return err
			}
			file, err := agent.LoadConfig(config)
			if err != nil {
				return usageError{err}
			}
			if o.Address == "" {
				return usageError{errors.New("no server: give --remote-store-address HOST:7070, or use 'perfuse up' for one machine")}
			}
			if o.Headers, err = parseHeaders(headers); err != nil {
				return usageError{err}
			}
			if o.Node == "" {
				o.Node = file.Node
			}
			registry := newRegistry()
			o.Rate, o.Interval, o.BPFFS, o.Relabel = int(rate), file.Interval, file.BPFFS, file.RelabelConfigs
			o.Wakers = file.Wakers
			o.OffCPU, o.PageFaults, o.Heap = file.OffCPU, file.PageFaults, file.Heap
			o.Logger, o.Registerer, o.Version = logger, registry, version()
			if o.SpoolDir == "" {
				o.SpoolDir = defaultSpool()
			}
			a, err := agent.New(o)
			if err != nil {
				return err
			}
			defer a.Close()
			stop, err := a.ServeDebug(http, registry)
			if err != nil {
				return err
			}
			defer stop()
			return a.Run(c.Context())
		},
	}
	f := c.Flags()
	f.StringVar(&o.Node, "node", os.Getenv("PERFUSE_NODE"), "the value of the label node (default: the host's name)")
	f.StringVar(&o.Address, "remote-store-address", os.Getenv("PERFUSE_REMOTE_STORE_ADDRESS"), "the server, as HOST:PORT")
	f.BoolVar(&o.Insecure, "remote-store-insecure", false, "send in plain text instead of TLS")
	f.StringArrayVar(&headers, "remote-store-header", nil, "a header to send, as 'Authorization=Bearer TOKEN'; may be repeated")
	f.Var(&rate, "sampling-rate", "samples per second and CPU")
	f.StringVar(&o.SpoolDir, "spool-path", "", "directory that keeps what the server has not taken yet (default "+defaultSpool()+")")
	f.Int64Var(&o.SpoolMaxBytes, "spool-max-bytes", 256<<20, "how large it may become; the oldest goes first")
	f.StringVar(&config, "config", "", "configuration file (YAML): node, interval, off_cpu, wakers, page_faults, heap, relabel_configs")
	f.StringVar(&http, "http-address", "127.0.0.1:7071", "where /metrics, /healthz, /readyz and /debug/ are served; empty: nowhere")
	f.StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	return c
}

// leaner makes the garbage collector keep less: the agent's live memory is small and comes in bursts, and a
// node has better uses for the rest.
func leaner() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
}

func defaultSpool() string {
	if dir := os.Getenv("CACHE_DIRECTORY"); dir != "" { // set by systemd
		return dir
	}
	if os.Geteuid() == 0 {
		return "/var/cache/perfuse-agent"
	}
	return os.TempDir() + "/perfuse-agent-" + strconv.Itoa(os.Geteuid())
}

func parseHeaders(list []string) (map[string]string, error) {
	out := map[string]string{}
	for _, h := range list {
		name, value, ok := strings.Cut(h, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("header %q: want NAME=VALUE", h)
		}
		out[name] = value
	}
	return out, nil
}
