// Where a flame panel's answers come from: a selection on the server, or a file that the browser has read.

import type { StackFilter } from "../lib/filter";
import type { FunctionRow } from "../lib/functions";
import type { FlameTree } from "../lib/tree";
import type { Selection } from "./call";

export interface TopAnswer {
  readonly unit: string;
  // Of what filter keeps.
  readonly total: number;
  readonly rows: readonly FunctionRow[];
  // How many functions there are; rows has the largest.
  readonly functionCount: number;
}

// What calls one function and what it calls. Both roots stand for the function.
export interface Sandwich {
  // Upside down: the root's children are the direct callers.
  readonly callers: FlameTree;
  readonly callees: FlameTree;
  readonly total: number;
  readonly self: number;
}

export interface Source {
  // Says what the source is: another key, another question.
  readonly key: string;
  // For files that are downloaded, without an extension.
  readonly fileName: string;
  // What is asked about on the server; none for a file.
  readonly selection: Selection | undefined;
  // minShare 0 is the source's own; path is the names from the root's child down to the node whose subtree is wanted.
  flameGraph(filter: StackFilter, minShare: number, path: readonly string[], signal: AbortSignal): Promise<FlameTree>;
  // Functions; folded: what ends in an allocator counts for its caller.
  top(filter: StackFilter, by: "self" | "total", folded: boolean, signal: AbortSignal): Promise<TopAnswer>;
  sandwich(filter: StackFilter, name: string, signal: AbortSignal): Promise<Sandwich>;
  // The merged profile as gzip-compressed pprof, and as folded text.
  pprof(filter: StackFilter, signal: AbortSignal): Promise<Uint8Array<ArrayBuffer>>;
  folded(filter: StackFilter, signal: AbortSignal): Promise<string>;
}
