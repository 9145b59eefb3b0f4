package kernel

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
)

// writeInitrd writes an initramfs: an uncompressed cpio archive in the "newc" format of the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst. Unpacking a compressed one takes the emulated processor
// longer than loading this.
func (g Guest) writeInitrd(name string) error {
	busybox, err := findBusybox()
	if err != nil {
		return err
	}
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	defer file.Close()
	a := &archive{w: bufio.NewWriterSize(file, 1<<20), folders: map[string]bool{}}

	for _, folder := range []string{"bin", "dev", "proc", "sys", "tmp"} {
		a.folder(folder)
	}
	a.entry("dev/console", 0o020600, 5, 1, 0, nil)
	a.text("init", g.init())
	a.file("bin/busybox", busybox)
	guestPaths := make([]string, 0, len(g.Files))
	for p := range g.Files {
		guestPaths = append(guestPaths, p)
	}
	slices.Sort(guestPaths)
	for _, p := range guestPaths {
		a.file(strings.TrimPrefix(p, "/"), g.Files[p])
	}
	a.entry("TRAILER!!!", 0, 0, 0, 0, nil)
	if a.err != nil {
		return a.err
	}
	if err := a.w.Flush(); err != nil {
		return err
	}
	return file.Close()
}

// archive writes cpio entries; the first error stays.
type archive struct {
	w       *bufio.Writer
	folders map[string]bool
	inode   uint32
	err     error
}

func (a *archive) folder(name string) {
	if name == "." || a.folders[name] {
		return
	}
	a.folder(path.Dir(name))
	a.folders[name] = true
	a.entry(name, 0o040755, 0, 0, 0, nil)
}

func (a *archive) text(name, text string) {
	a.entry(name, 0o100755, 0, 0, int64(len(text)), strings.NewReader(text))
}

func (a *archive) file(name, from string) {
	a.folder(path.Dir(name))
	f, err := os.Open(from)
	if err != nil {
		a.fail(err)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		a.fail(err)
		return
	}
	a.entry(name, 0o100755, 0, 0, info.Size(), f)
}

func (a *archive) entry(name string, mode, major, minor uint32, size int64, content io.Reader) {
	if a.err != nil {
		return
	}
	if size > 1<<32-1 {
		a.fail(fmt.Errorf("%s: %d bytes do not fit a cpio entry", name, size))
		return
	}
	a.inode++
	// Magic, then thirteen numbers of eight hex digits: ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor
	// rdevminor namesize check.
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.inode, mode, 0, 0, 1, 0, size, 0, 0, major, minor, len(name)+1, 0)
	_, err := a.w.WriteString(header + name + "\x00" + pad(int64(len(header)+len(name)+1)))
	a.fail(err)
	if content != nil {
		_, err = io.CopyN(a.w, content, size)
		a.fail(err)
		_, err = a.w.WriteString(pad(size))
		a.fail(err)
	}
}

func (a *archive) fail(err error) {
	if a.err == nil {
		a.err = err
	}
}

// pad is what brings n to a multiple of four.
func pad(n int64) string { return "\x00\x00\x00"[:(4-n%4)%4] }

// ErrNoBusybox says that the guest would have no shell.
var ErrNoBusybox = errors.New("busybox-static is not installed")

func findBusybox() (string, error) {
	for _, p := range []string{"/bin/busybox", "/usr/bin/busybox"} {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", ErrNoBusybox
}
