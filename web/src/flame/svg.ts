// The graph as one SVG text: no scripts, nothing to load, names and values as tooltips. Always in the light theme's
// colours, written so that programs older than oklch() show them.

import { baseName, shortName } from "../lib/names";
import { FrameKind, frameOf, type FlameTree } from "../lib/tree";
import { formatShare, formatValue } from "../lib/units";
import type { ColourBy, Orientation } from "../lib/urlstate";
import { fits } from "./layout";
import { byFrame, type Colouring, type Swatch, type Tokens } from "./palette";

export interface SvgOptions {
  readonly title: string;
  // A line below the title; by default the value that is drawn.
  readonly about?: string;
  // Where to begin: this node is as wide as the drawing.
  readonly node?: number;
  readonly orientation: Orientation;
  readonly colourBy: ColourBy | Colouring;
  // What colours are, and a node's values; by default those of one profile.
  readonly legend?: readonly { readonly swatch: Swatch; readonly name: string }[];
  readonly values?: (node: number) => string;
}

// theme.css's light theme, as far as a drawing needs it.
export const light = {
  lightness: 0.85,
  chroma: 0.06,
  text: "#1a1f27",
  kernel: "#b9c6dd",
  unwind: "#e3d3d6",
  cut: "#e4e7ec",
  root: "#dce0e7",
  gap: "#ffffff",
} as const;

const width = 1200;
const margin = 10;
const rowHeight = 18;
const head = 46;
const legendHeight = 22;
const legendStep = 110;
// A letter of the monospace font.
const charWidth = 6.7;
// Narrower boxes are left out.
const minPixels = 0.3;

const style = `
svg { font: 11px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; background: ${light.gap}; }
text { fill: ${light.text}; white-space: pre; pointer-events: none; }
.title { font: 600 13px system-ui, sans-serif; } .about { font: 12px system-ui, sans-serif; }
rect { stroke: ${light.gap}; stroke-width: .5; } g:hover > rect { stroke: ${light.text}; stroke-width: 1; }
`;

// A theme's whole tokens; a drawing has no search, no cursor and no hatching.
export const lightTokens: Tokens = { ...light, match: "", matchText: "", dim: "", dimText: "", dust: "", hatch: "", cursor: "" };

// flameSvg draws the subtree of one node.
export function flameSvg(t: FlameTree, o: SvgOptions): string {
  const from = o.node ?? 0;
  const total = t.total[from] ?? 0;
  const scale = total > 0 ? (width - 2 * margin) / total : 0;
  const base = t.depth[from] ?? 0;
  const boxes: number[] = [];
  let rows = 1;
  let narrow = 0;
  const end = t.end[from] ?? 0;
  for (let i = from; i < end; ) {
    if ((t.total[i] as number) * scale < minPixels) {
      narrow += (t.end[i] as number) - i;
      i = t.end[i] as number;
      continue;
    }
    boxes.push(i);
    rows = Math.max(rows, (t.depth[i] as number) - base + 1);
    i++;
  }
  const legend = o.legend ?? [];
  const top = head + (legend.length > 0 ? legendHeight : 0);
  const height = top + rows * rowHeight + margin;
  const about = `${o.about ?? formatValue(total, t.unit)}${narrow > 0 ? `, ${narrow} ${narrow === 1 ? "node" : "nodes"} too narrow to be drawn` : ""}`;
  const { slots, swatches } = typeof o.colourBy === "string" ? byFrame(t, o.colourBy) : o.colourBy;
  const looks = swatches(lightTokens);
  const values = o.values ?? ((i: number) => `total ${shareOf(t.total[i] as number, total, t.unit)}, self ${shareOf(t.self[i] as number, total, t.unit)}`);

  const out = [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img">`,
    `<title>${escapeXml(o.title)}</title>`,
    `<style>${style}</style>`,
    `<text class="title" x="${margin}" y="18">${escapeXml(fits(o.title, o.title, 150))}</text>`,
    `<text class="about" x="${margin}" y="36">${escapeXml(about)}</text>`,
  ];
  legend.forEach(({ swatch, name }, i) => {
    const x = margin + i * legendStep;
    out.push(`${box(x, head - 4, 14, 14, swatch)}<text class="about" x="${x + 19}" y="${head + 8}">${escapeXml(name)}</text>`);
  });
  for (const i of boxes) {
    const row = (t.depth[i] as number) - base;
    const x = margin + ((t.offset[i] as number) - (t.offset[from] as number)) * scale;
    const y = top + (o.orientation === "icicle" ? row : rows - 1 - row) * rowHeight;
    const w = (t.total[i] as number) * scale;
    const f = frameOf(t, i);
    const name = f.kind === FrameKind.ROOT ? "total" : f.name;
    const label = fits(name, shortName(name), Math.floor((w - 6) / charWidth));
    const look = looks[slots[i] as number] as Swatch;
    out.push(
      `<g><title>${escapeXml(tooltip(t, i, values(i)))}</title>${box(x, y, w, rowHeight, look)}${
        label === "" ? "" : `<text x="${(x + (look.edge === "" ? 3 : 6)).toFixed(2)}" y="${y + 13}">${escapeXml(label)}</text>`
      }</g>`,
    );
  }
  out.push("</svg>\n");
  return out.join("\n");
}

function box(x: number, y: number, w: number, h: number, look: Swatch): string {
  const rect = (width: number, fill: string): string => `<rect x="${x.toFixed(2)}" y="${y}" width="${width.toFixed(2)}" height="${h}" fill="${rgb(fill)}"/>`;
  return rect(w, look.fill) + (look.edge === "" || w < 6 ? "" : rect(3, look.edge));
}

function shareOf(v: number, whole: number, unit: string): string {
  return `${formatValue(v, unit)} (${formatShare(v, whole)})`;
}

function tooltip(t: FlameTree, i: number, values: string): string {
  const f = frameOf(t, i);
  const lines = [f.kind === FrameKind.ROOT ? "total" : f.name, values];
  if (f.file !== "") lines.push(f.startLine > 0 ? `${f.file}:${f.startLine}` : f.file);
  if (f.mapping !== "") lines.push(baseName(f.mapping));
  if (f.inlined) lines.push("inlined into its caller");
  return lines.join("\n");
}

// escapeXml escapes markup and replaces what XML 1.0 cannot hold at all.
function escapeXml(text: string): string {
  return text
    .replace(/[\0-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\p{Cs}]/gu, "\ufffd")
    .replace(/[&<>"]/g, (c) => (c === "&" ? "&amp;" : c === "<" ? "&lt;" : c === ">" ? "&gt;" : "&quot;"));
}

// rgb writes an oklch() colour as #rrggbb; other colours stay. The matrices are those of CSS Color 4, 10.2 and 10.3.
export function rgb(colour: string): string {
  const m = /^oklch\(([\d.]+) ([\d.]+) ([\d.]+)\)$/.exec(colour);
  if (m === null) return colour;
  const l = Number(m[1]);
  const hue = (Number(m[3]) * Math.PI) / 180;
  const a = Number(m[2]) * Math.cos(hue);
  const b = Number(m[2]) * Math.sin(hue);
  const x = (l + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const y = (l - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const z = (l - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [4.0767416621 * x - 3.3077115913 * y + 0.2309699292 * z, -1.2684380046 * x + 2.6097574011 * y - 0.3413193965 * z, -0.0041960863 * x - 0.7034186147 * y + 1.707614701 * z];
  const hex = linear.map((v) => {
    const s = v <= 0.0031308 ? 12.92 * v : 1.055 * v ** (1 / 2.4) - 0.055;
    return Math.round(Math.min(1, Math.max(0, s)) * 255).toString(16).padStart(2, "0");
  });
  return `#${hex.join("")}`;
}
