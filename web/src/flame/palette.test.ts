import { expect, test } from "vitest";
import { foldedTree } from "../../e2e/fixture/folded";
import { decodeTree, FrameKind } from "../lib/tree";
import { byFrame, colours, slot, slotOf, slots } from "./palette";

const frame = (name: string, kind = FrameKind.NATIVE, mapping = "/bin/app") => ({ name, file: "", mapping, kind, inlined: false, startLine: 0 });

const tokens = { lightness: 0.8, chroma: 0.06, text: "", kernel: "k", unwind: "u", cut: "c", root: "r", match: "", matchText: "", dim: "", dimText: "", dust: "", gap: "", hatch: "", cursor: "" };

test("one package, one colour, today and tomorrow", () => {
  expect(slotOf(frame("net/http.Serve"), "package")).toBe(slotOf(frame("net/http.(*conn).serve"), "package"));
  // A change of this number recolours every graph that people know.
  expect(slotOf(frame("net/http.Serve"), "package")).toMatchInlineSnapshot(`9`);
});
test("by binary, functions of one file agree", () => {
  expect(slotOf(frame("a.b"), "binary")).toBe(slotOf(frame("c.d"), "binary"));
  expect(slotOf(frame("a.b"), "binary")).not.toBe(slotOf(frame("a.b", FrameKind.NATIVE, "/lib/libc.so.6"), "binary"));
});
test("what is not the application's code has slots of its own", () => {
  expect(slotOf(frame("vfs_read", FrameKind.KERNEL), "package")).toBe(slot.kernel);
  expect(slotOf(frame("[unwind: x]", FrameKind.UNWIND), "binary")).toBe(slot.unwind);
  expect(slotOf(frame("(small)", FrameKind.CUT), "package")).toBe(slot.cut);
  expect(slotOf(frame("main"), "package")).toBeGreaterThanOrEqual(slot.firstHue);
});
test("each slot has a colour and no two are the same", () => {
  expect(new Set(colours(tokens)).size).toBe(slots);
});
test("a node looks as its frame does, and what is not code is hatched", () => {
  const t = decodeTree(foldedTree("main.a;main.b 1\nmain.b 2\nmain.a;(small) 1\n[unwind: no map] 1"));
  const c = byFrame(t, "package");
  const swatches = c.swatches(tokens);
  const looks = Array.from(c.slots, (s) => `${s < slot.firstHue ? (swatches[s]?.fill ?? "none") : s}${swatches[s]?.hatch === true ? " hatched" : ""}`);
  const main = String(slotOf(frame("main.a"), "package"));
  expect(looks).toEqual(["r", "u hatched", main, "c hatched", main, main]);
});
