import { useEffect, useMemo, useState } from "react";
import type { Api, Selection } from "../api/client";
import { isLive, resolve, widen } from "../lib/timerange";
import { findType, friendlyName, rateOf } from "../lib/types";
import { format, parse } from "../lib/urlstate";
import { Chart, type ShownSeries } from "./Chart";
import { aboutFilter, FlamePanel } from "./FlamePanel";
import { useRequest, useTheme, useUrlState } from "./hooks";
import { Problem, Welcome } from "./States";
import { TopBar } from "./TopBar";

// Explore shows one selection: over time, as a flame graph, as a table.
export function Explore({ api }: { api: Api }) {
  const [state, go] = useUrlState(parse, format);
  const theme = useTheme(state.theme);
  // Counts refreshes: a range such as now-1h is resolved anew with each.
  const [tick, setTick] = useState(0);
  const { range, live, selector, groupBy, filter } = state;

  const span = useMemo(() => resolve(range, Date.now()), [range.from, range.to, tick]);
  const width = typeof span === "string" ? 0 : span.end - span.start;
  useEffect(() => {
    if (!live || !isLive(range)) return;
    const every = Math.max(5000, Math.min(60_000, width / 200));
    const timer = setInterval(() => {
      if (document.visibilityState === "visible") setTick((n) => n + 1);
    }, every);
    return () => clearInterval(timer);
  }, [live, range.from, range.to, width]);

  const types = useRequest(`types ${tick}`, (signal) => api.types(signal));
  const known = types.data ?? [];
  const type = findType(known, state.type);
  const unknownType = types.data !== undefined && known.length > 0 && type === undefined;

  const selection: Selection | undefined =
    type === undefined || typeof span === "string" ? undefined : { type: type.id, selector, span };
  // A refresh asks the same anew: profiles of a range that has passed may still come.
  const key = selection === undefined ? undefined : `${JSON.stringify(selection)} ${tick}`;

  const source = useMemo(() => (selection === undefined || key === undefined ? undefined : { ...api.source(selection), key }), [api, key]);

  const series = useRequest(key === undefined ? undefined : `${key} ${groupBy} ${JSON.stringify(filter)}`, async (signal): Promise<ShownSeries> => {
    const asked = selection as Selection;
    return { ...(await api.series(asked, groupBy, filter, signal)), span: asked.span, groupBy };
  });
  const refresh = (): void => setTick((n) => n + 1);

  useEffect(() => {
    document.title = type === undefined ? "Perfuse" : `${friendlyName(type)} ${selector} – Perfuse`;
  }, [type, selector]);

  return (
    <>
      <TopBar
        api={api}
        state={state}
        go={go}
        types={types.data}
        type={type}
        selection={selection}
        refused={series.error?.kind === "asked" && !aboutFilter(series.error)}
        busy={types.loading || series.loading}
        refresh={refresh}
        theme={theme}
      />
      <main className="main">
        <h1 className="off-screen">Explore profiles</h1>
        {typeof span === "string" ? (
          <Problem title="The time range cannot be read" detail={span} />
        ) : types.error !== undefined && types.data === undefined ? (
          <Problem error={types.error} retry={types.retry} />
        ) : unknownType ? (
          <Problem
            title="No such profile type"
            detail={`The server has no samples of “${state.type}”. It has ${known.map((t) => t.id).join(", ")}.`}
            action={{ label: "Show the usual one", act: () => go({ type: "" }) }}
          />
        ) : types.data !== undefined && known.length === 0 ? (
          <Welcome retry={refresh} error={types.error} again={types.retry} />
        ) : (
          <>
            <Chart
              api={api}
              request={series}
              selection={selection}
              span={span}
              name={type === undefined ? "" : friendlyName(type)}
              rate={type === undefined ? "per-second" : rateOf(type)}
              state={state}
              go={go}
              widen={() => go({ range: widen(range, Date.now()) })}
            />
            <FlamePanel source={source} state={state} go={go} theme={theme} />
          </>
        )}
      </main>
    </>
  );
}
