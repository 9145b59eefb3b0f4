import { expect, test } from "vitest";
import { foldedTree } from "../../e2e/fixture/folded";
import { diffTrees } from "../lib/difftree";
import { decodeTree } from "../lib/tree";
import { byChange, swatchOf } from "./change";
import type { Tokens } from "./palette";

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
test("nothing changed: all is grey, and slots are within what a graph can draw", () => {
  const t = decodeTree(foldedTree("a 10\nb;c 10"));
  for (const mode of ["relative", "absolute"] as const) {
    const { slots, swatches } = byChange(diffTrees(t, t), mode);
    expect(new Set(slots)).toEqual(new Set([16]));
    expect(swatches(tokens).length).toBeLessThanOrEqual(250);
  }
});

// Relative luminance of an OKLCH colour, after Ottosson's conversion and WCAG's weights.
function luminance(css: string): number {
  const [l, c, h] = (/oklch\(([\d.]+) ([\d.]+) (\d+)\)/.exec(css) as RegExpExecArray).slice(1).map(Number) as [number, number, number];
  const a = c * Math.cos((h * Math.PI) / 180);
  const b = c * Math.sin((h * Math.PI) / 180);
  const [x, y, z] = [l + 0.3963377774 * a + 0.2158037573 * b, l - 0.1055613458 * a - 0.0638541728 * b, l - 0.0894841775 * a - 1.291485548 * b].map((v) => v ** 3) as [number, number, number];
  const rgb = [4.0767416621 * x - 3.3077115913 * y + 0.2309699292 * z, -1.2684380046 * x + 2.6097574011 * y - 0.3413193965 * z, -0.0041960863 * x - 0.7034186147 * y + 1.707614701 * z];
  const [r, g, bl] = rgb.map((v) => Math.min(1, Math.max(0, v))) as [number, number, number];
  return 0.2126 * r + 0.7152 * g + 0.0722 * bl;
}

test("text is legible on every step, light and dark", () => {
  // --flame-text of theme.css, as luminances.
  for (const [k, text] of [[tokens, 0.0135], [dark, 0.901]] as const) {
    for (let s = -1; s <= 1; s += 1 / 16) {
      const fill = luminance(swatchOf(s, "relative", k).fill);
      expect((Math.max(fill, text) + 0.05) / (Math.min(fill, text) + 0.05)).toBeGreaterThan(4.5);
    }
  }
});
