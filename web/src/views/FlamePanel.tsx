import { useEffect, useMemo, useRef, useState } from "react";
import { ApiError } from "../api/client";
import type { Source } from "../api/source";
import { noFilter } from "../lib/filter";
import { shortName } from "../lib/names";
import { pattern, match } from "../lib/search";
import { widen } from "../lib/timerange";
import { expandable, findPath, frameOf, graft, namesTo, pathTo, type FlameTree } from "../lib/tree";
import { formatCount, formatShare, formatValue } from "../lib/units";
import { joinPath, type ColourBy, type Layout, type Orientation, type ViewState } from "../lib/urlstate";
import { FlameCanvas } from "./FlameCanvas";
import { FunctionTable } from "./FunctionTable";
import { staleness, useRequest, type Go } from "./hooks";
import { Chevron } from "./RangePicker";
import { Split } from "./Split";
import { Nothing, Notice, Problem, Skeleton } from "./States";

interface Props {
  // Undefined until it is known what is asked.
  readonly source: Source | undefined;
  readonly state: ViewState;
  readonly go: Go;
  readonly theme: "light" | "dark";
}

// What the server cuts by itself, and how much finer each expansion looks.
const serverShare = 1 / 4000;
const finer = 16;

export function FlamePanel({ source, state, go, theme }: Props) {
  const filter = noFilter;
  const request = useRequest(source?.key, (signal) => (source as Source).flameGraph(filter, 0, [], signal));
  // The tree that was asked for, with what was expanded since.
  const [grown, setGrown] = useState<{ of: FlameTree; tree: FlameTree; shares: ReadonlyMap<string, number> }>();
  const [actionError, setActionError] = useState<ApiError>();
  const [busy, setBusy] = useState(false);
  const base = request.data;
  const tree = grown !== undefined && grown.of === base ? grown.tree : base;
  const searchBox = useRef<HTMLInputElement>(null);

  const zoomed = useMemo(() => (tree === undefined ? { node: 0, whole: true } : findPath(tree, state.zoom)), [tree, state.zoom]);
  const wanted = useMemo(() => pattern(state.search), [state.search]);
  const found = useMemo(
    () => (tree === undefined || wanted === undefined || typeof wanted === "string" ? undefined : match(tree, wanted, zoomed.node)),
    [tree, wanted, zoomed.node],
  );

  // The slash leads to the search from anywhere but a text field.
  useEffect(() => {
    const slash = (e: KeyboardEvent): void => {
      if (e.key !== "/" || e.defaultPrevented || e.ctrlKey || e.metaKey || e.altKey) return;
      if (e.target instanceof Element && e.target.closest("input, select, textarea") !== null) return;
      e.preventDefault();
      searchBox.current?.focus();
      searchBox.current?.select();
    };
    addEventListener("keydown", slash);
    return () => removeEventListener("keydown", slash);
  }, []);

  const expand = (node: number): void => {
    if (tree === undefined || base === undefined || source === undefined || busy) return;
    const at = expandable(tree, tree.parent[node] as number);
    const path = namesTo(tree, at);
    const key = joinPath(path);
    const shares = grown?.of === base ? grown.shares : new Map<string, number>();
    // Of the part's value, as the server takes it: finer than last time, and fine enough for what was folded here.
    const before = shares.get(key) ?? (serverShare * (tree.total[0] as number)) / (tree.total[at] as number);
    const share = Math.min(before / finer, (tree.total[node] as number) / (tree.total[at] as number) / 100);
    setBusy(true);
    setActionError(undefined);
    source.flameGraph(filter, share, path, AbortSignal.timeout(60_000)).then(
      (part) => {
        setBusy(false);
        if (part.count > 0) setGrown({ of: base, tree: graft(tree, at, part, 0), shares: new Map(shares).set(key, share) });
      },
      (e: unknown) => {
        setBusy(false);
        setActionError(e instanceof ApiError ? e : new ApiError(String(e), "failed", ""));
      },
    );
  };

  const without =
    request.error?.kind === "asked" && state.selector !== ""
      ? { action: { label: "Without the selector", act: () => go({ selector: "", zoom: [] }) } }
      : {};
  const download = (): void => {
    if (source === undefined || busy) return;
    setBusy(true);
    setActionError(undefined);
    source.pprof(filter, AbortSignal.timeout(60_000)).then(
      (data) => {
        setBusy(false);
        const link = document.createElement("a");
        link.href = URL.createObjectURL(new Blob([data], { type: "application/octet-stream" }));
        link.download = `${source.fileName}.pb.gz`;
        link.click();
        // The browser has taken the data when the click returns, but not surely its name: let it finish.
        setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
      },
      (e: unknown) => {
        setBusy(false);
        setActionError(e instanceof ApiError ? e : new ApiError(String(e), "failed", ""));
      },
    );
  };

  if (tree === undefined) {
    return (
      <section className="panel flame" aria-label="Flame graph">
        {request.error !== undefined ? <Problem error={request.error} retry={request.retry} {...without} /> : <Skeleton />}
      </section>
    );
  }
  const total = tree.total[0] ?? 0;
  if (tree.count === 0 || total === 0) {
    return (
      <section className="panel flame" aria-label="Flame graph" data-stale={staleness(request)}>
        {request.error !== undefined ? (
          <Problem error={request.error} retry={request.retry} {...without} />
        ) : (
          <Nothing
            actions={[
              { label: "Twice the range", act: () => go({ range: widen(state.range, Date.now()) }) },
              { label: "Last 24 hours", act: () => go({ range: { from: "now-1d", to: "now" } }) },
              ...(state.selector === "" ? [] : [{ label: "Without the selector", act: () => go({ selector: "", zoom: [] }) }]),
            ]}
          >
            {state.selector === "" ? "There are no samples of this type in this range." : <>No samples in this range carry <code>{state.selector}</code>.</>}
          </Nothing>
        )}
      </section>
    );
  }

  const zoomTotal = tree.total[zoomed.node] as number;
  const zoomTo = (node: number): void => go({ zoom: namesTo(tree, node) });
  const graph = (
    <div className="graph">
      <Crumbs tree={tree} node={zoomed.node} zoom={zoomTo} />
      {!zoomed.whole && !request.loading && (
        <p className="crumb-note">
          <span className="ellipsis">“{state.zoom.at(-1)}” is not in this selection; this is the nearest caller that is.</span>
          <button onClick={() => zoomTo(zoomed.node)}>Stay here</button>
        </p>
      )}
      <FlameCanvas
        tree={tree}
        zoomed={zoomed.node}
        matches={found?.frame}
        orientation={state.orientation}
        colourBy={state.colourBy}
        theme={theme}
        zoom={zoomTo}
        expand={expand}
        search={() => {
          searchBox.current?.focus();
          searchBox.current?.select();
        }}
      />
    </div>
  );
  const table = (
    <FunctionTable
      source={source}
      filter={filter}
      tree={tree}
      zoomed={zoomed.node}
      wanted={typeof wanted === "string" ? undefined : wanted}
      search={state.search}
      sort={state.sort}
      go={go}
    />
  );

  return (
    <section className="panel flame" aria-label="Flame graph" aria-busy={request.loading}>
      <div className="toolbar">
        <div className="search" data-bad={typeof wanted === "string"}>
          <input
            ref={searchBox}
            type="search"
            className="mono"
            aria-label="Search functions"
            placeholder="Search: text, /regexp/ or “whole name”"
            value={state.search}
            spellCheck={false}
            onChange={(e) => go({ search: e.target.value }, "replace")}
            onKeyDown={(e) => {
              if (e.key === "Escape") {
                go({ search: "" }, "replace");
                e.currentTarget.blur();
              }
            }}
          />
          <kbd aria-hidden="true">/</kbd>
        </div>
        {typeof wanted === "string" ? (
          <span className="bad">{wanted}</span>
        ) : found !== undefined ? (
          <span className="num found" role="status">
            <b>{formatShare(found.value, zoomTotal)}</b> · {formatValue(found.value, tree.unit)} in {formatCount(found.nodes)} {found.nodes === 1 ? "node" : "nodes"}
          </span>
        ) : (
          <span className="num quiet totals">
            <b>{formatValue(total, tree.unit)}</b> in {formatCount(tree.stackCount)} stacks
            {tree.stacksCut && <span title="Too many stacks for one answer. Select less time or fewer series to have all."> (the largest; the others are (small))</span>}
            {tree.seriesCount > 1 && <> of {formatCount(tree.seriesCount)} series</>}
          </span>
        )}
        <span className="grow" />
        <button className="quiet-button" title="Download what is selected, all of it, as pprof" onClick={download} disabled={busy}>
          pprof
        </button>
        <div className="select small">
          <select aria-label="Colour by" value={state.colourBy} onChange={(e) => go({ colourBy: e.target.value as ColourBy }, "replace")}>
            <option value="package">colour: package</option>
            <option value="binary">colour: binary</option>
          </select>
          <Chevron />
        </div>
        <Toggle<Orientation>
          label="Orientation"
          value={state.orientation}
          options={[
            ["icicle", "Icicle", "The root on top"],
            ["flame", "Flame", "The root at the bottom"],
          ]}
          set={(orientation) => go({ orientation }, "replace")}
        />
        <Toggle<Layout>
          label="Show"
          value={state.layout}
          options={[
            ["graph", "Graph", "The graph alone"],
            ["both", "Both", "Graph and table"],
            ["table", "Table", "The table alone"],
          ]}
          set={(layout) => go({ layout }, "replace")}
        />
      </div>
      {request.error !== undefined && <Notice error={request.error} retry={request.retry} />}
      {actionError !== undefined && <Notice error={actionError} retry={() => setActionError(undefined)} />}
      <div className="flame-body" data-stale={staleness(request)}>
        {state.layout === "both" ? <Split left={graph} right={table} /> : state.layout === "graph" ? graph : table}
      </div>
    </section>
  );
}

function Toggle<T extends string>(p: {
  readonly label: string;
  readonly value: T;
  readonly options: readonly (readonly [T, string, string])[];
  readonly set: (value: T) => void;
}) {
  return (
    <div className="toggle" role="group" aria-label={p.label}>
      {p.options.map(([value, text, title]) => (
        <button key={value} aria-pressed={p.value === value} title={title} onClick={() => p.set(value)}>
          {text}
        </button>
      ))}
    </div>
  );
}

// Crumbs is the way to the zoomed node; a long one keeps both ends.
function Crumbs({ tree, node, zoom }: { tree: FlameTree; node: number; zoom: (node: number) => void }) {
  const path = pathTo(tree, node);
  const head = path.length > 7 ? path.slice(0, 2) : path;
  const tail = path.length > 7 ? path.slice(-4) : [];
  const crumb = (n: number) => (
    <li key={n}>
      <button className="mono" aria-current={n === node} title={frameOf(tree, n).name} onClick={() => zoom(n)}>
        {shortName(frameOf(tree, n).name)}
      </button>
    </li>
  );
  return (
    <nav className="crumbs" aria-label="Zoomed to">
      <ol>
        <li>
          <button aria-current={node === 0} onClick={() => zoom(0)}>
            total
          </button>
        </li>
        {head.map(crumb)}
        {tail.length > 0 && <li className="quiet">… {path.length - 6} …</li>}
        {tail.map(crumb)}
      </ol>
      {node > 0 && (
        <span className="num quiet">
          {formatValue(tree.total[node] as number, tree.unit)} · {formatShare(tree.total[node] as number, tree.total[0] as number)}
        </span>
      )}
    </nav>
  );
}
