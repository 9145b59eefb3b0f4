// Folded text, both ways: docs/formats/folded.md. One line per stack, root first, "a;b;c VALUE".

import { SampleTable, samplesType, type Samples } from "./stacks";
import { FrameKind, frameOf, type FlameTree, type Frame } from "./tree";
import { TreeBuilder } from "./treebuild";

// FoldedError says which line is not folded text, and what was wanted there.
export class FoldedError extends Error {
  constructor(line: number, message: string) {
    super(`line ${line}: ${message}`);
    this.name = "FoldedError";
  }
}

const kernelMark = "_[k]";
const unwindMark = "[unwind: ";
const noStack = "[no stack]";
const unknown = "[unknown]";
// The mapping that kernel frames lie in.
export const kernelFile = "[kernel.kallsyms]";

// eachFolded calls stack for each line with the names as they are written, root first, and returns the number of the
// last line; before is how many lines came before text. A sample without a stack has no names.
export function eachFolded(text: string, before: number, stack: (names: readonly string[], value: number) => void): number {
  let line = before;
  for (let at = 0; at < text.length; ) {
    const newline = text.indexOf("\n", at);
    const next = newline < 0 ? text.length : newline;
    const end = text.charCodeAt(next - 1) === 13 && next > at ? next - 1 : next;
    line++;
    const begin = at;
    at = next + 1;
    if (end === begin || text.charCodeAt(begin) === 35) continue;
    const space = text.lastIndexOf(" ", end - 1);
    if (space < begin) throw new FoldedError(line, 'want "a;b;c VALUE", there is no space');
    const number = text.slice(space + 1, end);
    if (!isInt64(number)) throw new FoldedError(line, `want a whole number after the last space, not ${JSON.stringify(number.slice(0, 40))}`);
    const names = text.slice(begin, space);
    stack(names === noStack ? [] : names.split(";"), Number(number));
  }
  return line;
}

function isInt64(text: string): boolean {
  if (!/^[+-]?\d+$/.test(text)) return false;
  if (text.length < 16) return true;
  const v = BigInt(text.replace("+", ""));
  return v >= -(2n ** 63n) && v < 2n ** 63n;
}

// foldedFrame returns what a written name stands for; first says that it is the root's child.
export function foldedFrame(written: string, first: boolean): Frame {
  const frame = { file: "", mapping: "", kind: FrameKind.NATIVE, inlined: false, startLine: 0 };
  if (first && written.startsWith(unwindMark)) return { ...frame, name: unescape(written), kind: FrameKind.UNWIND };
  if (!written.endsWith(kernelMark)) return { ...frame, name: unescape(written === "" ? unknown : written) };
  const name = written.slice(0, -kernelMark.length);
  return { ...frame, name: unescape(name === "" ? unknown : name), mapping: kernelFile, kind: FrameKind.KERNEL };
}

// How much text is decoded at a time; no line may be longer.
const maxLine = 16 * 2 ** 20;

// readFolded reads a file. Such text does not say what it counts: its values are taken for samples.
export function readFolded(bytes: Uint8Array): Samples {
  const table = new SampleTable([samplesType]);
  const none = table.labels([]);
  // By what is written; of the root's children, which may be marks, and of all others.
  const locations = [new Map<string, number>(), new Map<string, number>()] as const;
  const stack: number[] = [];
  const decoder = new TextDecoder();
  let line = 0;
  for (let at = 0; at < bytes.length; ) {
    let end = Math.min(bytes.length, at + maxLine);
    if (end < bytes.length) {
      end = bytes.lastIndexOf(10, end - 1) + 1;
      if (end <= at) throw new FoldedError(line + 1, `longer than ${maxLine} bytes`);
    }
    line = eachFolded(decoder.decode(bytes.subarray(at, end)), line, (names, value) => {
      for (let i = 0; i < names.length; i++) {
        const written = names[i] as string;
        const known = locations[i === 0 ? 0 : 1];
        let l = known.get(written);
        if (l === undefined) {
          l = table.location([table.frame(foldedFrame(written, i === 0))], [0]);
          known.set(written, l);
        }
        stack[i] = l;
      }
      table.sample(table.stack(stack, names.length), none, [value]);
    });
    at = end;
  }
  return table.done({ timeMillis: 0, durationNanos: 0, period: 0, comments: [], defaultType: -1 });
}

const escapes: Readonly<Record<string, string>> = { "0a": "\n", "0d": "\r", "23": "#", "3b": ";", "5b": "[", "5c": "\\" };

function unescape(text: string): string {
  return text.includes("\\x") ? text.replace(/\\x(0a|0d|23|3b|5b|5c)/g, (_, code: string) => escapes[code] as string) : text;
}

function escape(name: string): string {
  return name.replace(/;|\n|\r|\\x/g, (c) => (c === ";" ? "\\x3b" : c === "\n" ? "\\x0a" : c === "\r" ? "\\x0d" : "\\x5cx"));
}

// foldedName is how a frame is written.
export function foldedName(f: Frame): string {
  let name = escape(f.name);
  if (f.kind === FrameKind.UNWIND) return name.startsWith(unwindMark) ? name : `${unwindMark}${name.replace(/^[[\]]+|[[\]]+$/g, "")}]`;
  if (name === "") name = unknown;
  else if (name.startsWith(unwindMark) || name === noStack) name = `\\x5b${name.slice(1)}`;
  if (f.kind === FrameKind.KERNEL) return name + kernelMark;
  return name.endsWith(kernelMark) ? `${name.slice(0, -3)}\\x5bk]` : name;
}

// writeFolded writes the tree: lines in the order of a depth-first walk, stacks of equal text as one.
export function writeFolded(t: FlameTree): string {
  if (t.count === 0) return "";
  const written = byText(t);
  const out: string[] = [];
  const path: string[] = [];
  for (let i = 0; i < written.count; i++) {
    const depth = written.depth[i] as number;
    if (i > 0) {
      const name = frameOf(written, i).name;
      path.length = depth - 1;
      path.push(depth > 1 ? `${path[depth - 2]};${name}` : name.startsWith("#") ? `\\x23${name.slice(1)}` : name);
    }
    const value = written.self[i] as number;
    if (value !== 0) out.push(`${i === 0 ? noStack : path[depth - 1]} ${whole(value)}\n`);
  }
  return out.join("");
}

// whole writes a whole number without an exponent.
function whole(value: number): string {
  return Number.isSafeInteger(value) ? value.toString() : BigInt(Math.round(value)).toString();
}

// byText returns the tree of what folded text shows of the frames of t.
function byText(t: FlameTree): FlameTree {
  const ids = new Map<string, number>();
  const frames: Frame[] = [];
  const rename = Uint32Array.from(t.frames, (f) => {
    const name = f.kind === FrameKind.ROOT ? "" : foldedName(f);
    const known = ids.get(name);
    if (known !== undefined) return known;
    ids.set(name, frames.length);
    return frames.push({ ...f, name, file: "", mapping: "", inlined: false, startLine: 0 }) - 1;
  });
  const b = new TreeBuilder(frames, rename[t.frame[0] as number] as number);
  b.add(0, t.self[0] as number);
  for (let c = 1; c < t.count; c = t.end[c] as number) b.graft(0, t, c, rename);
  const { unit, stackCount, seriesCount, stacksCut } = t;
  return b.tree({ unit, stackCount, seriesCount, stacksCut }).tree;
}
