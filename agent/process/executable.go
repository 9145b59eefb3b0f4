package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrGone: the file of a mapping can no longer be opened, or what was found under its path is not known to
// be the same file.
var ErrGone = errors.New("file is gone")

// File is an opened executable.
type File interface {
	io.ReaderAt
	io.Closer
	// Size in bytes.
	Size() int64
}

type file struct {
	*os.File
	size int64
}

func (f *file) Size() int64 { return f.size }

// Open opens the file that a process maps. It looks, in this order, at
//
//  1. /proc/PID/map_files/START-END, which is the mapped file itself, even if it was deleted; taken if
//     /proc/PID/maps still shows the same range of the same file there;
//  2. PATH below /proc/PID/root, the process's own view; taken if device and inode are those of the mapping;
//  3. PATH of the host, for a process that has ended; taken on the same condition.
//
// A path alone is never trusted. Where the file system shows other device and inode numbers to stat than to
// the kernel's records (overlayfs, btrfs), only the first way works. The error is ErrGone if no way did.
func (t *Table) Open(p *Process, m Mapping) (File, error) {
	if m.File == (FileID{}) {
		return nil, fmt.Errorf("opening %s of process %d: memory without a file", m.Path, p.PID)
	}
	name := strings.TrimSuffix(m.Path, " (deleted)")
	if d, err := openProcDir(t.opts.Proc, p.PID); err == nil {
		f := openMapFile(d, m)
		if f == nil {
			if tid := otherThread(d, p.PID); tid != 0 { // the leader may have ended
				if d2, err := openProcDir(t.opts.Proc, tid); err == nil {
					d.close()
					d = d2
					f = openMapFile(d, m)
				}
			}
		}
		if f == nil {
			if root, err := unix.Openat(d.fd, "root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
				f = openVerified(root, name, unix.RESOLVE_IN_ROOT, m.File)
				unix.Close(root)
			}
		}
		d.close()
		if f != nil {
			return f, nil
		}
	}
	if f := openVerified(unix.AT_FDCWD, name, 0, m.File); f != nil {
		return f, nil
	}
	return nil, fmt.Errorf("opening %s of process %d: %w", m.Path, p.PID, ErrGone)
}

// openMapFile opens the file of the mapping that lies where m lay, if it is the same.
func openMapFile(d procDir, m Mapping) File {
	f := openRegular(d.fd, mapFileName("map_files", m.Start, m.End), 0)
	maps, err := d.read("maps", nil, maxMapsBytes)
	if err != nil {
		if f != nil {
			f.Close()
		}
		return nil
	}
	root, _ := d.readlink("root") // unknown: as if it were "/"
	var now Mapping
	parseMaps(maps, func(o Mapping, path []byte) {
		if o.Start <= m.Start && m.Start < o.End && o.File != (FileID{}) {
			now = o
			now.Path = withinRoot(string(path), root)
		}
	})
	same := now.Path == m.Path && now.Offset+(m.Start-now.Start) == m.Offset ||
		now.File.Dev == m.File.Dev && now.File.Inode == m.File.Inode
	switch {
	case now.End == 0 || !same:
		if f != nil {
			f.Close()
		}
		return nil
	case f == nil && (now.Start != m.Start || now.End != m.End):
		// The range was split or trimmed since.
		f = openRegular(d.fd, mapFileName("map_files", now.Start, now.End), 0)
	}
	if f == nil {
		return nil
	}
	return f
}

func mapFileName(dir string, start, end uint64) string {
	return dir + "/" + strconv.FormatUint(start, 16) + "-" + strconv.FormatUint(end, 16)
}

// openRegular opens a regular file, nil if that is not possible. It never opens what is none: the path may
// be another's choice, and opening a device can do things. resolve are flags of openat2(2).
func openRegular(dirfd int, name string, resolve uint64) *file {
	at, err := unix.Openat2(dirfd, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: resolve})
	if err != nil {
		return nil
	}
	defer unix.Close(at)
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(at), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil
	}
	return &file{os.NewFile(uintptr(fd), name), st.Size}
}

// openVerified opens a path if it leads to the file with that id.
func openVerified(dirfd int, path string, resolve uint64, id FileID) File {
	f := openRegular(dirfd, path, resolve)
	if f == nil {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil
	}
	dev := device(unix.Major(st.Dev), unix.Minor(st.Dev))
	gen, known := generationOf(int(f.Fd()))
	if dev != id.Dev || st.Ino != id.Inode || known && id.Generation != 0 && gen != id.Generation {
		f.Close()
		return nil
	}
	return f
}

// getVersion is FS_IOC_GETVERSION, _IOR('v', 1, long).
const getVersion = 0x80087601

// generationOf asks the file system for the inode's generation.
func generationOf(fd int) (uint32, bool) {
	var v uint64 // file systems write an int, the request's number says long
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), getVersion, uintptr(unsafe.Pointer(&v)))
	return uint32(v), errno == 0
}
