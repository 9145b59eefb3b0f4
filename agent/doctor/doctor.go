// Package doctor finds out what the agent can do on this machine, by trying it: it loads the real programs,
// opens the real events, and takes everything down again.
package doctor

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"runtime"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/perfuse/perfuse/agent/process"
	"github.com/perfuse/perfuse/bpf/cpu"
	"github.com/perfuse/perfuse/bpf/memory"
	"github.com/perfuse/perfuse/bpf/offcpu"
	"github.com/perfuse/perfuse/symbolize/kernel"
)

// Status is how a check came out.
type Status string

const (
	// OK: it works.
	OK Status = "ok"
	// Note: it works in a lesser way, or its lack costs nothing that others do not give.
	Note Status = "note"
	// Failed: the agent cannot do its work without it.
	Failed Status = "failed"
)

// Check is one finding.
type Check struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	// Finding says what is there.
	Finding string `json:"finding"`
	// Remedy says what to do about it; empty if there is nothing to do.
	Remedy string `json:"remedy,omitempty"`
}

// Run performs all checks.
func Run() []Check {
	limitErr := rlimit.RemoveMemlock()
	return []Check{
		system(),
		privileges(),
		lockdown(),
		typeInformation(),
		sampling(limitErr),
		waits(),
		pageFaults(),
		allocators(),
		clock(),
		processRecords(),
		kernelSymbols(),
		sharedSpans(),
		tracepoints(),
		hook("kprobe", "kprobes", probeKprobe),
		hook("fentry", "fentry and fexit", probeFentry),
		hook("lsm", "BPF LSM", probeLSM),
		hook("uprobe", "uprobes", probeUprobe),
	}
}

func system() Check {
	var u unix.Utsname
	c := Check{Name: "system", Status: OK}
	if err := unix.Uname(&u); err != nil {
		return Check{"system", Note, err.Error(), ""}
	}
	release := string(bytes.TrimRight(u.Release[:], "\x00"))
	c.Finding = fmt.Sprintf("Linux %s, %s, %d CPUs", release, runtime.GOARCH, runtime.NumCPU())
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err == nil && (major < 5 || major == 5 && minor < 8) {
		c.Status, c.Remedy = Failed, "the agent needs Linux 5.8 or newer"
	}
	return c
}

// capabilities are what the agent uses, by number.
var capabilities = []struct {
	number int
	name   string
	why    string
}{
	{unix.CAP_BPF, "CAP_BPF", "load programs"},
	{unix.CAP_PERFMON, "CAP_PERFMON", "sample and trace"},
	{unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE", "open the executables of other users' processes"},
	{unix.CAP_SYSLOG, "CAP_SYSLOG", "name kernel functions"},
}

func privileges() Check {
	who := fmt.Sprintf("uid %d", os.Geteuid())
	if u, err := user.Current(); err == nil {
		who = u.Username
	}
	have, err := effective()
	if err != nil {
		return Check{"privileges", Note, err.Error(), ""}
	}
	var missing []string
	for _, c := range capabilities {
		admin := have&(1<<unix.CAP_SYS_ADMIN) != 0 && (c.number == unix.CAP_BPF || c.number == unix.CAP_PERFMON)
		if have&(1<<c.number) == 0 && !admin {
			missing = append(missing, fmt.Sprintf("%s (to %s)", c.name, c.why))
		}
	}
	if len(missing) == 0 {
		return Check{"privileges", OK, who + " has all that the agent needs", ""}
	}
	return Check{"privileges", Failed, who + " lacks " + strings.Join(missing, ", "), "run as root, or give these capabilities"}
}

func effective() (uint64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("reading capabilities: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "CapEff:"); ok {
			var caps uint64
			_, err := fmt.Sscanf(strings.TrimSpace(v), "%x", &caps)
			return caps, err
		}
	}
	return 0, errors.New("reading capabilities: the kernel does not tell them")
}

func lockdown() Check {
	b, err := os.ReadFile("/sys/kernel/security/lockdown")
	if err != nil {
		return Check{"lockdown", OK, "not in force", ""}
	}
	mode := "none"
	if _, rest, ok := strings.Cut(string(b), "["); ok {
		mode, _, _ = strings.Cut(rest, "]")
	}
	switch mode {
	case "none":
		return Check{"lockdown", OK, "not in force", ""}
	case "confidentiality":
		return Check{"lockdown", Failed, mode + ": programs may not read memory", "boot with lockdown=integrity"}
	}
	return Check{"lockdown", OK, mode + ": reading is allowed", ""}
}

func typeInformation() Check {
	if _, err := btf.LoadKernelSpec(); err != nil {
		return Check{"type information (BTF)", Failed, err.Error(), "use a kernel with CONFIG_DEBUG_INFO_BTF (every current distribution's has it)"}
	}
	return Check{"type information (BTF)", OK, "/sys/kernel/btf/vmlinux", ""}
}

func sampling(limitErr error) Check {
	const name = "CPU sampling"
	p, err := cpu.Load(cpu.Options{})
	if err != nil {
		remedy := "see the lines above"
		if errors.Is(err, unix.EPERM) && limitErr != nil && os.Geteuid() == 0 {
			remedy = "on kernels before 5.11 CAP_SYS_RESOURCE is needed to lift the limit on locked memory"
		}
		return Check{name, Failed, reason(err), remedy}
	}
	defer p.Close()
	how := "tail calls"
	if errors.Is(features.HaveProgramHelper(ebpf.PerfEvent, asm.FnLoop), nil) {
		how = "bpf_loop"
	}
	return Check{name, OK, "programs load; stacks are walked with " + how, ""}
}

func sharedSpans() Check {
	const name = "shared spans"
	m, err := cpu.OpenSpans(cpu.DefaultBPFFS, false)
	switch {
	case err == nil:
		m.Close()
		return Check{name, OK, "agents share which request a thread serves at " + cpu.DefaultBPFFS + "/otel", ""}
	case errors.Is(err, fs.ErrNotExist):
		var st unix.Statfs_t
		if err := unix.Statfs(cpu.DefaultBPFFS, &st); err == nil && st.Type == unix.BPF_FS_MAGIC {
			return Check{name, OK, "no other agent shares them; ours will", ""}
		}
		return Check{name, Note, "no BPF file system is mounted at " + cpu.DefaultBPFFS, "to see the spans of other agents: mount -t bpf bpf " + cpu.DefaultBPFFS}
	}
	return Check{name, Note, reason(err), "samples will not tell which request they belong to"}
}

// waits loads the programs that measure what threads wait for.
func waits() Check {
	const name = "off-CPU"
	p, err := cpu.Load(cpu.Options{})
	if err != nil {
		return Check{name, Note, "not tried, since CPU sampling does not load", ""}
	}
	defer p.Close()
	o, err := offcpu.Load(p, offcpu.Options{RingBytes: 1 << 20, Wakers: true})
	if err != nil {
		remedy := "set off_cpu: false to leave it out"
		if errors.Is(err, ebpf.ErrNotSupported) {
			remedy = "use Linux 5.18 or newer, or set off_cpu: false"
		}
		return Check{name, Note, "waits are not measured: " + reason(err), remedy}
	}
	o.Close()
	return Check{name, OK, "tp_btf/sched_switch and the iterator over tasks: waits, and who ends them", ""}
}

// allocators loads the programs that sample the heap of C, C++ and Rust programs.
func allocators() Check {
	const name = "native heap"
	p, err := cpu.Load(cpu.Options{})
	if err != nil {
		return Check{name, Note, "not tried, since CPU sampling does not load", ""}
	}
	defer p.Close()
	m, err := memory.Load(p, memory.Options{})
	if err != nil {
		remedy := "see privileges"
		if errors.Is(err, ebpf.ErrNotSupported) {
			remedy = "use Linux 5.17 or newer; Go programs and JVMs tell their heaps all the same"
		}
		return Check{name, Note, "allocators cannot be probed: " + reason(err), remedy}
	}
	defer m.Close()
	if m.Session == nil {
		return Check{name, OK, "uprobes, two an allocator's function: Linux 6.13 has sessions, which need one and also serve operator new", ""}
	}
	return Check{name, OK, "uprobe sessions", ""}
}

func pageFaults() Check {
	attr := unix.PerfEventAttr{
		Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_PAGE_FAULTS, Size: unix.PERF_ATTR_SIZE_VER5,
		Sample: 49, Bits: unix.PerfBitDisabled | unix.PerfBitFreq,
	}
	fd, err := unix.PerfEventOpen(&attr, -1, 0, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return Check{"page faults", Note, "not counted: " + err.Error(), "see privileges"}
	}
	unix.Close(fd)
	return Check{"page faults", OK, "the software event page-faults", ""}
}

func clock() Check {
	const name = "sampling clock"
	open := func(kind uint32, config uint64) error {
		a := &unix.PerfEventAttr{Type: kind, Config: config, Sample: 1e7, Bits: unix.PerfBitDisabled}
		a.Size = unix.PERF_ATTR_SIZE_VER5
		fd, err := unix.PerfEventOpen(a, -1, 0, -1, unix.PERF_FLAG_FD_CLOEXEC)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
	if err := open(unix.PERF_TYPE_SOFTWARE, unix.PERF_COUNT_SW_CPU_CLOCK); err != nil {
		return Check{name, Failed, fmt.Sprintf("perf_event_open: %v", err), "needs CAP_PERFMON, or kernel.perf_event_paranoid=-1; a container's seccomp profile may forbid it"}
	}
	if err := open(unix.PERF_TYPE_HARDWARE, unix.PERF_COUNT_HW_CPU_CYCLES); err != nil {
		return Check{name, OK, "cpu-clock; this machine shows no hardware cycles (usual in virtual machines)", ""}
	}
	return Check{name, OK, "hardware cycles", ""}
}

func processRecords() Check {
	const name = "process records"
	t, err := process.New(process.Options{})
	if err != nil {
		return Check{name, Failed, err.Error(), "needs CAP_PERFMON"}
	}
	t.Close()
	return Check{name, OK, "exec, fork, exit and mmap are seen as they happen", ""}
}

func kernelSymbols() Check {
	const name = "kernel symbols"
	t, err := kernel.Load("/proc/kallsyms")
	if err != nil {
		return Check{name, Note, err.Error(), "kernel frames will be addresses; set kernel.kptr_restrict=0 or give CAP_SYSLOG"}
	}
	return Check{name, OK, fmt.Sprintf("%d functions", t.Len()), ""}
}

func tracepoints() Check {
	const name = "tracepoints"
	p, err := program(ebpf.RawTracepoint, 0, "")
	if err != nil {
		return Check{name, Failed, reason(err), "needs CAP_BPF and CAP_PERFMON"}
	}
	defer p.Close()
	l, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: "sched_process_exec", Program: p})
	if err != nil {
		return Check{name, Failed, err.Error(), "needs CAP_PERFMON"}
	}
	l.Close()
	return Check{name, OK, "attach", ""}
}

// hook reports a kind of hook that CPU profiling does without.
func hook(name, what string, probe func() error) Check {
	if err := probe(); err != nil {
		return Check{name, Note, fmt.Sprintf("no %s here: %s", what, reason(err)), ""}
	}
	return Check{name, OK, what + " attach", ""}
}

// reason is the text of err without the guess that the loader adds to every refusal.
func reason(err error) string {
	return strings.ReplaceAll(err.Error(), " (MEMLOCK may be too low, consider rlimit.RemoveMemlock)", "")
}

func program(t ebpf.ProgramType, attach ebpf.AttachType, to string) (*ebpf.Program, error) {
	return ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         t,
		AttachType:   attach,
		AttachTo:     to,
		License:      "Dual MIT/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
}

func probeKprobe() error {
	p, err := program(ebpf.Kprobe, 0, "")
	if err != nil {
		return err
	}
	defer p.Close()
	l, err := link.Kprobe("do_exit", p, nil)
	if err != nil {
		return err
	}
	return l.Close()
}

func probeFentry() error {
	p, err := program(ebpf.Tracing, ebpf.AttachTraceFEntry, "do_exit")
	if err != nil {
		return err
	}
	defer p.Close()
	l, err := link.AttachTracing(link.TracingOptions{Program: p})
	if err != nil {
		return err
	}
	return l.Close()
}

func probeLSM() error {
	b, err := os.ReadFile("/sys/kernel/security/lsm")
	if err == nil && !strings.Contains(","+string(bytes.TrimSpace(b))+",", ",bpf,") {
		return errors.New("bpf is not among the kernel's security modules (boot parameter lsm=)")
	}
	p, err := program(ebpf.LSM, ebpf.AttachLSMMac, "file_open")
	if err != nil {
		return err
	}
	defer p.Close()
	l, err := link.AttachLSM(link.LSMOptions{Program: p})
	if err != nil {
		return err
	}
	return l.Close()
}

func probeUprobe() error {
	p, err := program(ebpf.Kprobe, 0, "")
	if err != nil {
		return err
	}
	defer p.Close()
	exe, err := link.OpenExecutable("/proc/self/exe")
	if err != nil {
		return err
	}
	// The file's first byte is never executed: nothing is slowed down.
	l, err := exe.Uprobe("", p, &link.UprobeOptions{Address: 1, PID: os.Getpid()})
	if err != nil {
		return err
	}
	return l.Close()
}
