// speedscope's own file format, https://www.speedscope.app/file-format-schema.json: sampled and evented profiles in,
// a sampled one out.

import { eachFolded, foldedFrame, foldedName } from "./folded";
import { SampleTable, samplesType, type ProfileType, type Samples } from "./stacks";
import { FrameKind } from "./tree";

const schema = "https://www.speedscope.app/file-format-schema.json";
const timeUnits: Readonly<Record<string, number>> = { nanoseconds: 1, microseconds: 1e3, milliseconds: 1e6, seconds: 1e9 };

// speedscopeOf writes folded text, values in unit, as a file that speedscope opens. A name is what folded text shows,
// so a kernel frame ends in "_[k]".
export function speedscopeOf(folded: string, unit: string, name: string): string {
  const ids = new Map<string, number>();
  const frames: { name: string }[] = [];
  const samples: number[][] = [];
  const weights: number[] = [];
  let sum = 0;
  eachFolded(folded, 0, (names, value) => {
    samples.push(
      names.map((written, i) => {
        const known = ids.get(written);
        if (known !== undefined) return known;
        const f = foldedFrame(written, i === 0);
        ids.set(written, frames.length);
        return frames.push({ name: f.kind === FrameKind.KERNEL ? foldedName(f) : f.name }) - 1;
      }),
    );
    weights.push(value);
    sum += value;
  });
  return JSON.stringify({
    $schema: schema,
    exporter: "perfuse",
    name,
    activeProfileIndex: 0,
    shared: { frames },
    profiles: [{ type: "sampled", name, unit: unit in timeUnits || unit === "bytes" ? unit : "none", startValue: 0, endValue: sum, samples, weights }],
  });
}

// SpeedscopeError says what in a file is not as the format has it.
export class SpeedscopeError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "SpeedscopeError";
  }
}

// Deeper stacks are refused: an evented profile has one as long as all that is open, for each event.
const maxFrames = 4096;

// isSpeedscope says whether text looks like such a file.
export function isSpeedscope(text: string): boolean {
  return /^[\s\ufeff]*\{/.test(text) && text.includes("speedscope.app/file-format-schema");
}

// readSpeedscope reads all profiles of a file. Time counts as CPU time in nanoseconds, bytes as allocations, values
// without a unit as samples; a profile's name becomes the label profile_name.
export function readSpeedscope(text: string): Samples {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text.replace(/^\ufeff/, ""));
  } catch (e) {
    throw new SpeedscopeError(`not whole JSON: ${e instanceof Error ? e.message : String(e)}`);
  }
  const file = record(parsed, "the file");
  if (typeof file["$schema"] !== "string" || !file["$schema"].includes("speedscope")) {
    throw new SpeedscopeError(`$schema is ${JSON.stringify(file["$schema"])?.slice(0, 100)}: want speedscope's file format, not an export of another tool`);
  }
  const profiles = list(file["profiles"], "profiles").map((p, i) => record(p, `profiles[${i}]`));
  if (profiles.length === 0) throw new SpeedscopeError("it has no profiles");
  const kinds = profiles.map((p, i) => inside(`profiles[${i}]`, () => kindOf(p)));
  const types: ProfileType[] = [];
  const column = kinds.map(({ type }) => {
    const known = types.findIndex((t) => t.id === type.id);
    return known >= 0 ? known : types.push(type) - 1;
  });
  const table = new SampleTable(types);
  const locations = list(record(file["shared"], "shared")["frames"], "shared.frames").map((f, i) => {
    const frame = record(f, `shared.frames[${i}]`);
    const name = frame["name"];
    const at = frame["file"];
    const line = frame["line"];
    return table.location(
      [
        table.frame({
          name: typeof name === "string" && name !== "" ? name : "[unknown]",
          file: typeof at === "string" ? at : "",
          mapping: "",
          kind: FrameKind.NATIVE,
          inlined: false,
          startLine: 0,
        }),
      ],
      [typeof line === "number" && line > 0 && line < 2 ** 31 ? Math.floor(line) : 0],
    );
  });
  let durationNanos = 0;
  const names: string[] = [];
  profiles.forEach((p, i) =>
    inside(`profiles[${i}]`, () => {
      const { scale, time } = kinds[i] as Kind;
      const sums = p["type"] === "evented" ? evented(p, table, locations) : sampled(p, table, locations);
      const name = p["name"];
      if (typeof name === "string" && name !== "") names.push(name);
      const labels = table.labels(typeof name === "string" && name !== "" ? [{ name: "profile_name", value: name }] : []);
      const values = types.map(() => 0);
      for (const [stack, sum] of sums) {
        const value = Math.round(sum * scale);
        if (!(value < 2 ** 63)) throw new SpeedscopeError("the sum of a stack's values is more than a number can hold");
        if (value <= 0) continue;
        values[column[i] as number] = value;
        table.sample(stack, labels, values);
      }
      if (time) durationNanos = Math.max(durationNanos, (number(p["endValue"] ?? 0, "endValue") - number(p["startValue"] ?? 0, "startValue")) * scale);
    }),
  );
  const title = file["name"];
  return table.done({ timeMillis: 0, durationNanos, period: 0, defaultType: -1, comments: typeof title === "string" && title !== "" && !names.includes(title) ? [title] : [] });
}

interface Kind {
  readonly type: ProfileType;
  readonly scale: number;
  readonly time: boolean;
}

const cpu: ProfileType = { id: "process_cpu:cpu:nanoseconds:cpu:nanoseconds", name: "process_cpu", sampleType: "cpu", sampleUnit: "nanoseconds", periodType: "cpu", periodUnit: "nanoseconds" };
const allocated: ProfileType = { id: "memory:alloc_space:bytes:space:bytes", name: "memory", sampleType: "alloc_space", sampleUnit: "bytes", periodType: "space", periodUnit: "bytes" };

function kindOf(p: Record<string, unknown>): Kind {
  if (p["type"] !== "sampled" && p["type"] !== "evented") throw new SpeedscopeError(`the type ${JSON.stringify(p["type"])?.slice(0, 40)}: want sampled or evented`);
  const unit = p["unit"] ?? "";
  const nanos = typeof unit === "string" ? timeUnits[unit] : undefined;
  if (nanos !== undefined) return { type: cpu, scale: nanos, time: true };
  if (unit === "bytes") return { type: allocated, scale: 1, time: false };
  if (unit === "none" || unit === "") return { type: samplesType, scale: 1, time: false };
  throw new SpeedscopeError(`the unit ${JSON.stringify(unit)?.slice(0, 40)}: want none, nanoseconds, microseconds, milliseconds, seconds or bytes`);
}

function sampled(p: Record<string, unknown>, table: SampleTable, locations: readonly number[]): Map<number, number> {
  const samples = list(p["samples"], "samples");
  const weights = list(p["weights"], "weights");
  if (samples.length !== weights.length) throw new SpeedscopeError(`${samples.length} samples and ${weights.length} weights: want as many`);
  const sums = new Map<number, number>();
  const stack: number[] = [];
  samples.forEach((sample, i) => {
    const frames = list(sample, `samples[${i}]`);
    tooDeep(frames.length, `samples[${i}]`);
    frames.forEach((f, k) => {
      stack[k] = location(locations, f, `samples[${i}]`);
    });
    const weight = number(weights[i], `weights[${i}]`);
    if (weight < 0) throw new SpeedscopeError(`weights[${i}] is ${weight}: want 0 or more`);
    add(sums, table, stack, frames.length, weight);
  });
  return sums;
}

// evented takes the time between two events for the stack that is open then.
function evented(p: Record<string, unknown>, table: SampleTable, locations: readonly number[]): Map<number, number> {
  const sums = new Map<number, number>();
  const open: number[] = [];
  let at = number(p["startValue"] ?? 0, "startValue");
  list(p["events"], "events").forEach((event, i) => {
    const e = record(event, `events[${i}]`);
    const now = number(e["at"], `events[${i}].at`);
    if (now < at) throw new SpeedscopeError(`events[${i}] is at ${now}, after one at ${at}: want them in order`);
    if (open.length > 0) add(sums, table, open, open.length, now - at);
    at = now;
    const f = location(locations, e["frame"], `events[${i}]`);
    if (e["type"] === "O") tooDeep(open.push(f), `events[${i}]`);
    else if (e["type"] !== "C") throw new SpeedscopeError(`events[${i}] has the type ${JSON.stringify(e["type"])?.slice(0, 40)}: want O or C`);
    else if (open[open.length - 1] !== f) throw new SpeedscopeError(`events[${i}] closes frame ${String(e["frame"])}, which is not the innermost open one`);
    else open.pop();
  });
  if (open.length > 0) throw new SpeedscopeError(`${open.length} frames are never closed`);
  return sums;
}

function add(sums: Map<number, number>, table: SampleTable, stack: readonly number[], n: number, value: number): void {
  if (value === 0) return;
  const s = table.stack(stack, n);
  sums.set(s, (sums.get(s) ?? 0) + value);
}

function location(locations: readonly number[], frame: unknown, where: string): number {
  const l = typeof frame === "number" ? locations[frame] : undefined;
  if (l === undefined) throw new SpeedscopeError(`${where}: frame ${String(frame).slice(0, 40)} of ${locations.length}`);
  return l;
}

function tooDeep(n: number, where: string): void {
  if (n > maxFrames) throw new SpeedscopeError(`${where}: a stack of more than ${maxFrames} frames`);
}

function inside<T>(where: string, f: () => T): T {
  try {
    return f();
  } catch (e) {
    throw e instanceof SpeedscopeError ? new SpeedscopeError(`${where}: ${e.message}`) : e;
  }
}

function record(v: unknown, what: string): Record<string, unknown> {
  if (typeof v !== "object" || v === null || Array.isArray(v)) throw new SpeedscopeError(`${what}: want an object`);
  return v as Record<string, unknown>;
}

function list(v: unknown, what: string): readonly unknown[] {
  if (v === undefined || v === null) return [];
  if (!Array.isArray(v)) throw new SpeedscopeError(`${what}: want a list`);
  return v as readonly unknown[];
}

function number(v: unknown, what: string): number {
  if (typeof v !== "number" || !Number.isFinite(v)) throw new SpeedscopeError(`${what}: want a number`);
  return v;
}
