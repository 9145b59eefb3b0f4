import { expect, test } from "vitest";
import { channelPath, inSelector, interpolate, liveRange, streamsOf, withFilters, type PerfuseQuery, type Replace } from "./query";

test("inSelector: one value is text, several are an expression", () => {
  const f = (value: string | string[], want: string): void => expect(inSelector(value)).toBe(want);
  f("api", "api");
  f('a"b\\c', 'a\\"b\\\\c');
  f("a.b", "a.b");
  f(["a.b"], "a\\\\.b");
  f(["a", "b.c"], "(a|b\\\\.c)");
});

test("withFilters", () => {
  const zone = { key: "zone", operator: "=", value: "a" };
  const f = (selector: string, filters: Parameters<typeof withFilters>[1], want: string): void => expect(withFilters(selector, filters)).toBe(want);
  f("", [], "");
  f("", [zone], '{zone="a"}');
  f("{}", [zone], '{zone="a"}');
  f('{pod="p"}', [zone], '{pod="p", zone="a"}');
  f('{pod="p",}', [zone], '{pod="p", zone="a"}');
  f("", [{ key: "zone", operator: "=|", value: "a", values: ["a", "b.c"] }], '{zone=~"a|b\\\\.c"}');
  f("", [{ key: "zone", operator: "!=|", value: "a" }], '{zone!~"a"}');
  // Not ours, and half a filter.
  f("", [{ key: "zone", operator: "<", value: "a" }], "");
  f("", [{ key: "", operator: "=", value: "a" }], "");
  // What the server is to point at stays.
  f("{pod=p}", [zone], "{pod=p}");
});

// As a dashboard with $pods = a and b.c, $pod = p"q and $fn = f,g.
const values: Readonly<Record<string, string | string[]>> = { $pods: ["a", "b.c"], $pod: 'p"q', $fn: "f,g", $type: "cpu" };
const replace: Replace = (text, format) =>
  text.replace(/\$\w+/g, (name) => {
    const value = values[name] ?? name;
    if (typeof format === "function") return format(value);
    if (format === "regex") return [value].flat().join("|").replace(/\./g, "\\.");
    return [value].flat().join(",");
  });

test("interpolate puts the values of variables everywhere", () => {
  const q: PerfuseQuery = {
    refId: "A",
    queryType: "diff",
    profileType: "$type",
    selector: '{pod=~"$pods", other="$pod"}',
    groupBy: ["$pods", "zone"],
    callSite: ["main", "$fn"],
    keep: [
      { field: "function", value: "$fn", regexp: false },
      { field: "binary", value: "$pods", regexp: true },
    ],
    traceIds: ["$pods"],
    before: { selector: '{pod="$pod"}', earlier: "1d" },
  };
  expect(interpolate(q, replace, [{ key: "zone", operator: "=", value: "z" }])).toMatchObject({
    profileType: "cpu",
    selector: '{pod=~"(a|b\\\\.c)", other="p\\"q", zone="z"}',
    groupBy: ["a", "b.c", "zone"],
    callSite: ["main", "f,g"],
    keep: [
      { field: "function", value: "f,g", regexp: false },
      { field: "binary", value: "a|b\\.c", regexp: true },
    ],
    traceIds: ["a", "b.c"],
    before: { selector: '{pod="p\\"q", zone="z"}', earlier: "1d" },
  });
  // The same selector on both sides stays the same.
  expect(interpolate({ refId: "A", before: {} }, replace).before).not.toHaveProperty("selector");
});

test("streamsOf: one a frame, and none of what does not change by itself", () => {
  const f = (q: Partial<PerfuseQuery>, want: string[]): void => expect(streamsOf({ refId: "A", ...q }).map((s) => s.queryType)).toEqual(want);
  f({}, []);
  f({ liveSeconds: 0 }, []);
  f({ liveSeconds: 5 }, ["series", "flamegraph"]);
  f({ liveSeconds: 5, queryType: "series" }, ["series"]);
  f({ liveSeconds: 5, queryType: "diff" }, []);
});

test("liveRange: until now, and as long whenever one looks", () => {
  const f = (from: unknown, to: unknown, millis: number, want: number): void => expect(liveRange({ from, to }, millis)).toBe(want);
  f("now-1h", "now", 3_600_002, 3_600_000);
  f("now-1h", "now", 3_599_998, 3_600_000);
  f("now-1d", "now", 86_400_003, 86_400_000);
  f("now-2d", "now", 172_800_000, 0);
  f("now-1h", "now-5m", 3_300_000, 0);
  f("now/d", "now", 3_600_000, 0);
  f({ iso: "2026-01-01" }, "now", 3_600_000, 0);
  f("now-1h", { iso: "2026-01-01" }, 3_600_000, 0);
});

test("channelPath tells queries apart and is what Grafana Live allows", () => {
  const paths = Array.from({ length: 1000 }, (_, i) => channelPath({ selector: `{pod="${i}"}` }));
  expect(new Set(paths).size).toBe(paths.length);
  for (const p of paths) expect(p).toMatch(/^live\/[0-9a-f]{16}$/);
});
