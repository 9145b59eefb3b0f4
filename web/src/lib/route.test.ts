import { expect, test } from "vitest";
import { linkTo, pageAt } from "./route";

test("paths name pages", () => {
  expect(pageAt("/")).toBe("/");
  expect(pageAt("//")).toBe("/");
  expect(pageAt("/no/such/page")).toBe("/");
  expect(pageAt("/fleet")).toBe("/fleet");
  expect(pageAt("/fleet/")).toBe("/fleet");
});

test("a link takes along what all pages understand", () => {
  expect(linkTo("/", "")).toBe("/");
  expect(linkTo("/", "?type=cpu&q=%7Ba%3D%22b%22%7D&from=now-1h&zoom=main&theme=dark")).toBe("/?type=cpu&q=%7Ba%3D%22b%22%7D&from=now-1h&theme=dark");
});
