// A selection on the server as a flame panel's source.

import type { Client } from "@connectrpc/connect";
import { decodeTree, named, type WireTree } from "../lib/tree";
import { fileName } from "../lib/urlstate";
import { ask, selection, stackFilter, type Selection } from "./call";
import { ExportFormat, TopOrder, type FlameTree as WireHalf, type QueryService } from "./gen/perfuse/query/v1/query_pb";
import type { Source } from "./source";

const topLimit = 1000;

export function serverSource(client: Client<typeof QueryService>, s: Selection): Source {
  const asked = selection(s);
  return {
    key: JSON.stringify(s),
    type: s.type,
    fileName: fileName(s.type.split(":")[1] ?? "profile", s.selector, s.span.end),
    selection: s,
    async flameGraph(filter, minShare, path, signal) {
      return decodeTree(await ask(() => client.flameGraph({ selection: asked, filter: stackFilter(filter), minShare, path: [...path] }, { signal })));
    },
    async top(filter, by, folded, signal) {
      const order = by === "total" ? TopOrder.TOTAL : TopOrder.SELF;
      const r = await ask(() => client.top({ selection: asked, filter: stackFilter(filter), limit: topLimit, order, foldAllocators: folded }, { signal }));
      return {
        unit: r.unit,
        total: Number(r.total),
        rows: r.functions.map((f) => ({ name: f.name, file: f.file, mapping: f.mapping, kind: f.kind, self: Number(f.self), total: Number(f.total) })),
        functionCount: Number(r.functionCount),
      };
    },
    async sandwich(filter, name, minShare, signal) {
      const r = await ask(() => client.sandwich({ selection: asked, filter: stackFilter(filter), function: name, minShare }, { signal }));
      const half = (t: WireHalf | undefined): WireTree => ({
        strings: t?.strings ?? [],
        frames: t?.frames ?? [],
        nodes: t?.nodes ?? new Uint8Array(),
        nodeCount: t?.nodeCount ?? 0n,
        cutCount: t?.cutCount ?? 0n,
        unit: r.unit,
        stackCount: r.stackCount,
        seriesCount: r.seriesCount,
        stacksCut: r.stacksCut,
      });
      const tree = (t: WireHalf | undefined) => named(decodeTree(half(t)), name);
      return { callers: tree(r.callers), callees: tree(r.callees), total: Number(r.total), self: Number(r.self), unfiltered: Number(r.unfilteredTotal) };
    },
    async lines(filter, name, signal) {
      const r = await ask(() => client.lines({ selection: asked, filter: stackFilter(filter), function: name }, { signal }));
      return {
        unit: r.unit,
        unfiltered: Number(r.unfilteredTotal),
        files: r.files.map((f) => ({
          path: f.path,
          mapping: f.mapping,
          startLine: f.startLine,
          self: Number(f.self),
          total: Number(f.total),
          lines: f.lines.map((l) => ({ line: l.line, self: Number(l.self), total: Number(l.total) })),
          text: f.text,
          noText: f.noText,
        })),
      };
    },
    async pprof(filter, signal) {
      return new Uint8Array((await ask(() => client.export({ selection: asked, filter: stackFilter(filter), format: ExportFormat.PPROF }, { signal }))).data);
    },
    async folded(filter, signal) {
      const r = await ask(() => client.export({ selection: asked, filter: stackFilter(filter), format: ExportFormat.FOLDED }, { signal }));
      return new TextDecoder().decode(r.data);
    },
  };
}
