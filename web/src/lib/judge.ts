// Which stacks a filter keeps: profile/stackfilter.go's answers. Conditions are asked once per frame, not per stack.

import { isNoFilter, type FrameMatcher, type StackFilter } from "./filter";
import type { Samples } from "./stacks";
import type { Frame } from "./tree";

// FilterError: a condition cannot be understood.
export class FilterError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "FilterError";
  }
}

const maxMatchers = 64;

// kept returns by stack 1 if the filter keeps it; undefined if it keeps all.
export function kept(s: Samples, filter: StackFilter): Uint8Array | undefined {
  if (isNoFilter(filter)) return undefined;
  // Errors name the condition as the server's do.
  const named = (field: string) => (matcher: FrameMatcher, i: number) => ({ matcher, at: `${field}[${i}]` });
  const matchers = [...filter.keep.map(named("filter.keep")), ...filter.drop.map(named("filter.drop"))];
  if (matchers.length > maxMatchers) throw new FilterError(`filter.keep and filter.drop have ${matchers.length} conditions: want at most ${maxMatchers} (one regular expression can stand for many names)`);
  // Bits of what a location meets: 30 conditions in each of three columns.
  const width = 30;
  const columns = Array.from({ length: Math.ceil(matchers.length / width) }, (_, c) => {
    const tests = matchers.slice(c * width, (c + 1) * width).map(compile);
    const frames = Int32Array.from(s.frames, (f, i) => (i === 0 ? 0 : bits(tests.map((test) => test(f)))));
    const keep = bits(Array.from(tests, (_, i) => c * width + i < filter.keep.length));
    return { frames, keep };
  });
  const out = new Uint8Array(s.stackStart.length - 1);
  for (let stack = 0; stack < out.length; stack++) {
    const first = s.stackStart[stack] as number;
    const last = s.stackStart[stack + 1] as number;
    let ok = begins(s, first, last, filter.callSite);
    for (let c = 0; ok && c < columns.length; c++) {
      const { frames, keep } = columns[c] as (typeof columns)[number];
      let met = 0;
      for (let k = first; k < last; k++) {
        const l = s.stackLocations[k] as number;
        for (let f = s.locationStart[l] as number; f < (s.locationStart[l + 1] as number); f++) met |= frames[s.locationFrames[f] as number] as number;
      }
      ok = met === keep;
    }
    if (ok) out[stack] = 1;
  }
  return out;
}

function begins(s: Samples, first: number, last: number, callSite: readonly string[]): boolean {
  let at = 0;
  for (let k = first; k < last && at < callSite.length; k++) {
    const l = s.stackLocations[k] as number;
    for (let f = s.locationStart[l] as number; f < (s.locationStart[l + 1] as number) && at < callSite.length; f++) {
      if (s.frames[s.locationFrames[f] as number]?.name !== callSite[at++]) return false;
    }
  }
  return at === callSite.length;
}

function bits(met: readonly boolean[]): number {
  return met.reduce((sum, yes, i) => (yes ? sum | (1 << i) : sum), 0);
}

function compile({ matcher: m, at }: { readonly matcher: FrameMatcher; readonly at: string }): (f: Frame) => boolean {
  const field = (f: Frame): string => (m.field === "function" ? f.name : m.field === "file" ? f.file : f.mapping);
  if (!m.regexp) return (f) => field(f) === m.value;
  const re = regexp(m, at);
  return (f) => re.test(field(f));
}

// regexp compiles what the server takes (RE2) as far as the browser's expressions can say the same.
function regexp(m: FrameMatcher, at: string): RegExp {
  const about = (why: string): FilterError => new FilterError(`${at}: parsing the regular expression for the ${m.field}: ${why}`);
  const other = /\\[QEC]|\\[pP]|\[\[:|\(\?[imsU]*-?[imsU]*:|\(\?[!=<][!=]?(?![\w])|\\[1-9]/.exec(m.value.replace(/^\(\?[ims]+\)/, ""));
  if (other !== null) throw about(`${other[0]} is not understood here; write it in another way`);
  const lead = /^\(\?([ims]+)\)/.exec(m.value);
  const source = m.value.slice(lead?.[0].length ?? 0).replaceAll("(?P<", "(?<").replace(/\\\\|\\A|\\z/g, (e) => (e === "\\A" ? "^" : e === "\\z" ? "$" : e));
  try {
    return new RegExp(source, [...new Set(lead?.[1] ?? "")].join(""));
  } catch (e) {
    throw about(e instanceof Error ? e.message.replace(/^Invalid regular expression: /, "") : String(e));
  }
}
