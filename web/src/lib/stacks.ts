// A profile as columns: what a file that the browser reads becomes, and what questions about it are answered from.
//
//   sample ─▶ stack ─▶ locations, the root first ─▶ frames, the caller of an inlined function before it
//
// Each table's row i is what lies in its column from start[i] to start[i+1].

import { FrameKind, type Frame } from "./tree";
import { frameKey } from "./treebuild";
import type { TypeParts } from "./types";

export interface Label {
  readonly name: string;
  readonly value: string;
}

export interface ProfileType extends TypeParts {
  readonly periodType: string;
  readonly periodUnit: string;
}

// What values are taken for that nobody has named.
export const samplesType: ProfileType = {
  id: "process_cpu:samples:count:cpu:nanoseconds",
  name: "process_cpu",
  sampleType: "samples",
  sampleUnit: "count",
  periodType: "cpu",
  periodUnit: "nanoseconds",
};

// What a file says of itself; 0 and "" where it does not.
export interface ProfileFacts {
  readonly timeMillis: number;
  readonly durationNanos: number;
  readonly period: number;
  readonly comments: readonly string[];
  // Index into types of the one to begin with, -1 if the file does not say.
  readonly defaultType: number;
}

export interface Samples {
  readonly types: readonly ProfileType[];
  readonly facts: ProfileFacts;
  // frames[0] is the root's; no two others show the same.
  readonly frames: readonly Frame[];
  readonly locationStart: Uint32Array;
  readonly locationFrames: Uint32Array;
  // Beside locationFrames: the line of the source file, 0 if unknown, noLine where there is no function, only an address.
  readonly lines: Uint32Array;
  readonly stackStart: Uint32Array;
  readonly stackLocations: Uint32Array;
  readonly count: number;
  // By sample.
  readonly stackOf: Uint32Array;
  readonly labelsOf: Uint32Array;
  // By type, then by sample.
  readonly values: readonly Float64Array[];
  readonly labelSets: readonly (readonly Label[])[];
}

export const noLine = 0xffffffff;

class Numbers {
  private data = new Uint32Array(1024);
  count = 0;
  push(value: number): void {
    if (this.count === this.data.length) {
      const grown = new Uint32Array(this.count * 2);
      grown.set(this.data);
      this.data = grown;
    }
    this.data[this.count++] = value;
  }
  at(i: number): number {
    return this.data[i] as number;
  }
  all(): Uint32Array {
    return this.data.slice(0, this.count);
  }
}

class Doubles {
  private data = new Float64Array(1024);
  private count = 0;
  push(value: number): void {
    if (this.count === this.data.length) {
      const grown = new Float64Array(this.count * 2);
      grown.set(this.data);
      this.data = grown;
    }
    this.data[this.count++] = value;
  }
  all(): Float64Array {
    return this.data.slice(0, this.count);
  }
}

const rootFrame: Frame = { name: "root", file: "", mapping: "", kind: FrameKind.ROOT, inlined: false, startLine: 0 };

// SampleTable collects samples; equal frames and equal stacks are stored once.
export class SampleTable {
  private readonly frames: Frame[] = [rootFrame];
  private readonly frameIds = new Map<string, number>();
  private readonly locationStart = new Numbers();
  private readonly locationFrames = new Numbers();
  private readonly lines = new Numbers();
  private readonly stackStart = new Numbers();
  private readonly stackLocations = new Numbers();
  // An open-addressing table of stacks + 1, and the stacks' hashes.
  private slots = new Uint32Array(4096);
  private readonly hashes = new Numbers();
  private readonly stackOf = new Numbers();
  private readonly labelsOf = new Numbers();
  private readonly labelSets: (readonly Label[])[] = [];
  private readonly labelIds = new Map<string, number>();
  private readonly values: readonly Doubles[];

  constructor(private readonly types: readonly ProfileType[]) {
    this.values = types.map(() => new Doubles());
    this.locationStart.push(0);
    this.stackStart.push(0);
  }

  // frame keeps the smallest line that a function was seen to begin at.
  frame(f: Frame): number {
    const key = frameKey(f);
    const known = this.frameIds.get(key);
    if (known === undefined) {
      const id = this.frames.push(f) - 1;
      this.frameIds.set(key, id);
      return id;
    }
    const old = this.frames[known] as Frame;
    if (f.startLine > 0 && (old.startLine === 0 || f.startLine < old.startLine)) this.frames[known] = { ...old, startLine: f.startLine };
    return known;
  }

  // location takes the frames at one address, the caller of an inlined function before it, and their lines.
  location(frames: readonly number[], lines: readonly number[]): number {
    frames.forEach((f, i) => {
      this.locationFrames.push(f);
      this.lines.push(lines[i] ?? 0);
    });
    this.locationStart.push(this.locationFrames.count);
    return this.locationStart.count - 2;
  }

  // stack takes the first n locations, the root first.
  stack(locations: Readonly<Record<number, number>>, n: number): number {
    let hash = n;
    for (let i = 0; i < n; i++) hash = Math.imul((hash ^ (locations[i] as number)) + (hash << 6), 0x9e3779b1) ^ (hash >>> 15);
    hash = Math.imul(hash ^ (hash >>> 13), 0x2c1b3c6d) >>> 0;
    const mask = this.slots.length - 1;
    let s = hash & mask;
    for (; this.slots[s] !== 0; s = (s + 1) & mask) {
      const known = (this.slots[s] as number) - 1;
      if (this.hashes.at(known) === hash && this.equal(known, locations, n)) return known;
    }
    for (let i = 0; i < n; i++) this.stackLocations.push(locations[i] as number);
    this.stackStart.push(this.stackLocations.count);
    this.hashes.push(hash);
    const id = this.hashes.count - 1;
    this.slots[s] = id + 1;
    if (this.hashes.count * 2 > this.slots.length) this.rehash();
    return id;
  }

  private equal(stack: number, locations: Readonly<Record<number, number>>, n: number): boolean {
    const start = this.stackStart.at(stack);
    if (this.stackStart.at(stack + 1) - start !== n) return false;
    for (let i = 0; i < n; i++) if (this.stackLocations.at(start + i) !== locations[i]) return false;
    return true;
  }

  private rehash(): void {
    this.slots = new Uint32Array(this.slots.length * 4);
    const mask = this.slots.length - 1;
    for (let i = 0; i < this.hashes.count; i++) {
      let s = this.hashes.at(i) & mask;
      while (this.slots[s] !== 0) s = (s + 1) & mask;
      this.slots[s] = i + 1;
    }
  }

  // labels returns the number of a set of labels, which need not be sorted.
  labels(set: readonly Label[]): number {
    const key = set.map((l) => `${l.name}\0${l.value}`).join("\0");
    const known = this.labelIds.get(key);
    if (known !== undefined) return known;
    const id = this.labelSets.push(set) - 1;
    this.labelIds.set(key, id);
    return id;
  }

  // sample takes a value for each type.
  sample(stack: number, labels: number, values: Readonly<Record<number, number>>): void {
    this.stackOf.push(stack);
    this.labelsOf.push(labels);
    this.values.forEach((column, i) => column.push(values[i] ?? 0));
  }

  done(facts: ProfileFacts): Samples {
    return {
      types: this.types,
      facts,
      frames: this.frames,
      locationStart: this.locationStart.all(),
      locationFrames: this.locationFrames.all(),
      lines: this.lines.all(),
      stackStart: this.stackStart.all(),
      stackLocations: this.stackLocations.all(),
      count: this.stackOf.count,
      stackOf: this.stackOf.all(),
      labelsOf: this.labelsOf.all(),
      values: this.values.map((v) => v.all()),
      labelSets: this.labelSets,
    };
  }
}
