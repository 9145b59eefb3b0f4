package native

import (
	"encoding/binary"
	"unsafe"

	"github.com/perfuse/perfuse/bpf/cpu"
	"github.com/perfuse/perfuse/bpf/memory"
)

// record is one of the kernel side's, an allocation if alloc.
type record struct {
	memory.Alloc
	alloc  bool
	frames []byte // of an allocation: cpu.Frame after cpu.Frame, the ring's memory
}

const (
	eventBytes = int(unsafe.Sizeof(memory.Event{}))
	allocBytes = int(unsafe.Sizeof(memory.Alloc{}))
	frameBytes = int(unsafe.Sizeof(cpu.Frame{}))
	maxFrames  = 1152 // wire.h
)

// decode reads a record; false if it makes no sense.
func decode(raw []byte) (r record, ok bool) {
	if len(raw) < eventBytes {
		return r, false
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&r.Event)), eventBytes), raw)
	switch r.Event.Kind {
	case memory.KindFree:
		return r, true
	case memory.KindAlloc:
	default:
		return r, false
	}
	if len(raw) < allocBytes {
		return r, false
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&r.Alloc)), allocBytes), raw)
	n := int(r.FrameCount)
	if n > maxFrames || len(raw)-allocBytes < n*frameBytes {
		return r, false
	}
	r.alloc = true
	r.frames = raw[allocBytes : allocBytes+n*frameBytes]
	return r, true
}

// parseFrames copies the frames of a record.
func parseFrames(raw []byte) []cpu.Frame {
	out := make([]cpu.Frame, len(raw)/frameBytes)
	for i := range out {
		b := raw[i*frameBytes:]
		out[i].Addr = binary.NativeEndian.Uint64(b)
		out[i].Object = binary.NativeEndian.Uint32(b[8:])
		out[i].Kind = binary.NativeEndian.Uint32(b[12:])
	}
	return out
}
