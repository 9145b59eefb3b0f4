package running

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// BPFProgram is what a BPF program of a process has done while [CountBPF] was on. Tail calls count as their caller's time.
type BPFProgram struct {
	Name string
	Runs uint64
	Time time.Duration
}

// CountBPF has the kernel count the runs and the time of BPF programs until the closer is closed. It costs some 20 ns a
// run.
func CountBPF() (io.Closer, error) {
	c, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		return nil, fmt.Errorf("switching on the kernel's BPF statistics: %w", err)
	}
	return c, nil
}

// BPFPrograms reads the counts of the programs that a process holds, by itself or by its links: other agents on the machine
// have programs of the same names.
func BPFPrograms(pid int) (map[ebpf.ProgramID]BPFProgram, error) {
	ids, err := heldPrograms(fmt.Sprintf("/proc/%d/fdinfo", pid))
	if err != nil {
		return nil, fmt.Errorf("listing the BPF programs of process %d: %w", pid, err)
	}
	out := map[ebpf.ProgramID]BPFProgram{}
	for id := range ids {
		p, err := ebpf.NewProgramFromID(id)
		if errors.Is(err, os.ErrNotExist) {
			continue // unloaded since
		}
		if err != nil {
			return nil, fmt.Errorf("opening BPF program %d: %w", id, err)
		}
		stats, err := p.Stats()
		var info *ebpf.ProgramInfo
		if err == nil {
			info, err = p.Info()
		}
		p.Close()
		if err != nil {
			return nil, fmt.Errorf("reading the statistics of BPF program %d: %w", id, err)
		}
		out[id] = BPFProgram{Name: info.Name, Runs: stats.RunCount, Time: stats.Runtime}
	}
	return out, nil
}

// SinceBPF is what programs have done between two readings, by name.
func SinceBPF(before, after map[ebpf.ProgramID]BPFProgram) map[string]BPFProgram {
	out := map[string]BPFProgram{}
	for id, p := range after {
		one := out[p.Name]
		one.Name = p.Name
		one.Runs += p.Runs - before[id].Runs
		one.Time += p.Time - before[id].Time
		out[p.Name] = one
	}
	return out
}

// heldPrograms reads the prog_id lines of proc(5)'s fdinfo.
func heldPrograms(folder string) (map[ebpf.ProgramID]bool, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	ids := map[ebpf.ProgramID]bool{}
	for _, e := range entries {
		f, err := os.Open(filepath.Join(folder, e.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			text, ok := strings.CutPrefix(lines.Text(), "prog_id:")
			if !ok {
				continue
			}
			if id, err := strconv.ParseUint(strings.TrimSpace(text), 10, 32); err == nil {
				ids[ebpf.ProgramID(id)] = true
			}
		}
		err = lines.Err()
		f.Close()
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, err
		}
	}
	return ids, nil
}
