// Painting boxes on a canvas.

import { shortName } from "../lib/names";
import { FrameKind, type FlameTree } from "../lib/tree";
import { fits, type Boxes } from "./layout";
import { slot, slots, type Tokens } from "./palette";

export interface Paint {
  readonly tree: FlameTree;
  readonly boxes: Boxes;
  readonly tokens: Tokens;
  // A colour per slot, a slot per frame.
  readonly colours: readonly string[];
  readonly slots: Uint8Array;
  // Per frame 1 if it matches the search; undefined without a search.
  readonly matches: Uint8Array | undefined;
  // The node that the graph is zoomed to: what is above it is drawn pale.
  readonly zoomed: number;
  readonly hovered: number;
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

export function draw(ctx: CanvasRenderingContext2D, p: Paint): void {
  const { tree, boxes, rowHeight, tokens } = p;
  ctx.clearRect(0, 0, p.width, p.height);

  // One pass per colour: setting fillStyle is what costs. Buckets hold box indices.
  const dimSlot = slots;
  const matchSlot = slots + 1;
  const dustSlot = slots + 2;
  const buckets: number[][] = Array.from({ length: slots + 3 }, () => []);
  for (let i = 0; i < boxes.count; i++) {
    const n = boxes.node[i] as number;
    if (n < 0) {
      (buckets[dustSlot] as number[]).push(i);
      continue;
    }
    const f = tree.frame[n] as number;
    let b = p.slots[f] as number;
    if (p.matches !== undefined && b !== slot.root) b = p.matches[f] === 1 ? matchSlot : dimSlot;
    (buckets[b] as number[]).push(i);
  }
  const styles = [...p.colours, tokens.dim, tokens.match, tokens.dust];
  const h = rowHeight - 1;
  buckets.forEach((bucket, b) => {
    if (bucket.length === 0) return;
    ctx.fillStyle = styles[b] as string;
    for (const i of bucket) {
      const w = boxes.w[i] as number;
      // A gap of a pixel between boxes that can afford it.
      ctx.fillRect(boxes.x[i] as number, p.rowTop(boxes.row[i] as number), w > 3 ? w - 1 : w, h);
    }
  });
  hatch(ctx, p, buckets[slot.cut] as number[], tokens.hatch);
  hatch(ctx, p, buckets[slot.unwind] as number[], tokens.hatch);

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
    const text = fits(name, short(name), Math.floor((w - 2 * pad) / p.charWidth));
    if (text === "") continue;
    const faded = p.matches !== undefined && frame.kind !== FrameKind.ROOT;
    ctx.fillStyle = faded ? (p.matches?.[fi] === 1 ? tokens.matchText : tokens.dimText) : tokens.text;
    ctx.fillText(text, (boxes.x[i] as number) + pad, p.rowTop(boxes.row[i] as number) + h / 2 + 0.5);
  }

  veil(ctx, p);
  for (const [node, colour, width] of [
    [p.hovered, tokens.text, 1],
    [p.cursor, tokens.cursor, 2],
  ] as const) {
    if (node >= 0) outline(ctx, p, node, colour, width);
  }
}

// hatch draws slanted lines over boxes that are not code.
function hatch(ctx: CanvasRenderingContext2D, p: Paint, bucket: readonly number[], colour: string): void {
  if (bucket.length === 0) return;
  ctx.save();
  ctx.beginPath();
  for (const i of bucket) ctx.rect(p.boxes.x[i] as number, p.rowTop(p.boxes.row[i] as number), p.boxes.w[i] as number, p.rowHeight - 1);
  ctx.clip();
  ctx.strokeStyle = colour;
  ctx.lineWidth = 1;
  ctx.beginPath();
  for (const i of bucket) {
    const x = p.boxes.x[i] as number;
    const y = p.rowTop(p.boxes.row[i] as number);
    const w = p.boxes.w[i] as number;
    const step = 6;
    for (let s = Math.floor((x - p.rowHeight) / step) * step; s < x + w; s += step) {
      ctx.moveTo(s, y + p.rowHeight);
      ctx.lineTo(s + p.rowHeight, y);
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
