import { expect, test } from "vitest";
import { foldedTree } from "../../e2e/fixture/folded";
import { diffTrees } from "../lib/difftree";
import { decodeTree } from "../lib/tree";
import { byChange, legendOf, swatchOf } from "./change";
import type { Tokens } from "./palette";
import { rgb } from "./svg";

const tokens: Tokens = { lightness: 0.85, chroma: 0.06, text: "", kernel: "", unwind: "", cut: "", root: "", match: "", matchText: "", dim: "", dimText: "", dust: "", gap: "", hatch: "", cursor: "" };
const dark = { ...tokens, lightness: 0.47 };
const d = diffTrees(decodeTree(foldedTree("a 10\nb 10\nc 10\nd 10\n(small) 4")), decodeTree(foldedTree("a 10\nb 20\nc 5\ne 10\n(small) 8")));

// The nodes are root, (small), a, b, c, d, e.
test("each node looks as its change does", () => {
  for (const k of [tokens, dark]) {
    const { slots, swatches } = byChange(d, "relative");
    const looks = Array.from(slots, (s) => swatches(k)[s]);
    const at = (share: number) => swatchOf(share, "relative", k);
    expect(looks.slice(2)).toEqual([at(0), at(1 / 3), at(-1 / 3), at(-1), at(1)]);
    expect(looks[1]).toEqual({ ...at(1 / 3), hatch: true });
    expect(at(1).edge).not.toBe(at(-1).edge);
    expect(at(0.5).edge).toBe("");
  }
});
test("absolute: of the largest change, and what one side lacks is still marked", () => {
  const { slots, swatches } = byChange(d, "absolute");
  const looks = Array.from(slots, (s) => swatches(tokens)[s]);
  const at = (share: number) => swatchOf(share, "absolute", tokens);
  // b grew by 10, as much as e is new; c lost 5.
  expect(looks.slice(2, 5)).toEqual([at(0), at(1), at(-0.5)]);
  expect(looks[6]).toEqual({ ...at(1), edge: swatchOf(1, "relative", tokens).edge });
});
test("the legend says numbers, and nothing where nothing changed", () => {
  const names = (mode: "relative" | "absolute", of = d): string[] => legendOf(of, mode, (v) => `${v}`, tokens).map((l) => l.name);
  expect(names("relative")).toEqual(["gone", "half", "−9 %", "the same", "+10 %", "twice", "new"]);
  expect(names("absolute")).toEqual(["-10", "-2.5", "-0.625", "the same", "0.625", "2.5", "10", "gone", "new"]);
  const t = decodeTree(foldedTree("a 10"));
  expect(names("absolute", diffTrees(t, t))).toEqual(["the same"]);
});
test("nothing changed: all is grey, and slots are within what a graph can draw", () => {
  const t = decodeTree(foldedTree("a 10\nb;c 10"));
  for (const mode of ["relative", "absolute"] as const) {
    const { slots, swatches } = byChange(diffTrees(t, t), mode);
    expect(new Set(slots)).toEqual(new Set([16]));
    expect(swatches(tokens).length).toBeLessThanOrEqual(250);
  }
});

// Relative luminance of a colour, after WCAG.
function luminance(css: string): number {
  const [r, g, b] = [1, 3, 5].map((i) => {
    const v = Number.parseInt(rgb(css).slice(i, i + 2), 16) / 255;
    return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  }) as [number, number, number];
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

test("text is legible on every step, light and dark", () => {
  // --flame-text of theme.css.
  for (const [k, colour] of [[tokens, "#1a1f27"], [dark, "#f1f4f8"]] as const) {
    const text = luminance(colour);
    for (let s = -1; s <= 1; s += 1 / 16) {
      const fill = luminance(swatchOf(s, "relative", k).fill);
      expect((Math.max(fill, text) + 0.05) / (Math.min(fill, text) + 0.05)).toBeGreaterThan(4.5);
    }
  }
});
