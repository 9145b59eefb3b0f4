import { expect, test } from "vitest";
import { columnsOf, formatFleet, parseFleet, usualSort, type FleetState, type Shown } from "./fleetstate";

const initial = parseFleet("");

test("the initial view has no query", () => {
  expect(formatFleet(initial)).toBe("");
  expect(initial).toEqual({ shown: "agents", sort: "", turned: false, filter: "", open: "", theme: "system", along: "" });
});

test("every field comes back from the URL", () => {
  const f = (change: Partial<FleetState>): void => {
    const state = { ...initial, ...change };
    expect(parseFleet(formatFleet(state))).toEqual(state);
  };
  f({ sort: "cores" });
  f({ sort: "cores", turned: true });
  f({ turned: true }); // the usual column the other way round
  f({ shown: "targets", sort: "took", filter: "a&b=c #", open: 'job http://x:1 [["a","b"]]' });
  f({ shown: "symbols", turned: true, theme: "dark" });
});

test("every column can be sorted by, and the usual ones are columns", () => {
  for (const shown of Object.keys(columnsOf) as Shown[]) {
    expect(columnsOf[shown]).toContain(usualSort[shown]);
    for (const sort of columnsOf[shown].filter((c) => c !== usualSort[shown])) {
      expect(parseFleet(formatFleet({ ...initial, shown, sort }))).toEqual({ ...initial, shown, sort });
    }
  }
});

test("what makes no sense is left out", () => {
  expect(parseFleet("?show=nonsense&sort=-nothing&theme=pink&x=y")).toEqual(initial);
  expect(parseFleet("?sort=toString")).toEqual(initial);
  expect(parseFleet("?show=targets&sort=cores").sort).toBe("");
});

test("the other pages' query goes along", () => {
  const url = formatFleet({ ...parseFleet("?type=cpu&q=%7Ba%3D%22b%22%7D&from=now-6h&to=now&zoom=main"), filter: "x" });
  expect(url).toBe("?type=cpu&q=%7Ba%3D%22b%22%7D&from=now-6h&to=now&filter=x");
});
