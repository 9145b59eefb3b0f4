import { expect, test } from "vitest";
import { findLabel, formatFile, labelText, parseFile } from "./filestate";

test("a view of a file is its URL", () => {
  const search = "?type=cpu&search=main&label=span_name%3DGET+%2Fa%3Db";
  expect(parseFile(search)).toMatchObject({ type: "cpu", search: "main", label: "span_name=GET /a=b" });
  expect(formatFile(parseFile(search))).toBe(search);
  expect(formatFile(parseFile(""))).toBe("");
});
test("a label is found by its text, whatever signs are in it", () => {
  const labels = [{ name: "a", values: ["b", "b=c"] }, { name: "a=b", values: ["d"] }];
  for (const l of [{ name: "a", value: "b=c" }, { name: "a=b", value: "d" }]) expect(findLabel(labels, labelText(l))).toEqual(l);
  expect(findLabel(labels, "a=z")).toBeUndefined();
  expect(findLabel(labels, "")).toBeUndefined();
});
