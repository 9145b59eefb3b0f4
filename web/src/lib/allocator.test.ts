import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { foldAllocators, isAllocator } from "./allocator";
import { readFolded, writeFolded } from "./folded";
import { treeOf } from "./merge";
import { FrameKind } from "./tree";

// The names are those that the server's rules are tested with.
const source = readFileSync(new URL("../../../profile/allocator_test.go", import.meta.url), "utf8");
const kinds: Readonly<Record<string, FrameKind>> = {
  Native: FrameKind.NATIVE,
  Kernel: FrameKind.KERNEL,
  JIT: FrameKind.JIT,
  Interpreted: FrameKind.INTERPRETED,
  Unwind: FrameKind.UNWIND,
  Label: FrameKind.LABEL,
};

test("who is an allocator", () => {
  let names = 0;
  for (const [, kind, verdict, list] of source.matchAll(/\bf\(Kind(\w+), (true|false),((?:\s*"[^"\\]*",?)+)\)/g)) {
    for (const [, name] of (list as string).matchAll(/"([^"]*)"/g)) {
      names++;
      expect(`${name} ${isAllocator(name as string, kinds[kind as string] as FrameKind)}`).toBe(`${name} ${verdict}`);
    }
  }
  expect(names).toBeGreaterThan(80);
});

test("what ends in an allocator counts for its caller", () => {
  const f = (want: string, ...lines: string[]): void => {
    const t = treeOf(readFolded(new TextEncoder().encode(lines.join("\n"))), { type: 0, label: undefined });
    const folded = foldAllocators(t);
    expect(writeFolded(folded)).toBe(want);
    expect(folded.total[0]).toBe(t.total[0]);
  };
  f("main;grow 12\n", "main;grow;runtime.makeslice;runtime.mallocgc 7", "main;grow 2", "main;grow;runtime.mallocgc 3");
  f("main;a 5\nmain;a;malloc;hook 3\n", "main;a;malloc;hook;malloc 1", "main;a;malloc;hook 2", "main;a;malloc 5");
  f("runtime.main;main.main 6\nruntime.main;runtime.mallocgc 4\n", "runtime.main;runtime.mallocgc 4", "runtime.main;main.main;runtime.mallocgc 6");
  f("[unwind: gone];f 4\n[unwind: gone];malloc 3\n", "[unwind: gone];malloc 3", "[unwind: gone];f;malloc 4");
  f("main;work 3\n", "main;work 3");
});
