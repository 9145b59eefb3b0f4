package unwind

import (
	"errors"
	"fmt"
	"sort"

	"github.com/perfuse/perfuse/profile"
)

const (
	blockShift = 16
	// maxBlocks bounds the addresses that a packed table spans: 4 GiB.
	maxBlocks = 1 << 16
)

// ErrTooWide says that a file's code is spread over more addresses than a packed table can span.
var ErrTooWide = errors.New("code spread over more than 4 GiB")

// Packed is a table as the kernel side searches it. Addresses are cut into blocks of 64 KiB:
//
//	Blocks  ┌──────┬──────┬─ ─ ─┬──────┐   Blocks[i] is the first row of the block of addresses from
//	        │  0   │  37  │     │ len  │   (FirstBlock+i)<<16; Blocks[i+1] is where they end
//	        └──┬───┴──┬───┴─ ─ ─┴──────┘
//	Rows       ▼ ┌────▼──────────┬────────────────┐
//	             │ rule (16 high) │ address (16 low) │
//	             └────────────────┴────────────────┘
//
// Each block's rows are sorted by address and the first has address 0: it repeats what was in force
// before, so that a search never leaves its block. A block is never empty. Addresses below the first
// block or beyond the last have no information.
type Packed struct {
	FirstBlock uint64 // address >> 16
	Blocks     []uint32
	Rows       []uint32
	Rules      []Rule
}

// Pack brings t into the form for the kernel. It shares t.Rules.
func Pack(t *Table) (*Packed, error) {
	if len(t.Rows) == 0 {
		return &Packed{Blocks: []uint32{0}, Rules: t.Rules}, nil
	}
	first := uint64(t.Rows[0].Addr) >> blockShift
	// The last row says that nothing follows; alone it needs no block.
	last := uint64(t.Rows[len(t.Rows)-1].Addr-1) >> blockShift
	if last-first >= maxBlocks {
		return nil, fmt.Errorf("packing rows from %#x to %#x: %w", t.Rows[0].Addr, t.Rows[len(t.Rows)-1].Addr, ErrTooWide)
	}
	n := int(last - first + 1)
	p := &Packed{
		FirstBlock: first,
		Blocks:     make([]uint32, 0, n+1),
		Rows:       make([]uint32, 0, len(t.Rows)+n),
		Rules:      t.Rules,
	}
	i, before := 0, uint16(0)
	for b := first; b <= last; b++ {
		p.Blocks = append(p.Blocks, uint32(len(p.Rows)))
		if i == len(t.Rows) || t.Rows[i].Addr != profile.Addr(b<<blockShift) {
			p.Rows = append(p.Rows, uint32(before)<<16)
		}
		for ; i < len(t.Rows) && uint64(t.Rows[i].Addr)>>blockShift == b; i++ {
			before = t.Rows[i].Rule
			p.Rows = append(p.Rows, uint32(before)<<16|uint32(t.Rows[i].Addr)&0xffff)
		}
	}
	p.Blocks = append(p.Blocks, uint32(len(p.Rows)))
	return p, nil
}

// Lookup returns the rule for an address. It is the model of the search in the kernel.
func (p *Packed) Lookup(addr profile.Addr) Rule {
	block := uint64(addr)>>blockShift - p.FirstBlock // below the first: wraps around
	if block >= uint64(len(p.Blocks)-1) {
		return NoInfo
	}
	lo, hi := p.Blocks[block], p.Blocks[block+1] // hi-lo is at least 1, and at most 65536
	low := uint32(addr) & 0xffff
	for hi-lo > 1 { // at most 16 rounds
		if m := lo + (hi-lo)/2; p.Rows[m]&0xffff <= low {
			lo = m
		} else {
			hi = m
		}
	}
	return p.Rules[p.Rows[lo]>>16]
}

// Bytes is the memory that the kernel needs for it.
func (p *Packed) Bytes() int { return 4*len(p.Blocks) + 4*len(p.Rows) + 16*len(p.Rules) }

// validate checks the invariants above.
func (p *Packed) validate() error {
	n := len(p.Blocks) - 1
	if n < 0 || p.Blocks[0] != 0 || int(p.Blocks[n]) != len(p.Rows) {
		return fmt.Errorf("%d blocks do not cover %d rows", n, len(p.Rows))
	}
	for i := range n {
		lo, hi := p.Blocks[i], p.Blocks[i+1]
		if lo >= hi || p.Rows[lo]&0xffff != 0 {
			return fmt.Errorf("block %d does not begin with its first address", i)
		}
		rows := p.Rows[lo:hi]
		if !sort.SliceIsSorted(rows, func(a, b int) bool { return rows[a]&0xffff < rows[b]&0xffff }) {
			return fmt.Errorf("block %d is not sorted", i)
		}
	}
	for i, r := range p.Rows {
		if int(r>>16) >= len(p.Rules) {
			return fmt.Errorf("row %d has rule %d of %d", i, r>>16, len(p.Rules))
		}
	}
	return nil
}
