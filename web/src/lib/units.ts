// Values as people read them. Units are the profile types' own: "nanoseconds", "bytes", "count" and whatever else a
// client sends, which is then shown as it is.

interface Step {
  readonly at: number;
  readonly unit: string;
}

const durations: readonly Step[] = [
  { at: 86400e9, unit: "d" },
  { at: 3600e9, unit: "h" },
  { at: 60e9, unit: "min" },
  { at: 1e9, unit: "s" },
  { at: 1e6, unit: "ms" },
  { at: 1e3, unit: "µs" },
  { at: 1, unit: "ns" },
];
const sizes: readonly Step[] = [
  { at: 1024 ** 5, unit: "PiB" },
  { at: 1024 ** 4, unit: "TiB" },
  { at: 1024 ** 3, unit: "GiB" },
  { at: 1024 ** 2, unit: "MiB" },
  { at: 1024, unit: "KiB" },
  { at: 1, unit: "B" },
];
const counts: readonly Step[] = [
  { at: 1e12, unit: "T" },
  { at: 1e9, unit: "G" },
  { at: 1e6, unit: "M" },
  { at: 1e3, unit: "k" },
  { at: 1, unit: "" },
];

const nanosPer: Readonly<Record<string, number>> = {
  nanoseconds: 1,
  microseconds: 1e3,
  milliseconds: 1e6,
  seconds: 1e9,
};

function stepsOf(unit: string): { steps: readonly Step[]; scale: number; suffix: string } {
  const nanos = nanosPer[unit];
  if (nanos !== undefined) return { steps: durations, scale: nanos, suffix: "" };
  if (unit === "bytes") return { steps: sizes, scale: 1, suffix: "" };
  if (unit === "count" || unit === "" || unit === "objects") return { steps: counts, scale: 1, suffix: "" };
  return { steps: counts, scale: 1, suffix: unit };
}

// digits keeps three significant digits without an exponent, so that numbers below each other compare: 1.20, 12.0, 120,
// 1234. Whole numbers stay whole; below one there are at least two decimals.
function digits(v: number): string {
  const a = Math.abs(v);
  if (a >= 99.95 || Number.isInteger(v)) return v.toFixed(0);
  if (a >= 9.995) return v.toFixed(1);
  if (a >= 0.0995) return v.toFixed(2);
  return String(Number(v.toPrecision(2)));
}

function pick(steps: readonly Step[], v: number): Step {
  const a = Math.abs(v);
  // 0.9995 so that 999.7 ms is written 1 s, never 1000 ms.
  for (const s of steps) if (a >= s.at * 0.9995) return s;
  return steps[steps.length - 1] as Step;
}

// formatValue writes v of the unit with three significant digits: "1.24 s", "38.2 MiB", "12.3 k".
export function formatValue(v: number, unit: string): string {
  const { steps, scale, suffix } = stepsOf(unit);
  const step = pick(steps, v * scale);
  const number = digits((v * scale) / step.at);
  const name = [step.unit, suffix].filter((s) => s !== "").join(" ");
  return name === "" ? number : `${number} ${name}`;
}

// How a profile type's values over time are drawn: CPU time per second is cores, other sums are per second, and what
// is a level (memory in use) is drawn as it is.
export type Rate = "cores" | "per-second" | "level";

// formatRate writes a value that is already divided by seconds (or not, for a level).
export function formatRate(v: number, unit: string, rate: Rate): string {
  if (rate === "cores") return `${digits((v * (nanosPer[unit] ?? 1)) / 1e9)} cores`;
  if (rate === "level") return formatValue(v, unit);
  return `${formatValue(v, unit)}/s`;
}

// formatShare writes part of whole as a percentage: "12.3 %", "0.04 %", "<0.01 %".
export function formatShare(part: number, whole: number): string {
  if (!(whole > 0)) return "–";
  const p = (part / whole) * 100;
  if (p === 0) return "0 %";
  if (p < 0.01) return "<0.01 %";
  if (p >= 99.95) return "100 %";
  return `${p >= 9.995 ? p.toFixed(1) : p.toFixed(2)} %`;
}

// formatCount groups thousands with thin spaces: "12 345".
export function formatCount(n: number): string {
  return Math.round(n).toString().replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

// ticks returns round values from 0 to at least max, about want of them, round in the unit's own base.
export function ticks(max: number, unit: string, rate: Rate, want = 4): number[] {
  if (!(max > 0)) return [0];
  // The unit in which round numbers look round.
  const { steps, scale } = stepsOf(unit);
  const base = rate === "cores" ? 1e9 / (nanosPer[unit] ?? 1) : pick(steps, max * scale).at / scale;
  const raw = max / base / want;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999) ?? 10 * power;
  const out: number[] = [];
  for (let i = 0; i <= 20; i++) {
    out.push(i * step * base);
    if (i * step * base >= max) break;
  }
  return out;
}
