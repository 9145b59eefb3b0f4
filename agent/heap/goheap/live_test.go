package goheap

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestStorm reads a program that allocates and collects as fast as it can: what stays is there,
// nothing that was counted is ever taken back, and no bucket contradicts itself.
func TestStorm(t *testing.T) {
	p := start(t, build(t, "local", "heap", nil), "", "1024")
	r := p.reader()
	p.order("site 10 1000000") // 10 MB that stay
	p.order("storm 4")
	type amounts struct{ allocs, frees int64 }
	last := map[uint64]amounts{} // by address
	consistent, moved, buckets, kept := 0, 0, 0, int64(0)
	reads := 0
	for ; reads < 5000 && consistent < 150; reads++ {
		got, err := r.Read(patient)
		if err != nil {
			t.Fatal(err)
		}
		if !got.Complete || got.Rate != 1024 {
			t.Fatalf("complete %v, %s, rate %d", got.Complete, got.Reason, got.Rate)
		}
		buckets = len(got.Buckets)
		if !got.Consistent || got.Early {
			continue
		}
		consistent++
		big := int64(0)
		for i := range got.Buckets {
			b := &got.Buckets[i]
			if len(b.Stack) == 0 || b.Size*b.Allocs != b.AllocBytes || b.Size*b.Frees != b.FreeBytes || b.Frees > b.Allocs {
				t.Fatalf("bucket %+v", b)
			}
			was, now := last[b.Addr], amounts{b.Allocs, b.Frees}
			if now.allocs < was.allocs || now.frees < was.frees {
				t.Fatalf("%+v after %+v", now, was)
			}
			if was != now {
				moved++
			}
			last[b.Addr] = now
			if b.Size >= 1_000_000 && b.Size < 1_100_000 {
				n, _ := b.InUse(got.Rate)
				big += n
			}
		}
		if big < kept || big > 10 {
			t.Fatalf("%d of the 10 big objects, after %d", big, kept)
		}
		kept = big
	}
	t.Logf("%d of %d reads are consistent, of %d buckets; %d counts changed", consistent, reads, buckets, moved)
	if moved == 0 || buckets < 100 || consistent < 150 || kept != 10 {
		t.Errorf("%d of %d reads are consistent, of %d buckets; %d counts changed; %d big objects", consistent, reads, buckets, moved, kept)
	}
	p.kill()
	if got, err := r.Read(patient); !errors.Is(err, ErrGone) {
		t.Errorf("after its end: %v, %v", got, err)
	}
}

// TestDies kills a program in the middle of walks.
func TestDies(t *testing.T) {
	path := build(t, "local", "heap", nil)
	gone := 0
	for i := range 20 {
		p := start(t, path, "", "1")
		p.order("wide 3000")
		p.order("gc")
		r := p.reader()
		done := make(chan error)
		go func() {
			for {
				if _, err := r.Read(patient); err != nil {
					done <- err
					return
				}
				r = p.reader() // reads all of it again
			}
		}()
		if i%2 == 0 {
			p.order("gc") // some walks later
		}
		p.kill()
		err := <-done
		if !errors.Is(err, ErrGone) {
			t.Fatal(err)
		}
		gone++
	}
	if gone != 20 {
		t.Errorf("%d processes were found to be gone", gone)
	}
}

// TestRemoved says of programs that keep no profile why.
func TestRemoved(t *testing.T) {
	for _, toolchain := range toolchains {
		t.Run(toolchain, func(t *testing.T) {
			for _, flags := range []string{"", "-s -w"} {
				p := start(t, build(t, toolchain, "removed", nil, "-ldflags="+flags), "")
				if got, err := p.reader().Read(patient); !errors.Is(err, ErrRemoved) {
					t.Errorf("%q: %v, %v", flags, got, err)
				}
				// What the error says helps.
				p = start(t, p.cmd.Path, "", "nevertheless")
				got, err := p.reader().Read(patient)
				if err != nil {
					t.Fatal(err)
				}
				objects := int64(0)
				for _, b := range got.Buckets {
					if b.Size == 10240 {
						objects += b.Allocs - b.Frees
					}
				}
				if objects != 100 || !p.layout.Removed {
					t.Errorf("%q: %d objects, removed: %v", flags, objects, p.layout.Removed)
				}
			}
		})
	}
	p := start(t, build(t, "local", "heap", nil), "", "0")
	if got, err := p.reader().Read(patient); !errors.Is(err, ErrOff) {
		t.Errorf("rate 0: %v, %v", got, err)
	}
}

// TestOpenMemory opens what cannot be read.
func TestOpenMemory(t *testing.T) {
	t.Run("nobody", func(t *testing.T) {
		cmd := exec.Command("true")
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenMemory(cmd.Process.Pid); !errors.Is(err, ErrGone) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a kernel thread", func(t *testing.T) {
		m, err := OpenMemory(2)
		if err != nil {
			if text, _ := os.ReadFile("/proc/2/comm"); string(text) != "kthreadd\n" {
				t.Skipf("process 2 is %q", text)
			}
			if !errors.Is(err, ErrPermission) && !errors.Is(err, ErrGone) {
				t.Fatal(err)
			}
			return
		}
		defer m.Close()
		if _, err := m.ReadAt(make([]byte, 8), 4096); !errors.Is(err, ErrGone) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("of another user", func(t *testing.T) {
		if os.Getuid() != 0 {
			t.Skip("only root can become somebody else")
		}
		done := make(chan error)
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with its identity
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
				done <- errno
				return
			}
			_, err := OpenMemory(1)
			done <- err
		}()
		if err := <-done; !errors.Is(err, ErrPermission) || !strings.Contains(err.Error(), "CAP_SYS_PTRACE") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("start", func(t *testing.T) {
		cmd := exec.Command("sleep", "60")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Wait()
		defer cmd.Process.Kill()
		m, err := OpenMemory(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
			t.Fatal(err)
		}
		if age := time.Duration(now.Nano()) - time.Duration(m.Start)*10*time.Millisecond; age < 0 || age > time.Minute {
			t.Errorf("it started %v ago", age)
		}
	})
	t.Run("exec", func(t *testing.T) {
		// The shell becomes another program when it is told to.
		cmd := exec.Command("sh", "-c", "echo ready; read x; exec sleep 60")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
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
		defer cmd.Wait()
		defer cmd.Process.Kill()
		if _, err := out.Read(make([]byte, 16)); err != nil {
			t.Fatal(err)
		}
		m, err := OpenMemory(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		var from, to int64
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscanf(string(text), "%x-%x", &from, &to); err != nil {
			t.Fatal(err)
		}
		if n, err := m.ReadAt(make([]byte, 8), from); n != 8 || err != nil {
			t.Fatalf("%d bytes, %v", n, err)
		}
		exe := func() string {
			path, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", cmd.Process.Pid))
			return filepath.Base(path)
		}
		if _, err := in.Write([]byte("go\n")); err != nil {
			t.Fatal(err)
		}
		for begin := time.Now(); exe() != "sleep"; runtime.Gosched() {
			if time.Since(begin) > time.Minute {
				t.Fatalf("it is still %q", exe())
			}
		}
		if _, err := m.ReadAt(make([]byte, 8), from); !errors.Is(err, ErrGone) {
			t.Errorf("after exec: %v", err)
		}
	})
}
