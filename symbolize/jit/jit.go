// Package jit names machine code that was generated at run time, from the perf map that its process writes:
// /tmp/perf-PID.map, lines of "START SIZE NAME" in hexadecimal (Documentation in the kernel's
// tools/perf/Documentation/jit-interface.txt).
//
// The file lives in the process's own mount namespace and carries the pid of its own pid namespace. It
// grows while it is read, and its text may be anything: a [Map] keeps a bounded number of entries, reads
// only what was appended, and skips what is no entry without a word. Code is moved and freed without
// notice, so a later entry wins over the earlier ones that it overlaps.
package jit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perfuse/perfuse/profile"
)

// Limits of one map. Large JVMs and Node processes reach some 100 000 entries and 20 MB.
const (
	maxEntries   = 1 << 20
	maxBytes     = 256 << 20 // of the file
	maxNameBytes = 4096
	maxNames     = 64 << 20 // all names together
	recheck      = time.Second
)

// Map is the perf map of one process. It may be used by several goroutines at once.
type Map struct {
	path string
	now  func() time.Time

	mu      sync.Mutex
	file    fileID // of which file offset is meant
	offset  int64  // up to where it has been read, always a line's beginning
	checked time.Time
	names   int // bytes
	entries []entry
	fresh   []entry // read, but not merged yet
	dropped int
}

type fileID struct{ dev, inode uint64 }

type entry struct {
	start, end uint64
	name       string
}

// Open looks for the perf map of a process. pid is the process id as the caller sees it and rootFS the way
// into the process's own root directory, usually /proc/PID/root. The name in the file's path is the pid
// that the process itself sees. The error is fs.ErrNotExist in the usual case that there is no map.
func Open(pid int, rootFS string) (*Map, error) {
	own := pid
	if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil {
		own = innermostPID(status, pid)
	}
	return OpenFile(filepath.Join(rootFS, "tmp", fmt.Sprintf("perf-%d.map", own)))
}

// OpenFile reads the perf map at path.
func OpenFile(path string) (*Map, error) {
	m := &Map{path: path, now: time.Now}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.read(); err != nil {
		return nil, fmt.Errorf("opening perf map: %w", err)
	}
	return m, nil
}

// Read reads a perf map that is complete: nothing is appended to it.
func Read(r io.Reader) (*Map, error) {
	m := &Map{now: time.Now}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.take(bufio.NewReaderSize(r, 64<<10)); err != nil {
		return nil, fmt.Errorf("reading perf map: %w", err)
	}
	return m, nil
}

// innermostPID takes the last number of the NSpid line: the pid in the process's own pid namespace.
func innermostPID(status []byte, fallback int) int {
	for line := range bytes.Lines(status) {
		rest, ok := bytes.CutPrefix(line, []byte("NSpid:"))
		if !ok {
			continue
		}
		if f := bytes.Fields(rest); len(f) > 0 {
			if n, err := strconv.Atoi(string(f[len(f)-1])); err == nil {
				return n
			}
		}
	}
	return fallback
}

// Lookup names the code at addr, an address of the process. If nothing covers it, the file is looked at
// again, at most once a second, and what has been appended is read.
func (m *Map) Lookup(addr profile.Addr) (name string, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if name, ok = m.find(uint64(addr)); ok {
		return name, true
	}
	if m.path == "" || m.now().Sub(m.checked) < recheck {
		return "", false
	}
	if err := m.read(); err != nil {
		return "", false // the process has ended or has taken the file away: what was read stays
	}
	return m.find(uint64(addr))
}

// Stats says how many entries are held and how many lines were beyond the limits or no entries.
func (m *Map) Stats() (entries, dropped int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.merge()
	return len(m.entries), m.dropped
}

func (m *Map) find(addr uint64) (string, bool) {
	m.merge()
	i, exact := slices.BinarySearchFunc(m.entries, addr, func(e entry, a uint64) int {
		switch {
		case e.start < a:
			return -1
		case e.start > a:
			return 1
		}
		return 0
	})
	if !exact {
		i--
	}
	if i < 0 || addr >= m.entries[i].end {
		return "", false
	}
	return m.entries[i].name, true
}

// read takes in what the file has beyond m.offset, whole lines only.
func (m *Map) read() error {
	m.checked = m.now()
	// Not blocking: somebody may have put a pipe there.
	f, err := os.OpenFile(m.path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return &fs.PathError{Op: "read", Path: m.path, Err: errors.New("not a regular file")}
	}
	var id fileID
	if sys, ok := st.Sys().(*unixStat); ok {
		id = fileID{uint64(sys.Dev), sys.Ino}
	}
	if id != m.file || st.Size() < m.offset {
		// Another file, or written anew: forget what the old one said.
		m.file, m.offset, m.entries, m.fresh, m.names = id, 0, nil, nil, 0
	}
	size := min(st.Size(), maxBytes)
	if size <= m.offset {
		return nil
	}
	n, err := m.take(bufio.NewReaderSize(io.NewSectionReader(f, m.offset, size-m.offset), 64<<10))
	m.offset += n
	return err
}

// take reads whole lines, up to the end or to a line without an end, which is still being written. It returns how many bytes they have.
func (m *Map) take(b *bufio.Reader) (taken int64, err error) {
	for {
		line, err := b.ReadSlice('\n')
		n := int64(len(line))
		long := errors.Is(err, bufio.ErrBufferFull)
		for errors.Is(err, bufio.ErrBufferFull) {
			var more []byte
			more, err = b.ReadSlice('\n')
			n += int64(len(more))
		}
		if err == io.EOF {
			return taken, nil
		}
		if err != nil {
			return taken, err
		}
		taken += n
		e, ok := parseLine(line)
		if long || !ok || len(m.entries)+len(m.fresh) >= maxEntries || m.names+len(e.name) > maxNames {
			m.dropped++
			continue
		}
		m.names += len(e.name)
		m.fresh = append(m.fresh, e)
	}
}

// parseLine reads "3ef414c0 398 name, which may hold blanks".
func parseLine(line []byte) (entry, bool) {
	line = bytes.TrimSpace(line)
	i := bytes.IndexByte(line, ' ')
	if i < 0 {
		return entry{}, false
	}
	rest := bytes.TrimLeft(line[i:], " ")
	j := bytes.IndexByte(rest, ' ')
	if j < 0 {
		return entry{}, false
	}
	start, ok1 := parseHex(line[:i])
	size, ok2 := parseHex(rest[:j])
	name := bytes.TrimSpace(rest[j:])
	if !ok1 || !ok2 || size == 0 || start+size < start || len(name) == 0 {
		return entry{}, false
	}
	if len(name) > maxNameBytes {
		name = name[:maxNameBytes]
	}
	return entry{start, start + size, javaMethod(strings.ToValidUTF8(string(name), "\uFFFD"))}, true
}

// javaMethod makes of "int java.lang.String.indexOf(int, int)", as HotSpot names its code, what Java's own profiles say:
// java.lang.String.indexOf. Other names stay.
func javaMethod(name string) string {
	before, ok := strings.CutSuffix(name, ")")
	before, _, inside := strings.Cut(before, "(")
	kind, method, typed := strings.Cut(before, " ")
	if !ok || !inside || !typed || kind == "" || strings.Contains(kind, ":") || !strings.Contains(method, ".") ||
		strings.HasPrefix(method, "/") || strings.ContainsAny(method, " :[]") {
		return name
	}
	dot := strings.LastIndexByte(method, '.')
	return profile.JavaClass(method[:dot]) + method[dot:]
}

func parseHex(b []byte) (uint64, bool) {
	s := string(bytes.TrimPrefix(bytes.TrimPrefix(b, []byte("0x")), []byte("0X")))
	v, err := strconv.ParseUint(s, 16, 64)
	return v, err == nil
}
