package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"

	"github.com/perfuse/perfuse/server"
	"github.com/perfuse/perfuse/storage/frost"
	"github.com/perfuse/perfuse/symbolize/debuginfo"
	"github.com/perfuse/perfuse/web"
)

// serverFlags are what `up` and `server` share.
type serverFlags struct {
	http, storage, config string
	logLevel              string
}

func (f *serverFlags) register(c *cobra.Command, configNames ...string) {
	c.Flags().StringVar(&f.http, "http-address", "", "where the page and all APIs are served (default 127.0.0.1:7070)")
	c.Flags().StringVar(&f.storage, "storage-path", "", "directory for profiles and symbols (default "+defaultStorage()+")")
	for _, n := range configNames {
		c.Flags().StringVar(&f.config, n, "", "configuration file (YAML)")
	}
	c.Flags().StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
}

// settings joins file, environment and flags; the latter win.
func (f *serverFlags) settings() (server.Config, error) {
	c, err := server.LoadConfig(f.config)
	if err != nil {
		return server.Config{}, usageError{err}
	}
	if f.http != "" {
		c.HTTPAddress = f.http
	}
	if f.storage != "" {
		c.Storage.Path = f.storage
	}
	if c.Storage.Path == "" {
		c.Storage.Path = defaultStorage()
	}
	return c, nil
}

// defaultStorage is the state directory of a service, or of a user.
func defaultStorage() string {
	if dir := os.Getenv("STATE_DIRECTORY"); dir != "" { // set by systemd
		return dir
	}
	if os.Geteuid() == 0 {
		return "/var/lib/perfuse"
	}
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "perfuse")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "state", "perfuse")
	}
	return "perfuse-data"
}

func newLogger(lvl string) (log.Logger, error) {
	l := log.NewLogfmtLogger(log.NewSyncWriter(os.Stderr))
	v, err := level.Parse(lvl)
	if err != nil {
		return nil, usageError{fmt.Errorf("unknown log level %q: want debug, info, warn or error", lvl)}
	}
	return log.With(level.NewFilter(l, level.Allow(v)), "ts", log.DefaultTimestampUTC), nil
}

func newRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

func serverCommand() *cobra.Command {
	var f serverFlags
	c := &cobra.Command{
		Use:   "server",
		Short: "Take profiles in, keep them, answer queries",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			logger, err := newLogger(f.logLevel)
			if err != nil {
				return err
			}
			settings, err := f.settings()
			if err != nil {
				return err
			}
			s, err := newServer(settings, logger, newRegistry(), nil)
			if err != nil {
				return err
			}
			return s.Run(c.Context())
		},
	}
	f.register(c, "config-path", "config")
	return c
}

// newServer takes the ports; Run opens the store.
func newServer(c server.Config, logger log.Logger, registry *prometheus.Registry, status map[string]func() any) (*server.Server, error) {
	return server.New(server.Options{
		HTTPAddress:    c.HTTPAddress,
		OTLPAddresses:  c.OTLPAddresses,
		AllowedHosts:   c.AllowedHosts,
		Limits:         c.Limits,
		DropAttributes: c.Ingest.DropAttributes,
		Page:           web.Handler(),
		Logger:         logger,
		Registry:       registry,
		Settings:       c,
		Status:         status,
		Open: func(context.Context) (server.Backends, error) {
			return openBackends(c, logger, registry)
		},
	})
}

// openBackends opens the store of profiles and that of symbols, both below the storage path.
func openBackends(c server.Config, logger log.Logger, registry *prometheus.Registry) (server.Backends, error) {
	retention := c.Storage.Retention.Retention()
	store, err := frost.New(frost.Options{
		Dir:            filepath.Join(c.Storage.Path, "profiles"),
		Logger:         logger,
		Registerer:     registry,
		Retention:      retention,
		RetentionBytes: c.Storage.MaxBytes,
	})
	if err != nil {
		return server.Backends{}, fmt.Errorf("opening the store: %w", err)
	}
	symbols, err := debuginfo.NewStore(debuginfo.StoreOptions{
		Dir: filepath.Join(c.Storage.Path, "debuginfo"),
		// A table is a fraction of what it was built from, and agents upload again what is wanted again.
		DropUploads: true,
		Logger:      logger,
		Registry:    registry,
	})
	if err != nil {
		return server.Backends{}, errors.Join(fmt.Errorf("opening the store of symbols: %w", err), store.Close())
	}
	return server.Backends{Store: store, Resolver: symbols, Debuginfo: symbols, Run: symbols.Run, Close: symbols.Close}, nil
}
