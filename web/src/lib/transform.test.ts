import { describe, expect, test } from "vitest";
import { foldedTree } from "../../e2e/fixture/folded";
import { collapseRecursion, hideBinaries, nodeBefore, pathBefore } from "./transform";
import { decodeTree, findPath, frameOf, FrameKind, graft, namesTo, type FlameTree, type Frame } from "./tree";
import { frameKey, functionKey } from "./treebuild";

const tree = (text: string): FlameTree => decodeTree(foldedTree(text));

// stacks lists what a tree is made of: each stack with its value.
function stacks(t: FlameTree): { frames: Frame[]; value: number }[] {
  const out: { frames: Frame[]; value: number }[] = [];
  for (let i = 0; i < t.count; i++) {
    const value = t.self[i] as number;
    if (value === 0) continue;
    const frames: Frame[] = [];
    for (let n = i; n > 0; n = t.parent[n] as number) frames.unshift(frameOf(t, n));
    out.push({ frames, value });
  }
  return out;
}

// text sums equal stacks and sorts them: two trees with equal text are made of the same stacks.
function text(of: readonly { frames: readonly Frame[]; value: number }[]): string {
  const sums = new Map<string, number>();
  for (const { frames, value } of of) {
    const key = frames.map((f) => `${f.name}@${f.mapping}@${f.kind}`).join(";");
    sums.set(key, (sums.get(key) ?? 0) + value);
  }
  return [...sums].map(([k, v]) => `${k} ${v}`).sort().join("\n");
}

// faults lists what is wrong with a tree's arrays.
function faults(t: FlameTree): string[] {
  const out: string[] = [];
  for (let i = 0; i < t.count; i++) {
    const p = t.parent[i] as number;
    if (t.depth[i] !== (i === 0 ? 0 : (t.depth[p] as number) + 1)) out.push(`depth of ${i}`);
    let sum = t.self[i] as number;
    let children = 0;
    const keys = new Set<string>();
    for (let c = i + 1; c < (t.end[i] as number); c = t.end[c] as number) {
      sum += t.total[c] as number;
      children++;
      keys.add(frameKey(frameOf(t, c)));
      if (t.parent[c] !== i) out.push(`parent of ${c}`);
    }
    if (t.total[i] !== sum) out.push(`total of ${i}`);
    if (keys.size !== children) out.push(`twins below ${i}`);
  }
  return out;
}

test("direct recursion is one frame, and equal children merge", () => {
  const t = collapseRecursion(tree("f;f;f;g 4\nf;g 1\nf;f 2\nh;f;g 8\nf;g;f 16"));
  expect(text(stacks(t))).toBe("f@@0 2\nf@@0;g@@0 5\nf@@0;g@@0;f@@0 16\nh@@0;f@@0;g@@0 8");
  expect(t.total[0]).toBe(31);
});
test("the same name in another binary is another function", () => {
  const t = tree("f@/a;f@/b;g 1");
  expect(text(stacks(collapseRecursion(t)))).toBe(text(stacks(t)));
});
test("what a hidden binary costs and calls goes to the caller that is shown", () => {
  const t = tree("main@/app;read@/libc;vfs_read_[k] 3\nmain@/app;vfs_read_[k] 1\nmain@/app;read@/libc 2\nstart@/libc;main@/app 5");
  expect(text(stacks(hideBinaries(t, new Set(["/libc"]))))).toBe("main@/app@0 7\nmain@/app@0;vfs_read_[k]@@1 4");
  expect(text(stacks(hideBinaries(t, new Set(["/libc", "[kernel]"]))))).toBe("main@/app@0 11");
  expect(hideBinaries(t, new Set(["/app", "/libc", "[kernel]"])).self[0]).toBe(11);
});
test("reasons, cut nodes and the unknown binary cannot be hidden", () => {
  const t = tree("[unwind: gone];main 1\nmain;(small) 1\nmain 1");
  expect(text(stacks(hideBinaries(t, new Set([""]))))).toBe(text(stacks(t)));
});
test("an empty tree stays one", () => {
  const none = decodeTree({ ...foldedTree(""), nodes: new Uint8Array(), frames: [] });
  expect(collapseRecursion(none).count).toBe(0);
  expect(hideBinaries(none, new Set(["x"])).count).toBe(0);
});

describe("the way back", () => {
  const t = tree("f;f;g;x 4\nf;g;y 1\nf;f;h 2\n(m@/lib;k 3\nk 1");
  const once = collapseRecursion(t);
  const node = (of: FlameTree, ...names: string[]): number => {
    const at = findPath(of, names);
    expect(at.whole).toBe(true);
    return at.node;
  };
  test("the outermost instance has all", () => {
    expect(pathBefore(once, node(once, "f"))).toEqual(["f"]);
    expect(pathBefore(once, node(once, "f", "h"))).toEqual(["f", "f", "h"]);
    expect(pathBefore(once, 0)).toEqual([]);
  });
  test("what was merged of several has no path, but a caller that has one", () => {
    const g = node(once, "f", "g");
    expect(pathBefore(once, g)).toBeUndefined();
    expect(nodeBefore(once, g)).toBe(node(t, "f"));
    expect(pathBefore(once, node(once, "f", "g", "x"))).toEqual(["f", "f", "g", "x"]);
    const hidden = hideBinaries(t, new Set(["/lib"]));
    expect(pathBefore(hidden, node(hidden, "k"))).toBeUndefined();
    expect(nodeBefore(hidden, node(hidden, "k"))).toBe(0);
  });
});

// Trees of few names, so that recursion and equal children are frequent.
function random(seed: number): FlameTree {
  let s = seed;
  const next = (n: number): number => {
    s = (Math.imul(s, 1103515245) + 12345) >>> 0;
    return (s >>> 16) % n;
  };
  const names = ["f@/a", "g@/a", "f@/b", "h@/b", "k_[k]", "(small)", "l_[k]"];
  const lines: string[] = [];
  for (let i = 0; i < 60; i++) {
    const stack = Array.from({ length: 1 + next(9) }, () => names[next(names.length)] as string);
    if (next(5) === 0) stack.unshift("[unwind: x]");
    lines.push(`${stack.join(";")} ${1 + next(100)}`);
  }
  return tree(lines.join("\n"));
}

test("both agree with taking frames out of each stack", () => {
  for (let seed = 1; seed <= 60; seed++) {
    const plain = random(seed);
    // Frames of equal content come with a part that is grafted.
    const t = seed % 2 === 0 ? plain : graft(plain, 0, random(seed + 1000), 0);
    const collapsed = collapseRecursion(t);
    expect(faults(collapsed)).toEqual([]);
    expect(text(stacks(collapsed))).toBe(
      text(
        stacks(t).map(({ frames, value }) => ({
          frames: frames.filter((f, i) => i === 0 || functionKey(f) !== functionKey(frames[i - 1] as Frame)),
          value,
        })),
      ),
    );
    for (const names of [["/a"], ["/b", "[kernel]"], ["/a", "/b", "[kernel]"], []]) {
      const hidden = hideBinaries(t, new Set(names));
      expect(faults(hidden)).toEqual([]);
      expect(hidden.total[0]).toBe(t.total[0]);
      const shown = (f: Frame): boolean => !names.includes(f.kind === FrameKind.KERNEL ? "[kernel]" : f.mapping);
      expect(text(stacks(hidden))).toBe(text(stacks(t).map(({ frames, value }) => ({ frames: frames.filter(shown), value }))));
      // Where there is a way back, it leads to the same function, and to no less than what is shown.
      for (let i = 1; i < hidden.count; i++) {
        const o = hidden.origin[i] as number;
        if (o < 0) continue;
        if (frameOf(t, o).name !== frameOf(hidden, i).name || t.total[o] !== hidden.total[i] || namesTo(t, o).join() !== pathBefore(hidden, i)?.join()) {
          throw new Error(`seed ${seed}: node ${i} is said to be ${o}`);
        }
      }
    }
  }
});

test("a chain as deep as trees may be takes no recursion", () => {
  const t = tree(`${Array.from({ length: 20_000 }, (_, i) => (i % 3 === 0 ? "f" : `g${i}@/lib`)).join(";")} 7`);
  expect(hideBinaries(t, new Set(["/lib"])).maxDepth).toBe(6667);
  const plain = collapseRecursion(hideBinaries(t, new Set(["/lib"])));
  expect(plain.maxDepth).toBe(1);
  expect(plain.total[0]).toBe(7);
});
