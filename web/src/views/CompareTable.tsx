import { useEffect, useMemo } from "react";
import type { DiffSource } from "../api/diff";
import { formatGrowth, writerOf, type Scale, type Writer } from "../lib/change";
import type { CompareState } from "../lib/compareurl";
import { diffRowsBelow, sortDiffRows, type DiffRow, type DiffSort } from "../lib/difftable";
import { change, growth, type DiffSide, type DiffTree } from "../lib/difftree";
import type { StackFilter } from "../lib/filter";
import { baseName, shortName } from "../lib/names";
import type { Pattern } from "../lib/search";
import { FrameKind, frameOf } from "../lib/tree";
import { formatCount, formatShare } from "../lib/units";
import { useRequest, useWidth, type Change } from "./hooks";
import { useRows } from "./rows";
import { Notice } from "./States";

interface Props {
  readonly source: DiffSource;
  readonly filter: StackFilter;
  readonly tree: DiffTree;
  readonly zoomed: number;
  // The path of names to what is zoomed to; undefined if it leads to more than that: then the tree is counted.
  readonly path: readonly string[] | undefined;
  // The tree's.
  readonly scale: Scale;
  readonly memory: boolean;
  // What ends in an allocator counts for its caller.
  readonly folded: boolean;
  readonly wanted: Pattern | undefined;
  readonly sort: DiffSort;
  readonly search: string;
  readonly go: Change<CompareState>;
  readonly menu: (row: DiffRow, x: number, y: number) => void;
}

const rowHeight = 24;
const longName = 32;
// From how many pixels on there is room for before and after, and for both kinds of values.
const roomForSides = 430;
const roomForBoth = 1000;

// CompareTable lists functions, what changed most first, as the server counts them where it can.
export function CompareTable({ source, filter, tree, zoomed, path, scale, memory, folded, wanted, sort, search, go, menu }: Props) {
  const order = sort === "total" ? "total" : "self";
  const site = path === undefined || path.length === 0 ? filter.callSite : path;
  const top = useRequest(path === undefined ? undefined : `${source.key} ${JSON.stringify({ ...filter, callSite: site })} ${order} ${folded}`, (signal) =>
    source.top({ ...filter, callSite: site }, order, folded, signal),
  );
  const part = useMemo(() => (path === undefined ? diffRowsBelow(tree, zoomed) : undefined), [tree, zoomed, path === undefined]);
  // An answer is written with its own scales, also while the next is on its way.
  const sides = part === undefined ? (top.data ?? tree) : tree;
  const written = part === undefined ? (top.data?.scale ?? scale) : scale;
  const all = part ?? top.data?.rows;
  const rows = useMemo(() => {
    const kept = (all ?? []).filter((r) => (wanted === undefined || wanted(r.name)) && (changeOf(r, "self", sides) !== 0 || changeOf(r, "total", sides) !== 0));
    return sortDiffRows(kept, sort, sides);
  }, [all, wanted, sort, sides]);
  const write = writerOf(sides, written, tree.unit);
  const most = useMemo(() => rows.reduce((n, r) => Math.max(n, Math.abs(changeOf(r, order, sides))), 0), [rows, order, sides]);

  const [frame, width] = useWidth();
  const both = width >= roomForBoth;
  // Shares and growth per second have longer words.
  const beside = width >= (written === "time" ? 1.15 : 1) * roomForSides;
  const shown: readonly ("self" | "total")[] = both ? (order === "self" ? ["self", "total"] : ["total", "self"]) : [order];

  const { box, first, last } = useRows(rows.length, rowHeight);
  useEffect(() => {
    if (box.current !== null) box.current.scrollTop = 0;
  }, [sort, zoomed, wanted]);

  const below = zoomed > 0 ? ` below ${frameOf(tree, zoomed).name}` : "";
  const count = part === undefined ? (top.data?.functionCount ?? rows.length) : part.length;
  const sorted = (by: DiffSort) => (sort === by ? (by === "name" ? "ascending" : "descending") : "none");
  const exact = (name: string): string => `"${name}"`;
  return (
    <div className="table" ref={frame}>
      <div className="table-kind">
        <div className="toggle" role="group" aria-label="Change of">
          {(["self", "total"] as const).map((by) => (
            <button key={by} aria-pressed={order === by} title={by === "self" ? "What a function costs without those it calls" : "What a function costs with those it calls"} onClick={() => go({ sort: by }, "replace")}>
              {by === "self" ? "Self" : "Total"}
            </button>
          ))}
        </div>
        {memory && (
          <button className="quiet-button" aria-pressed={!folded} title="Show malloc and its like instead of counting them for who calls them" onClick={() => go({ allocators: folded }, "replace")}>
            Allocators
          </button>
        )}
      </div>
      {/* The panel tells of a server that is away or of a bad selector. */}
      {path !== undefined && top.error?.kind === "failed" && <Notice error={top.error} retry={top.retry} />}
      <div className="table-scroll" ref={box} data-stale={path !== undefined && top.loading && top.error === undefined ? "asked" : "no"}>
        <table className="functions changes" data-room={both ? "wide" : beside ? "narrow" : "least"} aria-label="Functions that changed" aria-rowcount={rows.length + 1}>
          <thead>
            <tr>
              <th scope="col" aria-sort={sorted("name")}>
                <button onClick={() => go({ sort: "name" }, "replace")}>
                  Function
                  <i aria-hidden="true">{sort === "name" ? "↑" : ""}</i>
                </button>
              </th>
              {shown.map((by) => (
                <Head key={by} by={by} beside={beside} share={both && written !== "total"} named={both} sorted={sorted(by)} sort={() => go({ sort: by }, "replace")} />
              ))}
            </tr>
          </thead>
          <tbody>
            {first > 0 && <tr style={{ height: first * rowHeight }} aria-hidden="true" />}
            {rows.slice(first, last).map((r, i) => (
              <tr
                key={`${r.name} ${r.mapping} ${first + i}`}
                aria-rowindex={first + i + 2}
                aria-selected={search === exact(r.name)}
                onContextMenu={(e) => {
                  e.preventDefault();
                  menu(r, e.clientX, e.clientY);
                }}
              >
                <th scope="row">
                  <button
                    className="mono ellipsis"
                    title={`${r.name}\n${r.file}${r.mapping === "" ? "" : `\n${r.mapping}`}\nClick: show it in the graph`}
                    onClick={() => go({ search: search === exact(r.name) ? "" : exact(r.name) }, "replace")}
                  >
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
                {shown.map((by) => (
                  <Cells key={by} row={r} by={by} beside={beside} share={both && written !== "total"} most={by === order ? most : 0} sides={sides} write={write} />
                ))}
              </tr>
            ))}
            {last < rows.length && <tr style={{ height: (rows.length - last) * rowHeight }} aria-hidden="true" />}
          </tbody>
        </table>
        {all === undefined && top.error === undefined && (
          <p className="quiet table-none" role="status">
            Counting functions…
          </p>
        )}
        {all !== undefined && rows.length === 0 && <p className="quiet table-none">{wanted === undefined ? "Nothing changed." : "No function that changed matches the search."}</p>}
      </div>
      <p className="table-foot quiet num">
        {all === undefined
          ? "…"
          : `${formatCount(rows.length)} of ${formatCount(count)} functions${below}${wanted === undefined && all.length === count ? " changed" : ""}${part !== undefined ? ", as the graph shows them" : folded ? "; allocators count for their callers" : ""}`}
      </p>
    </div>
  );
}

type Sides = { readonly before: DiffSide; readonly after: DiffSide };

function valuesOf(r: DiffRow, by: "self" | "total"): [number, number] {
  return by === "self" ? [r.selfBefore, r.selfAfter] : [r.totalBefore, r.totalAfter];
}

function changeOf(r: DiffRow, by: "self" | "total", sides: Sides): number {
  return change(sides, ...valuesOf(r, by));
}

function Head(p: { readonly by: "self" | "total"; readonly beside: boolean; readonly share: boolean; readonly named: boolean; readonly sorted: "ascending" | "descending" | "none"; readonly sort: () => void }) {
  const kind = p.by === "self" ? "Self" : "Total";
  return (
    <>
      {p.beside && (
        <th scope="col" className="side-value">
          {p.named ? `${kind} before` : "Before"}
        </th>
      )}
      {p.beside && (
        <th scope="col" className="side-value">
          {p.named ? `${kind} after` : "After"}
        </th>
      )}
      {p.share && (
        <th scope="col" className="share" title="Of everything after; of everything before if there is none after">
          Share
        </th>
      )}
      <th scope="col" className="value" aria-sort={p.sorted}>
        <button onClick={p.sort}>
          Change
          <i aria-hidden="true">{p.sorted === "descending" ? "↓" : ""}</i>
        </button>
      </th>
      <th scope="col" className="ratio">
        Relative
      </th>
    </>
  );
}

function Cells(p: { readonly row: DiffRow; readonly by: "self" | "total"; readonly beside: boolean; readonly share: boolean; readonly most: number; readonly sides: Sides; readonly write: Writer }) {
  const [before, after] = valuesOf(p.row, p.by);
  const grown = growth(p.sides, before, after);
  const changed = change(p.sides, before, after);
  const shares = (["before", "after"] as const).map((side) => formatShare(side === "before" ? before : after, p.sides[side].unfilteredTotal));
  const title = `${p.by}: ${p.write.value("before", before)} (${shares[0]}) before, ${p.write.value("after", after)} (${shares[1]}) after`;
  return (
    <>
      {p.beside && <td className="side-value num">{before === 0 ? "–" : p.write.value("before", before)}</td>}
      {p.beside && <td className="side-value num">{after === 0 ? "–" : p.write.value("after", after)}</td>}
      {p.share && <td className="share num">{after !== 0 ? shares[1] : before !== 0 ? shares[0] : ""}</td>}
      <td className="value num" title={title} data-change={changed > 0 ? "more" : changed < 0 ? "less" : "same"}>
        <i className="bar" style={{ width: `${p.most === 0 ? 0 : (Math.abs(changed) / p.most) * 100}%` }} aria-hidden="true" />
        <span>{changed === 0 ? "–" : p.write.change(changed)}</span>
      </td>
      <td className="ratio num">{changed === 0 ? "" : formatGrowth(grown)}</td>
    </>
  );
}
