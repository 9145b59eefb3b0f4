package process

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sameAfterScan starts a second table, which must find by its scan what the first one knows from events,
// and opens the executable through both.
func sameAfterScan(t *testing.T, table *Table, p *Process, image []byte) {
	t.Helper()
	w := newWatcher(t)
	second := startTable(t, Options{Observers: []Observer{w}})
	late := w.find(p.Executable, func(o *watched) bool { return o.p.PID == p.PID && !o.exited }).p
	if late.Executable != p.Executable || late.Comm != p.Comm || late.Parent != p.Parent {
		t.Errorf("from /proc: %q %q %d\nfrom events: %q %q %d", late.Executable, late.Comm, late.Parent, p.Executable, p.Comm, p.Parent)
	}
	if d := late.StartTime.Sub(p.StartTime).Abs(); d > time.Second {
		t.Errorf("the start differs by %v", d)
	}
	found := false
	for _, m := range p.Mappings() {
		got, ok := late.Mapping(m.Start)
		if !ok || got != m {
			t.Errorf("from /proc: %+v\nfrom events: %+v", got, m)
		}
		if m.File == (FileID{}) || strings.TrimSuffix(m.Path, " (deleted)") != p.Executable {
			continue
		}
		found = true
		for _, o := range []struct {
			t *Table
			p *Process
		}{{table, p}, {second, late}} {
			f, err := o.t.Open(o.p, m)
			if err != nil {
				t.Error(err)
				continue
			}
			b := make([]byte, f.Size())
			if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF || !bytes.Equal(b, image) {
				t.Errorf("opening %s gives another file (%v)", m.Path, err)
			}
			f.Close()
		}
	}
	if !found {
		t.Errorf("no mapping of %s in %v", p.Executable, p.Mappings())
	}
}

const sleeper = `
#include <unistd.h>
int main(void) { char c; write(1, "r\n", 2); read(0, &c, 1); return 0; }`

// runAndFind starts a program and waits until the table knows its C library, the last thing that is mapped,
// or for a static one its executable.
func runAndFind(t *testing.T, w *watcher, cmd *exec.Cmd) (p *Process, end func()) {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = func() { in.Close(); cmd.Wait() }
	t.Cleanup(end)
	if _, err := io.ReadFull(out, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	return w.find("the program", func(o *watched) bool {
		return o.p.PID == PID(cmd.Process.Pid) && maps(o.mapped, "[vdso]") && !o.exited && o.p.Comm != filepath.Base(os.Args[0])
	}).p, end
}

func TestStrangeFiles(t *testing.T) {
	w := newWatcher(t)
	table := startTable(t, Options{Observers: []Observer{w}})
	prog := build(t, "sleeper", sleeper, "-static")
	image, err := os.ReadFile(prog)
	if err != nil {
		t.Fatal(err)
	}
	install := func(t *testing.T, path string) {
		t.Helper()
		if err := os.WriteFile(path, image, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("name with space and newline", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "a b\nc")
		install(t, path)
		p, _ := runAndFind(t, w, exec.Command(path))
		if p.Executable != path || p.Comm != "a b\nc" {
			t.Errorf("%q %q", p.Executable, p.Comm)
		}
		sameAfterScan(t, table, p, image)
	})
	t.Run("deleted", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "gone")
		install(t, path)
		p, end := runAndFind(t, w, exec.Command(path))
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		m := p.Mappings()[0]
		f, err := table.Open(p, m)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		// Another file in its place is not taken for it.
		if err := os.WriteFile(path, append([]byte("other"), image...), 0o755); err != nil {
			t.Fatal(err)
		}
		if f, err := table.Open(p, m); err != nil {
			t.Error(err)
		} else if f.Close(); f.Size() != int64(len(image)) {
			t.Errorf("a file of %d bytes", f.Size())
		}
		end()
		w.find("its end", func(o *watched) bool { return o.p == p && o.exited })
		if _, err := table.Open(p, m); err == nil {
			t.Error("after its end another file was opened under its path")
		}
	})
	t.Run("after its end", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "ended")
		install(t, path)
		p, end := runAndFind(t, w, exec.Command(path))
		end()
		w.find("its end", func(o *watched) bool { return o.p == p && o.exited })
		f, err := table.Open(p, p.Mappings()[0])
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	})
	t.Run("memfd", func(t *testing.T) {
		fd, err := unix.MemfdCreate("secret", unix.MFD_CLOEXEC)
		if err != nil {
			t.Skip(err)
		}
		f := os.NewFile(uintptr(fd), "memfd")
		if _, err := f.Write(image); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/proc/self/fd/3")
		r, err := os.Open("/proc/self/fd/" + strconv.Itoa(fd)) // to read: what is open for writing cannot be run
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		cmd.ExtraFiles = []*os.File{r}
		p, _ := runAndFind(t, w, cmd)
		r.Close()
		if p.Executable != "/memfd:secret" {
			t.Errorf("%q", p.Executable)
		}
		sameAfterScan(t, table, p, image)
	})
	t.Run("chroot", func(t *testing.T) {
		root := t.TempDir()
		install(t, filepath.Join(root, "inside"))
		cmd := exec.Command("/inside")
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
		p, _ := runAndFind(t, w, cmd)
		if p.Executable != "/inside" {
			t.Errorf("%q", p.Executable)
		}
		sameAfterScan(t, table, p, image)
	})
	t.Run("tmpfs", func(t *testing.T) {
		dir := t.TempDir()
		if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
			t.Skip(err)
		}
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
		install(t, filepath.Join(dir, "prog"))
		p, _ := runAndFind(t, w, exec.Command(filepath.Join(dir, "prog")))
		sameAfterScan(t, table, p, image)
	})
	t.Run("overlay in a mount namespace", func(t *testing.T) {
		base := t.TempDir()
		if err := unix.Mount("none", base, "tmpfs", 0, ""); err != nil {
			t.Skip(err)
		}
		t.Cleanup(func() { unix.Unmount(base, unix.MNT_DETACH) })
		for _, d := range []string{"lower", "upper", "work", "merged"} {
			if err := os.Mkdir(filepath.Join(base, d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		install(t, filepath.Join(base, "lower", "prog"))
		script := "mount -t overlay overlay -o lowerdir=" + base + "/lower,upperdir=" + base + "/upper,workdir=" + base + "/work " +
			base + "/merged && exec " + base + "/merged/prog"
		cmd := exec.Command("/bin/sh", "-c", script)
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		in, _ := cmd.StdinPipe()
		out, _ := cmd.StdoutPipe()
		if err := cmd.Start(); err != nil {
			t.Skip(err)
		}
		t.Cleanup(func() { in.Close(); cmd.Wait() })
		if _, err := io.ReadFull(out, make([]byte, 2)); err != nil {
			t.Skip("no overlayfs here")
		}
		p := w.find("the program", func(o *watched) bool {
			return o.p.PID == PID(cmd.Process.Pid) && filepath.Base(o.p.Executable) == "prog" && maps(o.mapped, "[vdso]")
		}).p
		sameAfterScan(t, table, p, image)
	})
}
