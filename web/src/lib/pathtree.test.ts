import { expect, test } from "vitest";
import { treeOfPaths } from "./pathtree";
import { FrameKind, type Frame } from "./tree";
import { TreeBuilder } from "./treebuild";

const frame = (name: string, kind = FrameKind.NATIVE): Frame => ({ name, file: "", mapping: "", kind, inlined: false, startLine: 0 });
const facts = { unit: "count", stackCount: 0, seriesCount: 1, stacksCut: false };

test("it is the tree that is found node by node", () => {
  let seed = 3;
  const next = (n: number): number => {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
    return (seed >>> 8) % n;
  };
  // Names in no order; few, so that stacks share much, and some are a part of others or the same.
  const table = [frame("root", FrameKind.ROOT), frame("z"), frame("a"), frame("m"), frame("\u{1f525}"), frame("\uff21"), frame("never")];
  for (const stacks of [0, 1, 2, 12, 13, 200, 3000]) {
    const start = [0];
    const frames: number[] = [];
    const values: number[] = [];
    const b = new TreeBuilder(table);
    for (let i = 0; i < stacks; i++) {
      const value = next(100) - 20;
      let node = 0;
      for (let d = next(9); d > 0; d--) {
        const f = 1 + next(5);
        frames.push(f);
        node = b.child(node, f);
      }
      b.add(node, value);
      start.push(frames.length);
      values.push(value);
    }
    const t = treeOfPaths(table, { start: Uint32Array.from(start), frames: Uint32Array.from(frames), values: Float64Array.from(values) }, facts);
    expect(t).toEqual(b.tree(facts).tree);
  }
});

test("stacks that are all the same, and one as deep as trees may be", () => {
  const same = { start: Uint32Array.from({ length: 20_001 }, (_, i) => i * 3), frames: new Uint32Array(60_000).fill(1), values: new Float64Array(20_000).fill(2) };
  expect(treeOfPaths([frame("root"), frame("f")], same, facts)).toMatchObject({ count: 4, maxDepth: 3, total: Float64Array.of(40_000, 40_000, 40_000, 40_000) });
  const chain = (n: number) => treeOfPaths([frame("root"), frame("f")], { start: Uint32Array.of(0, n), frames: new Uint32Array(n).fill(1), values: Float64Array.of(1) }, facts);
  expect(chain(65_535).maxDepth).toBe(65_535);
  expect(() => chain(65_536)).toThrow("deeper than 65535");
});
