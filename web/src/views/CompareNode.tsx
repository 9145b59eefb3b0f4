import { useMemo } from "react";
import { swatchOf, type ChangeMode } from "../flame/change";
import { formatGrowth, type Scale, type Writer } from "../lib/change";
import { change, growth, largestChange, type DiffTree } from "../lib/difftree";
import { formatShare } from "../lib/units";
import { readTokens } from "./FlameCanvas";

// DiffValues are the numbers of a node of both sides.
export function DiffValues({ tree, node, write, scale }: { tree: DiffTree; node: number; write: Writer; scale: Scale }) {
  const rows = (["total", "self"] as const).map((by) => ({ by, before: tree.before[by][node] as number, after: tree.after[by][node] as number }));
  // Shares beside shares say nothing more.
  const shares = scale !== "total";
  return (
    <table className="num">
      <thead>
        <tr>
          <td />
          <th>before</th>
          {shares && <th>of all</th>}
          <th>after</th>
          {shares && <th>of all</th>}
          <th colSpan={2}>change</th>
        </tr>
      </thead>
      <tbody>
        {rows.map(({ by, before, after }) => (
          <tr key={by}>
            <th>{by}</th>
            <td>{write.value("before", before)}</td>
            {shares && <td className="quiet">{formatShare(before, tree.before.unfilteredTotal)}</td>}
            <td>{write.value("after", after)}</td>
            {shares && <td className="quiet">{formatShare(after, tree.after.unfilteredTotal)}</td>}
            {change(tree, before, after) === 0 ? (
              <td colSpan={2}>{before === 0 && after === 0 ? "" : "the same"}</td>
            ) : (
              <>
                <td>{write.change(change(tree, before, after))}</td>
                <td>{formatGrowth(growth(tree, before, after))}</td>
              </>
            )}
          </tr>
        ))}
      </tbody>
    </table>
  );
}

// sayChange is DiffValues for the ear.
export function sayChange(t: DiffTree, node: number, write: Writer): string {
  const [before, after] = [t.before.total[node] as number, t.after.total[node] as number];
  const [selfBefore, selfAfter] = [t.before.self[node] as number, t.after.self[node] as number];
  const changed = (b: number, a: number): string => {
    const by = change(t, b, a);
    return by === 0 ? "the same" : `${write.change(by)}, ${formatGrowth(growth(t, b, a))}`;
  };
  const self = selfBefore === 0 && selfAfter === 0 ? "" : `; self ${changed(selfBefore, selfAfter)}`;
  return `before ${write.value("before", before)}, after ${write.value("after", after)}: ${changed(before, after)}${self}`;
}

// The scale's points: in relative terms with their names, in absolute ones as parts of the largest change.
const named = [
  [-1, "gone"],
  [-1 / 3, "half"],
  [-1 / 21, "−9 %"],
  [0, "the same"],
  [1 / 21, "+10 %"],
  [1 / 3, "twice"],
  [1, "new"],
] as const;
const parts = [-1, -0.25, -1 / 16, 0, 1 / 16, 0.25, 1] as const;

// Legend says what the colours of changes are.
export function Legend({ tree, mode, write, theme }: { tree: DiffTree; mode: ChangeMode; write: Writer; theme: "light" | "dark" }) {
  const tokens = useMemo(readTokens, [theme]);
  const most = useMemo(() => (mode === "absolute" ? largestChange(tree) : 0), [tree, mode]);
  const points = mode === "relative" ? named : parts.map((p) => [p, p === 0 ? "the same" : write.change(p * most)] as const);
  const edged = swatchOf(1, "relative", tokens).edge;
  const gone = swatchOf(-1, "relative", tokens).edge;
  return (
    <ul className="scale num" aria-label={mode === "relative" ? "Colours: change relative to both sides" : "Colours: change in absolute terms"}>
      {points.map(([share, name]) => {
        const s = swatchOf(share, mode, tokens);
        return (
          <li key={share}>
            <i style={{ background: s.fill, ...(s.edge === "" ? {} : { boxShadow: `inset 3px 0 ${s.edge}` }) }} />
            {name}
          </li>
        );
      })}
      {mode === "absolute" && (
        <>
          <li>
            <i style={{ boxShadow: `inset 3px 0 ${gone}` }} />
            gone
          </li>
          <li>
            <i style={{ boxShadow: `inset 3px 0 ${edged}` }} />
            new
          </li>
        </>
      )}
    </ul>
  );
}
