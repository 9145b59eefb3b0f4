import { expect, test } from "vitest";
import { sourceRows } from "./sourcerows";

const values = [
  { line: 0, self: 1, total: 1 },
  { line: 2, self: 4, total: 9 },
  { line: 9, self: 0, total: 2 },
];

test("without a text: the lines that have a value", () => {
  expect(sourceRows(values, "").map((r) => [r.line, r.self, r.total])).toEqual([
    [0, 1, 1],
    [2, 4, 9],
    [9, 0, 2],
  ]);
});

test("with a text: all of its lines, and what lies outside of it", () => {
  expect(sourceRows(values, "a {\r\n\tb()\n}\n")).toEqual([
    { line: 1, text: "a {", self: 0, total: 0 },
    { line: 2, text: "    b()", self: 4, total: 9 },
    { line: 3, text: "}", self: 0, total: 0 },
    { line: 0, text: "", self: 1, total: 1 },
    { line: 9, text: "", self: 0, total: 2 },
  ]);
});
