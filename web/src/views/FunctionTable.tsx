import { useEffect, useMemo } from "react";
import type { Source } from "../api/source";
import type { StackFilter } from "../lib/filter";
import { functionsBelow, sortRows, type FunctionRow } from "../lib/functions";
import { baseName, shortName } from "../lib/names";
import type { Pattern } from "../lib/search";
import { FrameKind, frameOf, type FlameTree } from "../lib/tree";
import { formatCount, formatShare, formatValue } from "../lib/units";
import type { SortBy } from "../lib/urlstate";
import { useRequest, type Go } from "./hooks";
import { useRows } from "./rows";
import { Notice } from "./States";

interface Props {
  readonly source: Source;
  readonly filter: StackFilter;
  readonly tree: FlameTree;
  readonly zoomed: number;
  // The path of names to what is zoomed to, as the source knows it; undefined if it could not tell that part from
  // others, or shows frames that the tree does not: then the tree is counted.
  readonly path: readonly string[] | undefined;
  // What ends in an allocator counts for its caller.
  readonly folded: boolean;
  readonly wanted: Pattern | undefined;
  readonly sort: SortBy;
  readonly go: Go;
  // The function that is picked already, and picking one.
  readonly picked: (name: string) => boolean;
  readonly pick: (row: FunctionRow) => void;
  readonly menu: (row: FunctionRow, x: number, y: number) => void;
}

const rowHeight = 24;
// Longer names lose their path and template arguments: what tells functions apart stands at the end.
const longName = 32;

// FunctionTable lists functions, as the source counts them where it can.
export function FunctionTable({ source, filter, tree, zoomed, path, folded, wanted, sort, go, picked, pick, menu }: Props) {
  const order = sort === "total" ? "total" : "self";
  const site = path === undefined || path.length === 0 ? filter.callSite : path;
  const top = useRequest(path === undefined ? undefined : `${source.key} ${JSON.stringify({ ...filter, callSite: site })} ${order} ${folded}`, (signal) =>
    source.top({ ...filter, callSite: site }, order, folded, signal),
  );
  const part = useMemo(() => (path === undefined ? functionsBelow(tree, zoomed) : undefined), [tree, zoomed, path === undefined]);
  const whole = tree.total[zoomed] as number;
  const all = part ?? top.data?.rows;
  const rows = useMemo(() => {
    const kept = wanted === undefined ? (all ?? []) : (all ?? []).filter((r) => wanted(r.name));
    return sortRows(kept, sort);
  }, [all, wanted, sort]);

  const { attach, box, first, last } = useRows(rows.length, rowHeight);
  useEffect(() => {
    if (box.current !== null) box.current.scrollTop = 0;
  }, [sort, zoomed, wanted]);

  const head = (by: SortBy, text: string) => (
    <th scope="col" className={by === "name" ? "" : "value"} aria-sort={sort === by ? (by === "name" ? "ascending" : "descending") : "none"}>
      <button onClick={() => go({ sort: by }, "replace")}>
        {text}
        <i aria-hidden="true">{sort === by ? (by === "name" ? "↑" : "↓") : ""}</i>
      </button>
    </th>
  );
  const count = part === undefined ? (top.data?.functionCount ?? rows.length) : part.length;

  const below = zoomed > 0 ? ` below ${frameOf(tree, zoomed).name}` : "";

  return (
    <div className="table">
      {/* The panel tells of a server that is away or of a bad selector. */}
      {path !== undefined && top.error?.kind === "failed" && <Notice error={top.error} retry={top.retry} />}
      <div className="table-scroll" ref={attach} data-stale={path !== undefined && top.loading && top.error === undefined ? "asked" : "no"}>
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
              return (
                <tr
                  key={`${r.name} ${r.mapping} ${first + i}`}
                  aria-rowindex={first + i + 2}
                  aria-selected={picked(r.name)}
                  onContextMenu={(e) => {
                    e.preventDefault();
                    menu(r, e.clientX, e.clientY);
                  }}
                >
                  <th scope="row">
                    <button className="mono ellipsis" title={`${r.name}\n${r.file}${r.mapping === "" ? "" : `\n${r.mapping}`}\nClick: show it in the graph`} onClick={() => pick(r)}>
                      {r.name.length > longName ? shortName(r.name) : r.name}
                      {r.kind !== FrameKind.KERNEL && r.mapping !== "" && <small>{baseName(r.mapping)}</small>}
                      {r.kind === FrameKind.KERNEL && <small>kernel</small>}
                    </button>
                    <button
                      className="row-menu"
                      aria-label={`More about ${r.name}`}
                      aria-haspopup="menu"
                      onClick={(e) => {
                        const at = e.currentTarget.getBoundingClientRect();
                        menu(r, at.left, at.bottom);
                      }}
                    >
                      ⋯
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
          ? `${formatCount(rows.length)} functions${zoomed > 0 ? ` below ${frameOf(tree, zoomed).name}` : ""}, as the graph shows them`
          : all === undefined
            ? "…"
            : rows.length < count
              ? `${formatCount(rows.length)} of ${formatCount(count)} functions${below}`
              : `${formatCount(count)} functions${below}`}
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
