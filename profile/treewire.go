package profile

import (
	"encoding/binary"
	"fmt"
)

// AppendNodes appends the tree's nodes as they travel: depth-first, each node three unsigned varints: number
// of children, index into Frames, self value (a negative one as its two's complement).
func (t *Tree) AppendNodes(dst []byte) []byte { return t.appendNodes(dst, nil) }

// AppendNodes appends the nodes as [Tree.AppendNodes] does, each with a fourth varint: the self value before
// comes third, the one after fourth.
func (d *DiffTree) AppendNodes(dst []byte) []byte { return d.appendNodes(dst, d.BeforeSelf) }

func (t *Tree) appendNodes(dst []byte, before []int64) []byte {
	for i, end := range t.End {
		children := uint64(0)
		for c := uint32(i) + 1; c < end; c = t.End[c] {
			children++
		}
		dst = binary.AppendUvarint(dst, children)
		dst = binary.AppendUvarint(dst, uint64(t.Frame[i]))
		if before != nil {
			dst = binary.AppendUvarint(dst, uint64(before[i]))
		}
		dst = binary.AppendUvarint(dst, uint64(t.Self[i]))
	}
	return dst
}

// DecodeNodes makes a tree from what AppendNodes wrote and the tables that nodes refer to, which the tree
// keeps. It checks everything that a Tree promises except the order of siblings; memory is at most 8 bytes
// per byte of nodes.
func DecodeNodes(nodes []byte, frames []TreeFrame, strs []string) (*Tree, error) {
	t, _, err := decodeNodes(nodes, frames, strs, 1)
	return t, err
}

// DecodeDiffNodes does for a DiffTree what DecodeNodes does for a Tree.
func DecodeDiffNodes(nodes []byte, frames []TreeFrame, strs []string) (*DiffTree, error) {
	t, before, err := decodeNodes(nodes, frames, strs, 2)
	if err != nil {
		return nil, err
	}
	return &DiffTree{Tree: *t, BeforeSelf: before, BeforeTotal: t.totals(before)}, nil
}

// decodeNodes reads nodes of one value, or of two, of which the first goes to before.
func decodeNodes(nodes []byte, frames []TreeFrame, strs []string, values int) (t *Tree, before []int64, err error) {
	if len(frames) == 0 {
		return nil, nil, fmt.Errorf("decoding tree: no frames, not even the root's")
	}
	for i, f := range frames {
		if n := uint32(min(len(strs), 1<<31)); f.Name >= n || f.File >= n || f.Mapping >= n {
			return nil, nil, fmt.Errorf("decoding tree: frame %d refers beyond the %d strings", i, len(strs))
		}
	}
	minNode := 2 + values // bytes
	t = &Tree{
		Strings: strs,
		Frames:  frames,
		Frame:   make([]uint32, 0, len(nodes)/minNode),
		Self:    make([]int64, 0, len(nodes)/minNode),
		End:     make([]uint32, 0, len(nodes)/minNode),
	}
	type open struct {
		left uint64 // children still to come
		at   uint32
	}
	var stack []open
	for at := 0; at < len(nodes); {
		if len(stack) == 0 && len(t.Frame) > 0 {
			return nil, nil, fmt.Errorf("decoding tree: %d bytes after the last node", len(nodes)-at)
		}
		var field [4]uint64
		for i := range minNode {
			v, n := binary.Uvarint(nodes[at:])
			if n <= 0 {
				return nil, nil, fmt.Errorf("decoding tree: broken number at byte %d, in node %d", at, len(t.Frame))
			}
			field[i], at = v, at+n
		}
		children, frame := field[0], field[1]
		if frame >= uint64(len(frames)) {
			return nil, nil, fmt.Errorf("decoding tree: node %d refers to frame %d of %d", len(t.Frame), frame, len(frames))
		}
		if (frame == 0) != (len(t.Frame) == 0) {
			return nil, nil, fmt.Errorf("decoding tree: node %d refers to frame %d; frame 0 is the root's, and only the root's", len(t.Frame), frame)
		}
		if left := uint64(len(nodes)-at) / uint64(minNode); children > left {
			return nil, nil, fmt.Errorf("decoding tree: node %d has %d children, at most %d nodes follow", len(t.Frame), children, left)
		}
		if len(stack) > 0 {
			stack[len(stack)-1].left--
		}
		stack = append(stack, open{children, uint32(len(t.Frame))})
		t.Frame = append(t.Frame, uint32(frame))
		if values == 2 {
			before = append(before, int64(field[2]))
		}
		t.Self = append(t.Self, int64(field[minNode-1]))
		t.End = append(t.End, 0)
		for len(stack) > 0 && stack[len(stack)-1].left == 0 {
			t.End[stack[len(stack)-1].at] = uint32(len(t.Frame))
			stack = stack[:len(stack)-1]
		}
	}
	if len(stack) > 0 || len(t.Frame) == 0 {
		return nil, nil, fmt.Errorf("decoding tree: ends after %d nodes, more are announced", len(t.Frame))
	}
	t.sum()
	return t, before, nil
}
