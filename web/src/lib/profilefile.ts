// A file that somebody chose, as samples: which of the formats it is, and if it is none, what to do about it.

import { FoldedError, readFolded } from "./folded";
import { gunzip, GzipError, isGzip } from "./gzip";
import { PprofError, readPprof } from "./pprof";
import { isSpeedscope, readSpeedscope, SpeedscopeError } from "./speedscope";
import type { Samples } from "./stacks";
import { TreeError } from "./tree";
import { formatValue } from "./units";

export type Format = "pprof" | "folded" | "speedscope";

export interface ProfileFile {
  readonly format: Format;
  readonly samples: Samples;
  // Unpacked.
  readonly data: Uint8Array<ArrayBuffer>;
}

// FileError says what is wrong with a file, and what to do.
export class FileError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "FileError";
  }
}

// More is not read: the samples of a profile take several times its size of memory.
export const maxBytes = 512 * 2 ** 20;
// A speedscope file is one JSON text, and a browser's texts end at about half a billion characters.
const maxText = 256 * 2 ** 20;

// readProfile reads a file, gzip-compressed or not. Throws FileError.
export async function readProfile(packed: Uint8Array<ArrayBuffer>): Promise<ProfileFile> {
  const tooLarge = new FileError(`It is larger than ${formatValue(maxBytes, "bytes")} unpacked, more than a page can hold. Look at it with go tool pprof, or record for a shorter time.`);
  if (packed.length > maxBytes) throw tooLarge;
  try {
    const data = isGzip(packed) ? await gunzip(packed, maxBytes) : packed;
    return { ...parse(data), data };
  } catch (e) {
    if (e instanceof GzipError && e.why === "large") throw tooLarge;
    if (e instanceof GzipError && e.why === "truncated") throw new FileError("It is cut off: its gzip data ends early. Copy or download it again, or record anew.");
    if (e instanceof GzipError) throw new FileError("It is damaged or cut off: its gzip data cannot be unpacked. Copy or download it again; a transfer as text breaks it.");
    if (e instanceof PprofError) throw new FileError(`It cannot be read as pprof: ${e.message}. If it should be one, it was cut off or damaged on its way: copy or download it again.`);
    if (e instanceof SpeedscopeError) throw new FileError(`It cannot be read as speedscope's JSON: ${e.message}.`);
    if (e instanceof FoldedError) throw new FileError(`It cannot be read as folded text, which has one stack "a;b;c VALUE" on each line: ${e.message}.`);
    if (e instanceof TreeError) throw new FileError(`Its stacks are too deep to be shown: ${e.message}.`);
    throw e;
  }
}

function parse(data: Uint8Array): Omit<ProfileFile, "data"> {
  if (data.length === 0) throw new FileError("It is empty. Was the program that wrote it ended before it was done?");
  const head = new TextDecoder("latin1").decode(data.subarray(0, 4096));
  const other = others.find(([begin]) => begin.test(head));
  if (other !== undefined) throw new FileError(other[1]);
  // Every pprof has such characters in its first message; no text has.
  if (/[\0-\x08\x0e-\x1f]/.test(head)) return { format: "pprof", samples: readPprof(data) };
  if (/^[\s\xef\xbb\xbf]*[{[]/.test(head)) {
    if (data.length > maxText) throw new FileError(`It is JSON of more than ${formatValue(maxText, "bytes")}, more than the page reads. Record for a shorter time.`);
    const text = new TextDecoder().decode(data);
    if (!isSpeedscope(text) && !/"\$schema"/.test(head)) {
      throw new FileError("It is JSON, but not speedscope's. Open it in the tool that it is of, and save it from there as speedscope's JSON, pprof or folded text.");
    }
    return { format: "speedscope", samples: readSpeedscope(text) };
  }
  return { format: "folded", samples: readFolded(data) };
}

// How what is often taken for one of the formats begins.
const others: readonly (readonly [RegExp, string])[] = [
  [/^FLR\0/, "It is a recording of Java's Flight Recorder, which the page does not read by itself. Send it to a server: profilectl upload FILE."],
  [/^PERFILE2|^PERFFILE/, "It is perf's own recording. Write it as folded text (perf script, then stackcollapse-perf.pl) and open that."],
  [/^\x28\xb5\x2f\xfd|^PK\x03\x04|^BZh|^\xfd7zXZ/, "It is packed, and not with gzip. Unpack it first."],
  [/^\x7fELF/, "It is a program, not a profile of one. Record one: profilectl record -o out.pb.gz -- PROGRAM."],
  [/^\s*<(?:!doctype|html|\?xml|svg)/i, "It is a web page or a drawing, not a profile. If it was downloaded, the server may have answered with a page for signing in."],
  [/^(?:goroutine|heap|threadcreate) profile: |^--- (?:mutex|contention|threadcreate|heapz)/, "It is a profile as text for people, which Go writes with ?debug=1. Take it again without that."],
];
