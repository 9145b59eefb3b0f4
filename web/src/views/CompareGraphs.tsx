import { useMemo, useState } from "react";
import { byChange } from "../flame/change";
import type { Scale, Writer } from "../lib/change";
import type { CompareState } from "../lib/compareurl";
import { sideTree, type DiffTree, type SideName } from "../lib/difftree";
import { frameOf, type FlameTree } from "../lib/tree";
import { formatCount } from "../lib/units";
import { DiffValues, Legend, sayChange } from "./CompareNode";
import { FlameCanvas } from "./FlameCanvas";

interface Props {
  readonly tree: DiffTree;
  readonly zoomed: number;
  readonly matches: Uint8Array | undefined;
  readonly state: CompareState;
  readonly theme: "light" | "dark";
  readonly write: Writer;
  readonly scale: Scale;
  readonly zoom: (node: number) => void;
  readonly expand: (node: number) => void;
  readonly search: () => void;
  readonly menu: (node: number, x: number, y: number) => void;
  // Saves the one graph as a drawing.
  readonly save: () => void;
}

const words: Readonly<Record<SideName, string>> = { before: "Before", after: "After" };

// CompareGraphs draws the difference as one graph, or each side as its own: these zoom and point together, because a
// node has one number in all of them.
export function CompareGraphs(p: Props) {
  const { tree, state, write } = p;
  const colour = state.colourBy;
  const colouring = useMemo(() => (colour === "relative" || colour === "absolute" ? byChange(tree, colour) : colour), [tree, colour]);
  const halves = useMemo(() => (state.graphs === "sides" ? { before: sideTree(tree, "before"), after: sideTree(tree, "after") } : undefined), [tree, state.graphs]);
  const [pointed, setPointed] = useState<{ side: SideName; node: number }>();
  const common = {
    matches: p.matches,
    orientation: state.orientation,
    colourBy: colouring,
    theme: p.theme,
    zoom: p.zoom,
    expand: p.expand,
    search: p.search,
    menu: p.menu,
    values: (node: number) => <DiffValues tree={tree} node={node} write={write} scale={p.scale} />,
    say: (node: number) => sayChange(tree, node, write),
  };
  const legend = (colour === "relative" || colour === "absolute") && <Legend tree={tree} mode={colour} write={write} theme={p.theme} />;
  if (halves === undefined) {
    return (
      <>
        <div className="scale-row">
          {legend}
          <span className="quiet wide">width: before and after together</span>
          <button className="quiet-button" title="Download the graph as it is drawn" onClick={p.save}>
            SVG
          </button>
        </div>
        <FlameCanvas tree={tree} zoomed={p.zoomed} name="Differential flame graph" {...common} />
      </>
    );
  }
  return (
    <>
      {legend !== false && <div className="scale-row">{legend}</div>}
      <div className="pair">
        {(["before", "after"] as const).map((side) => {
          const half = halves[side];
          const at = nearest(half, p.zoomed);
          return (
            <div key={side} className="pair-side">
              <p className="pair-head num">
                <b>{words[side]}</b>
                <span>{write.value(side, half.total[at] as number)}</span>
                <span className="quiet ellipsis">
                  {at !== p.zoomed ? `“${frameOf(tree, p.zoomed).name}” is not here; this is its nearest caller` : `${formatCount(half.stackCount)} stacks`}
                </span>
              </p>
              <FlameCanvas
                tree={half}
                zoomed={at}
                name={`Flame graph ${side}`}
                pointed={pointed !== undefined && pointed.side !== side ? pointed.node : -1}
                point={(node) => setPointed((p) => (node < 0 ? undefined : p?.side === side && p.node === node ? p : { side, node }))}
                {...common}
              />
            </div>
          );
        })}
      </div>
    </>
  );
}

// nearest is the node, or the nearest above it that this side has.
function nearest(t: FlameTree, node: number): number {
  let n = node;
  while (n > 0 && !((t.total[n] as number) > 0)) n = t.parent[n] as number;
  return n;
}
