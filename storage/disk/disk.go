// Package disk is the little of a file system that storage needs, as an interface, so that tests can make any
// operation fail and take an image of the disk at any moment. [OS] is the real one; disktest has the other.
//
// What is durable when: a file's bytes after its Sync, its name after SyncDir of its directory. Nothing else
// may be relied on.
package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// File is an open file. Writes and reads are at offsets; they are safe for concurrent use.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Sync returns when the file's bytes and size are durable.
	Sync() error
	Truncate(size int64) error
	Size() (int64, error)
}

// FS is a file system. Names are paths as the operating system writes them. Errors wrap fs.ErrNotExist and
// fs.ErrExist.
type FS interface {
	// Create makes a file that must not exist.
	Create(name string) (File, error)
	// Open opens a file for reading and writing.
	Open(name string) (File, error)
	Remove(name string) error
	// Rename replaces to if it exists.
	Rename(from, to string) error
	MkdirAll(dir string) error
	// List returns the names in dir, sorted.
	List(dir string) ([]string, error)
	// SyncDir returns when what was created, renamed and removed in dir is durable.
	SyncDir(dir string) error
}

// OS is the operating system's file system.
var OS FS = osFS{}

type osFS struct{}

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

func (osFS) Create(name string) (File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFS) Open(name string) (File, error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFS) Remove(name string) error     { return os.Remove(name) }
func (osFS) Rename(from, to string) error { return os.Rename(from, to) }
func (osFS) MkdirAll(dir string) error    { return os.MkdirAll(dir, 0o755) }

func (osFS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

func (osFS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}

// Free returns how many bytes can still be written below dir, where that is known.
func Free(fsys FS, dir string) (int64, bool) {
	if f, ok := fsys.(interface{ Free(string) (int64, error) }); ok {
		n, err := f.Free(dir)
		return n, err == nil
	}
	return 0, false
}

// Free is what an unprivileged process may still write.
func (osFS) Free(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

// WriteFile makes name hold what write writes, durably and all at once: after a crash there is the old file
// or the new one. It writes to name.tmp, which it replaces.
func WriteFile(fsys FS, dir, name string, write func(io.Writer) error) (err error) {
	path, tmp := dir+"/"+name, dir+"/"+name+".tmp"
	if err := fsys.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing %s: %w", tmp, err)
	}
	f, err := fsys.Create(tmp)
	if err != nil {
		return fmt.Errorf("creating %s: %w", tmp, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("writing %s: %w", path, err), fsys.Remove(tmp))
		}
	}()
	if err := write(&sequential{f: f}); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := fsys.Rename(tmp, path); err != nil {
		return err
	}
	return fsys.SyncDir(dir)
}

// sequential writes a file from its beginning.
type sequential struct {
	f   File
	off int64
}

func (s *sequential) Write(p []byte) (int, error) {
	n, err := s.f.WriteAt(p, s.off)
	s.off += int64(n)
	return n, err
}
