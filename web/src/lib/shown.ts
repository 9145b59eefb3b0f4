// The tree that is shown, made of the one that was answered, and the way back.

import { pathBefore, nodeBefore, collapseRecursion, hideBinaries, type TransformedTree } from "./transform";
import { namesTo, type FlameTree } from "./tree";

export interface Shown {
  readonly tree: FlameTree;
  // Whether frames are missing, so that values of functions are other ones than the server's.
  readonly changed: boolean;
  // The node of the answered tree that node, or else the nearest one above it, was made of.
  readonly origin: (node: number) => number;
  // The names to what became node; undefined if that is more than one subtree.
  readonly path: (node: number) => string[] | undefined;
}

// shown leaves out hidden binaries and collapses recursion.
export function shown(answered: FlameTree, hide: readonly string[], collapse: boolean): Shown {
  const steps: TransformedTree[] = [];
  let tree: FlameTree = answered;
  if (hide.length > 0) {
    const t = hideBinaries(tree, new Set(hide));
    steps.push(t);
    tree = t;
  }
  if (collapse) {
    const t = collapseRecursion(tree);
    steps.push(t);
    tree = t;
  }
  steps.reverse();
  return {
    tree,
    changed: hide.length > 0,
    origin: (node) => steps.reduce((n, t) => nodeBefore(t, n), node),
    path: (node) => {
      let at = node;
      for (const t of steps) {
        if (pathBefore(t, at) === undefined) return undefined;
        at = t.origin[at] as number;
      }
      return namesTo(answered, at);
    },
  };
}
