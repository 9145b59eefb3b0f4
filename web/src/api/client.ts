// The page's questions to the server it came from. Answers are turned into the page's own shapes here: nothing of the
// wire, and no 64-bit integers, go further.

import { createClient } from "@connectrpc/connect";
import type { StackFilter } from "../lib/filter";
import { around, stepFor, type RawSeries } from "../lib/series";
import { ask, millis, nano, selection, stackFilter, transportTo, type Selection } from "./call";
import { QueryService } from "./gen/perfuse/query/v1/query_pb";
import { serverSource } from "./server";
import type { Source } from "./source";

export { ApiError, type Selection } from "./call";

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

export interface LabelName {
  readonly name: string;
  readonly values: number;
}

export interface Api {
  types(signal: AbortSignal): Promise<readonly TypeInfo[]>;
  // With how many values each has.
  labelNames(s: Selection, signal: AbortSignal): Promise<readonly LabelName[]>;
  labelValues(s: Selection, name: string, prefix: string, signal: AbortSignal): Promise<{ values: readonly string[]; truncated: boolean }>;
  // What the filter leaves out counts 0.
  series(s: Selection, groupBy: string, filter: StackFilter, signal: AbortSignal): Promise<SeriesAnswer>;
  source(s: Selection): Source;
}

const completionLimit = 50;
const seriesLimit = 8;

export function newApi(baseUrl: string): Api {
  const client = createClient(QueryService, transportTo(baseUrl));
  return {
    async types(signal) {
      const r = await ask(() => client.profileTypes({}, { signal }));
      return r.types.map((t) => ({ id: t.id, name: t.name, sampleType: t.sampleType, sampleUnit: t.sampleUnit }));
    },
    async labelNames(s, signal) {
      const r = await ask(() => client.labelNames({ selection: selection(s), countValues: true }, { signal }));
      return r.names.map((name, i) => ({ name, values: Number(r.valueCounts[i] ?? 0) }));
    },
    async labelValues(s, name, prefix, signal) {
      return ask(() => client.labelValues({ selection: selection(s), name, prefix, limit: completionLimit }, { signal }));
    },
    async series(s, groupBy, filter, signal) {
      const asked = Date.now();
      const wide = selection({ ...s, span: around(s.span) });
      const r = await ask(() =>
        client.series({ selection: wide, groupBy: groupBy === "" ? [] : [groupBy], stepNano: nano(stepFor(s.span)), limit: seriesLimit, filter: stackFilter(filter) }, { signal }),
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
    source: (s) => serverSource(client, s),
  };
}
