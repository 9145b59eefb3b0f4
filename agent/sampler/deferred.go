package sampler

import (
	"encoding/binary"
	"runtime"
	"slices"
	"unsafe"

	"github.com/perfuse/perfuse/agent/unwind"
	"github.com/perfuse/perfuse/bpf/cpu"
	"github.com/perfuse/perfuse/profile"
)

// deferred is a sample whose user stack is walked here, because the kernel side did not know the process
// or one of its files yet. It happens in the first milliseconds of a process or of a file.
type deferred struct {
	key    cpu.Key
	time   uint64
	weight uint64 // what the sample counts
	kernel []cpu.Frame
	regs   []uint64 // by DWARF number
	ip     uint64
	code   uint64 // the first bytes at ip
	exact  bool
	stack  []byte            // memory from the stack pointer on
	chain  map[uint64]uint64 // words beyond it, by address
	labels []profile.Label   // that the program gave
	// retried says that this is the second attempt.
	retried bool
}

func parseDeferred(raw []byte) (deferred, bool) {
	const header = int(unsafe.Offsetof(cpu.Deferred{}.Stack))
	if len(raw) < header {
		return deferred{}, false
	}
	var d cpu.Deferred
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&d)), unsafe.Sizeof(d)), raw)
	if int(d.Record.FrameCount) > len(d.Kernel) || int(d.StackBytes) > len(raw)-header || int(d.StackBytes) > len(d.Stack) {
		return deferred{}, false
	}
	chain := map[uint64]uint64{}
	for _, l := range d.Chain {
		if l.At == 0 {
			break
		}
		chain[l.At], chain[l.At+8] = l.Fp, l.Ip
	}
	return deferred{
		chain:  chain,
		key:    d.Record.Key,
		time:   d.Record.Time,
		weight: uint64(d.Record.Weight),
		kernel: append([]cpu.Frame(nil), d.Kernel[:d.Record.FrameCount]...),
		regs:   append([]uint64(nil), d.Regs[:]...),
		ip:     d.Ip,
		code:   d.Code,
		exact:  d.Exact != 0,
		stack:  append([]byte(nil), d.Stack[:d.StackBytes]...),
	}, true
}

// The registers that a walk follows, by DWARF number.
var regFP, regSP, regLR = func() (fp, sp, lr uint8) {
	if runtime.GOARCH == "arm64" {
		return 29, 31, 30
	}
	return 6, 7, 16
}()

const maxWalk = 1024

// walker follows the same rules as bpf/include/unwind.h, over a copy of the stack.
type walker struct {
	s     *Sampler
	r     *running
	regs  []uint64
	known uint32
	base  uint64
	stack []byte
	chain map[uint64]uint64
	ip    uint64
	exact bool
	first bool   // the frame is the one at which the walk begins
	code  uint64 // the first bytes at ip in the first frame, else 0
}

// walk returns the kernel's frames and then the user's, the last one telling why the walk ended early, if it
// did. It wants the sampler's lock held.
func (s *Sampler) walk(d *deferred, r *running) []cpu.Frame {
	frames := slices.Clip(d.kernel)
	if r == nil {
		return append(frames, cpu.Frame{Addr: d.ip, Kind: cpu.FrameUser}, stopFrame(cpu.StopNoProcess))
	}
	w := walker{s: s, r: r, regs: slices.Clone(d.regs), known: ^uint32(0), base: d.regs[regSP], stack: d.stack, chain: d.chain, ip: d.ip, exact: d.exact, first: true, code: d.code}
	for range maxWalk {
		pc := w.ip
		if !w.exact {
			pc--
		}
		m := r.find(pc)
		if m == nil {
			return append(frames, cpu.Frame{Addr: pc, Kind: cpu.FrameUser}, stopFrame(cpu.StopNoMapping))
		}
		f := cpu.Frame{Addr: pc, Kind: cpu.FrameUser}
		if m.file != nil {
			f.Addr, f.Object = pc-m.bias, m.file.id
		}
		frames = append(frames, f)
		stop, done := w.step(m, f.Addr)
		if done {
			if stop != cpu.StopComplete {
				frames = append(frames, stopFrame(stop))
			}
			return frames
		}
	}
	return append(frames, stopFrame(cpu.StopTooDeep))
}

func stopFrame(s cpu.Stop) cpu.Frame { return cpu.Frame{Addr: uint64(s), Kind: cpu.FrameStopped} }

func (w *walker) step(m *mapped, addr uint64) (cpu.Stop, bool) {
	if m.file == nil {
		return w.framePointer(false)
	}
	o := &m.file.object
	if !w.exact && addr >= o.FpStart && addr < o.FpEnd && !(addr >= o.RowsStart && addr < o.RowsEnd) {
		return w.framePointer(true)
	}
	rule, err := w.s.files.tables.rule(m.file.object, addr)
	if err != nil {
		return cpu.StopPending, true
	}
	switch unwind.CFA(rule.Cfa) {
	case unwind.CFANone:
		return w.framePointer(false)
	case unwind.CFAEnd:
		return cpu.StopComplete, true
	case unwind.CFASignal:
		return w.signal()
	case unwind.CFAFramePointer:
		return w.framePointer(true)
	case unwind.CFAUnsupported:
		return cpu.StopUnsupported, true
	}
	return w.rule(rule, o.FpEnd != 0)
}

func (w *walker) word(at uint64) (uint64, bool) {
	off := at - w.base
	if at < w.base || off > uint64(len(w.stack)) || uint64(len(w.stack))-off < 8 {
		v, ok := w.chain[at]
		return v, ok
	}
	return binary.NativeEndian.Uint64(w.stack[off:]), true
}

func (w *walker) moved(ip, sp, fp uint64) (cpu.Stop, bool) {
	if ip == 0 {
		return cpu.StopComplete, true
	}
	w.ip = ip
	w.regs[regSP], w.regs[regFP] = sp, fp
	w.known = 1<<regSP | 1<<regFP
	w.exact, w.first, w.code = false, false, 0
	return 0, false
}

func (w *walker) framePointer(trusted bool) (cpu.Stop, bool) {
	fp, sp := w.regs[regFP], w.regs[regSP]
	if at, ok := w.unframed(); ok && w.exact && !trusted {
		if ip, ok := w.word(at); ok && w.r.find(ip-1) != nil {
			return w.moved(ip, at+8, fp)
		}
	}
	if fp == 0 {
		if w.exact && !trusted {
			return cpu.StopNoUnwind, true
		}
		return cpu.StopComplete, true
	}
	if fp&7 != 0 || fp < sp && !trusted {
		return cpu.StopNoUnwind, true
	}
	next, ok1 := w.word(fp)
	ip, ok2 := w.word(fp + 8)
	if !ok1 || !ok2 {
		return cpu.StopRead, true
	}
	if ip != 0 && w.r.find(ip-1) == nil {
		return cpu.StopNoUnwind, true
	}
	return w.moved(ip, fp+16, next)
}

// unframed looks at the interrupted instruction: where the frame is not set up yet, or gone already, it returns
// where the return address is.
func (w *walker) unframed() (at uint64, ok bool) {
	if runtime.GOARCH != "amd64" {
		return 0, false
	}
	sp := w.regs[regSP]
	switch c := w.code; {
	case c&0xff == 0x55, c&0xff == 0xc3, c&0xff == 0xc2, c&0xffffffff == 0xfa1e0ff3: // push rbp, ret, endbr64
		return sp, true
	case c&0xffffff == 0xe58948: // mov rbp, rsp
		return sp + 8, true
	}
	return 0, false
}

func (w *walker) signal() (cpu.Stop, bool) {
	if runtime.GOARCH != "amd64" {
		return cpu.StopUnsupported, true
	}
	// The order of the registers in the kernel's signal frame, as DWARF numbers; the last one is ip.
	order := [...]uint8{8, 9, 10, 11, 12, 13, 14, 15, 5, 4, 6, 3, 1, 0, 2, 7, 16}
	at := w.regs[regSP] + 40
	for i, reg := range order {
		v, ok := w.word(at + uint64(i)*8)
		if !ok {
			return cpu.StopRead, true
		}
		if reg == 16 {
			w.ip = v
		} else {
			w.regs[reg] = v
		}
	}
	w.known = ^uint32(0)
	w.exact = true
	return cpu.StopComplete, w.ip == 0
}

func (w *walker) rule(r cpu.Rule, switches bool) (cpu.Stop, bool) {
	sp, fp := w.regs[regSP], w.regs[regFP]
	var cfa uint64
	if unwind.CFA(r.Cfa) == unwind.CFAPLT {
		cfa = sp + 8
		if w.ip&15 >= uint64(uint32(r.Extra)) {
			cfa += 8
		}
	} else {
		if int(r.Reg) >= len(w.regs) || w.known>>r.Reg&1 == 0 {
			return cpu.StopRegister, true
		}
		cfa = w.regs[r.Reg] + uint64(int64(r.Offset))
		if unwind.CFA(r.Cfa) == unwind.CFADeref {
			v, ok := w.word(cfa)
			if !ok {
				return cpu.StopRead, true
			}
			cfa = v + uint64(int64(r.Extra))
		}
	}
	if (cfa < sp || cfa == sp && !w.exact && !w.first) && !(switches && r.Reg != regSP) {
		return cpu.StopNoProgress, true
	}
	var ip uint64
	switch unwind.Save(r.Ra) {
	case unwind.SaveUndefined:
		return cpu.StopComplete, true
	case unwind.SaveOffset:
		v, ok := w.word(cfa + uint64(int64(r.RaOff)))
		if !ok {
			return cpu.StopRead, true
		}
		ip = v
	case unwind.SaveRegister:
		if int(r.RaOff) >= len(w.regs) || w.known>>r.RaOff&1 == 0 {
			return cpu.StopRegister, true
		}
		ip = w.regs[r.RaOff]
	default:
		if int(regLR) >= len(w.regs) || w.known>>regLR&1 == 0 {
			return cpu.StopRegister, true
		}
		ip = w.regs[regLR]
	}
	switch unwind.Save(r.Fp) {
	case unwind.SaveOffset, unwind.SaveAtFP:
		at := cfa
		if unwind.Save(r.Fp) == unwind.SaveAtFP {
			at = fp
		}
		v, ok := w.word(at + uint64(int64(r.FpOff)))
		if !ok {
			return cpu.StopRead, true
		}
		fp = v
	case unwind.SaveUndefined:
		fp = 0
	}
	return w.moved(ip, cfa, fp)
}
