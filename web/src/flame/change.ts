// Colours of a difference: orange for more, blue for less, grey for the same, which are told apart with every kind of
// colour blindness. What only one side has carries a strong left edge.

import { change, growth, largestChange, type DiffTree } from "../lib/difftree";
import { FrameKind } from "../lib/tree";
import type { Colouring, Swatch, Tokens } from "./palette";

// relative: how much of what there is changed. absolute: how much a change is of the largest one.
export type ChangeMode = "relative" | "absolute";

// Steps of the scale on each side of none.
const steps = 16;
const bins = 2 * steps + 1;
const marks = ["", "new", "gone"] as const;

// byChange colours each node by how much its total changed.
export function byChange(t: DiffTree, mode: ChangeMode): Colouring {
  const most = mode === "absolute" ? largestChange(t) : 0;
  const slots = new Uint8Array(t.count);
  for (let i = 0; i < t.count; i++) {
    const before = t.before.total[i] as number;
    const after = t.after.total[i] as number;
    const grown = growth(t, before, after);
    const share = mode === "relative" ? grown : most === 0 ? 0 : change(t, before, after) / most;
    const mark = grown === 1 ? 1 : grown === -1 ? 2 : 0;
    const kind = t.frames[t.frame[i] as number]?.kind;
    const hatched = kind === FrameKind.CUT || kind === FrameKind.UNWIND;
    slots[i] = bin(share) + bins * (mark + marks.length * Number(hatched));
  }
  return { slots, swatches: changeSwatches };
}

// Small changes are seen, as most are.
function bin(share: number): number {
  return steps + Math.sign(share) * Math.round(steps * Math.sqrt(Math.min(1, Math.abs(share))));
}

function changeSwatches(k: Tokens): readonly Swatch[] {
  const out: Swatch[] = [];
  for (const hatch of [false, true]) {
    for (const mark of marks) {
      for (let b = 0; b < bins; b++) out.push({ fill: fill((b - steps) / steps, k), hatch, edge: edge(mark, k) });
    }
  }
  return out;
}

// swatchOf is how a change looks: share is from gone (-1, or the largest loss) to new (1, or the largest gain).
export function swatchOf(share: number, mode: ChangeMode, k: Tokens): Swatch {
  const mark = mode === "absolute" || Math.abs(share) < 1 ? "" : share > 0 ? "new" : "gone";
  return { fill: fill((bin(share) - steps) / steps, k), hatch: false, edge: edge(mark, k) };
}

const more = 60;
const less = 245;

// part is from -1 to 1, already eased. Text stays legible on all of them.
function fill(part: number, k: Tokens): string {
  const much = Math.abs(part);
  // From paper to colour: darker on light, lighter on dark.
  const [none, all] = k.lightness > 0.6 ? [0.93, 0.75] : [0.35, 0.53];
  const chroma = part > 0 ? 0.14 : 0.115;
  return `oklch(${(none + (all - none) * much).toFixed(3)} ${(0.004 + chroma * much).toFixed(3)} ${part > 0 ? more : less})`;
}

function edge(mark: (typeof marks)[number], k: Tokens): string {
  if (mark === "") return "";
  const light = k.lightness > 0.6;
  return mark === "new" ? `oklch(${light ? 0.5 : 0.82} 0.15 ${more - 10})` : `oklch(${light ? 0.42 : 0.8} 0.12 ${less})`;
}

// The points of the scale that a legend names: in relative terms those of profilectl, in absolute ones parts of the
// largest change.
const named: readonly (readonly [number, string])[] = [
  [-1, "gone"],
  [-1 / 3, "half"],
  [-1 / 21, "−9 %"],
  [0, "the same"],
  [1 / 21, "+10 %"],
  [1 / 3, "twice"],
  [1, "new"],
];
const parts = [-1, -1 / 4, -1 / 16, 0, 1 / 16, 1 / 4, 1];

// legendOf says what the colours of a difference are; write writes a change.
export function legendOf(t: DiffTree, mode: ChangeMode, write: (change: number) => string, k: Tokens): { swatch: Swatch; name: string }[] {
  if (mode === "relative") return named.map(([share, name]) => ({ swatch: swatchOf(share, mode, k), name }));
  const most = largestChange(t);
  if (most === 0) return [{ swatch: swatchOf(0, mode, k), name: "the same" }];
  const only = (["gone", "new"] as const).map((mark) => ({ swatch: { fill: fill(0, k), hatch: false, edge: edge(mark, k) }, name: mark }));
  return [...parts.map((p) => ({ swatch: swatchOf(p, mode, k), name: p === 0 ? "the same" : write(p * most) })), ...only];
}
