// What a function's name says about where it comes from.

import { FrameKind, type Frame } from "./tree";

// baseName is the last part of a path.
export function baseName(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

// packageOf names the package, crate, namespace or library that a frame belongs to: what the graph is coloured by.
//
//   Go      net/http.(*conn).serve             net/http
//   Rust    core::fmt::write                   core
//   Rust    <alloc::vec::Vec<T> as X>::drop    alloc
//   C++     std::vector<int>::push_back        std
//   JVM     java.util.HashMap.get              java.util
//   C       md5_block in /usr/bin/app          app
export function packageOf(f: Frame): string {
  switch (f.kind) {
    case FrameKind.KERNEL:
      return "kernel";
    case FrameKind.UNWIND:
    case FrameKind.CUT:
    case FrameKind.ROOT:
    case FrameKind.LABEL:
      return "";
  }
  const name = f.name;
  const colons = /^[<&*\s]*(?:dyn |impl )?([A-Za-z_$][\w$]*)(?:<[^:]*>)?::/.exec(name);
  if (colons !== null) return colons[1] as string;
  // A Go name has its package up to the first dot after the last slash that stands before any bracket.
  const head = name.split(/[([{<]/, 1)[0] as string;
  const slash = head.lastIndexOf("/");
  const dot = head.indexOf(".", slash + 1);
  if (dot > 0 && (slash > 0 || f.file.endsWith(".go") || f.file.endsWith(".s") || f.file === "")) {
    const jvm = /^([a-z_][\w$]*(?:\.[a-z_][\w$]*)*)\.[A-Z][\w$]*\./.exec(head);
    return jvm !== null && slash < 0 ? (jvm[1] as string) : head.slice(0, dot);
  }
  const file = /^([a-z_][\w$]*(?:\.[a-z_][\w$]*)+)\.[A-Z]/.exec(head);
  if (file !== null) return file[1] as string;
  return baseName(f.mapping);
}

// shortName drops what precedes the last package element and template arguments: what fits a narrow box.
//
//   github.com/a/b/c.(*T).Method      c.(*T).Method
//   std::map<K, V>::insert(K const&)  std::map::insert
//   <a::b::C as d::E>::f              C::f
export function shortName(name: string): string {
  let out = name;
  const as = /^<(?:.*::)?([\w$]+)(?:<.*>)? as .*>::(.+)$/.exec(out);
  if (as !== null) out = `${as[1]}::${as[2]}`;
  const stop = out.search(/[([{<]/);
  const head = stop < 0 ? out : out.slice(0, stop);
  const slash = head.lastIndexOf("/");
  if (slash >= 0) return out.slice(slash + 1);
  if (!out.includes("::")) return out;
  // Template arguments and parameters, innermost brackets first.
  for (let before = ""; before !== out; ) {
    before = out;
    out = out.replace(/(?<!operator)<[^<>]*>/g, "");
  }
  out = out.replace(/\(.*\)( const)?$/, "");
  const parts = out.split("::").filter((p) => p !== "");
  return parts.slice(-2).join("::") || name;
}
