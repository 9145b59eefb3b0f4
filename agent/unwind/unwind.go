// Package unwind compiles an executable file's unwind information (.eh_frame, .debug_frame, Go's pclntab)
// into one table that the kernel side searches at sample time.
//
// A [Table] is a list of rows sorted by address; a row holds from its address to the next one's. Rows
// refer to rules, of which a file has few. Where a file says nothing about a range, a row with the rule
// [NoInfo] says so: a lookup never hits the row of another function by accident.
package unwind

import "github.com/perfuse/perfuse/profile"

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
	// CFAFramePointer: the code keeps frame pointers; walk them.
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
)

// Rule is one way to get from a frame to its caller. It is comparable; equal rules are stored once.
type Rule struct {
	CFA    CFA
	Reg    uint8
	FP     Save // the frame pointer: rbp, x29
	RA     Save // the return address: rip (always SaveOffset on x86-64), x30
	Offset int32
	Extra  int32
	FPOff  int16 // relative to the CFA, for FP == SaveOffset
	RAOff  int16 // relative to the CFA, for RA == SaveOffset; -8 on x86-64
}

// NoInfo is the rule of gaps.
var NoInfo = Rule{}

// Row gives a rule for the addresses from Addr to the next row's.
type Row struct {
	Addr profile.Addr
	Rule uint16 // index into Table.Rules
}

// Table is what one file's unwind information compiles to.
type Table struct {
	// Rows are sorted by address, without two equal addresses and without two adjacent equal rules. The
	// last row's rule is NoInfo: the table covers nothing beyond it.
	Rows []Row
	// Rules are distinct; Rules[0] is NoInfo.
	Rules []Rule
}
