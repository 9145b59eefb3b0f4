// The table's rows from a part of the tree.

import { FrameKind, type FlameTree, type Frame } from "./tree";
import type { SortBy } from "./urlstate";

export interface FunctionRow {
  readonly name: string;
  readonly file: string;
  readonly mapping: string;
  readonly kind: FrameKind;
  readonly self: number;
  // Recursion counted once per stack.
  readonly total: number;
}

// functionsBelow sums the subtree of root by function name; a name that several binaries share has no mapping. The root of the tree and "(small)" are no functions.
export function functionsBelow(t: FlameTree, root: number): FunctionRow[] {
  const ids = new Map<string, number>();
  const frames: Frame[] = [];
  const idOf = t.frames.map((f) => {
    if (f.kind === FrameKind.ROOT || f.kind === FrameKind.CUT) return -1;
    let id = ids.get(f.name);
    if (id === undefined) {
      id = frames.push(f) - 1;
      ids.set(f.name, id);
    } else if (frames[id]?.mapping !== f.mapping) frames[id] = { ...f, mapping: "" };
    return id;
  });
  const self = new Float64Array(frames.length);
  const total = new Float64Array(frames.length);
  // until[id] is where the outermost open node of the function ends: inside it, totals are already counted.
  const until = new Int32Array(frames.length);
  const end = t.count === 0 ? 0 : (t.end[root] as number);
  for (let i = root; i < end; i++) {
    const id = idOf[t.frame[i] as number] as number;
    if (id < 0) continue;
    self[id] = (self[id] as number) + (t.self[i] as number);
    if (i >= (until[id] as number)) {
      total[id] = (total[id] as number) + (t.total[i] as number);
      until[id] = t.end[i] as number;
    }
  }
  const rows: FunctionRow[] = [];
  frames.forEach((f, id) => {
    const value = total[id] as number;
    if (value > 0) rows.push({ name: f.name, file: f.file, mapping: f.mapping, kind: f.kind, self: self[id] as number, total: value });
  });
  return rows;
}

// sortRows sorts largest first, or by name; ties by the other value, then by name.
export function sortRows(rows: readonly FunctionRow[], by: SortBy): FunctionRow[] {
  const name = (a: FunctionRow, b: FunctionRow): number => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
  return [...rows].sort((a, b) => {
    if (by === "self") return b.self - a.self || b.total - a.total || name(a, b);
    if (by === "total") return b.total - a.total || b.self - a.self || name(a, b);
    return name(a, b);
  });
}
