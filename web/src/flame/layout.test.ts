import { describe, expect, test } from "vitest";
import { random } from "../../e2e/fixture/data";
import { foldedTree } from "../../e2e/fixture/folded";
import { decodeTree, frameOf, type FlameTree } from "../lib/tree";
import { clampRange, fits, hit, layout, newBoxes, type Viewport } from "./layout";

function show(t: FlameTree, v: Partial<Viewport>): string[] {
  const b = newBoxes();
  layout(t, { x0: 0, x1: t.total[0] as number, width: 100, firstRow: 0, lastRow: 10, ...v }, b);
  return Array.from({ length: b.count }, (_, i) => {
    const n = b.node[i] as number;
    return `${b.row[i]} ${n < 0 ? "dust" : frameOf(t, n).name} ${(b.x[i] as number).toFixed(1)}+${(b.w[i] as number).toFixed(1)}`;
  });
}

const t = decodeTree(foldedTree("a;b 10\na;c 20\na 10\nd;e 60"));

describe("layout", () => {
  test("every node of a small tree", () => {
    expect(show(t, {})).toEqual(["0 root 0.0+100.0", "1 a 0.0+40.0", "2 b 0.0+10.0", "2 c 10.0+20.0", "1 d 40.0+60.0", "2 e 40.0+60.0"]);
  });
  test("a part of the width clips at both edges", () => {
    expect(show(t, { x0: 5, x1: 55 })).toEqual(["0 root 0.0+100.0", "1 a 0.0+70.0", "2 b 0.0+10.0", "2 c 10.0+40.0", "1 d 70.0+30.0", "2 e 70.0+30.0"]);
  });
  test("only the rows that are asked for", () => {
    expect(show(t, { firstRow: 1, lastRow: 2 })).toEqual(["1 a 0.0+40.0", "1 d 40.0+60.0"]);
  });
  test("neighbours that are too narrow become dust, once it can be seen", () => {
    const many = decodeTree(foldedTree(Array.from({ length: 1000 }, (_, i) => `f${String(i).padStart(4, "0")};g 1`).join("\n")));
    const boxes = show(many, {});
    expect(boxes).toEqual(["0 root 0.0+100.0", "1 dust 0.0+100.0"]);
    const one = decodeTree(foldedTree("a 1\nb 9999"));
    expect(show(one, {})).toEqual(["0 root 0.0+100.0", "1 b 0.0+100.0"]);
  });
  test("an empty tree and an empty window have no boxes", () => {
    const b = newBoxes();
    layout(t, { x0: 1, x1: 1, width: 100, firstRow: 0, lastRow: 9 }, b);
    expect(b.count).toBe(0);
    layout(t, { x0: 0, x1: 1, width: 0, firstRow: 0, lastRow: 9 }, b);
    expect(b.count).toBe(0);
  });
  test("what is out of sight is not visited", () => {
    const wide = decodeTree(foldedTree(Array.from({ length: 100 }, (_, i) => `p${i};${Array.from({ length: 50 }, (_, k) => `q${k}`).join(";")} 100`).join("\n")));
    const b = newBoxes();
    layout(wide, { x0: 0, x1: 100, width: 100, firstRow: 0, lastRow: 60 }, b);
    expect(b.visited).toBeLessThan(60);
    layout(wide, { x0: 0, x1: 10_000, width: 100, firstRow: 0, lastRow: 2 }, b);
    expect(b.visited).toBeLessThan(210);
  });
  test("boxes never overlap and stay inside the window", () => {
    const r = random(7);
    const next = (n: number): number => Math.floor(r() * n);
    const lines = Array.from({ length: 3000 }, () => `${Array.from({ length: 1 + next(12) }, () => `f${next(9)}`).join(";")} ${1 + next(50) ** 2}`);
    const big = decodeTree(foldedTree(lines.join("\n")));
    const total = big.total[0] as number;
    const b = newBoxes();
    for (const [x0, x1] of [[0, total], [total * 0.3, total * 0.31], [total * 0.999, total]] as const) {
      layout(big, { x0, x1, width: 800, firstRow: 1, lastRow: 9 }, b);
      expect(b.count).toBeGreaterThan(0);
      const rows = new Map<number, [number, number][]>();
      for (let i = 0; i < b.count; i++) {
        const at: [number, number] = [b.x[i] as number, (b.x[i] as number) + (b.w[i] as number)];
        expect(at[0]).toBeGreaterThanOrEqual(0);
        expect(at[1]).toBeLessThanOrEqual(800.01);
        rows.set(b.row[i] as number, [...(rows.get(b.row[i] as number) ?? []), at]);
      }
      for (const [row, boxes] of rows) {
        expect(row).toBeGreaterThanOrEqual(1);
        expect(row).toBeLessThan(9);
        boxes.sort((p, q) => p[0] - q[0]);
        boxes.forEach((p, i) => {
          if (i > 0) expect(p[0]).toBeGreaterThanOrEqual((boxes[i - 1] as [number, number])[1] - 0.01);
        });
      }
    }
  });
});

test("hit finds what layout drew", () => {
  const f = (x: number, row: number, want: string): void => {
    const n = hit(t, x, row);
    expect(n < 0 ? "" : frameOf(t, n).name).toBe(want);
  };
  f(0, 0, "root");
  f(99.9, 0, "root");
  f(100, 0, "");
  f(-1, 0, "");
  f(5, 1, "a");
  f(5, 2, "b");
  f(10, 2, "c");
  f(35, 2, "");
  f(40, 1, "d");
  f(5, 3, "");
});

test("clampRange", () => {
  const f = (x0: number, x1: number, want: [number, number]): void => {
    const r = clampRange(x0, x1, 100);
    expect([r.x0, r.x1]).toEqual(want);
  };
  f(10, 20, [10, 20]);
  f(-5, 5, [0, 10]);
  f(95, 105, [90, 100]);
  f(-50, 500, [0, 100]);
  const tiny = clampRange(50, 50, 100);
  expect(tiny.x1).toBeGreaterThan(tiny.x0);
});

test("fits", () => {
  const f = (chars: number, want: string): void => expect(fits("net/http.(*conn).serve", "http.(*conn).serve", chars)).toBe(want);
  f(30, "net/http.(*conn).serve");
  f(20, "http.(*conn).serve");
  f(8, "http.(*…");
  f(2, "");
});
