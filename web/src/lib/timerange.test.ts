import { expect, test } from "vitest";
import { absolute, atLeast, isLive, parseDuration, parseTime, resolve, timeTicks, widen, writeDuration } from "./timerange";

const now = Date.parse("2026-11-23T12:00:00Z");

test("parseTime", () => {
  const f = (text: string, want: string | undefined): void => {
    const got = parseTime(text, now);
    expect(got === undefined ? undefined : new Date(got).toISOString()).toBe(want === undefined ? undefined : new Date(want).toISOString());
  };
  f("now", "2026-11-23T12:00:00Z");
  f("now-1h", "2026-11-23T11:00:00Z");
  f(" now - 1h30m ", "2026-11-23T10:30:00Z");
  f("now-90s", "2026-11-23T11:58:30Z");
  f("-2d", "2026-11-21T12:00:00Z");
  f("now+5m", "2026-11-23T12:05:00Z");
  f("2026-11-23T01:02:03Z", "2026-11-23T01:02:03Z");
  f("2026-11-23T01:02:03.250Z", "2026-11-23T01:02:03.250Z");
  f("2026-11-23 01:02", new Date(2026, 10, 23, 1, 2).toISOString());
  f("2026-11-23", new Date(2026, 10, 23).toISOString());
  f(String(now), "2026-11-23T12:00:00Z");
  f("", undefined);
  f("yesterday", undefined);
  f("now-1", undefined);
  f("now-1y", undefined);
  f("2026-13-40", undefined);
  f("12", undefined);
});

test("durations are read as they are written", () => {
  for (const ms of [1, 999, 1000, 61_000, 3_600_000, 5_400_000, 90_061_001]) expect(parseDuration(writeDuration(ms))).toBe(ms);
  expect(parseDuration("1.5h")).toBe(5_400_000);
  expect(parseDuration("")).toBeUndefined();
});

test("resolve says what is wrong", () => {
  expect(resolve({ from: "now-1h", to: "now" }, now)).toEqual({ start: now - 3_600_000, end: now });
  expect(resolve({ from: "soon", to: "now" }, now)).toMatch(/soon/);
  expect(resolve({ from: "now", to: "later" }, now)).toMatch(/later/);
  expect(resolve({ from: "now", to: "now-1h" }, now)).toMatch(/ends before/);
});

test("a range that follows the clock is told from one that does not", () => {
  expect(isLive({ from: "now-1h", to: "now" })).toBe(true);
  expect(isLive(absolute({ start: now - 1000, end: now }))).toBe(false);
});

test("absolute ranges resolve to the same span", () => {
  const span = { start: now - 1234, end: now + 5 };
  expect(resolve(absolute(span), now)).toEqual(span);
});

test("widen doubles, keeps the middle, and does not run ahead of the clock", () => {
  expect(widen({ from: "now-15m", to: "now" }, now)).toEqual({ from: "now-30m", to: "now" });
  const past = absolute({ start: now - 7_200_000, end: now - 3_600_000 });
  expect(resolve(widen(past, now), now)).toEqual({ start: now - 9_000_000, end: now - 1_800_000 });
  const recent = absolute({ start: now - 3_600_000, end: now - 60_000 });
  expect(resolve(widen(recent, now), now)).toEqual({ start: now - 2 * 3_540_000, end: now });
});

test("ticks are round and inside", () => {
  const ticks = timeTicks({ start: now - 900_000, end: now }, 8);
  expect(ticks.length).toBeGreaterThan(4);
  expect(ticks.length).toBeLessThanOrEqual(8);
  for (const t of ticks) {
    expect(t.at % 60_000).toBe(0);
    expect(t.at).toBeGreaterThanOrEqual(now - 900_000);
    expect(t.at).toBeLessThanOrEqual(now);
  }
});

test("atLeast", () => {
  const within = { start: 0, end: 1000 };
  expect(atLeast({ start: 400, end: 500 }, 50, within)).toEqual({ start: 400, end: 500 });
  expect(atLeast({ start: 400, end: 500 }, 300, within)).toEqual({ start: 300, end: 600 });
  expect(atLeast({ start: 980, end: 1000 }, 300, within)).toEqual({ start: 700, end: 1000 });
  expect(atLeast({ start: 1100, end: 1200 }, 300, within)).toEqual({ start: 900, end: 1200 });
});
