// Painting boxes on a canvas.

import { shortName } from "../lib/names";
import { FrameKind, type FlameTree } from "../lib/tree";
import { fits, type Boxes } from "./layout";
import type { Swatch, Tokens } from "./palette";

export interface Paint {
  readonly tree: FlameTree;
  readonly boxes: Boxes;
  readonly tokens: Tokens;
  readonly swatches: readonly Swatch[];
  // Per node, an index into swatches.
  readonly slots: Uint8Array;
  // Per frame 1 if it matches the search; undefined without a search.
  readonly matches: Uint8Array | undefined;
  // The node that the graph is zoomed to: what is above it is drawn pale.
  readonly zoomed: number;
  readonly hovered: number;
  // The node that is pointed at in another graph of the same tree, -1 for none.
  readonly pointed: number;
  // The keyboard's node, -1 if the graph has no focus.
  readonly cursor: number;
  readonly rowHeight: number;
  // The top of a row in CSS pixels.
  readonly rowTop: (row: number) => number;
  readonly width: number;
  readonly height: number;
  readonly font: string;
  readonly charWidth: number;
}

const pad = 4;
const edgeWidth = 3;

// Labels per frame name; names repeat across nodes and repaints.
const shortNames = new Map<string, string>();

function short(name: string): string {
  let s = shortNames.get(name);
  if (s === undefined) {
    if (shortNames.size > 50_000) shortNames.clear();
    s = shortName(name);
    shortNames.set(name, s);
  }
  return s;
}

// Boxes by what they are filled with, so that fillStyle, which is what costs, is set once per bucket: the boxes of
// bucket b are order[first[b]] to order[first[b + 1] - 1]. Reused from frame to frame.
const first = new Int32Array(256);
const fill = new Int32Array(256);
let order = new Int32Array(1024);
let bucketOf = new Uint8Array(1024);

// sort returns how many buckets there are: one per swatch, then dimmed boxes, matches and dust.
function sort(p: Paint): number {
  const { boxes, tree, matches } = p;
  const dim = p.swatches.length;
  if (order.length < boxes.count) {
    order = new Int32Array(boxes.node.length);
    bucketOf = new Uint8Array(boxes.node.length);
  }
  first.fill(0);
  for (let i = 0; i < boxes.count; i++) {
    const n = boxes.node[i] as number;
    let b = dim + 2;
    // The root is no function and never found.
    if (n >= 0) b = matches === undefined || n === 0 ? (p.slots[n] as number) : dim + (matches[tree.frame[n] as number] as number);
    bucketOf[i] = b;
    first[b + 1] = (first[b + 1] as number) + 1;
  }
  for (let b = 0; b < dim + 3; b++) first[b + 1] = (first[b + 1] as number) + (first[b] as number);
  fill.set(first);
  for (let i = 0; i < boxes.count; i++) {
    const b = bucketOf[i] as number;
    order[fill[b] as number] = i;
    fill[b] = (fill[b] as number) + 1;
  }
  return dim + 3;
}

export function draw(ctx: CanvasRenderingContext2D, p: Paint): void {
  const { tree, boxes, rowHeight, tokens, swatches } = p;
  ctx.clearRect(0, 0, p.width, p.height);
  const buckets = sort(p);
  const h = rowHeight - 1;
  for (let b = 0; b < buckets; b++) {
    const from = first[b] as number;
    const to = first[b + 1] as number;
    if (from === to) continue;
    const swatch = swatches[b];
    ctx.fillStyle = swatch?.fill ?? (b === swatches.length ? tokens.dim : b === swatches.length + 1 ? tokens.match : tokens.dust);
    for (let k = from; k < to; k++) {
      const i = order[k] as number;
      const w = boxes.w[i] as number;
      // A gap of a pixel between boxes that can afford it.
      ctx.fillRect(boxes.x[i] as number, p.rowTop(boxes.row[i] as number), w > 3 ? w - 1 : w, h);
    }
    if (swatch?.hatch === true) hatch(ctx, p, from, to);
    if (swatch !== undefined && swatch.edge !== "") {
      ctx.fillStyle = swatch.edge;
      for (let k = from; k < to; k++) {
        const i = order[k] as number;
        if ((boxes.w[i] as number) > 2 * edgeWidth) ctx.fillRect(boxes.x[i] as number, p.rowTop(boxes.row[i] as number), edgeWidth, h);
      }
    }
  }

  ctx.font = p.font;
  ctx.textBaseline = "middle";
  for (let i = 0; i < boxes.count; i++) {
    const n = boxes.node[i] as number;
    const w = boxes.w[i] as number;
    if (n < 0 || w < 3 * p.charWidth + 2 * pad) continue;
    const fi = tree.frame[n] as number;
    const frame = tree.frames[fi];
    if (frame === undefined) continue;
    const name = frame.kind === FrameKind.ROOT ? "total" : frame.name;
    const found = p.matches !== undefined && n > 0 ? p.matches[fi] : undefined;
    const left = pad + (found === undefined && swatches[p.slots[n] as number]?.edge !== "" ? edgeWidth : 0);
    const text = fits(name, short(name), Math.floor((w - left - pad) / p.charWidth));
    if (text === "") continue;
    ctx.fillStyle = found === undefined ? tokens.text : found === 1 ? tokens.matchText : tokens.dimText;
    ctx.fillText(text, (boxes.x[i] as number) + left, p.rowTop(boxes.row[i] as number) + h / 2 + 0.5);
  }

  veil(ctx, p);
  outline(ctx, p, p.pointed, tokens.cursor, 1);
  outline(ctx, p, p.hovered, tokens.text, 1);
  outline(ctx, p, p.cursor, tokens.cursor, 2);
}

// hatch draws slanted lines over the boxes of a bucket.
function hatch(ctx: CanvasRenderingContext2D, p: Paint, from: number, to: number): void {
  const { boxes, rowHeight } = p;
  ctx.save();
  ctx.beginPath();
  for (let k = from; k < to; k++) {
    const i = order[k] as number;
    ctx.rect(boxes.x[i] as number, p.rowTop(boxes.row[i] as number), boxes.w[i] as number, rowHeight - 1);
  }
  ctx.clip();
  ctx.strokeStyle = p.tokens.hatch;
  ctx.lineWidth = 1;
  ctx.beginPath();
  for (let k = from; k < to; k++) {
    const i = order[k] as number;
    const x = boxes.x[i] as number;
    const y = p.rowTop(boxes.row[i] as number);
    const w = boxes.w[i] as number;
    const step = 6;
    for (let s = Math.floor((x - rowHeight) / step) * step; s < x + w; s += step) {
      ctx.moveTo(s, y + rowHeight);
      ctx.lineTo(s + rowHeight, y);
    }
  }
  ctx.stroke();
  ctx.restore();
}

// veil pales the ancestors of the zoomed node: they are context, and a click on them zooms out.
function veil(ctx: CanvasRenderingContext2D, p: Paint): void {
  if (p.zoomed <= 0) return;
  const depth = p.tree.depth[p.zoomed] as number;
  ctx.save();
  ctx.globalAlpha = p.matches === undefined ? 0.5 : 0.3;
  ctx.fillStyle = p.tokens.gap;
  for (let row = 0; row < depth; row++) {
    const y = p.rowTop(row);
    if (y > -p.rowHeight && y < p.height) ctx.fillRect(0, y, p.width, p.rowHeight - 1);
  }
  ctx.restore();
}

function outline(ctx: CanvasRenderingContext2D, p: Paint, node: number, colour: string, width: number): void {
  if (node < 0) return;
  for (let i = 0; i < p.boxes.count; i++) {
    if (p.boxes.node[i] !== node) continue;
    ctx.strokeStyle = colour;
    ctx.lineWidth = width;
    const inset = width / 2;
    ctx.strokeRect(
      (p.boxes.x[i] as number) + inset,
      p.rowTop(p.boxes.row[i] as number) + inset,
      Math.max(1, (p.boxes.w[i] as number) - 2 * inset - 1),
      p.rowHeight - 1 - 2 * inset,
    );
    return;
  }
}
