import { useEffect, useId, useMemo, useRef, useState } from "react";
import { placeAmong } from "../flame/navigate";
import { slotsOf, type Tokens } from "../flame/palette";
import { FlameView } from "../flame/view";
import { FrameKind, frameOf, type FlameTree } from "../lib/tree";
import { formatShare, formatValue } from "../lib/units";
import type { ColourBy, Orientation } from "../lib/urlstate";
import { HoverCard } from "./HoverCard";

interface Props {
  readonly tree: FlameTree;
  readonly zoomed: number;
  readonly matches: Uint8Array | undefined;
  readonly orientation: Orientation;
  readonly colourBy: ColourBy;
  readonly theme: "light" | "dark";
  readonly zoom: (node: number) => void;
  readonly expand: (node: number) => void;
  readonly search: () => void;
}

// The theme's colours, as the document has them now.
function readTokens(): Tokens {
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
        hover: (node, x, y) => setHover(node < 0 ? undefined : { node, x, y }),
        cursor: setCursor,
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

  const slots = useMemo(() => slotsOf(p.tree, p.colourBy), [p.tree, p.colourBy]);
  useEffect(() => view.current?.setTokens(readTokens()), [p.theme]);
  useEffect(() => {
    view.current?.show({ tree: p.tree, slots, matches: p.matches, zoomed: p.zoomed, orientation: p.orientation });
  }, [p.tree, slots, p.matches, p.zoomed, p.orientation]);
  useEffect(() => setHover(undefined), [p.tree]);

  const at = cursor < p.tree.count ? cursor : 0;
  const frame = frameOf(p.tree, at);
  const among = placeAmong(p.tree, at);
  const total = p.tree.total[0] as number;
  const spoken =
    `${frame.kind === FrameKind.ROOT ? "total" : frame.name}, ${formatShare(p.tree.total[at] as number, total)} of total, ` +
    `total ${formatValue(p.tree.total[at] as number, p.tree.unit)}, self ${formatValue(p.tree.self[at] as number, p.tree.unit)}`;
  return (
    <>
      <div className="flame-scroll" ref={scroller} tabIndex={-1}>
        <div ref={spacer} className="flame-spacer">
          <canvas
            ref={canvas}
            tabIndex={0}
            role="tree"
            aria-label="Flame graph. Arrow keys move, enter zooms in, escape zooms out, slash searches."
            aria-activedescendant={`${id}-node`}
          >
            <span
              id={`${id}-node`}
              role="treeitem"
              aria-label={spoken}
              aria-level={(p.tree.depth[at] as number) + 1}
              aria-posinset={among.place}
              aria-setsize={among.of}
              aria-selected={at === p.zoomed}
            />
          </canvas>
        </div>
      </div>
      {hover !== undefined && hover.node < p.tree.count && (
        <HoverCard tree={p.tree} node={hover.node} zoomed={p.zoomed} x={hover.x} y={hover.y} />
      )}
    </>
  );
}
