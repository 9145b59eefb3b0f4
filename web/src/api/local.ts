// A file as a flame panel's source: read by the browser itself, in a worker. No byte of it is sent anywhere.

import type { StackFilter } from "../lib/filter";
import type { Part } from "../lib/merge";
import { ApiError } from "./call";
import type { FileSummary, OpenedFile } from "./opened";
import type { Source } from "./source";

export type { FileSummary, LabelValues } from "./opened";

// What is asked of the worker, and what it tells: one answer for each question, in their order.
type Methods = Pick<OpenedFile, "flameGraph" | "top" | "sandwich" | "lines" | "pprof" | "folded">;
type Answer<M extends keyof Methods> = Awaited<ReturnType<Methods[M]>>;
// file is the number of the file that a question is about.
export type Asked = { readonly file: number } & (
  | { readonly open: Blob }
  | { readonly [M in keyof Methods]: { readonly method: M; readonly args: Parameters<Methods[M]> } }[keyof Methods]
);
export type Told = { readonly answer: unknown } | { readonly error: string; readonly asked: boolean };

export interface LocalFile {
  readonly name: string;
  readonly bytes: number;
  readonly summary: FileSummary;
  source(part: Part): Source;
}

interface Waiting {
  readonly asked: Asked;
  readonly done: (answer: unknown) => void;
  readonly fail: (e: unknown) => void;
}

// LocalReader opens one file after the other. Its worker is loaded at once: once a file is chosen, nothing is.
export class LocalReader {
  private readonly worker = new Worker(new URL("./local.worker.ts", import.meta.url), { type: "module", name: "profile" });
  // The worker has one question at a time: those that nobody waits for any more are never asked.
  private running: Waiting | undefined;
  private queue: Waiting[] = [];
  private opened = 0;
  private broken: ApiError | undefined;

  constructor() {
    this.worker.addEventListener("message", (e: MessageEvent<Told>) => {
      const told = e.data;
      const one = this.running;
      this.running = undefined;
      if ("answer" in told) one?.done(told.answer);
      else one?.fail(new ApiError(told.error, told.asked ? "asked" : "failed", ""));
      this.next();
    });
    // Its script did not load, or there was no memory left for it.
    this.worker.addEventListener("error", (e) => {
      this.broken = new ApiError(`The reader of files has ended${e.message === "" ? "" : ` (${e.message})`}. Reload the page and choose the file again.`, "failed", "");
      this.running?.fail(this.broken);
      for (const one of this.queue) one.fail(this.broken);
      this.queue = [];
    });
  }

  // open reads a file; errors are ApiErrors that say what is wrong with it and what to do. Sources of the file before
  // have no answers from then on.
  async open(name: string, data: Blob): Promise<LocalFile> {
    const number = ++this.opened;
    const summary = (await this.ask({ file: number, open: data }, undefined)) as FileSummary;
    return { name, bytes: data.size, summary, source: (part) => this.source(number, name, summary, part) };
  }

  private source(number: number, name: string, summary: FileSummary, part: Part): Source {
    const call = async <M extends keyof Methods>(method: M, args: Parameters<Methods[M]>, signal: AbortSignal): Promise<Answer<M>> =>
      (await this.ask({ file: number, method, args } as Asked, signal)) as Answer<M>;
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

  private ask(asked: Asked, signal: AbortSignal | undefined): Promise<unknown> {
    if (this.broken !== undefined) return Promise.reject(this.broken);
    if (signal?.aborted === true) return Promise.reject(signal.reason);
    return new Promise((done, fail) => {
      const one = { asked, done, fail };
      signal?.addEventListener("abort", () => {
        this.queue = this.queue.filter((other) => other !== one);
        fail(signal.reason);
      });
      this.queue.push(one);
      this.next();
    });
  }

  private next(): void {
    if (this.running !== undefined) return;
    this.running = this.queue.shift();
    if (this.running !== undefined) this.worker.postMessage(this.running.asked);
  }
}

// downloadName is the file's own name without what says its format.
function downloadName(name: string, sampleType: string): string {
  const bare = name.replace(/\.gz$/i, "").replace(/\.(pb|pprof|prof|profile|folded|txt|json|speedscope)$/i, "");
  return `${bare === "" ? "profile" : bare}-${sampleType}`.replace(/[^A-Za-z0-9_.-]+/g, "_");
}
