// A file as a flame panel's source: read by the browser itself, in a worker. No byte of it is sent anywhere.

import type { StackFilter } from "../lib/filter";
import type { Part } from "../lib/merge";
import { ApiError } from "./call";
import type { FileSummary, OpenedFile } from "./opened";
import type { Source } from "./source";

export type { FileSummary, LabelValues } from "./opened";

// What is asked of the worker, and what it tells.
type Methods = Pick<OpenedFile, "flameGraph" | "top" | "sandwich" | "lines" | "pprof" | "folded">;
type Answer<M extends keyof Methods> = Awaited<ReturnType<Methods[M]>>;
// file is the number of the file that a question is about.
export type Asked = { readonly id: number; readonly file: number } & (
  | { readonly open: Blob }
  | { readonly [M in keyof Methods]: { readonly method: M; readonly args: Parameters<Methods[M]> } }[keyof Methods]
);
export type Told = { readonly id: number } & ({ readonly answer: unknown } | { readonly error: string; readonly asked: boolean });

type Question = Asked extends infer A ? (A extends { readonly id: number } ? Omit<A, "id"> : never) : never;

export interface LocalFile {
  readonly name: string;
  readonly bytes: number;
  readonly summary: FileSummary;
  source(part: Part): Source;
}

// LocalReader opens one file after the other. Its worker is loaded at once: once a file is chosen, nothing is.
export class LocalReader {
  private readonly worker = new Worker(new URL("./local.worker.ts", import.meta.url), { type: "module", name: "profile" });
  private readonly waiting = new Map<number, { done: (answer: unknown) => void; fail: (e: ApiError) => void }>();
  private asked = 0;
  private opened = 0;
  private broken: ApiError | undefined;

  constructor() {
    this.worker.addEventListener("message", (e: MessageEvent<Told>) => {
      const told = e.data;
      const one = this.waiting.get(told.id);
      this.waiting.delete(told.id);
      if ("answer" in told) one?.done(told.answer);
      else one?.fail(new ApiError(told.error, told.asked ? "asked" : "failed", ""));
    });
    // Its script did not load, or there was no memory left for it.
    this.worker.addEventListener("error", (e) => {
      this.broken = new ApiError(`The reader of files has ended${e.message === "" ? "" : ` (${e.message})`}. Reload the page and choose the file again.`, "failed", "");
      for (const one of this.waiting.values()) one.fail(this.broken);
      this.waiting.clear();
    });
  }

  // open reads a file; errors are ApiErrors that say what is wrong with it and what to do. Sources of the file before
  // have no answers from then on.
  async open(name: string, data: Blob): Promise<LocalFile> {
    const number = ++this.opened;
    const summary = (await this.ask({ file: number, open: data })) as FileSummary;
    return { name, bytes: data.size, summary, source: (part) => this.source(number, name, summary, part) };
  }

  private source(number: number, name: string, summary: FileSummary, part: Part): Source {
    const call = async <M extends keyof Methods>(method: M, args: Parameters<Methods[M]>, signal: AbortSignal): Promise<Answer<M>> => {
      signal.throwIfAborted();
      return (await this.ask({ file: number, method, args } as Question)) as Answer<M>;
    };
    return {
      key: `file ${number} ${JSON.stringify(part)}`,
      type: summary.types[part.type]?.id ?? "",
      fileName: downloadName(name, summary.types[part.type]?.sampleType ?? "profile"),
      selection: undefined,
      flameGraph: (filter: StackFilter, minShare, path, signal) => call("flameGraph", [part, filter, minShare, path], signal),
      top: (filter, by, folded, signal) => call("top", [part, filter, by, folded], signal),
      sandwich: (filter, function_, minShare, signal) => call("sandwich", [part, filter, function_, minShare], signal),
      lines: (filter, function_, signal) => call("lines", [part, filter, function_], signal),
      pprof: (filter, signal) => call("pprof", [part, filter], signal),
      folded: (filter, signal) => call("folded", [part, filter], signal),
    };
  }

  private ask(question: Question): Promise<unknown> {
    if (this.broken !== undefined) return Promise.reject(this.broken);
    const id = ++this.asked;
    return new Promise((done, fail) => {
      this.waiting.set(id, { done, fail });
      this.worker.postMessage({ ...question, id });
    });
  }
}

// downloadName is the file's own name without what says its format.
function downloadName(name: string, sampleType: string): string {
  const bare = name.replace(/\.gz$/i, "").replace(/\.(pb|pprof|prof|profile|folded|txt|json|speedscope)$/i, "");
  return `${bare === "" ? "profile" : bare}-${sampleType}`.replace(/[^A-Za-z0-9_.-]+/g, "_");
}
