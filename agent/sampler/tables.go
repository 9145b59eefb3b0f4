package sampler

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/perfuse/perfuse/agent/unwind"
	"github.com/perfuse/perfuse/bpf/cpu"
)

// errTablesFull: the kernel side has no room for another unwind table.
var errTablesFull = errors.New("no room for unwind tables")

// tables puts unwind tables where the kernel side finds them. Rows lie in chunks of 1 MiB that come and go
// as tables do; blocks and rules are spans of two arrays. Not safe for concurrent use.
type tables struct {
	programs *cpu.Programs
	blocks   *arena
	rules    *arena
	chunks   []chunk // by number
	maxRows  uint32
	rows     uint32
}

type chunk struct {
	m    *ebpf.Map
	next uint32 // first row that is still free
	live uint32 // rows that belong to a table
}

// installed is where one table lies.
type installed struct {
	blocks, rules span
	rows          map[uint32]uint32 // chunk → how many rows of it
}

func newTables(p *cpu.Programs, maxBytes uint64) *tables {
	return &tables{
		programs: p,
		blocks:   newArena(p.Blocks.MaxEntries()),
		rules:    newArena(p.Rules.MaxEntries()),
		chunks:   make([]chunk, p.Chunks.MaxEntries()),
		maxRows:  uint32(min(maxBytes/4, uint64(p.Chunks.MaxEntries())*cpu.ChunkRows)),
	}
}

// install copies a table to the kernel and says where it lies. The caller then writes the object.
func (t *tables) install(p *unwind.Packed, now time.Time) (in installed, err error) {
	if len(p.Rows) == 0 {
		return installed{}, nil
	}
	if uint32(len(p.Rows)) > t.maxRows-t.rows {
		return installed{}, errTablesFull
	}
	defer func() {
		if err != nil {
			t.remove(in, now)
			in = installed{}
		}
	}()
	in.rows = map[uint32]uint32{}
	var ok bool
	if in.blocks, ok = t.blocks.alloc(uint32(len(p.Blocks)-1), now); !ok {
		return in, errTablesFull
	}
	if in.rules, ok = t.rules.alloc(uint32(len(p.Rules)), now); !ok {
		return in, errTablesFull
	}
	blocks, err := t.copyRows(p, &in)
	if err != nil {
		return in, err
	}
	if err := putSpan(t.programs.Blocks, in.blocks, blocks); err != nil {
		return in, fmt.Errorf("writing unwind blocks: %w", err)
	}
	rules := make([]cpu.Rule, len(p.Rules))
	for i, r := range p.Rules {
		rules[i] = cpu.Rule{
			Cfa: uint8(r.CFA), Reg: r.Reg, Fp: uint8(r.FP), Ra: uint8(r.RA),
			Offset: r.Offset, Extra: r.Extra, FpOff: r.FPOff, RaOff: r.RAOff,
		}
	}
	if err := putSpan(t.programs.Rules, in.rules, rules); err != nil {
		return in, fmt.Errorf("writing unwind rules: %w", err)
	}
	return in, nil
}

// copyRows fills chunks, whole blocks at a time.
func (t *tables) copyRows(p *unwind.Packed, in *installed) ([]cpu.Block, error) {
	blocks := make([]cpu.Block, len(p.Blocks)-1)
	for at := 0; at < len(blocks); {
		n, left := t.open(p.Blocks[at+1] - p.Blocks[at])
		if n < 0 {
			return nil, errTablesFull
		}
		c := &t.chunks[n]
		if c.m == nil {
			m, err := t.programs.NewChunk()
			if err != nil {
				return nil, fmt.Errorf("making a chunk for unwind rows: %w", err)
			}
			if err := t.programs.Chunks.Put(uint32(n), m); err != nil {
				m.Close()
				return nil, fmt.Errorf("adding a chunk for unwind rows: %w", err)
			}
			c.m = m
		}
		end := at
		for end < len(blocks) && p.Blocks[end+1]-p.Blocks[at] <= left {
			blocks[end] = cpu.Block{
				Row:   uint32(n)*cpu.ChunkRows + c.next + p.Blocks[end] - p.Blocks[at],
				Count: p.Blocks[end+1] - p.Blocks[end],
			}
			end++
		}
		rows := p.Rows[p.Blocks[at]:p.Blocks[end]]
		if err := writeChunk(c.m, c.next, rows); err != nil {
			return nil, fmt.Errorf("writing unwind rows: %w", err)
		}
		c.next += uint32(len(rows))
		c.live += uint32(len(rows))
		t.rows += uint32(len(rows))
		in.rows[uint32(n)] += uint32(len(rows))
		at = end
	}
	return blocks, nil
}

// open returns the number of a chunk with room for n rows and how many fit, or -1.
func (t *tables) open(n uint32) (number int, left uint32) {
	for i := range t.chunks {
		if free := cpu.ChunkRows - t.chunks[i].next; free >= n {
			return i, free
		}
	}
	return -1, 0
}

// remove gives back what install took. A chunk without live rows is dropped; the kernel keeps it until no
// program reads it.
func (t *tables) remove(in installed, now time.Time) {
	t.blocks.release(in.blocks, now)
	t.rules.release(in.rules, now)
	for n, rows := range in.rows {
		c := &t.chunks[n]
		c.live -= rows
		t.rows -= rows
		if c.live == 0 {
			if c.m != nil {
				_ = t.programs.Chunks.Delete(n)
				c.m.Close()
			}
			*c = chunk{}
		}
	}
}

// rule reads the rule of a file address back from the kernel's maps, by the same search as the kernel side.
// A copy in the agent would cost the memory that the maps save. An error means that there is no table yet.
func (t *tables) rule(o cpu.Object, addr uint64) (cpu.Rule, error) {
	if o.BlockCount == cpu.BlocksPending {
		return cpu.Rule{}, errors.New("the unwind table is not ready")
	}
	b := addr>>16 - uint64(o.AddressBlock)
	if b >= uint64(o.BlockCount) {
		return cpu.Rule{}, nil
	}
	var block cpu.Block
	if err := t.programs.Blocks.Lookup(o.FirstBlock+uint32(b), &block); err != nil {
		return cpu.Rule{}, fmt.Errorf("reading an unwind block: %w", err)
	}
	c := t.chunks[block.Row/cpu.ChunkRows]
	if block.Count == 0 || c.m == nil {
		return cpu.Rule{}, nil
	}
	mem, err := unix.Mmap(c.m.FD(), 0, cpu.ChunkRows*4, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return cpu.Rule{}, fmt.Errorf("mapping a chunk: %w", err)
	}
	defer unix.Munmap(mem)
	rows := unsafe.Slice((*uint32)(unsafe.Pointer(&mem[0])), cpu.ChunkRows)[block.Row%cpu.ChunkRows:][:block.Count]
	i, found := slices.BinarySearchFunc(rows, uint32(addr&0xffff), func(row, low uint32) int { return cmp.Compare(row&0xffff, low) })
	if !found {
		i--
	}
	var r cpu.Rule
	if err := t.programs.Rules.Lookup(o.FirstRule+rows[max(i, 0)]>>16, &r); err != nil {
		return cpu.Rule{}, fmt.Errorf("reading an unwind rule: %w", err)
	}
	return r, nil
}

func (t *tables) close() {
	for i := range t.chunks {
		if t.chunks[i].m != nil {
			t.chunks[i].m.Close()
		}
	}
}

// writeChunk copies rows through a mapping of the chunk that exists only meanwhile, so that tables do not
// count as the agent's resident memory.
func writeChunk(m *ebpf.Map, at uint32, rows []uint32) error {
	mem, err := unix.Mmap(m.FD(), 0, cpu.ChunkRows*4, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mapping a chunk: %w", err)
	}
	copy(unsafe.Slice((*uint32)(unsafe.Pointer(&mem[0])), cpu.ChunkRows)[at:], rows)
	return unix.Munmap(mem)
}

// putSpan writes values to the indices of a span.
func putSpan[T any](m *ebpf.Map, s span, values []T) error {
	keys := make([]uint32, len(values))
	for i := range keys {
		keys[i] = s.first + uint32(i)
	}
	_, err := m.BatchUpdate(keys, values, nil)
	return err
}
