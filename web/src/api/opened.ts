// A file that was opened, and the answers to questions about it. It lives where the worker does.

import { foldAllocators } from "../lib/allocator";
import { isNoFilter, noFilter, type StackFilter } from "../lib/filter";
import { writeFolded } from "../lib/folded";
import { gzip, isGzip } from "../lib/gzip";
import { kept } from "../lib/judge";
import { cut, linesOf, samplesOf, sandwich, subtree, top, treeOf, type Part } from "../lib/merge";
import { onlySamples, writePprof } from "../lib/pprof";
import { readProfile, type Format, type ProfileFile } from "../lib/profilefile";
import type { Label, ProfileFacts, ProfileType } from "../lib/stacks";
import { named, type FlameTree } from "../lib/tree";
import { isMemory } from "../lib/types";
import type { LinesAnswer, Sandwich, TopAnswer } from "./source";

// What is told of a file when it was opened.
export interface FileSummary {
  readonly format: Format;
  readonly types: readonly ProfileType[];
  // By type, the sum of its values.
  readonly totals: readonly number[];
  readonly facts: ProfileFacts;
  readonly sampleCount: number;
  readonly labels: readonly LabelValues[];
}

export interface LabelValues {
  readonly name: string;
  readonly values: readonly string[];
  // There are more values.
  readonly truncated: boolean;
}

// What a flame graph cuts by itself: the server's share.
const usualShare = 1 / 4000;
const mostValues = 500;
// A question is followed by others about the same stacks: its tree is kept, and those before it as long as all of them
// have no more nodes than this.
const mostNodes = 4_000_000;

export class OpenedFile {
  readonly summary: FileSummary;
  private readonly trees = new Map<string, FlameTree>();

  private constructor(
    private readonly packed: Uint8Array<ArrayBuffer>,
    private readonly file: ProfileFile,
  ) {
    const { samples, format } = file;
    this.summary = {
      format,
      types: samples.types,
      totals: samples.values.map((column) => column.reduce((sum, v) => sum + v, 0)),
      facts: samples.facts,
      sampleCount: samples.count,
      labels: labelValues(samples.labelSets),
    };
  }

  // open throws FileError.
  static async open(packed: Uint8Array<ArrayBuffer>): Promise<OpenedFile> {
    return new OpenedFile(packed, await readProfile(packed));
  }

  flameGraph(part: Part, filter: StackFilter, minShare: number, path: readonly string[]): FlameTree {
    const t = this.tree(part, filter);
    return cut(path.length === 0 ? t : subtree(t, path), minShare === 0 ? usualShare : minShare);
  }

  top(part: Part, filter: StackFilter, by: "self" | "total", folded: boolean): TopAnswer {
    const t = this.tree(part, filter);
    const type = this.file.samples.types[part.type];
    const rows = top(folded && type !== undefined && isMemory(type.id) ? foldAllocators(t) : t, by);
    return { unit: t.unit, total: t.total[0] ?? 0, rows, functionCount: rows.length };
  }

  sandwich(part: Part, filter: StackFilter, name: string, minShare: number): Sandwich {
    const { callers, callees, total, self } = sandwich(this.tree(part, filter), name);
    const share = minShare === 0 ? usualShare : minShare;
    return { callers: named(cut(callers, share), name), callees: named(cut(callees, share), name), total, self, unfiltered: this.unfiltered(part) };
  }

  lines(part: Part, filter: StackFilter, name: string): LinesAnswer {
    const { samples } = this.file;
    const files = linesOf(samples, part, kept(samples, filter), name);
    return {
      unit: samples.types[part.type]?.sampleUnit ?? "",
      unfiltered: this.unfiltered(part),
      files: files.map(({ file, ...rest }) => ({ ...rest, path: file, text: "", noText: file === "" ? "the profile does not say in which file it is" : "a profile has no source text" })),
    };
  }

  // pprof returns the file as it is if all of it is asked for.
  async pprof(part: Part, filter: StackFilter): Promise<Uint8Array<ArrayBuffer>> {
    const { samples, format, data } = this.file;
    if (format === "pprof" && part.label === undefined && isNoFilter(filter)) return isGzip(this.packed) ? this.packed : gzip(this.packed);
    const stacks = kept(samples, filter);
    const has = samplesOf(samples, part.label);
    const keep = (i: number): boolean => has(i) && (stacks === undefined || stacks[samples.stackOf[i] as number] === 1);
    return gzip(format === "pprof" ? onlySamples(data, keep) : writePprof(samples, keep));
  }

  folded(part: Part, filter: StackFilter): string {
    return writeFolded(this.tree(part, filter));
  }

  private unfiltered(part: Part): number {
    return this.tree(part, noFilter).total[0] ?? 0;
  }

  private tree(part: Part, filter: StackFilter): FlameTree {
    const key = JSON.stringify([part, filter]);
    let t = this.trees.get(key);
    if (t === undefined) {
      const { samples } = this.file;
      t = treeOf(samples, part, kept(samples, filter));
    } else this.trees.delete(key);
    this.trees.set(key, t);
    let nodes = 0;
    for (const { count } of this.trees.values()) nodes += count;
    for (const [oldest, { count }] of this.trees) {
      if (nodes <= mostNodes || oldest === key) break;
      this.trees.delete(oldest);
      nodes -= count;
    }
    return t;
  }
}

function labelValues(sets: readonly (readonly Label[])[]): LabelValues[] {
  const names = new Map<string, Set<string>>();
  for (const set of sets) {
    for (const { name, value } of set) {
      const values = names.get(name);
      if (values === undefined) names.set(name, new Set([value]));
      else values.add(value);
    }
  }
  return [...names]
    .map(([name, values]) => ({ name, values: [...values].sort().slice(0, mostValues), truncated: values.size > mostValues }))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}
