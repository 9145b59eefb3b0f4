import { readFileSync } from "node:fs";
import { gunzipSync, gzipSync } from "node:zlib";
import { expect, test } from "vitest";
import { noFilter, parseMatcher } from "../lib/filter";
import { findPath, FrameKind, frameOf, graft, type FlameTree } from "../lib/tree";
import { OpenedFile } from "./opened";

const heap = Uint8Array.from(readFileSync(new URL("../../../profile/testdata/pprof/heap.pb.gz", import.meta.url)));
const text = (s: string): Uint8Array<ArrayBuffer> => new TextEncoder().encode(s);
const all = { type: 0, label: undefined };

test("what a file is told of", async () => {
  const { summary } = await OpenedFile.open(heap);
  expect(summary).toMatchObject({ format: "pprof", types: [{ sampleType: "alloc_objects" }, { sampleType: "alloc_space" }, { sampleType: "inuse_objects" }, { sampleType: "inuse_space" }], labels: [] });
  expect(summary.totals.every((t) => t > 0)).toBe(true);
});

test("a folded node can be expanded until nothing is folded", async () => {
  const file = await OpenedFile.open(heap);
  const whole = file.flameGraph(all, noFilter, 1e-12, []);
  let t: FlameTree = file.flameGraph(all, noFilter, 0.05, []);
  expect(t.cutCount).toBeGreaterThan(0);
  const folded = (): number => t.frame.findIndex((f) => t.frames[f]?.kind === FrameKind.CUT);
  for (let i = folded(), n = 0; i >= 0; i = folded()) {
    if (++n > 2000) throw new Error("no end of folded nodes");
    const at = t.parent[i] as number;
    const path: string[] = [];
    for (let p = at; p > 0; p = t.parent[p] as number) path.unshift(frameOf(t, p).name);
    t = graft(t, at, file.flameGraph(all, noFilter, 1e-12, path), 0);
  }
  expect([t.count, t.total[0]]).toEqual([whole.count, whole.total[0]]);
});

test("tables of memory fold allocators, others do not", async () => {
  const bytes = await OpenedFile.open(
    text('{"$schema":"https://www.speedscope.app/file-format-schema.json","shared":{"frames":[{"name":"main"},{"name":"malloc"}]},"profiles":[{"type":"sampled","unit":"bytes","samples":[[0,1]],"weights":[3]}]}'),
  );
  const rows = (folded: boolean) => bytes.top(all, noFilter, "self", folded).rows.map((r) => [r.name, r.self]);
  expect(rows(true)).toEqual([["main", 3]]);
  expect(rows(false)).toEqual([["malloc", 3], ["main", 0]]);
  const other = await OpenedFile.open(text("main;malloc 3\n"));
  expect(other.top(all, noFilter, "self", true).rows.map((r) => [r.name, r.self])).toEqual([["malloc", 3], ["main", 0]]);
});

test("what surrounds a function is named by it", async () => {
  const file = await OpenedFile.open(text("a;f;b 2\na;f 1\nc 4\n"));
  const s = file.sandwich(all, noFilter, "f", 0);
  expect([s.total, s.self, s.unfiltered]).toEqual([3, 1, 7]);
  expect([frameOf(s.callers, 0).name, frameOf(s.callees, 0).name]).toEqual(["f", "f"]);
  expect(findPath(s.callers, ["a"]).whole && findPath(s.callees, ["b"]).whole).toBe(true);
});

test("downloads: the file itself if all of it is asked for, else what is", async () => {
  const file = await OpenedFile.open(heap);
  expect(await file.pprof(all, noFilter)).toEqual(heap);
  const plain = await OpenedFile.open(Uint8Array.from(gunzipSync(heap)));
  expect(gunzipSync(await plain.pprof(all, noFilter))).toEqual(gunzipSync(heap));
  const filter = { ...noFilter, keep: [parseMatcher("^runtime")] };
  const some = await OpenedFile.open(await file.pprof(all, filter));
  expect(some.folded(all, noFilter)).toBe(file.folded(all, filter));
  expect(some.summary.sampleCount).toBeLessThan(file.summary.sampleCount);
  const folded = await OpenedFile.open(Uint8Array.from(gzipSync("a;b 1\nc 2\n")));
  expect((await OpenedFile.open(await folded.pprof(all, { ...noFilter, drop: [parseMatcher("b")] }))).folded(all, noFilter)).toBe("c 2\n");
});

test("speedscope's profiles are told apart by their names", async () => {
  const profile = (name: string, weight: number): object => ({ type: "sampled", name, unit: "none", samples: [[0]], weights: [weight] });
  const file = await OpenedFile.open(
    text(JSON.stringify({ $schema: "https://www.speedscope.app/file-format-schema.json", shared: { frames: [{ name: "f" }] }, profiles: [profile("one", 1), profile("two", 2)] })),
  );
  expect(file.summary.labels).toEqual([{ name: "profile_name", values: ["one", "two"], truncated: false }]);
  const total = (value: string): number | undefined => file.flameGraph({ type: 0, label: { name: "profile_name", value } }, noFilter, 0, []).total[0];
  expect([total("one"), total("two"), total("three")]).toEqual([1, 2, 0]);
});

test("a condition that cannot be understood says so", async () => {
  const file = await OpenedFile.open(heap);
  const asked = (value: string) => (): FlameTree => file.flameGraph(all, { ...noFilter, keep: [parseMatcher(value)] }, 0, []);
  expect(asked("(")).toThrow("filter.keep[0]: parsing the regular expression for the function");
  expect(asked("[[:alpha:]]")).toThrow("is not understood here");
  expect(asked("file=~(?P<x>(?i:a)")).toThrow("for the file");
  expect(asked("(?i)RUNTIME\\.")().total[0]).toBeGreaterThan(0);
  expect(asked("\\Aruntime\\.main\\z")().total[0]).toBeGreaterThan(0);
  expect(() => file.flameGraph(all, { ...noFilter, keep: Array.from({ length: 65 }, () => parseMatcher("a")) }, 0, [])).toThrow("filter.drop have 65 conditions: want at most 64");
});
