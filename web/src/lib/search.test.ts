import { expect, test } from "vitest";
import { foldedTree } from "../../e2e/fixture/folded";
import { match, pattern, type Pattern } from "./search";
import { decodeTree, findPath } from "./tree";

test("pattern", () => {
  const f = (text: string, name: string, want: boolean): void => expect((pattern(text) as Pattern)(name)).toBe(want);
  f("JSON", "encoding/json.Marshal", true);
  f("json.m", "encoding/jsonxm", false);
  f("/json.m/", "encoding/jsonxm", true);
  f("/^main$/", "main", true);
  f("/^main$/", "domain", false);
  f("/^main", "main.run", true);
  f('"main"', "main", true);
  f('"main"', "main.run", false);
  f("(*T).", "a.(*T).b", true);
  expect(pattern("  ")).toBeUndefined();
  expect(pattern("//")).toBeUndefined();
  expect(pattern("/(/")).toMatch(/expression/i);
});

test("match counts nested matches once", () => {
  const t = decodeTree(foldedTree("main;json;copy;json 30\nmain;json 20\nmain;sql 40\njsonish 10"));
  const all = match(t, pattern("json") as Pattern);
  expect(all.value).toBe(60);
  expect(all.nodes).toBe(3);
  const below = match(t, pattern("json") as Pattern, findPath(t, ["main"]).node);
  expect(below.value).toBe(50);
  expect(below.nodes).toBe(2);
  expect(match(t, pattern("nothing") as Pattern).value).toBe(0);
});
