// Questions about a profile's samples: which of them count, and the tree that they make.

import type { Samples } from "./stacks";
import type { FlameTree } from "./tree";
import { TreeBuilder } from "./treebuild";

// Which samples a question is about, beside a filter of stacks.
export interface Part {
  // Index into types.
  readonly type: number;
  // Only samples with this label; all if undefined.
  readonly label: { readonly name: string; readonly value: string } | undefined;
}

// treeOf merges the stacks that keep says, by number, from the root. Stacks whose values sum up to zero are left out.
export function treeOf(s: Samples, part: Part, keep?: Uint8Array): FlameTree {
  const sums = stackSums(s, part);
  const b = new TreeBuilder(s.frames);
  let stacks = 0;
  for (let i = 0; i < sums.length; i++) {
    const value = sums[i] as number;
    if (value === 0 || (keep !== undefined && keep[i] !== 1)) continue;
    stacks++;
    let node = 0;
    for (let k = s.stackStart[i] as number; k < (s.stackStart[i + 1] as number); k++) {
      const l = s.stackLocations[k] as number;
      for (let f = s.locationStart[l] as number; f < (s.locationStart[l + 1] as number); f++) node = b.child(node, s.locationFrames[f] as number);
    }
    b.add(node, value);
  }
  const sets = new Set<number>();
  for (let i = 0; i < s.count; i++) if (isOf(s, part, i)) sets.add(s.labelsOf[i] as number);
  return b.tree({ unit: s.types[part.type]?.sampleUnit ?? "", stackCount: stacks, seriesCount: sets.size, stacksCut: false }).tree;
}

// stackSums adds the part's values up by stack.
export function stackSums(s: Samples, part: Part): Float64Array {
  const sums = new Float64Array(s.stackStart.length - 1);
  const values = s.values[part.type];
  if (values === undefined) return sums;
  for (let i = 0; i < s.count; i++) {
    if (!isOf(s, part, i)) continue;
    const stack = s.stackOf[i] as number;
    sums[stack] = (sums[stack] as number) + (values[i] as number);
  }
  return sums;
}

function isOf(s: Samples, part: Part, sample: number): boolean {
  const { label } = part;
  if (label === undefined) return true;
  return (s.labelSets[s.labelsOf[sample] as number] ?? []).some((l) => l.name === label.name && l.value === label.value);
}
