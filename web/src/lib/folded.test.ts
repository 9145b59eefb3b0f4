import { describe, expect, test } from "vitest";
import { foldedFrame, FoldedError, foldedName, readFolded, writeFolded } from "./folded";
import { treeOf } from "./merge";
import { FrameKind } from "./tree";

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const again = (text: string): string => writeFolded(treeOf(readFolded(bytes(text)), { type: 0, label: undefined }));

describe("what is written was read", () => {
  const f = (text: string, want = text): void => {
    test(text, () => expect(again(text)).toBe(want === "" ? "" : `${want}\n`));
  };
  f("main;b;c 1");
  f("main 3\nmain;b 2\nmain;c 1");
  f("main;b 2\nmain 3\nmain;b 5", "main 3\nmain;b 7");
  f("main;read;vfs_read_[k] 7");
  f("[unwind: no unwind information];memcpy 3");
  f("[no stack] 1\nmain 1");
  f("operator new(unsigned long);std::map<int, int>::operator[](int const&) 5");
  f("A\\x3bB;C:\\dir\\file;App\\Foo 1");
  f("a\\x5cx3b 1");
  f("\\x23 not a comment 1");
  f("main;\\x5bunwind: in the middle] 1");
  f("main;fake_\\x5bk] 1");
  f("main;x -5");
  f("# a comment\n\nmain 1\r\n", "main 1");
  f(";a 1", "[unknown];a 1");
  f("main;x 0", "");
  f("a 1\na 2\nb 9007199254740993", "a 3\nb 9007199254740992");
  // Lines are in the order of bytes, which is not that of UTF-16.
  f("\u{1f525} 1\n\uff21 1", "\uff21 1\n\u{1f525} 1");
});

test("names that hold the text's own marks come back", () => {
  for (const name of ["a;b", "a\\x3bb", "a\nb\r", "#a", "[unwind: fake]", "[no stack]", "f_[k]", "\\", "\\x", "\\x5c", " a  b ", "é"]) {
    for (const kind of [FrameKind.NATIVE, FrameKind.KERNEL]) {
      const written = foldedName({ name, file: "", mapping: "", kind, inlined: false, startLine: 0 });
      expect(foldedFrame(written, true)).toMatchObject({ name, kind });
      expect(again(`x;${written} 2`)).toBe(`x;${written} 2\n`);
    }
  }
});

test("errors name the line", () => {
  const f = (text: string, want: string): void => {
    expect(() => again(text)).toThrow(FoldedError);
    expect(() => again(text)).toThrow(want);
  };
  f("main;a 1\nmain", 'line 2: want "a;b;c VALUE"');
  f("main x", 'line 1: want a whole number after the last space, not "x"');
  f("main 1.5", 'not "1.5"');
  f("a 9223372036854775807\n#\nmain 99999999999999999999", "line 3");
});

test("lines are counted and cut right where blocks of text meet", () => {
  // A line of a bit more than a third of what is decoded at a time: blocks end inside of lines.
  const long = "x".repeat(6_000_000);
  const text = Array.from({ length: 5 }, (_, i) => `é${long};f${i} ${i + 1}`).join("\n");
  const t = treeOf(readFolded(bytes(text)), { type: 0, label: undefined });
  expect([t.total[0], t.count]).toEqual([15, 7]);
  expect(() => readFolded(bytes(`${text}\nbad`))).toThrow("line 6:");
  expect(() => readFolded(bytes(`a 1\n${"y".repeat(17 * 2 ** 20)} 1\n`))).toThrow("line 2: longer");
});
