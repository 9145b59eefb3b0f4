import { expect, test } from "vitest";
import { foldedTree } from "../../e2e/fixture/folded";
import { decodeTree, findPath, frameOf } from "../lib/tree";
import { move, placeAmong, type Move } from "./navigate";

const t = decodeTree(foldedTree("a;b 10\na;c 20\na;d 5\nz 3"));

test("move", () => {
  const f = (path: string, to: Move, want: string): void => {
    const from = findPath(t, path === "" ? [] : path.split(";")).node;
    expect(frameOf(t, move(t, from, to)).name).toBe(want);
  };
  f("", "parent", "root");
  f("", "child", "a");
  f("", "left", "root");
  f("", "right", "root");
  f("a", "child", "c");
  f("a;c", "left", "b");
  f("a;c", "right", "d");
  f("a;b", "left", "b");
  f("a;d", "right", "d");
  f("a;d", "first", "b");
  f("a;b", "last", "d");
  f("a;c", "child", "c");
  f("a;c", "parent", "a");
});

test("placeAmong", () => {
  expect(placeAmong(t, findPath(t, ["a", "c"]).node)).toEqual({ place: 2, of: 3 });
  expect(placeAmong(t, 0)).toEqual({ place: 1, of: 1 });
});
