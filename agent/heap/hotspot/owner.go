package hotspot

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// asOwner runs f on a thread whose effective user and group are the JVM's, and that is in no other group. HotSpot wants its own (root is right, too, but not the
// root of another user namespace), and files in the JVM's file system are then made and opened with no more rights than its
// user has. Only the effective ids change: with the real ones left as they are no other user may signal or trace the thread.
func (j *JVM) asOwner(f func() error) error {
	uid, gid := os.Geteuid(), os.Getegid()
	if uid == j.uid && gid == j.gid {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		// Never unlocked unless the ids are as they were: the thread ends with the goroutine.
		runtime.LockOSThread()
		groups, err := unix.Getgroups()
		if err == nil && len(groups) > 0 {
			err = setGroups(nil)
		}
		if err == nil {
			err = setEffective(j.uid, j.gid)
		}
		back := func() error {
			err := setEffective(uid, gid)
			if err == nil && len(groups) > 0 {
				err = setGroups(groups)
			}
			return err
		}
		if err != nil {
			done <- errors.Join(fmt.Errorf("%w: becoming user %d, group %d: %w", ErrPermission, j.uid, j.gid, err), back())
			return
		}
		err = f()
		if back := back(); back != nil {
			err = errors.Join(err, fmt.Errorf("becoming user %d again: %w", uid, back))
		} else {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// setGroups sets the calling thread's supplementary groups.
func setGroups(groups []int) error {
	list := make([]uint32, len(groups)+1) // never empty, to have an address
	for i, g := range groups {
		list[i] = uint32(g)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&list[0])), 0); e != 0 {
		return e
	}
	return nil
}

// setEffective sets the calling thread's effective ids; unix.Setresuid would set those of all threads. Root may set the
// group, so whoever is becoming root sets the user first.
func setEffective(uid, gid int) error {
	keep := ^uintptr(0)
	user := func() error {
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(uid), keep); e != 0 {
			return e
		}
		return nil
	}
	group := func() error {
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, keep, uintptr(gid), keep); e != 0 {
			return e
		}
		return nil
	}
	if uid == os.Getuid() {
		return errors.Join(user(), group())
	}
	if err := group(); err != nil {
		return err
	}
	return user()
}

// root opens the JVM's root directory; it is surely the JVM's.
func (j *JVM) root() (*os.File, error) {
	f, err := os.OpenFile(j.proc("root"), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, procError(err)
	}
	if err := j.alive(); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// openIn opens a file below dir. resolve is [unix.RESOLVE_IN_ROOT] or [unix.RESOLVE_BENEATH], by which nothing outside of dir is reached.
func openIn(dir *os.File, name string, flags int, resolve uint64) (*os.File, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: resolve | unix.RESOLVE_NO_MAGICLINKS}
	if flags&unix.O_CREAT != 0 {
		how.Mode = 0o600
	}
	if resolve == unix.RESOLVE_IN_ROOT {
		name = strings.TrimLeft(name, "/")
	}
	for try := 0; ; try++ {
		fd, err := unix.Openat2(int(dir.Fd()), name, &how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), name), nil
		case (err == unix.EAGAIN || err == unix.EINTR) && try < 100: // somebody renamed something meanwhile
		default:
			return nil, &os.PathError{Op: "openat2", Path: name, Err: err}
		}
	}
}

// temp opens the JVM's /tmp, which is where HotSpot has its socket, whatever java.io.tmpdir says.
func (j *JVM) temp() (*os.File, error) {
	root, err := j.root()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := openIn(root, "tmp", unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_IN_ROOT)
	if err != nil {
		return nil, fmt.Errorf("%w: it has no /tmp: %w", ErrRefused, err)
	}
	return f, nil
}
