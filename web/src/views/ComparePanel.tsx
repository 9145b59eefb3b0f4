import { useMemo, useRef, useState, type ReactNode } from "react";
import { ApiError, type Selection } from "../api/client";
import type { DiffSource } from "../api/diff";
import { byChange, legendOf } from "../flame/change";
import { formatGrowth, writerOf, type Scale } from "../lib/change";
import { withSides, type CompareState, type DiffColour, type Graphs, type Side } from "../lib/compareurl";
import type { DiffRow } from "../lib/difftable";
import { change, graftDiff, growth, isSame, sideTree, type DiffTree, type SideName } from "../lib/difftree";
import { isNoFilter, noFilter, type StackFilter } from "../lib/filter";
import { match, pattern, type Pattern } from "../lib/search";
import { expandable, findPath, FrameKind, frameOf, namesTo } from "../lib/tree";
import { isMemory } from "../lib/types";
import { formatCount, formatShare, formatValue } from "../lib/units";
import { fileName, joinPath, type Layout, type Orientation } from "../lib/urlstate";
import { CompareGraphs } from "./CompareGraphs";
import { sayChange } from "./CompareNode";
import { EmptySides, emptySides, isOne, OneSide } from "./CompareStates";
import { CompareTable } from "./CompareTable";
import { copyText, offerFile } from "./copy";
import { AddFilter, FilterBar } from "./FilterBar";
import { Crumbs, Toggle, useSaid } from "./FlamePanel";
import { staleness, useRequest, type Change } from "./hooks";
import { Menu, type MenuItem } from "./Menu";
import { Chevron } from "./RangePicker";
import { SearchBox } from "./SearchBox";
import { Split } from "./Split";
import { Nothing, Notice, Problem, Skeleton } from "./States";

interface Props {
  // Undefined until it is known what is asked.
  readonly source: DiffSource | undefined;
  readonly asked: Readonly<Record<SideName, Selection>> | undefined;
  readonly sides: Readonly<Record<SideName, Side>>;
  // When the sides were worked out.
  readonly now: number;
  readonly choice: { readonly scale: Scale; readonly why: string } | undefined;
  // The type is a level, as bytes in use: there is none per second.
  readonly level: boolean;
  readonly state: CompareState;
  readonly go: Change<CompareState>;
  readonly theme: "light" | "dark";
}

// What the server cuts by itself, and how much finer each expansion looks.
const serverShare = 1 / 4000;
const finer = 16;

// A function or a node that a menu is about.
interface Asked {
  readonly name: string;
  readonly x: number;
  readonly y: number;
  readonly node: number | undefined;
}

// ComparePanel shows what changed as graphs and as a table.
export function ComparePanel({ source, asked, sides, now, choice, level, state, go, theme }: Props) {
  const { filter } = state;
  const one = asked !== undefined && isOne(asked);
  const request = useRequest(source === undefined || one ? undefined : `${source.key} ${JSON.stringify(filter)}`, async (signal) => {
    const s = source as DiffSource;
    return { tree: await s.tree(filter, 0, [], signal), scale: s.scale };
  });
  // The tree that was asked for, with what was expanded since.
  const [grown, setGrown] = useState<{ of: DiffTree; tree: DiffTree; shares: ReadonlyMap<string, number> }>();
  const [actionError, setActionError] = useState<ApiError>();
  const [busy, setBusy] = useState(false);
  const [menu, setMenu] = useState<Asked>();
  const [said, say] = useSaid();
  const searchBox = useRef<HTMLInputElement>(null);
  const base = request.data?.tree;
  const tree = grown !== undefined && grown.of === base ? grown.tree : base;
  const scale = request.data?.scale ?? "none";
  const zoomed = useMemo(() => (tree === undefined ? { node: 0, whole: true } : findPath(tree, state.zoom)), [tree, state.zoom]);
  const wanted = useMemo(() => pattern(state.search), [state.search]);
  const compiled = typeof wanted === "string" ? undefined : wanted;
  const found = useMemo(() => (tree === undefined || compiled === undefined ? undefined : matchSides(tree, compiled, zoomed.node)), [tree, compiled, zoomed.node]);
  const unchanged = useMemo(() => tree !== undefined && isSame(tree), [tree]);

  const setFilter = (f: StackFilter): void => go({ filter: f });
  const setSide = (side: SideName, to: Partial<Side>): void => {
    const next = { ...sides, [side]: { ...sides[side], ...to } };
    go({ ...withSides(next.before, next.after, now), zoom: [] });
  };
  const panel = (children: ReactNode) => (
    <section className="panel flame" aria-label="What changed" aria-busy={request.loading} data-stale={staleness(request)}>
      {children}
    </section>
  );

  if (one) return panel(<OneSide sides={sides} now={now} setSide={setSide} />);
  const fault = request.error === undefined ? undefined : sideAtFault(request.error);
  // One selector for both sides is at fault on both.
  const common = state.selectorBefore === undefined;
  const remedy =
    fault !== undefined && sides[fault].selector !== ""
      ? { action: { label: `Without the selector${common ? "" : ` ${fault}`}`, act: () => (common ? go({ selector: "", zoom: [] }) : setSide(fault, { selector: "" })) } }
      : {};
  const problem = request.error !== undefined && (
    <Problem error={request.error} retry={request.retry} {...(fault === undefined ? {} : { title: common ? "The server does not understand the question" : `The server does not understand the side ${fault}` })} {...remedy} />
  );
  if (source === undefined || asked === undefined || tree === undefined || choice === undefined) return panel(problem || <Skeleton />);

  const empty = emptySides(tree);
  if (empty.length > 0) return panel(problem || <EmptySides empty={empty} asked={asked} sides={sides} now={now} setSide={setSide} />);
  const write = writerOf(tree, scale, tree.unit);
  const changeOf = (b: number, a: number): string => {
    const by = change(tree, b, a);
    const ratio = scale === "total" ? "" : ` (${formatGrowth(growth(tree, b, a))})`;
    return by === 0 ? "the same" : `${write.change(by)}${ratio}`;
  };
  const between = (b: number, a: number): string => `${write.value("before", b)} → ${write.value("after", a)}, ${changeOf(b, a)}`;
  const [before, after] = [tree.before.total[0] as number, tree.after.total[0] as number];
  if (before === 0 && after === 0) {
    return panel(
      <>
        <FilterBar filter={filter} setFilter={setFilter} />
        {problem || <Nothing actions={isNoFilter(filter) ? [] : [{ label: "Without the filters", act: () => setFilter(noFilter) }]}>{isNoFilter(filter) ? "All values are 0 on both sides." : "No stack of either side meets the filters."}</Nothing>}
      </>,
    );
  }

  const zoomTo = (node: number): void => go({ zoom: namesTo(tree, node) });
  const search = (): void => {
    searchBox.current?.focus();
    searchBox.current?.select();
  };
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
    if (busy || base === undefined) return;
    const at = expandable(tree, tree.parent[node] as number);
    const path = namesTo(tree, at);
    const key = joinPath(path);
    const shares = grown?.of === base ? grown.shares : new Map<string, number>();
    // Of the part's value, as the server takes it: finer than last time, and fine enough for what was folded here.
    const last = shares.get(key) ?? (serverShare * (tree.total[0] as number)) / (tree.total[at] as number);
    const share = Math.min(last / finer, (tree.total[node] as number) / (tree.total[at] as number) / 100);
    work(source.tree(filter, share, path, AbortSignal.timeout(60_000)), (part) => {
      if (part.count > 0) setGrown({ of: base, tree: graftDiff(tree, at, part), shares: new Map(shares).set(key, share) });
    });
  };
  const copy = (what: string, text: string): void => void copyText(text).then((done) => say(done ? `Copied the ${what}` : `The browser does not let the page copy; the ${what} is: ${text}`));
  const actions = ({ name, node }: Asked): readonly MenuItem[] => {
    const only = { field: "function", value: name, regexp: false } as const;
    const path = node === undefined ? [] : namesTo(tree, node);
    return [
      ...(node === undefined ? [] : [{ label: "Zoom in", act: () => zoomTo(node) }]),
      { label: "Find everywhere", act: () => go({ search: `"${name}"` }) },
      { label: "Only stacks with it", act: () => setFilter({ ...filter, keep: [...filter.keep, only] }) },
      { label: "No stacks with it", act: () => setFilter({ ...filter, drop: [...filter.drop, only] }) },
      ...(path.length === 0 ? [] : [{ label: "Only this call site", note: `${path.length} frames`, act: () => go({ filter: { ...filter, callSite: path }, zoom: path }) }]),
      { label: "Copy name", act: () => copy("name", name) },
      ...(path.length === 0 ? [] : [{ label: "Copy stack", note: "folded", act: () => copy("stack", joinPath(path)) }]),
    ];
  };
  const askNode = (node: number, x: number, y: number): void => {
    const { kind, name } = frameOf(tree, node);
    if (kind !== FrameKind.ROOT && kind !== FrameKind.CUT) setMenu({ name, x, y, node });
  };
  const askRow = (r: DiffRow, x: number, y: number): void => setMenu({ name: r.name, x, y, node: undefined });

  const zoomBefore = tree.before.total[zoomed.node] as number;
  const zoomAfter = tree.after.total[zoomed.node] as number;
  const drawing = async (): Promise<string> => {
    const { flameSvg, lightTokens } = await import("../flame/svg");
    const colour = state.colourBy;
    const changes = colour === "relative" || colour === "absolute";
    const of = [...new Set([asked.before.selector || "{}", asked.after.selector || "{}"])].join(" → ");
    return flameSvg(tree, {
      title: `${asked.after.type} ${of}`,
      about: `${between(zoomBefore, zoomAfter)}, compared ${choice.why}; width: before and after together`,
      node: zoomed.node,
      orientation: state.orientation,
      colourBy: changes ? byChange(tree, colour) : colour,
      ...(changes ? { legend: legendOf(tree, colour, (v) => write.change(v), lightTokens) } : {}),
      values: (node) => sayChange(tree, node, write),
    });
  };
  const save = (): void => work(drawing(), (svg) => offerFile(svg, "image/svg+xml", `${fileName("diff", asked.after.selector, asked.after.span.end)}.svg`));
  const graph = (
    <div className="graph">
      <Crumbs tree={tree} node={zoomed.node} zoom={zoomTo} value={between(zoomBefore, zoomAfter)} />
      {!zoomed.whole && !request.loading && (
        <p className="crumb-note">
          <span className="ellipsis">“{state.zoom.at(-1)}” is on neither side; this is the nearest caller that is.</span>
          <button onClick={() => zoomTo(zoomed.node)}>Stay here</button>
        </p>
      )}
      <CompareGraphs
        tree={tree}
        zoomed={zoomed.node}
        matches={found?.frame}
        state={state}
        theme={theme}
        write={write}
        scale={scale}
        zoom={zoomTo}
        expand={expand}
        search={search}
        menu={askNode}
        save={save}
      />
    </div>
  );
  const memory = isMemory(asked.after.type);
  const table = (
    <CompareTable
      source={source}
      filter={filter}
      tree={tree}
      zoomed={zoomed.node}
      path={expandable(tree, zoomed.node) === zoomed.node ? namesTo(tree, zoomed.node) : undefined}
      scale={scale}
      memory={memory}
      folded={memory && !state.allocators}
      wanted={compiled}
      sort={state.sort}
      search={state.search}
      go={go}
      menu={askRow}
    />
  );
  return (
    <section className="panel flame changed" aria-label="What changed" aria-busy={request.loading}>
      <div className="toolbar">
        <SearchBox box={searchBox} text={state.search} bad={typeof wanted === "string"} set={(search) => go({ search }, "replace")} />
        {typeof wanted === "string" ? (
          <span className="bad">{wanted}</span>
        ) : found !== undefined ? (
          <span className="num found" role="status">
            <b>
              {formatShare(found.before, zoomBefore)} → {formatShare(found.after, zoomAfter)}
            </b>
            , {changeOf(found.before, found.after)} in {formatCount(found.nodes)} {found.nodes === 1 ? "node" : "nodes"}
          </span>
        ) : (
          <span className="num quiet totals" role="status">
            <b>{write.value("before", before)}</b> → <b>{write.value("after", after)}</b>
            {unchanged ? ": nothing changed" : `, ${changeOf(before, after)}`}
          </span>
        )}
        <span className="grow" />
        <span className="said" role="status">
          {said}
        </span>
        <AddFilter filter={filter} setFilter={setFilter} />
        <div className="select small">
          <select aria-label="Colour by" value={state.colourBy} onChange={(e) => go({ colourBy: e.target.value as DiffColour }, "replace")}>
            <option value="relative">colour: relative</option>
            <option value="absolute">colour: absolute</option>
            <option value="package">colour: package</option>
            <option value="binary">colour: binary</option>
          </select>
          <Chevron />
        </div>
        <Toggle<Graphs>
          label="Graphs"
          value={state.graphs}
          options={[
            ["diff", "One", "One graph of both sides, as wide as they are together"],
            ["sides", "Two", "A graph for each side, side by side"],
          ]}
          set={(graphs) => go({ graphs }, "replace")}
        />
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
      <FilterBar filter={filter} setFilter={setFilter} />
      <div className="compared num">
        <span className="quiet">Compared</span>
        <div className="select small">
          <select aria-label="What is compared" value={state.scale} onChange={(e) => go({ scale: e.target.value as CompareState["scale"] }, "replace")}>
            <option value="auto">what fits</option>
            <option value="none">values as they are</option>
            <option value="time" disabled={level}>
              values per second
            </option>
            <option value="total">shares of each total</option>
          </select>
          <Chevron />
        </div>
        <span>{choice.why}</span>
        {(["before", "after"] as const).map((side) => (
          <span key={side} className="quiet">
            {side}: {amount(tree, side, scale, level, asked[side])}
          </span>
        ))}
      </div>
      {request.error !== undefined && <Notice error={request.error} retry={request.retry} />}
      {actionError !== undefined && <Notice error={actionError} retry={() => setActionError(undefined)} />}
      <div className="flame-body" data-stale={staleness(request)}>
        {state.layout === "both" ? <Split left={graph} right={table} /> : state.layout === "graph" ? graph : table}
      </div>
      {menu !== undefined && (
        <Menu
          label={`What can be done with ${menu.name}`}
          x={menu.x}
          y={menu.y}
          items={actions(menu)}
          close={() => setMenu(undefined)}
          head={<p className="menu-head mono ellipsis">{menu.name}</p>}
        />
      )}
    </section>
  );
}

// amount says what a side's values are made of, and whether a part of its range has nothing to show for it.
function amount(t: DiffTree, side: SideName, scale: Scale, level: boolean, asked: Selection): string {
  const { total, unfilteredTotal, stackCount, seriesCount, stacksCut, durationMillis } = t[side];
  const all = total[0] as number;
  const length = asked.span.end - asked.span.start;
  const long = (millis: number): string => formatValue(millis * 1e6, "nanoseconds");
  return [
    ...(scale === "none" ? [] : [`${formatValue(all, t.unit)}${scale === "time" ? ` in ${long(durationMillis)}` : ""}`]),
    ...(all === unfilteredTotal ? [] : [`${formatShare(all, unfilteredTotal)} of all`]),
    `${formatCount(stackCount)} ${stackCount === 1 ? "stack" : "stacks"}${stacksCut ? ", the largest" : ""}`,
    ...(seriesCount > 1 ? [`${formatCount(seriesCount)} series`] : []),
    // A service that began in the middle of a range has less to show for it.
    ...(!level && scale === "none" && durationMillis > 0 && durationMillis < length * 0.9 ? [`profiles cover ${long(durationMillis)} of ${long(length)}`] : []),
  ].join(", ");
}

// sideAtFault reads which side the server means: it begins with its name.
function sideAtFault(e: ApiError): SideName | undefined {
  const side = /^(before|after): /.exec(e.message)?.[1];
  return e.kind === "asked" && (side === "before" || side === "after") ? side : undefined;
}

// matchSides searches both sides below root.
function matchSides(t: DiffTree, p: Pattern, root: number) {
  const { frame, nodes } = match(t, p, root);
  const value = (side: SideName): number => match(sideTree(t, side), p, root).value;
  return { frame, nodes, before: value("before"), after: value("after") };
}
