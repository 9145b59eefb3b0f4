// What a query is, as the editor writes it and the back end reads it (datasource/query.go), and what becomes of template
// variables in it.

import type { AdHocVariableFilter } from "@grafana/data";
import type { DataQuery, DataSourceJsonData } from "@grafana/schema";
import { matchers, quote, write, type Matcher, type Operator } from "../../src/lib/selector";

export type QueryKind = "series" | "flamegraph" | "both" | "diff" | "beginnings";
export type FrameField = "function" | "file" | "binary";

export interface FrameMatcher {
  readonly field: FrameField;
  readonly value: string;
  readonly regexp: boolean;
}

// The left side of a diff: what the query is compared with.
export interface Before {
  // Absent: the query's own.
  readonly selector?: string;
  // As in 1d; empty: as long before as the range is.
  readonly earlier?: string;
  readonly perSecond?: boolean;
}

export interface PerfuseQuery extends DataQuery {
  queryType?: QueryKind;
  profileType?: string;
  selector?: string;
  groupBy?: string[];
  limit?: number;
  minShare?: number;
  callSite?: string[];
  keep?: FrameMatcher[];
  drop?: FrameMatcher[];
  traceIds?: string[];
  spanIds?: string[];
  spanNames?: string[];
  before?: Before;
  // The label whose new values an annotation query marks.
  label?: string;
  // The spans that cost most, as points of the series.
  exemplars?: boolean;
  // Refreshed by a stream at this interval; absent or 0: when the panel is.
  liveSeconds?: number;
}

export interface PerfuseOptions extends DataSourceJsonData {
  minStep?: string;
  answerMiB?: number;
  timeout?: number;
  tlsSkipVerify?: boolean;
  tlsAuthWithCACert?: boolean;
}

export interface PerfuseSecrets {
  bearerToken?: string;
  basicAuthPassword?: string;
  tlsCACert?: string;
}

export const defaultQuery: Partial<PerfuseQuery> = { queryType: "both", profileType: "", selector: "" };

// Replace puts the values of template variables into a text; several values of one become one by the format.
export type Replace = (text: string, format?: string | ((value: string | string[]) => string)) => string;

// inSelector writes a variable's value where it stands between quotes. Several values stand for any of them, so they are
// an expression, as in pod=~"$pod".
export function inSelector(value: string | string[]): string {
  const escape = (s: string): string => s.replace(/[\\"]/g, (c) => `\\${c}`);
  if (typeof value === "string") return escape(value);
  const any = value.map((v) => v.replace(/[\\^$.*+?()[\]{}|]/g, (c) => `\\${c}`)).join("|");
  return escape(value.length === 1 ? any : `(${any})`);
}

// withFilters adds a dashboard's ad hoc filters.
export function withFilters(selector: string, filters: readonly AdHocVariableFilter[]): string {
  const more = filters.flatMap((f): Matcher[] => {
    if (f.key === "" || !["=", "!=", "=~", "!~", "=|", "!=|"].includes(f.operator)) return [];
    if (!f.operator.endsWith("|")) return [{ name: f.key, op: f.operator as Operator, value: f.value }];
    const any = (f.values ?? [f.value]).map((v) => v.replace(/[\\^$.*+?()[\]{}|]/g, (c) => `\\${c}`)).join("|");
    return [{ name: f.key, op: f.operator === "=|" ? "=~" : "!~", value: any }];
  });
  if (more.length === 0) return selector;
  const head = selector.trim().replace(/,?\s*}$/, "");
  // What cannot be read is left for the server to point at.
  if (head !== "" && head !== "{" && matchers(selector).length === 0) return selector;
  const tail = more.map((m) => `${m.name}${m.op}${quote(m.value)}`).join(", ");
  return head === "" || head === "{" ? write(more) : `${head}, ${tail}}`;
}

export function interpolate(q: PerfuseQuery, replace: Replace, filters: readonly AdHocVariableFilter[] = []): PerfuseQuery {
  const list = (texts: readonly string[] | undefined): string[] | undefined =>
    texts?.flatMap((t) => replace(t, "csv").split(",")).map((t) => t.trim()).filter((t) => t !== "");
  // A function's name may have commas.
  const names = (texts: readonly string[] | undefined): string[] | undefined => texts?.map((t) => replace(t)).filter((t) => t !== "");
  const frames = (ms: readonly FrameMatcher[] | undefined): FrameMatcher[] | undefined =>
    ms?.map((m) => ({ ...m, value: m.regexp ? replace(m.value, "regex") : replace(m.value) }));
  const selector = (text: string): string => withFilters(replace(text, inSelector), filters);
  return {
    ...q,
    profileType: replace(q.profileType ?? ""),
    selector: selector(q.selector ?? ""),
    groupBy: list(q.groupBy),
    callSite: names(q.callSite),
    keep: frames(q.keep),
    drop: frames(q.drop),
    traceIds: list(q.traceIds),
    spanIds: list(q.spanIds),
    spanNames: names(q.spanNames),
    label: q.label === undefined ? undefined : replace(q.label),
    before: q.before && {
      ...q.before,
      earlier: replace(q.before.earlier ?? ""),
      ...(q.before.selector === undefined ? {} : { selector: selector(q.before.selector) }),
    },
  };
}

// streamsOf are the queries that live on channels of their own, one a frame.
export function streamsOf(q: PerfuseQuery): PerfuseQuery[] {
  if (!((q.liveSeconds ?? 0) > 0) || q.queryType === "diff" || q.queryType === "beginnings") return [];
  if (q.queryType === "series" || q.queryType === "flamegraph") return [q];
  return [
    { ...q, queryType: "series" },
    { ...q, queryType: "flamegraph" },
  ];
}

// The back end's own limit (datasource/stream.go).
const maxLiveMillis = 86_400_000;

// liveRange is how long a range is that a stream can show, one that is until now and moves with it; else 0. It is
// rounded, so that the same range is the same channel whenever it is looked at.
export function liveRange(raw: { readonly from: unknown; readonly to: unknown }, millis: number): number {
  if (raw.to !== "now" || !/^now-\d+[smhd]$/.test(String(raw.from)) || millis > maxLiveMillis + 1000) return 0;
  return Math.min(Math.round(millis / 1000) * 1000, maxLiveMillis);
}

// channelPath tells queries apart: everyone who shows the same one shares its channel.
export function channelPath(data: unknown): string {
  // FNV-1a, twice with different seeds, over the JSON: 64 bits.
  const text = JSON.stringify(data);
  const half = (seed: number): string => {
    let h = seed;
    for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
    return (h >>> 0).toString(16).padStart(8, "0");
  };
  return `live/${half(0x811c9dc5)}${half(0x2f3c61ad)}`;
}
