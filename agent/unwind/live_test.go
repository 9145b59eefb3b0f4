package unwind

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perfuse/perfuse/profile"
)

// process is a running program whose stacks the test walks by tables alone, as the kernel side does.
type process struct {
	pid    int
	maps   []mapping
	tables map[string]*Packed
	chains map[string][]Range
	images map[string]*image
}

type mapping struct {
	start, end, off uint64
	path            string
	table           *Packed
	chains          []Range
	bias            uint64
}

// read reads the memory of whatever the process executes now.
func (p *process) read(b []byte, at uint64) bool {
	local := []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}
	n, err := unix.ProcessVMReadv(p.pid, local, []unix.RemoteIovec{{Base: uintptr(at), Len: len(b)}}, 0)
	return err == nil && n == len(b)
}

func (p *process) word(at uint64) (uint64, bool) {
	var b [8]byte
	ok := p.read(b[:], at)
	return binary.LittleEndian.Uint64(b[:]), ok
}

// readMaps compiles the tables of all executable mappings that are new.
func (p *process) readMaps() error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", p.pid))
	if err != nil {
		return err
	}
	p.maps = p.maps[:0]
	for line := range strings.Lines(string(text)) {
		w := strings.Fields(line)
		if len(w) < 6 || !strings.Contains(w[1], "x") {
			continue
		}
		var m mapping
		if _, err := fmt.Sscanf(w[0], "%x-%x", &m.start, &m.end); err != nil {
			return err
		}
		m.off, _ = strconv.ParseUint(w[2], 16, 64)
		m.path = w[5]
		if _, ok := p.tables[m.path]; !ok {
			var r io.ReaderAt
			if m.path == "[vdso]" {
				b := make([]byte, m.end-m.start)
				if !p.read(b, m.start) {
					return errors.New("reading the vDSO")
				}
				r = bytes.NewReader(b)
			} else if f, err := os.Open(m.path); err == nil {
				defer f.Close()
				r = f
			}
			if r != nil {
				if t, err := Compile(r); err == nil {
					p.chains[m.path] = t.FramePointers
					if p.tables[m.path], err = Pack(t); err != nil {
						return err
					}
				}
				p.images[m.path], _ = openImage(r)
			}
		}
		m.table, m.chains = p.tables[m.path], p.chains[m.path]
		if im := p.images[m.path]; im != nil {
			for _, s := range im.segments {
				if s.exec && s.off&^4095 <= m.off && m.off < s.off+s.size {
					m.bias = m.start - (s.addr - s.off + m.off)
				}
			}
		}
		p.maps = append(p.maps, m)
	}
	return nil
}

// walk follows the stack from regs. It returns the frames' addresses and why it ended: "" at the root. With
// chains it uses frame pointers instead of rows where tables say that it can.
func (p *process) walk(regs *unix.PtraceRegs, chains bool) (frames []string, why string) {
	r := [17]uint64{
		regs.Rax, regs.Rdx, regs.Rcx, regs.Rbx, regs.Rsi, regs.Rdi, regs.Rbp, regs.Rsp, regs.R8, regs.R9, regs.R10,
		regs.R11, regs.R12, regs.R13, regs.R14, regs.R15, regs.Rip,
	}
	exact := true
	for range 4096 {
		pc := r[dwarfRIP]
		at := pc
		if !exact {
			at--
		}
		i := slices.IndexFunc(p.maps, func(m mapping) bool { return at >= m.start && at < m.end })
		if i < 0 {
			return frames, fmt.Sprintf("no mapping at %#x after %v", pc, last(frames))
		}
		m := &p.maps[i]
		frames = append(frames, fmt.Sprintf("%s+%x", filepath.Base(m.path), at-m.bias))
		if m.table == nil {
			return frames, "no table for " + m.path
		}
		if chains && !exact {
			a := profile.Addr(at - m.bias)
			if slices.ContainsFunc(m.chains, func(r Range) bool { return a >= r.Start && a < r.End }) {
				fp := r[dwarfRBP]
				var ok, ok2 bool
				r[dwarfRBP], ok = p.word(fp)
				r[dwarfRIP], ok2 = p.word(fp + 8)
				r[dwarfRSP] = fp + 16
				if !ok || !ok2 {
					return frames, "unreadable frame pointer at " + last(frames)
				}
				continue
			}
		}
		rule := m.table.Lookup(profile.Addr(at - m.bias))
		var cfa uint64
		ok := true
		switch rule.CFA {
		case CFARegister:
			cfa = r[rule.Reg] + uint64(int64(rule.Offset))
		case CFADeref:
			cfa, ok = p.word(r[rule.Reg] + uint64(int64(rule.Offset)))
			cfa += uint64(int64(rule.Extra))
		case CFAPLT:
			cfa = r[dwarfRSP] + 8
			if pc&15 >= uint64(rule.Extra) {
				cfa += 8
			}
		case CFASignal:
			saved := r // struct ucontext: flags, link, stack, then the registers
			for i, reg := range []int{8, 9, 10, 11, 12, 13, 14, 15, 5, 4, 6, 3, 1, 0, 2, 7, 16} {
				if saved[reg], ok = p.word(r[dwarfRSP] + 40 + 8*uint64(i)); !ok {
					return frames, "unreadable signal frame"
				}
			}
			r = saved
			exact = true
			continue
		case CFAEnd:
			return frames, ""
		case CFANone:
			return frames, "no information at " + last(frames)
		default:
			return frames, "unsupported at " + last(frames)
		}
		if !ok {
			return frames, "unreadable CFA at " + last(frames)
		}
		ra, ok := p.word(cfa + uint64(int64(rule.RAOff)))
		if rule.RA == SaveRegister {
			ra, ok = r[rule.RAOff], true
		}
		if !ok {
			return frames, fmt.Sprintf("unreadable return address at %s, CFA %#x", last(frames), cfa)
		}
		switch rule.FP {
		case SaveOffset:
			r[dwarfRBP], ok = p.word(cfa + uint64(int64(rule.FPOff)))
		case SaveAtFP:
			r[dwarfRBP], ok = p.word(r[dwarfRBP] + uint64(int64(rule.FPOff)))
		}
		if !ok {
			return frames, "unreadable frame pointer at " + last(frames)
		}
		r[dwarfRSP], r[dwarfRIP] = cfa, ra
		exact = false
		if ra == 0 {
			return frames, "return address 0 after " + last(frames)
		}
	}
	return frames, "too deep"
}

func last(s []string) string {
	if len(s) == 0 {
		return "nothing"
	}
	return s[len(s)-1]
}

// testLive stops a program's threads n times at moments of no one's choice, and walks their stacks.
func testLive(t *testing.T, n int, name string, args ...string) {
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	cmd := exec.Command(path, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	p := &process{pid: cmd.Process.Pid, tables: map[string]*Packed{}, chains: map[string][]Range{}, images: map[string]*image{}}
	runtime.LockOSThread() // ptrace is per thread
	defer runtime.UnlockOSThread()
	whole, depth, differ := 0, 0, 0
	reasons := map[string]int{}
	begin := time.Now()
	for i := 0; i < n && time.Since(begin) < time.Minute; {
		time.Sleep(time.Millisecond) // the rate of samples
		if s, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid)); err != nil || bytes.Contains(s, []byte(") Z ")) {
			break // it has ended
		}
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			tid, _ := strconv.Atoi(task.Name())
			if s, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/stat", p.pid, tid)); err != nil || !bytes.Contains(s, []byte(") R ")) {
				continue
			}
			err := unix.PtraceSeize(tid)
			if errors.Is(err, unix.EPERM) {
				t.Skip("ptrace is not permitted")
			}
			if err != nil {
				continue
			}
			if unix.PtraceInterrupt(tid) != nil {
				continue
			}
			var status unix.WaitStatus
			if _, err := unix.Wait4(tid, &status, unix.WALL, nil); err != nil || !status.Stopped() {
				continue
			}
			var regs unix.PtraceRegs
			if unix.PtraceGetRegs(tid, &regs) == nil {
				if err := p.readMaps(); err != nil {
					t.Fatal(err)
				}
				frames, why := p.walk(&regs, false)
				if by, why2 := p.walk(&regs, true); why == "" && !slices.Equal(by, frames) {
					differ++
					t.Logf("by rows %v\nby frame pointers %v %s", frames, by, why2)
				}
				i++
				if why == "" {
					whole++
					depth += len(frames)
				} else {
					reasons[why+" ["+strings.Join(frames[:min(len(frames), 4)], " ")+"]"]++
				}
			}
			// A signal that it stopped for is given back.
			sig := 0
			if s := status.StopSignal(); s != syscall.SIGTRAP && s != syscall.SIGSTOP {
				sig = int(s)
			}
			unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_DETACH, uintptr(tid), 0, uintptr(sig), 0, 0)
		}
	}
	total := whole
	var list []string
	for why, n := range reasons {
		total += n
		list = append(list, fmt.Sprintf("%d %s", n, why))
	}
	slices.SortFunc(list, func(a, b string) int { return cmp.Compare(b, a) })
	if total < 100 {
		t.Fatalf("%d stacks only", total)
	}
	t.Logf("%d of %d stacks are whole (%.2f %%), %.1f frames\n%s", whole, total, 100*float64(whole)/float64(total),
		float64(depth)/float64(max(whole, 1)), strings.Join(list[:min(len(list), 20)], "\n"))
	if differ*100 > total {
		t.Errorf("%d stacks are others by frame pointers", differ)
	}
	if float64(whole) < 0.99*float64(total) {
		t.Error("fewer than 99 % of the stacks reach the root")
	}
}

// TestLive walks stacks of programs while they run, also of the one that PERFUSE_LIVE names.
func TestLive(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("written for x86-64")
	}
	t.Run("go", func(t *testing.T) { testLive(t, 600, buildGo(t, "goload", []string{"CGO_ENABLED=0"}, "-ldflags=-s")) })
	t.Run("cgo", func(t *testing.T) {
		if _, err := exec.LookPath("gcc"); err != nil {
			t.Skip("gcc is not installed")
		}
		testLive(t, 300, buildGo(t, "cgoprogram", []string{"CGO_ENABLED=1", "CC=gcc"}, "-ldflags=-s"), "loop")
	})
	if path := os.Getenv("PERFUSE_LIVE"); path != "" {
		t.Run("given", func(t *testing.T) { testLive(t, 1000, path) })
	}
	t.Run("openssl", func(t *testing.T) { testLive(t, 300, "openssl", "speed", "-seconds", "60", "sha256", "rsa2048") })
	t.Run("python", func(t *testing.T) {
		testLive(t, 300, "python3", "-c", "import re, json\nwhile True: re.sub('a(b|c)*d', lambda m: json.dumps(m[0]), 'abcbcd' * 999)")
	})
	t.Run("llvm", func(t *testing.T) {
		libs, _ := filepath.Glob("/usr/lib/llvm-*/lib/libLLVM.so.*.*")
		if len(libs) == 0 {
			t.Skip("no libLLVM here")
		}
		testLive(t, 300, dwarfdump(t), "--eh-frame", libs[0])
	})
	t.Run("bash", func(t *testing.T) {
		testLive(t, 200, "bash", "-c", "while :; do x=${x:0:99}${RANDOM//1/ab}; : $(:); done")
	})
}
