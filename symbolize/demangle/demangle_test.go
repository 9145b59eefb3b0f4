package demangle

import "testing"

func TestName(t *testing.T) {
	f := func(symbol, want string) {
		t.Helper()
		if got := Name(symbol); got != want {
			t.Errorf("%s: got %q, want %q", symbol, got, want)
		}
	}
	f("", "")
	f("main", "main")
	f("_start", "_start")
	f("runtime.mallocgc", "runtime.mallocgc")
	f("_ZN3foo3barEi", "foo::bar")
	f("_ZN3foo3barEi.isra.0", "foo::bar")
	f("_ZN3foo3barEi.cold", "foo::bar")
	f("_ZNSt6vectorIiSaIiEE9push_backERKi", "std::vector<int, std::allocator<int> >::push_back")
	f("_Znwm@plt", "operator new@plt")
	f("_Znwm@@GLIBCXX_3.4", "operator new@@GLIBCXX_3.4")
	f("write@plt", "write@plt")
	f("_ZN12_GLOBAL__N_14workEv", "(anonymous namespace)::work")
	f("_ZN4core3fmt9Formatter3pad17h0123456789abcdefE", "core::fmt::Formatter::pad")
	f("_ZN66_$LT$alloc..vec..Vec$LT$T$GT$$u20$as$u20$core..ops..drop..Drop$GT$4drop17h0123456789abcdefE", "<alloc::vec::Vec<T> as core::ops::drop::Drop>::drop")
	f("_RNvC6_123foo3bar", "123foo::bar")
	f("_RNvCs1234_7mycrate4work", "mycrate::work")
	f("_RINvNtC3std3mem8align_ofjE", "std::mem::align_of::<usize>")
	f("main.(*rect[go.shape.int]).area", "main.(*rect[...]).area")
	f("slices.SortFunc[go.shape.[]int,go.shape.int]", "slices.SortFunc[...]")
	f("std::vector[int]", "std::vector[int]")
	f("_Z", "_Z")
	f("_ZN", "_ZN")
	f("_Rubbish", "_Rubbish")
}

func FuzzName(f *testing.F) {
	for _, s := range []string{"_ZN3foo3barEi", "_RNvC6_123foo3bar", "_ZSt4swapIiEvRT_S1_", "$s4main3fooyyF", "$s7Example6ServerC5startyyYaKF", "_$s4main5PointV1xSivg", "$s4main3fooyyFAAyycfU_", "_T04main3fooyyF", "a@b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got := Name(s); len(got) > 20<<10 && len(got) > len(s) {
			t.Errorf("%d bytes out of %d", len(got), len(s))
		}
	})
}
