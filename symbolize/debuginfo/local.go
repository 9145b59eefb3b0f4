package debuginfo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/perfuse/perfuse/profile"
	"github.com/perfuse/perfuse/symbolize"
	"github.com/perfuse/perfuse/symbolize/elf"
	"github.com/perfuse/perfuse/symbolize/index"
	"github.com/perfuse/perfuse/symbolize/table"
)

// LocalOptions configure a Local; the zero value works.
type LocalOptions struct {
	// Dir is where tables are built; the default is a new temporary directory, removed by Close.
	Dir string
	// DebugDirs are searched for split debug files, in the file's own root and in ours. The default is
	// /usr/lib/debug.
	DebugDirs []string
}

// Local resolves addresses in files of this machine: add each executable as it is seen, resolve at the
// end. It is a symbolize.Resolver and may be used by several goroutines at once.
type Local struct {
	options LocalOptions
	ownDir  bool

	mu    sync.Mutex
	files map[string]*localFile
}

type localFile struct {
	mu         sync.Mutex
	handle     *os.File // until the table is built
	content    []byte   // instead of a handle
	path, root string
	table      *table.Table
	warning    error
	err        error
	done       bool
}

// NewLocal returns a resolver that knows no file yet.
func NewLocal(o LocalOptions) (*Local, error) {
	l := &Local{options: o, files: map[string]*localFile{}}
	if l.options.Dir == "" {
		dir, err := os.MkdirTemp("", "perfuse-symbols-")
		if err != nil {
			return nil, fmt.Errorf("creating a place for symbol tables: %w", err)
		}
		l.options.Dir, l.ownDir = dir, true
	}
	if l.options.DebugDirs == nil {
		l.options.DebugDirs = []string{defaultDebugDir}
	}
	return l, nil
}

// Add makes the file known that the build id names: path as its process sees it, root the way to that
// process's root directory (/proc/PID/root; "" for our own). The file is opened now, so that it can be read
// when the process has ended, and read when it is first asked about. To add a build id again is cheap and
// changes nothing.
func (l *Local) Add(buildID, path, root string) error {
	if l.Has(buildID) {
		return nil
	}
	h, err := openRegular(filepath.Join(root, path))
	if err != nil {
		return fmt.Errorf("adding %s: %w", path, err)
	}
	return l.AddFile(buildID, path, root, h)
}

// AddFile is Add for a file that is open already. The Local takes and closes it.
func (l *Local) AddFile(buildID, path, root string, h *os.File) error {
	if err := l.add(buildID, &localFile{handle: h, path: path, root: root}); err != nil {
		h.Close()
		return err
	}
	return nil
}

// AddBytes is Add for what is no file, such as the vDSO. content must not change afterwards.
func (l *Local) AddBytes(buildID, path string, content []byte) error {
	return l.add(buildID, &localFile{content: content, path: path})
}

func (l *Local) add(buildID string, f *localFile) error {
	if !isBuildID(buildID) {
		return fmt.Errorf("adding %s: %w", f.path, badBuildID(buildID))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.files == nil {
		return fmt.Errorf("adding %s: closed", f.path)
	}
	if _, ok := l.files[buildID]; ok {
		if f.handle != nil {
			f.handle.Close()
		}
		return nil
	}
	l.files[buildID] = f
	return nil
}

// Has says whether the build id is known.
func (l *Local) Has(buildID string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.files[buildID]
	return ok
}

// Resolve implements symbolize.Resolver.
func (l *Local) Resolve(ctx context.Context, buildID string, addrs []profile.Addr) ([][]symbolize.Source, error) {
	l.mu.Lock()
	f := l.files[buildID]
	l.mu.Unlock()
	if f == nil {
		return nil, fmt.Errorf("resolving addresses of %s: %w", buildID, symbolize.ErrNoDebugInfo)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	if !f.done {
		f.table, f.warning, f.err = l.build(buildID, f)
		f.done = true
	}
	t, err := f.table, f.err
	f.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("resolving addresses of %s: %w", f.path, err)
	}
	return lookup(t, addrs), nil
}

func lookup(t *table.Table, addrs []profile.Addr) [][]symbolize.Source {
	out := make([][]symbolize.Source, len(addrs))
	for i, a := range addrs {
		out[i] = t.Lookup(a, nil)
	}
	return out
}

func (l *Local) build(buildID string, lf *localFile) (t *table.Table, warning, err error) {
	var f *elf.File
	if lf.handle != nil {
		defer func() {
			lf.handle.Close()
			lf.handle = nil
		}()
		// The path may show another file by now.
		got, err := elf.BuildID(lf.handle)
		if err != nil {
			return nil, nil, err
		}
		if got != buildID {
			return nil, nil, fmt.Errorf("%w: the file has build id %s now", symbolize.ErrNoDebugInfo, got)
		}
		f, err = elf.OpenFile(lf.handle)
		if err != nil {
			return nil, nil, errors.Join(symbolize.ErrNoDebugInfo, err)
		}
	} else {
		f, err = elf.NewBytes(lf.content)
		if err != nil {
			return nil, nil, errors.Join(symbolize.ErrNoDebugInfo, err)
		}
	}
	files := findFiles(f, lf.path, lf.root, l.options.DebugDirs)
	defer files.Close()
	path := filepath.Join(l.options.Dir, buildID+".symtab")
	if warning, err = index.Build(path, l.options.Dir, files); err != nil {
		return nil, warning, err
	}
	t, err = table.Open(path)
	return t, warning, err
}

// Warning says what could not be read of a file that was resolved all the same, or nil.
func (l *Local) Warning(buildID string) error {
	l.mu.Lock()
	f := l.files[buildID]
	l.mu.Unlock()
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.warning
}

// Close forgets all files and removes the tables, if their directory is its own.
func (l *Local) Close() error {
	l.mu.Lock()
	files := l.files
	l.files = nil
	l.mu.Unlock()
	var errs []error
	for _, f := range files {
		f.mu.Lock()
		if f.handle != nil {
			f.handle.Close()
			f.handle = nil
		}
		if f.table != nil {
			errs = append(errs, f.table.Close())
		}
		f.done, f.table, f.err = true, nil, symbolize.ErrNoDebugInfo
		f.mu.Unlock()
	}
	if l.ownDir {
		errs = append(errs, os.RemoveAll(l.options.Dir))
	}
	return errors.Join(errs...)
}
