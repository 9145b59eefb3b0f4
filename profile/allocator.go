package profile

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Memory says whether values are memory that programs ask for or touch, by stack: types called memory, and whatever
// counts allocations.
func (t Type) Memory() bool {
	word, _, _ := strings.Cut(t.SampleType, "_")
	return t.Name == "memory" || t.PeriodType == "space" || word == "inuse" || word == "alloc"
}

// FoldAllocators returns the tree in which memory belongs to the function that asked for it: what ends in an
// allocator ([IsAllocator]) counts for its first caller that is none, and allocators that only ended stacks are gone. A stack
// of nothing else stays as it is, also below a reason why it is unfinished. Sums stay. The tree itself stays, too.
func (t *Tree) FoldAllocators() *Tree {
	return t.foldInto(func(f *TreeFrame) bool { return IsAllocator(t.Strings[f.Name], f.Kind) })
}

func (t *Tree) foldInto(isAllocator func(*TreeFrame) bool) *Tree {
	allocator, some := make([]bool, len(t.Frames)), false
	for i := 1; i < len(t.Frames); i++ {
		allocator[i] = isAllocator(&t.Frames[i])
		some = some || allocator[i]
	}
	if !some {
		return t
	}
	n := uint32(t.Len())
	self, keep, parent := slices.Clone(t.Self), make([]bool, n), make([]uint32, n)
	keep[0] = true
	type open struct{ at, caller uint32 } // the innermost that is no allocator, or 0
	path := []open{{}}
	for i := uint32(1); i < n; i++ {
		for t.End[path[len(path)-1].at] <= i {
			path = path[:len(path)-1]
		}
		top := path[len(path)-1]
		parent[i] = top.at
		caller := top.caller
		switch frame := t.Frame[i]; {
		case !allocator[frame]:
			keep[i] = true
			switch t.Frames[frame].Kind {
			case KindLabel:
			case KindUnwind:
				caller = 0
			default:
				caller = i
			}
		case caller == 0:
			keep[i] = true
		default:
			self[caller] += self[i]
			self[i] = 0
		}
		path = append(path, open{i, caller})
	}
	for i := n - 1; i > 0; i-- {
		keep[parent[i]] = keep[parent[i]] || keep[i]
	}
	return t.only(keep, self)
}

// only returns the tree of the nodes to keep, whose parents are kept, too, with other self values.
func (t *Tree) only(keep []bool, self []int64) *Tree {
	at := make([]uint32, t.Len()+1) // by node: how many before it are kept
	for i, k := range keep {
		at[i+1] = at[i]
		if k {
			at[i+1]++
		}
	}
	out := &Tree{Unit: t.Unit}
	for i, k := range keep {
		if k {
			out.Frame = append(out.Frame, t.Frame[i])
			out.Self = append(out.Self, self[i])
			out.End = append(out.End, at[t.End[i]])
		}
	}
	rank := out.setFrames(t.Frames, t.Strings, usedFrames(len(t.Frames), out.Frame))
	for i, f := range out.Frame {
		out.Frame[i] = rank[f]
	}
	out.sum()
	return out
}

// IsAllocator says whether a function hands out memory and is therefore not who wanted it. It knows
//
//	C      malloc and its siblings, also those of jemalloc, tcmalloc and mimalloc
//	C++    operator new, allocators of the standard library, and what its containers call inside (_M_…, __…)
//	Rust   __rust_alloc and its siblings, the crates alloc and hashbrown
//	Go     the runtime, whose frames Go's own heap profiles leave out as well
//	Java   the class of an object as a frame of its own: byte[], java.util.HashMap$Node
func IsAllocator(name string, kind Kind) bool {
	switch kind {
	case KindNative:
		return isNativeAllocator(name) || strings.HasSuffix(name, "[]") && !strings.Contains(name, "operator")
	case KindInterpreted: // in no package a method still has its class before it
		return isJavaClass(name) || !strings.ContainsRune(name, '.') && isJavaClass("."+name)
	case KindJIT, KindKernel: // async-profiler's folded text marks classes as the kernel's frames are
		return isJavaClass(name)
	}
	return false
}

func isNativeAllocator(name string) bool {
	if strings.HasPrefix(name, "runtime.") || strings.HasPrefix(name, "internal/runtime/") {
		return true
	}
	if strings.HasPrefix(name, "operator new") || strings.HasPrefix(name, "_Znw") || strings.HasPrefix(name, "_Zna") {
		return true
	}
	for _, crate := range []string{"alloc::", "hashbrown::"} {
		if strings.HasPrefix(name, crate) || strings.HasPrefix(name, "<"+crate) || strings.Contains(name, " as "+crate) {
			return true
		}
	}
	if strings.Contains(name, " as core::alloc::") { // a program's own choice of allocator
		return true
	}
	bare := bareName(name)
	first, rest, qualified := strings.Cut(bare, "::")
	last := rest[strings.LastIndex(rest, ":")+1:]
	if !qualified {
		last = bare
	}
	switch {
	case strings.HasPrefix(last, "__rust_"), strings.HasPrefix(last, "__rdl_"), strings.HasPrefix(last, "__rg_"), first == "tcmalloc" && qualified:
		return true
	case qualified:
		return (first == "std" || first == "__gnu_cxx") &&
			(strings.Contains(rest, "alloc") || strings.HasPrefix(last, "_M_") || strings.HasPrefix(last, "__"))
	}
	plain := mallocName(bare)
	return mallocs[plain] || plain != bare && markedMallocs[plain]
}

var mallocs = map[string]bool{
	"malloc": true, "calloc": true, "realloc": true, "reallocarray": true, "reallocf": true, "memalign": true, "aligned_alloc": true,
	"posix_memalign": true, "valloc": true, "pvalloc": true, "mallocx": true, "rallocx": true, "malloc_aligned": true, "calloc_aligned": true, "realloc_aligned": true,
	"_int_malloc": true, "_int_realloc": true, "_int_memalign": true, "_mid_memalign": true, "sysmalloc": true, "tcache_malloc": true,
}

// markedMallocs are names that an implementation's mark must stand before.
var markedMallocs = map[string]bool{
	"new": true, "new_nothrow": true, "newarray": true, "newarray_nothrow": true, "new_aligned": true, "newarray_aligned": true,
	"zalloc": true, "malloc_small": true, "zalloc_small": true, "zalloc_aligned": true, "mallocn": true, "reallocn": true, "rezalloc": true,
}

// mallocName is a name of the C library or of an allocator without the mark of its implementation and its version.
func mallocName(name string) string {
	name, _, _ = strings.Cut(name, "@")
	for again := true; again; {
		again = false
		for _, mark := range []string{"__GI_", "__libc_", "__interceptor_", "__wrap_", "je_", "_rjem_", "tc_", "mi_"} {
			if rest, ok := strings.CutPrefix(name, mark); ok {
				name, again = rest, true
			}
		}
	}
	return strings.TrimPrefix(name, "__")
}

// bareName is a demangled name without template arguments, parameters and type of the result:
// "std::vector::_M_insert" of "void std::vector<int, A<int> >::_M_insert<int>(int&&)".
func bareName(name string) string {
	if !strings.ContainsAny(name, "<( ") {
		return name
	}
	var b strings.Builder
	depth := 0
	for _, r := range name {
		switch {
		case r == '<':
			depth++
		case r == '>':
			depth = max(0, depth-1)
		case depth > 0:
		case r == '(':
			return afterSpace(b.String())
		default:
			b.WriteRune(r)
		}
	}
	return afterSpace(b.String())
}

func afterSpace(s string) string { return s[strings.LastIndexByte(s, ' ')+1:] }

// isJavaClass tells a class from a method, "package.Class.method", by the usual letters.
func isJavaClass(name string) bool {
	if strings.HasSuffix(name, "[]") {
		return true
	}
	name, _, _ = strings.Cut(name, "/0x") // of a hidden class
	if strings.ContainsAny(name, " ():/;<") {
		return false
	}
	dot := strings.LastIndexByte(name, '.')
	r, _ := utf8.DecodeRuneInString(name[dot+1:])
	return dot >= 0 && unicode.IsUpper(r)
}
