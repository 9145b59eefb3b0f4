// Functions with their values in two selections.

import { byBytes, change, type DiffSide, type DiffTree } from "./difftree";
import { FrameKind } from "./tree";

export interface DiffRow {
  readonly name: string;
  readonly file: string;
  readonly mapping: string;
  readonly kind: FrameKind;
  // As measured. Recursion is counted once per stack.
  readonly selfBefore: number;
  readonly selfAfter: number;
  readonly totalBefore: number;
  readonly totalAfter: number;
}

export type DiffSort = "self" | "total" | "name";

// diffRowsBelow sums the subtree of root by function. The root of the tree and "(small)" are no functions.
export function diffRowsBelow(t: DiffTree, root: number): DiffRow[] {
  const ids = new Map<string, number>();
  const idOf = t.frames.map((f) => {
    if (f.kind === FrameKind.ROOT || f.kind === FrameKind.CUT) return -1;
    const key = `${f.name}\0${f.file}\0${f.mapping}\0${f.kind}`;
    const id = ids.get(key) ?? ids.size;
    ids.set(key, id);
    return id;
  });
  const values = [t.before.self, t.after.self, t.before.total, t.after.total] as const;
  const sum = values.map(() => new Float64Array(ids.size));
  const frameOf = new Int32Array(ids.size).fill(-1);
  // until[id] is where the outermost open node of the function ends: inside it, totals are already counted.
  const until = new Int32Array(ids.size);
  const end = t.count === 0 ? 0 : (t.end[root] as number);
  for (let i = root; i < end; i++) {
    const id = idOf[t.frame[i] as number] as number;
    if (id < 0) continue;
    frameOf[id] = t.frame[i] as number;
    const inner = i < (until[id] as number);
    if (!inner) until[id] = t.end[i] as number;
    for (let v = 0; v < (inner ? 2 : 4); v++) (sum[v] as Float64Array)[id] = ((sum[v] as Float64Array)[id] as number) + ((values[v] as Float64Array)[i] as number);
  }
  const at = (v: number, id: number): number => (sum[v] as Float64Array)[id] as number;
  const rows: DiffRow[] = [];
  for (let id = 0; id < ids.size; id++) {
    const f = t.frames[frameOf[id] as number];
    if (f === undefined) continue;
    rows.push({ name: f.name, file: f.file, mapping: f.mapping, kind: f.kind, selfBefore: at(0, id), selfAfter: at(1, id), totalBefore: at(2, id), totalAfter: at(3, id) });
  }
  return rows;
}

// sortDiffRows brings those first whose self value, or total, changed most in either direction; then those with the other
// change, then in order of name, file, mapping and kind: as profilectl diff.
export function sortDiffRows(rows: readonly DiffRow[], by: DiffSort, sides: { readonly before: DiffSide; readonly after: DiffSide }): DiffRow[] {
  const weighed = rows.map((row) => ({
    row,
    self: Math.abs(change(sides, row.selfBefore, row.selfAfter)),
    total: Math.abs(change(sides, row.totalBefore, row.totalAfter)),
  }));
  weighed.sort((x, y) => {
    const self = y.self - x.self;
    const total = y.total - x.total;
    const names = byBytes(x.row.name, y.row.name) || byBytes(x.row.file, y.row.file) || byBytes(x.row.mapping, y.row.mapping) || x.row.kind - y.row.kind;
    if (by === "name") return names;
    return by === "self" ? self || total || names : total || self || names;
  });
  return weighed.map((w) => w.row);
}
