package goheap

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Memory is the memory of a process, as of when it was opened: should the process end, or execute another program, reads
// say [ErrGone], even if its id is given to another. It does not keep that memory alive.
// (process_vm_readv is faster by a third where a thousand buckets or more are read; but it names the process by its id.)
type Memory struct {
	f *os.File
	// Start is when the process started, in ticks (1/100 s) since boot. Who has the id from elsewhere compares it
	// with what is known from there.
	Start uint64
}

// OpenMemory opens the memory of a process. The errors are [ErrGone] and [ErrPermission].
func OpenMemory(pid int) (*Memory, error) {
	folder, err := unix.Open("/proc/"+strconv.Itoa(pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, opening(pid, err)
	}
	defer unix.Close(folder)
	fd, err := unix.Openat(folder, "mem", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, opening(pid, err)
	}
	m := &Memory{f: os.NewFile(uintptr(fd), "mem")}
	// The folder is the process's, not the id's.
	if m.Start, err = startTicks(folder); err != nil {
		m.f.Close()
		return nil, opening(pid, err)
	}
	return m, nil
}

func opening(pid int, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESRCH):
		err = ErrGone
	case errors.Is(err, fs.ErrPermission):
		err = ErrPermission
	}
	return fmt.Errorf("opening the memory of process %d: %w", pid, err)
}

// startTicks reads the 22nd field of stat; the second, a name in parentheses, may contain anything.
func startTicks(folder int) (uint64, error) {
	fd, err := unix.Openat(folder, "stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var buf [1024]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return 0, err
	}
	b := buf[:n]
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("reading stat: %d fields after the name", len(fields))
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

// ReadAt reads the process's memory at an address. It may read less than asked for, with an error, where nothing is mapped. It takes as
// long as whoever provides that memory likes. Close does not wait for it.
func (m *Memory) ReadAt(b []byte, addr int64) (int, error) {
	if addr > math.MaxInt64-int64(len(b)) {
		return 0, unix.EIO
	}
	n, err := m.f.ReadAt(b, addr)
	if err == io.EOF {
		err = ErrGone
	}
	return n, err
}

// Close lets go of the memory.
func (m *Memory) Close() error { return m.f.Close() }
