// What makes two sides comparable, and changes in words: the same as of profilectl diff.

import type { DiffSide, SideName } from "./difftree";
import type { Span } from "./timerange";
import { formatCount, formatShare, formatValue } from "./units";

// Values as they are, per second of each side's profiles, or as shares of each side's total.
export type Scale = "none" | "time" | "total";

// chooseScale decides what is compared, unless it was chosen, and says why. Levels (bytes in use) are means over time,
// of which there is none per second.
export function chooseScale(chosen: Scale | "auto", level: boolean, before: Span, after: Span): { scale: Scale; why: string } {
  const length = (s: Span): string => formatValue((s.end - s.start) * 1e6, "nanoseconds");
  const [b, a] = [before.end - before.start, after.end - after.start];
  const equal = Math.abs(b - a) <= 0.01 * Math.max(b, a);
  if (chosen === "total") return { scale: "total", why: "as shares of each side’s total" };
  if (level) return { scale: "none", why: "as they are, means over each range" };
  if (chosen === "none") return { scale: "none", why: equal ? "as they are" : `as they are, although before is ${length(before)} long, after ${length(after)}` };
  if (chosen === "auto" && equal) return { scale: "none", why: `as they are, both sides are ${length(after)} long` };
  return { scale: "time", why: equal ? "per second" : `per second, before is ${length(before)} long, after ${length(after)}` };
}

// Writer writes values of a comparison as they compare: scaled.
export interface Writer {
  value(side: SideName, v: number): string;
  // A change is already scaled.
  change(v: number): string;
}

export function writerOf(sides: { readonly before: DiffSide; readonly after: DiffSide }, scale: Scale, unit: string): Writer {
  const plain = (v: number): string => {
    if (scale === "total") return formatShare(v, 1);
    return scale === "time" ? `${formatValue(v, unit)}/s` : formatValue(v, unit);
  };
  return {
    value: (side, v) => plain(v * sides[side].scale),
    change: (v) => {
      // A change of shares is in percentage points.
      const text = scale === "total" ? plain(Math.abs(v)).replace(/%$/, "pp") : plain(Math.abs(v));
      return `${v > 0 ? "+" : v < 0 ? "−" : ""}${text}`;
    },
  };
}

// formatGrowth says how much of what was before a change is; growth is as difftree's.
export function formatGrowth(growth: number): string {
  if (growth >= 1) return "new";
  if (growth <= -1) return "gone";
  if (growth === 0) return "0 %";
  // growth = (a − b) / (a + b), hence (a − b) / b:
  const ratio = (2 * growth) / (1 - growth);
  const p = Math.abs(ratio) * 100;
  const text = p < 0.01 ? "<0.01" : p < 9.995 ? p.toFixed(2) : p < 99.95 ? p.toFixed(1) : formatCount(p);
  return `${ratio > 0 ? "+" : "−"}${text} %`;
}
