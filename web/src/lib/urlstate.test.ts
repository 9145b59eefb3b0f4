import { expect, test } from "vitest";
import { fileName, format, initial, joinPath, parse, splitPath, type ViewState } from "./urlstate";

test("the initial view has no query", () => {
  expect(format(initial)).toBe("");
  expect(parse("")).toEqual(initial);
});

test("every field comes back from the URL", () => {
  const full: ViewState = {
    type: "process_cpu:cpu:nanoseconds:cpu:nanoseconds",
    selector: '{service_name="a&b", pod=~"x+.*"}',
    range: { from: "now-3h", to: "2026-11-23T12:00:00Z" },
    live: true,
    groupBy: "pod",
    zoom: ["main", "a;b", "back\\slash", "operator&&", "日本 ()"],
    search: "/^md5#?/",
    filter: {
      callSite: ["main", "a;b"],
      keep: [
        { field: "function", value: "^md5|sha", regexp: true },
        { field: "function", value: "operator new(unsigned long)", regexp: false },
      ],
      drop: [{ field: "binary", value: "libc", regexp: true }],
    },
    collapse: true,
    hide: ["/lib/libc.so.6", "[kernel]"],
    sandwich: "std::sort<int*>(int*, int*)",
    source: "main.(*T).work",
    callers: ["main", "_start"],
    callees: ["a;b"],
    allocators: true,
    layout: "graph",
    orientation: "flame",
    colourBy: "binary",
    sort: "total",
    theme: "dark",
  };
  const url = format(full);
  expect(parse(url)).toEqual(full);
  // Each field of the view differs from the initial one and is in the URL.
  for (const key of Object.keys(initial) as (keyof ViewState)[]) {
    expect(full[key]).not.toEqual(initial[key]);
    expect(parse(format({ ...initial, [key]: full[key] }))[key]).toEqual(full[key]);
  }
});

test("what is unknown is left out", () => {
  expect(parse("?view=sideways&theme=pink&draw=&sort=1&x=y&keep=&drop=function=&hide=&call=&collapse=yes")).toEqual(initial);
});

test("paths", () => {
  const f = (names: string[], want: string): void => {
    expect(joinPath(names)).toBe(want);
    expect(splitPath(want)).toEqual(names);
  };
  f([], "");
  f(["a"], "a");
  f(["a", "b"], "a;b");
  f(["a;b", "c\\"], "a\\;b;c\\\\");
});

test("fileName", () => {
  const end = Date.parse("2026-11-23T14:05:06Z");
  expect(fileName("cpu", "", end)).toBe("cpu-2026-11-23T14.05");
  expect(fileName("cpu", '{service_name="api", pod=~"a/../b .*"}', end)).toBe("cpu-api-a_.._b_._-2026-11-23T14.05");
});
