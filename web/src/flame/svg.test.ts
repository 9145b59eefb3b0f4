import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { foldedTree } from "../../e2e/fixture/folded";
import { decodeTree, findPath } from "../lib/tree";
import { diffTrees } from "../lib/difftree";
import { byChange, legendOf } from "./change";
import { flameSvg, light, lightTokens, rgb } from "./svg";

const usual = { title: "CPU time", orientation: "icicle", colourBy: "package" } as const;
const tree = (text: string) => decodeTree(foldedTree(text));

// boxes reads the drawing back: by tooltip's first line, where each box lies.
function boxes(svg: string): Record<string, { x: number; y: number; w: number; fill: string }> {
  const out: Record<string, { x: number; y: number; w: number; fill: string }> = {};
  for (const m of svg.matchAll(/<g><title>([^\n<]*)[^<]*<\/title><rect x="([\d.]+)" y="(\d+)" width="([\d.]+)" height="18" fill="(#[0-9a-f]{6})"\/>/g)) {
    out[m[1] as string] = { x: Number(m[2]), y: Number(m[3]), w: Number(m[4]), fill: m[5] as string };
  }
  return out;
}

test("a box is as wide as its share, and lies below its caller", () => {
  const b = boxes(flameSvg(tree("main;b 75\nmain;c 25"), usual));
  expect(b["total"]).toMatchObject({ x: 10, w: 1180, y: 46 });
  expect(b["b"]).toMatchObject({ x: 10, w: 885, y: 82 });
  expect(b["c"]).toMatchObject({ x: 895, w: 295, y: 82 });
  const up = boxes(flameSvg(tree("main;b 75\nmain;c 25"), { ...usual, orientation: "flame" }));
  expect([up["total"]?.y, up["b"]?.y]).toEqual([82, 46]);
});
test("a zoomed node is as wide as the drawing, and nothing beside it is drawn", () => {
  const t = tree("a 50\nmain;b 40\nmain;c 10");
  const b = boxes(flameSvg(t, { ...usual, node: findPath(t, ["main"]).node }));
  expect(Object.keys(b)).toEqual(["main", "b", "c"]);
  expect(b["main"]).toMatchObject({ x: 10, w: 1180, y: 46 });
  expect(b["c"]).toMatchObject({ x: 954, w: 236 });
});
test("names are text, whatever is in them", () => {
  const svg = flameSvg(tree('operator<<("a&b")\u0001\ud800 1'), { ...usual, title: "<x>" });
  expect(svg).toContain("operator&lt;&lt;(&quot;a&amp;b&quot;)\ufffd\ufffd");
  expect(svg).toContain("<title>&lt;x&gt;</title>");
  expect(svg.replace(/<\/?(?:svg|g|title|style|rect|text)\b[^<>]*>/g, "").replace(/g:hover > rect/, "")).not.toMatch(/[<>]/);
});
test("it loads nothing and runs nothing", () => {
  expect(flameSvg(tree("main 1"), usual).replace('xmlns="http://www.w3.org/2000/svg"', "")).not.toMatch(/https?:|url\(|<script|href|on\w+=/);
});
test("what is too narrow is counted", () => {
  const svg = flameSvg(tree("a 1000000\nb;c;d 1"), usual);
  expect(svg).toContain("3 nodes too narrow to be drawn");
  expect(Object.keys(boxes(svg))).toEqual(["total", "a"]);
});
test("no samples give a drawing without boxes", () => {
  const svg = flameSvg({ ...tree(""), count: 0 }, usual);
  expect(svg).toMatch(/^<svg [^]*<\/svg>\n$/);
});
test("a difference has its colours, its legend and its own words", () => {
  const d = diffTrees(tree("a 10\nb 10"), tree("a 10\nc 30"));
  const svg = flameSvg(d, { ...usual, colourBy: byChange(d, "relative"), legend: legendOf(d, "relative", String, lightTokens), values: (i) => `${d.before.total[i]} → ${d.after.total[i]}` });
  const b = boxes(svg);
  const [gone, , , same, , , come] = legendOf(d, "relative", String, lightTokens);
  expect([b["a"]?.fill, b["b"]?.fill, b["c"]?.fill]).toEqual([same, gone, come].map((l) => rgb(l?.swatch.fill ?? "")));
  expect(svg).toContain("<title>c\n0 → 30</title>");
  expect(svg.match(new RegExp(rgb(come?.swatch.edge ?? ""), "g"))?.length).toBe(2);
  expect(b["total"]?.y).toBe(68);
});
test("colours are the light theme's", () => {
  const theme = readFileSync(new URL("../theme.css", import.meta.url), "utf8").split(':root[data-theme="dark"]')[0] as string;
  const told = Object.keys(light).map((name) => [name, new RegExp(`--flame-${name}: ([^;]+);`).exec(theme)?.[1]]);
  expect(Object.fromEntries(told)).toEqual(Object.fromEntries(Object.entries(light).map(([name, value]) => [name, String(value)])));
});
test("oklch in sRGB", () => {
  // White, black, and sRGB's red, whose coordinates are widely published.
  expect(rgb("oklch(1 0 0)")).toBe("#ffffff");
  expect(rgb("oklch(0 0 0)")).toBe("#000000");
  expect(rgb("oklch(0.62796 0.25768 29.234)")).toBe("#ff0000");
  expect(rgb("#b9c6dd")).toBe("#b9c6dd");
});
