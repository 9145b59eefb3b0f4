// A tree of many stacks at once: they are sorted as strings of frames and laid down one after the other, which needs no
// search for a node and leaves the nodes in their order.

import { derive, emptyArrays, maxTreeDepth, TreeError, type FlameTree, type Frame } from "./tree";
import { compareFrames, type TreeFacts } from "./treebuild";

// Stacks one after the other: stack i is frames from start[i] to start[i + 1], the root's child first. A frame is an index
// into a table in which no two show the same and the root's is the first.
export interface Paths {
  readonly start: Uint32Array;
  readonly frames: Uint32Array;
  readonly values: Float64Array;
}

// treeOfPaths takes p.frames over. Throws TreeError if a stack is too deep.
export function treeOfPaths(table: readonly Frame[], p: Paths, facts: Pick<TreeFacts, "unit" | "stackCount" | "seriesCount" | "stacksCut">): FlameTree {
  const used = new Uint8Array(table.length);
  for (let i = 0; i < p.frames.length; i++) used[p.frames[i] as number] = 1;
  const byRank: number[] = [];
  used.forEach((u, f) => {
    if (u === 1) byRank.push(f);
  });
  byRank.sort((a, b) => compareFrames(table[a] as Frame, table[b] as Frame));
  const rank = new Uint32Array(table.length);
  byRank.forEach((f, r) => {
    rank[f] = r + 1;
  });
  for (let i = 0; i < p.frames.length; i++) p.frames[i] = rank[p.frames[i] as number] as number;

  const order = sorted(p);
  // How many frames a stack shares with the one before it: the rest are nodes of its own.
  const shared = new Uint32Array(order.length);
  let count = 1;
  let maxDepth = 0;
  for (let k = 0; k < order.length; k++) {
    const at = p.start[order[k] as number] as number;
    const length = (p.start[(order[k] as number) + 1] as number) - at;
    maxDepth = Math.max(maxDepth, length);
    if (length > maxTreeDepth) throw new TreeError(`deeper than ${maxTreeDepth}`);
    let same = 0;
    if (k > 0) {
      const before = p.start[order[k - 1] as number] as number;
      const most = Math.min(length, (p.start[(order[k - 1] as number) + 1] as number) - before);
      while (same < most && p.frames[at + same] === p.frames[before + same]) same++;
    }
    shared[k] = same;
    count += length - same;
  }

  const a = emptyArrays(count);
  a.parent[0] = -1;
  a.end[0] = count;
  // The nodes of the last stack, by depth.
  const open = new Int32Array(maxDepth + 1);
  let depth = 0;
  let node = 1;
  for (let k = 0; k < order.length; k++) {
    const stack = order[k] as number;
    const at = p.start[stack] as number;
    const length = (p.start[stack + 1] as number) - at;
    for (; depth > (shared[k] as number); depth--) a.end[open[depth] as number] = node;
    for (; depth < length; node++) {
      a.parent[node] = open[depth] as number;
      a.frame[node] = p.frames[at + depth] as number;
      a.depth[node] = ++depth;
      open[depth] = node;
    }
    const own = open[depth] as number;
    a.self[own] = (a.self[own] as number) + (p.values[stack] as number);
  }
  for (; depth > 0; depth--) a.end[open[depth] as number] = node;
  derive(count, a.parent, a.self, a.total, a.offset);
  const frames = [table[0] as Frame, ...byRank.map((f) => table[f] as Frame)];
  return { ...facts, ...a, frames, count, maxDepth, nodeCount: count, cutCount: 0 };
}

// Smaller groups are sorted by insertion.
const few = 12;

// sorted returns the stacks' numbers in the order of their frames, a shorter one first: a quicksort that looks at one
// frame of each stack at a time and never again at those that are known to be equal (Bentley and Sedgewick, "Fast
// algorithms for sorting and searching strings", 1997).
function sorted({ start, frames }: Paths): Uint32Array {
  const order = Uint32Array.from({ length: start.length - 1 }, (_, i) => i);
  const key = (stack: number, depth: number): number => {
    const at = (start[stack] as number) + depth;
    return at < (start[stack + 1] as number) ? (frames[at] as number) : 0;
  };
  const after = (x: number, y: number, from: number): boolean => {
    for (let d = from; ; d++) {
      const a = key(x, d);
      const b = key(y, d);
      if (a !== b) return a > b;
      if (a === 0) return false;
    }
  };
  const swap = (i: number, j: number): void => {
    const v = order[i] as number;
    order[i] = order[j] as number;
    order[j] = v;
  };
  // Groups to sort: from, to, and how many frames all stacks of the group share.
  const groups = [0, order.length, 0];
  for (;;) {
    const depth = groups.pop();
    const to = groups.pop();
    const from = groups.pop();
    if (depth === undefined || to === undefined || from === undefined) return order;
    if (to - from <= few) {
      for (let i = from + 1; i < to; i++) {
        const v = order[i] as number;
        let j = i;
        for (; j > from && after(order[j - 1] as number, v, depth); j--) order[j] = order[j - 1] as number;
        order[j] = v;
      }
      continue;
    }
    // Of places that no file can know.
    const guess = (): number => key(order[from + Math.floor(Math.random() * (to - from))] as number, depth);
    const [a, b, c] = [guess(), guess(), guess()];
    const pivot = Math.max(Math.min(a, b), Math.min(Math.max(a, b), c));
    let less = from;
    let more = to;
    for (let i = from; i < more; ) {
      const k = key(order[i] as number, depth);
      if (k < pivot) swap(less++, i++);
      else if (k > pivot) swap(i, --more);
      else i++;
    }
    groups.push(from, less, depth, more, to, depth);
    if (pivot !== 0) groups.push(less, more, depth + 1);
  }
}
