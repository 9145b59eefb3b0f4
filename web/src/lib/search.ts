// Searching the graph: a substring without regard to case, a /regular expression/, or one "whole name".

import type { FlameTree } from "./tree";

export type Pattern = (name: string) => boolean;

// pattern compiles what was typed; undefined for nothing, a message for a bad expression.
export function pattern(text: string): Pattern | undefined | string {
  const t = text.trim();
  if (t === "") return undefined;
  const exact = /^"(.+)"$/s.exec(t);
  if (exact !== null) return (name) => name === exact[1];
  const re = /^\/(.*?)\/?$/s.exec(t);
  if (re !== null && t.length > 1) {
    if (re[1] === "") return undefined;
    try {
      const compiled = new RegExp(re[1] as string, "i");
      return (name) => compiled.test(name);
    } catch (e) {
      return e instanceof Error ? e.message : String(e);
    }
  }
  const lower = t.toLowerCase();
  return (name) => name.toLowerCase().includes(lower);
}

export interface Matches {
  // Per frame: 1 if its name matches.
  readonly frame: Uint8Array;
  // How many nodes match, and the value below the topmost of them: nothing is counted twice.
  readonly nodes: number;
  readonly value: number;
}

// match searches the subtree of root.
export function match(t: FlameTree, p: Pattern, root = 0): Matches {
  const frame = new Uint8Array(t.frames.length);
  t.frames.forEach((f, i) => {
    if (p(f.name)) frame[i] = 1;
  });
  let nodes = 0;
  let value = 0;
  let covered = 0;
  const end = t.count === 0 ? 0 : (t.end[root] as number);
  for (let i = root; i < end; i++) {
    if (frame[t.frame[i] as number] !== 1) continue;
    nodes++;
    if (i >= covered) {
      value += t.total[i] as number;
      covered = t.end[i] as number;
    }
  }
  return { frame, nodes, value };
}
