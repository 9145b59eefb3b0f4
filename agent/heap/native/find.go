package native

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/arch/x86/x86asm"

	"github.com/perfuse/perfuse/agent/process"
	"github.com/perfuse/perfuse/bpf/memory"
	"github.com/perfuse/perfuse/symbolize/elf"
)

// function is what is known of a function of an allocator by its name. The numbers are those of its arguments.
type function struct {
	form                 memory.Form
	pointer, size, count uint8
}

// functions are those that allocators have under their plain names, with the prefixes that prefixes says.
var functions = map[string]function{
	"malloc":             {form: memory.Size},
	"valloc":             {form: memory.Size},
	"pvalloc":            {form: memory.Size},
	"calloc":             {form: memory.Product, size: 0, count: 1},
	"realloc":            {form: memory.Realloc, pointer: 0, size: 1},
	"reallocf":           {form: memory.Realloc, pointer: 0, size: 1},
	"reallocarray":       {form: memory.ReallocProduct, pointer: 0, size: 1, count: 2},
	"memalign":           {form: memory.Size, size: 1},
	"aligned_alloc":      {form: memory.Size, size: 1},
	"posix_memalign":     {form: memory.Out, pointer: 0, size: 2},
	"free":               {form: memory.Free},
	"cfree":              {form: memory.Free},
	"free_sized":         {form: memory.Free},
	"free_aligned_sized": {form: memory.Free},

	// jemalloc
	"mallocx":  {form: memory.Size},
	"rallocx":  {form: memory.Realloc, pointer: 0, size: 1},
	"dallocx":  {form: memory.Free},
	"sdallocx": {form: memory.Free},

	// tcmalloc, with its prefix
	"new":               {form: memory.Size},
	"new_nothrow":       {form: memory.Size},
	"newarray":          {form: memory.Size},
	"newarray_nothrow":  {form: memory.Size},
	"delete":            {form: memory.Free},
	"delete_sized":      {form: memory.Free},
	"deletearray":       {form: memory.Free},
	"deletearray_sized": {form: memory.Free},

	// mimalloc, with its prefix
	"zalloc":            {form: memory.Size},
	"malloc_small":      {form: memory.Size},
	"zalloc_small":      {form: memory.Size},
	"malloc_aligned":    {form: memory.Size},
	"zalloc_aligned":    {form: memory.Size},
	"calloc_aligned":    {form: memory.Product, size: 0, count: 1},
	"mallocn":           {form: memory.Product, size: 0, count: 1},
	"reallocn":          {form: memory.ReallocProduct, pointer: 0, size: 1, count: 2},
	"realloc_aligned":   {form: memory.Realloc, pointer: 0, size: 1},
	"rezalloc":          {form: memory.Realloc, pointer: 0, size: 1},
	"free_size":         {form: memory.Free},
	"free_size_aligned": {form: memory.Free},
	"free_aligned":      {form: memory.Free},
}

// prefixes of names. What stands under one is believed to be an allocator if it allocates and frees.
var prefixes = []string{"", "__libc_", "je_", "_rjem_", "tc_", "mi_"}

// notPlain are names that without a prefix may be anything.
var notPlain = map[string]bool{"new": true, "delete": true, "newarray": true, "deletearray": true, "zalloc": true, "free_size": true}

// operator knows C++'s operators new (Znw), new[] (Zna), delete (Zdl) and delete[] (Zda) of any arguments. Only those
// of an allocator have probes of their own; libstdc++'s call malloc.
func operator(name string) (function, bool) {
	switch {
	case strings.HasPrefix(name, "_Znwm") || strings.HasPrefix(name, "_Znam"):
		return function{form: memory.Size}, true
	case strings.HasPrefix(name, "_ZdlPv") || strings.HasPrefix(name, "_ZdaPv"):
		return function{form: memory.Free}, true
	}
	return function{}, false
}

// hook is a probe to be put on a file.
type hook struct {
	name   string
	offset uint64 // in the file
	form   memory.Form
	leaf   bool // calls no other function that has a probe
	throws bool // may be left by an exception
	args   [3]uint8
}

// Limits of what is read of one file. Real allocators have some fifty functions; chromium has three million symbols.
const (
	maxHooks       = 256
	maxSymbolBytes = 256 << 20
	maxSymbols     = 8 << 20
	maxMatches     = 8 * maxHooks // symbols by the names of such functions
	maxFunction    = 16 << 10
	maxCode        = 1 << 20 // of all functions
)

var (
	errNoAllocator = errors.New("no allocator is found in it")
	errSymbols     = errors.New("it has too many symbols")
)

// findAllocator returns what a file has of allocators: nothing if there is none.
func findAllocator(ctx context.Context, r process.File) (*allocator, error) {
	f, err := elf.New(r, r.Size())
	if err != nil {
		return &allocator{}, err
	}
	if !f.Is64 || f.Machine != elf.MachineX86_64 && f.Machine != elf.MachineAArch64 {
		return &allocator{}, nil
	}
	found := map[string]elf.Symbol{}
	marks := map[string]bool{}
	tables := map[uint32]bool{} // a file has one of each kind
	seen, matches := 0, 0
	for i := range f.Sections {
		s := &f.Sections[i]
		if s.Type != elf.SectionSymtab && s.Type != elf.SectionDynsym || s.Size > maxSymbolBytes || tables[s.Type] {
			continue
		}
		tables[s.Type] = true
		err := f.Symbols(s, func(_ int, sym elf.Symbol) bool {
			if seen++; seen%4096 == 0 && ctx.Err() != nil || seen > maxSymbols {
				return false
			}
			name, _, _ := strings.Cut(sym.Name, "@")
			if sym.Section == 0 || sym.Type != elf.SymbolFunc || len(name) > 64 {
				return true
			}
			if _, ok := known(name); !ok && !isMark(name) {
				return true
			}
			if matches++; matches > maxMatches {
				return false
			}
			if f.Executable(sym.Addr) {
				marks[name] = true
				if o, had := found[name]; !had || o.Size == 0 {
					found[name] = sym
				}
			}
			return true
		})
		switch {
		case err != nil:
			return &allocator{}, fmt.Errorf("reading symbols: %w", err)
		case ctx.Err() != nil:
			return &allocator{}, ctx.Err()
		case seen > maxSymbols || matches > maxMatches:
			return &allocator{}, errSymbols
		}
	}
	for name, what := range unwinders {
		if marks[name] {
			return &allocator{unwinds: what}, nil
		}
	}
	return &allocator{hooks: chooseHooks(f, found, marks)}, nil
}

// unwinders take a stack trace of allocations from within them: what such libraries define, statically linked or not.
var unwinders = map[string]string{
	"__asan_init":    "AddressSanitizer",
	"__hwasan_init":  "HWAddressSanitizer",
	"__lsan_init":    "LeakSanitizer",
	"__msan_init":    "MemorySanitizer",
	"__tsan_init":    "ThreadSanitizer",
	"heaptrack_init": "heaptrack",
}

// isMark says whether a name tells what its file is.
func isMark(name string) bool {
	switch name {
	case "gnu_get_libc_version", "_dl_catch_exception", "_dl_allocate_tls", "mallctl", "je_mallctl", "_rjem_mallctl", "tc_version", "mi_version":
		return true
	}
	return unwinders[name] != ""
}

// known finds what a name stands for, by the longest prefix.
func known(name string) (function, bool) {
	for _, p := range slices.Backward(prefixes) {
		if plain, ok := strings.CutPrefix(name, p); ok {
			if fn, ok := functions[plain]; ok && (p != "" || !notPlain[plain]) {
				return fn, true
			}
		}
	}
	return operator(name)
}

// allocates says which prefixes have both a function that allocates and one that frees.
func allocates(found map[string]elf.Symbol) map[string]bool {
	out := map[string]bool{}
	for _, p := range prefixes {
		has := func(name string) bool { _, ok := found[p+name]; return ok }
		out[p] = (has("malloc") || has("mallocx") || has("malloc_aligned")) && (has("free") || has("dallocx") || has("sdallocx"))
	}
	return out
}

func chooseHooks(f *elf.File, found map[string]elf.Symbol, marks map[string]bool) []hook {
	// The dynamic linker of glibc has an allocator for itself, which it leaves when libc is there.
	if marks["_dl_allocate_tls"] && !marks["gnu_get_libc_version"] && !marks["mallctl"] {
		if _, libc := found["__libc_malloc"]; !libc {
			return nil
		}
	}
	has := allocates(found)
	_, memalign := found["__libc_memalign"] // also where it is linked statically
	glibc := marks["gnu_get_libc_version"] || memalign
	own := marks["mallctl"] || marks["je_mallctl"] || marks["_rjem_mallctl"] || marks["tc_version"] || marks["mi_version"]
	// Of several names at one address the shortest speaks.
	names := make([]string, 0, len(found))
	chosen := map[uint64]string{}
	for name, sym := range found {
		_, op := operator(name)
		p, plain := prefixOf(name)
		if op && !own || plain && !has[p] || !op && !plain {
			continue
		}
		if have, ok := chosen[sym.Addr]; !ok || len(name) < len(have) || len(name) == len(have) && name < have {
			chosen[sym.Addr] = name
		}
	}
	for _, name := range chosen {
		names = append(names, name)
	}
	slices.Sort(names)
	if len(names) == 0 {
		return nil
	}
	stubs, budget := map[uint64]string{}, maxCode
	for _, s := range f.Stubs(func(uint64) string { return "" }) {
		stubs[s.Addr] = strings.TrimSuffix(s.Name, "@plt")
	}
	var out []hook
	for _, name := range names[:min(len(names), maxHooks)] {
		sym := found[name]
		fn, _ := known(name)
		offset, ok := fileOffset(f, sym.Addr)
		if !ok {
			continue
		}
		s, inner, code := site{args: argsARM64}, false, body(f, sym)
		if budget -= len(code); budget < 0 {
			break
		}
		if f.Machine == elf.MachineX86_64 {
			s = siteX86(code)
			if fn.reads(s, regSP) {
				s = site{args: argsX86}
			}
			inner = reaches(code, sym.Addr, func(to uint64) bool {
				n, ok := chosen[to]
				if !ok {
					if n, ok = stubs[to]; ok {
						n, ok = chosen[found[n].Addr]
					}
				}
				return ok && n != name
			})
		}
		throws := fn.form == memory.Size && (strings.HasPrefix(name, "_Zn") || strings.HasSuffix(name, "_new") || strings.HasSuffix(name, "_newarray")) &&
			!strings.Contains(name, "nothrow")
		// What only goes on to another function with a probe needs none; and what throws must not need its end.
		if inner && (throws || len(code) > 0 && code[0] == 0xe9) {
			continue
		}
		out = append(out, hook{
			name:   name,
			offset: offset + s.offset,
			form:   fn.form,
			leaf:   throws || !inner && (own && isLeaf(name) || glibc && (name == "malloc" || name == "calloc")),
			throws: throws,
			args:   [3]uint8{s.args[fn.pointer], s.args[fn.size], s.args[fn.count]},
		})
	}
	return out
}

// reads says whether one of the arguments that the function has is in the register none.
func (fn function) reads(s site, none uint8) bool {
	args := []uint8{s.args[fn.size]}
	switch fn.form {
	case memory.Product:
		args = append(args, s.args[fn.count])
	case memory.Realloc, memory.Out:
		args = append(args, s.args[fn.pointer])
	case memory.ReallocProduct:
		args = append(args, s.args[fn.pointer], s.args[fn.count])
	case memory.Free:
		args = []uint8{s.args[fn.pointer]}
	}
	return slices.Contains(args, none)
}

// isLeaf says whether jemalloc, tcmalloc or mimalloc has a function that does the work itself: those that programs call all
// the time. Of others the end is always looked at, as they may call one that has a probe.
func isLeaf(name string) bool {
	if p, ok := prefixOf(name); ok {
		switch strings.TrimPrefix(name, p) {
		case "malloc", "calloc", "mallocx", "zalloc", "malloc_aligned", "zalloc_aligned":
			return true
		}
	}
	return false
}

// prefixOf returns the prefix of a C function's name; false for C++'s operators.
func prefixOf(name string) (string, bool) {
	if _, op := operator(name); op {
		return "", false
	}
	for _, p := range slices.Backward(prefixes) {
		if plain, ok := strings.CutPrefix(name, p); ok {
			if _, ok := functions[plain]; ok {
				return p, true
			}
		}
	}
	return "", false
}

// reaches says whether code at an address calls or jumps to a function for which f is true.
func reaches(code []byte, addr uint64, f func(to uint64) bool) bool {
	for i := 0; i < len(code); {
		n := 1
		if in, err := x86asm.Decode(code[i:], 64); err == nil && in.Len > 0 {
			n = in.Len
			if rel, ok := in.Args[0].(x86asm.Rel); ok && f(addr+uint64(i+n)+uint64(int64(rel))) {
				return true
			}
		}
		i += n
	}
	return false
}

// fileOffset returns where in the file an executable address lies.
func fileOffset(f *elf.File, addr uint64) (uint64, bool) {
	for i := range f.Segments {
		s := &f.Segments[i]
		if s.Type == elf.SegmentLoad && s.Flags&elf.FlagExec != 0 && addr >= s.Vaddr && addr-s.Vaddr < s.Filesz {
			return addr - s.Vaddr + s.Offset, true
		}
	}
	return 0, false
}

// body returns the function's code, nil if it cannot be read or is none that a probe can be moved in.
func body(f *elf.File, sym elf.Symbol) []byte {
	if sym.Size == 0 || sym.Size > maxFunction {
		return nil
	}
	code, err := f.ReadAddr(sym.Addr, sym.Size)
	if err != nil {
		return nil
	}
	return code
}
