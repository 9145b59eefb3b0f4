import { useEffect, useMemo, useState } from "react";
import type { Api, Selection } from "../api/client";
import { compareOn } from "../api/diff";
import { chooseScale } from "../lib/change";
import { formatCompare, parseCompare, resolveSides, sidesOf, type CompareState } from "../lib/compareurl";
import type { SideName } from "../lib/difftree";
import { stack } from "../lib/series";
import { isLive } from "../lib/timerange";
import { findType, friendlyName, rateOf } from "../lib/types";
import type { ShownSeries } from "./Chart";
import { CompareHead } from "./CompareHead";
import { ComparePanel } from "./ComparePanel";
import { CompareSide } from "./CompareSide";
import { useRequest, useTheme, useUrlState, type Request } from "./hooks";
import { Problem, Welcome } from "./States";
import "./compare.css";

// Compare shows what changed between two selections: over time, as flame graphs, as a table.
export function Compare({ api }: { api: Api }) {
  const [state, go] = useUrlState(parseCompare, formatCompare);
  const theme = useTheme(state.theme);
  // Counts refreshes: a range such as now-1h is resolved anew with each, on both sides at once.
  const [tick, setTick] = useState(0);
  const refresh = (): void => setTick((n) => n + 1);
  const { selector, selectorBefore, range, rangeBefore } = state;
  const { sides, spans, now } = useMemo(() => {
    const now = Date.now();
    const sides = sidesOf(state, now);
    return { sides, spans: resolveSides(sides, now), now };
  }, [selector, selectorBefore, range.from, range.to, rangeBefore?.from, rangeBefore?.to, tick]);

  const types = useRequest(`types ${tick}`, (signal) => api.types(signal));
  const known = types.data ?? [];
  const type = findType(known, state.type);

  const unreadable = "problem" in spans ? spans : undefined;
  const asked = useMemo((): Readonly<Record<SideName, Selection>> | undefined => {
    if (type === undefined || "problem" in spans) return undefined;
    const of = (side: SideName): Selection => ({ type: type.id, selector: sides[side].selector, span: spans[side] });
    return { before: of("before"), after: of("after") };
  }, [type?.id, sides, spans]);
  const rate = type === undefined ? "per-second" : rateOf(type);
  const choice = asked === undefined ? undefined : chooseScale(state.scale, rate === "level", asked.before.span, asked.after.span);
  const compare = useMemo(() => compareOn(location.origin), []);
  const source = useMemo(() => (asked === undefined || choice === undefined ? undefined : compare(asked.before, asked.after, choice.scale)), [asked, choice?.scale]);

  const name = type === undefined ? "" : friendlyName(type);
  useEffect(() => {
    document.title = name === "" ? "Compare – Perfuse" : `Compare ${name} ${selector} – Perfuse`;
  }, [name, selector]);

  const series = { before: useSeries(api, asked?.before, state), after: useSeries(api, asked?.after, state) };
  const answers = [series.before.data, series.after.data];
  // One scale and one colour per value for both charts.
  const { room, keys } = useMemo(() => {
    const stacks = answers.flatMap((d) => (d === undefined ? [] : [stack(d.series, d.span, d.stepMillis, rate, d.asked)]));
    const means = new Map<string, number>();
    for (const l of stacks.flatMap((s) => s.layers)) if (!l.other) means.set(l.key, (means.get(l.key) ?? 0) + l.mean);
    const keys = [...means].sort(([a, x], [b, y]) => y - x || (a < b ? -1 : 1)).map(([key]) => key);
    return { room: Math.max(0, ...stacks.map((s) => s.max)), keys };
  }, [...answers, rate]);
  const chart = (side: SideName) => (
    <CompareSide key={side} api={api} name={side} sides={sides} now={now} selection={asked?.[side]} state={state} go={go} what={name} rate={rate} series={series[side]} room={room} keys={keys} />
  );
  return (
    <>
      <CompareHead state={state} go={go} types={types.data} type={type} busy={types.loading} moving={isLive(sides.after.range)} refresh={refresh} theme={theme} />
      {types.error !== undefined && types.data === undefined ? (
        <Problem error={types.error} retry={types.retry} />
      ) : types.data !== undefined && known.length === 0 ? (
        <Welcome retry={refresh} error={types.error} again={types.retry} />
      ) : types.data !== undefined && type === undefined ? (
        <Problem
          title="No such profile type"
          detail={`The server has no samples of “${state.type}”. It has ${known.map((t) => t.id).join(", ")}.`}
          action={{ label: "Show the usual one", act: () => go({ type: "" }) }}
        />
      ) : (
        <>
          <div className="sides">
            {chart("before")}
            {chart("after")}
          </div>
          {unreadable !== undefined ? (
            <Problem title={`The time range ${unreadable.side} cannot be read`} detail={unreadable.problem} />
          ) : (
            <ComparePanel source={source} asked={asked} sides={sides} now={now} choice={choice} level={rate === "level"} state={state} go={go} theme={theme} />
          )}
        </>
      )}
    </>
  );
}

function useSeries(api: Api, selection: Selection | undefined, { groupBy, filter }: CompareState): Request<ShownSeries> {
  const key = selection === undefined ? undefined : JSON.stringify([selection, groupBy, filter]);
  return useRequest(key, async (signal) => {
    const asked = selection as Selection;
    return { ...(await api.series(asked, groupBy, filter, signal)), span: asked.span, groupBy };
  });
}
