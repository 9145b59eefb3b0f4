// Package profile holds the types that every other room speaks: profiles, stacks, frames, labels and
// profile types, and pure functions over them. It does no I/O and imports nothing of ours.
//
// A [Batch] is the one shape in which profiles travel through the program: some profiles and the
// dictionary that their samples refer to. Entry 0 of every dictionary table is the zero value and means
// "none", as in OTLP. Indices are local to a batch; nothing outside of it may keep them.
//
//	Batch ── Profiles ── Samples ─┬─ Stack ──▶ Dictionary.Stacks ──▶ Frames ─┬─▶ Mappings
//	                              └─ Link  ──▶ Dictionary.Links              └─▶ Lines ──▶ Functions
package profile

// Addr is an address in an executable file's own address space (p_vaddr of an ELF segment), or, in a frame
// without a mapping, an address of the process. For a caller's frame it lies inside the call instruction
// (return address minus one), so that looking it up never gives the following line or function.
type Addr uint64

// Indices into the tables of a [Dictionary]. 0 means none.
type (
	StackIndex    uint32
	FrameIndex    uint32
	MappingIndex  uint32
	FunctionIndex uint32
	LinkIndex     uint32
)

// Kind says what executes a frame.
type Kind uint8

const (
	// KindNative is machine code from an executable file: C, C++, Rust, Go.
	KindNative Kind = iota
	// KindKernel is the operating system's kernel and its modules.
	KindKernel
	// KindJIT is machine code that was generated at run time and named by its process (perf map).
	KindJIT
	// KindInterpreted is a frame of a source language that an interpreter executes.
	KindInterpreted
	// KindUnwind is no code at all: the first frame of a stack that could not be finished. Its
	// function's name is the reason, as in "[unwind: no unwind information]".
	KindUnwind

	// KindCut stands for code of little weight together, "(small)": what [Tree.Cut] folded, and in what a store answers
	// the stacks that were too many. What is written has none.
	KindCut
	// KindRoot occurs in trees only.
	KindRoot
	// KindLabel occurs in trees only: a label's value, as in "pod=a" ([GroupTree]).
	KindLabel
)

// Mapping is an executable file that frames lie in.
type Mapping struct {
	// BuildID identifies the file's content: the GNU build id in lower-case hex, or the Go build id's hash,
	// or a hash of the file. Empty if unknown.
	BuildID string
	// File is the path as the process saw it, or a virtual name such as "[vdso]" or "[kernel.kallsyms]".
	File string
}

// Function is a named piece of code.
type Function struct {
	// Name is what people read, demangled.
	Name string
	// SystemName is the name in the symbol table if it differs from Name, else empty.
	SystemName string
	// File is the source file, empty if unknown.
	File string
	// StartLine is the line of the function's first statement, 0 if unknown.
	StartLine int32
}

// Line is one function at one source position.
type Line struct {
	Function FunctionIndex
	Line     int32 // 1-based, 0 if unknown
	Column   int32 // 1-based, 0 if unknown
}

// Frame is one entry of a stack. A native frame that nobody has named yet has no lines.
type Frame struct {
	Kind    Kind
	Mapping MappingIndex
	Addr    Addr
	// Lines are the functions at this address, the innermost inlined one first, the function that was
	// really called last. Read-only once interned.
	Lines []Line
}

// Stack is a list of frames, the leaf first.
type Stack []FrameIndex

// TraceID and SpanID are OpenTelemetry's; all zero means none.
type (
	TraceID [16]byte
	SpanID  [8]byte
)

// Link ties a sample to the span that was being served when it was taken.
type Link struct {
	TraceID  TraceID
	SpanID   SpanID
	SpanName string
}

// Sample is a value at a stack.
type Sample struct {
	Stack StackIndex
	Link  LinkIndex
	Value int64
	// TimeNanos is when the sample was taken, in nanoseconds since the Unix epoch; 0 means at the
	// profile's own time.
	TimeNanos int64
}

// ID tells one delivered profile from every other; all zero means none.
type ID [16]byte

// Profile is what one series measured from TimeNanos on, for DurationNanos.
type Profile struct {
	Type   Type
	Labels Labels
	// TimeNanos is the start of the measurement, in nanoseconds since the Unix epoch.
	TimeNanos     int64
	DurationNanos int64
	// Period is the distance between two samples in the unit of Type.PeriodType, 0 if unknown.
	Period  int64
	Samples []Sample
	// ID is how one that is delivered again, because the answer to its first delivery was lost, is told from
	// a new one. Profiles made of one delivered profile share it, and it says nothing of what they measured.
	// None if the sender does not say.
	ID ID
}

// Total is the sum of all values.
func (p *Profile) Total() int64 {
	var n int64
	for i := range p.Samples {
		n += p.Samples[i].Value
	}
	return n
}

// Batch is profiles together with the dictionary that they refer to.
type Batch struct {
	Dictionary *Dictionary
	Profiles   []Profile
}
