package process

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits of what is read from one file of /proc.
const (
	maxMapsBytes    = 32 << 20
	maxEnvironBytes = 1 << 20
	maxStatBytes    = 4 << 10
)

// stat is what matters of /proc/PID/stat.
type stat struct {
	comm   string
	state  byte
	parent PID
	kernel bool
	// ending: the main thread has ended or is about to; its memory is or will be gone.
	ending  bool
	threads int
	// startTicks counts USER_HZ (100 a second) since boot, suspended time included.
	startTicks uint64
}

// Flags of a task (include/linux/sched.h).
const (
	flagExiting      = 0x00000004 // PF_EXITING
	flagKernelThread = 0x00200000 // PF_KTHREAD
)

var errStat = errors.New("unexpected format")

// parseStat reads /proc/PID/stat (proc_pid_stat(5)). The comm may hold any byte, also ") ": the last ')' ends it.
func parseStat(b []byte) (stat, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return stat{}, errStat
	}
	f := strings.Fields(string(b[end+1:]))
	if len(f) < 20 {
		return stat{}, errStat
	}
	s := stat{comm: string(b[open+1 : end]), state: f[0][0]}
	parent, err1 := strconv.ParseUint(f[1], 10, 32)
	flags, err2 := strconv.ParseUint(f[6], 10, 64)
	threads, err3 := strconv.ParseUint(f[17], 10, 31)
	start, err4 := strconv.ParseUint(f[19], 10, 64)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return stat{}, err
	}
	s.parent, s.kernel, s.threads, s.startTicks = PID(parent), flags&flagKernelThread != 0, int(threads), start
	s.ending = flags&flagExiting != 0 || s.state == 'Z' || s.state == 'X'
	return s, nil
}

// parseMaps calls f with every executable mapping in the bytes of /proc/PID/maps, in the form in which the
// kernel's own records report it: memory without a file is "//anon", and its offset is 0. Lines that make no
// sense are skipped.
func parseMaps(b []byte, f func(m Mapping, path []byte)) {
	for len(b) > 0 {
		line := b
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			line, b = b[:i], b[i+1:]
		} else {
			b = nil
		}
		m, path, ok := parseMapsLine(line)
		if ok {
			f(m, path)
		}
	}
}

var (
	anonymous = []byte("//anon")
	vsyscall  = []byte("[vsyscall]")
)

// parseMapsLine reads START-END PERMS OFFSET MAJOR:MINOR INODE PATH; the path begins after the padding and
// goes to the end of the line, spaces included. ok is false for what is not executable.
func parseMapsLine(line []byte) (m Mapping, path []byte, ok bool) {
	rest := line
	field := func(sep byte) []byte {
		i := bytes.IndexByte(rest, sep)
		if i < 0 {
			f := rest
			rest = nil
			return f
		}
		f := rest[:i]
		rest = rest[i+1:]
		return f
	}
	start, ok1 := parseHex(field('-'))
	end, ok2 := parseHex(field(' '))
	perms := field(' ')
	offset, ok3 := parseHex(field(' '))
	major, ok4 := parseHex(field(':'))
	minor, ok5 := parseHex(field(' '))
	inode, err := strconv.ParseUint(string(field(' ')), 10, 64)
	if !ok1 || !ok2 || !ok3 || !ok4 || !ok5 || err != nil || len(perms) < 4 || start >= end || perms[2] != 'x' {
		return Mapping{}, nil, false
	}
	path = bytes.TrimLeft(rest, " ")
	if bytes.Equal(path, vsyscall) {
		return Mapping{}, nil, false // the kernel's page, the same in all processes; never reported by events
	}
	m = Mapping{Start: start, End: end}
	if inode != 0 {
		m.Offset = offset
		m.File = FileID{Dev: device(uint32(major), uint32(minor)), Inode: inode}
		path = unescapeNewlines(path)
	} else if len(path) == 0 || bytes.HasPrefix(path, []byte("[anon:")) {
		path = anonymous
	}
	return m, path, true
}

func parseHex(b []byte) (uint64, bool) {
	if len(b) == 0 || len(b) > 16 {
		return 0, false
	}
	var v uint64
	for _, c := range b {
		switch {
		case c >= '0' && c <= '9':
			v = v<<4 | uint64(c-'0')
		case c >= 'a' && c <= 'f':
			v = v<<4 | uint64(c-'a'+10)
		default:
			return 0, false
		}
	}
	return v, true
}

// unescapeNewlines undoes the only escape in maps. A path that really holds the four characters \012 is
// misread; opening such a file then fails its verification.
func unescapeNewlines(path []byte) []byte {
	if bytes.Contains(path, []byte(`\012`)) {
		return bytes.ReplaceAll(path, []byte(`\012`), []byte{'\n'})
	}
	return path
}

// procDir is an open /proc/PID. It stays bound to the process it was opened for: when that has died, reads
// give ESRCH or ENOENT, never another process that got the same number.
type procDir struct{ fd int }

func openProcDir(root string, pid PID) (procDir, error) {
	fd, err := unix.Open(root+"/"+strconv.FormatUint(uint64(pid), 10), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return procDir{}, fmt.Errorf("opening process %d: %w", pid, err)
	}
	return procDir{fd}, nil
}

func (d procDir) close() { unix.Close(d.fd) }

// read appends a file of the process to buf, at most limit bytes of it.
func (d procDir) read(name string, buf []byte, limit int) ([]byte, error) {
	fd, err := unix.Openat(d.fd, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return buf, fmt.Errorf("opening %s: %w", name, err)
	}
	defer unix.Close(fd)
	start := len(buf)
	for len(buf)-start < limit {
		if cap(buf)-len(buf) < 4096 {
			buf = append(buf, make([]byte, max(4096, min(len(buf), 1<<20)))...)[:len(buf)]
		}
		room := buf[len(buf):min(cap(buf), start+limit)]
		n, err := unix.Read(fd, room)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return buf, fmt.Errorf("reading %s: %w", name, err)
		}
		if n == 0 {
			break
		}
		buf = buf[:len(buf)+n]
	}
	return buf, nil
}

func (d procDir) readlink(name string) (string, error) {
	var buf [unix.PathMax]byte
	n, err := unix.Readlinkat(d.fd, name, buf[:])
	if err != nil {
		return "", fmt.Errorf("reading link %s: %w", name, err)
	}
	return string(buf[:n]), nil
}

// listPIDs returns the processes that exist, in no order.
func listPIDs(root string) ([]PID, error) {
	dir, err := os.Open(root)
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	defer dir.Close()
	var pids []PID
	for {
		names, err := dir.Readdirnames(1024)
		for _, n := range names {
			if pid, err := strconv.ParseUint(n, 10, 32); err == nil && pid != 0 {
				pids = append(pids, PID(pid))
			}
		}
		if errors.Is(err, io.EOF) {
			return pids, nil
		}
		if err != nil {
			return nil, fmt.Errorf("listing processes: %w", err)
		}
	}
}
