package ingest

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"path"
	"strings"

	"github.com/perfuse/perfuse/profile"
	profilesv1 "go.opentelemetry.io/proto/otlp/profiles/v1development"
)

// frames converts the stacks of a request, each thing once and only if a sample needs it.
type frames struct {
	in  *profilesv1.ProfilesDictionary
	out *profile.Dictionary

	// By index of the tables of in: the index in out, plus 1; 0 means not yet.
	mappings  []profile.MappingIndex
	functions []profile.FunctionIndex
	frames    []profile.FrameIndex
	stacks    []profile.StackIndex

	stackBuf profile.Stack
}

func (f *frames) stack(i int32) profile.StackIndex {
	if int(i) >= len(f.stacks) {
		return 0 // index 0 of a table that was left out
	}
	if f.stacks[i] == 0 {
		s := f.stackBuf[:0]
		for _, l := range f.in.GetStackTable()[i].GetLocationIndices() {
			s = append(s, f.frame(l))
		}
		f.stackBuf = s
		f.stacks[i] = f.out.Stack(s) + 1
	}
	return f.stacks[i] - 1
}

func (f *frames) frame(i int32) profile.FrameIndex {
	if int(i) >= len(f.frames) {
		return f.out.Frame(profile.Frame{})
	}
	if f.frames[i] != 0 {
		return f.frames[i] - 1
	}
	l := f.in.GetLocationTable()[i]
	out := profile.Frame{Mapping: f.mapping(l.GetMappingIndex()), Addr: profile.Addr(l.GetAddress())}
	for _, line := range l.GetLines() {
		out.Lines = append(out.Lines, profile.Line{
			Function: f.function(line.GetFunctionIndex()), Line: clampInt32(line.GetLine()), Column: clampInt32(line.GetColumn()),
		})
	}
	var m *profilesv1.Mapping
	if l.GetMappingIndex() != 0 {
		m = f.in.GetMappingTable()[l.GetMappingIndex()]
	}
	file := f.out.Mappings[out.Mapping].File
	out.Kind = kindOf(f.attribute(l.GetAttributeIndices(), attrFrameType), file, len(out.Lines) > 0)
	switch out.Kind {
	case profile.KindNative:
		out.Addr = fileAddr(out.Addr, m)
	case profile.KindUnwind:
		// Where the stack ended says nothing; why it ended is the frame.
		reason := "aborted by the profiler"
		if len(out.Lines) > 0 {
			if n := f.out.Functions[out.Lines[0].Function].Name; n != "" {
				reason = n
			}
		}
		if !strings.HasPrefix(reason, "[unwind") {
			reason = "[unwind: " + strings.Trim(reason, "[]") + "]"
		}
		out = profile.Frame{Kind: profile.KindUnwind, Lines: []profile.Line{{Function: f.out.Function(profile.Function{Name: reason})}}}
	}
	f.frames[i] = f.out.Frame(out) + 1
	return f.frames[i] - 1
}

func (f *frames) function(i int32) profile.FunctionIndex {
	if int(i) >= len(f.functions) {
		return 0
	}
	if f.functions[i] == 0 {
		in, strs := f.in.GetFunctionTable()[i], f.in.GetStringTable()
		out := profile.Function{
			Name: text(str(strs, in.GetNameStrindex())), SystemName: text(str(strs, in.GetSystemNameStrindex())),
			File: text(str(strs, in.GetFilenameStrindex())), StartLine: clampInt32(in.GetStartLine()),
		}
		if out.Name == "" {
			out.Name = out.SystemName
		}
		if out.SystemName == out.Name {
			out.SystemName = ""
		}
		f.functions[i] = f.out.Function(out) + 1
	}
	return f.functions[i] - 1
}

func (f *frames) mapping(i int32) profile.MappingIndex {
	if i == 0 {
		return 0 // none, whatever a sender may have put there
	}
	if f.mappings[i] == 0 {
		in := f.in.GetMappingTable()[i]
		out := profile.Mapping{File: text(str(f.in.GetStringTable(), in.GetFilenameStrindex()))}
		for _, key := range []string{attrGNU, attrGo, attrHash} {
			if out.BuildID = text(f.attribute(in.GetAttributeIndices(), key)); out.BuildID != "" {
				out.BuildID = buildID(key, out.BuildID)
				break
			}
		}
		f.mappings[i] = f.out.Mapping(out) + 1
	}
	return f.mappings[i] - 1
}

// buildID writes an id as symbolize/elf does: GNU's in lower case, Go's, which are paths of hashes, as a hash.
func buildID(key, id string) string {
	if key == attrGo && strings.Contains(id, "/") {
		h := sha256.Sum256([]byte(id))
		return hex.EncodeToString(h[:20])
	}
	return strings.ToLower(id)
}

// attribute returns the value that one of these attributes has for a key, or "".
func (f *frames) attribute(indices []int32, key string) string {
	for _, i := range indices {
		if i == 0 {
			continue
		}
		a := f.in.GetAttributeTable()[i]
		if str(f.in.GetStringTable(), a.GetKeyStrindex()) == key {
			return valueOf(a.GetValue(), f.in.GetStringTable())
		}
	}
	return ""
}

// kindOf maps profile.frame.type, in our agent's words and in OpenTelemetry's. Where it is missing, the
// mapping's file tells the kernel from the rest; all else counts as native.
func kindOf(frameType, file string, named bool) profile.Kind {
	switch frameType {
	case "native", "go", "rust", "c", "cpp":
		return profile.KindNative
	case "kernel":
		return profile.KindKernel
	case "jit":
		return profile.KindJIT
	case "unwind", "abort-marker":
		return profile.KindUnwind
	case "":
		if file == profile.KernelFile || file == "[kernel]" || file == "vmlinux" || strings.HasSuffix(path.Base(file), ".ko") {
			return profile.KindKernel
		}
		return profile.KindNative
	}
	// jvm, cpython, php, phpjit, ruby, perl, v8js, dotnet, beam and whatever comes next.
	if named {
		return profile.KindInterpreted
	}
	return profile.KindNative
}

// processAddrs is where the addresses of shared libraries and position-independent executables begin in
// every 64-bit process; no file has addresses of its own up there.
const processAddrs = 1 << 32

// fileAddr returns a native frame's address in the file's own address space. Profilers that look at ELF
// files (ours, OpenTelemetry's) send it so; those that only know the process send the address at which the
// code ran, which the mapping translates into an offset in the file. That equals the file's address wherever
// the linker kept offset and address alike, as GNU ld and Go's linker do for code.
func fileAddr(a profile.Addr, m *profilesv1.Mapping) profile.Addr {
	start := m.GetMemoryStart()
	if start < processAddrs || uint64(a) < start || uint64(a) >= m.GetMemoryLimit() {
		return a
	}
	return profile.Addr(uint64(a) - start + m.GetFileOffset())
}

func clampInt32(v int64) int32 { return int32(max(0, min(v, math.MaxInt32))) }
