// Everything that makes a view, in the URL: a link shows the same graph to whoever opens it.

import { formatMatcher, isNoFilter, noFilter, parseMatcher, type StackFilter } from "./filter";
import { matchers } from "./selector";
import { defaultRange, type TimeRange } from "./timerange";

export type Layout = "both" | "graph" | "table";
export type Orientation = "icicle" | "flame";
export type ColourBy = "package" | "binary";
export type Theme = "system" | "light" | "dark";
export type SortBy = "self" | "total" | "name";

export interface ViewState {
  // "" until the server's types are known: then the page chooses one.
  readonly type: string;
  readonly selector: string;
  readonly range: TimeRange;
  readonly live: boolean;
  readonly groupBy: string;
  // Function names from the root's child to the zoomed node.
  readonly zoom: readonly string[];
  readonly search: string;
  // Which stacks count.
  readonly filter: StackFilter;
  // Directly recursive calls are one.
  readonly collapse: boolean;
  // Paths of binaries whose frames are left out; "[kernel]" is the kernel.
  readonly hide: readonly string[];
  // Functions by name: the one whose callers and callees are shown instead of the graph, and the one whose source is
  // shown instead of the table; "" for none.
  readonly sandwich: string;
  readonly source: string;
  // In the sandwich: the names below its function to what is zoomed to.
  readonly callers: readonly string[];
  readonly callees: readonly string[];
  // Tables show allocators, instead of counting them for their callers.
  readonly allocators: boolean;
  readonly layout: Layout;
  readonly orientation: Orientation;
  readonly colourBy: ColourBy;
  readonly sort: SortBy;
  readonly theme: Theme;
}

export const initial: ViewState = {
  type: "",
  selector: "",
  range: defaultRange,
  live: false,
  groupBy: "",
  zoom: [],
  search: "",
  filter: noFilter,
  collapse: false,
  hide: [],
  sandwich: "",
  source: "",
  callers: [],
  callees: [],
  allocators: false,
  layout: "both",
  orientation: "icicle",
  colourBy: "package",
  sort: "self",
  theme: "system",
};

// joinPath writes names as folded text does, a;b;c, with ; and \ in a name escaped by \.
export function joinPath(names: readonly string[]): string {
  return names.map((n) => n.replace(/[\\;]/g, (c) => `\\${c}`)).join(";");
}

export function splitPath(text: string): string[] {
  if (text === "") return [];
  const out: string[] = [];
  let name = "";
  for (let i = 0; i < text.length; i++) {
    const c = text.charAt(i);
    if (c === "\\" && i + 1 < text.length) name += text.charAt(++i);
    else if (c === ";") {
      out.push(name);
      name = "";
    } else name += c;
  }
  out.push(name);
  return out;
}

function oneOf<T extends string>(value: string | null, allowed: readonly T[], otherwise: T): T {
  return allowed.find((a) => a === value) ?? otherwise;
}

// parse reads a query string. Unknown parameters and values are left out; nothing throws.
export function parse(search: string): ViewState {
  const p = new URLSearchParams(search);
  return {
    type: p.get("type") ?? "",
    selector: p.get("q") ?? "",
    range: { from: p.get("from") ?? defaultRange.from, to: p.get("to") ?? defaultRange.to },
    live: p.get("live") === "1",
    groupBy: p.get("by") ?? "",
    zoom: splitPath(p.get("zoom") ?? ""),
    search: p.get("search") ?? "",
    filter: filterOf(p),
    collapse: p.get("collapse") === "1",
    hide: p.getAll("hide").filter((h) => h !== ""),
    sandwich: p.get("sandwich") ?? "",
    source: p.get("source") ?? "",
    callers: splitPath(p.get("callers") ?? ""),
    callees: splitPath(p.get("callees") ?? ""),
    allocators: p.get("allocators") === "1",
    layout: oneOf(p.get("view"), ["both", "graph", "table"], initial.layout),
    orientation: oneOf(p.get("draw"), ["icicle", "flame"], initial.orientation),
    colourBy: oneOf(p.get("colour"), ["package", "binary"], initial.colourBy),
    sort: oneOf(p.get("sort"), ["self", "total", "name"], initial.sort),
    theme: oneOf(p.get("theme"), ["system", "light", "dark"], initial.theme),
  };
}

// filterOf reads a filter: call=a;b, and keep and drop as often as there are conditions.
export function filterOf(p: URLSearchParams): StackFilter {
  const conditions = (key: string) => p.getAll(key).map(parseMatcher).filter((m) => m.value !== "");
  const f = { callSite: splitPath(p.get("call") ?? ""), keep: conditions("keep"), drop: conditions("drop") };
  return isNoFilter(f) ? noFilter : f;
}

export function putFilter(p: URLSearchParams, f: StackFilter): void {
  if (f.callSite.length > 0) p.set("call", joinPath(f.callSite));
  for (const m of f.keep) p.append("keep", formatMatcher(m));
  for (const m of f.drop) p.append("drop", formatMatcher(m));
}

// format writes a query string with what differs from the initial view, in a fixed order; "" for the initial view.
export function format(s: ViewState): string {
  const p = new URLSearchParams();
  const put = (key: string, value: string, usual: string): void => {
    if (value !== usual) p.set(key, value);
  };
  put("type", s.type, "");
  put("q", s.selector, "");
  put("from", s.range.from, defaultRange.from);
  put("to", s.range.to, defaultRange.to);
  put("live", s.live ? "1" : "", "");
  put("by", s.groupBy, "");
  put("zoom", joinPath(s.zoom), "");
  put("search", s.search, "");
  putFilter(p, s.filter);
  put("collapse", s.collapse ? "1" : "", "");
  for (const h of s.hide) p.append("hide", h);
  put("sandwich", s.sandwich, "");
  put("source", s.source, "");
  put("callers", joinPath(s.callers), "");
  put("callees", joinPath(s.callees), "");
  put("allocators", s.allocators ? "1" : "", "");
  put("view", s.layout, initial.layout);
  put("draw", s.orientation, initial.orientation);
  put("colour", s.colourBy, initial.colourBy);
  put("sort", s.sort, initial.sort);
  put("theme", s.theme, initial.theme);
  const text = p.toString();
  return text === "" ? "" : `?${text}`;
}

// fileName names a downloaded profile after what was asked, without an extension: cpu-api-2026-11-23T14.05.
export function fileName(sampleType: string, selector: string, end: number): string {
  const what = [sampleType, ...matchers(selector).map((m) => m.value)].join("-").replace(/[^A-Za-z0-9_.-]+/g, "_");
  return `${what.slice(0, 120)}-${new Date(end).toISOString().slice(0, 16).replace(":", ".")}`;
}
