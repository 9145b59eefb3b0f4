import { expect, test } from "vitest";
import { formatCount, formatRate, formatShare, formatValue, ticks, type Rate } from "./units";

test("formatValue", () => {
  const f = (v: number, unit: string, want: string): void => expect(formatValue(v, unit)).toBe(want);
  f(0, "nanoseconds", "0 ns");
  f(1, "nanoseconds", "1 ns");
  f(999, "nanoseconds", "999 ns");
  f(1234, "nanoseconds", "1.23 µs");
  f(999_700_000, "nanoseconds", "1.00 s");
  f(12_300_000_000, "nanoseconds", "12.3 s");
  f(90e9, "nanoseconds", "1.50 min");
  f(3600e9, "nanoseconds", "1 h");
  f(50 * 3600e9, "nanoseconds", "2.08 d");
  f(1500, "milliseconds", "1.50 s");
  f(1023, "bytes", "1023 B");
  f(1024, "bytes", "1 KiB");
  f(40_000_000, "bytes", "38.1 MiB");
  f(-2048, "bytes", "-2 KiB");
  f(5, "count", "5");
  f(12_345, "count", "12.3 k");
  f(1e15, "count", "1000 T");
  f(1500, "locks", "1.50 k locks");
  f(3, "locks", "3 locks");
  f(100, "count", "100");
  f(10_960_000_000, "nanoseconds", "11.0 s");
});

test("formatRate", () => {
  const f = (v: number, unit: string, rate: Rate, want: string): void => expect(formatRate(v, unit, rate)).toBe(want);
  f(1.5e9, "nanoseconds", "cores", "1.50 cores");
  f(5e6, "nanoseconds", "cores", "0.005 cores");
  f(1500, "milliseconds", "cores", "1.50 cores");
  f(2048, "bytes", "per-second", "2 KiB/s");
  f(2048, "bytes", "level", "2 KiB");
  f(0.25, "count", "per-second", "0.25/s");
});

test("formatShare", () => {
  const f = (part: number, whole: number, want: string): void => expect(formatShare(part, whole)).toBe(want);
  f(0, 100, "0 %");
  f(1, 3, "33.3 %");
  f(1, 40, "2.50 %");
  f(1, 20_000, "<0.01 %");
  f(1, 10_000, "0.01 %");
  f(99.99, 100, "100 %");
  f(9.996, 100, "10.0 %");
  f(1, 0, "–");
});

test("formatCount groups thousands", () => {
  expect(formatCount(999)).toBe("999");
  expect(formatCount(1234567)).toBe("1\u202f234\u202f567");
});

test("ticks are round in the unit's own base and reach the maximum", () => {
  const f = (max: number, unit: string, rate: Rate, want: string): void =>
    expect(ticks(max, unit, rate).map((v) => formatRate(v, unit, rate)).join(" | ")).toBe(want);
  f(7.6e9, "nanoseconds", "cores", "0 cores | 2 cores | 4 cores | 6 cores | 8 cores");
  f(0.031e9, "nanoseconds", "cores", "0 cores | 0.01 cores | 0.02 cores | 0.03 cores | 0.04 cores");
  f(3 * 1024 * 1024, "bytes", "level", "0 B | 1 MiB | 2 MiB | 3 MiB");
  f(90, "count", "level", "0 | 50 | 100");
  f(0, "count", "level", "0");
});
