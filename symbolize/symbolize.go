// Package symbolize turns addresses into functions, files and lines. It works away from the hot path: at
// query time on the server, at the end of a recording in profilectl.
//
// Kernel and JIT frames mean nothing off their machine and are named on the node (rooms kernel and jit).
// Native frames travel as build id and file address; a [Resolver] names them from tables that are built
// once per build id (room debuginfo) out of ELF, DWARF and pclntab (rooms elf, dwarf, gosym).
package symbolize

import (
	"context"
	"errors"

	"github.com/perfuse/perfuse/profile"
)

// ErrNoDebugInfo: nothing is known about that build id (yet).
var ErrNoDebugInfo = errors.New("no debug information")

// NamelessPrefix begins the Name of a function that has none and is known by where it begins in its file: +0x61a0.
// Whoever shows it puts the file's name before (see [Unnamed.Name]).
const NamelessPrefix = "+0x"

// Source is one function at one position in the source.
type Source struct {
	// Name is demangled, or begins with NamelessPrefix; SystemName is the symbol's own name if that differs.
	Name, SystemName string
	// File is empty and Line, StartLine are 0 where they are unknown.
	File            string
	Line, StartLine int32
}

// Resolver names addresses of one executable file at a time.
type Resolver interface {
	// Resolve returns, for each address, its functions, innermost inlined one first; an empty list where
	// nothing covers the address. Addresses of callers already lie inside the call instruction. It
	// returns an error that is ErrNoDebugInfo if the build id is unknown.
	Resolve(ctx context.Context, buildID string, addrs []profile.Addr) ([][]Source, error)
}
