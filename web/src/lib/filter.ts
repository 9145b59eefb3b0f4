// Which of the selected stacks count: the wire's StackFilter, and the text of its conditions as profilectl's --keep and
// --drop take them.

export type FrameField = "function" | "file" | "binary";

// A condition on one function of a stack; inlined ones count as well.
export interface FrameMatcher {
  readonly field: FrameField;
  // What the field is; with regexp an expression that matches a part of it.
  readonly value: string;
  readonly regexp: boolean;
}

export interface StackFilter {
  // Only stacks that begin with these functions, the root first.
  readonly callSite: readonly string[];
  // Only stacks that have, for each of these, a function that meets it.
  readonly keep: readonly FrameMatcher[];
  // No stacks that have a function that meets any of these.
  readonly drop: readonly FrameMatcher[];
}

export const noFilter: StackFilter = { callSite: [], keep: [], drop: [] };

export function isNoFilter(f: StackFilter): boolean {
  return f.callSite.length + f.keep.length + f.drop.length === 0;
}

// parseMatcher reads FIELD=VALUE, FIELD=~REGEXP, or a regular expression for the function's name.
export function parseMatcher(text: string): FrameMatcher {
  const m = /^(function|file|binary)(=~|=)/.exec(text);
  if (m === null) return { field: "function", value: text, regexp: true };
  return { field: m[1] as FrameField, value: text.slice(m[0].length), regexp: m[2] === "=~" };
}

export function formatMatcher(m: FrameMatcher): string {
  // What would be read as a field's condition is written with its field.
  if (m.field === "function" && m.regexp && !/^(function|file|binary)=/.test(m.value)) return m.value;
  return `${m.field}${m.regexp ? "=~" : "="}${m.value}`;
}
