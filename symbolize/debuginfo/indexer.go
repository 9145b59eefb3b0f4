package debuginfo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/perfuse/perfuse/symbolize/elf"
	"github.com/perfuse/perfuse/symbolize/index"
	"github.com/perfuse/perfuse/symbolize/table"
)

type storeMetrics struct {
	uploads, uploadBytes, refused, indexed, failed, opens prometheus.Counter
	indexSeconds                                          prometheus.Histogram
}

func newStoreMetrics(r prometheus.Registerer) storeMetrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "perfuse_symbolize_" + name, Help: help})
		if r != nil {
			r.MustRegister(c)
		}
		return c
	}
	m := storeMetrics{
		uploads:     counter("uploads_total", "Files with debug information that were stored."),
		uploadBytes: counter("upload_bytes_total", "Their bytes after decompression."),
		refused:     counter("uploads_refused_total", "Uploads that were refused or broke off."),
		indexed:     counter("tables_built_total", "Symbol tables that were built."),
		failed:      counter("tables_failed_total", "Symbol tables that could not be built."),
		opens:       counter("table_opens_total", "Symbol tables that were mapped for look-ups."),
		indexSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "perfuse_symbolize_table_build_seconds", Help: "How long building a symbol table took.",
			Buckets: prometheus.ExponentialBuckets(0.01, 4, 8),
		}),
	}
	if r != nil {
		r.MustRegister(m.indexSeconds)
	}
	return m
}

// enqueue asks for the table of a build id.
func (s *Store) enqueue(id string) {
	s.mu.Lock()
	s.pending = append(s.pending, id)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Store) next() (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) == 0 {
		return "", false
	}
	id := s.pending[0]
	s.pending = s.pending[1:]
	return id, true
}

// Run builds tables until the context ends; then it finishes those that are being built.
func (s *Store) Run(ctx context.Context) error {
	var workers errgroup.Group
	workers.SetLimit(s.options.Workers)
	defer workers.Wait()
	for {
		for ctx.Err() == nil {
			id, ok := s.next()
			if !ok {
				break
			}
			workers.Go(func() error {
				s.index(id)
				return nil
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		}
	}
}

// index builds one table and records how it went.
func (s *Store) index(id string) {
	begun := s.options.Now()
	warning, err := s.buildTable(id)
	s.metrics.indexSeconds.Observe(s.options.Now().Sub(begun).Seconds())
	logger := level.Debug(s.options.Logger)
	s.mu.Lock()
	old, known := s.infos[id]
	s.mu.Unlock()
	if !known {
		return
	}
	info := *old
	info.Version = table.Version
	full := errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
	if full {
		// Not the upload's fault: it is tried again after a restart.
		info.Error = err.Error()
		logger = level.Warn(s.options.Logger)
	} else if err != nil {
		info.State, info.Error = Failed, err.Error()
		s.metrics.failed.Inc()
		logger = level.Warn(s.options.Logger)
	} else {
		info.State, info.Error = Indexed, ""
		if warning != nil {
			info.Error = warning.Error()
		}
		if st, err := os.Stat(s.path(id, ".symtab")); err == nil {
			info.TableBytes = st.Size()
		}
		s.metrics.indexed.Inc()
	}
	if !full && (s.options.DropUploads || err != nil) {
		// What failed is of no further use; the reason is kept.
		if os.Remove(s.path(id, ".elf")) == nil {
			info.Bytes = 0
		}
	}
	if werr := writeInfo(s.path(id, ".json"), &info); werr != nil {
		// The state on disk is older: the table will be built once more after a restart.
		level.Warn(s.options.Logger).Log("msg", "writing the state of debug information", "build_id", id, "err", werr)
	}
	s.mu.Lock()
	s.bytes += info.Bytes + info.TableBytes - old.Bytes - old.TableBytes
	s.infos[id] = &info
	s.mu.Unlock()
	logger.Log("msg", "symbol table", "build_id", id, "file", info.File, "state", info.State, "bytes", info.Bytes, "table_bytes", info.TableBytes, "took", s.options.Now().Sub(begun).Round(time.Millisecond), "err", info.Error)
}

func (s *Store) buildTable(id string) (warning, err error) {
	f, err := elf.Open(s.path(id, ".elf"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s.tables.forget(id)
	return index.Build(s.path(id, ".symtab"), s.options.Dir, index.Files{File: f})
}

// rebuild reacts to a table that cannot be opened: it is built again from the upload if that is still there.
func (s *Store) rebuild(id string, cause error) {
	level.Warn(s.options.Logger).Log("msg", "symbol table is unusable, building it again", "build_id", id, "err", cause)
	s.mu.Lock()
	info, ok := s.infos[id]
	if !ok || info.State != Indexed {
		s.mu.Unlock()
		return
	}
	if info.Bytes == 0 {
		// Nothing to build it from: forget it, so that it is wanted again.
		delete(s.infos, id)
		s.bytes -= info.TableBytes
		s.mu.Unlock()
		_ = os.Remove(s.path(id, ".json"))
		_ = os.Remove(s.path(id, ".symtab"))
		return
	}
	changed := *info
	changed.State = Uploaded
	s.infos[id] = &changed
	s.mu.Unlock()
	s.enqueue(id)
}

// maxInfo bounds a state file.
const maxInfo = 64 << 10

func readInfo(path string) (*Info, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxInfo))
	if err != nil {
		return nil, err
	}
	var i Info
	if err := json.Unmarshal(b, &i); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	switch i.State {
	case Uploaded, Indexed, Failed:
	default:
		return nil, fmt.Errorf("reading %s: unknown state %q", path, i.State)
	}
	return &i, nil
}

func writeInfo(path string, i *Info) (err error) {
	changed := *i
	if len(changed.Error) > 4096 {
		changed.Error = changed.Error[:4096]
	}
	b, err := json.Marshal(&changed)
	if err != nil {
		return err
	}
	t, err := os.CreateTemp(filepath.Dir(path), "state-*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(t.Name())
		}
	}()
	_, err = t.Write(b)
	err = errors.Join(err, t.Sync(), t.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(t.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
