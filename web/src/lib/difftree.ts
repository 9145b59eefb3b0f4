// Two profiles laid over each other as one tree: of the server's answer, or of two trees that the browser has.

import { baseName } from "./names";
import { decodeFrames, decodeNodes, derive, firstChild, FrameKind, graft, nextSibling, type FlameTree, type Frame, type Shape, type WireTree } from "./tree";

// What one side is about, as the server says it.
export interface DiffSide {
  // What was selected, whatever a filter left out.
  readonly unfilteredTotal: number;
  readonly durationMillis: number;
  // What the side's values are multiplied by to compare; 0 if it has none.
  readonly scale: number;
  readonly stackCount: number;
  readonly seriesCount: number;
  readonly stacksCut: boolean;
}

// One side's values by node, as they were measured; 0 where the side lacks the node.
export interface DiffValues extends DiffSide {
  readonly self: Float64Array;
  readonly total: Float64Array;
}

// The tree's own self, total and offset are widths: what there is before and after together, each scaled, so that what
// is gone has a place as well.
export interface DiffTree extends FlameTree {
  readonly before: DiffValues;
  readonly after: DiffValues;
}

export type SideName = "before" | "after";

// The wire's shape of a side, as DiffResponse has it.
export interface WireSide {
  readonly unfilteredTotal: bigint;
  readonly durationNano: bigint;
  readonly scale: number;
  readonly stackCount: bigint;
  readonly seriesCount: bigint;
  readonly stacksCut: boolean;
}

export interface WireDiff extends Pick<WireTree, "unit" | "strings" | "frames" | "nodes" | "nodeCount" | "cutCount"> {
  readonly before?: WireSide | undefined;
  readonly after?: WireSide | undefined;
}

// decodeDiff reads nodes of four varints. Throws TreeError on bytes that are not one whole tree.
export function decodeDiff(wire: WireDiff): DiffTree {
  const frames = decodeFrames(wire);
  const { shape, values } = decodeNodes(wire.nodes, frames.length, 2);
  const [before, after] = values as [Float64Array, Float64Array];
  return layOver(
    { ...shape, frames, unit: wire.unit, nodeCount: Number(wire.nodeCount), cutCount: Number(wire.cutCount) },
    { ...sideOf(wire.before), self: before },
    { ...sideOf(wire.after), self: after },
  );
}

export function sideOf(wire: WireSide | undefined): DiffSide {
  return {
    unfilteredTotal: Number(wire?.unfilteredTotal ?? 0n),
    durationMillis: Number(wire?.durationNano ?? 0n) / 1e6,
    scale: wire?.scale ?? 0,
    stackCount: Number(wire?.stackCount ?? 0n),
    seriesCount: Number(wire?.seriesCount ?? 0n),
    stacksCut: wire?.stacksCut ?? false,
  };
}

type Half = DiffSide & { readonly self: Float64Array };

function sums(parent: Int32Array, self: Float64Array): { total: Float64Array; offset: Float64Array } {
  const total = new Float64Array(self.length);
  const offset = new Float64Array(self.length);
  derive(self.length, parent, self, total, offset);
  return { total, offset };
}

function layOver(t: Shape & Pick<FlameTree, "frames" | "unit" | "nodeCount" | "cutCount">, before: Half, after: Half): DiffTree {
  const widths = new Float64Array(t.count);
  for (let i = 0; i < t.count; i++) {
    widths[i] = Math.max(0, before.self[i] as number) * before.scale + Math.max(0, after.self[i] as number) * after.scale;
  }
  return {
    ...t,
    self: widths,
    ...sums(t.parent, widths),
    before: { ...before, total: sums(t.parent, before.self).total },
    after: { ...after, total: sums(t.parent, after.self).total },
    stackCount: before.stackCount + after.stackCount,
    seriesCount: before.seriesCount + after.seriesCount,
    stacksCut: before.stacksCut || after.stacksCut,
  };
}

// graftDiff puts part, the server's answer for the node's path, in the place of what is below it.
export function graftDiff(t: DiffTree, at: number, part: DiffTree): DiffTree {
  const shape = graft(t, at, part, 0);
  const end = t.end[at] as number;
  const splice = (whole: Float64Array, piece: Float64Array): Float64Array => {
    const out = new Float64Array(shape.count);
    out.set(whole.subarray(0, at));
    out.set(piece, at);
    out.set(whole.subarray(end), at + piece.length);
    return out;
  };
  return layOver(shape, { ...t.before, self: splice(t.before.self, part.before.self) }, { ...t.after, self: splice(t.after.self, part.after.self) });
}

// sideTree is one side as a flame graph of its own. Its nodes have the numbers that they have in the difference; those
// that the side lacks have no width.
export function sideTree(t: DiffTree, side: SideName): FlameTree {
  const { self, stackCount, seriesCount, stacksCut } = t[side];
  return { ...t, self, ...sums(t.parent, self), stackCount, seriesCount, stacksCut };
}

// change is by how much a value grew, both scaled; what only rounding makes is none.
export function change(t: { readonly before: DiffSide; readonly after: DiffSide }, before: number, after: number): number {
  const b = before * t.before.scale;
  const a = after * t.after.scale;
  return Math.abs(a - b) <= 1e-12 * Math.max(Math.abs(a), Math.abs(b)) ? 0 : a - b;
}

// growth is where between gone (-1), the same (0) and new (1) a change is: its share of both values' sum.
export function growth(t: { readonly before: DiffSide; readonly after: DiffSide }, before: number, after: number): number {
  const sum = Math.abs(before * t.before.scale) + Math.abs(after * t.after.scale);
  return sum === 0 ? 0 : change(t, before, after) / sum;
}

// largestChange is the largest change of a node's total in either direction.
export function largestChange(t: DiffTree): number {
  let most = 0;
  for (let i = 0; i < t.count; i++) {
    most = Math.max(most, Math.abs(change(t, t.before.total[i] as number, t.after.total[i] as number)));
  }
  return most;
}

// isSame tells that no node changed.
export function isSame(t: DiffTree): boolean {
  for (let i = 0; i < t.count; i++) if (change(t, t.before.self[i] as number, t.after.self[i] as number) !== 0) return false;
  return true;
}

// A frame's identity, and its order among siblings: by name, file, mapping, kind, inlined.
function key(f: Frame): string {
  return `${f.name}\0${f.file}\0${f.mapping}\0${f.kind}\0${f.inlined}`;
}

// byBytes orders as UTF-8 does; UTF-16, which < compares, puts what is beyond it first.
export function byBytes(a: string, b: string): number {
  if (a === b) return 0;
  let i = 0;
  while (i < a.length && i < b.length && a.charCodeAt(i) === b.charCodeAt(i)) i++;
  // Both of a surrogate pair's halves may differ while the other agrees: look at the whole.
  if (i > 0 && (a.charCodeAt(i) & 0xfc00) === 0xdc00) i--;
  return (a.codePointAt(i) ?? -1) - (b.codePointAt(i) ?? -1);
}

function compareFrames(a: Frame, b: Frame): number {
  return byBytes(a.name, b.name) || byBytes(a.file, b.file) || byBytes(a.mapping, b.mapping) || a.kind - b.kind || Number(a.inlined) - Number(b.inlined);
}

// align returns before's frames with those that after lacks called as in after, of which both have one each of that name
// and kind that the other lacks: another build of a program lies under another path, and is not another program. Where
// there are several of a name, those in source files of one name belong together. As profile.Align of the server.
export function align(before: readonly Frame[], after: readonly Frame[]): Frame[] {
  const out = [...before];
  const missing = (of: readonly Frame[], from: readonly Frame[]): Set<number> => {
    const there = new Set(from.slice(1).map(key));
    return new Set(of.flatMap((f, i) => (i > 0 && !there.has(key(f)) ? [i] : [])));
  };
  const gone = missing(before, after);
  const come = missing(after, before);
  // First the source file's last name counts, then no file.
  for (const file of [(f: Frame) => baseName(f.file.replaceAll("\\", "/")), () => ""]) {
    const place = (f: Frame): string => key({ ...f, mapping: "", file: file(f) });
    const alone = (side: ReadonlySet<number>, frames: readonly Frame[]): Map<string, number> => {
      const found = new Map<string, number>();
      for (const i of side) {
        const p = place(frames[i] as Frame);
        found.set(p, found.has(p) ? -1 : i);
      }
      return found;
    };
    const pairs = alone(come, after);
    for (const [p, b] of alone(gone, before)) {
      const a = pairs.get(p) ?? -1;
      if (a < 0 || b < 0) continue;
      const { file: path, mapping } = after[a] as Frame;
      out[b] = { ...(before[b] as Frame), file: path, mapping };
      gone.delete(b);
      come.delete(a);
    }
  }
  return out;
}

// diffTrees lays two trees that the browser has over each other. The unit is after's; scales are what each side's values
// are multiplied by to compare. Builds of one program are aligned.
export function diffTrees(before: FlameTree, after: FlameTree, scales: Readonly<Record<SideName, number>> = { before: 1, after: 1 }): DiffTree {
  const aligned = align(before.frames, after.frames);
  const known = new Map<string, Frame>();
  for (const f of [...aligned, ...after.frames]) if (!known.has(key(f))) known.set(key(f), f);
  const isRoot = (f: Frame): number => Number(f.kind === FrameKind.ROOT);
  const frames = [...known.values()].sort((x, y) => isRoot(y) - isRoot(x) || compareFrames(x, y));
  const places = new Map(frames.map((f, i) => [key(f), i]));
  const placesOf = (of: readonly Frame[]): Uint32Array => Uint32Array.from(of, (f) => places.get(key(f)) as number);
  const placeBefore = placesOf(aligned);
  const placeAfter = placesOf(after.frames);

  const parent: number[] = [];
  const depth: number[] = [];
  const frame: number[] = [];
  const selfs: [number[], number[]] = [[], []];
  // Depth first; a node is a pair of which one may be lacking.
  interface Pair {
    readonly frame: number;
    readonly parent: number;
    readonly depth: number;
    b: number;
    a: number;
  }
  const open: Pair[] = [{ frame: 0, parent: -1, depth: 0, b: 0, a: 0 }];
  for (let p = open.pop(); p !== undefined; p = open.pop()) {
    const at = frame.push(p.frame) - 1;
    parent.push(p.parent);
    depth.push(p.depth);
    selfs[0].push(before.self[p.b] ?? 0);
    selfs[1].push(after.self[p.a] ?? 0);
    const below = new Map<number, Pair>();
    const pairOf = (f: number): Pair => {
      let pair = below.get(f);
      if (pair === undefined) below.set(f, (pair = { frame: f, parent: at, depth: p.depth + 1, b: -1, a: -1 }));
      return pair;
    };
    for (let c = p.b < 0 ? -1 : firstChild(before, p.b); c >= 0; c = nextSibling(before, c)) pairOf(placeBefore[before.frame[c] as number] as number).b = c;
    for (let c = p.a < 0 ? -1 : firstChild(after, p.a); c >= 0; c = nextSibling(after, c)) pairOf(placeAfter[after.frame[c] as number] as number).a = c;
    // The first is taken off first.
    open.push(...[...below.values()].sort((x, y) => y.frame - x.frame));
  }

  const count = frame.length;
  const end = Int32Array.from({ length: count }, (_, i) => i + 1);
  let maxDepth = 0;
  for (let i = count - 1; i > 0; i--) {
    const up = parent[i] as number;
    end[up] = Math.max(end[up] as number, end[i] as number);
    maxDepth = Math.max(maxDepth, depth[i] as number);
  }
  const side = (t: FlameTree, scale: number): DiffSide => ({
    unfilteredTotal: t.total[0] ?? 0,
    durationMillis: 0,
    scale,
    stackCount: t.stackCount,
    seriesCount: t.seriesCount,
    stacksCut: t.stacksCut,
  });
  return layOver(
    {
      count,
      parent: Int32Array.from(parent),
      depth: Uint16Array.from(depth),
      end,
      frame: Uint32Array.from(frame),
      maxDepth,
      frames,
      unit: after.unit,
      nodeCount: count,
      cutCount: before.cutCount + after.cutCount,
    },
    { ...side(before, scales.before), self: Float64Array.from(selfs[0]) },
    { ...side(after, scales.after), self: Float64Array.from(selfs[1]) },
  );
}
