// Package unwind compiles an executable file's unwind information (.eh_frame, .debug_frame, Go's pclntab)
// into one table that the kernel side searches at sample time.
//
// A [Table] is a list of rows sorted by address; a row holds from its address to the next one's. Rows
// refer to rules, of which a file has few. Where a file says nothing about a range, a row with the rule
// [NoInfo] says so: a lookup never hits the row of another function by accident. [Pack] brings a table
// into the form that is copied to the kernel.
//
//	ELF file ─┬─ .gopclntab ──▶ pcsp ──────────┐
//	          ├─ .eh_frame ──┬─▶ CIE, FDE ─────┼─▶ builder ──▶ Table ──▶ Packed ──▶ BPF maps
//	          ├─ .debug_frame┘   CFA programs  │   (sorts, resolves overlaps,
//	          │                                │    makes gaps explicit)
//	          └─ machine code ──▶ analysis ────┘   (of gaps only, x86-64)
//
// Where sources disagree about an address, pclntab comes before .eh_frame before .debug_frame, and within
// one section the entry that stands first wins. Machine code is looked at only where all of them are silent.
//
// A lookup uses the exact address for the frame that was interrupted (the leaf, and the frame below a
// signal frame) and the return address minus one for all others. Everything here is plain functions over
// an io.ReaderAt: nothing is mapped, every length that a file claims is bounded before memory is taken
// for it, and bad bytes cost rows, never a panic.
package unwind

import (
	"debug/elf"

	"github.com/perfuse/perfuse/profile"
)

// CFA says how a frame's canonical frame address is found: the value that the stack pointer had before
// the call that made the frame.
type CFA uint8

const (
	// CFANone: no information for this range (a gap). The zero Rule.
	CFANone CFA = iota
	// CFARegister: register Reg plus Offset. Reg is a DWARF register number below 32.
	CFARegister
	// CFADeref: the 64-bit word at register Reg plus Offset, plus Extra.
	CFADeref
	// CFAPLT: rsp + 8 + ((rip & 15) >= Extra ? 8 : 0) — an entry of x86-64's procedure linkage table.
	CFAPLT
	// CFASignal: the frame is a signal trampoline; all registers are in the kernel's signal frame.
	CFASignal
	// CFAEnd: the outermost frame (return address undefined): the stack is complete.
	CFAEnd
	// CFAFramePointer: the code keeps frame pointers; walk them. Compile makes no such rules: they are for
	// code that has no file.
	CFAFramePointer
	// CFAUnsupported: there is information, but no CFA kind expresses it.
	CFAUnsupported
)

// Save says where a register of the caller is found.
type Save uint8

const (
	// SaveSame: the register still holds it.
	SaveSame Save = iota
	// SaveOffset: in memory at CFA plus the offset.
	SaveOffset
	// SaveUndefined: it is lost.
	SaveUndefined
	// SaveAtFP: in memory at the frame's own frame pointer (the value that rbp or x29 has in this frame)
	// plus the offset. Functions that realign their stack save rbp so: their CFA is not at a fixed
	// distance from it.
	SaveAtFP
	// SaveRegister: in the register whose number is the offset (return addresses only). vfork keeps its own
	// there, because parent and child return over the same stack.
	SaveRegister
)

// Rule is one way to get from a frame to its caller. It is comparable; equal rules are stored once.
// Unless CFA is CFARegister, CFADeref or CFAPLT, all other fields are zero.
//
// On arm64 a return address may carry an authentication code in its upper bits, which rules do not speak
// of: whoever reads one strips them.
type Rule struct {
	CFA    CFA
	Reg    uint8
	FP     Save // the frame pointer: rbp, x29
	RA     Save // the return address: rip (SaveOffset or SaveRegister on x86-64), x30
	Offset int32
	Extra  int32
	FPOff  int16 // relative to the CFA, for FP == SaveOffset; to the frame pointer, for SaveAtFP
	RAOff  int16 // relative to the CFA, for RA == SaveOffset; -8 on x86-64. For SaveRegister its number
}

// NoInfo is the rule of gaps.
var NoInfo = Rule{}

// Row gives a rule for the addresses from Addr to the next row's.
type Row struct {
	Addr profile.Addr
	Rule uint16 // index into Table.Rules
}

// Range is the addresses from Start up to, not including, End.
type Range struct{ Start, End profile.Addr }

// Table is what one file's unwind information compiles to.
type Table struct {
	// Machine is what the code is for: elf.EM_X86_64 or elf.EM_AARCH64.
	Machine elf.Machine
	// Rows are sorted by address, without two equal addresses and without two adjacent equal rules. The
	// last row's rule is NoInfo: the table covers nothing beyond it.
	Rows []Row
	// Rules are distinct; Rules[0] is NoInfo.
	Rules []Rule
	// FramePointers are the ranges, sorted and disjoint, in which every frame that has called another can
	// be left by its frame pointer: caller's at [fp], return address at [fp+8]. It need not hold for the
	// leaf, for which the rows are right. Empty if nothing is known.
	FramePointers []Range
	// Go is set if the file holds Go code.
	Go *GoInfo
	// Stats count what the table was made from.
	Stats Stats
}

// Stats count what a table was made from, and what of it was lost.
type Stats struct {
	Functions int // FDEs and Go functions that were taken
	Bad       int // records that could not be read, or that lie outside of executable segments
	Shadowed  int // functions that others cover wholly
	LostRules int // rules beyond 65535, which became CFAUnsupported
	Analyzed  int // addresses whose rows were found by following the machine code
}

// Lookup returns the rule for an address.
func (t *Table) Lookup(addr profile.Addr) Rule {
	lo, hi := 0, len(t.Rows)
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		if t.Rows[m].Addr <= addr {
			lo = m + 1
		} else {
			hi = m
		}
	}
	if lo == 0 {
		return NoInfo
	}
	return t.Rules[t.Rows[lo-1].Rule]
}
