package unwind

import (
	"debug/elf"
	"encoding/binary"
	"slices"
)

// starts are addresses at which functions begin, sorted.
type starts []uint64

func (s starts) within(from, to uint64) []uint64 {
	i, _ := slices.BinarySearch(s, from)
	j, _ := slices.BinarySearch(s, to)
	return s[i:max(i, j)]
}

// newStarts collects them from symbol tables and relocations.
func newStarts(im *image) starts {
	var out starts
	le := binary.LittleEndian
	w := window{im: im}
	if im.entry != 0 {
		out = append(out, im.entry)
	}
	const most = 1 << 20
	if s, ok := im.section(".dynsym"); ok {
		for off := uint64(0); off+24 <= s.len && len(out) < most; off += 24 {
			b := w.at(s.addr+off, 24)
			if len(b) < 24 {
				break
			}
			if elf.ST_TYPE(b[4]) == elf.STT_FUNC && le.Uint64(b[8:]) != 0 {
				out = append(out, le.Uint64(b[8:]))
			}
		}
	}
	if s, ok := im.section(".symtab"); ok && s.flags&elf.SHF_COMPRESSED == 0 {
		if r, n, err := im.open(s); err == nil {
			buf := make([]byte, 24*1024)
			for n >= 24 && len(out) < most {
				k, _ := r.Read(buf[:min(uint64(len(buf)), n-n%24)])
				k -= k % 24
				if k == 0 {
					break
				}
				n -= uint64(k)
				for b := buf[:k]; len(b) > 0; b = b[24:] {
					if elf.ST_TYPE(b[4]) == elf.STT_FUNC && le.Uint64(b[8:]) != 0 {
						out = append(out, le.Uint64(b[8:]))
					}
				}
			}
		}
	}
	if s, ok := im.section(".rela.dyn"); ok {
		for off := uint64(0); off+24 <= s.len && off < 24*most/4; off += 24 {
			b := w.at(s.addr+off, 24)
			if len(b) < 24 {
				break
			}
			if a := le.Uint64(b[16:]); le.Uint32(b[8:]) == uint32(elf.R_X86_64_RELATIVE) && im.executable(a, a+1) {
				out = append(out, a)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
