import { expect, test } from "vitest";
import { formatMatcher, parseMatcher, type FrameMatcher } from "./filter";

test("conditions are read and written as profilectl has them", () => {
  const f = (text: string, want: FrameMatcher): void => {
    expect(parseMatcher(text)).toEqual(want);
    expect(formatMatcher(want)).toBe(text);
  };
  f("malloc", { field: "function", value: "malloc", regexp: true });
  f("^std::", { field: "function", value: "^std::", regexp: true });
  f("function=operator new", { field: "function", value: "operator new", regexp: false });
  f("function=~file=x", { field: "function", value: "file=x", regexp: true });
  f("binary=~libc", { field: "binary", value: "libc", regexp: true });
  f("file=/src/a.go", { field: "file", value: "/src/a.go", regexp: false });
});
