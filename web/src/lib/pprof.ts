// pprof's profile.proto, both ways: docs/formats/pprof.md. Read as the server reads it: entries are decoded when a
// sample refers to them, and what is wrong in those that nobody needs is no error.

import { kernelFile } from "./folded";
import { baseName } from "./names";
import { noLine, SampleTable, type Label, type ProfileType, type Samples } from "./stacks";
import { FrameKind, type Frame } from "./tree";
import { Field, Message, WireError } from "./wire";

// PprofError says what in a file is not as pprof has it.
export class PprofError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "PprofError";
  }
}

// Numbers are an entry's id, or a reference to one; above 2^53 bigints, so that no two are the same.
type Id = number | bigint;

function idOf(f: Field): Id {
  return f.high < 2 ** 21 ? f.unsigned : f.big;
}

// What a file's tables hold, not yet decoded: where each entry lies.
class Table {
  readonly starts: number[] = [];
  readonly stops: number[] = [];
  // Ids are 1, 2, 3, ... in all but odd files: entry + 1 by id.
  private dense = new Uint32Array();
  private readonly sparse = new Map<Id, number>();

  constructor(private readonly what: string) {}

  add(f: Field): void {
    this.starts.push(f.start);
    this.stops.push(f.stop);
  }

  index(f: Field): void {
    this.dense = new Uint32Array(this.starts.length + 1);
    this.starts.forEach((_, i) => {
      let id: Id = 0;
      for (this.open(f, i); f.next(); ) if (f.number === 1) id = idOf(f);
      if (id === 0) throw new PprofError(`${this.what} ${i} has no id`);
      if (this.find(id) >= 0) throw new PprofError(`two ${this.what}s have the id ${id}`);
      if (typeof id === "number" && id < this.dense.length) this.dense[id] = i + 1;
      else this.sparse.set(id, i + 1);
    });
  }

  open(f: Field, entry: number): Field {
    return f.over(this.starts[entry] as number, this.stops[entry] as number);
  }

  // find returns the number of the entry with that id, or -1.
  find(id: Id): number {
    if (typeof id === "number" && id < this.dense.length) return (this.dense[id] as number) - 1;
    return (this.sparse.get(id) ?? 0) - 1;
  }
}

interface Fn {
  readonly name: string;
  readonly file: string;
  readonly startLine: number;
  // It says nothing at all.
  readonly empty: boolean;
}

interface Mapping {
  readonly file: string;
  readonly kernel: boolean;
  readonly empty: boolean;
  readonly start: bigint;
  readonly offset: bigint;
}

const noMapping: Mapping = { file: "", kernel: false, empty: true, start: 0n, offset: 0n };
const maxTypes = 64;
// Programs linked to a fixed place lie below: their addresses are the file's own.
const fixed = 256n << 20n;
const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const lenient = new TextDecoder("utf-8", { ignoreBOM: true });

// readPprof reads an unpacked pprof.
export function readPprof(data: Uint8Array): Samples {
  try {
    return new Reader(data).read();
  } catch (e) {
    if (!(e instanceof WireError)) throw e;
    throw new PprofError(`${e.message}, so its data is damaged`);
  }
}

class Reader {
  private readonly strings = new Table("string");
  private readonly texts: (string | undefined)[] = [];
  private readonly mappings = new Table("mapping");
  private readonly locations = new Table("location");
  private readonly functions = new Table("function");
  private readonly types: { start: number; stop: number }[] = [];
  private period = { start: 0, stop: 0 };
  private samples = 0;
  private timeNanos = 0;
  private durationNanos = 0;
  private periodLength = 0;
  private defaultType: Id = 0;
  private readonly comments: Id[] = [];

  // One walk for each level of messages.
  private readonly outer: Field;
  private readonly inner: Field;
  private readonly innermost: Field;

  // By entry: what it became.
  private readonly knownMappings: (Mapping | undefined)[] = [];
  private readonly knownFunctions: (Fn | undefined)[] = [];
  private knownLocations = new Int32Array();
  // By content: entries that say the same are one.
  private readonly places = new Map<string, number>();
  private readonly labelSets = new Map<string, number>();

  constructor(private readonly data: Uint8Array) {
    this.outer = new Field(data);
    this.inner = new Field(data);
    this.innermost = new Field(data);
  }

  read(): Samples {
    if (this.data.length === 0) throw new PprofError("it is empty");
    this.scan();
    const types = this.profileTypes();
    const table = new SampleTable(types);
    this.knownLocations = new Int32Array(this.locations.starts.length);
    for (const f = this.outer.over(0, this.data.length); f.next(); ) {
      if (f.number === 2 && f.packed) this.sample(table, f.start, f.stop);
    }
    const usual = this.text(this.defaultType, "the default sample type");
    return table.done({
      timeMillis: Math.max(0, this.timeNanos) / 1e6,
      durationNanos: Math.max(0, this.durationNanos),
      period: Math.max(0, this.periodLength),
      comments: this.comments.map((c) => this.text(c, "a comment")).filter((c) => c !== ""),
      defaultType: types.findIndex((t) => t.sampleType === usual && usual !== ""),
    });
  }

  // scan finds the tables.
  private scan(): void {
    const f = this.outer;
    try {
      for (f.over(0, this.data.length); f.next(); ) {
        if (f.packed) {
          if (f.number === 1) this.types.push({ start: f.start, stop: f.stop });
          else if (f.number === 2) this.samples++;
          else if (f.number === 3) this.mappings.add(f);
          else if (f.number === 4) this.locations.add(f);
          else if (f.number === 5) this.functions.add(f);
          else if (f.number === 6) this.strings.add(f);
          else if (f.number === 11) this.period = { start: f.start, stop: f.stop };
          else if (f.number === 13) f.each(() => this.comments.push(idOf(f)));
        } else if (f.number === 9) this.timeNanos = f.signed;
        else if (f.number === 10) this.durationNanos = f.signed;
        else if (f.number === 12) this.periodLength = f.signed;
        else if (f.number === 13) this.comments.push(idOf(f));
        else if (f.number === 14) this.defaultType = idOf(f);
        
      }
    } catch (e) {
      if (!(e instanceof WireError)) throw e;
      if (this.types.length === 0 || this.samples === 0) throw new PprofError("its data is not a pprof");
      throw new PprofError(`it ends early: ${e.message}`);
    }
    if (this.types.length + this.samples + this.strings.starts.length === 0) throw new PprofError("its data is not a pprof");
    if (this.strings.starts.length > 0 && this.strings.starts[0] !== this.strings.stops[0]) throw new PprofError("string 0 is not empty");
    for (const t of [this.mappings, this.locations, this.functions]) t.index(this.inner);
  }

  private text(id: Id, what: string): string {
    const { starts, stops } = this.strings;
    if (id === 0 && starts.length === 0) return "";
    if (id >= starts.length) throw new PprofError(`${what}: string ${id} of ${starts.length}`);
    const i = Number(id);
    return (this.texts[i] ??= decode(this.data.subarray(starts[i], stops[i])));
  }

  // pair reads a message of two strings, such as ValueType.
  private pair({ start, stop }: { start: number; stop: number }, what: string): [string, string] {
    let a = "";
    let b = "";
    for (const f = this.inner.over(start, stop); f.next(); ) {
      if (f.number === 1) a = this.text(idOf(f), what);
      else if (f.number === 2) b = this.text(idOf(f), what);
    }
    return [a, b];
  }

  private profileTypes(): ProfileType[] {
    if (this.types.length > maxTypes) throw new PprofError(`${this.types.length} sample types, the limit is ${maxTypes}`);
    if (this.types.length === 0 && this.samples > 0) throw new PprofError("there are samples, but no sample types");
    const part = (s: string): string => s.replaceAll(":", "_");
    const [period, periodUnit] = this.pair(this.period, "the period's type");
    const parts = this.types.map((t, i) => this.pair(t, `sample type ${i}`)).map(([type, unit]) => [part(type === "" ? "unknown" : type), part(unit)] as const);
    parts.forEach(([type, unit], i) => {
      if (parts.findIndex(([t, u]) => t === type && u === unit) !== i) throw new PprofError(`the sample type ${type}:${unit} occurs twice`);
    });
    const name = part(profileName(parts.map(([type]) => type), part(period), period));
    return parts.map(([sampleType, sampleUnit]) => ({
      id: [name, sampleType, sampleUnit, part(period), part(periodUnit)].join(":"),
      name,
      sampleType,
      sampleUnit,
      periodType: part(period),
      periodUnit: part(periodUnit),
    }));
  }

  // Of the sample at hand: locations, the leaf first, values, and keys and values of labels.
  private readonly stack: number[] = [];
  private readonly values: number[] = [];
  private readonly labelIds: Id[] = [];

  private sample(table: SampleTable, start: number, stop: number): void {
    const { stack, values } = this;
    stack.length = values.length = this.labelIds.length = 0;
    const f = this.inner;
    const leafFirst = (): void => {
      const id = idOf(f);
      const n = this.locations.find(id);
      if (n < 0) throw new PprofError(`a sample refers to location ${id}, which does not exist`);
      let known = this.knownLocations[n] as number;
      if (known === 0) known = this.knownLocations[n] = this.location(table, n) + 1;
      stack.push(known - 1);
    };
    const value = (): void => {
      values.push(f.signed);
    };
    for (f.over(start, stop); f.next(); ) {
      if (f.number === 1) f.each(leafFirst);
      else if (f.number === 2) f.each(value);
      else if (f.number === 3 && f.packed) this.label(f.start, f.stop);
    }
    if (values.length !== this.types.length) throw new PprofError(`a sample has ${values.length} values, there are ${this.types.length} sample types`);
    stack.reverse();
    table.sample(table.stack(stack, stack.length), this.labels(table), values);
  }

  // label notes a label if it is a string. Of several values for a name the first counts.
  private label(start: number, stop: number): void {
    let key: Id = 0;
    let value: Id = 0;
    for (const f = this.innermost.over(start, stop); f.next(); ) {
      if (f.number === 1) key = idOf(f);
      else if (f.number === 2) value = idOf(f);
    }
    if (value === 0) return;
    for (let i = 0; i < this.labelIds.length; i += 2) if (this.labelIds[i] === key) return;
    this.labelIds.push(key, value);
  }

  private labels(table: SampleTable): number {
    const key = this.labelIds.join();
    let known = this.labelSets.get(key);
    if (known === undefined) {
      const set: Label[] = [];
      for (let i = 0; i < this.labelIds.length; i += 2) {
        const name = this.text(this.labelIds[i] as Id, "a label's name");
        set.push({ name, value: this.text(this.labelIds[i + 1] as Id, `the label ${name}`) });
      }
      // A span's ids are a sample's own: nobody looks for one in a list.
      known = table.labels(set.filter((l) => !/^(trace|span)_id$/.test(l.name)));
      this.labelSets.set(key, known);
    }
    return known;
  }

  private location(table: SampleTable, entry: number): number {
    let mapping = noMapping;
    let mappingId: Id = 0;
    let address = 0n;
    const lines: { fn: Fn; line: number }[] = [];
    const f = this.innermost;
    const nested = new Field(this.data);
    for (this.locations.open(f, entry); f.next(); ) {
      if (f.number === 2) mappingId = idOf(f);
      else if (f.number === 3) address = f.big;
      else if (f.number === 4 && f.packed) {
        const l = this.line(nested.over(f.start, f.stop));
        if (l !== undefined) lines.push(l);
      }
    }
    if (mappingId !== 0) mapping = this.mapping(mappingId, nested);
    if (!mapping.kernel && mapping.start >= fixed && address >= mapping.start) address = BigInt.asUintN(64, address - mapping.start + mapping.offset);
    const kind = mapping.kernel
      ? FrameKind.KERNEL
      : lines.length === 1 && mapping.empty && (lines[0] as { fn: Fn }).fn.name.startsWith("[unwind: ")
        ? FrameKind.UNWIND
        : FrameKind.NATIVE;
    const shown = (name: string, file: string, startLine: number, inlined: boolean): Frame => ({ name, file, mapping: mapping.file, kind, inlined, startLine });
    // The function that was really called comes last in the file, and first here.
    const frames =
      lines.length === 0
        ? [table.frame(shown(unnamed(mapping.file, kind, address), "", 0, false))]
        : lines.map(({ fn }, i) => table.frame(fn.name === "" ? shown(unnamed(mapping.file, kind, address), "", fn.startLine, i < lines.length - 1) : shown(fn.name, fn.file, fn.startLine, i < lines.length - 1))).reverse();
    const numbers = lines.length === 0 ? [noLine] : lines.map(({ fn, line }) => (fn.name === "" ? noLine : line)).reverse();
    const key = `${mapping.file} ${address} ${kind} ${frames.join()} ${numbers.join()}`;
    let known = this.places.get(key);
    if (known === undefined) {
      known = table.location(frames, numbers);
      this.places.set(key, known);
    }
    return known;
  }

  // line returns undefined for one that says nothing.
  private line(f: Field): { fn: Fn; line: number } | undefined {
    let id: Id = 0;
    let line = 0;
    while (f.next()) {
      if (f.number === 1) id = idOf(f);
      else if (f.number === 2) line = lineNumber(f);
    }
    if (id === 0) return undefined;
    const n = this.functions.find(id);
    if (n < 0) throw new PprofError(`function ${id} does not exist`);
    const fn = (this.knownFunctions[n] ??= this.fn(n, id));
    return fn.empty ? undefined : { fn, line };
  }

  private fn(entry: number, id: Id): Fn {
    let name = "";
    let system = "";
    let file = "";
    let startLine = 0;
    const what = `function ${id}`;
    for (const f = this.functions.open(new Field(this.data), entry); f.next(); ) {
      if (f.number === 2) name = this.text(idOf(f), what);
      else if (f.number === 3) system = this.text(idOf(f), what);
      else if (f.number === 4) file = this.text(idOf(f), what);
      else if (f.number === 5) startLine = lineNumber(f);
    }
    if (name === "") name = system;
    return { name, file, startLine, empty: name === "" && file === "" && startLine === 0 };
  }

  // mapping returns a mapping; one that is not in the table says nothing.
  private mapping(id: Id, f: Field): Mapping {
    const n = this.mappings.find(id);
    if (n < 0) return noMapping;
    const known = this.knownMappings[n];
    if (known !== undefined) return known;
    let start = 0n;
    let offset = 0n;
    let file = "";
    let buildId = "";
    for (this.mappings.open(f, n); f.next(); ) {
      if (f.number === 2) start = f.big;
      else if (f.number === 4) offset = f.big;
      else if (f.number === 5) file = this.text(idOf(f), `mapping ${id}`);
      else if (f.number === 6) buildId = this.text(idOf(f), `mapping ${id}`);
    }
    const kernel = file.startsWith("[kernel");
    // Converters of perf's files append the name of a symbol.
    if (file.startsWith(kernelFile)) file = kernelFile;
    return (this.knownMappings[n] = { file, kernel, empty: file === "" && buildId === "", start, offset });
  }
}

function lineNumber(f: Field): number {
  return f.high > 0 || f.low >= 2 ** 31 ? 0 : f.low;
}

// decode repairs what is not UTF-8: a run of such bytes becomes one replacement character.
function decode(bytes: Uint8Array): string {
  try {
    return strict.decode(bytes);
  } catch {
    return lenient.decode(bytes).replace(/\ufffd+/g, "\ufffd");
  }
}

// unnamed is the name of a frame of which only the address is known.
function unnamed(file: string, kind: FrameKind, address: bigint): string {
  const hex = `0x${address.toString(16)}`;
  if (file !== "") return `${baseName(file)}+${hex}`;
  if (kind === FrameKind.UNWIND) return "[unwind: unknown reason]";
  return address === 0n ? "[unknown]" : hex;
}

// profileName tells what kind of profile it is, as the server calls it.
function profileName(types: readonly string[], period: string, periodAsWritten: string): string {
  const has = (...names: string[]): boolean => types.some((t) => names.includes(t));
  if (has("cpu") || period === "cpu") return "process_cpu";
  if (has("inuse_space", "inuse_objects", "alloc_space", "alloc_objects") || period === "space") return "memory";
  if (has("contentions")) return "contention";
  if (has("goroutine") || period === "goroutine") return "goroutine";
  return periodAsWritten !== "" ? periodAsWritten : (types[0] ?? "unknown");
}

// onlySamples copies an unpacked pprof with those of its samples that keep says, by number; everything else stays as it
// is, also what is referred to no more.
export function onlySamples(data: Uint8Array, keep: (sample: number) => boolean): Uint8Array<ArrayBuffer> {
  const out = new Message();
  let sample = 0;
  let from = 0;
  let to = 0;
  for (const f = new Field(data); f.next(); from = to) {
    to = f.position;
    if (f.number !== 2 || !f.packed || keep(sample++)) out.raw(data.subarray(from, to));
  }
  return out.done();
}

// writePprof writes samples that did not come as one; keep is by number.
export function writePprof(s: Samples, keep: (sample: number) => boolean): Uint8Array<ArrayBuffer> {
  const strings = new Map<string, number>([["", 0]]);
  const id = (text: string): number => {
    let i = strings.get(text);
    if (i === undefined) {
      i = strings.size;
      strings.set(text, i);
    }
    return i;
  };
  const out = new Message();
  for (const t of s.types) out.bytes(1, new Message().number(1, id(t.sampleType)).number(2, id(t.sampleUnit)).done());
  const used = new Uint8Array(s.locationStart.length - 1);
  for (let i = 0; i < s.count; i++) {
    if (!keep(i)) continue;
    const stack = s.stackOf[i] as number;
    // A pprof has the leaf first.
    const locations = s.stackLocations.slice(s.stackStart[stack], s.stackStart[stack + 1]).reverse();
    for (const l of locations) used[l] = 1;
    const sample = new Message().numbers(1, locations.map((l) => l + 1)).numbers(2, s.values.map((column) => column[i] as number));
    for (const l of s.labelSets[s.labelsOf[i] as number] ?? []) sample.bytes(3, new Message().number(1, id(l.name)).number(2, id(l.value)).done());
    out.bytes(2, sample.done());
  }
  const mappings = new Map<string, number>();
  const functions = new Set<number>();
  used.forEach((u, l) => {
    if (u === 0) return;
    const frames = s.locationFrames.slice(s.locationStart[l], s.locationStart[l + 1]);
    const file = s.frames[frames[0] as number]?.mapping ?? "";
    if (file !== "" && !mappings.has(file)) mappings.set(file, mappings.size + 1);
    const location = new Message().number(1, l + 1).number(2, mappings.get(file) ?? 0);
    for (let k = frames.length - 1; k >= 0; k--) {
      const f = frames[k] as number;
      functions.add(f);
      location.bytes(4, new Message().number(1, f).number(2, s.lines[(s.locationStart[l] as number) + k] as number).done());
    }
    out.bytes(4, location.done());
  });
  for (const [file, n] of mappings) out.bytes(3, new Message().number(1, n).number(5, id(file)).number(7, 1).done());
  for (const f of functions) {
    const { name, file, startLine } = s.frames[f] as Frame;
    out.bytes(5, new Message().number(1, f).number(2, id(name)).number(3, id(name)).number(4, id(file)).number(5, startLine).done());
  }
  const { periodType, periodUnit } = s.types[0] ?? { periodType: "", periodUnit: "" };
  out.bytes(11, new Message().number(1, id(periodType)).number(2, id(periodUnit)).done());
  out.number(9, Math.round(s.facts.timeMillis * 1e6)).number(10, Math.round(s.facts.durationNanos)).number(12, s.facts.period);
  const utf8 = new TextEncoder();
  for (const text of strings.keys()) out.bytes(6, utf8.encode(text));
  return out.done();
}
