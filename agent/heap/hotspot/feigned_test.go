package hotspot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// feigned is a JVM that the test itself plays, at its own socket.
type feigned struct {
	*JVM
	mu       sync.Mutex
	commands []string
}

// feign has answer say what the JVM answers; "" is nothing.
func feign(t *testing.T, answer func(command string) string) *feigned {
	t.Helper()
	f := &feigned{JVM: &JVM{PID: os.Getpid(), uid: os.Geteuid(), gid: os.Getegid(), timeout: 200 * time.Millisecond}}
	s, err := readStatus(f.PID)
	if err != nil {
		t.Fatal(err)
	}
	f.NamespacePID = s.namespacePID
	if f.JVM.start, _, err = startTime(f.PID); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", fmt.Sprintf("/tmp/.java_pid%d", f.NamespacePID))
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		wait.Wait()
	})
	wait.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wait.Go(func() {
				defer conn.Close()
				var request []byte
				for b := make([]byte, 2048); bytes.Count(request, []byte{0}) < 5; {
					n, err := conn.Read(b)
					if err != nil {
						return
					}
					request = append(request, b[:n]...)
				}
				command := string(bytes.Split(request, []byte{0})[2])
				f.mu.Lock()
				f.commands = append(f.commands, command)
				f.mu.Unlock()
				if text := answer(command); text != "" {
					conn.Write([]byte(text))
				} else {
					conn.Read(make([]byte, 1)) // until the other side has enough
				}
			})
		}
	})
	return f
}

// TestBeginFails: whatever goes wrong once a recording may have begun, it ends.
func TestBeginFails(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(command string) string // of JFR.start
		err    error
		stops  int
	}{
		{"no answer", func(string) string { return "" }, context.DeadlineExceeded, 1},
		{"an answer that says nothing", func(string) string { return "0\nwhatever\n" }, nil, 1},
		{"an error", func(string) string { return "-1\njava.lang.Exception\n" }, nil, 1},
		{"a directory that cannot be removed", func(command string) string {
			_, rest, _ := strings.Cut(command, "settings=")
			settings, _, _ := strings.Cut(rest, " ")
			dir := filepath.Dir(settings)
			t.Cleanup(func() { os.Remove(filepath.Join(dir, "more")); os.Remove(dir) })
			os.WriteFile(filepath.Join(dir, "more"), nil, 0o600)
			return "0\nStarted recording 1.\n"
		}, unix.ENOTEMPTY, 1},
		{"no recorder", func(string) string { return "-1\nUnknown diagnostic command\n" }, ErrNoRecorder, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := feign(t, func(command string) string {
				if strings.HasPrefix(command, "JFR.start ") {
					return c.answer(command)
				}
				return "-1\njava.lang.Exception: Could not find perfuse\n"
			})
			r := &Recording{j: f.JVM, o: Options{Allocations: true}, major: 17}
			if err := r.o.fill(); err != nil {
				t.Fatal(err)
			}
			name, err := r.begin(context.Background())
			if err == nil || c.err != nil && !errors.Is(err, c.err) || strings.Contains(err.Error(), "JFR.stop") || name != "" {
				t.Errorf("the recording %q, %v, want %v", name, err, c.err)
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			if len(f.commands) != 1+c.stops {
				t.Fatalf("%q", f.commands)
			}
			_, begun, _ := strings.Cut(f.commands[0], "name=")
			begun, _, _ = strings.Cut(begun, " ")
			if c.stops > 0 && f.commands[1] != "JFR.stop name="+begun {
				t.Errorf("%q", f.commands)
			}
		})
	}
}
