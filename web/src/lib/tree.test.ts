import { describe, expect, test } from "vitest";
import { cut, foldedTree } from "../../e2e/fixture/folded";
import { decodeTree, expandable, findPath, firstChild, FrameKind, frameOf, graft, namesTo, nextSibling, pathTo, TreeError, type FlameTree, type WireTree } from "./tree";

// show writes a tree as text: a line per node, indented by depth, with total, self and offset.
function show(t: FlameTree): string {
  let out = "";
  for (let i = 0; i < t.count; i++) {
    const p = t.parent[i] as number;
    expect(t.depth[i]).toBe(p < 0 ? 0 : (t.depth[p] as number) + 1);
    out += `${"  ".repeat(t.depth[i] as number)}${frameOf(t, i).name} total=${t.total[i]} self=${t.self[i]} at=${t.offset[i]} end=${t.end[i]}\n`;
  }
  return out;
}

const shop = "main;serve;json 30\nmain;serve;sql 20\nmain;serve 10\nmain;gc 5\nidle 35";

function wireOf(nodes: number[], frames = 2): WireTree {
  return {
    unit: "count",
    strings: ["", "a"],
    frames: Array.from({ length: frames }, () => ({ name: 1, file: 0, mapping: 0, kind: FrameKind.NATIVE, inlined: false, startLine: 0 })),
    nodes: Uint8Array.from(nodes),
    nodeCount: 0n,
    cutCount: 0n,
    stackCount: 0n,
    seriesCount: 0n,
    stacksCut: false,
  };
}

describe("decodeTree", () => {
  test("totals, offsets and ends follow from the walk", () => {
    expect(show(decodeTree(foldedTree(shop)))).toBe(
      [
        "root total=100 self=0 at=0 end=7",
        "  idle total=35 self=35 at=0 end=2",
        "  main total=65 self=0 at=35 end=7",
        "    gc total=5 self=5 at=35 end=4",
        "    serve total=60 self=10 at=40 end=7",
        "      json total=30 self=30 at=40 end=6",
        "      sql total=20 self=20 at=70 end=7",
        "",
      ].join("\n"),
    );
  });
  test("numbers of many bytes", () => {
    const big = 2 ** 52 + 12345;
    const t = decodeTree(foldedTree(`a ${big}`));
    expect(t.total[0]).toBe(big);
  });
  test("no nodes at all is an empty tree", () => {
    expect(decodeTree(wireOf([])).count).toBe(0);
  });
  test("a chain of 5000 frames", () => {
    const names = Array.from({ length: 5000 }, (_, i) => `f${i}`).join(";");
    const t = decodeTree(foldedTree(`${names} 7`));
    expect(t.maxDepth).toBe(5000);
    expect(t.total[0]).toBe(7);
  });

  const refused = (name: string, nodes: number[], message: RegExp): void => {
    test(`refuses ${name}`, () => {
      expect(() => decodeTree(wireOf(nodes))).toThrow(TreeError);
      expect(() => decodeTree(wireOf(nodes))).toThrow(message);
    });
  };
  refused("half a node", [0, 0], /whole nodes/);
  refused("a number without an end", [0, 0, 0x80], /whole nodes/);
  refused("a frame that is not there", [0, 9, 1], /frame 9/);
  refused("more children than nodes", [2, 0, 0, 0, 1, 1], /children/);
  refused("two roots", [0, 0, 1, 0, 0, 1], /no parent/);
  refused("missing children", [1, 0, 0, 1, 1, 1], /children/);
  refused("a number of eleven bytes", [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0, 0, 0], /ten bytes/);
  test("refuses a string that is not there", () => {
    expect(() => decodeTree({ ...wireOf([0, 0, 1]), strings: [""] })).toThrow(/string 1 of 1/);
  });

  test("arbitrary bytes give a tree or a TreeError, never anything else", () => {
    let seed = 1;
    const next = (): number => (seed = (Math.imul(seed, 1103515245) + 12345) >>> 0) >>> 16;
    for (let n = 0; n < 20_000; n++) {
      const bytes = Array.from({ length: next() % 40 }, () => (next() % 3 === 0 ? next() % 256 : next() % 4));
      try {
        const t = decodeTree(wireOf(bytes));
        if (t.count > 0) expect(t.end[0]).toBe(t.count);
      } catch (e) {
        if (!(e instanceof TreeError)) throw e;
      }
    }
  });
});

describe("walking", () => {
  const t = decodeTree(foldedTree(shop));
  test("children and siblings", () => {
    expect(firstChild(t, 0)).toBe(1);
    expect(firstChild(t, 1)).toBe(-1);
    expect(nextSibling(t, 1)).toBe(2);
    expect(nextSibling(t, 2)).toBe(-1);
    expect(nextSibling(t, 0)).toBe(-1);
  });
  test("paths", () => {
    expect(pathTo(t, 0)).toEqual([]);
    expect(namesTo(t, 6)).toEqual(["main", "serve", "sql"]);
    expect(findPath(t, ["main", "serve", "sql"])).toEqual({ node: 6, whole: true });
    expect(findPath(t, ["main", "gone", "sql"])).toEqual({ node: 2, whole: false });
    expect(findPath(t, [])).toEqual({ node: 0, whole: true });
    expect(findPath(decodeTree(wireOf([])), ["x"])).toEqual({ node: 0, whole: false });
  });
  test("of siblings with one name the largest is found, and neither can be expanded by its path", () => {
    const twins = decodeTree(foldedTree("f@/a;x 1\nf@/b;x 5"));
    const big = findPath(twins, ["f"]).node;
    expect(twins.total[big]).toBe(5);
    expect(expandable(twins, big)).toBe(0);
    expect(expandable(t, 4)).toBe(4);
  });
});

describe("graft", () => {
  const text = "a;b;c 50\na;b;d 3\na;b;e;f 2\na;(g 1\nz 44";
  const whole = decodeTree(foldedTree(text));
  const coarse = decodeTree(cut(foldedTree(text), 0.04));

  test("the cut tree keeps the sum", () => {
    expect(coarse.total[0]).toBe(100);
    expect(coarse.frames.filter((f) => f.kind === FrameKind.CUT)).toHaveLength(1);
    expect(coarse.count).toBeLessThan(whole.count);
  });
  test("replacing the cut part gives what the whole tree has there", () => {
    const at = findPath(coarse, ["a", "b"]).node;
    const grown = graft(coarse, at, decodeTree(foldedTree("c 50\nd 3\ne;f 2")), 0);
    const names = (t: FlameTree): string => show(t).replaceAll("(small)", "(g");
    expect(names(grown)).toBe(names(whole));
    expect(grown.maxDepth).toBe(whole.maxDepth);
  });
  test("grafting at the root replaces everything", () => {
    expect(show(graft(coarse, 0, whole, 0))).toBe(show(whole));
  });
  test("a smaller part shrinks the tree", () => {
    const small = graft(whole, findPath(whole, ["a"]).node, decodeTree(foldedTree("q 56")), 0);
    expect(show(small)).toBe(show(decodeTree(foldedTree("a;q 56\nz 44"))));
  });
});
