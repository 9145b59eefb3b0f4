// Who hands out memory, and is therefore not who wanted it: the rules of profile/allocator.go.

import { FrameKind, type FlameTree } from "./tree";
import { TreeBuilder } from "./treebuild";

// foldAllocators returns the tree in which memory belongs to the function that asked for it: what ends in an allocator
// counts for its first caller that is none, and allocators that only ended stacks are gone. A stack of nothing else stays
// as it is, also below a reason why it is unfinished.
export function foldAllocators(t: FlameTree): FlameTree {
  const allocator = t.frames.map((f) => isAllocator(f.name, f.kind));
  if (t.count === 0 || !allocator.includes(true)) return t;
  const self = t.self.slice();
  const keep = new Uint8Array(t.count);
  keep[0] = 1;
  // By node: the innermost at or above it that is no allocator, or 0.
  const callers = new Int32Array(t.count);
  for (let i = 1; i < t.count; i++) {
    const f = t.frame[i] as number;
    const kind = t.frames[f]?.kind;
    let caller = callers[t.parent[i] as number] as number;
    if (allocator[f] !== true) {
      keep[i] = 1;
      if (kind === FrameKind.UNWIND) caller = 0;
      else if (kind !== FrameKind.LABEL) caller = i;
    } else if (caller === 0) keep[i] = 1;
    else {
      self[caller] = (self[caller] as number) + (self[i] as number);
      self[i] = 0;
    }
    callers[i] = caller;
  }
  for (let i = t.count - 1; i > 0; i--) if (keep[i] === 1) keep[t.parent[i] as number] = 1;
  const b = new TreeBuilder(t.frames);
  const at = new Int32Array(t.count);
  b.add(0, self[0] as number);
  for (let i = 1; i < t.count; i++) {
    if (keep[i] !== 1) continue;
    at[i] = b.child(at[t.parent[i] as number] as number, t.frame[i] as number);
    b.add(at[i] as number, self[i] as number);
  }
  const { unit, stackCount, seriesCount, stacksCut } = t;
  return b.tree({ unit, stackCount, seriesCount, stacksCut }).tree;
}

// isAllocator knows
//
//   C      malloc and its siblings, also those of jemalloc, tcmalloc and mimalloc
//   C++    operator new, allocators of the standard library, and what its containers call inside (_M_…, __…)
//   Rust   __rust_alloc and its siblings, the crates alloc and hashbrown
//   Go     the runtime, whose frames Go's own heap profiles leave out as well
//   Java   the class of an object as a frame of its own: byte[], java.util.HashMap$Node
export function isAllocator(name: string, kind: FrameKind): boolean {
  switch (kind) {
    case FrameKind.NATIVE:
      return isNative(name) || (name.endsWith("[]") && !name.includes("operator"));
    case FrameKind.INTERPRETED:
      // In no package a method still has its class before it.
      return isJavaClass(name) || (!name.includes(".") && isJavaClass(`.${name}`));
    case FrameKind.JIT:
    case FrameKind.KERNEL:
      // async-profiler's folded text marks classes as the kernel's frames are.
      return isJavaClass(name);
  }
  return false;
}

const mallocs = new Set(
  (
    "malloc calloc realloc reallocarray reallocf memalign aligned_alloc posix_memalign valloc pvalloc mallocx rallocx malloc_aligned calloc_aligned " +
    "realloc_aligned _int_malloc _int_realloc _int_memalign _mid_memalign sysmalloc tcache_malloc"
  ).split(" "),
);
// Names that an implementation's mark must stand before.
const markedMallocs = new Set(
  "new new_nothrow newarray newarray_nothrow new_aligned newarray_aligned zalloc malloc_small zalloc_small zalloc_aligned mallocn reallocn rezalloc".split(" "),
);

function isNative(name: string): boolean {
  if (/^(runtime\.|internal\/runtime\/|operator new|_Znw|_Zna|<?(alloc|hashbrown)::)/.test(name)) return true;
  // The last: a program's own choice of allocator.
  if (/ as (alloc|hashbrown)::/.test(name) || name.includes(" as core::alloc::")) return true;
  const bare = bareName(name);
  const colons = bare.indexOf("::");
  const qualified = colons >= 0;
  const first = qualified ? bare.slice(0, colons) : bare;
  const rest = qualified ? bare.slice(colons + 2) : "";
  const last = qualified ? rest.slice(rest.lastIndexOf(":") + 1) : bare;
  if (/^__(rust|rdl|rg)_/.test(last) || (qualified && first === "tcmalloc")) return true;
  if (qualified) return (first === "std" || first === "__gnu_cxx") && (rest.includes("alloc") || last.startsWith("_M_") || last.startsWith("__"));
  const plain = mallocName(bare);
  return mallocs.has(plain) || (plain !== bare && markedMallocs.has(plain));
}

// mallocName is a name of the C library or of an allocator without the mark of its implementation and its version.
function mallocName(name: string): string {
  const at = name.indexOf("@");
  return (at < 0 ? name : name.slice(0, at)).replace(/^(?:__GI_|__libc_|__interceptor_|__wrap_|je_|_rjem_|tc_|mi_)+/, "").replace(/^__/, "");
}

// bareName is a demangled name without template arguments, parameters and type of the result: "std::vector::_M_insert"
// of "void std::vector<int, A<int> >::_M_insert<int>(int&&)".
function bareName(name: string): string {
  if (!/[<( ]/.test(name)) return name;
  let out = "";
  let depth = 0;
  for (const c of name) {
    if (c === "<") depth++;
    else if (c === ">") depth = Math.max(0, depth - 1);
    else if (depth > 0) continue;
    else if (c === "(") break;
    else out += c;
  }
  return out.slice(out.lastIndexOf(" ") + 1);
}

// isJavaClass tells a class from a method, "package.Class.method", by the usual letters.
function isJavaClass(name: string): boolean {
  if (name.endsWith("[]")) return true;
  // What follows is of a hidden class.
  const hidden = name.indexOf("/0x");
  const bare = hidden < 0 ? name : name.slice(0, hidden);
  if (/[ ():/;<]/.test(bare)) return false;
  const dot = bare.lastIndexOf(".");
  return dot >= 0 && /^\p{Lu}/u.test(bare.slice(dot + 1));
}
