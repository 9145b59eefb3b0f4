import { expect, test } from "vitest";
import { earlier, formatCompare, parseCompare, relationOf, resolveSides, sidesOf, withRangeAfter, withSides, type CompareState } from "./compareurl";

const now = Date.UTC(2026, 10, 23, 12);

test("what is written is read again, whatever it is", () => {
  const usual = parseCompare("");
  expect(formatCompare(usual)).toBe("");
  const s: CompareState = {
    type: "alloc_space",
    selector: '{service_name="api", version="2"}',
    range: { from: "now-1h", to: "now-5m" },
    selectorBefore: '{service_name="api", version="1"}',
    rangeBefore: { from: "2026-11-22T11:00:00Z", to: "now-1d" },
    scale: "total",
    groupBy: "pod",
    zoom: ["main", "a;b\\c"],
    search: "/x+y/",
    filter: { callSite: ["main", "x;y"], keep: [{ field: "file", value: "a.go", regexp: true }], drop: [{ field: "function", value: "b", regexp: false }] },
    graphs: "sides",
    layout: "table",
    orientation: "flame",
    colourBy: "absolute",
    sort: "total",
    allocators: true,
    theme: "dark",
  };
  expect(parseCompare(formatCompare(s))).toEqual(s);
  for (const change of [{ selectorBefore: "" }, { selectorBefore: undefined }, { rangeBefore: undefined }, { rangeBefore: { from: "now-1d", to: "now" } }]) {
    expect(parseCompare(formatCompare({ ...s, ...change }))).toEqual({ ...s, ...change });
  }
  expect(parseCompare("?q0=&from0=&view=x&scale=5")).toEqual(usual);
});

test("the side before: right before for one selector, the same time for two", () => {
  const f = (query: string, want: string): void => {
    const { before } = sidesOf(parseCompare(query), now);
    expect(`${before.selector} ${before.range.from}..${before.range.to}`).toBe(want);
  };
  f("", " now-30m..now-15m");
  f("?q=%7Ba=%22b%22%7D&from=now-1h", '{a="b"} now-2h..now-1h');
  f("?q=%7Ba=%22b%22%7D&q0=%7Ba=%22c%22%7D&from=now-1h", '{a="c"} now-1h..now');
  f("?q=%7Ba=%22b%22%7D&q0=%7B%7D", " now-15m..now");
  f("?from=2026-11-23T11:00:00Z&to=2026-11-23T11:30:00Z", " 2026-11-23T10:30:00Z..2026-11-23T11:00:00Z");
  f("?from=now-1h&from0=now-25h&to0=now-1d", " now-25h..now-1d");
});

test("the shortest form of two sides", () => {
  const after = { selector: "{a}", range: { from: "now-1h", to: "now" } };
  expect(withSides({ selector: "{a}", range: { from: "now-2h", to: "now-1h" } }, after, now)).toEqual({ selector: "{a}", range: after.range, selectorBefore: undefined, rangeBefore: undefined });
  expect(withSides({ selector: "", range: after.range }, after, now)).toEqual({ selector: "{a}", range: after.range, selectorBefore: "", rangeBefore: undefined });
  const yesterday = earlier(after.range, 86_400_000, now);
  expect(yesterday).toEqual({ from: "now-1d1h", to: "now-1d" });
  expect(withSides({ selector: "{a}", range: yesterday }, after, now).rangeBefore).toEqual(yesterday);
  // Swapped twice is as it was.
  for (const query of ["?q=x&from=now-1h", "?q=x&q0=y&from=now-1h&from0=now-2h&to0=now-90m", "?q=x&q0=%7B%7D"]) {
    const s = parseCompare(query);
    const { before: b, after: a } = sidesOf(s, now);
    const swapped = { ...s, ...withSides(a, b, now) };
    const again = sidesOf(swapped, now);
    expect({ ...s, ...withSides(again.after, again.before, now) }).toEqual(s);
  }
});

test("what is related to the range after goes along with it", () => {
  const brushed = { from: "2026-11-23T11:00:00Z", to: "2026-11-23T11:10:00Z" };
  const f = (query: string, relation: string | undefined, want: string): void => {
    const s = parseCompare(query);
    const sides = sidesOf(s, now);
    expect(relationOf(sides.before.range, sides.after.range, now)?.name).toBe(relation);
    const { before, after } = sidesOf({ ...s, ...withRangeAfter(sides, brushed, now) }, now);
    expect(after.range).toEqual(brushed);
    expect(`${before.range.from}..${before.range.to}`).toBe(want);
  };
  f("", "right before", "2026-11-23T10:50:00Z..2026-11-23T11:00:00Z");
  f("?q=a&q0=b", "the same time", "2026-11-23T11:00:00Z..2026-11-23T11:10:00Z");
  f("?q=a&q0=b&from0=now-30m&to0=now-15m", "right before", "2026-11-23T10:50:00Z..2026-11-23T11:00:00Z");
  f("?from=now-1h&from0=now-1d1h&to0=now-1d", "a day before", "2026-11-22T11:00:00Z..2026-11-22T11:10:00Z");
  f("?from=now-1h&from0=now-7d1h&to0=now-7d", "a week before", "2026-11-16T11:00:00Z..2026-11-16T11:10:00Z");
  f("?from=now-1h&from0=now-5h&to0=now-4h", undefined, "now-5h..now-4h");
});

test("a range that cannot be read is one side's", () => {
  const f = (query: string): unknown => resolveSides(sidesOf(parseCompare(query), now), now);
  expect(f("?from=tomorrow")).toMatchObject({ side: "after" });
  expect(f("?from0=tomorrow")).toMatchObject({ side: "before" });
  expect(f("?from=now-1h")).toEqual({ before: { start: now - 7_200_000, end: now - 3_600_000 }, after: { start: now - 3_600_000, end: now } });
});
