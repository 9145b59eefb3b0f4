// Two selections on the server, compared.

import { createClient } from "@connectrpc/connect";
import type { Scale } from "../lib/change";
import type { DiffRow } from "../lib/difftable";
import { decodeDiff, sideOf, type DiffSide, type DiffTree } from "../lib/difftree";
import type { StackFilter } from "../lib/filter";
import { ask, selection, stackFilter, transportTo, type Selection } from "./call";
import { DiffScale, DiffTopOrder, QueryService } from "./gen/perfuse/query/v1/query_pb";

export interface DiffTop {
  readonly scale: Scale;
  readonly before: DiffSide;
  readonly after: DiffSide;
  readonly rows: readonly DiffRow[];
  // How many functions there are; rows has those that changed most.
  readonly functionCount: number;
}

export interface DiffSource {
  // Says what the source is: another key, another question.
  readonly key: string;
  readonly scale: Scale;
  // minShare 0 is the server's own; path is the names from the root's child down to the node whose subtree is wanted.
  tree(filter: StackFilter, minShare: number, path: readonly string[], signal: AbortSignal): Promise<DiffTree>;
  // Functions, those that changed most first; folded: what ends in an allocator counts for its caller.
  top(filter: StackFilter, by: "self" | "total", folded: boolean, signal: AbortSignal): Promise<DiffTop>;
}

const topLimit = 1000;
const scales: Readonly<Record<Scale, DiffScale>> = { none: DiffScale.NONE, time: DiffScale.TIME, total: DiffScale.TOTAL };

// compareOn asks the server at baseUrl; sources of one question have one key.
export function compareOn(baseUrl: string): (before: Selection, after: Selection, scale: Scale) => DiffSource {
  const client = createClient(QueryService, transportTo(baseUrl));
  return (before, after, scale) => {
    const asked = { before: selection(before), after: selection(after), scale: scales[scale] };
    return {
      key: JSON.stringify([before, after, scale]),
      scale,
      async tree(filter, minShare, path, signal) {
        return decodeDiff(await ask(() => client.diff({ ...asked, filter: stackFilter(filter), minShare, path: [...path] }, { signal })));
      },
      async top(filter, by, folded, signal) {
        const order = by === "total" ? DiffTopOrder.TOTAL : DiffTopOrder.SELF;
        const r = await ask(() => client.diffTop({ ...asked, filter: stackFilter(filter), limit: topLimit, order, foldAllocators: folded }, { signal }));
        return {
          scale,
          before: sideOf(r.before),
          after: sideOf(r.after),
          rows: r.functions.map((f) => ({
            name: f.name,
            file: f.file,
            mapping: f.mapping,
            kind: f.kind,
            selfBefore: Number(f.selfBefore),
            selfAfter: Number(f.selfAfter),
            totalBefore: Number(f.totalBefore),
            totalAfter: Number(f.totalAfter),
          })),
          functionCount: Number(r.functionCount),
        };
      },
    };
  };
}
