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

// What calls one function and what it calls. Both roots are the function itself.
export interface Sandwich {
  // Upside down: the root's children are the direct callers.
  readonly callers: FlameTree;
  readonly callees: FlameTree;
  readonly total: number;
  readonly self: number;
  // The sum of everything, whatever the filter leaves out.
  readonly unfiltered: number;
}

// One function's source lines with their values.
export interface LinesAnswer {
  readonly unit: string;
  // Of everything that the filter keeps or leaves out.
  readonly unfiltered: number;
  readonly files: readonly SourceFile[];
}

export interface SourceFile {
  // As debug information says; "" if that is unknown.
  readonly path: string;
  readonly mapping: string;
  // Of the function in this file.
  readonly startLine: number;
  readonly self: number;
  readonly total: number;
  // In order of the line; 0 is what has none.
  readonly lines: readonly { readonly line: number; readonly self: number; readonly total: number }[];
  // The file's text, "" if it is not to be had; then why.
  readonly text: string;
  readonly noText: string;
}

export interface Source {
  // Says what the source is: another key, another question.
  readonly key: string;
  // The profile type's id.
  readonly type: string;
  // For files that are downloaded, without an extension.
  readonly fileName: string;
  // What is asked about on the server; none for a file.
  readonly selection: Selection | undefined;
  // minShare 0 is the source's own; path is the names from the root's child down to the node whose subtree is wanted.
  flameGraph(filter: StackFilter, minShare: number, path: readonly string[], signal: AbortSignal): Promise<FlameTree>;
  // Functions; folded: what ends in an allocator counts for its caller.
  top(filter: StackFilter, by: "self" | "total", folded: boolean, signal: AbortSignal): Promise<TopAnswer>;
  // minShare is of the function's total.
  sandwich(filter: StackFilter, name: string, minShare: number, signal: AbortSignal): Promise<Sandwich>;
  // Where the function is defined, the largest total first; none if nothing of it is known.
  lines(filter: StackFilter, name: string, signal: AbortSignal): Promise<LinesAnswer>;
  // The merged profile as gzip-compressed pprof, and as folded text.
  pprof(filter: StackFilter, signal: AbortSignal): Promise<Uint8Array<ArrayBuffer>>;
  folded(filter: StackFilter, signal: AbortSignal): Promise<string>;
}
