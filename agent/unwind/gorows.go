package unwind

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"strings"

	"github.com/perfuse/perfuse/profile"
)

// maxGoSteps bounds the work that many functions with one long table can make.
const maxGoSteps = 64 << 20

// compileGo makes rows of pclntab. Its functions come before all others. A file without Go is no error.
//
// On amd64 the frame of a Go function is
//
//	CFA-8   return address
//	CFA-16  the caller's rbp, unless the function has no frame (a leaf) or is assembly that does without
//	...
//	rsp     = CFA - 8 - delta, the delta being what pclntab's pcsp says
//
// and on arm64
//
//	CFA         = sp + delta
//	sp          return address, once delta is not 0
//	sp-8        the caller's x29
func compileGo(im *image, b *builder) (*GoInfo, []Range, error) {
	p, err := openPclntab(im)
	if err != nil {
		return nil, nil, nil
	}
	if n := p.funcs - p.pctab; n > maxPctab {
		b.stats.Bad++
		return nil, nil, nil
	}
	p.tab = make([]byte, min(p.funcs-p.pctab, p.size))
	p.tab = p.tab[:im.readAt(p.tab, p.addr+p.pctab)]
	first, end, ok := p.bounds()
	if !ok {
		return nil, nil, nil
	}
	g := &goCompiler{
		im: im, b: b, p: p, arm64: im.machine == elf.EM_AARCH64,
		info: &GoInfo{
			Version:  goVersion(im),
			Text:     Range{profile.Addr(p.text + first), profile.Addr(p.text + end)},
			Switches: map[string]Range{},
		},
	}
	b.expect(p.size / 8)
	p.each(func(f goFunc) bool {
		err = g.function(&f)
		return err == nil
	})
	if err != nil {
		return nil, nil, err
	}
	g.keep(g.info.Text.End)
	systemstack := g.info.Switches["systemstack"]
	g.info.Labels = findGoLabels(g.arm64, g.info.Version, g.rangeCode(systemstack), g.rangeCode(g.setLabel))
	return g.info, g.chains, nil
}

// goCompiler makes rows of Go functions.
type goCompiler struct {
	im    *image
	b     *builder
	p     *pclntab
	arm64 bool
	info  *GoInfo
	steps int

	setLabel Range // the function that gives labels to a goroutine

	chains []Range // where frame pointers can be followed
	from   profile.Addr
}

// switches are the functions of the runtime that leave the stack they are called on, or are entered
// without a call.
var switches = map[string]bool{
	"systemstack": true, "mcall": true, "morestack": true, "gogo": true, "asmcgocall": true,
	"cgocallback": true, "switchToCrashStack0": true, "asyncPreempt": true, "sigpanic": true, "goexit": true,
	"mstart": true, "sigtramp": true, "cgoSigtramp": true,
}

// roots are the functions at which stacks end; newer toolchains also say so by a flag.
var roots = map[string]bool{
	"runtime.goexit": true, "runtime.mstart": true, "runtime.rt0_go": true,
	"_rt0_amd64_linux": true, "_rt0_amd64": true, "_rt0_arm64_linux": true,
}

// broken ends a range of functions whose frame pointers can be followed before fn.
func (g *goCompiler) broken(f *goFunc) {
	g.keep(profile.Addr(f.start))
	g.from = profile.Addr(f.end)
}

func (g *goCompiler) keep(end profile.Addr) {
	if g.from == 0 {
		g.from = g.info.Text.Start
	}
	if end > g.from {
		g.chains = append(g.chains, Range{g.from, end})
	}
}

func (g *goCompiler) function(f *goFunc) error {
	if f.start == f.end {
		return nil
	}
	if f.end-f.start >= 1<<32 || !g.im.executable(f.start, f.end) {
		g.b.stats.Bad++
		return nil
	}
	name := ""
	if b := g.p.name(f.nameOff); bytes.HasPrefix(b, []byte("runtime.")) || bytes.HasPrefix(b, []byte("_rt0_")) || string(b) == "gogo" {
		name = string(b) // all others are treated alike
	} else if string(b) == setProfLabel {
		g.setLabel = Range{profile.Addr(f.start), profile.Addr(f.end)}
	}
	if short := strings.TrimPrefix(name, "runtime."); switches[short] {
		// Wrappers between calling conventions have the same names. They are no assembly.
		// runtime.gogo is but the entry of gogo.
		if _, ok := g.info.Switches[short]; !ok || f.flag&goFlagAsm != 0 && name != "runtime.gogo" {
			g.info.Switches[short] = Range{profile.Addr(f.start), profile.Addr(f.end)}
		}
	}
	switch {
	case name == "runtime.sigreturn__sigaction" || name == "runtime.sigreturn":
		// The kernel "returns" to its first byte, so the lookup of a caller falls one byte before it. That
		// byte belongs to padding, or else to this function all the same: it goes first.
		g.broken(f)
		s := f.start - 1
		g.b.begin(s, f.end)
		g.b.spans[len(g.b.spans)-1].seq = 0
		g.b.add(0, Rule{CFA: CFASignal})
		return g.b.end()
	case roots[name], f.flag&goFlagTop != 0 && name != "runtime.sigtramp":
		g.broken(f)
		g.b.begin(f.start, f.end)
		g.b.add(0, Rule{CFA: CFAEnd})
		return g.b.end()
	}
	g.b.begin(f.start, f.end)
	var broken bool
	if g.arm64 {
		broken = g.arm64Rows(f, name)
	} else {
		broken = g.amd64Rows(f, name)
	}
	if broken {
		g.broken(f)
	}
	if g.steps > maxGoSteps {
		return errTooLarge
	}
	return g.b.end()
}

// amd64Rows adds the rows of a function. It says whether frame pointers cannot be followed through it.
func (g *goCompiler) amd64Rows(f *goFunc, name string) bool {
	var sw spWrites
	broken := false
	if f.flag&(goFlagSPWrite|goFlagAsm) != 0 {
		sw = findSPWrites(g.code(f.start, min(f.end-f.start, maxSPWriteBytes)))
		if strings.HasPrefix(name, "runtime.") {
			sw.rbpLost = false // systemstack loads it from where it has put it
		}
		// crosscall2 makes two frames, of which rbp points to the inner one.
		broken = sw.rbpLost && sw.calls
		if f.flag&goFlagSPWrite == 0 {
			sw = spWrites{}
		}
	}
	var (
		framed   bool   // the first row with a frame has been seen
		saved    uint64 // where rbp has been saved from on; 0: it is not
		pointer  uint64 // where rbp points to this frame from on
		hasFrame bool
	)
	add := func(pc uint64, delta int32) {
		r := Rule{CFA: CFARegister, Reg: dwarfRSP, Offset: delta + 8, RA: SaveOffset, RAOff: -8}
		if delta > 0 && saved != 0 && pc >= saved {
			r.FP, r.FPOff = SaveOffset, -16
			if f.flag&goFlagSPWrite != 0 && pc >= pointer {
				// The stack pointer may point anywhere; the frame pointer stays.
				r.Reg, r.Offset = dwarfRBP, 16
				if sw.rbpLost {
					r = Rule{CFA: CFAUnsupported}
				}
			}
		}
		if sw.gone != 0 && pc >= f.start+sw.gone || delta < 0 {
			switch {
			case delta < 0:
				r = g.vforkRule(pc, delta)
			case sw.bare && (name == "runtime.systemstack" || name == "runtime.asmcgocall"):
				// Without a frame before Go 1.21: rbp is still the caller's, whose caller comes next. One
				// frame is lost, the rest of the stack is not.
				r = Rule{CFA: CFARegister, Reg: dwarfRBP, Offset: 16, RA: SaveOffset, RAOff: -8, FP: SaveOffset, FPOff: -16}
			default:
				r = Rule{CFA: CFAEnd}
			}
		}
		g.b.add(uint32(pc-f.start), r)
	}
	g.steps += g.p.deltas(f, func(from, to uint64, delta int32) bool {
		if delta > 0 && !framed {
			framed = true
			saved, pointer = g.savesRBP(from, delta)
			hasFrame = saved != 0
		}
		add(from, delta)
		cuts := [3]uint64{saved, pointer, 0}
		if sw.gone != 0 {
			cuts[2] = f.start + sw.gone
		}
		if delta <= 0 {
			cuts[0], cuts[1] = 0, 0
		}
		if cuts[0] > cuts[1] {
			cuts[0], cuts[1] = cuts[1], cuts[0]
		}
		if cuts[1] > cuts[2] {
			cuts[1], cuts[2] = cuts[2], cuts[1]
		}
		if cuts[0] > cuts[1] {
			cuts[0], cuts[1] = cuts[1], cuts[0]
		}
		for _, at := range cuts {
			if at > from && at < to {
				add(at, delta)
			}
		}
		g.end(f, to)
		return true
	})
	return broken || framed && !hasFrame || sw.gone != 0 || sw.rbpLost
}

// vforkRule is for the code in which syscall.rawVforkSyscall has popped its return address into r12, because parent and
// child return over the same stack.
func (g *goCompiler) vforkRule(pc uint64, delta int32) Rule {
	if code := g.code(pc-2, 2); delta != -8 || !bytes.Equal(code, []byte{0x41, 0x5c}) {
		return Rule{CFA: CFAUnsupported}
	}
	return Rule{CFA: CFARegister, Reg: dwarfRSP, RA: SaveRegister, RAOff: dwarfR12}
}

// end says that nothing is known from an address on, unless another row follows there.
func (g *goCompiler) end(f *goFunc, at uint64) {
	if at < f.end {
		g.b.add(uint32(at-f.start), NoInfo)
	}
}

func (g *goCompiler) code(at, n uint64) []byte { return g.p.code.at(at, int(n)) }

func (g *goCompiler) rangeCode(r Range) []byte {
	return bytes.Clone(g.code(uint64(r.Start), uint64(min(r.End-r.Start, maxSPWriteBytes))))
}

// savesRBP looks at how a function whose stack grew by delta, by the instruction before pc, keeps its
// caller's frame pointer: where it has been saved from on, and where rbp points to it from on.
//
//	since Go 1.21: push rbp; mov rbp,rsp; sub rsp,SIZE
//	before:        sub rsp,SIZE; mov [rsp+SIZE-8],rbp; lea rbp,[rsp+SIZE-8]
func (g *goCompiler) savesRBP(pc uint64, delta int32) (saved, pointer uint64) {
	b := g.code(pc-1, 20)
	if len(b) < 20 {
		return 0, 0
	}
	if delta == 8 && b[0] == 0x55 {
		saved, pointer = pc, pc+3
		if !bytes.Equal(b[1:4], []byte{0x48, 0x89, 0xe5}) {
			pointer = ^uint64(0)
		}
		return saved, pointer
	}
	for i := 1; i < 9; { // one instruction may stand between: cld
		switch {
		case b[i] == 0xfc:
			i++
		case b[i] == 0x48 && b[i+1] == 0x89 && b[i+2] == 0x6c && b[i+3] == 0x24 && int32(int8(b[i+4])) == delta-8:
			return pc + uint64(i-1) + 5, pc + uint64(i-1) + 10
		case b[i] == 0x48 && b[i+1] == 0x89 && b[i+2] == 0xac && b[i+3] == 0x24 && int32(binary.LittleEndian.Uint32(b[i+4:])) == delta-8:
			return pc + uint64(i-1) + 8, pc + uint64(i-1) + 16
		default:
			return 0, 0
		}
	}
	return 0, 0
}

// arm64Rows is amd64Rows for arm64.
func (g *goCompiler) arm64Rows(f *goFunc, name string) (broken bool) {
	gone := f.flag&goFlagSPWrite != 0 && (name == "runtime.mcall" || name == "runtime.morestack" || name == "runtime.gogo" || name == "gogo")
	g.steps += g.p.deltas(f, func(from, to uint64, delta int32) bool {
		r := Rule{CFA: CFARegister, Reg: 31, Offset: delta}
		switch {
		case gone:
			r = Rule{CFA: CFAEnd}
		case delta < 0 || !fits16(int64(-delta)-8):
			r = Rule{CFA: CFAUnsupported}
		case delta > 0:
			r.RA, r.RAOff = SaveOffset, int16(-delta)
			r.FP, r.FPOff = SaveOffset, int16(-delta-8)
			if f.flag&goFlagSPWrite != 0 {
				r.Reg, r.Offset = dwarfX29, delta+8
			}
		}
		g.b.add(uint32(from-f.start), r)
		g.end(f, to)
		return true
	})
	return gone
}

// goVersion reads the toolchain's version from .go.buildinfo:
//
//	"\xff Go buildinf:", pointer size u8, flags u8; flag 2: at 32 the version, its length first;
//	else at 16 a pointer to a pointer and a length
func goVersion(im *image) string {
	s, ok := im.section(".go.buildinfo")
	if !ok {
		return ""
	}
	h := make([]byte, 32+256)
	h = h[:im.readAt(h, s.addr)]
	if len(h) < 32 || string(h[:14]) != "\xff Go buildinf:" {
		return ""
	}
	v := h[32:]
	if h[15]&2 != 0 {
		n, k := binary.Uvarint(v)
		if k <= 0 || n > uint64(len(v)-k) {
			return ""
		}
		v = v[k : k+int(n)]
	} else {
		var str [16]byte
		if h[14] != 8 || im.readAt(str[:], binary.LittleEndian.Uint64(h[16:])) < 16 {
			return ""
		}
		n := binary.LittleEndian.Uint64(str[8:])
		if n > 255 {
			return ""
		}
		v = v[:0]
		v = append(v, make([]byte, n)...)
		v = v[:im.readAt(v, binary.LittleEndian.Uint64(str[:]))]
	}
	if !strings.HasPrefix(string(v), "go") && !strings.HasPrefix(string(v), "devel") {
		return ""
	}
	return string(v)
}
