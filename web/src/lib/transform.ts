// Trees made from trees: what a reader does not want to see is taken out, and what becomes equal is merged. Values move,
// but none is lost: the root's total stays.

import { FrameKind, namesTo, type FlameTree, type Frame } from "./tree";
import { firstOf, frameKey, functionKey, TreeBuilder } from "./treebuild";

// TransformedTree remembers what it was made of. Expanding works on that: graft into before, then transform again.
export interface TransformedTree extends FlameTree {
  readonly before: FlameTree;
  // By node: the node of before that has all that became this node, and that became it itself; -1 if there are several.
  readonly origin: Int32Array;
}

// collapseRecursion makes one frame of a function that calls itself directly: f;f;g becomes f;g, whether or not an
// instance was inlined. A cycle of several functions, f;g;f, stays: taking g's caller out of it would say that
// something called g that never did.
export function collapseRecursion(t: FlameTree): TransformedTree {
  const fn = firstOf(t.frames, functionKey);
  return without(t, (frame, caller) => fn[frame] === fn[caller]);
}

// The name of the kernel among binaries.
export const kernelBinary = "[kernel]";

// binaryOf names the binary that hideBinaries knows a frame by; "" for what is no code or lies in none.
export function binaryOf(f: Frame): string {
  switch (f.kind) {
    case FrameKind.KERNEL:
      return kernelBinary;
    case FrameKind.UNWIND:
    case FrameKind.CUT:
    case FrameKind.ROOT:
    case FrameKind.LABEL:
      return "";
  }
  return f.mapping;
}

// hideBinaries takes the frames of these binaries out: what they cost counts for the nearest caller that is shown, and
// what they call is called by it.
export function hideBinaries(t: FlameTree, names: ReadonlySet<string>): TransformedTree {
  const hidden = t.frames.map((f) => binaryOf(f) !== "" && names.has(binaryOf(f)));
  return without(t, (frame) => hidden[frame] === true);
}

// without merges the nodes that gone says into the nearest node above that stays, whose frame it is told.
function without(t: FlameTree, gone: (frame: number, caller: number) => boolean): TransformedTree {
  if (t.count === 0) return { ...t, before: t, origin: new Int32Array() };
  // A tree that grew has frames of equal content.
  const same = firstOf(t.frames, frameKey);
  const b = new TreeBuilder(t.frames, same[t.frame[0] as number] as number);
  const at = new Int32Array(t.count);
  b.add(0, t.self[0] as number);
  for (let i = 1; i < t.count; i++) {
    const above = at[t.parent[i] as number] as number;
    const frame = same[t.frame[i] as number] as number;
    const n = gone(frame, b.frameOf(above)) ? above : b.child(above, frame);
    b.add(n, t.self[i] as number);
    at[i] = n;
  }
  const { unit, nodeCount, cutCount, stackCount, seriesCount, stacksCut, unfiltered } = t;
  const made = b.tree({ unit, nodeCount, cutCount, stackCount, seriesCount, stacksCut, ...(unfiltered === undefined ? {} : { unfiltered }) });
  const origin = new Int32Array(made.tree.count).fill(-1);
  const split = new Uint8Array(made.tree.count);
  for (let i = 0; i < t.count; i++) {
    const n = made.at[at[i] as number] as number;
    const first = origin[n] as number;
    if (first < 0) origin[n] = i;
    else if (i >= (t.end[first] as number)) split[n] = 1;
  }
  split.forEach((s, n) => {
    if (s === 1) origin[n] = -1;
  });
  return { ...made.tree, before: t, origin };
}

// nodeBefore returns the node of before that node, or else the nearest node above it, was made of.
export function nodeBefore(t: TransformedTree, node: number): number {
  for (let n = node; n > 0; n = t.parent[n] as number) {
    const o = t.origin[n] as number;
    if (o >= 0) return o;
  }
  return 0;
}

// pathBefore returns the names from the root's child to what became node in the tree before; undefined if that is
// more than one subtree.
export function pathBefore(t: TransformedTree, node: number): string[] | undefined {
  const o = t.origin[node];
  return o === undefined || o < 0 ? undefined : namesTo(t.before, o);
}
