// Where the arrow keys lead. Nodes of no width, which only the other side of a difference has, are passed by.

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
      let most = 0;
      for (let c = firstChild(t, node); c >= 0; c = nextSibling(t, c)) {
        if ((t.total[c] as number) > most) {
          best = c;
          most = t.total[c] as number;
        }
      }
      return best;
    }
    case "right": {
      const n = wide(t, nextSibling(t, node));
      return n < 0 ? node : n;
    }
    case "left": {
      if (p < 0) return node;
      let before = node;
      for (let c = wide(t, firstChild(t, p)); c >= 0 && c < node; c = wide(t, nextSibling(t, c))) before = c;
      return before;
    }
    case "first": {
      const n = p < 0 ? -1 : wide(t, firstChild(t, p));
      return n < 0 ? node : n;
    }
    case "last": {
      let last = node;
      for (let n = wide(t, nextSibling(t, node)); n >= 0; n = wide(t, nextSibling(t, n))) last = n;
      return last;
    }
  }
}

// wide returns the first of node and its later siblings that has a width, or -1.
function wide(t: FlameTree, node: number): number {
  let n = node;
  while (n >= 0 && !((t.total[n] as number) > 0)) n = nextSibling(t, n);
  return n;
}

// placeAmong returns the node's number among its siblings, from 1, and how many they are.
export function placeAmong(t: FlameTree, node: number): { place: number; of: number } {
  const p = t.parent[node] ?? -1;
  if (p < 0) return { place: 1, of: 1 };
  let place = 0;
  let of = 0;
  for (let c = wide(t, firstChild(t, p)); c >= 0; c = wide(t, nextSibling(t, c))) {
    of++;
    if (c <= node) place = of;
  }
  return { place: Math.max(1, place), of: Math.max(1, of) };
}
