// Everything that makes a comparison, in the URL. What pages share (type, q, from, to, theme) is the side after; the side
// before has q0, from0 and to0, which are absent for the usual: the same selector, right before.

import type { Scale } from "./change";
import type { SideName } from "./difftree";
import type { DiffSort } from "./difftable";
import type { StackFilter } from "./filter";
import { absolute, defaultRange, parseDuration, parseTime, resolve, writeDuration, type Span, type TimeRange } from "./timerange";
import { filterOf, joinPath, putFilter, splitPath, type Layout, type Orientation, type Theme } from "./urlstate";

// One tree of both sides, or each side's own.
export type Graphs = "diff" | "sides";
export type DiffColour = "relative" | "absolute" | "package" | "binary";

export interface CompareState {
  readonly type: string;
  readonly selector: string;
  readonly range: TimeRange;
  // Undefined: the same as after.
  readonly selectorBefore: string | undefined;
  // Undefined: right before the range after if the selectors are the same; the same range if they are not.
  readonly rangeBefore: TimeRange | undefined;
  readonly scale: Scale | "auto";
  readonly groupBy: string;
  // Function names from the root's child to the zoomed node, in all graphs.
  readonly zoom: readonly string[];
  readonly search: string;
  // Which stacks count, on both sides.
  readonly filter: StackFilter;
  readonly graphs: Graphs;
  readonly layout: Layout;
  readonly orientation: Orientation;
  readonly colourBy: DiffColour;
  readonly sort: DiffSort;
  // Tables of memory show allocators, too.
  readonly allocators: boolean;
  readonly theme: Theme;
}

export interface Side {
  readonly selector: string;
  readonly range: TimeRange;
}

// The order in which the query is written.
const usual = { view: "both", draw: "icicle", colour: "relative", sort: "self", show: "diff", scale: "auto", theme: "system" } as const;

function oneOf<T extends string>(value: string | null, allowed: readonly T[], otherwise: T): T {
  return allowed.find((a) => a === value) ?? otherwise;
}

// parseCompare reads a query string. Unknown parameters and values are left out; nothing throws.
export function parseCompare(search: string): CompareState {
  const p = new URLSearchParams(search);
  const q0 = p.get("q0");
  const [from0, to0] = [p.get("from0"), p.get("to0")];
  return {
    type: p.get("type") ?? "",
    selector: p.get("q") ?? "",
    range: { from: p.get("from") ?? defaultRange.from, to: p.get("to") ?? defaultRange.to },
    selectorBefore: q0 === null || q0 === "" ? undefined : q0 === everything ? "" : q0,
    rangeBefore: from0 === null || from0 === "" ? undefined : { from: from0, to: to0 ?? defaultRange.to },
    scale: oneOf(p.get("scale"), ["auto", "none", "time", "total"], usual.scale),
    groupBy: p.get("by") ?? "",
    zoom: splitPath(p.get("zoom") ?? ""),
    search: p.get("search") ?? "",
    filter: filterOf(p),
    graphs: oneOf(p.get("show"), ["diff", "sides"], usual.show),
    layout: oneOf(p.get("view"), ["both", "graph", "table"], usual.view),
    orientation: oneOf(p.get("draw"), ["icicle", "flame"], usual.draw),
    colourBy: oneOf(p.get("colour"), ["relative", "absolute", "package", "binary"], usual.colour),
    sort: oneOf(p.get("sort"), ["self", "total", "name"], usual.sort),
    allocators: p.get("allocators") === "1",
    theme: oneOf(p.get("theme"), ["system", "light", "dark"], usual.theme),
  };
}

// A selector of everything where there could also be none.
const everything = "{}";

// formatCompare writes a query string with what differs from the usual view, in a fixed order.
export function formatCompare(s: CompareState): string {
  const p = new URLSearchParams();
  const put = (key: string, value: string, otherwise = ""): void => {
    if (value !== otherwise) p.set(key, value);
  };
  put("type", s.type);
  put("q", s.selector);
  put("from", s.range.from, defaultRange.from);
  put("to", s.range.to, defaultRange.to);
  put("q0", s.selectorBefore === "" ? everything : (s.selectorBefore ?? ""));
  put("from0", s.rangeBefore?.from ?? "");
  put("to0", s.rangeBefore?.to ?? defaultRange.to, defaultRange.to);
  put("scale", s.scale, usual.scale);
  put("by", s.groupBy);
  put("zoom", joinPath(s.zoom));
  put("search", s.search);
  putFilter(p, s.filter);
  put("show", s.graphs, usual.show);
  put("view", s.layout, usual.view);
  put("draw", s.orientation, usual.draw);
  put("colour", s.colourBy, usual.colour);
  put("sort", s.sort, usual.sort);
  put("allocators", s.allocators ? "1" : "");
  put("theme", s.theme, usual.theme);
  const text = p.toString();
  return text === "" ? "" : `?${text}`;
}

// sidesOf is what the state says of both sides, with what is usual filled in.
export function sidesOf(s: CompareState, now: number): Readonly<Record<SideName, Side>> {
  const selector = s.selectorBefore ?? s.selector;
  return {
    before: { selector, range: s.rangeBefore ?? (selector === s.selector ? rightBefore(s.range, now) : s.range) },
    after: { selector: s.selector, range: s.range },
  };
}

// withSides returns the change that makes the state's sides these, in the shortest form.
export function withSides(before: Side, after: Side, now: number): Pick<CompareState, "selector" | "range" | "selectorBefore" | "rangeBefore"> {
  const same = before.selector === after.selector;
  const expected = same ? rightBefore(after.range, now) : after.range;
  return {
    selector: after.selector,
    range: after.range,
    selectorBefore: same ? undefined : before.selector,
    rangeBefore: before.range.from === expected.from && before.range.to === expected.to ? undefined : before.range,
  };
}

// rightBefore is the range of the same length that ends where r begins; r itself if it cannot be read.
export function rightBefore(r: TimeRange, now: number): TimeRange {
  const span = resolve(r, now);
  return typeof span === "string" ? r : earlier(r, span.end - span.start, now);
}

// earlier moves a range back by so many milliseconds. Times that move with the clock go on moving.
export function earlier(r: TimeRange, millis: number, now: number): TimeRange {
  const move = (text: string): string => {
    const back = /^now(?:-(.+))?$/.exec(text.trim());
    const ago = back === null ? undefined : back[1] === undefined ? 0 : parseDuration(back[1]);
    if (ago !== undefined) return `now-${writeDuration(ago + millis)}`;
    const at = parseTime(text, now);
    return at === undefined ? text : absolute({ start: at - millis, end: at }).from;
  };
  return { from: move(r.from), to: move(r.to) };
}

const day = 86_400_000;

// A relation says when before was, as to the range after.
export interface Relation {
  readonly name: string;
  readonly range: (after: TimeRange, now: number) => TimeRange;
}

export const relations: readonly Relation[] = [
  { name: "right before", range: rightBefore },
  { name: "the same time", range: (after) => after },
  { name: "a day before", range: (after, now) => earlier(after, day, now) },
  { name: "a week before", range: (after, now) => earlier(after, 7 * day, now) },
];

// relationOf is the relation that both ranges have, if it is one of those.
export function relationOf(before: TimeRange, after: TimeRange, now: number): Relation | undefined {
  return relations.find((r) => {
    const range = r.range(after, now);
    return range.from === before.from && range.to === before.to;
  });
}

// withRangeAfter returns the change that gives the side after another range. A range before that is related to it goes
// along: a day before stays a day before.
export function withRangeAfter(sides: Readonly<Record<SideName, Side>>, range: TimeRange, now: number): Pick<CompareState, "selector" | "range" | "selectorBefore" | "rangeBefore"> {
  const related = relationOf(sides.before.range, sides.after.range, now);
  return withSides({ ...sides.before, range: related === undefined ? sides.before.range : related.range(range, now) }, { ...sides.after, range }, now);
}

export interface Sides {
  readonly before: Span;
  readonly after: Span;
}

// resolveSides returns both sides' spans, or which side's range cannot be read and why.
export function resolveSides(sides: Readonly<Record<SideName, Side>>, now: number): Sides | { readonly side: SideName; readonly problem: string } {
  const spans: Partial<Record<SideName, Span>> = {};
  // What is wrong after is also wrong before, where that follows from it.
  for (const side of ["after", "before"] as const) {
    const span = resolve(sides[side].range, now);
    if (typeof span === "string") return { side, problem: span };
    spans[side] = span;
  }
  return spans as Sides;
}
