package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"

	"github.com/perfuse/perfuse/server"
	"github.com/perfuse/perfuse/server/sources"
	"github.com/perfuse/perfuse/storage/frost"
	"github.com/perfuse/perfuse/symbolize/debuginfo"
	"github.com/perfuse/perfuse/web"
)

// serverFlags are what `up` and `server` share.
type serverFlags struct {
	http, storage, config string
	bucket                string
	sources               []string
	retention             server.Retention
	logLevel              string
}

func (f *serverFlags) register(c *cobra.Command, configNames ...string) {
	c.Flags().StringVar(&f.http, "http-address", "", "where the page and all APIs are served (default 127.0.0.1:7070)")
	c.Flags().StringVar(&f.storage, "storage-path", "", "directory for profiles and symbols (default "+defaultStorage()+")")
	c.Flags().StringVar(&f.bucket, "storage-bucket-config", "", "`file` that says which object storage gets a copy (YAML: type, config; as Thanos has it)")
	c.Flags().TextVar(&f.retention, "storage-retention", server.Retention(0), "how `long` profiles are kept, as in 36h, 30d or 2w; 0 for ever (default 15d)")
	c.Flags().StringArrayVar(&f.sources, "source-path", nil, "`directory` of source files that the page may show to everybody who can ask it, or PREFIX=DIRECTORY\nwhere PREFIX is how their paths begin in debug information; may be repeated")
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
	if f.retention != 0 {
		c.Storage.Retention = f.retention
	}
	if len(f.sources) > 0 {
		c.Sources = nil
		for _, text := range f.sources {
			c.Sources = append(c.Sources, sources.Parse(text))
		}
	}
	if f.bucket != "" {
		if c.Storage.Bucket, err = server.LoadBucket(f.bucket); err != nil {
			return server.Config{}, usageError{err}
		}
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

const serverHelp = `Takes profiles in, keeps them and answers queries. What can be set is in the configuration file:

  http_address: 127.0.0.1:7070
  storage:
    path: /var/lib/perfuse
    retention: 15d                    # 0: for ever
    retention_rules:                  # the first that matches a series goes before retention
      - {selector: '{namespace="dev"}', age: 3d}
    max_bytes: 0                      # of all blocks; the oldest go first; 0: no bound
    head_bytes: 67108864              # a block is made of what is in memory when it is as large,
    head_age: 2h                      # or as old
    bucket:                           # object storage gets a copy, and an empty disk is filled from it
      type: S3                        # or FILESYSTEM, GCS, AZURE
      config: {bucket: profiles, endpoint: s3.example.com, access_key: ..., secret_key: ...}

Each key has an environment variable that goes before it, PERFUSE_STORAGE_RETENTION for storage.retention, and
flags go before both. PERFUSE_STORAGE_BUCKET and PERFUSE_STORAGE_RETENTION_RULES hold YAML. The settings in force
are shown at /debug/config, without secrets; blocks, sizes and cardinalities at /debug/storage.`

func serverCommand() *cobra.Command {
	var f serverFlags
	c := &cobra.Command{
		Use:   "server",
		Short: "Take profiles in, keep them, answer queries",
		Long:  serverHelp,
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
	o := c.Options()
	o.Page, o.Logger, o.Registry, o.Status = web.Handler(), logger, registry, status
	o.Open = func(context.Context) (server.Backends, error) {
		return openBackends(c, logger, registry)
	}
	return server.New(o)
}

// openBackends opens the store of profiles and that of symbols, both below the storage path.
func openBackends(c server.Config, logger log.Logger, registry *prometheus.Registry) (server.Backends, error) {
	o, err := c.Storage.Options()
	if err != nil {
		return server.Backends{}, err
	}
	if o.MaxFrames = int(c.Limits.OrDefault().AnswerFrames); o.MaxFrames < 0 {
		o.MaxFrames = math.MaxInt
	}
	o.Dir, o.Logger, o.Registerer = filepath.Join(c.Storage.Path, "profiles"), logger, registry
	closeBucket := func() error { return nil }
	if !c.Storage.Bucket.IsZero() {
		if o.Bucket, err = c.Storage.Bucket.Open(logger); err != nil {
			return server.Backends{}, err
		}
		closeBucket = o.Bucket.Close
	}
	store, err := frost.New(o)
	if err != nil {
		return server.Backends{}, errors.Join(fmt.Errorf("opening the store: %w", err), closeBucket())
	}
	symbols, err := debuginfo.NewStore(debuginfo.StoreOptions{
		Dir: filepath.Join(c.Storage.Path, "debuginfo"),
		// A table is a fraction of what it was built from, and agents upload again what is wanted again.
		DropUploads: true,
		Logger:      logger,
		Registry:    registry,
	})
	if err != nil {
		return server.Backends{}, errors.Join(fmt.Errorf("opening the store of symbols: %w", err), store.Close(), closeBucket())
	}
	closeAll := func() error { return errors.Join(symbols.Close(), closeBucket()) }
	return server.Backends{Store: store, Resolver: symbols, Debuginfo: symbols, Run: symbols.Run, Close: closeAll}, nil
}
