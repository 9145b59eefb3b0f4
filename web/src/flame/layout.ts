// Which boxes are visible, and what lies under a point. Pure: numbers in, numbers out.
//
// The graph is a stack of rows, one per depth. Across, the viewport shows the values [x0, x1) of the tree's total;
// down, it shows the rows [firstRow, lastRow). A box is the part of a node inside the viewport.

import { firstChild, nextSibling, type FlameTree } from "../lib/tree";

export interface Viewport {
  // In the tree's unit, 0 <= x0 < x1 <= total.
  readonly x0: number;
  readonly x1: number;
  // In CSS pixels.
  readonly width: number;
  // Depths.
  readonly firstRow: number;
  readonly lastRow: number;
}

// Boxes are reused from frame to frame: only the first count entries mean something.
export interface Boxes {
  count: number;
  // The node, or -1 for dust: neighbours that are each too narrow to be drawn, merged.
  node: Int32Array;
  row: Uint16Array;
  // In CSS pixels from the viewport's left edge.
  x: Float32Array;
  w: Float32Array;
  // How many nodes were looked at.
  visited: number;
  // Per row, where the dust that is being merged begins and ends; NaN for none.
  dustFrom: Float64Array;
  dustTo: Float64Array;
}

export function newBoxes(): Boxes {
  return {
    count: 0,
    node: new Int32Array(1024),
    row: new Uint16Array(1024),
    x: new Float32Array(1024),
    w: new Float32Array(1024),
    visited: 0,
    dustFrom: new Float64Array(64),
    dustTo: new Float64Array(64),
  };
}

// Narrower nodes become dust, and what is below them is not looked at.
const minPixels = 1;

// layout fills out with the boxes of the viewport, each row from left to right.
export function layout(t: FlameTree, v: Viewport, out: Boxes): void {
  out.count = 0;
  out.visited = 0;
  if (t.count === 0 || v.x1 <= v.x0 || v.width <= 0) return;
  const scale = v.width / (v.x1 - v.x0);
  const { total, offset, depth, end, parent } = t;
  const rows = Math.max(0, v.lastRow - v.firstRow);
  if (out.dustFrom.length < rows) {
    out.dustFrom = new Float64Array(2 * rows);
    out.dustTo = new Float64Array(2 * rows);
  }
  const { dustFrom, dustTo } = out;
  dustFrom.fill(NaN, 0, rows);

  const emit = (node: number, row: number, from: number, to: number): void => {
    const i = out.count++;
    if (i === out.node.length) grow(out);
    out.node[i] = node;
    out.row[i] = row;
    out.x[i] = from;
    out.w[i] = to - from;
  };

  let i = 0;
  while (i < t.count) {
    out.visited++;
    const d = depth[i] as number;
    const left = offset[i] as number;
    const right = left + (total[i] as number);
    if (d >= v.lastRow || right <= v.x0) {
      i = end[i] as number;
      continue;
    }
    if (left >= v.x1) {
      // Every later sibling lies further right: go on after the parent.
      const p = parent[i] as number;
      i = p < 0 ? t.count : (end[p] as number);
      continue;
    }
    const from = Math.max(0, (left - v.x0) * scale);
    const to = Math.min(v.width, (right - v.x0) * scale);
    if (to - from >= minPixels) {
      if (d >= v.firstRow) emit(i, d, from, to);
      i++;
      continue;
    }
    if (d >= v.firstRow && to > from) {
      const r = d - v.firstRow;
      const begun = dustFrom[r] as number;
      const until = dustTo[r] as number;
      if (begun >= 0 && from - until < minPixels) {
        dustTo[r] = to;
      } else {
        if (until - begun >= minPixels) emit(-1, d, begun, until);
        dustFrom[r] = from;
        dustTo[r] = to;
      }
    }
    i = end[i] as number;
  }
  for (let r = 0; r < rows; r++) {
    const begun = dustFrom[r] as number;
    const until = dustTo[r] as number;
    if (until - begun >= minPixels) emit(-1, r + v.firstRow, begun, until);
  }
}

function grow(b: Boxes): void {
  const n = b.node.length * 2;
  const copy = <T extends Int32Array | Uint16Array | Float32Array>(to: T, from: T): T => {
    to.set(from);
    return to;
  };
  b.node = copy(new Int32Array(n), b.node);
  b.row = copy(new Uint16Array(n), b.row);
  b.x = copy(new Float32Array(n), b.x);
  b.w = copy(new Float32Array(n), b.w);
}

// hit returns the node at the depth under the value x, or -1.
export function hit(t: FlameTree, x: number, row: number): number {
  if (t.count === 0 || x < 0 || x >= (t.total[0] as number) || row < 0) return -1;
  let node = 0;
  while ((t.depth[node] as number) < row) {
    let c = firstChild(t, node);
    while (c >= 0 && x >= (t.offset[c] as number) + (t.total[c] as number)) c = nextSibling(t, c);
    if (c < 0 || x < (t.offset[c] as number)) return -1;
    node = c;
  }
  return node;
}

// clampRange keeps a range inside [0, total] with at least a hair of width.
export function clampRange(x0: number, x1: number, total: number): { x0: number; x1: number } {
  const width = Math.min(total, Math.max(x1 - x0, total * 1e-7, 1e-9));
  const from = Math.min(Math.max(0, x0), total - width);
  return { x0: from, x1: from + width };
}

// fits shortens a label to so many characters, or returns "" if nothing legible is left.
export function fits(full: string, short: string, chars: number): string {
  if (chars < 3) return "";
  if (full.length <= chars) return full;
  if (short.length <= chars) return short;
  return `${short.slice(0, chars - 1)}…`;
}
