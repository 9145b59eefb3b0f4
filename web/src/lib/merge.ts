// Questions about a profile's samples, answered as the server answers them.

import type { FunctionRow } from "./functions";
import { treeOfPaths } from "./pathtree";
import { noLine, type Label, type Samples } from "./stacks";
import { FrameKind, frameOf, firstChild, nextSibling, type FlameTree, type Frame } from "./tree";
import { compareText, firstOf, functionKey, TreeBuilder } from "./treebuild";

// Which samples a question is about, beside a filter of stacks.
export interface Part {
  // Index into types.
  readonly type: number;
  // Only samples with this label; all if undefined.
  readonly label: Label | undefined;
}

// treeOf merges the stacks that keep says, by number, from the root. Stacks whose values sum up to zero are left out.
export function treeOf(s: Samples, part: Part, keep?: Uint8Array): FlameTree {
  const sums = stackSums(s, part);
  const counts = (stack: number): boolean => sums[stack] !== 0 && (keep === undefined || keep[stack] === 1);
  let stacks = 0;
  let length = 0;
  for (let i = 0; i < sums.length; i++) {
    if (!counts(i)) continue;
    stacks++;
    for (let k = s.stackStart[i] as number; k < (s.stackStart[i + 1] as number); k++) {
      const l = s.stackLocations[k] as number;
      length += (s.locationStart[l + 1] as number) - (s.locationStart[l] as number);
    }
  }
  const paths = { start: new Uint32Array(stacks + 1), frames: new Uint32Array(length), values: new Float64Array(stacks) };
  let at = 0;
  let stack = 0;
  for (let i = 0; i < sums.length; i++) {
    if (!counts(i)) continue;
    for (let k = s.stackStart[i] as number; k < (s.stackStart[i + 1] as number); k++) {
      const l = s.stackLocations[k] as number;
      for (let f = s.locationStart[l] as number; f < (s.locationStart[l + 1] as number); f++) paths.frames[at++] = s.locationFrames[f] as number;
    }
    paths.values[stack++] = sums[i] as number;
    paths.start[stack] = at;
  }
  return treeOfPaths(s.frames, paths, { unit: s.types[part.type]?.sampleUnit ?? "", stackCount: stacks, seriesCount: 1, stacksCut: false });
}

// stackSums adds the part's values up by stack.
function stackSums(s: Samples, part: Part): Float64Array {
  const sums = new Float64Array(s.stackStart.length - 1);
  const values = s.values[part.type];
  if (values === undefined) return sums;
  const counts = samplesOf(s, part.label);
  for (let i = 0; i < s.count; i++) {
    if (!counts(i)) continue;
    const stack = s.stackOf[i] as number;
    sums[stack] = (sums[stack] as number) + (values[i] as number);
  }
  return sums;
}

// samplesOf says of samples, by number, whether they have the label.
export function samplesOf(s: Samples, label: Label | undefined): (sample: number) => boolean {
  if (label === undefined) return () => true;
  const has = s.labelSets.map((set) => set.some((l) => l.name === label.name && l.value === label.value));
  return (i) => has[s.labelsOf[i] as number] === true;
}

// cut folds subtrees whose total is below minShare of the root's into one node "(small)" per parent, which keeps every
// sum right. A parent whose only small child is a leaf keeps it: folding it would hide a name and save nothing.
export function cut(t: FlameTree, minShare: number): FlameTree {
  if (!(minShare > 0) || t.count <= 1) return t;
  const limit = minShare * (t.total[0] as number);
  const small = (i: number): boolean => (t.total[i] as number) < limit;
  const cutFrame = t.frames.length;
  const b = new TreeBuilder([...t.frames, { name: "(small)", file: "", mapping: "", kind: FrameKind.CUT, inlined: false, startLine: 0 }]);
  const at = new Int32Array(t.count);
  // By node: whether its small children are folded.
  const folds = new Uint8Array(t.count);
  let cutCount = 0;
  for (let i = 0; i < t.count; ) {
    const p = t.parent[i] as number;
    if (p >= 0 && folds[p] === 1 && small(i)) {
      i = t.end[i] as number;
      continue;
    }
    const node = p < 0 ? 0 : b.child(at[p] as number, t.frame[i] as number);
    b.add(node, t.self[i] as number);
    at[i] = node;
    let nodes = 0;
    let sum = 0;
    for (let c = firstChild(t, i); c >= 0; c = nextSibling(t, c)) {
      if (!small(c)) continue;
      nodes += (t.end[c] as number) - c;
      sum += t.total[c] as number;
    }
    if (nodes > 1) {
      folds[i] = 1;
      b.add(b.child(node, cutFrame), sum);
      cutCount += nodes;
    }
    i++;
  }
  const { unit, stackCount, seriesCount, stacksCut } = t;
  return b.tree({ unit, stackCount, seriesCount, stacksCut, nodeCount: t.count, cutCount }).tree;
}

// subtree returns the tree below a path of names that begins at a child of the root. The new root stands for the path's
// last node; where several nodes have that path, they are merged. Without any the tree is a root without value.
export function subtree(t: FlameTree, path: readonly string[]): FlameTree {
  let nodes = t.count > 0 ? [0] : [];
  for (const name of path) {
    nodes = nodes.flatMap((n) => {
      const found: number[] = [];
      for (let c = firstChild(t, n); c >= 0; c = nextSibling(t, c)) if (frameOf(t, c).name === name) found.push(c);
      return found;
    });
  }
  const b = new TreeBuilder(t.frames);
  for (const n of nodes) {
    b.add(0, t.self[n] as number);
    for (let c = firstChild(t, n); c >= 0; c = nextSibling(t, c)) b.graft(0, t, c);
  }
  const { unit, stackCount, seriesCount, stacksCut } = t;
  return b.tree({ unit, stackCount, seriesCount, stacksCut }).tree;
}

// top returns one row per function, the largest first. Stacks in which a function occurs several times count once.
export function top(t: FlameTree, by: "self" | "total"): FunctionRow[] {
  const first = firstOf(t.frames, functionKey);
  const self = new Float64Array(t.frames.length);
  const total = new Float64Array(t.frames.length);
  // By function: where the outermost open node of it ends.
  const until = new Int32Array(t.frames.length);
  const used = new Uint8Array(t.frames.length);
  for (let i = 1; i < t.count; i++) {
    const f = first[t.frame[i] as number] as number;
    used[f] = 1;
    self[f] = (self[f] as number) + (t.self[i] as number);
    if (i >= (until[f] as number)) {
      total[f] = (total[f] as number) + (t.total[i] as number);
      until[f] = t.end[i] as number;
    }
  }
  const rows: FunctionRow[] = [];
  t.frames.forEach(({ name, file, mapping, kind }, f) => {
    if (used[f] === 1) rows.push({ name, file, mapping, kind, self: self[f] as number, total: total[f] as number });
  });
  const byTotal = (a: FunctionRow, b: FunctionRow): number =>
    b.total - a.total || b.self - a.self || compareText(a.name, b.name) || compareText(a.file, b.file) || compareText(a.mapping, b.mapping) || a.kind - b.kind;
  return rows.sort(by === "total" ? byTotal : (a, b) => b.self - a.self || byTotal(a, b));
}

export interface Surroundings {
  // Upside down: below the root are those who called the function.
  readonly callers: FlameTree;
  readonly callees: FlameTree;
  readonly total: number;
  readonly self: number;
}

// sandwich parts every stack that has a function of that name at the first of them, seen from the root, so that a stack
// with recursion counts once. Functions of equal name in other files are one.
export function sandwich(t: FlameTree, name: string): Surroundings {
  const named = t.frames.map((f, i) => i > 0 && f.name === name);
  const callers = new TreeBuilder(t.frames);
  const callees = new TreeBuilder(t.frames);
  let total = 0;
  let self = 0;
  let inside = 0;
  for (let i = 1; i < t.count; i++) {
    if (named[t.frame[i] as number] !== true) continue;
    self += t.self[i] as number;
    if (i < inside) continue;
    inside = t.end[i] as number;
    total += t.total[i] as number;
    let node = 0;
    for (let p = t.parent[i] as number; p > 0; p = t.parent[p] as number) node = callers.child(node, t.frame[p] as number);
    callers.add(node, t.total[i] as number);
    callees.add(0, t.self[i] as number);
    for (let c = firstChild(t, i); c >= 0; c = nextSibling(t, c)) callees.graft(0, t, c);
  }
  const { unit, stackCount, seriesCount, stacksCut } = t;
  const facts = { unit, stackCount, seriesCount, stacksCut };
  return { callers: callers.tree(facts).tree, callees: callees.tree(facts).tree, total, self };
}

export interface LineValue {
  // 0 if unknown.
  readonly line: number;
  readonly self: number;
  readonly total: number;
}

// What the source lines of one function cost in one file.
export interface FunctionLines {
  readonly file: string;
  readonly mapping: string;
  readonly startLine: number;
  readonly self: number;
  readonly total: number;
  readonly lines: readonly LineValue[];
}

// linesOf returns the lines of the functions of that name: one entry for each source and executable file, the largest
// total first; lines in their order. Stacks in which a line occurs several times count once.
export function linesOf(s: Samples, part: Part, keep: Uint8Array | undefined, name: string): FunctionLines[] {
  interface Sum {
    self: number;
    total: number;
    // The last stack that was counted, from 1.
    seen: number;
  }
  interface Place extends Sum {
    readonly frame: Frame;
    readonly lines: Map<number, Sum>;
  }
  const places: Place[] = [];
  const byFile = new Map<string, Place>();
  const placeOf = s.frames.map((frame, i) => {
    if (i === 0 || frame.name !== name) return undefined;
    const key = `${frame.file}\0${frame.mapping}`;
    let place = byFile.get(key);
    if (place === undefined) {
      place = { frame, lines: new Map(), self: 0, total: 0, seen: 0 };
      byFile.set(key, place);
      places.push(place);
    }
    return place;
  });
  const add = (sum: Sum, stack: number, value: number, leaf: boolean): void => {
    if (leaf) sum.self += value;
    if (sum.seen === stack) return;
    sum.seen = stack;
    sum.total += value;
  };
  const sums = stackSums(s, part);
  for (let i = 0; i < sums.length; i++) {
    const value = sums[i] as number;
    if (value === 0 || (keep !== undefined && keep[i] !== 1)) continue;
    let leaf = true;
    for (let k = (s.stackStart[i + 1] as number) - 1; k >= (s.stackStart[i] as number); k--) {
      const l = s.stackLocations[k] as number;
      for (let f = (s.locationStart[l + 1] as number) - 1; f >= (s.locationStart[l] as number); f--) {
        const place = placeOf[s.locationFrames[f] as number];
        const line = s.lines[f] as number;
        if (place !== undefined && line !== noLine) {
          let sum = place.lines.get(line);
          if (sum === undefined) {
            sum = { self: 0, total: 0, seen: 0 };
            place.lines.set(line, sum);
          }
          add(place, i + 1, value, leaf);
          add(sum, i + 1, value, leaf);
        }
        leaf = false;
      }
    }
  }
  return places
    .filter((p) => p.seen > 0)
    .map(({ frame, lines, self, total }) => ({
      file: frame.file,
      mapping: frame.mapping,
      startLine: frame.startLine,
      self,
      total,
      lines: [...lines].map(([line, sum]) => ({ line, self: sum.self, total: sum.total })).sort((a, b) => a.line - b.line),
    }))
    .sort((a, b) => b.total - a.total || b.self - a.self || compareText(a.file, b.file) || compareText(a.mapping, b.mapping));
}
