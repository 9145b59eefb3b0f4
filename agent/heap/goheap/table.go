package goheap

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/perfuse/perfuse/symbolize/gosym"
)

// space is a file's or a process's address space. What at returns stands until the next call.
type space interface {
	at(addr uint64, n int) ([]byte, error)
}

// table is where the parts of Go's pclntab lie; gosym's package comment draws it. Addresses are the file's.
type table struct {
	start, text, funcdata   uint64
	functions, quantum      uint64
	names, pctab, functable uint64 // from start
}

// Bounds on what a table may claim.
const (
	maxFunctions  = 8 << 20
	maxName       = 64 // no name that we ask for is longer
	maxInlined    = 256
	maxTableSteps = 1 << 16
)

const (
	magic120   = 0xfffffff1
	recordSize = 44 // of a function, before its tables

	pcdataInlTree   = 2
	funcdataInlTree = 3
	inlinedCallSize = 16 // function u8, 3, name u32, parent's pc u32, line u32
)

func newTable(s space, g *gosym.Table) (table, error) {
	b, err := s.at(g.Start, 72)
	if err != nil {
		return table{}, err
	}
	le := binary.LittleEndian
	t := table{
		start: g.Start, text: g.Text, funcdata: g.Funcdata, quantum: uint64(b[6]), functions: le.Uint64(b[8:]),
		names: le.Uint64(b[32:]), pctab: le.Uint64(b[56:]), functable: le.Uint64(b[64:]),
	}
	if le.Uint32(b) != magic120 || b[7] != 8 {
		return table{}, fmt.Errorf("pclntab of Go 1.19 or before, or of one that is not out yet")
	}
	if t.functions == 0 || t.functions > maxFunctions || t.quantum != 1 && t.quantum != 4 || max(t.names, t.pctab, t.functable) > 1<<32 {
		return table{}, fmt.Errorf("malformed pclntab")
	}
	return t, nil
}

// each calls f with every function. The error is that there was no time for all; what cannot be read otherwise is left out.
func (t *table) each(s space, f func(name []byte, start, end uint64)) error {
	le := binary.LittleEndian
	list, err := s.at(t.start+t.functable, int(t.functions)*8+4)
	if err != nil {
		return onlyTime(err)
	}
	for ; len(list) >= 12; list = list[8:] {
		start, end := uint64(le.Uint32(list)), uint64(le.Uint32(list[8:]))
		if end < start {
			return nil
		}
		rec, err := s.at(t.start+t.functable+uint64(le.Uint32(list[4:])), 8)
		if err != nil {
			if err := onlyTime(err); err != nil {
				return err
			}
			continue
		}
		name, err := s.at(t.start+t.names+uint64(le.Uint32(rec[4:])), maxName)
		if err != nil {
			if err := onlyTime(err); err != nil {
				return err
			}
			continue
		}
		for i, c := range name {
			if c == 0 {
				f(name[:i], t.text+start, t.text+end)
				break
			}
		}
	}
	return nil
}

func onlyTime(err error) error {
	if errors.Is(err, errTime) {
		return err
	}
	return nil
}

// parents appends the addresses that the runtime puts on a stack after pc for the functions into which the one at pc
// is inlined: one more than that of each call, innermost first. Both are addresses of the process.
func (t *table) parents(s space, bias, pc uint64, out []uint64) ([]uint64, error) {
	le := binary.LittleEndian
	list := t.start + t.functable + bias
	entry := func(i uint64) (start, record uint64, err error) {
		b, err := s.at(list+i*8, 8)
		if err != nil {
			return 0, 0, err
		}
		return t.text + bias + uint64(le.Uint32(b)), list + uint64(le.Uint32(b[4:])), nil
	}
	// The last function that begins before pc.
	lo, hi := uint64(0), t.functions
	for hi-lo > 1 {
		mid := (lo + hi) / 2
		start, _, err := entry(mid)
		if err != nil {
			return out, err
		}
		if start < pc {
			lo = mid
		} else {
			hi = mid
		}
	}
	start, record, err := entry(lo)
	if err != nil {
		return out, err
	}
	b, err := s.at(list+(lo+1)*8, 4)
	if err != nil {
		return out, err
	}
	if end := t.text + bias + uint64(le.Uint32(b)); pc <= start || pc > end || t.funcdata == 0 {
		return out, nil // not of this file, or not Go
	}
	if b, err = s.at(record, recordSize); err != nil {
		return out, err
	}
	npcdata, nfuncdata := uint64(le.Uint32(b[28:])), b[43]
	if npcdata <= pcdataInlTree || npcdata > 64 || nfuncdata <= funcdataInlTree {
		return out, nil
	}
	if b, err = s.at(record+recordSize+pcdataInlTree*4, 4); err != nil {
		return out, err
	}
	values := uint64(le.Uint32(b))
	if b, err = s.at(record+recordSize+npcdata*4+funcdataInlTree*4, 4); err != nil {
		return out, err
	}
	tree := le.Uint32(b)
	if values == 0 || tree == ^uint32(0) {
		return out, nil
	}
	for range maxInlined {
		index, err := t.value(s, t.start+t.pctab+bias+values, pc-1-start)
		if err != nil || index < 0 {
			return out, err
		}
		if b, err = s.at(t.funcdata+bias+uint64(tree)+uint64(index)*inlinedCallSize, inlinedCallSize); err != nil {
			return out, err
		}
		pc = start + uint64(le.Uint32(b[8:])) + 1
		out = append(out, pc)
	}
	return out, nil
}

// value looks an offset up in the pc-value table at addr. It is -1 where the table has none.
func (t *table) value(s space, addr, offset uint64) (int32, error) {
	const chunk = 256
	var buf [chunk]byte // at's answer would not stand
	var b []byte
	value, pc := int32(-1), uint64(0)
	for step := range maxTableSteps {
		if len(b) < 2*binary.MaxVarintLen32 {
			// Its end may be near that of the memory.
			for n := chunk; ; n /= 2 {
				m, err := s.at(addr, n)
				if err == nil {
					b = append(buf[:0], m...)
					break
				}
				if n == 1 {
					return -1, err
				}
			}
		}
		delta, n := binary.Uvarint(b)
		if n <= 0 || delta == 0 && step > 0 {
			return -1, nil
		}
		length, m := binary.Uvarint(b[n:])
		if m <= 0 {
			return -1, nil
		}
		b, addr = b[n+m:], addr+uint64(n+m)
		value += int32(-(delta & 1) ^ delta>>1)
		if pc += (length & 0xffffffff) * t.quantum; offset < pc {
			return value, nil
		}
	}
	return -1, nil
}

// folder takes out of stacks the functions that were inlined.
type folder struct {
	t     *table
	s     space
	bias  uint64
	known map[uint64][]uint64 // by address: its parents
}

// fold shortens a stack in place to one address a machine frame. A parent's address lies one byte into an
// instruction that is no call, so it cannot be mistaken for a return address. Wrappers among the inlined functions
// are in the tree, but not on the stack.
func (f *folder) fold(stack []uint64) ([]uint64, error) {
	out := stack[:0]
	for i := 0; i < len(stack); {
		pc := stack[i]
		parents, ok := f.known[pc]
		if !ok {
			var err error
			if parents, err = f.t.parents(f.s, f.bias, pc, nil); fatal(err) {
				return nil, err
			}
			f.known[pc] = parents
		}
		out = append(out, pc)
		i++
		for _, p := range parents {
			if i < len(stack) && stack[i] == p {
				i++
			}
		}
	}
	return out, nil
}
