// Package disktest has a file system in memory that knows what is durable: it fails on demand, and gives the
// disk that a crash at this moment would leave.
//
// It is as unkind as real ones: a write that fails has written half; a Sync that fails forgets which bytes it
// still owes, so that a later Sync succeeds without them (they read as zeros after a crash); a crash may keep
// any beginning of what was appended and not synced, and any of the names that were not.
package disktest

import (
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/perfuse/perfuse/storage/disk"
)

// Op names an operation.
type Op string

// The operations that can fail.
const (
	Create   Op = "create"
	Open     Op = "open"
	Read     Op = "read"
	Write    Op = "write"
	Sync     Op = "sync"
	Truncate Op = "truncate"
	Remove   Op = "remove"
	Rename   Op = "rename"
	Mkdir    Op = "mkdir"
	List     Op = "list"
	SyncDir  Op = "syncdir"
)

// Mutates says whether an operation changes the disk.
func (op Op) Mutates() bool { return op != Open && op != Read && op != List }

// FS is a file system in memory. Use New.
type FS struct {
	mu      sync.Mutex
	names   map[string]*node // as a process sees it
	durable map[string]*node // as a crash leaves it
	dirs    map[string]bool
	fault   func(Op, string) error
}

type node struct {
	data   []byte
	synced []byte
	owed   []span // bytes that a failed Sync forgot
}

type span struct{ from, to int64 }

// New returns an empty file system.
func New() *FS {
	return &FS{names: map[string]*node{}, durable: map[string]*node{}, dirs: map[string]bool{}}
}

// Fail makes fault decide before every operation whether it fails. The function is called by one goroutine at
// a time and must not use the file system. Nil ends it.
func (f *FS) Fail(fault func(op Op, name string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = fault
}

// Kill returns the disk as a new process finds it after kill -9: everything that was written is there.
func (f *FS) Kill() *FS {
	return f.image(func(n *node, _ string) *node {
		return &node{data: slices.Clone(n.data), synced: slices.Clone(n.synced)}
	}, true)
}

// Crash returns the disk after the power failed: what was synced, and, if rnd is not nil, any of what was not.
func (f *FS) Crash(rnd *rand.Rand) *FS {
	return f.image(func(n *node, _ string) *node {
		data := slices.Clone(n.synced)
		if rnd != nil && len(n.data) > len(data) {
			data = append(data, n.data[len(data):len(data)+rnd.IntN(len(n.data)-len(data)+1)]...)
			if rnd.IntN(4) == 0 { // the size became durable before the bytes
				data = append(data, make([]byte, rnd.IntN(64))...)
			}
		}
		return &node{data: data, synced: slices.Clone(data)}
	}, rnd != nil && rnd.IntN(2) == 0)
}

func (f *FS) image(copyOf func(*node, string) *node, unsyncedNames bool) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := New()
	from := f.durable
	if unsyncedNames {
		from = f.names
	}
	for _, name := range sortedNames(from) {
		out.names[name] = copyOf(from[name], name)
		out.durable[name] = out.names[name]
	}
	for d := range f.dirs {
		out.dirs[d] = true
	}
	return out
}

func sortedNames(m map[string]*node) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// Bytes returns the content of a file, nil if there is none. Set replaces it, durably.
func (f *FS) Bytes(name string) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.names[clean(name)]; n != nil {
		return slices.Clone(n.data)
	}
	return nil
}

// Set makes a file hold data, durably.
func (f *FS) Set(name string, data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := &node{data: slices.Clone(data), synced: slices.Clone(data)}
	f.names[clean(name)], f.durable[clean(name)] = n, n
	f.dirs[path.Dir(clean(name))] = true
}

func clean(name string) string { return path.Clean(filepath.ToSlash(name)) }

func (f *FS) check(op Op, name string) error {
	if f.fault == nil {
		return nil
	}
	if err := f.fault(op, clean(name)); err != nil {
		return &fs.PathError{Op: string(op), Path: name, Err: err}
	}
	return nil
}

// Create implements disk.FS.
func (f *FS) Create(name string) (disk.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.check(Create, name); err != nil {
		return nil, err
	}
	name = clean(name)
	if f.names[name] != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	if !f.dirs[path.Dir(name)] {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrNotExist}
	}
	f.names[name] = &node{}
	return &file{f, name, f.names[name]}, nil
}

// Open implements disk.FS.
func (f *FS) Open(name string) (disk.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.check(Open, name); err != nil {
		return nil, err
	}
	n := f.names[clean(name)]
	if n == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &file{f, clean(name), n}, nil
}

// Remove implements disk.FS.
func (f *FS) Remove(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.check(Remove, name); err != nil {
		return err
	}
	if f.names[clean(name)] == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	delete(f.names, clean(name))
	return nil
}

// Rename implements disk.FS.
func (f *FS) Rename(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.check(Rename, to); err != nil {
		return err
	}
	n := f.names[clean(from)]
	if n == nil {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	delete(f.names, clean(from))
	f.names[clean(to)] = n
	return nil
}

// MkdirAll implements disk.FS.
func (f *FS) MkdirAll(dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.check(Mkdir, dir); err != nil {
		return err
	}
	for d := clean(dir); !f.dirs[d]; d = path.Dir(d) {
		f.dirs[d] = true
	}
	return nil
}

// List implements disk.FS.
func (f *FS) List(dir string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.check(List, dir); err != nil {
		return nil, err
	}
	dir = clean(dir)
	if !f.dirs[dir] {
		return nil, &fs.PathError{Op: "list", Path: dir, Err: fs.ErrNotExist}
	}
	var out []string
	for name := range f.names {
		if path.Dir(name) == dir {
			out = append(out, path.Base(name))
		}
	}
	for d := range f.dirs {
		if d != dir && path.Dir(d) == dir {
			out = append(out, path.Base(d))
		}
	}
	sort.Strings(out)
	return out, nil
}

// SyncDir implements disk.FS.
func (f *FS) SyncDir(dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.check(SyncDir, dir); err != nil {
		return err
	}
	dir = clean(dir) + "/"
	in := func(name string) bool { return strings.HasPrefix(name, dir) && !strings.Contains(name[len(dir):], "/") }
	for name := range f.durable {
		if in(name) && f.names[name] == nil {
			delete(f.durable, name)
		}
	}
	for name, n := range f.names {
		if in(name) {
			f.durable[name] = n
		}
	}
	return nil
}

type file struct {
	fs   *FS
	name string
	n    *node
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.check(Read, f.name); err != nil {
		return 0, err
	}
	if off < 0 || off >= int64(len(f.n.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	err := f.fs.check(Write, f.name)
	if err != nil {
		p = p[:len(p)/2]
	}
	if need := off + int64(len(p)) - int64(len(f.n.data)); need > 0 {
		f.n.data = append(f.n.data, make([]byte, need)...)
	}
	copy(f.n.data[off:], p)
	f.n.owed = without(f.n.owed, span{off, off + int64(len(p))})
	return len(p), err
}

// without returns the parts of spans outside of cut.
func without(spans []span, cut span) []span {
	var out []span
	for _, s := range spans {
		for _, r := range []span{{s.from, min(s.to, cut.from)}, {max(s.from, cut.to), s.to}} {
			if r.from < r.to {
				out = append(out, r)
			}
		}
	}
	return out
}

func (f *file) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.check(Sync, f.name); err != nil {
		if from, to := int64(len(f.n.synced)), int64(len(f.n.data)); from < to {
			f.n.owed = append(f.n.owed, span{from, to})
		}
		return err
	}
	f.n.synced = slices.Clone(f.n.data)
	for _, s := range f.n.owed {
		clear(f.n.synced[s.from:min(s.to, int64(len(f.n.synced)))])
	}
	return nil
}

func (f *file) Truncate(size int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.check(Truncate, f.name); err != nil {
		return err
	}
	if size > int64(len(f.n.data)) {
		f.n.data = append(f.n.data, make([]byte, size-int64(len(f.n.data)))...)
	} else {
		f.n.data = f.n.data[:size]
	}
	f.n.owed = without(f.n.owed, span{size, 1<<63 - 1})
	return nil
}

func (f *file) Size() (int64, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return int64(len(f.n.data)), nil
}

func (f *file) Close() error { return nil }

func (f *FS) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	for _, name := range sortedNames(f.names) {
		fmt.Fprintf(&b, "%s %d (%d synced)\n", name, len(f.names[name].data), len(f.names[name].synced))
	}
	return b.String()
}
