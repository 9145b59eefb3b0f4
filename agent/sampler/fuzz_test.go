package sampler

import (
	"testing"
	"unicode/utf8"
	"unsafe"

	"github.com/perfuse/perfuse/bpf/cpu"
)

func bytesOf[T any](v *T) []byte {
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))...)
}

// FuzzRecords: whatever lies in the ring, also where a program's labels are cut in the middle of a character.
func FuzzRecords(f *testing.F) {
	var labels cpu.LabelRecord
	labels.Record.FrameCount = 2
	for i, r := range "tenant" {
		labels.Labels[0].Key[i] = int8(r)
	}
	labels.Labels[0].KeyBytes = 6
	labels.Labels[0].Value[0], labels.Labels[0].ValueBytes = -30, 1 // the first byte of a €
	labels.Labels[1].ValueBytes = 1 << 31
	f.Add(bytesOf(&labels))
	var d cpu.Deferred
	d.Record.FrameCount, d.StackBytes = 1, 64
	d.Chain[0].At, d.Chain[0].Fp = 0x7fff0000, 0x7fff0010
	whole := bytesOf(&d)
	f.Add(whole)
	f.Add(whole[:len(whole)-len(d.Stack)+64])
	f.Add(whole[:8])
	f.Fuzz(func(t *testing.T, raw []byte) {
		if ls, ok := parseLabels(raw); ok {
			for _, l := range ls {
				if !utf8.ValidString(l.Name + l.Value) {
					t.Errorf("the label %q", l)
				}
			}
		}
		if d, ok := parseDeferred(raw); ok && len(d.stack) > len(raw) {
			t.Errorf("%d bytes of stack in a record of %d", len(d.stack), len(raw))
		}
	})
}
