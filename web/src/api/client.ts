// The page's questions to the server it came from. Answers are turned into the page's own shapes here: nothing of the
// wire, and no 64-bit integers, go further.

import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import type { FunctionRow } from "../lib/functions";
import { around, stepFor, type RawSeries } from "../lib/series";
import type { Span } from "../lib/timerange";
import { decodeTree, type FlameTree } from "../lib/tree";
import { ExportFormat, QueryService, TopOrder } from "./gen/perfuse/query/v1/query_pb";

export interface Selection {
  readonly type: string;
  readonly selector: string;
  readonly span: Span;
}

export interface TypeInfo {
  readonly id: string;
  readonly name: string;
  readonly sampleType: string;
  readonly sampleUnit: string;
}

export interface SeriesAnswer {
  // When it was asked for, in milliseconds since the epoch.
  readonly asked: number;
  // Also of some time around the selection's.
  readonly series: readonly RawSeries[];
  readonly stepMillis: number;
  readonly unit: string;
  readonly truncated: boolean;
}

export interface TopAnswer {
  readonly unit: string;
  readonly total: number;
  readonly rows: readonly FunctionRow[];
  readonly functionCount: number;
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

export interface Api {
  types(signal: AbortSignal): Promise<readonly TypeInfo[]>;
  labelNames(s: Selection, signal: AbortSignal): Promise<readonly string[]>;
  labelValues(s: Selection, name: string, prefix: string, signal: AbortSignal): Promise<{ values: readonly string[]; truncated: boolean }>;
  series(s: Selection, groupBy: string, signal: AbortSignal): Promise<SeriesAnswer>;
  // minShare 0 is the server's own; path is as in FlameGraphRequest.
  flameGraph(s: Selection, minShare: number, path: readonly string[], signal: AbortSignal): Promise<FlameTree>;
  // The merged profile as gzip-compressed pprof.
  pprof(s: Selection, signal: AbortSignal): Promise<Uint8Array<ArrayBuffer>>;
  top(s: Selection, by: "self" | "total", signal: AbortSignal): Promise<TopAnswer>;
}

const completionLimit = 50;
const seriesLimit = 8;
const topLimit = 1000;

export function newApi(baseUrl: string): Api {
  const client = createClient(QueryService, createConnectTransport({ baseUrl, useBinaryFormat: true, defaultTimeoutMs: 60_000 }));
  const nano = (ms: number): bigint => BigInt(Math.round(ms)) * 1_000_000n;
  const selection = (s: Selection) => ({
    profileType: s.type,
    selector: s.selector,
    startUnixNano: nano(s.span.start),
    endUnixNano: nano(s.span.end),
  });
  const millis = (n: bigint): number => Number(n / 1000n) / 1000;

  return {
    async types(signal) {
      const r = await ask(() => client.profileTypes({}, { signal }));
      return r.types.map((t) => ({ id: t.id, name: t.name, sampleType: t.sampleType, sampleUnit: t.sampleUnit }));
    },
    async labelNames(s, signal) {
      return (await ask(() => client.labelNames({ selection: selection(s) }, { signal }))).names;
    },
    async labelValues(s, name, prefix, signal) {
      return ask(() => client.labelValues({ selection: selection(s), name, prefix, limit: completionLimit }, { signal }));
    },
    async series(s, groupBy, signal) {
      const asked = Date.now();
      const wide = selection({ ...s, span: around(s.span) });
      const r = await ask(() =>
        client.series({ selection: wide, groupBy: groupBy === "" ? [] : [groupBy], stepNano: nano(stepFor(s.span)), limit: seriesLimit }, { signal }),
      );
      return {
        asked,
        series: r.series.map((x) => ({
          labels: x.labels.map((l) => ({ name: l.name, value: l.value })),
          times: x.timeUnixNano.map(millis),
          values: x.values.map(Number),
        })),
        stepMillis: millis(r.stepNano),
        unit: r.unit,
        truncated: r.truncated,
      };
    },
    async flameGraph(s, minShare, path, signal) {
      return decodeTree(await ask(() => client.flameGraph({ selection: selection(s), minShare, path: [...path] }, { signal })));
    },
    async pprof(s, signal) {
      const r = await ask(() => client.export({ selection: selection(s), format: ExportFormat.PPROF }, { signal }));
      return new Uint8Array(r.data);
    },
    async top(s, by, signal) {
      const order = by === "total" ? TopOrder.TOTAL : TopOrder.SELF;
      const r = await ask(() => client.top({ selection: selection(s), limit: topLimit, order }, { signal }));
      return {
        unit: r.unit,
        total: Number(r.total),
        rows: r.functions.map((f) => ({
          name: f.name,
          file: f.file,
          mapping: f.mapping,
          kind: f.kind,
          self: Number(f.self),
          total: Number(f.total),
        })),
        functionCount: Number(r.functionCount),
      };
    },
  };
}

async function ask<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (e) {
    throw explain(e);
  }
}

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
