import { expect, test } from "vitest";
import { cut, foldedTree } from "../../e2e/fixture/folded";
import { functionsBelow, sortRows, type FunctionRow } from "./functions";
import { decodeTree, findPath } from "./tree";
import type { SortBy } from "./urlstate";

const show = (rows: readonly FunctionRow[], by: SortBy): string => sortRows(rows, by).map((r) => `${r.name} ${r.self}/${r.total}`).join(", ");
const t = decodeTree(foldedTree("main;walk;walk;walk 30\nmain;walk;sum 10\nmain;sum;walk 5\nidle 55"));

test("recursion is counted once", () => {
  expect(show(functionsBelow(t, 0), "self")).toBe("idle 55/55, walk 35/45, sum 10/15, main 0/45");
});
test("a part of the tree", () => {
  expect(show(functionsBelow(t, findPath(t, ["main", "walk"]).node), "total")).toBe("walk 30/40, sum 10/10");
});
test("by name", () => {
  expect(show(functionsBelow(t, 0), "name")).toBe("idle 55/55, main 0/45, sum 10/15, walk 35/45");
});
test("what was cut is no function", () => {
  const c = decodeTree(cut(foldedTree("main;a 97\nmain;b 2\nmain;c 1"), 0.05));
  expect(show(functionsBelow(c, 0), "total")).toBe("main 0/100, a 97/97");
});
test("a name in two binaries has no mapping", () => {
  const two = functionsBelow(decodeTree(foldedTree("malloc@/bin/a 1\nx@/bin/b;malloc@/bin/b 2")), 0);
  expect(sortRows(two, "name").map((r) => `${r.name} ${r.mapping}`)).toEqual(["malloc ", "x /bin/b"]);
});
