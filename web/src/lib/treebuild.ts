// Making trees: nodes are found by their parent and what they show, and numbered depth-first when all are there, with
// siblings in the order in which the server sends them.

import { derive, emptyArrays, maxTreeDepth, TreeError, type FlameTree, type Frame } from "./tree";

// What a tree says of the question beside its nodes.
export type TreeFacts = Pick<FlameTree, "unit" | "nodeCount" | "cutCount" | "stackCount" | "seriesCount" | "stacksCut" | "unfiltered">;

// Different on each page, so that no file can be made whose nodes all fall into one slot. The order of nodes does not
// depend on it.
const multiplier = Math.floor(Math.random() * 2 ** 32) | 1;

export class TreeBuilder {
  // Nodes as they were found: a parent always before its children.
  private parent: Int32Array<ArrayBuffer>;
  private frame: Uint32Array<ArrayBuffer>;
  private self: Float64Array<ArrayBuffer>;
  private count = 1;
  // An open-addressing table from (parent, frame) to node; 0 is free, since the root is nobody's child.
  private slots: Int32Array<ArrayBuffer>;

  // Frames of equal content are to be one frame; frames[root] is the root's.
  constructor(
    private readonly frames: readonly Frame[],
    root = 0,
  ) {
    this.parent = new Int32Array(1024);
    this.frame = new Uint32Array(1024);
    this.self = new Float64Array(1024);
    this.parent[0] = -1;
    this.frame[0] = root;
    this.slots = new Int32Array(4096);
  }

  add(node: number, value: number): void {
    this.self[node] = (this.self[node] as number) + value;
  }

  frameOf(node: number): number {
    return this.frame[node] as number;
  }

  // child returns the child of parent with that frame, making it if it is new.
  child(parent: number, frame: number): number {
    const s = this.slot(parent, frame);
    const known = this.slots[s] as number;
    if (known !== 0) return known;
    const n = this.count++;
    if (n === this.parent.length) this.grow();
    this.parent[n] = parent;
    this.frame[n] = frame;
    this.slots[s] = n;
    if (this.count * 2 > this.slots.length) this.rehash();
    return n;
  }

  // graft adds node i of t and everything below it as a child of parent; rename gives the builder's frames by t's.
  graft(parent: number, t: FlameTree, i: number, rename?: Uint32Array): void {
    const end = t.end[i] as number;
    const at = new Int32Array(end - i);
    for (let k = i; k < end; k++) {
      const f = t.frame[k] as number;
      const below = k === i ? parent : (at[(t.parent[k] as number) - i] as number);
      const n = this.child(below, rename === undefined ? f : (rename[f] as number));
      this.add(n, t.self[k] as number);
      at[k - i] = n;
    }
  }

  private slot(parent: number, frame: number): number {
    const mask = this.slots.length - 1;
    let h = Math.imul(parent ^ Math.imul(frame, 0x9e3779b1), multiplier);
    h = Math.imul(h ^ (h >>> 15), 0x2c1b3c6d);
    for (let s = (h ^ (h >>> 13)) & mask; ; s = (s + 1) & mask) {
      const n = this.slots[s] as number;
      if (n === 0 || (this.parent[n] === parent && this.frame[n] === frame)) return s;
    }
  }

  private grow(): void {
    const n = this.count * 2;
    const parent = new Int32Array(n);
    const frame = new Uint32Array(n);
    const self = new Float64Array(n);
    parent.set(this.parent);
    frame.set(this.frame);
    self.set(this.self);
    this.parent = parent;
    this.frame = frame;
    this.self = self;
  }

  private rehash(): void {
    this.slots = new Int32Array(this.slots.length * 4);
    for (let i = 1; i < this.count; i++) this.slots[this.slot(this.parent[i] as number, this.frame[i] as number)] = i;
  }

  // tree returns the tree and, by the builder's nodes, those of the tree. Throws TreeError if it is too deep.
  tree(facts: Omit<TreeFacts, "nodeCount" | "cutCount"> & Partial<TreeFacts>): { tree: FlameTree; at: Int32Array } {
    const n = this.count;
    const used = new Uint8Array(this.frames.length);
    for (let i = 1; i < n; i++) used[this.frame[i] as number] = 1;
    const order: number[] = [];
    used.forEach((u, f) => {
      if (u === 1) order.push(f);
    });
    order.sort((a, b) => compareFrames(this.frames[a] as Frame, this.frames[b] as Frame));
    const rank = new Uint32Array(this.frames.length);
    order.forEach((f, r) => {
      rank[f] = r + 1;
    });

    // Two counting sorts: by frame, then by parent.
    const byFrame = countingSort(n - 1, order.length + 1, (i) => rank[this.frame[i + 1] as number] as number);
    const children = countingSort(n - 1, n, (i) => this.parent[(byFrame[i] as number) + 1] as number);
    const size = new Int32Array(n).fill(1);
    for (let i = n - 1; i > 0; i--) {
      const p = this.parent[i] as number;
      size[p] = (size[p] as number) + (size[i] as number);
    }
    const a = emptyArrays(n);
    const at = new Int32Array(n);
    a.parent[0] = -1;
    a.end[0] = n;
    a.self[0] = this.self[0] as number;
    let maxDepth = 0;
    // next[p] is where p's next child goes. children are in order of their parents, and those come before them.
    const next = new Int32Array(n);
    next[0] = 1;
    for (let k = 0; k < n - 1; k++) {
      const i = (byFrame[children[k] as number] as number) + 1;
      const p = this.parent[i] as number;
      const here = next[p] as number;
      at[i] = here;
      next[i] = here + 1;
      next[p] = here + (size[i] as number);
      const depth = (a.depth[at[p] as number] as number) + 1;
      if (depth > maxTreeDepth) throw new TreeError(`deeper than ${maxTreeDepth}`);
      if (depth > maxDepth) maxDepth = depth;
      a.parent[here] = at[p] as number;
      a.depth[here] = depth;
      a.end[here] = here + (size[i] as number);
      a.frame[here] = rank[this.frame[i] as number] as number;
      a.self[here] = this.self[i] as number;
    }
    derive(n, a.parent, a.self, a.total, a.offset);
    const frames = [this.frames[this.frame[0] as number] as Frame, ...order.map((f) => this.frames[f] as Frame)];
    return { tree: { nodeCount: n, cutCount: 0, ...facts, ...a, frames, count: n, maxDepth }, at };
  }
}

// countingSort returns the numbers below n in the order of their keys, which are below keys; equal keys stay in order.
function countingSort(n: number, keys: number, key: (i: number) => number): Int32Array {
  const at = new Int32Array(keys + 1);
  for (let i = 0; i < n; i++) {
    const k = key(i) + 1;
    at[k] = (at[k] as number) + 1;
  }
  for (let k = 0; k < keys; k++) at[k + 1] = (at[k + 1] as number) + (at[k] as number);
  const out = new Int32Array(n);
  for (let i = 0; i < n; i++) {
    const k = key(i);
    const to = at[k] as number;
    out[to] = i;
    at[k] = to + 1;
  }
  return out;
}

// compareText is the order of the texts' UTF-8 bytes, which is the server's. UTF-16 has another one where a surrogate
// meets a character above U+DFFF.
export function compareText(a: string, b: string): number {
  if (a === b) return 0;
  const n = Math.min(a.length, b.length);
  for (let i = 0; i < n; i++) {
    const x = a.charCodeAt(i);
    const y = b.charCodeAt(i);
    if (x === y) continue;
    return x >= 0xd800 && y >= 0xd800 ? ((x + 0x2000) & 0xffff) - ((y + 0x2000) & 0xffff) : x - y;
  }
  return a.length - b.length;
}

// compareFrames is the order of siblings: name, file, mapping, kind, inlined.
export function compareFrames(a: Frame, b: Frame): number {
  return (
    compareText(a.name, b.name) || compareText(a.file, b.file) || compareText(a.mapping, b.mapping) || a.kind - b.kind || Number(a.inlined) - Number(b.inlined)
  );
}

// functionKey is equal for frames of one function, frameKey for frames that a tree shows as one node.
export function functionKey(f: Frame): string {
  return `${f.name}\0${f.file}\0${f.mapping}\0${f.kind}`;
}

export function frameKey(f: Frame): string {
  return `${functionKey(f)}\0${f.inlined ? 1 : 0}`;
}

// firstOf returns by frame the index of the first one with the same key.
export function firstOf(frames: readonly Frame[], key: (f: Frame) => string): Uint32Array {
  const first = new Map<string, number>();
  return Uint32Array.from(frames, (f, i) => {
    const k = key(f);
    const known = first.get(k);
    if (known !== undefined) return known;
    first.set(k, i);
    return i;
  });
}
