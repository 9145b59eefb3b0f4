import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { foldedTree } from "../../e2e/fixture/folded";
import { random } from "../../e2e/fixture/data";
import { align, decodeDiff, diffTrees, graftDiff, growth, isSame, largestChange, sideTree, type DiffTree, type WireDiff } from "./difftree";
import { diffRowsBelow, sortDiffRows } from "./difftable";
import { decodeTree, findPath, FrameKind, frameOf, namesTo, TreeError, type FlameTree, type Frame } from "./tree";

const testdata = (name: string): string => readFileSync(new URL(`testdata/${name}`, import.meta.url), "utf8");
const tree = (folded: string): FlameTree => decodeTree(foldedTree(folded));

// As Go reads folded text: the kernel's mark is no part of the name.
function read(name: string): FlameTree {
  const t = tree(testdata(name));
  return { ...t, frames: t.frames.map((f) => (f.kind === FrameKind.KERNEL ? { ...f, name: f.name.replace(/_\[k\]$/, ""), mapping: "[kernel.kallsyms]" } : f)) };
}

interface GoNode {
  readonly name: string;
  readonly mapping?: string;
  readonly before: { readonly self: number; readonly total: number };
  readonly self: number;
  readonly total: number;
  readonly children?: readonly GoNode[];
}

// The two folded files' difference as profilectl diff -o json writes it.
const go = JSON.parse(testdata("diff.json")) as { readonly root: GoNode; readonly functions: readonly GoNode[] };

function lines(n: GoNode, depth = 0): string[] {
  const own = `${"  ".repeat(depth)}${n.name} ${n.mapping ?? ""} ${n.before.self} ${n.before.total} ${n.self} ${n.total}`;
  return [own, ...(n.children ?? []).flatMap((c) => lines(c, depth + 1))];
}

function show(t: DiffTree): string[] {
  return Array.from({ length: t.count }, (_, i) => {
    const f = frameOf(t, i);
    return `${"  ".repeat(t.depth[i] as number)}${f.name} ${f.mapping} ${t.before.self[i]} ${t.before.total[i]} ${t.after.self[i]} ${t.after.total[i]}`;
  });
}

describe("two trees of the browser", () => {
  const d = diffTrees(read("diff-before.folded"), read("diff-after.folded"));
  test("are laid over each other as profilectl does", () => expect(show(d)).toEqual(lines(go.root)));
  test("their functions are counted and sorted as profilectl does", () => {
    const rows = sortDiffRows(diffRowsBelow(d, 0), "self", d);
    expect(rows.map((r) => `${r.name} ${r.mapping} ${r.selfBefore} ${r.totalBefore} ${r.selfAfter} ${r.totalAfter}`)).toEqual(
      go.functions.map((r) => `${r.name} ${r.mapping ?? ""} ${r.before.self} ${r.before.total} ${r.self} ${r.total}`),
    );
  });
  test("any two trees: each side is as it was, and the walk is one", () => {
    const r = random(5);
    const pick = (n: number): number => Math.floor(r() * n);
    for (let round = 0; round < 200; round++) {
      const some = (): string => Array.from({ length: pick(12) }, () => `${Array.from({ length: pick(6) }, () => `f${pick(4)}`).join(";")} ${1 + pick(9)}`).join("\n");
      const [before, after] = [tree(some()), tree(some())];
      const got = diffTrees(before, after);
      for (const [side, was] of [["before", before], ["after", after]] as const) {
        const paths = (t: FlameTree): string[] => Array.from({ length: t.count }, (_, i) => `${namesTo(t, i).join(";")} ${t.self[i]} ${t.total[i]}`).filter((l) => !l.endsWith(" 0 0"));
        expect(paths(sideTree(got, side))).toEqual(paths(was).filter((l) => !l.endsWith(" 0 0")));
      }
      for (let i = 0; i < got.count; i++) {
        expect(got.end[i]).toBeGreaterThan(i);
        expect(got.end[i]).toBeLessThanOrEqual(i === 0 ? got.count : (got.end[got.parent[i] as number] as number));
      }
    }
  });
  test("an empty side is nothing but new", () => {
    const t = diffTrees(tree(""), tree("a;b 3"));
    expect(show(t)).toEqual(["root  0 0 0 3", "  a  0 0 0 3", "    b  0 0 3 3"]);
    expect(growth(t, t.before.total[1] as number, t.after.total[1] as number)).toBe(1);
  });
  test("widths are both sides' scaled values together", () => {
    const t = diffTrees(tree("a 10\nb 10"), tree("a 30\nc 10"), { before: 2, after: 0.5 });
    expect(Array.from(t.total)).toEqual([60, 35, 20, 5]);
    expect(Array.from(t.offset)).toEqual([0, 0, 35, 55]);
    expect(largestChange(t)).toBe(20);
    expect(isSame(t)).toBe(false);
    expect(isSame(diffTrees(tree("a 10"), tree("a 20"), { before: 2, after: 1 }))).toBe(true);
  });
});

test("another build of a program is the same program", () => {
  const fn = (name: string, file: string, mapping: string): Frame => ({ name, file, mapping, kind: FrameKind.NATIVE, inlined: false, startLine: 0 });
  const root = { ...fn("root", "", ""), kind: FrameKind.ROOT };
  const f = (before: Frame[], after: Frame[], ...want: string[]): void =>
    expect(
      align([root, ...before], [root, ...after])
        .slice(1)
        .map((x) => `${x.name} ${x.file} ${x.mapping}`),
    ).toEqual(want);
  f([fn("main", "/a/main.c", "/tmp/1/app")], [fn("main", "/b/main.c", "/tmp/2/app")], "main /b/main.c /tmp/2/app");
  // Two static functions of one name are told apart by their files.
  f([fn("init", "/a/x.c", "app"), fn("init", "/a/y.c", "app")], [fn("init", "/b/x.c", "app"), fn("init", "/b/y.c", "app")], "init /b/x.c app", "init /b/y.c app");
  // It cannot be told which one is meant.
  f([fn("init", "/a/z.c", "app")], [fn("init", "/b/x.c", "app"), fn("init", "/b/y.c", "app")], "init /a/z.c app");
  // Another program that stays is not the one that is gone.
  f([fn("main", "x.c", "b"), fn("main", "x.c", "a")], [fn("main", "x.c", "a")], "main x.c b", "main x.c a");
});

describe("the server's answer", () => {
  const side = (total: number) => ({ unfilteredTotal: BigInt(total), durationNano: 10_000_000_000n, scale: 1, stackCount: 2n, seriesCount: 1n, stacksCut: false });
  const frames = [FrameKind.ROOT, FrameKind.NATIVE, FrameKind.NATIVE, FrameKind.CUT].map((kind, i) => ({ name: i, file: 0, mapping: 0, kind, inlined: false, startLine: 0 }));
  const wire = (nodes: number[]): WireDiff => ({ unit: "count", strings: ["", "a", "b", "(small)"], frames, nodes: Uint8Array.from(nodes), nodeCount: 9n, cutCount: 5n, before: side(7), after: side(300) });
  const t = decodeDiff(wire([2, 0, 0, 0, 1, 1, 2, 0xac, 2, 0, 2, 5, 0, 0, 3, 0, 1]));
  test("four varints are a node", () => {
    expect(show(t)).toEqual(["  0 7 0 301", "  a  2 7 300 300", "    b  5 5 0 0", "  (small)  0 0 1 1"]);
    expect([t.cutCount, t.before.durationMillis, t.after.unfilteredTotal]).toEqual([5, 10_000, 300]);
    expect(() => decodeDiff(wire([0, 0, 0]))).toThrow(TreeError);
    expect(() => decodeDiff(wire([1, 0, 0, 0]))).toThrow(TreeError);
  });
  test("an expanded part takes the place of what was folded", () => {
    const part = decodeDiff(wire([2, 0, 2, 0, 0, 1, 1, 2, 0, 2, 4, 3]));
    const grown = graftDiff(t, findPath(t, ["a"]).node, part);
    expect(show(grown)).toEqual(["  0 7 0 6", "  a  2 7 0 5", "    a  1 1 2 2", "    b  4 4 3 3", "  (small)  0 0 1 1"]);
  });
});
