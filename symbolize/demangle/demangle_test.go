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

func TestSwift(t *testing.T) {
	f := func(symbol, want string) {
		t.Helper()
		if got := Name(symbol); got != want {
			t.Errorf("%s: got %q, want %q", symbol, got, want)
		}
	}
	f("$s4main3fooyyF", "main.foo()")
	f("$s4main3fooyySiF", "main.foo(_:)")
	f("$s4main3foo1x1ySiSS_SdtF", "main.foo(x:y:)")
	f("$s4main3foo_1ySiSS_SdtF", "main.foo(_:y:)")
	f("_$s4main5PointV1xSivg", "main.Point.x.getter")
	f("$s4main5PointV1xSivs", "main.Point.x.setter")
	f("$s7Example6ServerC5startyyYaKF", "Example.Server.start()")
	f("$s7Example6ServerC5startyyYaKFTY0_", "Example.Server.start()")
	f("$s7Example6ServerC5startyyYaKFTQ1_", "Example.Server.start()")
	f("$s4main3fooyyFyycfU_", "closure #1 in main.foo()")
	f("$s4main3fooyyFyycfU0_", "closure #2 in main.foo()")
	f("$s4main3fooyySiFyyXEfU_TA.1", "partial apply for closure #1 in main.foo(_:)")
	f("$s3foo3barC3bas3zimyAaEC_tF", "foo.bar.bas(zim:)")
	f("$s3foo3barCACycfC", "foo.bar.__allocating_init()")
	f("$s3foo3barCACycfc", "foo.bar.init()")
	f("$s3foo3barCfD", "foo.bar.__deallocating_deinit")
	f("$s3foo3barCfd", "foo.bar.deinit")
	f("$s3foo3barV1poiyS2i_SitFZ", "foo.bar.+(_:_:)")
	f("$s4Test5ProtoP8IteratorV10collectionAEy_qd__Gqd___tcfc", "Test.Proto.Iterator.init(collection:)")
	f("$s1A1gyyxlF", "A.g(_:)")
	f("$s4Test6testityyxlFAA8MystructV_TB5", "specialized Test.testit(_:)")
	f("$s3red4testyAA3ResOyxSayq_GGADyxq_Gs5ErrorR_r0_lF", "red.test(_:)")
	f("$sSa6appendyyxnF", "Swift.Array.append(_:)")
	f("$s09MemberGetA03fooyyF", "MemberGetMember.foo()")
	f("$s4main7counter33_0123456789ABCDEF0123456789ABCDEFLLSivg", "main.counter.getter")
	f("$s4main5PointVMa", "type metadata accessor for main.Point")
	f("$s4main5PointV4nameSSvgZ", "main.Point.name.getter")
	f("$s4main4PairVySiSSGWOh", "outlined destroy of main.Pair")
	// Left alone: data, what is not understood, and what is no Swift.
	for _, s := range []string{
		"$s", "$sx", "$s4main", "$s4main3foo", "$sSi", "$s4mai", "$s99main3fooyyF", "$s4main3fooyF", "$s4main3fooyyFF",
		"$sA", "$sAZ", "$s4main3fooyyFTR", "$s0059xxxxxxxxxxxxxxx_tttttttt", "_T", "_Tx", "$$s4main3fooyyF",
		"$s4main5PointVN", "$s4main5PointVMn",
	} {
		f(s, s)
	}
}
