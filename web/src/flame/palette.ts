// Colours of nodes: one hue per package or binary, the same on every page load; kernel, unwinding and cut frames have
// their own, so that they are never taken for code of the application.

import { baseName, packageOf } from "../lib/names";
import { FrameKind, type FlameTree, type Frame } from "../lib/tree";
import type { ColourBy } from "../lib/urlstate";

// What the theme decides; lightness and chroma in OKLCH.
export interface Tokens {
  readonly lightness: number;
  readonly chroma: number;
  readonly text: string;
  readonly kernel: string;
  readonly unwind: string;
  readonly cut: string;
  readonly root: string;
  readonly match: string;
  readonly matchText: string;
  readonly dim: string;
  readonly dimText: string;
  readonly dust: string;
  readonly gap: string;
  readonly hatch: string;
  readonly cursor: string;
}

// How a box looks.
export interface Swatch {
  readonly fill: string;
  // Slanted lines, for what is not code.
  readonly hatch: boolean;
  // The colour of a strong left edge; "" for none.
  readonly edge: string;
}

// A colouring says how each node looks: its slot is an index into the theme's swatches, of which there are at most 250.
export interface Colouring {
  readonly slots: Uint8Array;
  readonly swatches: (k: Tokens) => readonly Swatch[];
}

// Slots of the usual palette before the hues begin.
export const slot = { root: 0, kernel: 1, unwind: 2, cut: 3, firstHue: 4 } as const;

// Hues in degrees. The blues and violets from 225 to 310 are the kernel's; each hue comes in two shades.
const hues = [25, 45, 65, 85, 105, 128, 150, 172, 194, 214, 318, 338, 358];
const shades = 2;
export const slots = slot.firstHue + hues.length * shades;

// colours returns a CSS colour for each slot.
export function colours(k: Tokens): string[] {
  const out: string[] = [k.root, k.kernel, k.unwind, k.cut];
  for (const h of hues) {
    for (let s = 0; s < shades; s++) {
      out.push(`oklch(${(k.lightness - s * 0.04).toFixed(3)} ${(k.chroma + s * 0.008).toFixed(3)} ${h})`);
    }
  }
  return out;
}

// hash is FNV-1a: what matters is that it never changes.
export function hash(text: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) {
    h ^= text.charCodeAt(i);
    h = Math.imul(h, 0x01000193);
  }
  // Mix, so that names that differ in the last letter fall far apart.
  h ^= h >>> 15;
  h = Math.imul(h, 0x2c1b3c6d);
  h ^= h >>> 12;
  return h >>> 0;
}

export function slotOf(f: Frame, by: ColourBy): number {
  switch (f.kind) {
    case FrameKind.ROOT:
      return slot.root;
    case FrameKind.KERNEL:
      return slot.kernel;
    case FrameKind.UNWIND:
      return slot.unwind;
    case FrameKind.CUT:
      return slot.cut;
  }
  const key = by === "binary" ? baseName(f.mapping) : packageOf(f);
  return slot.firstHue + (hash(key) % (hues.length * shades));
}

// byFrame colours nodes by what their frames are.
export function byFrame(t: FlameTree, by: ColourBy): Colouring {
  const frames = Uint8Array.from(t.frames, (f) => slotOf(f, by));
  return { slots: Uint8Array.from(t.frame, (f) => frames[f] as number), swatches: frameSwatches };
}

function frameSwatches(k: Tokens): readonly Swatch[] {
  return colours(k).map((fill, i) => ({ fill, hatch: i === slot.unwind || i === slot.cut, edge: "" }));
}
