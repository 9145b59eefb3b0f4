package profile

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestIsAllocator(t *testing.T) {
	f := func(kind Kind, want bool, names ...string) {
		t.Helper()
		for _, name := range names {
			if IsAllocator(name, kind) != want {
				t.Errorf("%q: got %t", name, !want)
			}
		}
	}
	f(KindNative, true, "runtime.mallocgc", "runtime.makeslice", "runtime.growslice", "runtime.newobject", "runtime.mapassign_faststr",
		"internal/runtime/maps.(*Map).growToTable")
	f(KindNative, true, "malloc", "calloc", "realloc", "__libc_malloc", "__GI___libc_malloc", "_int_malloc", "malloc@plt", "je_malloc", "tc_calloc", "mi_malloc",
		"posix_memalign", "__interceptor_malloc", "_rjem_mallocx", "tc_new", "mi_zalloc", "mi_malloc_small")
	f(KindNative, true, "operator new(unsigned long)", "operator new[](unsigned long)", "_Znwm", "tcmalloc::allocate_full_malloc_oom(unsigned long)",
		"std::__new_allocator<int>::allocate(unsigned long, void const*)", "__gnu_cxx::new_allocator<Node>::allocate(unsigned long)",
		"std::allocator_traits<std::allocator<char> >::allocate(std::allocator<char>&, unsigned long)",
		"std::_Vector_base<Node, std::allocator<Node> >::_M_allocate(unsigned long)",
		"void std::vector<int, std::allocator<int> >::_M_realloc_insert<int>(__gnu_cxx::__normal_iterator<int*, std::vector<int> >, int&&)",
		"std::__1::vector<int>::__push_back_slow_path<int>(int&&)")
	f(KindNative, true, "__rust_alloc", "__rust_realloc", "__rdl_alloc", "__rustc::__rust_alloc", "__rustc[9c8ddc95dff0f9e2]::__rust_alloc",
		"alloc::raw_vec::RawVec<T,A>::grow_one", "alloc::vec::Vec<T>::push", "<alloc::string::String as core::clone::Clone>::clone",
		"<T as alloc::slice::hack::ConvertVec>::to_vec", "hashbrown::raw::RawTable<T,A>::reserve_rehash",
		"<tikv_jemallocator::Jemalloc as core::alloc::global::GlobalAlloc>::alloc")
	f(KindInterpreted, true, "byte[]", "java.util.HashMap$Node", "com.acme.Leak$Item[]", "Truth", "Truth$Node", "com.acme.App$$Lambda/0x00007f1c0c00")
	f(KindJIT, true, "java.lang.String")
	f(KindNative, true, "byte[]")

	f(KindNative, false, "main.grow", "main.Leak", "runtime/pprof.StartCPUProfile", "runtimes.mallocgc", "mallocate", "my_malloc", "xmalloc", "strdup", "mi_open", "tc_setup", "new", "zalloc",
		"std::vector<Node, std::allocator<Node> >::push_back(Node const&)", "app::Pool::allocate(unsigned long)", "allocator::run", "Cache::fill(std::allocator<int>&)",
		"operator delete(void*)", "T::operator[](int)", "Array::operator[]", "core::fmt::write", "allocations", "", "::", "<", "a<b", "std::sort<int>(int*)", "free")
	f(KindInterpreted, false, "com.acme.Leak.grow", "java.util.ArrayList.<init>", "Truth.main", "main", "module.py", "_PyEval (/usr/lib/x.Y)")
	f(KindUnwind, false, "[unwind: malloc]")
	f(KindLabel, false, "malloc")
	f(KindKernel, false, "do_anonymous_page", "kmalloc", "ZSTD_decompress")
}

func TestFoldAllocators(t *testing.T) {
	f := func(want string, lines ...string) {
		t.Helper()
		b, p := folded(t, lines...)
		if got := foldedText(t, NewTree(b, p).FoldAllocators()); got != want {
			t.Errorf("%q: got\n%s\nwant\n%s", lines, got, want)
		}
	}
	f("main;grow 12\n", "main;grow;runtime.makeslice;runtime.mallocgc 7", "main;grow 2", "main;grow;runtime.mallocgc 3")
	f("main;a 5\nmain;a;malloc;hook 3\n", "main;a;malloc;hook;malloc 1", "main;a;malloc;hook 2", "main;a;malloc 5")
	f("runtime.main;main.main 6\nruntime.main;runtime.mallocgc 4\n", "runtime.main;runtime.mallocgc 4", "runtime.main;main.main;runtime.mallocgc 6")
	f("[unwind: gone];f 4\n[unwind: gone];malloc 3\n", "[unwind: gone];malloc 3", "[unwind: gone];f;malloc 4")
	f("main;work 3\n", "main;work 3")
}

func foldedText(t *testing.T, tree *Tree) string {
	t.Helper()
	checkTree(t, tree)
	var s strings.Builder
	if err := tree.WriteFolded(&s); err != nil {
		t.Fatal(err)
	}
	return s.String()
}

// TestFoldAllocatorsRandom: frames that are allocators at random, each stack by itself.
func TestFoldAllocatorsRandom(t *testing.T) {
	moved := 0
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 9))
		b := randomBatch(r)
		salt := r.Uint32()
		isAllocator := func(name string, kind Kind) bool {
			h := salt
			for _, c := range []byte(name) {
				h = h*31 + uint32(c)
			}
			return kind != KindUnwind && h>>7%3 == 0
		}
		tree, err := GroupTree(t.Context(), b, []string{"pod"})
		if err != nil {
			t.Fatal(err)
		}
		want := treeOf(nil)
		for _, s := range plain(b) {
			end := len(s.frames)
			for end > 0 && isAllocator(s.frames[end-1].name, s.frames[end-1].kind) {
				end--
			}
			if end == 0 || s.frames[end-1].kind == KindUnwind {
				end = len(s.frames)
			}
			moved += len(s.frames) - end
			path := []plainFrame{{name: "pod=" + s.labels.Get("pod"), kind: KindLabel}}
			want.add(append(path, s.frames[:end]...), 1, s.value)
		}
		got := tree.foldInto(func(f *TreeFrame) bool {
			return f.Kind != KindLabel && isAllocator(tree.Strings[f.Name], f.Kind)
		})
		wantTree(t, fmt.Sprintf("seed %d", seed), written(t, got, nil), want)
	}
	if moved < 500 {
		t.Errorf("only %d frames were folded", moved)
	}
}

func TestTypeMemory(t *testing.T) {
	f := func(typ string, want bool) {
		t.Helper()
		p, err := ParseType(typ)
		if err != nil {
			t.Fatal(err)
		}
		if p.Memory() != want {
			t.Errorf("%s: got %t", typ, !want)
		}
	}
	f("memory:inuse_space:bytes:space:bytes", true)
	f("memory:page_faults:count:page_faults:count", true)
	f("heap:alloc_objects:count::", true)
	f("process_cpu:cpu:nanoseconds:cpu:nanoseconds", false)
	f("goroutine:goroutine:count:goroutine:count", false)
}
