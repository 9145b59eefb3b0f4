import { useEffect, useId, useMemo, useRef, useState, type ReactNode } from "react";
import { placeAmong } from "../flame/navigate";
import { byFrame, type Colouring, type Tokens } from "../flame/palette";
import { FlameView } from "../flame/view";
import { FrameKind, frameOf, type FlameTree } from "../lib/tree";
import { formatShare, formatValue } from "../lib/units";
import type { ColourBy, Orientation } from "../lib/urlstate";
import { HoverCard, NodeValues } from "./HoverCard";

interface Props {
  readonly tree: FlameTree;
  readonly zoomed: number;
  readonly matches: Uint8Array | undefined;
  readonly orientation: Orientation;
  readonly colourBy: ColourBy | Colouring;
  readonly theme: "light" | "dark";
  // What the graph is to assistive technology.
  readonly name?: string;
  readonly zoom: (node: number) => void;
  readonly expand: (node: number) => void;
  readonly search: () => void;
  // What can be done with a node was asked for, at the viewport's coordinates. May come twice for one gesture.
  readonly menu?: (node: number, x: number, y: number) => void;
  // A node's numbers on the card, and in words; constant. By default those of one profile.
  readonly values?: (node: number) => ReactNode;
  readonly say?: (node: number) => string;
  // The node that is pointed at in a graph beside this one, and telling of this one's; -1 for none.
  readonly pointed?: number;
  readonly point?: (node: number) => void;
}

// The theme's colours, as the document has them now.
export function readTokens(): Tokens {
  const style = getComputedStyle(document.documentElement);
  const get = (name: string): string => style.getPropertyValue(`--flame-${name}`).trim();
  return {
    lightness: Number(get("lightness")),
    chroma: Number(get("chroma")),
    text: get("text"),
    kernel: get("kernel"),
    unwind: get("unwind"),
    cut: get("cut"),
    root: get("root"),
    match: get("match"),
    matchText: get("match-text"),
    dim: get("dim"),
    dimText: get("dim-text"),
    dust: get("dust"),
    gap: get("gap"),
    hatch: get("hatch"),
    cursor: get("cursor"),
  };
}

// FlameCanvas mounts the graph and mirrors its focused node for assistive technology.
export function FlameCanvas(p: Props) {
  const id = useId();
  const scroller = useRef<HTMLDivElement>(null);
  const spacer = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const view = useRef<FlameView>(undefined);
  const latest = useRef(p);
  latest.current = p;
  const [hover, setHover] = useState<{ node: number; x: number; y: number }>();
  const [cursor, setCursor] = useState(0);

  useEffect(() => {
    if (scroller.current === null || spacer.current === null || canvas.current === null) return;
    const v = new FlameView(
      scroller.current,
      spacer.current,
      canvas.current,
      {
        zoom: (n) => latest.current.zoom(n),
        expand: (n) => latest.current.expand(n),
        search: () => latest.current.search(),
        hover: (node, x, y) => {
          setHover(node < 0 ? undefined : { node, x, y });
          latest.current.point?.(node);
        },
        cursor: setCursor,
        ...(p.menu === undefined ? {} : { menu: (node, x, y) => latest.current.menu?.(node, x, y) }),
      },
      readTokens(),
    );
    view.current = v;
    // For the bench and the browser tests: a canvas cannot be asked what it shows.
    Object.assign(canvas.current, { perfuseView: v });
    return () => {
      v.close();
      view.current = undefined;
    };
  }, []);

  const colouring = useMemo(() => (typeof p.colourBy === "string" ? byFrame(p.tree, p.colourBy) : p.colourBy), [p.tree, p.colourBy]);
  useEffect(() => view.current?.setTokens(readTokens()), [p.theme]);
  useEffect(() => {
    view.current?.show({ tree: p.tree, colouring, matches: p.matches, zoomed: p.zoomed, orientation: p.orientation });
  }, [p.tree, colouring, p.matches, p.zoomed, p.orientation]);
  useEffect(() => view.current?.point(p.pointed ?? -1), [p.pointed]);
  useEffect(() => setHover(undefined), [p.tree]);

  const at = cursor < p.tree.count ? cursor : 0;
  const frame = frameOf(p.tree, at);
  const among = placeAmong(p.tree, at);
  const numbers = p.say === undefined ? inWords(p.tree, at) : p.say(at);
  return (
    <>
      <div className="flame-scroll" ref={scroller} tabIndex={-1}>
        <div ref={spacer} className="flame-spacer">
          <canvas
            ref={canvas}
            tabIndex={0}
            role="tree"
            aria-label={`${p.name ?? "Flame graph"}. Arrow keys move, enter zooms in, escape zooms out, slash searches.${p.menu === undefined ? "" : " Shift and F10 show what else can be done."}`}
            aria-activedescendant={`${id}-node`}
          >
            <span
              id={`${id}-node`}
              role="treeitem"
              aria-label={`${frame.kind === FrameKind.ROOT ? "total" : frame.name}, ${numbers}`}
              aria-level={(p.tree.depth[at] as number) + 1}
              aria-posinset={among.place}
              aria-setsize={among.of}
              aria-selected={at === p.zoomed}
            />
          </canvas>
        </div>
      </div>
      {hover !== undefined && hover.node < p.tree.count && (
        <HoverCard tree={p.tree} node={hover.node} x={hover.x} y={hover.y}>
          {p.values === undefined ? <NodeValues tree={p.tree} node={hover.node} zoomed={p.zoomed} /> : p.values(hover.node)}
        </HoverCard>
      )}
    </>
  );
}

function inWords(t: FlameTree, node: number): string {
  const total = t.total[node] as number;
  return (
    `${formatShare(total, t.total[0] as number)} of total, ` +
    `total ${formatValue(total, t.unit)}, self ${formatValue(t.self[node] as number, t.unit)}`
  );
}
