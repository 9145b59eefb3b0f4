import { useMemo, useState } from "react";
import type { Source } from "../api/source";
import type { StackFilter } from "../lib/filter";
import { match, type Pattern } from "../lib/search";
import { findPath, namesTo, type FlameTree } from "../lib/tree";
import { formatShare, formatValue } from "../lib/units";
import type { ViewState } from "../lib/urlstate";
import { FlameCanvas } from "./FlameCanvas";
import { staleness, useRequest, type Go } from "./hooks";
import { Notice, Problem, Skeleton } from "./States";

interface Props {
  readonly source: Source;
  readonly filter: StackFilter;
  readonly state: ViewState;
  readonly go: Go;
  readonly theme: "light" | "dark";
  readonly wanted: Pattern | undefined;
  readonly search: () => void;
  readonly menu: (tree: FlameTree, node: number, x: number, y: number) => void;
}

// How much finer the halves are asked for when "(small)" is chosen, and what the server cuts by itself.
const finer = 16;
const serverShare = 1 / 4000;

// Sandwich shows one function in the middle, what calls it above and what it calls below.
export function Sandwich({ source, filter, state, go, theme, wanted, search, menu }: Props) {
  const name = state.sandwich;
  const [fine, setFine] = useState({ of: name, share: 0 });
  const share = fine.of === name ? fine.share : 0;
  const request = useRequest(`${source.key} ${JSON.stringify(filter)} ${name} ${share}`, (signal) => source.sandwich(filter, name, share, signal));
  const both = request.data;
  const found = useMemo(
    () => (both === undefined || wanted === undefined ? undefined : { callers: match(both.callers, wanted).frame, callees: match(both.callees, wanted).frame }),
    [both, wanted],
  );
  if (both === undefined) return request.error !== undefined ? <Problem error={request.error} retry={request.retry} /> : <Skeleton />;

  const half = (side: "callers" | "callees") => {
    const tree = both[side];
    const zoomed = findPath(tree, state[side]).node;
    return (
      <FlameCanvas
        name={side === "callers" ? `What calls ${name}` : `What ${name} calls`}
        tree={tree}
        zoomed={zoomed}
        matches={found?.[side]}
        orientation={side === "callers" ? "flame" : "icicle"}
        colourBy={state.colourBy}
        theme={theme}
        zoom={(node) => go({ [side]: namesTo(tree, node) })}
        expand={() => setFine({ of: name, share: (share === 0 ? serverShare : share) / finer })}
        search={search}
        menu={(node, x, y) => menu(tree, node, x, y)}
      />
    );
  };
  const none = both.total === 0;
  return (
    <div className="sandwich" data-stale={staleness(request)} aria-busy={request.loading}>
      <p className="crumb-note sandwich-head">
        <b className="mono ellipsis" title={name}>
          {name}
        </b>
        <span className="num">
          {formatValue(both.total, both.callees.unit)} ({formatShare(both.total, both.unfiltered)}), itself {formatValue(both.self, both.callees.unit)}
        </span>
        <button onClick={() => go({ sandwich: "", callers: [], callees: [] })}>Whole graph</button>
      </p>
      {request.error !== undefined && <Notice error={request.error} retry={request.retry} />}
      {none ? (
        <p className="quiet table-none">
          No stack of this selection has <code>{name}</code>.
        </p>
      ) : (
        <>
          <h3 className="half-head">Callers</h3>
          <div className="half">{half("callers")}</div>
          <h3 className="half-head">Callees</h3>
          <div className="half">{half("callees")}</div>
        </>
      )}
    </div>
  );
}
