package goheap

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"golang.org/x/arch/x86/x86asm"
)

// FuzzFind changes and cuts a stripped program. What is found must lie in what the file says it has.
func FuzzFind(f *testing.F) {
	program := withoutSymbols(f, build(f, "local", "removed", []string{"GOARCH=amd64"}))
	section := binary.LittleEndian.Uint64(program[40:]) // the table of sections
	f.Add(uint64(0), []byte{}, uint64(0))
	f.Add(uint64(32), bytes.Repeat([]byte{0xff}, 16), uint64(0))
	f.Add(section, bytes.Repeat([]byte{0xff}, 64), uint64(0))
	f.Add(section+64+24, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, uint64(0))
	f.Add(uint64(0), []byte{}, uint64(len(program)/2))
	f.Add(uint64(0), []byte{}, uint64(len(program)-1))
	if i := bytes.Index(program, []byte{0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8}); i > 0 { // pclntab
		f.Add(uint64(i+8), []byte{0xff, 0xff, 0xff, 0xff}, uint64(0))
		f.Add(uint64(i+32), bytes.Repeat([]byte{0x7f}, 40), uint64(0))
	}
	f.Fuzz(func(t *testing.T, at uint64, patch []byte, cut uint64) {
		b := bytes.Clone(program)
		if at < uint64(len(b)) {
			copy(b[at:], patch)
		}
		if cut != 0 && cut < uint64(len(b)) {
			b = b[:cut]
		}
		l, err := findBytes(b)
		if err == nil && (l.buckets == 0 || l.cycle == 0 || l.rate == 0) {
			t.Errorf("%+v", l)
		}
	})
}

// FuzzRead walks whatever memory, twice, in bounds.
func FuzzRead(f *testing.F) {
	add := func(m *memory) { f.Add(m.b, uint64(bucketBase)) }
	m := newMemory(512<<10, 4)
	for i := range 20 {
		m.push(16, []uint64{uint64(i), memoryBase + 40, 3}, [2]uint64{5, 3}, [2]uint64{}, [2]uint64{1, 0}, [2]uint64{2, 2})
	}
	add(m)
	m = newMemory(1, 0)
	first := m.push(16, []uint64{1}, [2]uint64{5, 3})
	m.word(first+8, uint64(m.push(32, nil)))
	add(m)
	// Two goroutines: one in a call, one whose frame pointers go round.
	m = newMemory(1, 0)
	m.b = append(m.b, make([]byte, 2*pageSize)...)
	const g, stack = bucketBase + 512, bucketBase + 4096
	for at, w := range map[int]uint64{
		memoryBase + 64: bucketBase, memoryBase + 72: 2, memoryBase + 80: 2, bucketBase: g, bucketBase + 8: g + 256,
		g: stack, g + 8: stack + 1024, g + schedSP: stack + 512, g + schedPC: 77, g + 96: stack + 520, g + 144: statusWaiting,
		g + 256: stack, g + 264: stack + 1024, g + 256 + schedSP: stack, g + 256 + schedPC: 77, g + 256 + 96: stack, g + 256 + 144: statusSyscall,
		stack + 520: stack + 600, stack + 528: 88, stack + 608: 99, stack: stack, stack + 8: 1,
	} {
		m.word(at, w)
	}
	if gs, err := (&Reader{layout: &Layout{scheduler: &scheduler{all: memoryBase + 64, status: 144, bp: 96, syscalls: true}}, mem: m, now: time.Now}).Goroutines(Limits{}); err != nil ||
		fmt.Sprint(*gs) != "{[{[77 88 99] 1}] 1 true }" {
		f.Fatalf("%+v, %v", gs, err)
	}
	add(m)
	// A table that leads from each inlined call to the next, through many steps.
	m = newMemory(1, 0)
	m.push(16, []uint64{memoryBase + 9000, memoryBase + 9001}, [2]uint64{5, 3})
	m.b = append(m.b, bytes.Repeat([]byte{2, 1}, 8<<10)...)
	add(m)
	f.Fuzz(func(t *testing.T, b []byte, at uint64) {
		if len(b) < pageSize {
			b = append(b, make([]byte, pageSize-len(b))...)
		}
		m := &memory{b: b}
		reads := 0
		m.hook = func(_, n int) { reads += n }
		// The tables are somewhere in the same memory.
		l := &Layout{rate: rateAddr, cycle: cycleAddr, buckets: bucketsAddr, table: table{
			start: at % (1 << 40), text: memoryBase, funcdata: at % (1 << 20), functions: 1 + at%1000, quantum: 1, names: 64, pctab: at % 512, functable: at % 4096,
		}}
		l.scheduler = &scheduler{all: memoryBase + 64, status: 144, bp: 96, syscalls: true}
		r := NewReader(l, m, 0)
		r.now = func() time.Time { return time.Time{} }
		for range 2 {
			p, err := r.Read(Limits{Buckets: 1000, Bytes: 2 << 20})
			if (p == nil) == (err == nil) {
				t.Fatalf("%v, %v", p, err)
			}
			if p == nil {
				continue
			}
			for i := range p.Buckets {
				b := &p.Buckets[i]
				if b.Frees > b.Allocs || b.FreeBytes > b.AllocBytes || b.Frees < 0 || b.FreeBytes < 0 || len(b.Stack) > maxStack {
					t.Errorf("%+v", b)
				}
				if objects, bytes := b.InUse(p.Rate); objects < 0 || bytes < 0 {
					t.Errorf("%d objects, %d bytes of %+v", objects, bytes, b)
				}
			}
			if len(p.Buckets) > 1000 || p.Complete != (p.Reason == "") {
				t.Errorf("%d buckets, %v %q", len(p.Buckets), p.Complete, p.Reason)
			}
		}
		gs, err := r.Goroutines(Limits{Goroutines: 1000, Bytes: 1 << 20})
		if (gs == nil) == (err == nil) {
			t.Fatalf("%v, %v", gs, err)
		}
		if gs != nil {
			total := gs.Running
			for _, s := range gs.Stacks {
				total += s.Count
				if len(s.Stack) == 0 || len(s.Stack) > maxGoroutineFrames {
					t.Errorf("%+v", s)
				}
			}
			if total > 1000 || gs.Complete != (gs.Reason == "") {
				t.Errorf("%d goroutines, %v %q", total, gs.Complete, gs.Reason)
			}
		}
		if reads > 3*(2<<20+1<<20) {
			t.Errorf("%d bytes read", reads)
		}
	})
}

// FuzzCode reads whatever code.
func FuzzCode(f *testing.F) {
	// mov rcx, [rip+16]; cmp byte [rip+1], 0; je +11; mov qword [rip+2], 0
	f.Add([]byte{0x48, 0x8b, 0x0d, 16, 0, 0, 0, 0x80, 0x3d, 1, 0, 0, 0, 0, 0x74, 11, 0x48, 0xc7, 0x05, 2, 0, 0, 0, 0, 0, 0, 0}, uint64(0x1000))
	// cmp qword [rax+16], 1; mov rcx, [rax+40]; lea rax, [rax+48]; ret
	f.Add([]byte{0x48, 0x83, 0x78, 0x10, 1, 0x48, 0x8b, 0x48, 0x28, 0x48, 0x8d, 0x40, 0x30, 0xc3}, uint64(0))
	// adrp x1; add x1, x1, 8; ldar x1, [x1]
	f.Add([]byte{0x01, 0x0d, 0x00, 0xb0, 0x21, 0x20, 0x00, 0x91, 0x21, 0xfc, 0xdf, 0xc8}, uint64(0x3a98c))
	f.Fuzz(func(t *testing.T, code []byte, at uint64) {
		for _, m := range []machine{{arm64: false}, {arm64: true}} {
			for _, size := range []int{4, 8} {
				if addr, ok := m.firstLoad(code, at, size); ok && addr == 0 && !m.arm64 {
					t.Errorf("%#x", addr)
				}
			}
			m.zeroedIf(code, at)
			if s := findScheduler(m, "go1.23", code, at, code); s != nil && (s.status > maxGoroutine-4 || s.bp > maxGoroutine-8) {
				t.Errorf("%+v", s)
			}
			m.knownRecord(code, code)
		}
		n := 0
		eachX86(code, func(off int, in x86asm.Inst) bool {
			if off < n || off >= len(code) {
				t.Errorf("instruction at %d after %d", off, n)
			}
			n = off + in.Len
			return true
		})
	})
}
