// The page's answers about a file are the server's: the transcripts in testdata are what package profile says of the
// same profiles (profile/answers_test.go, which writes them).

import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { expect, test } from "vitest";
import { foldAllocators } from "./allocator";
import { noFilter, parseMatcher, type StackFilter } from "./filter";
import { writeFolded } from "./folded";
import type { FunctionRow } from "./functions";
import { kept } from "./judge";
import { cut, linesOf, sandwich, subtree, top, treeOf, type Part } from "./merge";
import { readPprof } from "./pprof";
import type { Samples } from "./stacks";
import { firstChild, frameOf, nextSibling, type FlameTree } from "./tree";

const questions: readonly { name: string; filter: Partial<StackFilter> }[] = [
  { name: "everything", filter: {} },
  { name: "the call site", filter: { callSite: [] } },
  { name: "keep function=~^runtime\\.(gc|m)", filter: { keep: [parseMatcher("^runtime\\.(gc|m)")] } },
  { name: "drop file=~(?i)/RUNTIME/", filter: { drop: [parseMatcher("file=~(?i)/RUNTIME/")] } },
  { name: "keep function=runtime.main, drop binary=", filter: { keep: [parseMatcher("function=runtime.main")], drop: [parseMatcher("binary=")] } },
];

function answers(s: Samples): string {
  const out: string[] = [];
  s.types.forEach((t, type) => {
    const part = { type, label: undefined };
    if (treeOf(s, part).count === 1) return;
    const site = heaviest(treeOf(s, part), 3);
    for (const q of questions) {
      const filter = { ...noFilter, ...q.filter, ...(q.filter.callSite === undefined ? {} : { callSite: site }) };
      const keep = kept(s, filter);
      out.push(`== ${t.id}: ${q.name} ${filter.callSite.join(";")}`);
      answer(out, s, part, keep, treeOf(s, part, keep));
    }
  });
  return `${out.join("\n")}\n`;
}

function answer(out: string[], s: Samples, part: Part, keep: Uint8Array | undefined, tree: FlameTree): void {
  out.push(`${tree.count} nodes, ${tree.stackCount} stacks, folded ${digest(writeFolded(tree))}`);
  showCut(out, "cut", tree, 0.02);
  const path = heaviest(tree, 2);
  showCut(out, `below ${path.join(";")}`, subtree(tree, path), 0.1);
  showRows(out, "by self", top(tree, "self"));
  const rows = top(tree, "total");
  showRows(out, "by total", rows);
  showRows(out, "without allocators", top(foldAllocators(tree), "self"));
  for (const nth of [2, 9]) {
    const name = rows[nth]?.name;
    if (name === undefined) continue;
    const { callers, callees, total, self } = sandwich(tree, name);
    out.push(
      `around ${name}: total ${total}, self ${self}, callers ${callers.count} nodes ${digest(writeFolded(callers))}, callees ${callees.count} nodes ${digest(writeFolded(callees))}`,
    );
    for (const f of linesOf(s, part, keep, name)) {
      out.push(`lines of ${f.file}:${f.startLine} in ${f.mapping}: ${f.self} ${f.total}:${f.lines.map((l) => ` ${l.line}=${l.self}/${l.total}`).join("")}`);
    }
  }
}

function heaviest(t: FlameTree, depth: number): string[] {
  const path: string[] = [];
  for (let at = 0; path.length < depth; ) {
    let best = -1;
    for (let c = firstChild(t, at); c >= 0; c = nextSibling(t, c)) if (best < 0 || (t.total[c] as number) > (t.total[best] as number)) best = c;
    if (best < 0) break;
    path.push(frameOf(t, best).name);
    at = best;
  }
  return path;
}

function digest(text: string): string {
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}

function showCut(out: string[], what: string, tree: FlameTree, share: number): void {
  const t = cut(tree, share);
  let text = "";
  for (let i = 0; i < t.count; i++) {
    const f = frameOf(t, i);
    text += `${t.depth[i]} ${f.name} kind ${f.kind} inlined ${f.inlined} self ${t.self[i]} total ${t.total[i]} ${f.file}:${f.startLine} ${f.mapping}\n`;
  }
  out.push(`${what}: ${t.cutCount} of ${t.nodeCount} nodes cut, ${digest(text)}`);
}

function showRows(out: string[], what: string, rows: readonly FunctionRow[]): void {
  out.push(`${what}: ${rows.length} rows`);
  for (const r of rows.slice(0, 4)) out.push(` ${r.name} ${r.file} ${r.mapping} ${r.kind}: ${r.self} ${r.total}`);
}

// PROFILES names another folder of profiles NAME.pb.gz, and PROFILE_ANSWERS one with NAME.txt.
const profiles = new URL(process.env["PROFILES"] ?? "../../../profile/testdata/pprof/", import.meta.url);
const transcripts = new URL(process.env["PROFILE_ANSWERS"] ?? "testdata/", import.meta.url);

for (const file of readdirSync(transcripts).filter((f) => f.endsWith(".txt"))) {
  const name = file.replace(/\.txt$/, "");
  test(`what package profile says of ${name}`, () => {
    const s = readPprof(gunzipSync(readFileSync(new URL(`${encodeURIComponent(name)}.pb.gz`, profiles))));
    expect(answers(s)).toBe(readFileSync(new URL(encodeURIComponent(file), transcripts), "utf8"));
  });
}
