package process

import (
	"bytes"
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// sampleType is what the kernel appends to every record (sample_id_all), in the order of perf_event.h:
//
//	u32 pid, tid   PERF_SAMPLE_TID
//	u64 time       PERF_SAMPLE_TIME
//	u32 cpu, res   PERF_SAMPLE_CPU
const (
	sampleType   = unix.PERF_SAMPLE_TID | unix.PERF_SAMPLE_TIME | unix.PERF_SAMPLE_CPU
	sampleIDSize = 24
	headerSize   = 8
)

// recordKind is what of a kernel record matters here.
type recordKind uint8

const (
	recordOther recordKind = iota
	recordExec             // a process became another program
	recordComm             // a thread was renamed
	recordMap              // an executable range appeared
	recordFork             // a process or a thread was made
	recordExit             // a thread ended
	recordLost             // the ring was full
)

// record is one parsed kernel record.
type record struct {
	kind     recordKind
	time     uint64 // CLOCK_MONOTONIC, nanoseconds
	pid, tid uint32
	// ppid and ptid: the parent of a fork.
	ppid, ptid uint32
	lost       uint64
	mapping    Mapping // without Path
	// name is the comm or the path. It points into the parsed bytes; text is its copy.
	name []byte
	text string
}

var (
	errShortRecord = errors.New("record is shorter than its kind")
	errUntermed    = errors.New("name without an end")
)

// parseRecord reads one perf_event record, header included, as the kernel writes it with [sampleType]
// (include/uapi/linux/perf_event.h). Kinds that nobody asked for give recordOther.
func parseRecord(b []byte) (record, error) {
	if len(b) < headerSize {
		return record{}, errShortRecord
	}
	le := binary.NativeEndian
	kind, misc := le.Uint32(b), le.Uint16(b[4:])
	if len(b) < headerSize+sampleIDSize {
		return record{}, errShortRecord
	}
	id := b[len(b)-sampleIDSize:]
	body := b[headerSize : len(b)-sampleIDSize]
	r := record{time: le.Uint64(id[8:])}
	switch kind {
	case unix.PERF_RECORD_LOST:
		if len(body) < 16 {
			return record{}, errShortRecord
		}
		r.kind, r.lost = recordLost, le.Uint64(body[8:])
	case unix.PERF_RECORD_FORK, unix.PERF_RECORD_EXIT:
		if len(body) < 24 {
			return record{}, errShortRecord
		}
		r.kind = recordFork
		if kind == unix.PERF_RECORD_EXIT {
			r.kind = recordExit
		}
		r.pid, r.ppid = le.Uint32(body), le.Uint32(body[4:])
		r.tid, r.ptid = le.Uint32(body[8:]), le.Uint32(body[12:])
	case unix.PERF_RECORD_COMM:
		if len(body) < 8 {
			return record{}, errShortRecord
		}
		r.kind = recordComm
		if misc&unix.PERF_RECORD_MISC_COMM_EXEC != 0 {
			r.kind = recordExec
		}
		r.pid, r.tid = le.Uint32(body), le.Uint32(body[4:])
		end := bytes.IndexByte(body[8:], 0)
		if end < 0 {
			return record{}, errUntermed
		}
		r.name = body[8 : 8+end]
	case unix.PERF_RECORD_MMAP2:
		if len(body) < 64 {
			return record{}, errShortRecord
		}
		r.pid, r.tid = le.Uint32(body), le.Uint32(body[4:])
		addr, size := le.Uint64(body[8:]), le.Uint64(body[16:])
		prot := le.Uint32(body[56:])
		end := bytes.IndexByte(body[64:], 0)
		if end < 0 {
			return record{}, errUntermed
		}
		r.name = body[64 : 64+end]
		if prot&unix.PROT_EXEC == 0 || size == 0 || addr+size < addr {
			return r, nil
		}
		r.kind = recordMap
		r.mapping = Mapping{Start: addr, End: addr + size}
		if ino := le.Uint64(body[40:]); ino != 0 && misc&unix.PERF_RECORD_MISC_MMAP_BUILD_ID == 0 {
			r.mapping.Offset = le.Uint64(body[24:])
			r.mapping.File = FileID{
				Dev:        device(le.Uint32(body[32:]), le.Uint32(body[36:])),
				Inode:      ino,
				Generation: uint32(le.Uint64(body[48:])),
			}
		}
	}
	return r, nil
}

// device is the kernel's own MKDEV, not the C library's makedev.
func device(major, minor uint32) uint64 { return uint64(major)<<20 | uint64(minor&0xfffff) }
