package sampler

import (
	"testing"
	"time"

	"github.com/perfuse/perfuse/bpf/cpu"
	"github.com/perfuse/perfuse/profile"
)

// TestHoldOnce: what waits at one place for many requests is held once, until the last of them is forgotten.
func TestHoldOnce(t *testing.T) {
	d := drain{held: map[cpu.Key]held{}, heldStacks: map[uint64]*heldStack{}}
	now := time.Unix(100, 0)
	stacks := map[cpu.Key]seen{}
	for i := range 100 {
		stacks[cpu.Key{Event: cpu.EventWait, Stack: 1, SpanId: [8]uint8{uint8(i)}}] = seen{frames: kernelFrames(0x1010)}
	}
	none := map[uint64][]profile.Label{}
	d.hold(map[cpu.Key]uint64{}, stacks, none, now)
	if len(d.held) != 100 || d.heldFrames != 1 {
		t.Errorf("%d waits with %d frames are held, want 100 with 1", len(d.held), d.heldFrames)
	}
	last := cpu.Key{Event: cpu.EventWait, Stack: 1}
	now = now.Add(holdFor)
	d.hold(map[cpu.Key]uint64{last: 7}, map[cpu.Key]seen{}, none, now)
	again := map[cpu.Key]seen{}
	d.hold(map[cpu.Key]uint64{last: 7}, again, none, now.Add(1))
	if len(d.held) != 1 || d.heldFrames != 1 || len(again[last].frames) != 1 {
		t.Errorf("%d waits with %d frames are held, want the last one; its stack is %v", len(d.held), d.heldFrames, again[last])
	}
	d.hold(map[cpu.Key]uint64{}, map[cpu.Key]seen{}, none, now.Add(2*holdFor))
	if len(d.held) != 0 || d.heldFrames != 0 || len(d.heldStacks) != 0 {
		t.Errorf("%d waits with %d frames in %d stacks are still held", len(d.held), d.heldFrames, len(d.heldStacks))
	}
}
