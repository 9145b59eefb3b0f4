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

test("what has no width is passed by", () => {
  const side = decodeTree(foldedTree("a 0\nb 10\nc 0\nd;e 0\nd 5\nz 0"));
  const f = (path: string, to: Move, want: string): void => {
    const from = findPath(side, path === "" ? [] : path.split(";")).node;
    expect(frameOf(side, move(side, from, to)).name).toBe(want);
  };
  f("", "child", "b");
  f("b", "left", "b");
  f("b", "right", "d");
  f("d", "left", "b");
  f("d", "right", "d");
  f("d", "first", "b");
  f("b", "last", "d");
  f("d", "child", "d");
  expect(placeAmong(side, findPath(side, ["d"]).node)).toEqual({ place: 2, of: 2 });
});

test("placeAmong", () => {
  expect(placeAmong(t, findPath(t, ["a", "c"]).node)).toEqual({ place: 2, of: 3 });
  expect(placeAmong(t, 0)).toEqual({ place: 1, of: 1 });
});
