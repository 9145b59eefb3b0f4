package frost

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/perfuse/perfuse/storage/disk"
)

// lockDir makes the directory and takes its lock, which ends with the process. The error says what is in the
// way and what can be done.
func lockDir(dir string) (io.Closer, error) {
	if dir == "" {
		return nil, errors.New("opening storage: no directory is given")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		if st, serr := os.Stat(dir); serr == nil && !st.IsDir() {
			return nil, fmt.Errorf("opening storage: %s is a file, give a directory", dir)
		}
		return nil, fmt.Errorf("opening storage: making its directory: %w", err)
	}
	// A directory that was just made is durable with its parent. Not being allowed to is no reason not to open.
	_ = disk.OS.SyncDir(filepath.Dir(filepath.Clean(dir)))
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening storage: %s is not writable: %w", dir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder := "another process"
		if b, rerr := io.ReadAll(io.LimitReader(f, 32)); rerr == nil {
			if pid, perr := strconv.Atoi(strings.TrimSpace(string(b))); perr == nil {
				holder = fmt.Sprintf("process %d", pid)
			}
		}
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("opening storage: %s is in use by %s; stop it or give another directory", dir, holder)
		}
		return nil, fmt.Errorf("opening storage: locking %s: %w", dir, err)
	}
	// The process id is only for the message above: a full disk must not keep the store from opening.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return f, nil
}
