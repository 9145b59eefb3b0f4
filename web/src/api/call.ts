// What all questions to the server have in common: the connection, errors, and the wire's forms of times and selections.

import { Code, ConnectError, type Transport } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import type { StackFilter } from "../lib/filter";
import type { Span } from "../lib/timerange";
import { FrameField } from "./gen/perfuse/query/v1/query_pb";

export interface Selection {
  readonly type: string;
  readonly selector: string;
  readonly span: Span;
}

// What went wrong, told apart as the page needs it.
export class ApiError extends Error {
  constructor(
    message: string,
    // "away": the server does not answer. "asked": the question is at fault, such as a selector. "failed": the rest.
    readonly kind: "away" | "asked" | "failed",
    readonly code: string,
  ) {
    super(message);
    this.name = "ApiError";
  }
}

export function transportTo(baseUrl: string): Transport {
  return createConnectTransport({ baseUrl, useBinaryFormat: true, defaultTimeoutMs: 60_000 });
}

export function nano(ms: number): bigint {
  return BigInt(Math.round(ms)) * 1_000_000n;
}

export function millis(n: bigint): number {
  return Number(n / 1000n) / 1000;
}

export function selection(s: Selection) {
  return { profileType: s.type, selector: s.selector, startUnixNano: nano(s.span.start), endUnixNano: nano(s.span.end) };
}

const fields = { function: FrameField.FUNCTION, file: FrameField.FILE, binary: FrameField.BINARY } as const;

export function stackFilter(f: StackFilter) {
  const matchers = (of: StackFilter["keep"]) => of.map((m) => ({ field: fields[m.field], value: m.value, regexp: m.regexp }));
  return { callSite: [...f.callSite], keep: matchers(f.keep), drop: matchers(f.drop) };
}

// ask makes what goes wrong an ApiError.
export async function ask<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (e) {
    throw explain(e);
  }
}

// explain says of whose fault it is.
function explain(e: unknown): ApiError {
  const c = ConnectError.from(e);
  const code = Code[c.code] ?? "Unknown";
  if (c.code === Code.InvalidArgument || c.code === Code.OutOfRange) return new ApiError(c.rawMessage, "asked", code);
  // fetch throws a TypeError when nothing listens.
  if (c.code === Code.Unavailable || c.cause instanceof TypeError || e instanceof TypeError) {
    return new ApiError(c.rawMessage, "away", code);
  }
  return new ApiError(c.rawMessage, "failed", code);
}
