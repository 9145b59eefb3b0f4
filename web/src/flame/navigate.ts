// Where the arrow keys lead.

import { firstChild, nextSibling, type FlameTree } from "../lib/tree";

export type Move = "parent" | "child" | "left" | "right" | "first" | "last";

// move returns the node that is reached from node, or node itself at a border. A child is the widest one: the way of
// most of the value.
export function move(t: FlameTree, node: number, to: Move): number {
  const p = t.parent[node] ?? -1;
  switch (to) {
    case "parent":
      return p < 0 ? node : p;
    case "child": {
      let best = node;
      for (let c = firstChild(t, node); c >= 0; c = nextSibling(t, c)) {
        if (best === node || (t.total[c] as number) > (t.total[best] as number)) best = c;
      }
      return best;
    }
    case "right": {
      const n = nextSibling(t, node);
      return n < 0 ? node : n;
    }
    case "left": {
      if (p < 0) return node;
      let before = node;
      for (let c = firstChild(t, p); c >= 0 && c !== node; c = nextSibling(t, c)) before = c;
      return before;
    }
    case "first":
      return p < 0 ? node : firstChild(t, p);
    case "last": {
      let last = node;
      for (let n = nextSibling(t, node); n >= 0; n = nextSibling(t, n)) last = n;
      return last;
    }
  }
}

// placeAmong returns the node's number among its siblings, from 1, and how many they are.
export function placeAmong(t: FlameTree, node: number): { place: number; of: number } {
  const p = t.parent[node] ?? -1;
  if (p < 0) return { place: 1, of: 1 };
  let place = 0;
  let of = 0;
  for (let c = firstChild(t, p); c >= 0; c = nextSibling(t, c)) {
    of++;
    if (c === node) place = of;
  }
  return { place, of };
}
