import { expect, test } from "vitest";
import { packageOf, shortName } from "./names";
import { FrameKind } from "./tree";

test("packageOf", () => {
  const f = (name: string, want: string, more: { file?: string; mapping?: string; kind?: FrameKind } = {}): void =>
    expect(packageOf({ name, file: "", mapping: "/usr/bin/app", kind: FrameKind.NATIVE, inlined: false, startLine: 0, ...more })).toBe(want);
  f("net/http.(*conn).serve", "net/http");
  f("github.com/a/b.v2/c.(*T[go.shape.int]).M", "github.com/a/b.v2/c");
  f("runtime.mallocgc", "runtime");
  f("main.main.func1", "main");
  f("core::fmt::write", "core");
  f("<alloc::vec::Vec<T> as core::clone::Clone>::clone", "alloc");
  f("<dyn core::any::Any>::type_id", "core");
  f("std::vector<int, std::allocator<int>>::push_back(int&&)", "std");
  f("search::Query::Execute(a.b const&)", "search");
  f("java.util.HashMap.get", "java.util");
  f("md5_block", "app");
  f("operator new(unsigned long)", "libstdc++.so.6", { mapping: "/usr/lib/libstdc++.so.6" });
  f("memcpy.part.0", "libc.so.6", { mapping: "/lib/libc.so.6", file: "/build/memcpy.c" });
  f("vfs_read_[k]", "kernel", { kind: FrameKind.KERNEL });
  f("(small)", "", { kind: FrameKind.CUT });
});

test("shortName", () => {
  const f = (name: string, want: string): void => expect(shortName(name)).toBe(want);
  f("main", "main");
  f("net/http.(*conn).serve", "http.(*conn).serve");
  f("github.com/a/b/c.(*T[github.com/x/y.Z]).Method", "c.(*T[github.com/x/y.Z]).Method");
  f("std::map<K, V<W>>::insert(K const&)", "map::insert");
  f("search::Scorer::Score(search::Doc const&) const", "Scorer::Score");
  f("<a::b::C as d::E>::f", "C::f");
  f("<hyper::Conn<I, B> as core::future::Future>::poll", "Conn::poll");
  f("tokio::runtime::Runtime::block_on", "Runtime::block_on");
  f("foo/bar(baz)", "bar(baz)");
});
