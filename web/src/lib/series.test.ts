import { expect, test } from "vitest";
import { around, outline, stack as stackAsked, stepFor, type RawSeries, type Stacked } from "./series";
import type { Span } from "./timerange";
import type { Rate } from "./units";

const stack = (series: RawSeries[], span: Span, step: number, rate: Rate, asked = span.end + 60_000): Stacked => stackAsked(series, span, step, rate, asked);
const one = (value: string, times: number[], values: number[]): RawSeries => ({ labels: [{ name: "pod", value }], times, values });

test("sums become rates on the span's grid, gaps stay empty", () => {
  const s = stack([one("a", [10_000, 30_000], [5, 20])], { start: 0, end: 40_000 }, 10_000, "per-second");
  expect(s.start).toBe(0);
  expect(s.steps).toBe(4);
  expect([...(s.layers[0]?.values ?? [])]).toEqual([0, 0.5, 0, 2]);
  expect(s.max).toBe(2);
  expect(s.mean).toBe(25 / 40);
});
test("a level is not divided", () => {
  const s = stack([one("a", [0, 10_000], [7, 9])], { start: 0, end: 20_000 }, 10_000, "level");
  expect([...(s.layers[0]?.values ?? [])]).toEqual([7, 9]);
  expect(s.mean).toBe(8);
});
test("a level of several reports in a step is their mean", () => {
  const s = stack([one("a", [0, 60_000, 61_000, 120_000, 180_000], [7, 8, 10, 9, 9])], { start: 0, end: 240_000 }, 1000, "level");
  expect(s.step).toBe(60_000);
  expect([...(s.layers[0]?.values ?? [])]).toEqual([7, 9, 9, 9]);
});
test("steps that the span cuts are whole, but count for their part of it", () => {
  const s = stack([one("a", [0, 10_000, 20_000], [10, 20, 40])], { start: 5000, end: 22_000 }, 10_000, "per-second");
  expect([...(s.layers[0]?.values ?? [])]).toEqual([1, 2, 4]);
  expect(s.mean).toBeCloseTo((5 * 1 + 10 * 2 + 2 * 4) / 17, 9);
});
test("what lies around the span is left out", () => {
  const s = stack([one("a", [-20_000, -10_000, 0, 10_000, 20_000], [9, 9, 10, 10, 9])], { start: 0, end: 20_000 }, 10_000, "per-second");
  expect([...(s.layers[0]?.values ?? [])]).toEqual([1, 1]);
  expect(around({ start: 1_000_000, end: 1_200_000 })).toEqual({ start: 940_000, end: 1_201_000 });
});
test("a step that still runs is divided by what has passed of it", () => {
  const s = stack([one("a", [0, 10_000], [10, 5])], { start: 0, end: 15_000 }, 10_000, "per-second", 15_000);
  expect([...(s.layers[0]?.values ?? [])]).toEqual([1, 1]);
});
test("the grid is the server's, also when its first steps are empty", () => {
  const s = stack([one("a", [33_000], [10])], { start: 0, end: 50_000 }, 10_000, "per-second");
  expect(s.start).toBe(-7000);
  expect([...(s.layers[0]?.values ?? [])]).toEqual([0, 0, 0, 0, 1, 0]);
});
test("largest first, other last", () => {
  const other: RawSeries = { labels: [{ name: "other", value: "true" }], times: [0], values: [100] };
  const s = stack([one("b", [0], [1]), other, one("a", [0], [9]), one("c", [0], [1])], { start: 0, end: 1000 }, 1000, "per-second");
  expect(s.layers.map((l) => (l.other ? "other" : l.key))).toEqual(["a", "b", "c", "other"]);
});
test("no series, no step: one empty step", () => {
  const s = stack([], { start: 0, end: 60_000 }, 0, "cores");
  expect([s.steps, s.max, s.mean, s.layers.length]).toEqual([1, 0, 0, 0]);
});
test("absurd steps are bounded", () => {
  expect(stack([one("a", [0], [1])], { start: 0, end: 86_400_000 }, 1, "level").steps).toBeLessThanOrEqual(5000);
});
test("layers lie on each other", () => {
  const s = stack([one("a", [0, 10_000], [2, 4]), one("b", [0, 10_000], [1, 1])], { start: 0, end: 20_000 }, 10_000, "level");
  expect(outline(s, 0, (x) => x * 10, (y) => 10 - y)).toBe("M0 8L10 8L10 6L20 6L20 10L10 10L10 10L0 10Z");
  expect(outline(s, 1, (x) => x * 10, (y) => 10 - y)).toBe("M0 7L10 7L10 5L20 5L20 6L10 6L10 8L0 8Z");
});
test("the step is round and gives at most 200 steps", () => {
  const f = (millis: number, want: number): void => expect(stepFor({ start: 0, end: millis })).toBe(want);
  f(60_000, 1000);
  f(300_000, 2000);
  f(900_000, 5000);
  f(3_600_000, 30_000);
  f(86_400_000, 600_000);
  f(30 * 86_400_000, 14_400_000);
  f(1000 * 86_400_000, 5 * 86_400_000);
});
test("profiles of a moment every minute make minutes, not a comb", () => {
  const s = stack([one("a", [5000, 65_000, 125_000, 185_000, 245_000], [60, 60, 60, 120, 60])], { start: 5000, end: 305_000 }, 10_000, "per-second");
  expect(s.step).toBe(60_000);
  expect([...(s.layers[0]?.values ?? [])]).toEqual([1, 1, 1, 2, 1]);
});
