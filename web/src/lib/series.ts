// Sums over time, as layers of a stacked chart.

import type { Rate } from "./units";
import type { Span } from "./timerange";

export interface RawSeries {
  readonly labels: readonly { readonly name: string; readonly value: string }[];
  // Milliseconds since the epoch: the beginnings of the steps that are not empty, in order.
  readonly times: readonly number[];
  readonly values: readonly number[];
}

export interface Layer {
  // The value of the label that is grouped by; "" where it is absent or nothing is grouped.
  readonly key: string;
  // True for the sum of what exceeded the server's limit.
  readonly other: boolean;
  // Per step: the rate, or the value itself for a level.
  readonly values: Float64Array;
  readonly sum: number;
}

export interface Stacked {
  // The beginning of the first step and the width of each, in milliseconds.
  readonly start: number;
  readonly step: number;
  readonly steps: number;
  // Largest sum first, "other" last.
  readonly layers: readonly Layer[];
  // Of the sums per step.
  readonly max: number;
  readonly mean: number;
}

// A span has at most so many steps here, whatever the server says.
const maxSteps = 5000;

// An agent sends what it sampled every ten seconds: finer steps would show its rhythm instead of the load.
const reportMillis = 10_000;
const stepSeconds = [10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 43200, 86400];

// stepFor chooses the step to ask for: round, a multiple of the agents' rhythm, about 200 in the span.
export function stepFor(span: Span): number {
  const want = Math.max(reportMillis, (span.end - span.start) / 200);
  const step = stepSeconds.find((s) => s * 1000 >= want * 0.999);
  return step === undefined ? Math.ceil(want / 86_400_000) * 86_400_000 : step * 1000;
}

// rhythm is how many steps lie between the times at which anything at all was reported: more than one where profiles
// come less often than the steps, as scraped ones do.
function rhythm(series: readonly RawSeries[], step: number): number {
  const times = [...new Set(series.flatMap((s) => s.times))].sort((a, b) => a - b);
  if (times.length < 4) return 1;
  const gaps = times.slice(1).map((t, i) => t - (times[i] as number));
  gaps.sort((a, b) => a - b);
  return Math.max(1, Math.round((gaps[gaps.length >> 1] as number) / step));
}

// stack lays the series on the span's grid of steps. Steps at the span's borders are divided by the part of them that
// lies inside, so that a running minute does not look like a fall. Steps are merged where reports come less often.
export function stack(series: readonly RawSeries[], span: Span, stepMillis: number, rate: Rate): Stacked {
  const first = firstTime(series);
  const asked = stepMillis > 0 ? Math.max(stepMillis, (span.end - span.start) / maxSteps) : span.end - span.start;
  const step = asked * rhythm(series, asked);
  // The server's steps have an origin of their own: count from one of its beginnings back to the span's start.
  const start = first === undefined ? span.start : first - Math.ceil((first - span.start) / step - 1e-9) * step;
  const steps = Math.max(1, Math.ceil((span.end - start) / step - 1e-9));
  const seconds = Float64Array.from({ length: steps }, (_, i) => {
    const from = Math.max(span.start, start + i * step);
    const to = Math.min(span.end, start + (i + 1) * step);
    return Math.max(to - from, step / 10) / 1000;
  });
  const sums = new Float64Array(steps);
  const layers = series.map((s): Layer => {
    const values = new Float64Array(steps);
    s.times.forEach((t, k) => {
      const i = Math.floor((t - start) / step + 1e-6);
      if (i >= 0 && i < steps) values[i] = (values[i] as number) + (s.values[k] ?? 0);
    });
    let sum = 0;
    for (let i = 0; i < steps; i++) {
      sum += values[i] as number;
      if (rate !== "level") values[i] = (values[i] as number) / (seconds[i] as number);
      sums[i] = (sums[i] as number) + (values[i] as number);
    }
    const other = s.labels.some((l) => l.name === "other" && l.value === "true");
    return { key: other ? "" : (s.labels[0]?.value ?? ""), other, values, sum };
  });
  layers.sort((a, b) => Number(a.other) - Number(b.other) || b.sum - a.sum || (a.key < b.key ? -1 : 1));
  let max = 0;
  for (const s of sums) max = Math.max(max, s);
  const all = layers.reduce((n, l) => n + l.sum, 0);
  const mean = rate === "level" ? all / steps : all / ((span.end - span.start) / 1000);
  return { start, step, steps, layers, max, mean };
}

function firstTime(series: readonly RawSeries[]): number | undefined {
  let first: number | undefined;
  for (const s of series) {
    const t = s.times[0];
    if (t !== undefined && (first === undefined || t < first)) first = t;
  }
  return first;
}

// outline returns the polygon of one layer above what lies below, as an SVG path in steps and values: x runs from 0 to
// steps, y from 0 upwards; scaleX and scaleY make pixels of them, y downwards from height.
export function outline(s: Stacked, layer: number, x: (step: number) => number, y: (value: number) => number): string {
  const below = new Float64Array(s.steps);
  for (let l = 0; l < layer; l++) {
    const v = (s.layers[l] as Layer).values;
    for (let i = 0; i < s.steps; i++) below[i] = (below[i] as number) + (v[i] as number);
  }
  const own = (s.layers[layer] as Layer).values;
  let d = "";
  for (let i = 0; i < s.steps; i++) {
    const top = round(y((below[i] as number) + (own[i] as number)));
    d += `${i === 0 ? "M" : "L"}${round(x(i))} ${top}L${round(x(i + 1))} ${top}`;
  }
  for (let i = s.steps - 1; i >= 0; i--) {
    const bottom = round(y(below[i] as number));
    d += `L${round(x(i + 1))} ${bottom}L${round(x(i))} ${bottom}`;
  }
  return `${d}Z`;
}

function round(n: number): number {
  return Math.round(n * 100) / 100;
}
