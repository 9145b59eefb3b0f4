package memory

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// linkAttr is the part of union bpf_attr that BPF_LINK_CREATE reads for uprobes (uapi/linux/bpf.h).
type linkAttr struct {
	program, target, attach, flags uint32

	path, offsets, refCounts, cookies uint64
	count, multiFlags, pid, _         uint32
}

const (
	linkCreate = 28
	// maxProbes is the kernel's MAX_UPROBE_MULTI_CNT, of which a sane file stays far below.
	maxProbes = 1 << 20
	returns   = 1 // BPF_F_UPROBE_MULTI_RETURN
)

// Attach puts a program that was loaded for it on places of a file, given by offset, in one process: Programs.Session, or,
// if there is Programs.Multi, Begin, or End on the ends of the calls of what is there. It ends when the file that is
// returned is closed, or with this program.
func (p *Programs) Attach(prog *ebpf.Program, path string, offsets, cookies []uint64, pid int) (*os.File, error) {
	if prog == p.Session {
		return attach(prog, attachSession, 0, path, offsets, cookies, pid)
	}
	flags := uint32(0)
	if prog == p.End {
		flags = returns
	}
	return attach(prog, ebpf.AttachTraceUprobeMulti, flags, path, offsets, cookies, pid)
}

func attach(p *ebpf.Program, how ebpf.AttachType, flags uint32, path string, offsets, cookies []uint64, pid int) (*os.File, error) {
	if len(offsets) == 0 || len(offsets) != len(cookies) || len(offsets) > maxProbes {
		return nil, fmt.Errorf("attaching to %s: %d offsets with %d cookies", path, len(offsets), len(cookies))
	}
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return nil, fmt.Errorf("attaching to %q: %w", path, err)
	}
	a := linkAttr{
		program: uint32(p.FD()),
		attach:  uint32(how),
		path:    uint64(uintptr(unsafe.Pointer(name))),
		offsets: uint64(uintptr(unsafe.Pointer(&offsets[0]))),
		cookies: uint64(uintptr(unsafe.Pointer(&cookies[0]))),
		count:   uint32(len(offsets)),
		pid:     uint32(pid),

		multiFlags: flags,
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(name)
	pin.Pin(&offsets[0])
	pin.Pin(&cookies[0])
	fd, _, errno := unix.Syscall(unix.SYS_BPF, linkCreate, uintptr(unsafe.Pointer(&a)), unsafe.Sizeof(a))
	runtime.KeepAlive(p)
	if errno != 0 {
		return nil, fmt.Errorf("attaching to %s in process %d: %w", path, pid, errno)
	}
	return os.NewFile(fd, "uprobes"), nil
}

// have says whether the kernel has an attachment.
func have(how ebpf.AttachType) bool {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.Kprobe,
		AttachType:   how,
		License:      "Dual MIT/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		return false
	}
	defer p.Close()
	// It complains about the path first, where it would about the attachment if it did not know that. And about such a
	// process before: those that do not would leave out all threads but one (commit 46ba0e49b642).
	_, known := attach(p, how, 0, "/proc/self/nothing", []uint64{0}, []uint64{0}, 0)
	_, process := attach(p, how, 0, "/proc/self/nothing", []uint64{0}, []uint64{0}, -1)
	return errors.Is(known, unix.ENOENT) && errors.Is(process, unix.EINVAL)
}
