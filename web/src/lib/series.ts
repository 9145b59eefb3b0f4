// Amounts and levels over time, as layers of a stacked chart.

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
  // Of the values over the span.
  readonly mean: number;
}

export interface Stacked {
  // The beginning of the first step and the width of each, in milliseconds.
  readonly start: number;
  readonly step: number;
  readonly steps: number;
  // Largest mean first, "other" last.
  readonly layers: readonly Layer[];
  // Of the sums per step.
  readonly max: number;
  readonly mean: number;
}

// A span has at most so many steps here, whatever the server says.
const maxSteps = 5000;

const stepSeconds = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 43200, 86400];

// stepFor chooses the step to ask for: round, at most 200 in the span.
export function stepFor(span: Span): number {
  const want = (span.end - span.start) / 200;
  const step = stepSeconds.find((s) => s * 1000 >= want * 0.999);
  return step === undefined ? Math.ceil(want / 86_400_000) * 86_400_000 : step * 1000;
}

// Profiles that began before what is asked for are not in the answer: so much earlier it is asked for.
const leadMillis = 60_000;

// around is the span to ask for, so that the steps at both ends of the one that is shown are whole.
export function around(span: Span): Span {
  return { start: span.start - leadMillis, end: span.end + stepFor(span) };
}

// rhythm is how many steps lie between the times at which anything at all was measured: more than one where profiles
// do not last until the next, as those of a moment.
function rhythm(series: readonly RawSeries[], step: number): number {
  const times = [...new Set(series.flatMap((s) => s.times))].sort((a, b) => a - b);
  if (times.length < 4) return 1;
  const gaps = times.slice(1).map((t, i) => t - (times[i] as number));
  gaps.sort((a, b) => a - b);
  return Math.max(1, Math.round((gaps[gaps.length >> 1] as number) / step));
}

// stack lays series of what is around the span on its grid of steps. A step that still ran when the server was asked,
// at the time asked, is divided by the part of it that has passed, so that it does not look like a fall. Steps are
// merged where profiles are further apart.
export function stack(series: readonly RawSeries[], span: Span, stepMillis: number, rate: Rate, asked: number): Stacked {
  const first = firstTime(series);
  const least = stepMillis > 0 ? Math.max(stepMillis, (span.end - span.start) / maxSteps) : span.end - span.start;
  const step = least * rhythm(series, least);
  // The server's steps have an origin of their own: count from one of its beginnings back to the span's start.
  const start = first === undefined ? span.start : first - Math.ceil((first - span.start) / step - 1e-9) * step;
  const steps = Math.max(1, Math.ceil((span.end - start) / step - 1e-9));
  const seconds = Float64Array.from({ length: steps }, (_, i) => {
    const from = start + i * step;
    return Math.max(Math.min(asked, from + step) - from, step / 10) / 1000;
  });
  // The share of the span that each step has.
  const shares = Float64Array.from({ length: steps }, (_, i) => {
    const from = start + i * step;
    return (Math.min(span.end, from + step) - Math.max(span.start, from)) / (span.end - span.start);
  });
  const sums = new Float64Array(steps);
  const layers = series.map((s): Layer => {
    const values = new Float64Array(steps);
    const met = new Float64Array(steps);
    s.times.forEach((t, k) => {
      const i = Math.floor((t - start) / step + 1e-6);
      if (i < 0 || i >= steps) return;
      values[i] = (values[i] as number) + (s.values[k] ?? 0);
      met[i] = (met[i] as number) + 1;
    });
    let mean = 0;
    for (let i = 0; i < steps; i++) {
      values[i] = (values[i] as number) / (rate === "level" ? Math.max(1, met[i] as number) : (seconds[i] as number));
      mean += (values[i] as number) * (shares[i] as number);
      sums[i] = (sums[i] as number) + (values[i] as number);
    }
    const other = s.labels.some((l) => l.name === "other" && l.value === "true");
    return { key: other ? "" : (s.labels[0]?.value ?? ""), other, values, mean };
  });
  layers.sort((a, b) => Number(a.other) - Number(b.other) || b.mean - a.mean || (a.key < b.key ? -1 : 1));
  let max = 0;
  for (const s of sums) max = Math.max(max, s);
  const mean = layers.reduce((n, l) => n + l.mean, 0);
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
