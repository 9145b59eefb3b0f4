package memory

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf"
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
)

// AttachSession puts a session on places of a file, given by offset, in one process. It ends when the file that is
// returned is closed, or with this program.
func AttachSession(p *ebpf.Program, path string, offsets, cookies []uint64, pid int) (*os.File, error) {
	if len(offsets) == 0 || len(offsets) != len(cookies) || len(offsets) > maxProbes {
		return nil, fmt.Errorf("attaching to %s: %d offsets with %d cookies", path, len(offsets), len(cookies))
	}
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return nil, fmt.Errorf("attaching to %q: %w", path, err)
	}
	a := linkAttr{
		program: uint32(p.FD()),
		attach:  uint32(attachSession),
		path:    uint64(uintptr(unsafe.Pointer(name))),
		offsets: uint64(uintptr(unsafe.Pointer(&offsets[0]))),
		cookies: uint64(uintptr(unsafe.Pointer(&cookies[0]))),
		count:   uint32(len(offsets)),
		pid:     uint32(pid),
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
	return os.NewFile(fd, "uprobe session"), nil
}

// attachable says whether the kernel knows what AttachSession asks for: it complains about the path first, where it
// would about the attachment if it did not know that.
func attachable(p *ebpf.Program) bool {
	_, err := AttachSession(p, "/proc/self/nothing", []uint64{0}, []uint64{0}, 0)
	return errors.Is(err, unix.ENOENT)
}
