import { useEffect, useMemo, useRef, useState } from "react";
import { ApiError } from "../api/client";
import type { Source } from "../api/source";
import { isNoFilter, noFilter, type StackFilter } from "../lib/filter";
import type { FunctionRow } from "../lib/functions";
import { baseName, shortName } from "../lib/names";
import { pattern, match } from "../lib/search";
import { shown } from "../lib/shown";
import { widen } from "../lib/timerange";
import { binaryOf } from "../lib/transform";
import { expandable, findPath, FrameKind, frameOf, graft, namesTo, pathTo, type FlameTree, type Frame } from "../lib/tree";
import { isMemory } from "../lib/types";
import { formatCount, formatShare, formatValue } from "../lib/units";
import { joinPath, type ColourBy, type Layout, type Orientation, type ViewState } from "../lib/urlstate";
import { copyText } from "./copy";
import { Downloads } from "./Downloads";
import { AddFilter, FilterBar } from "./FilterBar";
import { FlameCanvas } from "./FlameCanvas";
import { FunctionTable } from "./FunctionTable";
import { staleness, useRequest, type Go } from "./hooks";
import { Menu, type MenuItem } from "./Menu";
import { Chevron } from "./RangePicker";
import { Sandwich } from "./Sandwich";
import { SearchBox } from "./SearchBox";
import { SourcePanel } from "./SourcePanel";
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

// What a menu is about: a node of a graph, or a row of a table.
interface Asked {
  readonly x: number;
  readonly y: number;
  readonly frame: Frame;
  // The names from the root to the node, where the source knows them.
  readonly path: readonly string[] | undefined;
  readonly zoom: (() => void) | undefined;
}

const saidMillis = 2500;

// FlamePanel shows what a source answers as a graph, as a table, or as what surrounds one function, and narrows it.
export function FlamePanel({ source, state, go, theme }: Props) {
  const { filter, hide } = state;
  const request = useRequest(source === undefined ? undefined : `${source.key} ${JSON.stringify(filter)}`, (signal) => (source as Source).flameGraph(filter, 0, [], signal));
  // The tree that was asked for, with what was expanded since.
  const [grown, setGrown] = useState<{ of: FlameTree; tree: FlameTree; shares: ReadonlyMap<string, number> }>();
  const [actionError, setActionError] = useState<ApiError>();
  const [busy, setBusy] = useState(false);
  const [asked, setAsked] = useState<Asked>();
  const [said, say] = useSaid();
  const base = request.data;
  const answered = grown !== undefined && grown.of === base ? grown.tree : base;
  const seen = useMemo(() => (answered === undefined ? undefined : shown(answered, hide, state.collapse)), [answered, hide.join("\n"), state.collapse]);
  const tree = seen?.tree;
  const searchBox = useRef<HTMLInputElement>(null);

  const zoomed = useMemo(() => (tree === undefined ? { node: 0, whole: true } : findPath(tree, state.zoom)), [tree, state.zoom]);
  const wanted = useMemo(() => pattern(state.search), [state.search]);
  const found = useMemo(
    () => (tree === undefined || wanted === undefined || typeof wanted === "string" ? undefined : match(tree, wanted, zoomed.node)),
    [tree, wanted, zoomed.node],
  );

  const work = <T,>(doing: Promise<T>, done: (value: T) => void): void => {
    setBusy(true);
    setActionError(undefined);
    doing.then(
      (value) => {
        setBusy(false);
        done(value);
      },
      (e: unknown) => {
        setBusy(false);
        setActionError(e instanceof ApiError ? e : new ApiError(e instanceof Error ? e.message : String(e), "failed", ""));
      },
    );
  };
  const expand = (node: number): void => {
    if (seen === undefined || answered === undefined || base === undefined || source === undefined || busy) return;
    const origin = seen.origin(node);
    const at = expandable(answered, frameOf(answered, origin).kind === FrameKind.CUT ? (answered.parent[origin] as number) : origin);
    const path = namesTo(answered, at);
    const key = joinPath(path);
    const shares = grown?.of === base ? grown.shares : new Map<string, number>();
    // Of the part's value, as the source takes it: finer than last time, and fine enough for what was folded here.
    const before = shares.get(key) ?? (serverShare * (answered.total[0] as number)) / (answered.total[at] as number);
    const share = Math.min(before / finer, (seen.tree.total[node] as number) / (answered.total[at] as number) / 100);
    work(source.flameGraph(filter, share, path, AbortSignal.timeout(60_000)), (part) => {
      if (part.count > 0) setGrown({ of: base, tree: graft(answered, at, part, 0), shares: new Map(shares).set(key, share) });
    });
  };

  const without =
    request.error?.kind !== "asked"
      ? {}
      : aboutFilter(request.error)
        ? { action: { label: "Without the filters", act: () => go({ filter: noFilter }) } }
        : state.selector !== ""
          ? { action: { label: "Without the selector", act: () => go({ selector: "", zoom: [] }) } }
          : {};
  if (source === undefined || tree === undefined || seen === undefined) {
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
        <FilterBar filter={filter} setFilter={(f) => go({ filter: f, zoom: [] })} />
        {request.error !== undefined ? (
          <Problem error={request.error} retry={request.retry} {...without} />
        ) : (
          <Nothing
            actions={[
              ...(isNoFilter(filter) ? [] : [{ label: "Without the filters", act: () => go({ filter: noFilter }) }]),
              ...(source.selection === undefined ? [] : [
                { label: "Twice the range", act: () => go({ range: widen(state.range, Date.now()) }) },
                { label: "Last 24 hours", act: () => go({ range: { from: "now-1d", to: "now" } }) },
              ]),
              ...(state.selector === "" ? [] : [{ label: "Without the selector", act: () => go({ selector: "", zoom: [] }) }]),
            ]}
          >
            {!isNoFilter(filter) ? "No stack that is selected meets the filters." : source.selection === undefined ? "No chosen sample of the file has a value of this type." : state.selector === "" ? "There are no samples of this type in this range." : <>No samples in this range carry <code>{state.selector}</code>.</>}
          </Nothing>
        )}
      </section>
    );
  }

  const zoomTotal = tree.total[zoomed.node] as number;
  const zoomTo = (node: number): void => go({ zoom: namesTo(tree, node) });
  const setFilter = (f: StackFilter): void => go({ filter: f });
  const setHide = (h: readonly string[]): void => go({ hide: h });
  const search = (): void => {
    searchBox.current?.focus();
    searchBox.current?.select();
  };
  const copy = (what: string, text: string): void => void copyText(text).then((done) => say(done ? `Copied the ${what}` : `The browser does not let the page copy; the ${what} is: ${text}`));
  const actions = ({ frame, path, zoom }: Asked): readonly MenuItem[] => {
    const only = { field: "function", value: frame.name, regexp: false } as const;
    const binary = binaryOf(frame);
    return [
      ...(zoom === undefined ? [] : [{ label: "Zoom in", act: zoom }]),
      { label: "Callers and callees", act: () => go({ sandwich: frame.name, callers: [], callees: [] }) },
      { label: "Source", note: frame.file === "" ? "no file is known" : baseName(frame.file), disabled: frame.file === "", act: () => go({ source: frame.name, layout: state.layout === "graph" ? "both" : state.layout }) },
      { label: "Find everywhere", act: () => go({ search: `"${frame.name}"` }) },
      { label: "Only stacks with it", act: () => setFilter({ ...filter, keep: [...filter.keep, only] }) },
      { label: "No stacks with it", act: () => setFilter({ ...filter, drop: [...filter.drop, only] }) },
      ...(path === undefined || path.length === 0 ? [] : [{ label: "Only this call site", note: `${path.length} frames`, act: () => go({ filter: { ...filter, callSite: path }, zoom: path }) }]),
      ...(binary === "" ? [] : [{ label: "Hide its binary", note: baseName(binary), act: () => setHide([...hide, binary]) }]),
      { label: "Copy name", act: () => copy("name", frame.name) },
      ...(path === undefined || path.length === 0 ? [] : [{ label: "Copy stack", note: "folded", act: () => copy("stack", joinPath(path)) }]),
    ];
  };
  const askNode = (of: FlameTree, node: number, x: number, y: number): void => {
    const frame = frameOf(of, node);
    if (frame.kind === FrameKind.ROOT || frame.kind === FrameKind.CUT) return;
    setAsked({ x, y, frame, path: of === tree ? seen.path(node) : undefined, zoom: of === tree ? () => zoomTo(node) : undefined });
  };
  const askRow = (r: FunctionRow, x: number, y: number): void =>
    setAsked({ x, y, frame: { name: r.name, file: r.file, mapping: r.mapping, kind: r.kind, inlined: false, startLine: 0 }, path: undefined, zoom: undefined });
  const compiled = typeof wanted === "string" ? undefined : wanted;

  const whole = (
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
        search={search}
        menu={(node, x, y) => askNode(tree, node, x, y)}
      />
    </div>
  );
  const graph =
    state.sandwich === "" ? (
      whole
    ) : (
      <Sandwich source={source} filter={filter} state={state} go={go} theme={theme} wanted={compiled} search={search} menu={askNode} />
    );
  const original = seen.path(zoomed.node);
  const apart = original !== undefined && answered !== undefined && expandable(answered, seen.origin(zoomed.node)) === seen.origin(zoomed.node);
  const exact = (name: string): string => `"${name}"`;
  const functions = (
    <FunctionTable
      source={source}
      filter={filter}
      tree={tree}
      zoomed={state.sandwich === "" ? zoomed.node : 0}
      path={seen.changed || !apart ? undefined : state.sandwich === "" ? original : []}
      folded={!state.allocators}
      wanted={compiled}
      sort={state.sort}
      go={go}
      picked={(name) => (state.sandwich === "" ? state.search === exact(name) : state.sandwich === name)}
      pick={(r) =>
        state.sandwich === ""
          ? go({ search: state.search === exact(r.name) ? "" : exact(r.name) }, "replace")
          : go({ sandwich: r.name, callers: [], callees: [], ...(state.search === exact(state.sandwich) ? { search: "" } : {}) })
      }
      menu={askRow}
    />
  );
  const table =
    state.source === "" ? (
      functions
    ) : (
      <div className="beside">
        <p className="beside-head">
          <b className="mono ellipsis" title={state.source}>
            {shortName(state.source)}
          </b>
          <button onClick={() => go({ source: "" })}>Functions</button>
        </p>
        <SourcePanel source={source} filter={filter} name={state.source} />
      </div>
    );
  const memory = isMemory(source.type);

  return (
    <section className="panel flame" aria-label="Flame graph" aria-busy={request.loading}>
      <div className="toolbar">
        <SearchBox box={searchBox} text={state.search} bad={typeof wanted === "string"} set={(search) => go({ search }, "replace")} />
        {typeof wanted === "string" ? (
          <span className="bad totals">{wanted}</span>
        ) : found !== undefined ? (
          <span className="num found" role="status">
            <b>{formatShare(found.value, zoomTotal)}</b> · {formatValue(found.value, tree.unit)} in {formatCount(found.nodes)} {found.nodes === 1 ? "node" : "nodes"}
          </span>
        ) : (
          <span className="num quiet totals">
            <b>{formatValue(total, tree.unit)}</b>
            {tree.unfiltered !== undefined && tree.unfiltered !== total && <> of {formatValue(tree.unfiltered, tree.unit)} ({formatShare(total, tree.unfiltered)})</>} in {formatCount(tree.stackCount)} stacks
            {tree.stacksCut && <span title="Too many stacks for one answer. Select less time or fewer series to have all."> (the largest; the others are (small))</span>}
            {tree.seriesCount > 1 && <> of {formatCount(tree.seriesCount)} series</>}
          </span>
        )}
        <span className="said" role="status">
          {said}
        </span>
        <AddFilter filter={filter} setFilter={setFilter} />
        <Downloads source={source} filter={filter} tree={tree} zoomed={zoomed.node} colourBy={state.colourBy} orientation={state.orientation} work={work} disabled={busy} />
        <button className="quiet-button" aria-pressed={state.collapse} title="Show a function that calls itself once" onClick={() => go({ collapse: !state.collapse }, "replace")}>
          Recursion
        </button>
        {memory && (
          <button className="quiet-button" aria-pressed={state.allocators} title="In the table, show malloc and its like instead of counting them for who calls them" onClick={() => go({ allocators: !state.allocators }, "replace")}>
            Allocators
          </button>
        )}
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
      <FilterBar filter={filter} setFilter={setFilter} hide={hide} setHide={setHide} />
      {request.error !== undefined && <Notice error={request.error} retry={request.retry} />}
      {actionError !== undefined && <Notice error={actionError} retry={() => setActionError(undefined)} />}
      <div className="flame-body" data-stale={staleness(request)}>
        {state.layout === "both" ? <Split left={graph} right={table} /> : state.layout === "graph" ? graph : table}
      </div>
      {asked !== undefined && (
        <Menu
          label={`What can be done with ${asked.frame.name}`}
          x={asked.x}
          y={asked.y}
          items={actions(asked)}
          close={() => setAsked(undefined)}
          head={<p className="menu-head mono ellipsis">{asked.frame.name}</p>}
        />
      )}
    </section>
  );
}

// aboutFilter tells errors of the filter from those of the selection, by the field that they name.
export function aboutFilter(e: ApiError): boolean {
  return /\bfilter\.(keep|drop|call_site)\b/.test(e.message);
}

// useSaid is a line that tells what was done, for a moment.
export function useSaid(): [string, (text: string) => void] {
  const [said, setSaid] = useState("");
  useEffect(() => {
    if (said === "") return;
    const timer = setTimeout(() => setSaid(""), saidMillis);
    return () => clearTimeout(timer);
  }, [said]);
  return [said, setSaid];
}

export function Toggle<T extends string>(p: {
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
export function Crumbs({ tree, node, zoom, value }: { tree: FlameTree; node: number; zoom: (node: number) => void; value?: string }) {
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
          {value ?? `${formatValue(tree.total[node] as number, tree.unit)} · ${formatShare(tree.total[node] as number, tree.total[0] as number)}`}
        </span>
      )}
    </nav>
  );
}
