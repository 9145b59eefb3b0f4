import { useEffect, useMemo, useRef, useState } from "react";
import type { Source } from "../api/source";
import type { StackFilter } from "../lib/filter";
import { functionsBelow, sortRows, type FunctionRow } from "../lib/functions";
import { baseName, shortName } from "../lib/names";
import type { Pattern } from "../lib/search";
import { FrameKind, frameOf, type FlameTree } from "../lib/tree";
import { formatCount, formatShare, formatValue } from "../lib/units";
import type { SortBy } from "../lib/urlstate";
import { useRequest, type Go } from "./hooks";
import { Notice } from "./States";

interface Props {
  readonly source: Source | undefined;
  readonly filter: StackFilter;
  readonly tree: FlameTree;
  readonly zoomed: number;
  readonly wanted: Pattern | undefined;
  readonly search: string;
  readonly sort: SortBy;
  readonly go: Go;
}

const rowHeight = 24;
const spare = 8;
// Longer names lose their path and template arguments: what tells functions apart stands at the end.
const longName = 32;

// FunctionTable lists functions: of everything as the server counts them, of a zoomed part as the graph has them.
export function FunctionTable({ source, filter, tree, zoomed, wanted, search, sort, go }: Props) {
  const order = sort === "total" ? "total" : "self";
  const top = useRequest(zoomed > 0 || source === undefined ? undefined : `${source.key} ${order}`, (signal) => (source as Source).top(filter, order, false, signal));
  const part = useMemo(() => (zoomed > 0 ? functionsBelow(tree, zoomed) : undefined), [tree, zoomed]);
  const whole = tree.total[zoomed] as number;
  const all = part ?? top.data?.rows;
  const rows = useMemo(() => {
    const kept = wanted === undefined ? (all ?? []) : (all ?? []).filter((r) => wanted(r.name));
    return sortRows(kept, sort);
  }, [all, wanted, sort]);

  const box = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, height: 400 });
  useEffect(() => {
    const e = box.current;
    if (e === null) return;
    const see = (): void => setView({ top: e.scrollTop, height: e.clientHeight });
    const o = new ResizeObserver(see);
    o.observe(e);
    e.addEventListener("scroll", see, { passive: true });
    see();
    return () => {
      o.disconnect();
      e.removeEventListener("scroll", see);
    };
  }, []);
  useEffect(() => {
    if (box.current !== null) box.current.scrollTop = 0;
  }, [sort, zoomed, wanted]);
  const first = Math.max(0, Math.floor(view.top / rowHeight) - spare);
  const last = Math.min(rows.length, Math.ceil((view.top + view.height) / rowHeight) + spare);

  const head = (by: SortBy, text: string) => (
    <th scope="col" className={by === "name" ? "" : "value"} aria-sort={sort === by ? (by === "name" ? "ascending" : "descending") : "none"}>
      <button onClick={() => go({ sort: by }, "replace")}>
        {text}
        <i aria-hidden="true">{sort === by ? (by === "name" ? "↑" : "↓") : ""}</i>
      </button>
    </th>
  );
  const pick = (r: FunctionRow): void => {
    const exact = `"${r.name}"`;
    go({ search: search === exact ? "" : exact }, "replace");
  };
  const count = part === undefined ? (top.data?.functionCount ?? rows.length) : part.length;

  return (
    <div className="table">
      {/* The panel tells of a server that is away or of a bad selector. */}
      {zoomed === 0 && top.error?.kind === "failed" && <Notice error={top.error} retry={top.retry} />}
      <div className="table-scroll" ref={box} data-stale={zoomed === 0 && top.loading && top.error === undefined ? "asked" : "no"}>
        <table className="functions" aria-label="Functions" aria-rowcount={rows.length + 1}>
          <thead>
            <tr>
              {head("name", "Function")}
              {head("self", "Self")}
              {head("total", "Total")}
            </tr>
          </thead>
          <tbody>
            {first > 0 && <tr style={{ height: first * rowHeight }} aria-hidden="true" />}
            {rows.slice(first, last).map((r, i) => {
              const exact = search === `"${r.name}"`;
              return (
                <tr key={`${r.name} ${r.mapping} ${first + i}`} aria-rowindex={first + i + 2} aria-selected={exact}>
                  <th scope="row">
                    <button className="mono ellipsis" title={`${r.name}\n${r.file}${r.mapping === "" ? "" : `\n${r.mapping}`}\nClick: show it in the graph`} onClick={() => pick(r)}>
                      {r.name.length > longName ? shortName(r.name) : r.name}
                      {r.kind !== FrameKind.KERNEL && r.mapping !== "" && <small>{baseName(r.mapping)}</small>}
                      {r.kind === FrameKind.KERNEL && <small>kernel</small>}
                    </button>
                  </th>
                  <Value v={r.self} whole={whole} unit={tree.unit} />
                  <Value v={r.total} whole={whole} unit={tree.unit} />
                </tr>
              );
            })}
            {last < rows.length && <tr style={{ height: (rows.length - last) * rowHeight }} aria-hidden="true" />}
          </tbody>
        </table>
        {all === undefined && top.error === undefined && (
          <p className="quiet table-none" role="status">
            Counting functions…
          </p>
        )}
        {all !== undefined && rows.length === 0 && <p className="quiet table-none">No function {wanted === undefined ? "here" : "matches the search"}.</p>}
      </div>
      <p className="table-foot quiet num">
        {part !== undefined
          ? `${formatCount(rows.length)} functions below ${frameOf(tree, zoomed).name}, as the graph shows them`
          : all === undefined
            ? "…"
            : rows.length < count
              ? `${formatCount(rows.length)} of ${formatCount(count)} functions`
              : `${formatCount(count)} functions`}
      </p>
    </div>
  );
}

function Value({ v, whole, unit }: { v: number; whole: number; unit: string }) {
  const share = whole > 0 ? Math.min(1, v / whole) : 0;
  return (
    <td className="value num">
      <i className="bar" style={{ width: `${share * 100}%` }} aria-hidden="true" />
      <span>{v === 0 ? "–" : formatValue(v, unit)}</span>
      <b>{v === 0 ? "" : formatShare(v, whole)}</b>
    </td>
  );
}
