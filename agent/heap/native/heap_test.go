package native

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/cockroachdb/datadriven"

	"github.com/perfuse/perfuse/bpf/cpu"
	"github.com/perfuse/perfuse/bpf/memory"
)

// TestHeap plays transcripts: what the kernel side tells, what it knows at a sweep, and what the heap makes of it.
func TestHeap(t *testing.T) {
	datadriven.Walk(t, "testdata/heap", func(t *testing.T, path string) {
		var h *heap
		var b budget
		frames := func(d *datadriven.TestData) []byte {
			var name string
			d.ScanArgs(t, "stack", &name)
			var out []byte
			for _, c := range []byte(name) {
				out = append(out, rawFrame(cpu.Frame{Addr: uint64(c)})...)
			}
			return out
		}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var addr, id, size, rate, most uint64
			number := func(name string, to *uint64) {
				if d.HasArg(name) {
					d.ScanArgs(t, name, to)
				}
			}
			number("addr", &addr)
			number("id", &id)
			number("size", &size)
			number("rate", &rate)
			number("stacks", &most)
			switch d.Cmd {
			case "new":
				b = budget{most: int(most)}
				h = newHeap(rate, &b)
			case "alloc":
				h.alloc(addr, id, size, !d.HasArg("untracked"), frames(d))
			case "free":
				h.free(addr, id)
			case "sweep": // lines "ADDR ID" of what the kernel side knows
				kernel := map[uint64]uint64{}
				for line := range strings.Lines(d.Input) {
					var a, i uint64
					if _, err := fmt.Sscan(line, &a, &i); err != nil {
						t.Fatal(err)
					}
					kernel[a] = i
				}
				h.sweep(kernel)
			case "taken":
				h.taken()
			case "close":
				h.close()
			default:
				t.Fatalf("unknown command %s", d.Cmd)
			}
			return show(h)
		})
	})
}

func show(h *heap) string {
	var out []string
	for key, s := range h.stacks {
		name := ""
		for _, f := range parseFrames([]byte(key)) {
			name += string(rune(f.Addr))
		}
		out = append(out, fmt.Sprintf("%q live %d samples %.2f objects %.0f bytes, allocated %.2f objects %.0f bytes\n",
			name, s.samples, s.inuseObjects, s.inuseSize, s.allocObjects, s.allocSize))
	}
	slices.Sort(out)
	out = append(out, fmt.Sprintf("%d live, %d reclaimed, %d stacks, %d refused\n", len(h.live), h.reclaimed, h.budget.stacks, h.budget.refused))
	return strings.Join(out, "")
}

func rawFrame(f cpu.Frame) []byte {
	b := binary.NativeEndian.AppendUint64(nil, f.Addr)
	b = binary.NativeEndian.AppendUint32(b, f.Object)
	return binary.NativeEndian.AppendUint32(b, f.Kind)
}

// rawAlloc is a record as the kernel side makes it.
func rawAlloc(a memory.Alloc, frames int) []byte {
	a.Event.Kind, a.FrameCount = memory.KindAlloc, uint32(frames)
	b := slices.Clone(unsafe.Slice((*byte)(unsafe.Pointer(&a)), allocBytes))
	for i := range frames {
		b = append(b, rawFrame(cpu.Frame{Addr: uint64(i), Object: 1})...)
	}
	return b
}

func rawFree(e memory.Event) []byte {
	e.Kind = memory.KindFree
	return slices.Clone(unsafe.Slice((*byte)(unsafe.Pointer(&e)), eventBytes))
}

func TestDecode(t *testing.T) {
	whole := rawAlloc(memory.Alloc{Event: memory.Event{Watch: 3, Id: 7, Addr: 0x1000}, Size: 64}, 2)
	for _, c := range []struct {
		name   string
		raw    []byte
		ok     bool
		frames int
	}{
		{"an allocation", whole, true, 2},
		{"rounded up by the ring", append(slices.Clone(whole), 0, 0, 0, 0), true, 2},
		{"cut in its frames", whole[:len(whole)-1], false, 0},
		{"cut in its head", whole[:allocBytes-1], false, 0},
		{"cut in its kind", whole[:3], false, 0},
		{"nothing", nil, false, 0},
		{"more frames than there can be", rawAlloc(memory.Alloc{}, maxFrames+1), false, 0},
		{"as many as there can be", rawAlloc(memory.Alloc{}, maxFrames), true, maxFrames},
		{"a free", rawFree(memory.Event{Id: 7, Addr: 0x1000}), true, 0},
		{"an unknown kind", append([]byte{9}, make([]byte, 100)...), false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, ok := decode(c.raw)
			if ok != c.ok {
				t.Fatalf("decoded %v, want %v", ok, c.ok)
			}
			if got := len(parseFrames(r.frames)); ok && got != c.frames {
				t.Errorf("%d frames, want %d", got, c.frames)
			}
		})
	}
	r, _ := decode(whole)
	if r.Event.Watch != 3 || r.Event.Id != 7 || r.Event.Addr != 0x1000 || r.Size != 64 || parseFrames(r.frames)[1].Addr != 1 {
		t.Errorf("got %+v", r)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(rawAlloc(memory.Alloc{Size: 1 << 40}, 3))
	f.Add(rawFree(memory.Event{Id: 1, Addr: 8}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, ok := decode(raw)
		if !ok {
			return
		}
		h := newHeap(512<<10, &budget{most: 1})
		if r.alloc {
			h.alloc(r.Event.Addr, r.Event.Id, r.Size, r.Untracked == 0, r.frames)
			if len(parseFrames(r.frames)) != int(r.FrameCount) {
				t.Errorf("%d frames of %d", len(parseFrames(r.frames)), r.FrameCount)
			}
		}
		h.free(r.Event.Addr, r.Event.Id)
		for key, s := range h.stacks {
			if s.samples != 0 || s.inuseSize != 0 {
				t.Errorf("what was freed is live at %s", strconv.Quote(key))
			}
		}
	})
}
