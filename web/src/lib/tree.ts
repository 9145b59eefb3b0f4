// The flame tree as typed arrays, in the order of the depth-first walk that the server sends.
//
// In that order a node's subtree is the run [i, end[i]): its first child is i+1 when i+1 < end[i], and its next
// sibling is end[i] when that is still inside the parent. No child lists are kept.

import { FrameKind } from "../api/gen/perfuse/query/v1/query_pb";

export { FrameKind };

// What a node shows.
export interface Frame {
  readonly name: string;
  readonly file: string;
  readonly mapping: string;
  readonly kind: FrameKind;
  readonly inlined: boolean;
  readonly startLine: number;
}

export interface FlameTree {
  readonly unit: string;
  readonly frames: readonly Frame[];
  // How many nodes; every array below has this length.
  readonly count: number;
  // -1 for the root.
  readonly parent: Int32Array;
  // 0 for the root.
  readonly depth: Uint16Array;
  // One past the last node of the subtree.
  readonly end: Int32Array;
  // Index into frames.
  readonly frame: Uint32Array;
  // In the unit. Doubles: exact up to 2^53, which is 104 days of nanoseconds, and rounded beyond.
  readonly self: Float64Array;
  readonly total: Float64Array;
  // Sum of what lies left of the node, in the unit.
  readonly offset: Float64Array;
  readonly maxDepth: number;
  // Of the server: nodes before cutting, nodes cut, distinct stacks, series that matched.
  readonly nodeCount: number;
  readonly cutCount: number;
  readonly stackCount: number;
  readonly seriesCount: number;
  // There were too many stacks for one answer: the least are one node "(small)".
  readonly stacksCut: boolean;
  // The sum of everything selected, whatever a filter left out; undefined if that is the total.
  readonly unfiltered?: number;
}

// The wire's shape, as FlameGraphResponse has it.
export interface WireTree {
  readonly unit: string;
  readonly strings: readonly string[];
  readonly frames: readonly {
    readonly name: number;
    readonly file: number;
    readonly mapping: number;
    readonly kind: FrameKind;
    readonly inlined: boolean;
    readonly startLine: number;
  }[];
  readonly nodes: Uint8Array;
  readonly nodeCount: bigint;
  readonly cutCount: bigint;
  readonly stackCount: bigint;
  readonly seriesCount: bigint;
  readonly stacksCut: boolean;
  readonly unfilteredTotal?: bigint;
}

// Deeper trees than this are refused: depth is kept in 16 bits.
export const maxTreeDepth = 65535;

export class TreeError extends Error {
  constructor(message: string) {
    super(`decoding the flame graph: ${message}`);
    this.name = "TreeError";
  }
}

// decodeTree reads the nodes' varints. Throws TreeError on bytes that are not one whole tree.
export function decodeTree(wire: WireTree): FlameTree {
  const frames = decodeFrames(wire);
  const { shape, values } = decodeNodes(wire.nodes, frames.length, 1);
  const self = values[0] as Float64Array;
  const total = new Float64Array(shape.count);
  const offset = new Float64Array(shape.count);
  derive(shape.count, shape.parent, self, total, offset);
  return {
    ...shape,
    self,
    total,
    offset,
    unit: wire.unit,
    frames,
    nodeCount: Number(wire.nodeCount),
    cutCount: Number(wire.cutCount),
    stackCount: Number(wire.stackCount),
    seriesCount: Number(wire.seriesCount),
    stacksCut: wire.stacksCut,
    ...(wire.unfilteredTotal === undefined ? {} : { unfiltered: Number(wire.unfilteredTotal) }),
  };
}

export function decodeFrames(wire: Pick<WireTree, "frames" | "strings">): Frame[] {
  return wire.frames.map((f): Frame => {
    const s = (i: number): string => {
      const v = wire.strings[i];
      if (v === undefined) throw new TreeError(`a frame names string ${i} of ${wire.strings.length}`);
      return v;
    };
    return { name: s(f.name), file: s(f.file), mapping: s(f.mapping), kind: f.kind, inlined: f.inlined, startLine: f.startLine };
  });
}

// Shape is a tree without values.
export type Shape = Pick<FlameTree, "count" | "parent" | "depth" | "end" | "frame" | "maxDepth">;

// decodeNodes reads a depth-first walk: for each node the number of children, the frame, and so many self values.
export function decodeNodes(bytes: Uint8Array, frames: number, valuesPerNode: number): { shape: Shape; values: Float64Array[] } {
  const perNode = 2 + valuesPerNode;
  // Each varint ends in a byte below 0x80.
  let ends = 0;
  for (let i = 0; i < bytes.length; i++) if ((bytes[i] as number) < 0x80) ends++;
  if (ends % perNode !== 0 || (bytes.length > 0 && (bytes[bytes.length - 1] as number) >= 0x80)) {
    throw new TreeError(`${bytes.length} bytes do not hold whole nodes`);
  }
  const count = ends / perNode;

  const parent = new Int32Array(count);
  const depth = new Uint16Array(count);
  const end = new Int32Array(count);
  const frame = new Uint32Array(count);
  const values = Array.from({ length: valuesPerNode }, () => new Float64Array(count));
  // The open nodes, root first, and how many children each still lacks.
  const open: number[] = [];
  const lacks: number[] = [];
  let at = 0;
  let maxDepth = 0;

  const uvarint = (): number => {
    let value = 0;
    let scale = 1;
    for (let n = 0; n < 10; n++) {
      const b = bytes[at++] as number;
      value += (b & 0x7f) * scale;
      if (b < 0x80) return value;
      scale *= 128;
    }
    throw new TreeError(`a number longer than ten bytes at ${at}`);
  };

  for (let i = 0; i < count; i++) {
    const children = uvarint();
    const f = uvarint();
    for (let v = 0; v < valuesPerNode; v++) (values[v] as Float64Array)[i] = uvarint();
    if (f >= frames) throw new TreeError(`node ${i} names frame ${f} of ${frames}`);
    if (children > count - i - 1) throw new TreeError(`node ${i} claims ${children} children`);
    const level = open.length;
    if (i > 0 && level === 0) throw new TreeError(`node ${i} has no parent`);
    if (level > maxTreeDepth) throw new TreeError(`deeper than ${maxTreeDepth}`);
    parent[i] = level === 0 ? -1 : (open[level - 1] as number);
    depth[i] = level;
    frame[i] = f;
    if (level > maxDepth) maxDepth = level;
    if (children > 0) {
      open.push(i);
      lacks.push(children);
      continue;
    }
    end[i] = i + 1;
    // Close every node whose last child this was.
    while (open.length > 0) {
      const left = (lacks[lacks.length - 1] as number) - 1;
      lacks[lacks.length - 1] = left;
      if (left > 0) break;
      end[open.pop() as number] = i + 1;
      lacks.pop();
    }
  }
  if (open.length > 0) throw new TreeError(`the last ${open.length} open nodes lack children`);
  return { shape: { count, parent, depth, end, frame, maxDepth }, values };
}

export function emptyArrays(count: number) {
  return {
    parent: new Int32Array(count),
    depth: new Uint16Array(count),
    end: new Int32Array(count),
    frame: new Uint32Array(count),
    self: new Float64Array(count),
    total: new Float64Array(count),
    offset: new Float64Array(count),
  };
}

// derive fills totals from the leaves up, then offsets from the root down: children lie side by side from the
// parent's left edge, and the parent's own value is what remains on the right.
export function derive(count: number, parent: Int32Array, self: Float64Array, total: Float64Array, offset: Float64Array): void {
  for (let i = count - 1; i >= 0; i--) {
    const t = (total[i] as number) + (self[i] as number);
    total[i] = t;
    const p = parent[i] as number;
    if (p >= 0) total[p] = (total[p] as number) + t;
  }
  // next[p] is where p's next child begins.
  const next = new Float64Array(count);
  for (let i = 0; i < count; i++) {
    const p = parent[i] as number;
    const x = p < 0 ? 0 : (next[p] as number);
    offset[i] = x;
    next[i] = x;
    if (p >= 0) next[p] = x + (total[i] as number);
  }
}

// named returns the tree with the function of that name as its root: halves of a sandwich.
export function named(t: FlameTree, name: string): FlameTree {
  if (t.count === 0) return t;
  const root = t.frame[0] as number;
  const frames = [...t.frames];
  frames[root] = { ...(t.frames[root] as Frame), name, kind: FrameKind.NATIVE };
  return { ...t, frames };
}

// frameOf returns what node i shows.
export function frameOf(t: FlameTree, i: number): Frame {
  const f = t.frames[t.frame[i] as number];
  if (f === undefined) throw new TreeError(`no node ${i} of ${t.count}`);
  return f;
}

// firstChild returns -1 for a leaf.
export function firstChild(t: FlameTree, i: number): number {
  return i + 1 < (t.end[i] as number) ? i + 1 : -1;
}

// nextSibling returns -1 for the last child and for the root.
export function nextSibling(t: FlameTree, i: number): number {
  const p = t.parent[i] as number;
  const n = t.end[i] as number;
  return p >= 0 && n < (t.end[p] as number) ? n : -1;
}

// pathTo returns the nodes from the root's child down to i; empty for the root itself.
export function pathTo(t: FlameTree, i: number): number[] {
  const path: number[] = [];
  for (let n = i; n > 0; n = t.parent[n] as number) path.push(n);
  return path.reverse();
}

// namesTo is pathTo as function names: what the API and the URL call a path.
export function namesTo(t: FlameTree, i: number): string[] {
  return pathTo(t, i).map((n) => frameOf(t, n).name);
}

// findPath follows names from the root and returns the deepest node that still matches, and whether that is the
// whole path. Of siblings with one name the largest is taken.
export function findPath(t: FlameTree, names: readonly string[]): { node: number; whole: boolean } {
  let node = 0;
  if (t.count === 0) return { node, whole: names.length === 0 };
  for (const name of names) {
    let best = -1;
    for (let c = firstChild(t, node); c >= 0; c = nextSibling(t, c)) {
      if (frameOf(t, c).name === name && (best < 0 || (t.total[c] as number) > (t.total[best] as number))) best = c;
    }
    if (best < 0) return { node, whole: false };
    node = best;
  }
  return { node, whole: true };
}

// expandable returns the nearest node at or above i whose path of names leads to it alone: where siblings share a name
// the server would answer with all of them as one.
export function expandable(t: FlameTree, i: number): number {
  let at = i;
  for (let n = i; n > 0; n = t.parent[n] as number) {
    const p = t.parent[n] as number;
    const name = frameOf(t, n).name;
    for (let c = firstChild(t, p); c >= 0; c = nextSibling(t, c)) {
      if (c !== n && frameOf(t, c).name === name) at = p;
    }
  }
  return at;
}

// graft returns a tree in which node at and what is below it are replaced by the subtree of part at from: what the
// server answers when a "(small)" node is expanded. The node keeps its frame; part's values are taken as they are.
export function graft(t: FlameTree, at: number, part: FlameTree, from: number): FlameTree {
  const cutEnd = t.end[at] as number;
  const partEnd = part.end[from] as number;
  const grown = partEnd - from - (cutEnd - at);
  const count = t.count + grown;
  const a = emptyArrays(count);
  const frames = [...t.frames];
  const base = frames.length;
  frames.push(...part.frames);
  const level = t.depth[at] as number;
  const partLevel = part.depth[from] as number;
  let maxDepth = 0;
  for (let i = 0; i < count; i++) {
    if (i >= at && i < at + (partEnd - from)) {
      const k = from + (i - at);
      a.parent[i] = i === at ? (t.parent[at] as number) : at + ((part.parent[k] as number) - from);
      a.depth[i] = level + (part.depth[k] as number) - partLevel;
      a.end[i] = at + ((part.end[k] as number) - from);
      a.frame[i] = i === at ? (t.frame[at] as number) : base + (part.frame[k] as number);
      a.self[i] = part.self[k] as number;
    } else {
      const k = i < at ? i : i - grown;
      const p = t.parent[k] as number;
      a.parent[i] = p >= cutEnd ? p + grown : p;
      a.depth[i] = t.depth[k] as number;
      const e = t.end[k] as number;
      a.end[i] = e >= cutEnd ? e + grown : e;
      a.frame[i] = t.frame[k] as number;
      a.self[i] = t.self[k] as number;
    }
    maxDepth = Math.max(maxDepth, a.depth[i] as number);
  }
  derive(count, a.parent, a.self, a.total, a.offset);
  return { ...t, ...a, frames, count, maxDepth };
}
