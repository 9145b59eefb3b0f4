package dwarf

import (
	"bytes"
	"encoding/binary"
)

// buffer reads numbers one after the other. After its end it gives zeros and is bad.
type buffer struct {
	b     []byte
	order binary.ByteOrder
	bad   bool
}

func (b *buffer) take(n uint64) []byte {
	if n > uint64(len(b.b)) {
		b.bad, b.b = true, nil
		return nil
	}
	out := b.b[:n]
	b.b = b.b[n:]
	return out
}

func (b *buffer) skip(n uint64) {
	if n > uint64(len(b.b)) {
		b.bad, b.b = true, nil
		return
	}
	b.b = b.b[n:]
}

func (b *buffer) u8() uint8 {
	if len(b.b) == 0 {
		b.bad = true
		return 0
	}
	v := b.b[0]
	b.b = b.b[1:]
	return v
}

func (b *buffer) u16() uint16 {
	if p := b.take(2); p != nil {
		return b.order.Uint16(p)
	}
	return 0
}

func (b *buffer) u24() uint64 {
	p := b.take(3)
	if p == nil {
		return 0
	}
	if b.order == binary.ByteOrder(binary.BigEndian) {
		return uint64(p[0])<<16 | uint64(p[1])<<8 | uint64(p[2])
	}
	return uint64(p[2])<<16 | uint64(p[1])<<8 | uint64(p[0])
}

func (b *buffer) u32() uint32 {
	if p := b.take(4); p != nil {
		return b.order.Uint32(p)
	}
	return 0
}

func (b *buffer) u64() uint64 {
	if p := b.take(8); p != nil {
		return b.order.Uint64(p)
	}
	return 0
}

func (b *buffer) offset(is64 bool) uint64 {
	if is64 {
		return b.u64()
	}
	return uint64(b.u32())
}

func (b *buffer) address(size uint8) uint64 {
	if size == 4 {
		return uint64(b.u32())
	}
	return b.u64()
}

func (b *buffer) uvarint() uint64 {
	if len(b.b) > 0 && b.b[0] < 0x80 {
		v := b.b[0]
		b.b = b.b[1:]
		return uint64(v)
	}
	var v uint64
	for i, c := range b.b {
		if i < 10 {
			v |= uint64(c&0x7f) << (7 * i)
		}
		if c < 0x80 {
			b.b = b.b[i+1:]
			return v
		}
	}
	b.bad, b.b = true, nil
	return 0
}

func (b *buffer) varint() int64 {
	var v int64
	for i, c := range b.b {
		if i < 10 {
			v |= int64(c&0x7f) << (7 * i)
		}
		if c < 0x80 {
			if c&0x40 != 0 && i < 9 {
				v |= -1 << (7 * (i + 1))
			}
			b.b = b.b[i+1:]
			return v
		}
	}
	b.bad, b.b = true, nil
	return 0
}

// cstring takes a string ended by a zero byte.
func (b *buffer) cstring() []byte {
	i := bytes.IndexByte(b.b, 0)
	if i < 0 {
		b.bad, b.b = true, nil
		return nil
	}
	out := b.b[:i]
	b.b = b.b[i+1:]
	return out
}

// stringAt returns the string at an offset of a string section.
func stringAt(section []byte, off uint64) []byte {
	if off >= uint64(len(section)) {
		return nil
	}
	section = section[off:]
	if len(section) > maxName {
		section = section[:maxName]
	}
	if i := bytes.IndexByte(section, 0); i >= 0 {
		section = section[:i]
	}
	return section
}
