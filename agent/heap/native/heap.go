package native

import "math"

// heap is what is known of one process's memory: which samples are live, and what each stack holds.
//
//	alloc ──▶ live ──free──▶ gone
//	           │ ▲
//	           │ └─ the kernel side has it, too
//	           └─ twice in a row it has not (the record of its free was lost), or another allocation is
//	              at its address: ──▶ gone, counted as reclaimed
type heap struct {
	rate   float64
	budget *budget
	stacks map[string]*stack  // by the frames' bytes; "": all that found no room
	live   map[uint64]*sample // by address
	// reclaimed counts samples whose free was never told.
	reclaimed uint64
}

// budget bounds the stacks of all processes together.
type budget struct {
	stacks, most int
	refused      uint64 // samples whose stack found no room
}

// stack is what one stack holds.
type stack struct {
	inuseObjects, inuseSize float64
	allocObjects, allocSize float64 // since they were last taken
	samples                 int     // live ones
}

type sample struct {
	id     uint64
	size   uint64
	at     *stack
	missed bool // the kernel side did not have it at the last sweep
}

func newHeap(rate uint64, b *budget) *heap {
	return &heap{rate: float64(rate), budget: b, stacks: map[string]*stack{}, live: map[uint64]*sample{}}
}

// weight is how many allocations of a size a sample of it stands for: one of size bytes is drawn with the probability
// 1 - e^(-size/rate).
func (h *heap) weight(size uint64) float64 {
	if size == 0 {
		return 0
	}
	return -1 / math.Expm1(-float64(size)/h.rate)
}

func (h *heap) stack(frames []byte) *stack {
	if s := h.stacks[string(frames)]; s != nil {
		return s
	}
	if h.budget.stacks >= h.budget.most {
		h.budget.refused++
		frames = nil
		if s := h.stacks[""]; s != nil {
			return s
		}
	}
	s := &stack{}
	h.stacks[string(frames)] = s
	h.budget.stacks++
	return s
}

// alloc notes a sampled allocation. One that the kernel side does not track counts as allocated only.
func (h *heap) alloc(addr, id, size uint64, tracked bool, frames []byte) {
	w := h.weight(size)
	s := h.stack(frames)
	s.allocObjects += w
	s.allocSize += w * float64(size)
	if old := h.live[addr]; old != nil {
		h.reclaimed++
		h.drop(addr, old)
	}
	if !tracked {
		return
	}
	s.inuseObjects += w
	s.inuseSize += w * float64(size)
	s.samples++
	h.live[addr] = &sample{id: id, size: size, at: s}
}

// free notes that a sample was freed. One that is not known is one whose allocation was lost.
func (h *heap) free(addr, id uint64) {
	if x := h.live[addr]; x != nil && x.id == id {
		h.drop(addr, x)
	}
}

func (h *heap) drop(addr uint64, x *sample) {
	delete(h.live, addr)
	s := x.at
	if s.samples--; s.samples == 0 {
		s.inuseObjects, s.inuseSize = 0, 0 // without what rounding left
		return
	}
	w := h.weight(x.size)
	s.inuseObjects -= w
	s.inuseSize -= w * float64(x.size)
}

// sweep compares with what the kernel side has, id by address. A record may be on its way in either direction: only what
// it lacks twice in a row is gone.
func (h *heap) sweep(kernel map[uint64]uint64) {
	for addr, x := range h.live {
		switch id, ok := kernel[addr]; {
		case ok && id == x.id:
			x.missed = false
		case x.missed:
			h.reclaimed++
			h.drop(addr, x)
		default:
			x.missed = true
		}
	}
}

// taken ends the time in which allocations are counted, and forgets stacks that hold nothing any more.
func (h *heap) taken() {
	for key, s := range h.stacks {
		s.allocObjects, s.allocSize = 0, 0
		if s.samples == 0 {
			delete(h.stacks, key)
			h.budget.stacks--
		}
	}
}

// close gives back what the heap took of the budget.
func (h *heap) close() {
	h.budget.stacks -= len(h.stacks)
	h.stacks, h.live = nil, nil
}
